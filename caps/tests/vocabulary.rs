//! Checks the numbers and names that the crate defines.
#![forbid(unsafe_code)]

use cloister_caps::abi::{KERNEL_ADDRESSES, region};
use cloister_caps::tables::{FIRST_GRANT_REF, HEADER_SIZE, MAX_GRANT_REFS};
use cloister_caps::{DomId, EvtchnPort, GrantRef, Kind, Operation, Slot, Status};

#[test]
fn known_numbers_round_trip_and_others_are_refused() {
    for (index, status) in Status::ALL.into_iter().enumerate() {
        assert_eq!(status as usize, index);
        assert_eq!(Status::from_number(index as u64), status);
        assert_eq!(status.into_result().err().map(|error| error.status()), (status != Status::Done).then_some(status));
    }
    assert_eq!(Status::from_number(Status::ALL.len() as u64), Status::Unavailable);
    assert_eq!(Status::from_number(u64::MAX), Status::Unavailable);
    for operation in Operation::ALL {
        assert_eq!(Operation::from_number(*operation as u32 as u64), Some(*operation));
    }
    assert_eq!(Operation::from_number(u64::from(u32::MAX)), None);
    assert_eq!(Operation::from_number(1 << 32 | Operation::ALL[0] as u32 as u64), None);
    for number in 0..=u8::MAX {
        let found = Kind::ALL.into_iter().find(|kind| *kind as u8 == number);
        assert_eq!(Kind::from_number(number), found);
    }
}

#[test]
fn every_operation_has_a_kind_and_a_unique_name() {
    for operation in Operation::ALL {
        let kinds = Kind::ALL.into_iter().filter(|kind| operation.applies_to(*kind)).count();
        let expected = if *operation == Operation::QueueNotify { 2 } else { 1 };
        assert_eq!(kinds, expected, "{operation:?}");
        assert_eq!(operation.right().bits().count_ones(), 1);
        assert!(!operation.name().is_empty());
    }
    let mut words: Vec<&str> = Operation::ALL.iter().map(|operation| operation.name()).collect();
    words.extend(Kind::ALL.map(Kind::name));
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), count, "{words:?}");
    assert!(words.iter().all(|word| word.len() > 2));
}

#[test]
fn reserved_domain_ids_are_not_real() {
    assert!(DomId(0).is_real() && DomId(0x7FEF).is_real());
    assert!(!DomId::FIRST_RESERVED.is_real() && !DomId::SELF.is_real() && !DomId(u16::MAX).is_real());
}

#[test]
fn identifiers_display_their_kind() {
    let texts = [DomId(3).to_string(), GrantRef(8).to_string(), EvtchnPort(2).to_string()];
    assert_eq!(texts, ["dom3", "gref 8", "port 2"]);
    assert_eq!(Slot(7).to_string(), "slot 7");
}

#[test]
fn limits_match_their_interfaces() {
    // Four flags above the size, with no bits between them.
    let flags = [region::CONSTANT, region::EXCLUSIVE, region::FRESH, region::PRIVATE, region::SIZE];
    assert_eq!(flags, [1 << 63, 1 << 62, 1 << 61, 1 << 60, (1 << 60) - 1]);
    // The first 8 entries are the toolstack's. A version-1 entry has 8 bytes, and there are 8
    // frames of entries.
    assert_eq!((FIRST_GRANT_REF, MAX_GRANT_REFS), (8, 8 * 4096 / 8));
    let [hypercall_page, others] = KERNEL_ADDRESSES;
    assert_eq!(hypercall_page, 0xFFFF_FFFF_4000_0000..0xFFFF_FFFF_4000_1000);
    assert_eq!(others, 0xFFFF_FFFF_8000_0000..0xFFFF_FFFF_C020_0000);
    // Magic, version, length, hash, and twelve sections.
    assert_eq!(HEADER_SIZE, 144);
}
