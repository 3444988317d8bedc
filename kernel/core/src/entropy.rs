//! Generates the kernel's random numbers: ChaCha20 (RFC 8439), rekeyed after every draw.
//!
//! It is written here because the well-kept crates choose SSE code by processor features, and the
//! kernel runs with the FPU and SSE disabled.

/// Generates random bits. Its state does not reveal earlier ones.
///
/// Each draw takes its bits from one half of a block, and the other half becomes the next key.
#[derive(Clone)]
pub struct Generator {
    key: [u32; 8],
}

impl Generator {
    /// Creates a generator from 256 bits of seed.
    #[must_use]
    pub fn new(seed: [u64; 4]) -> Generator {
        let mut key = [0; 8];
        for (halves, word) in key.chunks_exact_mut(2).zip(seed) {
            halves[0] = word as u32;
            halves[1] = (word >> 32) as u32;
        }
        Generator { key }
    }

    /// Creates a generator from the words of a random source, or returns `None` if the source
    /// fails.
    ///
    /// A source has failed if it says so, if a word is 0 or all ones, or if all words are equal.
    pub fn seeded(mut source: impl FnMut() -> Option<u64>) -> Option<Generator> {
        let mut word = || source().filter(|word| *word != 0 && *word != u64::MAX);
        let seed = [word()?, word()?, word()?, word()?];
        seed.iter().any(|word| *word != seed[0]).then(|| Generator::new(seed))
    }

    /// Returns 128 random bits.
    pub fn draw(&mut self) -> [u64; 2] {
        let block = block(&self.key, 0, [0; 3]);
        self.key.copy_from_slice(&block[..8]);
        let word = |at: usize| u64::from(block[at]) | u64::from(block[at + 1]) << 32;
        [word(8), word(10)]
    }

    /// Mixes fresh random bits into the key.
    pub fn reseed(&mut self, fresh: u64) {
        self.key[0] ^= fresh as u32;
        self.key[1] ^= (fresh >> 32) as u32;
    }
}

/// Computes the ChaCha20 block function (RFC 8439, section 2.3).
fn block(key: &[u32; 8], counter: u32, nonce: [u32; 3]) -> [u32; 16] {
    let mut start = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, counter, 0, 0, 0];
    start[4..12].copy_from_slice(key);
    start[13..].copy_from_slice(&nonce);
    let mut state = start;
    for _ in 0..10 {
        for column in 0..4 {
            quarter(&mut state, column, column + 4, column + 8, column + 12);
        }
        for column in 0..4 {
            quarter(&mut state, column, (column + 1) % 4 + 4, (column + 2) % 4 + 8, (column + 3) % 4 + 12);
        }
    }
    for (word, start) in state.iter_mut().zip(start) {
        *word = word.wrapping_add(start);
    }
    state
}

/// Computes the quarter round (RFC 8439, section 2.1).
fn quarter(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (to, add, turn, by) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
        state[to] = state[to].wrapping_add(state[add]);
        state[turn] = (state[turn] ^ state[to]).rotate_left(by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_function_is_that_of_rfc_8439() {
        let mut key = [0; 8];
        for (index, word) in key.iter_mut().enumerate() {
            let at = index as u32 * 4;
            *word = at | (at + 1) << 8 | (at + 2) << 16 | (at + 3) << 24;
        }
        let state = block(&key, 1, [0x0900_0000, 0x4a00_0000, 0]);
        assert_eq!(state[0], 0xe4e7_f110);
        assert_eq!(state[15], 0x4e3c_50a2);
    }

    #[test]
    fn a_draw_takes_one_half_of_the_block_and_the_key_the_other() {
        let mut generator = Generator::new([0x0302_0100_0706_0504, 2, 3, 4]);
        assert_eq!(generator.key[..2], [0x0706_0504, 0x0302_0100]);
        let block = block(&generator.key, 0, [0; 3]);
        let words = generator.draw();
        assert_eq!(
            words.map(|word| (word as u32, (word >> 32) as u32)),
            [(block[8], block[9]), (block[10], block[11])]
        );
        assert_eq!(generator.key, block[..8]);
    }

    #[test]
    fn reseeding_mixes_all_fresh_bits_in_and_loses_no_old_one() {
        for fresh in [0, 1, 1 << 31, 1 << 32, 1 << 63, u64::MAX, 0x0123_4567_89AB_CDEF] {
            let mut generator = Generator::new([0xFFFF_0000_FF00_F0F0, 2, 3, 4]);
            let old = generator.key;
            generator.reseed(fresh);
            let mixed = [generator.key[0] ^ old[0], generator.key[1] ^ old[1]];
            assert_eq!(u64::from(mixed[0]) | u64::from(mixed[1]) << 32, fresh);
            assert_eq!(generator.key[2..], old[2..]);
        }
    }

    #[test]
    fn a_source_that_has_failed_makes_no_generator() {
        let seeded = |words: [Option<u64>; 4]| {
            let mut words = words.into_iter();
            Generator::seeded(|| words.next().unwrap()).map(|generator| generator.key)
        };
        assert_eq!(seeded([1, 1, 1, 2].map(Some)), Some(Generator::new([1, 1, 1, 2]).key));
        assert_eq!(seeded([7; 4].map(Some)), None);
        for failure in [None, Some(0), Some(u64::MAX)] {
            for index in 0..4 {
                let mut words = [1, 2, 3, 4].map(Some);
                words[index] = failure;
                assert_eq!(seeded(words), None, "{failure:?} at {index}");
            }
        }
    }

    #[test]
    fn draws_differ_and_depend_on_the_seed() {
        let mut one = Generator::new([1, 2, 3, 4]);
        let mut two = Generator::new([1, 2, 3, 5]);
        let first = one.draw();
        assert_ne!(first, one.draw());
        assert_ne!(first, two.draw());
        let mut reseeded = one.clone();
        reseeded.reseed(9);
        assert_ne!(one.draw(), reseeded.draw());
    }
}
