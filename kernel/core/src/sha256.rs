//! SHA-256 (FIPS 180-4) of bytes that are all in memory, a few blocks at a time.
//!
//! It is written as a loop, since it is not on a path that matters: 0.7 KiB of code. The smallest
//! crate that was tried took 2.9 KiB of the kernel.

/// The bytes of a block.
pub const BLOCK: usize = 64;

/// The first 32 bits of the fractional parts of the square roots of the first eight primes.
const INITIAL: [u32; 8] =
    [0x6A09_E667, 0xBB67_AE85, 0x3C6E_F372, 0xA54F_F53A, 0x510E_527F, 0x9B05_688C, 0x1F83_D9AB, 0x5BE0_CD19];
/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
#[rustfmt::skip]
const ROUND: [u32; 64] = [
    0x428A_2F98, 0x7137_4491, 0xB5C0_FBCF, 0xE9B5_DBA5, 0x3956_C25B, 0x59F1_11F1, 0x923F_82A4, 0xAB1C_5ED5,
    0xD807_AA98, 0x1283_5B01, 0x2431_85BE, 0x550C_7DC3, 0x72BE_5D74, 0x80DE_B1FE, 0x9BDC_06A7, 0xC19B_F174,
    0xE49B_69C1, 0xEFBE_4786, 0x0FC1_9DC6, 0x240C_A1CC, 0x2DE9_2C6F, 0x4A74_84AA, 0x5CB0_A9DC, 0x76F9_88DA,
    0x983E_5152, 0xA831_C66D, 0xB003_27C8, 0xBF59_7FC7, 0xC6E0_0BF3, 0xD5A7_9147, 0x06CA_6351, 0x1429_2967,
    0x27B7_0A85, 0x2E1B_2138, 0x4D2C_6DFC, 0x5338_0D13, 0x650A_7354, 0x766A_0ABB, 0x81C2_C92E, 0x9272_2C85,
    0xA2BF_E8A1, 0xA81A_664B, 0xC24B_8B70, 0xC76C_51A3, 0xD192_E819, 0xD699_0624, 0xF40E_3585, 0x106A_A070,
    0x19A4_C116, 0x1E37_6C08, 0x2748_774C, 0x34B0_BCB5, 0x391C_0CB3, 0x4ED8_AA4A, 0x5B9C_CA4F, 0x682E_6FF3,
    0x748F_82EE, 0x78A5_636F, 0x84C8_7814, 0x8CC7_0208, 0x90BE_FFFA, 0xA450_6CEB, 0xBEF9_A3F7, 0xC671_78F2,
];

/// Holds the hash of some blocks.
#[derive(Clone, Debug)]
pub struct Sha256([u32; 8]);

impl Default for Sha256 {
    fn default() -> Self {
        Sha256(INITIAL)
    }
}

impl Sha256 {
    /// Adds whole blocks. Bytes after the last whole block are left out.
    pub fn add(&mut self, blocks: &[u8]) {
        blocks.as_chunks().0.iter().for_each(|block| self.add_block(block));
    }

    /// Adds the last bytes, whatever their number, and returns the hash. `length` is the number of
    /// all bytes that were hashed.
    #[must_use]
    pub fn finish(mut self, rest: &[u8], length: u64) -> [u8; 32] {
        let (blocks, rest) = rest.as_chunks::<BLOCK>();
        self.add(blocks.as_flattened());
        let mut last = [0; 2 * BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        last[rest.len()] = 0x80;
        // The length in bits takes the last eight bytes of a block.
        let end = if rest.len() < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        last[end - 8..end].copy_from_slice(&length.wrapping_mul(8).to_be_bytes());
        self.add(&last[..end]);
        let mut hash = [0; 32];
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(self.0) {
            *bytes = word.to_be_bytes();
        }
        hash
    }

    /// Adds a block (6.2.2).
    fn add_block(&mut self, block: &[u8; BLOCK]) {
        let mut schedule = [0_u32; 16];
        for (word, bytes) in schedule.iter_mut().zip(block.as_chunks().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = self.0;
        for (round, constant) in ROUND.into_iter().enumerate() {
            let word = schedule[round & 15];
            let choice = e & f ^ !e & g;
            let majority = a & b ^ a & c ^ b & c;
            let sum_e = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let sum_a = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let first = h.wrapping_add(sum_e).wrapping_add(choice).wrapping_add(constant).wrapping_add(word);
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b, a) = (c, b, a, first.wrapping_add(sum_a).wrapping_add(majority));
            // The word of sixteen rounds later.
            let (near, far) = (schedule[(round + 1) & 15], schedule[(round + 14) & 15]);
            let near = near.rotate_right(7) ^ near.rotate_right(18) ^ near >> 3;
            let far = far.rotate_right(17) ^ far.rotate_right(19) ^ far >> 10;
            let middle = schedule[(round + 9) & 15];
            schedule[round & 15] = word.wrapping_add(near).wrapping_add(middle).wrapping_add(far);
        }
        for (sum, word) in self.0.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *sum = sum.wrapping_add(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::Digest;

    fn hash(bytes: &[u8], first: usize) -> [u8; 32] {
        let mut hash = Sha256::default();
        let (first, rest) = bytes.split_at(first * BLOCK);
        hash.add(first);
        hash.finish(rest, bytes.len() as u64)
    }

    /// The example of FIPS 180-4 with one block, as NIST prints it.
    #[test]
    fn abc_has_the_hash_of_the_standard() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let found: String = hash(b"abc", 0).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_length_near_a_block_has_the_hash_of_another_implementation() {
        for length in 0..=3 * BLOCK {
            let bytes: Vec<u8> = (0..length).map(|at| at as u8 ^ 0xA5).collect();
            assert_eq!(hash(&bytes, 0)[..], sha2::Sha256::digest(&bytes)[..], "{length}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_bytes_are_cut(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 0_usize..32) {
            let cut = cut.min(bytes.len() / BLOCK);
            prop_assert_eq!(&hash(&bytes, cut)[..], &sha2::Sha256::digest(&bytes)[..]);
        }
    }
}
