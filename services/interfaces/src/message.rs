//! Fixed-size messages, encoded and decoded without `unsafe`.
//!
//! ```
//! use cloister_interfaces::message::{Defect, Malformed, Message, Reader, Writer};
//!
//! /// Sets a lamp's brightness, 0 to 100.
//! #[derive(Debug, PartialEq)]
//! struct Dim(u16);
//!
//! impl Message for Dim {
//!     const SIZE: usize = 8;
//!     fn encode(&self, writer: &mut Writer<'_>) {
//!         writer.u16(self.0);
//!     }
//!     fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
//!         // A field that is out of range makes no message, so nobody has to check it later.
//!         reader.checked(Reader::u16, |percent| (percent <= 100).then_some(Dim(percent)))
//!     }
//! }
//!
//! assert_eq!(Dim::from_words(Dim(40).to_words()), Ok(Dim(40)));
//! assert_eq!(Dim::from_bytes(&[101]), Err(Malformed::at(0, Defect::Range)));
//! let malformed = Dim::from_bytes(&[40, 0, 1]).unwrap_err();
//! assert_eq!(malformed, Malformed::at(2, Defect::Padding));
//! assert_eq!(malformed.to_string(), "a message with padding that is not zero at byte 2");
//! ```

use core::fmt;

use arrayvec::{ArrayString, ArrayVec};

/// The error of decoding: which field is wrong, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// A field is wrong.
    Field {
        /// The offset in the message at which the field starts, in bytes.
        offset: u8,
        /// What is wrong with it.
        defect: Defect,
    },
    /// The peer's queue index claims more messages than the queue holds. There is no message.
    QueueIndex,
}

/// What is wrong with a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// No message of the interface has this tag.
    Tag,
    /// The message ends before the field does.
    Truncated,
    /// The bytes after the last field are not all zero.
    Padding,
    /// A flag is unknown, or does not go with the other fields.
    Flags,
    /// A counted field is longer than it may be.
    Length,
    /// Text is not UTF-8.
    Text,
    /// A number is outside the range that the field has.
    Range,
}

impl Malformed {
    /// Returns the error of a field that starts at byte `offset`, which is less than
    /// [`MAX_MESSAGE`].
    #[inline]
    #[must_use]
    pub const fn at(offset: usize, defect: Defect) -> Self {
        Malformed::Field { offset: offset as u8, defect }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, what) = match *self {
            Malformed::QueueIndex => return f.write_str("more messages than the queue holds"),
            Malformed::Field { offset, defect } => (offset, defect),
        };
        let what = match what {
            Defect::Tag => "an unknown tag",
            Defect::Truncated => "a missing field",
            Defect::Padding => "padding that is not zero",
            Defect::Flags => "impossible flags",
            Defect::Length => "a field that is too long",
            Defect::Text => "text that is not UTF-8",
            Defect::Range => "a number out of range",
        };
        write!(f, "a message with {what} at byte {offset}")
    }
}

/// The size of the largest message of any interface, in bytes.
pub const MAX_MESSAGE: usize = 256;

/// An encoded message. Only the first [`Message::WORDS`] words are used.
pub type Words = [u64; MAX_MESSAGE / 8];

/// A message of fixed size.
pub trait Message: Sized {
    /// The size of the encoded message in bytes: a multiple of 8.
    const SIZE: usize;

    /// The size of the encoded message in words.
    const WORDS: usize = {
        assert!(Self::SIZE.is_multiple_of(8) && Self::SIZE <= MAX_MESSAGE, "the words of the largest message hold it");
        Self::SIZE / 8
    };

    /// Writes the message. `writer` has room for [`Self::SIZE`] bytes, all of them zero.
    fn encode(&self, writer: &mut Writer<'_>);

    /// Reads a message. The caller checks that only zeros follow.
    ///
    /// # Errors
    /// The bytes are not a message of this type.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect>;

    /// Encodes the message into words.
    #[inline]
    fn to_words(&self) -> Words {
        let mut words = Words::default();
        self.encode(&mut Writer { words: &mut words[..Self::WORDS], position: 0 });
        words
    }

    /// Decodes a message from the first [`Self::WORDS`] words.
    ///
    /// # Errors
    /// The words are not a message of this type, or the padding after it is not zero.
    #[inline]
    fn from_words(mut words: Words) -> Result<Self, Malformed> {
        let words = &mut words[..Self::WORDS];
        let mut reader = Reader { words, position: 0 };
        let message = Self::decode(&mut reader).map_err(|defect| Malformed::at(reader.position, defect))?;
        let end = reader.position;
        // Reading a field clears it in `words`: what is left is the padding.
        if words.iter().fold(0, |all, word| all | word) == 0 {
            Ok(message)
        } else {
            Err(Malformed::at(end, Defect::Padding))
        }
    }

    /// Encodes the message into `out`, as far as there is room.
    fn to_bytes(&self, out: &mut [u8]) {
        let words = self.to_words();
        for (chunk, word) in out.chunks_mut(8).zip(&words) {
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }

    /// Decodes a message from `bytes`. If they are fewer than [`Self::SIZE`], the missing ones are
    /// zero.
    ///
    /// # Errors
    /// The bytes are not a message of this type, or the bytes after it are not zero.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        if let Some(at) = bytes.iter().skip(Self::SIZE).position(|byte| *byte != 0) {
            return Err(Malformed::at((Self::SIZE + at).min(MAX_MESSAGE - 1), Defect::Padding));
        }
        let mut words = Words::default();
        for (word, part) in words.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..part.len()].copy_from_slice(part);
            *word = u64::from_le_bytes(whole);
        }
        Self::from_words(words)
    }
}

/// Returns the index of the word that holds the byte at `position`, and the byte's lowest bit in
/// it.
#[inline]
const fn locate(position: usize) -> (usize, usize) {
    (position / 8, position % 8 * 8)
}

/// Returns a mask of the lowest `size` bytes of a word. `size` is 1 to 8.
#[inline]
const fn low_mask(size: usize) -> u64 {
    u64::MAX >> (64 - size * 8)
}

/// Writes the fields of a message.
///
/// Fields that do not fit are a defect of the message's `SIZE`. They are cut off, and the
/// round-trip test of the message fails.
pub struct Writer<'a> {
    words: &'a mut [u64],
    position: usize,
}

// Inline, all of this is shifts by constants. As calls, each field would go through memory.
impl Writer<'_> {
    /// Appends a value of `size` bytes, whose higher bytes are zero.
    #[inline]
    fn put(&mut self, value: u64, size: usize) {
        let (index, shift) = locate(self.position);
        if let Some(word) = self.words.get_mut(index) {
            *word |= value << shift;
        }
        if shift + size * 8 > 64
            && let Some(word) = self.words.get_mut(index + 1)
        {
            *word |= value >> (64 - shift);
        }
        self.position += size;
    }
    /// Appends bytes.
    #[inline]
    pub fn bytes<const N: usize>(&mut self, bytes: [u8; N]) {
        bytes.iter().for_each(|byte| self.u8(*byte));
    }
    /// Appends a byte.
    #[inline]
    pub fn u8(&mut self, value: u8) {
        self.put(value.into(), 1);
    }
    /// Appends a little-endian `u16`.
    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.put(value.into(), 2);
    }
    /// Appends a little-endian `u32`.
    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.put(value.into(), 4);
    }
    /// Appends a little-endian `u64`.
    #[inline]
    pub fn u64(&mut self, value: u64) {
        self.put(value, 8);
    }
    /// Appends the number of the bytes as a `u16`, and the bytes.
    #[inline(never)]
    pub fn length_prefixed(&mut self, bytes: &[u8]) {
        self.u16(bytes.len() as u16);
        // Whole words first, one by one: a copy of unknown length is a call.
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.put(u64::from_le_bytes(*word), 8));
        if !rest.is_empty() {
            self.put(rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)), rest.len());
        }
    }
}

/// Reads the fields of a message, and clears each in the message's words as it is read.
pub struct Reader<'a> {
    words: &'a mut [u64],
    /// The offset of the next field. After an error, that of the field that is wrong.
    position: usize,
}

impl Reader<'_> {
    /// Reads `size` bytes, 1 to 8.
    #[inline]
    fn take(&mut self, size: usize) -> Result<u64, Defect> {
        let (index, shift) = locate(self.position);
        let word = self.words.get_mut(index).ok_or(Defect::Truncated)?;
        let mut value = *word >> shift & low_mask(size);
        *word &= !(low_mask(size) << shift);
        if shift + size * 8 > 64 {
            let word = self.words.get_mut(index + 1).ok_or(Defect::Truncated)?;
            let upper = low_mask(size) >> (64 - shift);
            value |= (*word & upper) << (64 - shift);
            *word &= !upper;
        }
        self.position += size;
        Ok(value)
    }
    /// Reads a field with `read` and makes a value of it with `check`, which returns `None` if the
    /// field is out of range.
    ///
    /// # Errors
    /// The field cannot be read, or is out of range.
    #[inline]
    pub fn checked<T, U>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Defect>,
        check: impl FnOnce(T) -> Option<U>,
    ) -> Result<U, Defect> {
        let start = self.position;
        check(read(self)?).ok_or_else(|| self.reject(start, Defect::Range))
    }
    /// Returns `defect`, as that of the field that starts at byte `offset`. [`Message::decode`]
    /// returns it as its error.
    #[inline]
    pub fn reject(&mut self, offset: usize, defect: Defect) -> Defect {
        self.position = offset;
        defect
    }
    /// Reads `N` bytes.
    ///
    /// # Errors
    /// The message is too short.
    #[inline]
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Defect> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.u8()?;
        }
        Ok(bytes)
    }
    /// Reads a byte.
    ///
    /// # Errors
    /// The message is too short.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Defect> {
        self.take(1).map(|value| value as u8)
    }
    /// Reads a little-endian `u16`.
    ///
    /// # Errors
    /// The message is too short.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Defect> {
        self.take(2).map(|value| value as u16)
    }
    /// Reads a little-endian `u32`.
    ///
    /// # Errors
    /// The message is too short.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Defect> {
        self.take(4).map(|value| value as u32)
    }
    /// Reads a little-endian `u64`.
    ///
    /// # Errors
    /// The message is too short.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Defect> {
        self.take(8)
    }
    /// Reads a `u16` number of bytes, at most `N`, and that many bytes.
    ///
    /// # Errors
    /// The number is over `N`, or the message is too short.
    #[inline(never)]
    pub fn length_prefixed<const N: usize>(&mut self) -> Result<ArrayVec<u8, N>, Defect> {
        let start = self.position;
        let count = usize::from(self.u16()?);
        let mut bytes = ArrayVec::new();
        // Whole words first, one by one: a copy of unknown length is a call.
        for _ in 0..count / 8 {
            bytes
                .try_extend_from_slice(&self.take(8)?.to_le_bytes())
                .map_err(|_| self.reject(start, Defect::Length))?;
        }
        if let size @ 1.. = count % 8 {
            for byte in self.take(size)?.to_le_bytes().into_iter().take(size) {
                bytes.try_push(byte).map_err(|_| self.reject(start, Defect::Length))?;
            }
        }
        Ok(bytes)
    }
    /// Reads a `u16` number of bytes, at most `N`, and that many bytes of UTF-8.
    ///
    /// # Errors
    /// The number is over `N`, the message is too short, or the bytes are not UTF-8.
    pub fn text<const N: usize>(&mut self) -> Result<ArrayString<N>, Defect> {
        let start = self.position;
        let bytes = self.length_prefixed::<N>()?;
        let text = core::str::from_utf8(&bytes).map_err(|_| self.reject(start, Defect::Text))?;
        ArrayString::from(text).map_err(|_| self.reject(start, Defect::Length))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use core::fmt::Debug;

    use super::*;

    /// Asserts what holds for every message: it decodes to what was encoded, it fits its size, and
    /// only zeros may follow it.
    pub(crate) fn check_round_trip<T: Message + PartialEq + Debug>(messages: &[T]) {
        for message in messages {
            let mut bytes = [0xff; 256];
            let bytes = &mut bytes[..T::SIZE];
            message.to_bytes(bytes);
            assert_eq!(T::from_bytes(bytes).as_ref(), Ok(message));
            let mut padded = [0; 257];
            padded[..T::SIZE].copy_from_slice(bytes);
            padded[T::SIZE] = 1;
            assert_eq!(
                T::from_bytes(&padded[..=T::SIZE]),
                Err(Malformed::at(T::SIZE.min(MAX_MESSAGE - 1), Defect::Padding)),
                "{message:?} followed by a byte that is not zero"
            );
            // A truncated message decodes to another message or to an error, without a panic.
            for cut in (0..T::SIZE).step_by(if cfg!(miri) { 13 } else { 1 }) {
                let _ = T::from_bytes(&bytes[..cut]);
            }
            // Every bit counts: changing one gives another message or an error. Under Miri, where
            // each case is a thousand times slower, only some bits are tried.
            for bit in (0..T::SIZE * 8).step_by(if cfg!(miri) { 67 } else { 1 }) {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(T::from_bytes(bytes).as_ref(), Ok(message), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// Asserts that each of the cases, filled up with zeros, is no message of the type, because of
    /// this defect of the field at this offset.
    pub(crate) fn check_malformed<T: Message + Debug>(cases: &[(&[u8], usize, Defect)]) {
        for (case, offset, defect) in cases {
            let mut bytes = [0; 256];
            bytes[..case.len()].copy_from_slice(case);
            assert_eq!(T::from_bytes(&bytes[..T::SIZE]).err(), Some(Malformed::at(*offset, *defect)), "{case:?}");
        }
    }

    #[test]
    fn counted_fields_are_bounded() {
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let read = |mut words: [u64; 2]| {
            Reader { words: &mut words, position: 0 }.length_prefixed::<8>().map(|bytes| bytes.to_vec())
        };
        assert_eq!(read([word(b"\x04\0abcdef"), 0]), Ok(b"abcd".to_vec()));
        assert_eq!(read([word(b"\x08\0abcdef"), word(b"ghijklmn")]), Ok(b"abcdefgh".to_vec()));
        assert_eq!(
            read([word(b"\x09\0abcdef"), word(b"ghijklmn")]),
            Err(Defect::Length),
            "more than the field may have"
        );
        let short = |bytes| {
            Reader { words: &mut [word(bytes)], position: 0 }.length_prefixed::<8>().map(|bytes| bytes.to_vec())
        };
        assert_eq!(short(b"\x06\0abcdef"), Ok(b"abcdef".to_vec()));
        assert_eq!(short(b"\x07\0abcdef"), Err(Defect::Truncated), "more than there are");
        assert_eq!(Reader { words: &mut [], position: 0 }.length_prefixed::<8>(), Err(Defect::Truncated));
        assert_eq!(
            Reader { words: &mut [word(b"\x02\0\xff\xfe\0\0\0\0")], position: 0 }.text::<4>(),
            Err(Defect::Text)
        );
    }

    #[test]
    fn an_error_says_in_words_which_field_is_wrong() {
        let lines = [
            (Malformed::at(0, Defect::Tag), "a message with an unknown tag at byte 0"),
            (Malformed::at(8, Defect::Truncated), "a message with a missing field at byte 8"),
            (Malformed::at(255, Defect::Padding), "a message with padding that is not zero at byte 255"),
            (Malformed::at(1, Defect::Flags), "a message with impossible flags at byte 1"),
            (Malformed::at(4, Defect::Length), "a message with a field that is too long at byte 4"),
            (Malformed::at(6, Defect::Text), "a message with text that is not UTF-8 at byte 6"),
            (Malformed::at(2, Defect::Range), "a message with a number out of range at byte 2"),
            (Malformed::QueueIndex, "more messages than the queue holds"),
        ];
        for (malformed, line) in lines {
            assert_eq!(malformed.to_string(), line);
        }
        assert_eq!(size_of::<Malformed>(), 2);
    }

    #[test]
    fn padding_that_is_not_zero_is_malformed() {
        struct Short;
        impl Message for Short {
            const SIZE: usize = 24;
            fn encode(&self, writer: &mut Writer<'_>) {
                writer.u8(7);
            }
            fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
                reader.u8().map(|_| Short)
            }
        }
        let with = |rest: [u64; 2]| {
            let mut words = Short.to_words();
            words[1..3].copy_from_slice(&rest);
            Short::from_words(words).is_ok()
        };
        assert_eq!(Short::from_bytes(&[7, 0, 1]).err(), Some(Malformed::at(1, Defect::Padding)), "where it starts");
        assert!(with([0, 0]));
        assert!(!with([0, 1]) && !with([5, 0]) && !with([5, 5]), "equal words do not cancel each other");
    }

    #[test]
    fn a_field_may_span_words() {
        let mut words = [0; 3];
        let mut writer = Writer { words: &mut words, position: 0 };
        writer.u8(1);
        writer.u64(0x0908_0706_0504_0302);
        writer.bytes([10, 11, 12, 13, 14, 15]);
        writer.u16(0x1110);
        let mut reader = Reader { words: &mut words, position: 0 };
        assert_eq!(reader.bytes(), Ok([1]));
        assert_eq!(reader.u64(), Ok(0x0908_0706_0504_0302));
        assert_eq!(reader.bytes(), Ok([10, 11, 12, 13, 14, 15]));
        assert_eq!(reader.u16(), Ok(0x1110));
        assert_eq!(words, [0; 3], "reading clears the words");
    }

    #[test]
    fn a_writer_truncates_what_does_not_fit() {
        let mut words = [0; 1];
        let mut writer = Writer { words: &mut words, position: 0 };
        writer.u32(0x0403_0201);
        writer.u16(0x0605);
        writer.u32(0x0A09_0807);
        writer.u8(11);
        assert_eq!(words, [0x0807_0605_0403_0201]);
    }
}
