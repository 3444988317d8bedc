use cloister_sim::archive::cpio;
use proptest::prelude::*;

use super::*;

fn tar_entry(name: &str, prefix: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    header[136..147].copy_from_slice(format!("{:011o}", 1_700_000_000).as_bytes());
    header[156] = kind;
    header[257..263].copy_from_slice(b"ustar\0");
    header[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.extend_from_slice(data);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn list(bytes: &[u8]) -> (Vec<(String, Vec<u8>)>, End) {
    let mut files = Entries::new(bytes, Format::of(bytes).expect("an archive"));
    let text = |entry: Entry<'_>| {
        let Kind::File(data) = entry.kind else { panic!("{entry:?}") };
        (String::from_utf8(entry.name.bytes().collect()).unwrap(), data.to_vec())
    };
    let found = files.by_ref().map(text).collect();
    (found, files.end)
}

#[test]
fn a_cpio_archive_is_listed_and_its_names_are_relative() {
    let (files, end) = list(&cpio(&[("./index.html", b"hello"), ("a/b.css", b""), ("/abs", b"123")]));
    assert_eq!(end, End::Marked);
    assert_eq!(
        files,
        [("index.html", &b"hello"[..]), ("a/b.css", b""), ("abs", b"123")].map(|(n, d)| (n.into(), d.to_vec()))
    );
}

#[test]
fn a_tar_archive_with_prefixes_and_long_names() {
    let long = "d/".repeat(80) + "file";
    let pax = format!("{} path={long}\n", long.len() + 10);
    let archive = [
        tar_entry("./", "", b'5', b""),
        tar_entry("short", "", b'0', b"one"),
        tar_entry("name", "./some/prefix", b'0', b"two"),
        tar_entry("././@LongLink", "", b'L', format!("{long}\0").as_bytes()),
        tar_entry("cut off", "", b'0', b"three"),
        tar_entry("header", "", b'x', pax.as_bytes()),
        tar_entry("cut off", "", b'0', b"four"),
        vec![0; 1024],
    ]
    .concat();
    let (files, end) = list(&archive);
    assert_eq!(end, End::Marked);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["short", "some/prefix/name", &long, &long]);
    assert_eq!(files[3].1, b"four");
}

#[test]
fn a_truncated_or_damaged_archive_yields_its_complete_files() {
    let archive = cpio(&[("a", b"first"), ("b", &[7; 100])]);
    // Less than the padding after the end mark.
    for cut in 0..archive.len() - 3 {
        if let Some(format) = Format::of(&archive[..cut]) {
            let mut files = Entries::new(&archive[..cut], format);
            assert!(files.by_ref().count() <= 2);
            assert_eq!(files.end, End::Damaged, "cut at {cut}");
        }
    }
    let mut archive = [tar_entry("a", "", b'0', b"one"), tar_entry("b", "", b'0', b"two"), vec![0; 1024]].concat();
    archive[1024] ^= 1;
    assert_eq!((list(&archive).0.len(), list(&archive).1), (1, End::Damaged));
}

#[test]
fn sizes_beyond_the_archive_are_refused() {
    let mut archive = cpio(&[("a", b"first")]);
    archive[6 + 6 * 8..14 + 6 * 8].copy_from_slice(b"ffffffff");
    assert_eq!(list(&archive), (vec![], End::Damaged));
    archive[6 + 11 * 8..14 + 11 * 8].copy_from_slice(b"00000000");
    assert_eq!(list(&archive), (vec![], End::Damaged));
}

proptest! {
    #[test]
    fn parsing_ends_for_any_bytes_after_a_magic_number(tail in prop::collection::vec(any::<u8>(), 0..2048), tar: bool) {
        let bytes = if tar {
            let mut bytes = tail;
            bytes.resize(bytes.len().max(512), 0);
            bytes[257..262].copy_from_slice(b"ustar");
            bytes
        } else {
            [b"070701".to_vec(), tail].concat()
        };
        let mut files = Entries::new(&bytes, Format::of(&bytes).unwrap());
        prop_assert!(files.by_ref().count() <= bytes.len() / 110);
        prop_assert!(files.end != End::Open);
    }

    #[test]
    fn one_changed_byte_never_panics(at in 0usize..2048, value: u8) {
        let mut archive = [tar_entry("a", "p", b'0', b"one"), tar_entry("b", "", b'x', b"12 path=abc\n"), vec![0; 512]].concat();
        let place = at % archive.len();
        archive[place] = value;
        if let Some(format) = Format::of(&archive) {
            Entries::new(&archive, format).for_each(drop);
        }
    }

    #[test]
    fn every_packed_file_is_found(files in prop::collection::vec(("[a-z]{1,12}", prop::collection::vec(any::<u8>(), 0..50)), 0..8)) {
        let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), d.as_slice())).collect();
        prop_assert_eq!(list(&cpio(&borrowed)), (files, End::Marked));
    }
}

#[test]
fn of_two_records_the_last_counts_and_a_size_moves_the_next_header() {
    let two = "9 path=a\n9 path=b\n9 size=3\n";
    let mut entry = tar_entry("header", "", b'0', b"one");
    // The header says that nothing follows. Who believes it takes the content for a header.
    entry[124..135].copy_from_slice(b"00000000000");
    entry[148..156].fill(b' ');
    let sum: u32 = entry[..512].iter().map(|byte| u32::from(*byte)).sum();
    entry[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let archive =
        [tar_entry("x", "", b'x', two.as_bytes()), entry, tar_entry("c", "", b'0', b"2"), vec![0; 1024]].concat();
    let found = [("b".to_string(), b"one".to_vec()), ("c".to_string(), b"2".to_vec())];
    assert_eq!(list(&archive), (found.to_vec(), End::Marked));
}

#[test]
fn what_programs_read_in_different_ways_is_not_read() {
    for kind in [b'1', b'2', b'5', b'S', b'M'] {
        let archive = [tar_entry("a", "", b'0', b"one"), tar_entry("b", "", kind, b"two"), vec![0; 1024]].concat();
        let (files, end) = list(&archive);
        assert!(files.len() == 1 && matches!(end, End::Unsupported(_)), "{end:?}");
    }
    for records in ["9 path=a", "8 path=a\nx", "99 path=a\n", "0 path=a\n", "7 patha\n", " path=a\n", "9 size=x\n"] {
        let archive =
            [tar_entry("x", "", b'x', records.as_bytes()), tar_entry("b", "", b'0', b"two"), vec![0; 1024]].concat();
        assert_eq!(list(&archive), (vec![], End::Damaged), "{records:?}");
    }
}
