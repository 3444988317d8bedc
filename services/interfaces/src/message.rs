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
