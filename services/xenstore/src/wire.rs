//! The wire format of XenStore (Xen `io/xs_wire.h`): headers, requests and the names of errors.

use arrayvec::ArrayVec;
use cloister_caps::xen::xs_wire;
pub use cloister_caps::xen::xs_wire::MessageType;
use cloister_interfaces::store::StoreError;

/// The size of a header, in bytes (`struct xsd_sockmsg`).
pub const HEADER: usize = size_of::<xs_wire::Header>();
/// The length of the longest payload that either side may send, in bytes (`XENSTORE_PAYLOAD_MAX`).
/// A longer one ends the connection.
pub const MAX_PAYLOAD: u32 = xs_wire::PAYLOAD_MAX;
/// The length of the longest request of this service, in bytes: a write of the longest path and
/// value.
pub const MAX_REQUEST: usize = 272;

/// A complete request: header and payload.
pub type Packet = ArrayVec<u8, MAX_REQUEST>;

/// The header of a message of any type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The message type, not necessarily a [`MessageType`].
    pub kind: u32,
    /// The number of the request, which its answer repeats; 0 for a watch event.
    pub request: u32,
    /// The number of the transaction, or 0 for none.
    pub transaction: u32,
    /// The length of the payload, in bytes.
    pub length: u32,
}

impl Header {
    /// Returns `true` if the message is of this type.
    #[must_use]
    pub fn is(&self, kind: MessageType) -> bool {
        self.kind == kind as u32
    }

    /// Returns the header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields = [self.kind, self.request, self.transaction, self.length];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Decodes a header. The length in it is not checked.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER]) -> Header {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
        Header {
            kind: u32::from_le_bytes([a, b, c, d]),
            request: u32::from_le_bytes([e, f, g, h]),
            transaction: u32::from_le_bytes([i, j, k, l]),
            length: u32::from_le_bytes([m, n, o, p]),
        }
    }
}

/// Encodes a request whose payload is the concatenation of `parts`. Returns `None` if it is longer
/// than [`MAX_REQUEST`].
#[must_use]
pub fn request(kind: MessageType, request: u32, transaction: u32, parts: &[&[u8]]) -> Option<Packet> {
    let length = u32::try_from(parts.iter().map(|part| part.len()).sum::<usize>()).ok()?;
    let mut packet = Packet::new();
    let header = Header { kind: kind as u32, request, transaction, length };
    packet.try_extend_from_slice(&header.encode()).ok()?;
    for part in parts {
        packet.try_extend_from_slice(part).ok()?;
    }
    Some(packet)
}

/// Returns the error that the payload of an error message names (`xsd_errors`).
#[must_use]
pub fn store_error(payload: &[u8]) -> StoreError {
    let name = payload.strip_suffix(b"\0").unwrap_or(payload);
    match name {
        b"ENOENT" => StoreError::NotFound,
        b"EACCES" | b"EPERM" | b"EROFS" => StoreError::Access,
        b"EAGAIN" => StoreError::Again,
        b"ENOSPC" | b"E2BIG" | b"EBUSY" => StoreError::Quota,
        _ => StoreError::Other,
    }
}

/// Parses a decimal number without sign, blanks or leading zeros. One NUL may follow it.
#[must_use]
pub fn number(text: &[u8]) -> Option<u32> {
    let digits = text.strip_suffix(b"\0").unwrap_or(text);
    if digits.is_empty() || digits.len() > 10 || (digits.len() > 1 && digits.starts_with(b"0")) {
        return None;
    }
    digits.iter().try_fold(0u32, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u32::from(byte - b'0')),
        _ => None,
    })
}

/// Returns the path and the token of a watch event: the first two of the NUL-terminated strings in
/// `payload`.
#[must_use]
pub fn event(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut strings = payload.split(|byte| *byte == 0);
    let path = strings.next()?;
    let token = strings.next()?;
    // A last string without its NUL leaves nothing after it.
    strings.next().map(|_| (path, token))
}

/// Returns the decimal digits of a number.
#[must_use]
pub fn digits(mut value: u16) -> ArrayVec<u8, 5> {
    let mut text = ArrayVec::new();
    loop {
        text.insert(0, b'0' + (value % 10) as u8);
        value /= 10;
        if value == 0 {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_worked_example_of_a_read() {
        let packet = request(MessageType::Read, 5, 0, &[b"device/vif/0/mac", b"\0"]).expect("it fits");
        assert_eq!(packet[..16], [2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0]);
        assert_eq!(&packet[16..], b"device/vif/0/mac\0");
    }

    #[test]
    fn a_request_over_the_limit_is_refused() {
        assert!(request(MessageType::Write, 1, 0, &[&[b'a'; MAX_REQUEST - HEADER]]).is_some());
        assert!(request(MessageType::Write, 1, 0, &[&[b'a'; MAX_REQUEST - HEADER + 1]]).is_none());
    }

    #[test]
    fn errors_by_name() {
        assert_eq!(store_error(b"ENOENT\0"), StoreError::NotFound);
        assert_eq!(store_error(b"EAGAIN"), StoreError::Again);
        assert_eq!(store_error(b"EACCES\0"), StoreError::Access);
        assert_eq!(store_error(b"EBUSY\0"), StoreError::Quota);
        assert_eq!(store_error(b"ENOENT\0x"), StoreError::Other);
        assert_eq!(store_error(b""), StoreError::Other);
    }

    #[test]
    fn numbers_are_strict() {
        assert_eq!(number(b"17\0"), Some(17));
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"4294967295"), Some(u32::MAX));
        for bad in [&b""[..], b"\0", b"007", b"+1", b" 1", b"1 ", b"4294967296", b"1\0\0", b"99999999999"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_token_needs_its_end() {
        assert_eq!(event(b"a/b\x003\x00"), Some((&b"a/b"[..], &b"3"[..])));
        assert_eq!(event(b"a/b\x003"), None);
        assert_eq!(event(b"a/b"), None);
        assert_eq!(event(b""), None);
    }

    proptest! {
        #[test]
        fn headers_round_trip(kind: u32, request: u32, transaction: u32, length: u32) {
            let header = Header { kind, request, transaction, length };
            prop_assert_eq!(Header::decode(&header.encode()), header);
        }

        #[test]
        fn digits_are_what_number_reads(value: u16) {
            prop_assert_eq!(number(&digits(value)), Some(u32::from(value)));
        }
    }
}
