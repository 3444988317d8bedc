//! Values of nodes in form, and others.

use super::*;
use proptest::prelude::*;

#[test]
fn every_state_is_parsed_and_nothing_else() {
    for (value, expected) in XenbusState::ALL.into_iter().enumerate() {
        assert_eq!(state(value.to_string().as_bytes()), Some(expected));
        assert_eq!(expected.digit(), value.to_string());
    }
    for bad in ["", "9", "04", "4 ", "4\0", "-1", "four"] {
        assert_eq!(state(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn a_link_address_has_one_form() {
    assert_eq!(mac(b"00:16:3e:11:22:33"), Some([0, 0x16, 0x3e, 0x11, 0x22, 0x33]));
    assert_eq!(mac(b"00:16:3E:AA:bb:0f"), Some([0, 0x16, 0x3e, 0xaa, 0xbb, 0x0f]));
    for bad in [
        "00:16:3e:11:22:3",
        "00:16:3e:11:22:333",
        "00-16-3e-11-22-33",
        "00:00:00:00:00:00",
        "01:16:3e:11:22:33",
        "ff:ff:ff:ff:ff:ff",
        "0g:16:3e:11:22:33",
        "00:16:3e:11:22:3\0",
        "+0:16:3e:11:22:33",
        "",
    ] {
        assert_eq!(mac(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn only_paths_of_the_back_end_are_accepted() {
    let good = "/local/domain/0/backend/vif/2/0";
    let node = backend(good.as_bytes(), DomId(0)).expect("in form").node("state");
    assert_eq!(*node, format!("{good}/state"));
    assert_eq!(backend(good.as_bytes(), DomId(1)), None);
    for bad in [
        "",
        "/local/domain/0",
        "/local/domain/0/backend/vif/2",
        "/local/domain/0/backend/vif/2/0/",
        "/local/domain/0/backend/vif/2/0/state",
        "/local/domain/0/backend/vbd/2/0",
        "/local/domain/00/backend/vif/2/0",
        "/local/domain/0/backend/vif/../0",
        "local/domain/0/backend/vif/2/0",
    ] {
        assert_eq!(backend(bad.as_bytes(), DomId(0)), None, "{bad:?}");
    }
}

/// The longest node below it is `feature-split-event-channels`.
#[test]
fn the_longest_path_of_the_back_end_has_room_after_it() {
    let longest = "/local/domain/32751/backend/vif/32751/255";
    let name = "feature-split-event-channels";
    let path = backend(longest.as_bytes(), DomId(32751)).expect("in form").node(name);
    assert_eq!(*path, format!("{longest}/{name}"));
    for longer in [format!("{longest}0"), longest.replace("255", "256"), longest.replace("vif/32751", "vif/32752")] {
        assert_eq!(backend(longer.as_bytes(), DomId(32751)), None, "{longer}");
    }
}

#[test]
fn numbers_are_accepted_up_to_their_limits() {
    assert_eq!(number(b"4294967295", u32::MAX), Some(u32::MAX));
    for more in ["4294967296", "42949672950", "18446744073709551616"] {
        assert_eq!(number(more.as_bytes(), u32::MAX), None, "{more}");
    }
    assert_eq!(domid(b"32751"), Some(DomId(0x7FEF)));
    assert_eq!(domid(b"32752"), None);
    assert_eq!((mtu(b"67"), mtu(b"68"), mtu(b"65535"), mtu(b"65536")), (None, Some(68), Some(65535), None));
    assert_eq!((flag(b"0"), flag(b"1"), flag(b"2"), flag(b"")), (Some(false), Some(true), None, None));
}

proptest! {
    #[test]
    fn a_number_has_one_spelling(text in "[0-9 +-]{0,12}", max: u32) {
        let expected = text.parse::<u32>().ok().filter(|value| *value <= max && value.to_string() == text);
        prop_assert_eq!(number(text.as_bytes(), max), expected);
    }

    #[test]
    fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..130)) {
        let _ = (mac(&bytes), state(&bytes), backend(&bytes, DomId(0)), mtu(&bytes), domid(&bytes));
    }
}
