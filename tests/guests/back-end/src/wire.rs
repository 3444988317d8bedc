//! The frames that a ping needs: ARP and ICMP echo.

/// The size of the longest frame, in bytes.
pub const LONGEST: usize = 1514;
/// Our hardware and IP address.
const MAC: [u8; 6] = [0x00, 0x16, 0x3e, 0x77, 0x77, 0x77];
const ADDRESS: [u8; 4] = [10, 0, 2, 77];
/// The front end's address: the one that the bed gives its guest.
const PEER: [u8; 4] = [10, 0, 2, 15];
const EVERYBODY: [u8; 6] = [0xff; 6];
/// Offsets in an Ethernet frame with ARP, or with IPv4 without options and ICMP.
mod field {
    pub const TYPE: usize = 12;
    pub const PAYLOAD: usize = 14;
    pub const ARP_OPERATION: usize = 20;
    pub const ARP_SENDER: usize = 22;
    pub const PROTOCOL: usize = 23;
    pub const IP_SOURCE: usize = 26;
    pub const ICMP: usize = 34;
    pub const ICMP_DATA: usize = 42;
}

/// The kind of a frame from the front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// The answer to our ARP request, with the front end's hardware address.
    ArpReply([u8; 6]),
    /// A request for our hardware address, with the address of the sender.
    ArpRequest([u8; 6]),
    /// An answer to our echo request.
    EchoReply,
    /// Anything else.
    Other,
}

/// Returns the kind of a frame. Its first bytes are enough.
pub fn classify(frame: &[u8]) -> Received {
    let at = |offset: usize, bytes: &[u8]| frame.get(offset..offset + bytes.len()) == Some(bytes);
    let sender = frame.get(field::ARP_SENDER..field::ARP_SENDER + 6).and_then(|mac| mac.try_into().ok());
    if at(field::TYPE, &[8, 6]) {
        return match sender {
            Some(mac) if at(field::ARP_OPERATION, &[0, 2]) && at(field::ARP_SENDER + 6, &PEER) => {
                Received::ArpReply(mac)
            }
            Some(mac) if at(field::ARP_OPERATION, &[0, 1]) && at(38, &ADDRESS) => Received::ArpRequest(mac),
            _ => Received::Other,
        };
    }
    let echo = at(field::TYPE, &[8, 0, 0x45]) && at(field::PROTOCOL, &[1]) && at(field::IP_SOURCE, &PEER);
    if echo && at(field::ICMP, &[0, 0]) { Received::EchoReply } else { Received::Other }
}

fn put(frame: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = frame.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Writes an ARP request for the front end's address, or the reply to its own request. Returns the
/// length.
pub fn arp(frame: &mut [u8; LONGEST], answer_to: Option<[u8; 6]>) -> usize {
    frame[..60].fill(0);
    let to = answer_to.unwrap_or(EVERYBODY);
    put(frame, 0, &to);
    put(frame, 6, &MAC);
    put(frame, field::TYPE, &[8, 6, 0, 1, 8, 0, 6, 4, 0, if answer_to.is_some() { 2 } else { 1 }]);
    put(frame, field::ARP_SENDER, &MAC);
    put(frame, field::ARP_SENDER + 6, &ADDRESS);
    put(frame, 32, &answer_to.unwrap_or_default());
    put(frame, 38, &PEER);
    60
}

/// Writes an echo request with `data` bytes, all `fill`. Returns the length.
pub fn echo(frame: &mut [u8; LONGEST], to: [u8; 6], data: usize, fill: u8) -> usize {
    let data = data.min(LONGEST - field::ICMP_DATA);
    let length = field::ICMP_DATA + data;
    frame[..length].fill(0);
    put(frame, 0, &to);
    put(frame, 6, &MAC);
    put(frame, field::TYPE, &[8, 0, 0x45, 0]);
    put(frame, 16, &((28 + data) as u16).to_be_bytes());
    put(frame, 22, &[64, 1]);
    put(frame, field::IP_SOURCE, &ADDRESS);
    put(frame, field::IP_SOURCE + 4, &PEER);
    let sum = checksum(&frame[field::PAYLOAD..field::ICMP]);
    put(frame, 24, &sum);
    put(frame, field::ICMP, &[8, 0]);
    frame[field::ICMP_DATA..length].fill(fill);
    let sum = checksum(&frame[field::ICMP..length]);
    put(frame, field::ICMP + 2, &sum);
    length
}

/// Returns the Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_frames_are_well_formed_and_their_answers_are_parsed() {
        let mut frame = [0; LONGEST];
        let length = echo(&mut frame, [2; 6], 57, 7);
        assert_eq!(length, 99);
        assert_eq!(checksum(&frame[14..34]), [0, 0]);
        assert_eq!(checksum(&frame[34..length]), [0, 0]);
        assert_eq!(classify(&frame[..length]), Received::Other);
        // The answer: addresses exchanged, type 0.
        frame.copy_within(26..30, 900);
        put(&mut frame, 26, &PEER);
        frame[34] = 0;
        assert_eq!(classify(&frame[..length]), Received::EchoReply);
        let length = arp(&mut frame, None);
        assert_eq!(classify(&frame[..length]), Received::Other);
        put(&mut frame, 20, &[0, 2, 1, 2, 3, 4, 5, 6, 10, 0, 2, 15]);
        assert_eq!(classify(&frame[..length]), Received::ArpReply([1, 2, 3, 4, 5, 6]));
        put(&mut frame, 20, &[0, 1]);
        put(&mut frame, 38, &ADDRESS);
        assert_eq!(classify(&frame[..length]), Received::ArpRequest([1, 2, 3, 4, 5, 6]));
        for length in 0..60 {
            let _ = classify(&frame[..length]);
        }
    }
}
