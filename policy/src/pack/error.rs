//! Why an image could not be packed.

use cloister_caps::tables::TableError;

use crate::image_form::WriteError;

/// The symbol of the kernel for address and length of the tables, each a `u64`.
pub(super) const TABLES_SYMBOL: &str = "CLOISTER_TABLES";

/// The reason why an image could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A file is not a 64-bit little-endian ELF file, or is damaged.
    #[error("{program}: not an ELF file that can be read: {reason}")]
    NotElf {
        /// The service, or the kernel.
        program: String,
        /// The reader's error.
        reason: String,
    },
    /// A file is for another processor.
    #[error("{program}: not for x86-64; build it for x86_64-unknown-none")]
    WrongMachine {
        /// The service, or the kernel.
        program: String,
    },
    /// A file needs a dynamic linker, or has no fixed address.
    #[error("{program}: not linked at a fixed address; build it with -C relocation-model=static")]
    NotStatic {
        /// The service, or the kernel.
        program: String,
    },
    /// A file has thread-local data, for which services have no support.
    #[error("{program}: has thread-local data, which services cannot have")]
    ThreadLocal {
        /// The service, or the kernel.
        program: String,
    },
    /// A segment ends beyond the file or the address space.
    #[error("{program}: the segment at {address:#x} does not fit the file or the address space")]
    Segment {
        /// The service, or the kernel.
        program: String,
        /// The segment's virtual address.
        address: u64,
    },
    /// A segment is writable and executable.
    #[error("{program}: the segment at {address:#x} is writable and executable")]
    WritableAndExecutable {
        /// The service, or the kernel.
        program: String,
        /// The segment's virtual address.
        address: u64,
    },
    /// The entry point is not in an executable segment.
    #[error("{program}: the entry point {entry:#x} is in no executable segment")]
    Entry {
        /// The service, or the kernel.
        program: String,
        /// The entry point.
        entry: u64,
    },
    /// A segment does not start at a page.
    #[error("{program}: the segment at {address:#x} does not start at a page")]
    Unaligned {
        /// The service.
        program: String,
        /// The segment's virtual address.
        address: u64,
    },
    /// Two segments share a page.
    #[error("{program}: the segment at {address:#x} shares a page with another")]
    Overlap {
        /// The service, or the kernel.
        program: String,
        /// The segment's virtual address.
        address: u64,
    },
    /// There are pages between two segments of the kernel.
    #[error("kernel: the segment at {address:#x} does not begin with the page after the one before it")]
    Apart {
        /// The segment's virtual address.
        address: u64,
    },
    /// A segment of the kernel has memory without bytes of the file, and is not data up to the end
    /// of a page.
    #[error("kernel: the segment at {address:#x} is longer in memory, and is not data that ends with a page")]
    NotWhole {
        /// The segment's virtual address.
        address: u64,
    },
    /// A segment lies outside the addresses that the service's program has.
    #[error(
        "{program}: the segment at {address:#x} is outside {first:#x} to {last:#x}; link it with --defsym=IMAGE_BASE={first:#x}"
    )]
    OutsideRoom {
        /// The service.
        program: String,
        /// The segment's virtual address.
        address: u64,
        /// The lowest address of the service's program.
        first: u64,
        /// The highest.
        last: u64,
    },
    /// A program has no loadable segment.
    #[error("{program}: has no loadable segment")]
    Empty {
        /// The service, or the kernel.
        program: String,
    },
    /// The policy names a service whose program was not given.
    #[error("the program of service `{0}` is missing")]
    MissingProgram(String),
    /// A program was given for no service of the policy, or twice.
    #[error("a program was given for `{0}`, which the policy does not name, or was given before")]
    StrayProgram(String),
    /// The kernel lacks the note that makes Xen start it.
    #[error("kernel: has no PVH entry note (owner Xen, type 18)")]
    NoPvhNote,
    /// The kernel's note segment has more than the PVH note, or no segment loads it.
    #[error("kernel: its note segment must be the PVH entry note alone, in the bytes of a loadable segment")]
    Note,
    /// The policy pins a program to another hash.
    #[error(
        "the policy pins the program of {service} to {wanted}, and it has {found}: build that program, or change `program-sha256`"
    )]
    Pinned {
        /// The service.
        service: String,
        /// The hash in the policy.
        wanted: String,
        /// The hash of the program.
        found: String,
    },
    /// The image would be larger than any that is verified.
    #[error("the image has {found} {what}; at most {most} are verified")]
    OverLimit {
        /// The unit that is counted.
        what: &'static str,
        /// The amount.
        found: u64,
        /// The limit.
        most: u64,
    },
    /// The kernel has no symbol for the tables' address.
    #[error("kernel: has no symbol {TABLES_SYMBOL}; is it stripped?")]
    NoTablesSymbol,
    /// The symbol for the tables' address is not in the kernel's read-only data.
    #[error("kernel: {TABLES_SYMBOL} is not sixteen zero bytes in a read-only segment")]
    TablesSymbolPlace,
    /// The image would end beyond the addresses at which the kernel accepts tables.
    #[error("the image reaches guest-physical address {0:#x}; it must end below 1 GiB")]
    TooLarge(u64),
    /// The kernel would refuse the tables.
    #[error("the kernel would refuse the tables: {0}")]
    Tables(TableError),
    /// The ELF writer refuses the content.
    #[error("the image cannot be written: {0}")]
    Write(String),
}

impl From<WriteError> for PackError {
    fn from(WriteError(reason): WriteError) -> Self {
        PackError::Write(reason)
    }
}
