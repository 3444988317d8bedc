//! The limits of an image that is packed or verified.
//!
//! They bound the time and memory that the verifier needs for any file. Each is many times larger
//! than a real image needs, and the packer makes no image that exceeds one.

use cloister_caps::tables::{MAX_REGIONS, MAX_SERVICES};

/// The size of the largest image that is verified, in bytes.
pub const MAX_IMAGE: u64 = 256 << 20;
/// Bytes of a lock file.
pub const MAX_LOCK: u64 = 2 << 20;
/// The largest number of segments of an image: some of the kernel, the tables, three of each
/// service, data for regions.
pub(crate) const MAX_LOADS: usize = 8 + 1 + 3 * MAX_SERVICES + MAX_REGIONS;
/// The largest number of sections of an image: the null section, the attached ones, the names.
pub(crate) const MAX_SECTIONS: usize = 5;
/// Bytes of the names of these sections.
pub(crate) const MAX_SECTION_NAMES: usize = 64;
/// Bytes of the capability tables.
pub(crate) const MAX_TABLES: u64 = 1 << 20;
/// Bytes of a policy, embedded or in a file. A parsed policy takes more than a hundred times its
/// size.
pub(crate) const MAX_POLICY: u64 = 256 << 10;
/// Bytes of a name in the tables. The longest is that of a queue's region.
pub(crate) const MAX_NAME: usize = 96;
/// Bytes of executable segments: each byte of a service's is decoded.
pub(crate) const MAX_TEXT: u64 = 32 << 20;
/// Bytes of an inventory, not compressed.
pub(crate) const MAX_INVENTORY: u64 = 4 << 20;
/// Entries of an inventory.
pub(crate) const MAX_ENTRIES: usize = 65_536;
/// Bytes of a name or version in an inventory.
pub(crate) const MAX_WORD: usize = 128;
/// The number of errors of one program after which its code is no longer read.
pub(crate) const MAX_ERRORS: usize = 200;
/// The largest number of instructions that are listed although they are not refused. The others
/// are counted.
pub(crate) const MAX_HITS: usize = 16_384;
/// Bytes of the names of a program's symbols. A name counts each time that it is read or demangled.
pub(crate) const MAX_SYMBOL_NAMES: usize = 64 << 20;
