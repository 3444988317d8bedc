//! The entries of a page table for adjacent pages.

/// The number of entries that are checked, and then written, together. One at a time they were the
/// largest part of the instructions at boot.
const TOGETHER: usize = 8;

/// Writes `first` to the first entry, and to each further one the sum of the one before and `step`.
///
/// # Errors
/// An entry is not zero: a page is mapped already. The value is the index of the first such entry.
/// Entries before it may have been written.
pub fn write(entries: &mut [u64], first: u64, step: u64) -> Result<(), usize> {
    let mut next = first;
    let (groups, rest) = entries.as_chunks_mut::<TOGETHER>();
    for (group, index) in groups.iter_mut().zip((0..).step_by(TOGETHER)) {
        if group.iter().fold(0, |all, entry| all | *entry) != 0 {
            return Err(index + group.iter().position(|entry| *entry != 0).unwrap_or(0));
        }
        for entry in group {
            *entry = next;
            next = next.wrapping_add(step);
        }
    }
    let done = groups.len() * TOGETHER;
    for (entry, index) in rest.iter_mut().zip(done..) {
        if *entry != 0 {
            return Err(index);
        }
        *entry = next;
        next = next.wrapping_add(step);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_entries_is_written_in_steps() {
        for count in 0..40 {
            let mut entries = vec![0; count];
            assert_eq!(write(&mut entries, 7, 4096), Ok(()));
            assert!(entries.iter().zip(0..).all(|(entry, index)| *entry == 7 + 4096 * index), "{entries:?}");
        }
    }

    #[test]
    fn an_entry_that_is_used_is_found_and_kept_as_all_after_it() {
        for count in 1..40 {
            for used in 0..count {
                let mut entries = vec![0; count];
                entries[used] = 1;
                entries[count - 1] |= 2;
                let before = entries[used..].to_vec();
                assert_eq!(write(&mut entries, 7, 4096), Err(used));
                assert_eq!(entries[used..], before);
            }
        }
    }
}
