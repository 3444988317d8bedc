//! Fixed-size messages, encoded and decoded without `unsafe`.

use arrayvec::{ArrayString, ArrayVec};

/// A message could not be decoded: an unknown tag, padding that is not zero, an index out of range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// A message of fixed size.
pub trait Message: Sized {
    /// Bytes of the encoded message.
    const SIZE: usize;

    /// Writes the message; `writer` has room for [`Self::SIZE`] bytes and fills the rest with zeros.
    fn encode(&self, writer: &mut Writer<'_>);

    /// Reads a message. The caller checks that only zeros follow.
    ///
    /// # Errors
    /// The bytes are no message of this type.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed>;

    /// Encodes into `out`, which must have [`Self::SIZE`] bytes.
    fn to_bytes(&self, out: &mut [u8]) {
        out.fill(0);
        self.encode(&mut Writer { out, at: 0 });
    }

    /// Decodes the whole of `bytes`.
    ///
    /// # Errors
    /// The bytes are no message of this type, or something other than zeros follows it.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes };
        let message = Self::decode(&mut reader)?;
        if reader.bytes.iter().all(|byte| *byte == 0) { Ok(message) } else { Err(Malformed) }
    }
}

/// Writes the fields of a message. What does not fit is a defect of the message's `SIZE`; it is cut off,
/// and the round-trip test of the message fails.
pub struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    /// Appends bytes.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(place) = self.out.get_mut(self.at..self.at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.at += bytes.len();
    }
    /// Appends a byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }
    /// Appends a little-endian `u16`.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }
    /// Appends a little-endian `u32`.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }
    /// Appends a little-endian `u64`.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
    /// Appends a length and that many bytes.
    pub fn counted(&mut self, bytes: &[u8]) {
        self.u16(bytes.len() as u16);
        self.bytes(bytes);
    }
}

/// Reads the fields of a message.
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `count` bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.bytes.split_at_checked(count).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// There is none.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }
    /// Reads a little-endian `u16`.
    ///
    /// # Errors
    /// There are too few bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }
    /// Reads a little-endian `u32`.
    ///
    /// # Errors
    /// There are too few bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }
    /// Reads a little-endian `u64`.
    ///
    /// # Errors
    /// There are too few bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }
    /// Reads a length and that many bytes, at most `N`.
    ///
    /// # Errors
    /// The length is over `N`, or there are too few bytes.
    pub fn counted<const N: usize>(&mut self) -> Result<ArrayVec<u8, N>, Malformed> {
        let count = usize::from(self.u16()?);
        ArrayVec::try_from(self.bytes(count)?).map_err(|_| Malformed)
    }
    /// Reads a length and that many bytes of UTF-8, at most `N`.
    ///
    /// # Errors
    /// The length is over `N`, there are too few bytes, or they are not UTF-8.
    pub fn text<const N: usize>(&mut self) -> Result<ArrayString<N>, Malformed> {
        let count = usize::from(self.u16()?);
        let text = core::str::from_utf8(self.bytes(count)?).map_err(|_| Malformed)?;
        ArrayString::from(text).map_err(|_| Malformed)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use core::fmt::Debug;

    use super::*;

    /// What holds of every message: it is read back as it was written, fits its size, and nothing may follow it.
    pub(crate) fn round_trips<T: Message + PartialEq + Debug>(messages: &[T]) {
        for message in messages {
            let mut bytes = [0xff; 256];
            let bytes = &mut bytes[..T::SIZE];
            message.to_bytes(bytes);
            assert_eq!(T::from_bytes(bytes).as_ref(), Ok(message));
            let mut padded = [0; 257];
            padded[..T::SIZE].copy_from_slice(bytes);
            padded[T::SIZE] = 1;
            assert_eq!(T::from_bytes(&padded[..=T::SIZE]), Err(Malformed), "{message:?} with something after it");
            // Cut short it is another message or none, and no panic.
            for cut in (0..T::SIZE).step_by(if cfg!(miri) { 13 } else { 1 }) {
                let _ = T::from_bytes(&bytes[..cut]);
            }
            // Every bit counts: a changed one gives another message or none.
            // Miri, for which each is a thousand times dearer, is shown some.
            for bit in (0..T::SIZE * 8).step_by(if cfg!(miri) { 67 } else { 1 }) {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(T::from_bytes(bytes).as_ref(), Ok(message), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// Bytes that are no message of the type.
    pub(crate) fn malformed<T: Message + Debug>(cases: &[&[u8]]) {
        for case in cases {
            let mut bytes = [0; 256];
            bytes[..case.len()].copy_from_slice(case);
            assert!(T::from_bytes(&bytes[..T::SIZE]).is_err(), "{case:?}");
        }
    }

    #[test]
    fn counted_fields_are_bounded() {
        let field = |length: u16, bytes: &'static [u8]| [&length.to_le_bytes()[..], bytes].concat();
        let read = |bytes: &[u8]| Reader { bytes }.counted::<4>().map(|field| field.len());
        assert_eq!(read(&field(4, b"abcd")), Ok(4));
        assert_eq!(read(&field(5, b"abcde")), Err(Malformed));
        assert_eq!(read(&field(3, b"ab")), Err(Malformed));
        assert_eq!(read(b"\x01"), Err(Malformed));
        assert_eq!(Reader { bytes: &field(2, b"\xff\xfe") }.text::<4>(), Err(Malformed));
    }

    #[test]
    fn a_writer_cuts_off_what_does_not_fit() {
        let mut out = [0; 3];
        let mut writer = Writer { out: &mut out, at: 0 };
        writer.u16(0x0201);
        writer.u16(0x0403);
        writer.u8(5);
        assert_eq!(out, [1, 2, 0]);
    }
}
