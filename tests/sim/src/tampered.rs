//! Memory whose peer lies on purpose. A script decides what each read finds, so that a fuzzer
//! chooses it and a found script replays byte for byte.
//!
//! [`ChangingMemory`](crate::ChangingMemory) lies at random, this memory as its script says. It
//! also counts reads, and can fail a reader who reads the same bytes twice.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use cloister_interfaces::Memory;

use crate::memory::SharedMemory;

#[derive(Default)]
struct State {
    lies: RefCell<VecDeque<u8>>,
    reads: Cell<u64>,
}

/// What all memories of one peer share: the lies that are left, and the number of reads.
#[derive(Clone, Default)]
pub struct Script(Rc<State>);

impl Script {
    /// Creates a peer that does not lie yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes each read from now on draw one byte or more from `bytes`, which replace the lies that
    /// are left.
    ///
    /// A byte below 128 leaves the read unchanged. Any other says how it is wrong; see
    /// [`Tampered`].
    pub fn lie(&self, bytes: &[u8]) {
        *self.0.lies.borrow_mut() = bytes.iter().copied().collect();
    }

    /// Returns the number of reads.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.0.reads.get()
    }

    fn draw(&self) -> Option<u8> {
        self.0.lies.borrow_mut().pop_front()
    }

    fn word(&self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.draw().unwrap_or_default()))
    }

    /// Returns `honest`, or the bytes that the peer wrote just before the read.
    fn load(&self, honest: u32) -> u32 {
        self.0.reads.set(self.0.reads.get() + 1);
        match self.draw() {
            Some(how @ 128..) => match how % 4 {
                0 => honest.wrapping_add(u32::from(self.draw().unwrap_or(1))),
                1 => honest.wrapping_sub(u32::from(self.draw().unwrap_or(1))),
                2 => honest ^ 1 << (how >> 2 & 31),
                _ => self.word(),
            },
            _ => honest,
        }
    }

    fn read(&self, into: &mut [u8]) {
        self.0.reads.set(self.0.reads.get() + 1);
        let Some(how @ 128..) = self.draw() else { return };
        if how % 4 == 3 {
            into.fill_with(|| self.draw().unwrap_or_default());
        } else if let (Some(at), Some(byte)) = (self.draw(), self.draw())
            && let Some(place) = into.len().checked_sub(1).and_then(|last| into.get_mut(usize::from(at).min(last)))
        {
            *place = byte;
        }
    }
}

/// A view of shared memory through a peer's [`Script`]; writes go through.
#[derive(Clone)]
pub struct Tampered {
    memory: SharedMemory,
    /// The peer's script, or `None` for memory that the peer cannot write.
    script: Option<Script>,
    /// The bytes that may be read only once after each write. `seen` holds those that were read.
    once: Vec<Range<usize>>,
    seen: Rc<RefCell<BTreeSet<usize>>>,
}

impl Tampered {
    /// Wraps memory that a peer with this script writes.
    #[must_use]
    pub fn new(memory: SharedMemory, script: &Script) -> Self {
        Tampered { memory, script: Some(script.clone()), once: Vec::new(), seen: Rc::default() }
    }

    /// Wraps memory that no peer writes.
    #[must_use]
    pub fn own(memory: SharedMemory) -> Self {
        Tampered { memory, script: None, once: Vec::new(), seen: Rc::default() }
    }

    /// Makes a second read of a byte in `range` fail the test, unless it was written through this
    /// view in between (XSA-155).
    #[must_use]
    pub fn once(mut self, range: Range<usize>) -> Self {
        self.once.push(range);
        self
    }

    fn record_read(&self, offset: usize, length: usize) {
        if self.once.is_empty() {
            return;
        }
        let mut seen = self.seen.borrow_mut();
        for at in (offset..offset + length).filter(|at| self.once.iter().any(|range| range.contains(at))) {
            assert!(seen.insert(at), "double fetch of the byte at {at}");
        }
    }

    fn record_write(&self, offset: usize, length: usize) {
        let mut seen = self.seen.borrow_mut();
        while let Some(at) = seen.range(offset..offset + length).next().copied() {
            seen.remove(&at);
        }
    }
}

impl Memory for Tampered {
    type Exclusive = SharedMemory;
    fn len(&self) -> usize {
        self.memory.len()
    }
    fn load(&self, offset: usize) -> u32 {
        self.record_read(offset, 4);
        let honest = self.memory.load(offset);
        self.script.as_ref().map_or(honest, |script| script.load(honest))
    }
    fn store(&self, offset: usize, value: u32) {
        self.record_write(offset, 4);
        self.memory.store(offset, value);
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        self.record_read(offset, into.len());
        self.memory.read(offset, into);
        if let Some(script) = &self.script {
            script.read(into);
        }
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.record_write(offset, from.len());
        self.memory.write(offset, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_wrong_as_the_script_says_and_then_right_again() {
        let (memory, script) = (SharedMemory::new(64), Script::new());
        memory.store(0, 100);
        let view = Tampered::new(memory.clone(), &script);
        script.lie(&[0, 128, 7, 129, 9, 130, 131, 1, 2, 3, 4]);
        let found: Vec<u32> = (0..6).map(|_| view.load(0)).collect();
        assert_eq!(found, [100, 107, 91, 101, 0x0403_0201, 100]);
        let mut bytes = [9; 3];
        script.lie(&[128, 1, 77, 131, 5, 6, 7]);
        view.read(32, &mut bytes);
        assert_eq!(bytes, [0, 77, 0]);
        view.read(32, &mut bytes);
        assert_eq!(bytes, [5, 6, 7]);
        view.read(32, &mut bytes);
        assert_eq!((bytes, script.reads()), ([0; 3], 9));
        script.lie(&[131; 9]);
        assert_eq!(Tampered::own(memory).load(0), 100);
    }

    #[test]
    fn a_write_makes_a_byte_readable_once_more() {
        let view = Tampered::new(SharedMemory::new(64), &Script::new()).once(8..16);
        for _ in 0..2 {
            view.write(8, &[1; 8]);
            view.read(8, &mut [0; 8]);
            let _ = (view.load(0), view.load(0));
        }
    }

    #[test]
    #[should_panic(expected = "double fetch of the byte at 12")]
    fn a_byte_read_twice_fails() {
        let view = Tampered::new(SharedMemory::new(64), &Script::new()).once(8..16);
        view.read(8, &mut [0; 5]);
        let _ = view.load(12);
    }
}
