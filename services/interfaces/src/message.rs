//! Fixed-size messages, encoded and decoded without `unsafe`.

use arrayvec::{ArrayString, ArrayVec};

/// A message could not be decoded: an unknown tag, padding that is not zero, an index out of range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// The largest message of any interface, in bytes.
pub const MAX_MESSAGE: usize = 256;

/// A message as it travels, in words: only the first of them, as many as the message's size says, are used.
pub type Words = [u64; MAX_MESSAGE / 8];

/// A message of fixed size.
pub trait Message: Sized {
    /// Bytes of the encoded message: whole words.
    const SIZE: usize;

    /// Words of the encoded message.
    const WORDS: usize = {
        assert!(Self::SIZE.is_multiple_of(8) && Self::SIZE <= MAX_MESSAGE, "the words of the largest message hold it");
        Self::SIZE / 8
    };

    /// Writes the message; `writer` has room for [`Self::SIZE`] bytes, all of them zero.
    fn encode(&self, writer: &mut Writer<'_>);

    /// Reads a message. The caller checks that only zeros follow.
    ///
    /// # Errors
    /// The bytes are no message of this type.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed>;

    /// Encodes into words.
    #[inline]
    fn to_words(&self) -> Words {
        let mut words = Words::default();
        self.encode(&mut Writer { words: &mut words[..Self::WORDS], position: 0 });
        words
    }

    /// Decodes the first [`Self::WORDS`] words.
    ///
    /// # Errors
    /// The words are no message of this type, or something other than zeros follows it.
    #[inline]
    fn from_words(mut words: Words) -> Result<Self, Malformed> {
        let words = &mut words[..Self::WORDS];
        let message = Self::decode(&mut Reader { words, position: 0 })?;
        // What was read is gone from them.
        if words.iter().fold(0, |all, word| all | word) == 0 { Ok(message) } else { Err(Malformed) }
    }

    /// Encodes into `out`: as much of it as there is room for.
    fn to_bytes(&self, out: &mut [u8]) {
        let words = self.to_words();
        for (chunk, word) in out.chunks_mut(8).zip(&words) {
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }

    /// Decodes the first [`Self::SIZE`] of `bytes`; what is missing is zero.
    ///
    /// # Errors
    /// The bytes are no message of this type, or something other than zeros follows it.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.iter().skip(Self::SIZE).any(|byte| *byte != 0) {
            return Err(Malformed);
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

/// Where byte `at` is: its word, and its lowest bit.
#[inline]
const fn locate(position: usize) -> (usize, usize) {
    (position / 8, position % 8 * 8)
}

/// The lowest `size` bytes of a word; `size` is 1 to 8.
#[inline]
const fn low_mask(size: usize) -> u64 {
    u64::MAX >> (64 - size * 8)
}

/// Writes the fields of a message. What does not fit is a defect of the message's `SIZE`; it is cut off,
/// and the round-trip test of the message fails.
pub struct Writer<'a> {
    words: &'a mut [u64],
    position: usize,
}

// In line all of it is shifts by constants; called, each field would be a walk through memory.
impl Writer<'_> {
    /// Appends the lowest `size` bytes of a value that has no others.
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
    /// Appends a length and that many bytes.
    #[inline(never)]
    pub fn counted(&mut self, bytes: &[u8]) {
        self.u16(bytes.len() as u16);
        // Whole words by themselves: a copy of a length that is not known is a call.
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.put(u64::from_le_bytes(*word), 8));
        if !rest.is_empty() {
            self.put(rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)), rest.len());
        }
    }
}

/// Reads the fields of a message, and takes what was read out of its words.
pub struct Reader<'a> {
    words: &'a mut [u64],
    position: usize,
}

impl Reader<'_> {
    /// Takes `size` bytes, 1 to 8.
    #[inline]
    fn take(&mut self, size: usize) -> Result<u64, Malformed> {
        let (index, shift) = locate(self.position);
        let word = self.words.get_mut(index).ok_or(Malformed)?;
        let mut value = *word >> shift & low_mask(size);
        *word &= !(low_mask(size) << shift);
        if shift + size * 8 > 64 {
            let word = self.words.get_mut(index + 1).ok_or(Malformed)?;
            let upper = low_mask(size) >> (64 - shift);
            value |= (*word & upper) << (64 - shift);
            *word &= !upper;
        }
        self.position += size;
        Ok(value)
    }
    /// Reads `N` bytes.
    ///
    /// # Errors
    /// There are too few.
    #[inline]
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.u8()?;
        }
        Ok(bytes)
    }
    /// Reads a byte.
    ///
    /// # Errors
    /// There is none.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|value| value as u8)
    }
    /// Reads a little-endian `u16`.
    ///
    /// # Errors
    /// There are too few bytes.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.take(2).map(|value| value as u16)
    }
    /// Reads a little-endian `u32`.
    ///
    /// # Errors
    /// There are too few bytes.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.take(4).map(|value| value as u32)
    }
    /// Reads a little-endian `u64`.
    ///
    /// # Errors
    /// There are too few bytes.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.take(8)
    }
    /// Reads a length and that many bytes, at most `N`.
    ///
    /// # Errors
    /// The length is over `N`, or there are too few bytes.
    #[inline(never)]
    pub fn counted<const N: usize>(&mut self) -> Result<ArrayVec<u8, N>, Malformed> {
        let count = usize::from(self.u16()?);
        let mut bytes = ArrayVec::new();
        // Whole words by themselves: a copy of a length that is not known is a call.
        for _ in 0..count / 8 {
            bytes.try_extend_from_slice(&self.take(8)?.to_le_bytes()).map_err(|_| Malformed)?;
        }
        if let size @ 1.. = count % 8 {
            for byte in self.take(size)?.to_le_bytes().into_iter().take(size) {
                bytes.try_push(byte).map_err(|_| Malformed)?;
            }
        }
        Ok(bytes)
    }
    /// Reads a length and that many bytes of UTF-8, at most `N`.
    ///
    /// # Errors
    /// The length is over `N`, there are too few bytes, or they are not UTF-8.
    pub fn text<const N: usize>(&mut self) -> Result<ArrayString<N>, Malformed> {
        let bytes = self.counted::<N>()?;
        let text = core::str::from_utf8(&bytes).map_err(|_| Malformed)?;
        ArrayString::from(text).map_err(|_| Malformed)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use core::fmt::Debug;

    use super::*;

    /// What holds of every message: it is read back as it was written, fits its size, and nothing may follow it.
    pub(crate) fn check_round_trip<T: Message + PartialEq + Debug>(messages: &[T]) {
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
    pub(crate) fn check_malformed<T: Message + Debug>(cases: &[&[u8]]) {
        for case in cases {
            let mut bytes = [0; 256];
            bytes[..case.len()].copy_from_slice(case);
            assert!(T::from_bytes(&bytes[..T::SIZE]).is_err(), "{case:?}");
        }
    }

    #[test]
    fn counted_fields_are_bounded() {
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let read =
            |mut words: [u64; 2]| Reader { words: &mut words, position: 0 }.counted::<8>().map(|bytes| bytes.to_vec());
        assert_eq!(read([word(b"\x04\0abcdef"), 0]), Ok(b"abcd".to_vec()));
        assert_eq!(read([word(b"\x08\0abcdef"), word(b"ghijklmn")]), Ok(b"abcdefgh".to_vec()));
        assert_eq!(read([word(b"\x09\0abcdef"), word(b"ghijklmn")]), Err(Malformed), "more than the field may have");
        let short =
            |bytes| Reader { words: &mut [word(bytes)], position: 0 }.counted::<8>().map(|bytes| bytes.to_vec());
        assert_eq!(short(b"\x06\0abcdef"), Ok(b"abcdef".to_vec()));
        assert_eq!(short(b"\x07\0abcdef"), Err(Malformed), "more than there are");
        assert_eq!(Reader { words: &mut [], position: 0 }.counted::<8>(), Err(Malformed));
        assert_eq!(Reader { words: &mut [word(b"\x02\0\xff\xfe\0\0\0\0")], position: 0 }.text::<4>(), Err(Malformed));
    }

    #[test]
    fn padding_that_is_not_zero_is_malformed() {
        struct Short;
        impl Message for Short {
            const SIZE: usize = 24;
            fn encode(&self, writer: &mut Writer<'_>) {
                writer.u8(7);
            }
            fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
                reader.u8().map(|_| Short)
            }
        }
        let with = |rest: [u64; 2]| {
            let mut words = Short.to_words();
            words[1..3].copy_from_slice(&rest);
            Short::from_words(words).is_ok()
        };
        assert!(with([0, 0]));
        assert!(!with([0, 1]) && !with([5, 0]) && !with([5, 5]), "words that are equal do not cancel each other");
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
        assert_eq!(words, [0; 3], "what was read is gone");
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
