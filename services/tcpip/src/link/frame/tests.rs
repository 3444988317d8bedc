use proptest::prelude::*;

use super::*;

fn tcp(flags: u8, words: u8) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_HEADER + usize::from(words) * 4 + 20];
    frame[12] = 8;
    frame[ETHERNET_HEADER] = 0x40 | words;
    frame[ETHERNET_HEADER + 9] = 6;
    frame[ETHERNET_HEADER + usize::from(words) * 4 + 13] = flags;
    frame
}

const OWN: Ipv4Cidr = Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 2), 24);

fn starts(flags: u8, words: u8) -> Option<bool> {
    let mut frame = tcp(flags, words);
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    match classify(&frame, Some(OWN)) {
        FrameKind::Segment(segment) => Some(segment.flags.opens()),
        _ => None,
    }
}

#[test]
fn a_syn_is_recognised_behind_any_ip_options() {
    assert_eq!(starts(0x02, 5), Some(true));
    assert_eq!(starts(0xc2, 15), Some(true));
    assert_eq!(starts(0x12, 5), Some(false));
    assert_eq!(starts(0x10, 5), Some(false));
    let mut udp = tcp(0x02, 5);
    udp[ETHERNET_HEADER + 9] = 17;
    udp[30..34].copy_from_slice(&OWN.address().octets());
    assert_eq!(classify(&udp, Some(OWN)), FrameKind::Other);
}

#[test]
fn an_acknowledgement_goes_back_where_the_segment_came_from() {
    let mut frame = segment();
    frame[..12].copy_from_slice(&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
    let tcp = ETHERNET_HEADER + 20;
    frame[tcp..tcp + 4].copy_from_slice(&[0x12, 0x34, 0, 80]);
    let answer = ack_for(&frame, 7, u32::MAX).expect("a segment");
    assert_eq!(answer[..12], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
    assert!(has_valid_checksum(&answer) && has_valid_headers(&answer, [2; 6]));
    let FrameKind::Segment(said) = classify(&answer, Some(Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 1), 24))) else {
        panic!("{answer:?}")
    };
    let key = Key::new([10, 0, 0, 2], 80, 0x1234);
    assert_eq!((said.key, said.seq, said.ack, said.flags.is_plain(), said.data), (key, 7, u32::MAX, true, 0));
    frame[tcp + 12] = 0x40;
    assert_eq!(ack_for(&frame, 7, 9), None, "shorter than a header");
    assert_eq!(ack_for(&frame[..30], 7, 9), None);
    frame[12] = 0x86;
    assert_eq!(ack_for(&frame, 7, 9), None);
}

#[test]
fn a_segment_is_known_by_its_addresses_and_ports() {
    let mut frame = segment();
    let tcp = ETHERNET_HEADER + 20;
    frame[tcp..tcp + 12].copy_from_slice(&[0x12, 0x34, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8]);
    frame[tcp + 14] = 9;
    let expected = Segment {
        key: Key::new([10, 0, 0, 1], 0x1234, 80),
        port: 80,
        flags: TcpFlags::ACK,
        options: false,
        data: 7,
        offset: 54,
        seq: 0x0102_0304,
        ack: 0x0506_0708,
        window: 0x0900,
    };
    assert_eq!(classify(&frame, Some(OWN)), FrameKind::Segment(expected));
    for own in [None, Some(Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 3), 24))] {
        assert_eq!(classify(&frame, own), FrameKind::Unwanted);
    }
    frame[20] = 0x20;
    assert_eq!(classify(&frame, Some(OWN)), FrameKind::Unwanted, "a fragment");
    frame[12] = 0x86;
    assert_eq!(classify(&frame, Some(OWN)), FrameKind::Unwanted, "no IPv4");
}

#[test]
fn only_other_hosts_unicast_addresses_can_connect() {
    let mut frame = tcp(0x02, 5);
    frame[30..34].copy_from_slice(&OWN.address().octets());
    for (from, wanted) in [
        ([10, 0, 0, 1], true),
        ([8, 8, 8, 8], true),
        (OWN.address().octets(), false),
        ([10, 0, 0, 255], false),
        ([0, 0, 0, 0], false),
        ([127, 0, 0, 1], false),
        ([224, 0, 0, 1], false),
        ([255, 255, 255, 255], false),
    ] {
        frame[26..30].copy_from_slice(&from);
        assert_eq!(classify(&frame, Some(OWN)) != FrameKind::Unwanted, wanted, "{from:?}");
    }
}

#[test]
fn only_fragments_that_reach_too_far_are_oversized() {
    let fragment = |units: u16, total: u16| {
        let mut frame = tcp(0, 5);
        frame[ETHERNET_HEADER + 9] = 1;
        frame[30..34].copy_from_slice(&OWN.address().octets());
        frame[ETHERNET_HEADER + 2..ETHERNET_HEADER + 4].copy_from_slice(&total.to_be_bytes());
        frame[ETHERNET_HEADER + 6..ETHERNET_HEADER + 8].copy_from_slice(&(0x2000 | units).to_be_bytes());
        classify(&frame, Some(OWN)) == FrameKind::Unwanted
    };
    assert!(!fragment(0, 1500));
    assert!(!fragment(320, 1500));
    assert!(fragment(0x1fff, 28));
    assert!(fragment(1000, 1500));
    // The fragments of a ping of 4,000 bytes are accepted, and so is any that ends there.
    assert!(!fragment(0x2000, 1500) && !fragment(370, 1068) && !fragment(0x2000 | 510, 16));
    // The first of many fragments, and what is no fragment, may be as long as the others.
    for word in [0x2000, 0, 0x4000] {
        assert!(!fragment(word, 4096));
        assert!(fragment(word, 4097) && fragment(word, 65_500));
    }
}

/// Returns a complete TCP segment with a correct checksum.
fn segment() -> Vec<u8> {
    let mut frame = tcp(0x10, 5);
    frame.extend(*b"payload");
    let length = (frame.len() - ETHERNET_HEADER) as u16;
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_HEADER..]);
    packet.set_total_len(length);
    packet.set_src_addr([10, 0, 0, 1].into());
    packet.set_dst_addr([10, 0, 0, 2].into());
    let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
    segment.set_header_len(20);
    segment.fill_checksum(&IpAddress::v4(10, 0, 0, 1), &IpAddress::v4(10, 0, 0, 2));
    frame
}

#[test]
fn the_mss_option_is_found_among_others_and_nowhere_else() {
    let with = |options: &[u8]| {
        let mut frame = tcp(0x02, 5);
        frame.truncate(ETHERNET_HEADER + 40);
        frame[ETHERNET_HEADER + 32] = (5 + options.len() as u8 / 4) << 4;
        frame.extend(options);
        mss_option(&mut frame).map(|largest| u16::from_be_bytes(*largest))
    };
    assert_eq!(with(&[2, 4, 5, 0xb4]), Some(1460));
    assert_eq!(with(&[1, 3, 3, 7, 2, 4, 1, 0]), Some(256));
    assert_eq!(with(&[4, 2, 1, 1, 2, 4, 1, 0, 2, 4, 2, 0]), Some(256), "the first");
    for none in
        [&[][..], &[1; 4], &[0, 2, 4, 9], &[3, 0, 2, 4], &[2, 3, 1, 1], &[1, 1, 2, 4], &[1, 1, 1, 2], &[8, 40, 2, 4]]
    {
        assert_eq!(with(none), None, "{none:?}");
    }
}

#[test]
fn a_checksum_is_valid_until_a_bit_changes() {
    let good = segment();
    assert!(has_valid_checksum(&good));
    for at in [26, 30, ETHERNET_HEADER + 20, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(!has_valid_checksum(&bad), "{at}");
    }
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    assert!(!has_valid_checksum(&fragment));
    fragment[23] = 1;
    assert!(has_valid_checksum(&fragment), "a fragment of a ping");
}

#[test]
fn the_link_completes_a_partial_checksum() {
    let good = segment();
    let mut frame = good.clone();
    frame[50..52].fill(0);
    assert!(write_partial_checksum(&mut frame));
    let sum = !smoltcp::wire::checksum::data(&frame[ETHERNET_HEADER + 20..]);
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(frame, good);
    frame[23] = 17;
    assert!(!write_partial_checksum(&mut frame));
}

proptest! {
    #[test]
    fn any_bytes_are_classified_without_a_panic(mut frame in prop::collection::vec(any::<u8>(), 0..100)) {
        if frame.len() > 13 { frame[12] = 8; frame[13] = 0; }
        let _ = (classify(&frame, Some(OWN)), has_valid_checksum(&frame), sack_blocks(&frame), mss_option(&mut frame));
        write_partial_checksum(&mut frame);
    }
}

/// A segment with any options becomes one without any, with the given numbers.
#[test]
fn a_reduced_segment_keeps_only_the_connection() {
    for words in [5, 7, 15] {
        let mut frame = tcp(0x16, words);
        let tcp = ETHERNET_HEADER + usize::from(words) * 4;
        frame[30..34].copy_from_slice(&OWN.address().octets());
        frame[tcp..tcp + 4].copy_from_slice(&[0x12, 0x34, 0, 80]);
        frame[tcp + 12] = 0x60;
        frame.extend([9; 60]);
        let whole = frame.len();
        let length = reduce_to_ack(&mut frame, whole, 7, 9).expect("a segment");
        let FrameKind::Segment(made) = classify(&frame[..length], Some(OWN)) else { panic!("{frame:?}") };
        assert_eq!((made.key, made.seq, made.ack), (Key::new([0; 4], 0x1234, 80), 7, 9));
        assert!(made.flags.is_plain() && !made.options && made.data == 0);
        assert_eq!(reduce_to_ack(&mut frame, tcp + 19, 7, 9), None, "it is cut off");
    }
}
