//! The fields of records as bytes.

use super::ids::Proven;
use crate::rights::{Kind, Rights};
use crate::weakness::Weaknesses;

/// A fixed-size record of the tables.
pub trait Record: Sized {
    /// The size of the record in bytes.
    const SIZE: usize;
    /// Writes the record into the first [`Self::SIZE`] bytes of `out`, which has at least that
    /// many.
    fn encode(&self, out: &mut [u8]);
    /// Reads a record from the first [`Self::SIZE`] bytes of `bytes`. Returns `None` if they are
    /// fewer, or if a field has an unknown value.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// A field of a record.
pub trait Field: Sized {
    /// The size of the field in bytes.
    const SIZE: usize;
    /// Writes the field into the first bytes of `out`.
    fn put(&self, out: &mut [u8]);
    /// Reads the field from the first bytes of `bytes`. Returns `None` if it has an unknown value.
    fn get(bytes: &[u8]) -> Option<Self>;
}

macro_rules! integer_field {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            const SIZE: usize = size_of::<$integer>();
            fn put(&self, out: &mut [u8]) {
                out[..Self::SIZE].copy_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Option<Self> {
                Some(<$integer>::from_le_bytes(bytes.get(..Self::SIZE)?.try_into().ok()?))
            }
        }
        impl Proven<$integer> for $integer {
            fn proven(raw: $integer) -> $integer {
                raw
            }
        }
    )*};
}
integer_field!(u8, u16, u32, u64);

impl Field for Rights {
    const SIZE: usize = 4;
    fn put(&self, out: &mut [u8]) {
        self.bits().put(out);
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        Rights::from_bits(u32::get(bytes)?)
    }
}

impl Field for Weaknesses {
    const SIZE: usize = 2;
    fn put(&self, out: &mut [u8]) {
        self.bits().put(out);
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        Weaknesses::from_bits(u16::get(bytes)?)
    }
}

impl Proven<Weaknesses> for Weaknesses {
    fn proven(raw: Weaknesses) -> Weaknesses {
        raw
    }
}

impl Field for Kind {
    const SIZE: usize = 1;
    fn put(&self, out: &mut [u8]) {
        (*self as u8).put(out);
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        Kind::from_number(u8::get(bytes)?)
    }
}

impl Proven<Rights> for Rights {
    fn proven(raw: Rights) -> Rights {
        raw
    }
}
