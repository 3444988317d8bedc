//! The layout of the capability tables: what the policy compiler emits and what the kernel reads.
//!
//! All integers are little endian. A [`Header`] is followed by sections of fixed-size records, then by
//! the bytes of names and of the canonical policy text. Nothing in the tables is trusted to be in range:
//! [`Tables::parse`] checks every reference once, and a value of that type proves that it did.

use crate::rights::{Kind, Rights};

/// The first eight bytes of the tables.
pub const MAGIC: [u8; 8] = *b"CLOISTER";
/// The version of the layout. A kernel reads exactly its own.
pub const VERSION: u32 = 1;
/// The most services an image may have.
pub const MAX_SERVICES: usize = 16;
/// The most slots of a service's CSpace.
pub const MAX_SLOTS: usize = 64;
/// The most regions an image may have.
pub const MAX_REGIONS: usize = 96;
/// The most one-way queues an image may have.
pub const MAX_QUEUES: usize = 48;
/// The most grant rules an image may have.
pub const MAX_GRANT_RULES: usize = 16;
/// The most event-channel rules an image may have.
pub const MAX_PORT_RULES: usize = 16;
/// The first grant reference that is ours: the toolstack keeps 0 to 7 (`GNTTAB_NR_RESERVED_ENTRIES`).
pub const FIRST_GRANT_REF: u32 = 8;
/// The most grant references over all rules: eight frames of 512 version-1 entries.
pub const MAX_GRANT_REFS: u32 = 8 * 512;
/// Notification bits that a service has; bit 63 is the kernel's own.
pub const MAX_NOTIFICATION_BIT: u8 = 62;

/// Why the tables were refused. The kernel prints it and stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// Shorter than the header, or than the length that the header states.
    Truncated,
    /// The magic number is another one.
    NotTables,
    /// The layout's version is another one.
    Version(u32),
    /// A section reaches past the end, or holds more than the kernel has room for.
    Section(&'static str),
    /// A record of the named section has a field out of range.
    Record(&'static str, u32),
}

impl core::fmt::Display for TableError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            TableError::Truncated => write!(f, "the capability tables are cut short"),
            TableError::NotTables => write!(f, "these are not capability tables"),
            TableError::Version(found) => {
                write!(f, "capability tables of version {found}; this kernel reads {VERSION}")
            }
            TableError::Section(name) => write!(f, "the section of {name} does not fit"),
            TableError::Record(name, index) => write!(f, "{name} record {index} is out of range"),
        }
    }
}

/// A piece of the names section.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Name {
    /// Byte offset within the names.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
}

/// A fixed-size record of the tables.
pub trait Record: Sized {
    /// Size in bytes.
    const SIZE: usize;
    /// Writes the record into the first [`Self::SIZE`] bytes of `out`, which has at least that many.
    fn encode(&self, out: &mut [u8]);
    /// Reads a record from the first [`Self::SIZE`] bytes; `None` if a field has no meaning.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

trait Field: Sized {
    const SIZE: usize;
    fn put(&self, out: &mut [u8]);
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
    )*};
}
integer_field!(u8, u16, u32, u64);

impl Field for Name {
    const SIZE: usize = 8;
    fn put(&self, out: &mut [u8]) {
        self.offset.put(out);
        self.length.put(&mut out[4..]);
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        Some(Name { offset: u32::get(bytes)?, length: u32::get(bytes.get(4..)?)? })
    }
}

impl Field for Rights {
    const SIZE: usize = 4;
    fn put(&self, out: &mut [u8]) {
        self.bits().put(out);
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        Rights::from_bits(u32::get(bytes)?)
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

macro_rules! enum_field {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)* }
        impl Field for $name {
            const SIZE: usize = 1;
            fn put(&self, out: &mut [u8]) {
                (*self as u8).put(out);
            }
            fn get(bytes: &[u8]) -> Option<Self> {
                match u8::get(bytes)? {
                    $($number => Some($name::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

enum_field! {
    /// What happens when a service has used up its restarts.
    AfterLimit {
        /// The image stops with a crash code.
        StopImage = 0,
        /// The service stays stopped; the others go on.
        StopService = 1,
    }
}
enum_field! {
    /// Where a region's memory comes from.
    RegionKind {
        /// A fixed number of zeroed pages.
        Fixed = 1,
        /// A share of the RAM that no fixed region takes.
        Share = 2,
        /// The guest's first boot module (`ramdisk=`), read-only; empty if there is none.
        Module = 3,
        /// One page with the guest's command line, NUL-terminated, read-only.
        CommandLine = 4,
        /// The XenStore ring page that Xen names in `HVM_PARAM_STORE_PFN`.
        XenStoreRing = 5,
        /// Read-only bytes that the policy compiler put into the image.
        ImageData = 6,
    }
}
enum_field! {
    /// How a service maps a region. Never executable.
    Access {
        /// Read only.
        Read = 1,
        /// Read and write.
        ReadWrite = 3,
    }
}
enum_field! {
    /// What an event-channel rule is to.
    PortKind {
        /// Allocated unbound, for a peer domain to bind.
        Peer = 0,
        /// The XenStore channel that the toolstack made (`HVM_PARAM_STORE_EVTCHN`).
        XenStore = 1,
    }
}

macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$fdoc])* pub $field: $kind,)* }
        impl Record for $name {
            const SIZE: usize = 0 $(+ <$kind as Field>::SIZE)*;
            fn encode(&self, out: &mut [u8]) {
                let mut at = 0;
                $(self.$field.put(&mut out[at..]); at += <$kind as Field>::SIZE;)*
                let _ = at;
            }
            fn decode(bytes: &[u8]) -> Option<Self> {
                let mut at = 0;
                $(let $field = <$kind as Field>::get(bytes.get(at..)?)?; at += <$kind as Field>::SIZE;)*
                let _ = at;
                Some($name { $($field,)* })
            }
        }
    };
}

record! {
    /// A service.
    Service {
        /// Its name in the policy.
        name: Name,
        /// Virtual address at which it starts.
        entry: u64,
        /// Virtual address of the end of its stack.
        stack_top: u64,
        /// CPU time it may use in each period, in µs.
        budget_us: u32,
        /// The period, in µs.
        period_us: u32,
        /// How many times it may be restarted after a fault, in the life of the image.
        restart_limit: u16,
        /// Larger runs first.
        priority: u8,
        /// What happens past the limit.
        after_limit: AfterLimit,
    }
}
record! {
    /// A loadable part of a service's program. Text and read-only data are mapped where the image holds
    /// them; a writable segment is copied to fresh pages, so that the image keeps it pristine.
    Segment {
        /// Index of the service.
        service: u8,
        /// Bit 0 readable, bit 1 writable, bit 2 executable; never both of the last two.
        flags: u8,
        /// Page-aligned virtual address.
        address: u64,
        /// Page-aligned guest-physical address of its bytes in the image.
        image: u64,
        /// Bytes in the image.
        file_size: u64,
        /// Bytes in memory; the rest is zero.
        memory_size: u64,
    }
}
record! {
    /// A region of memory.
    Region {
        /// Its name in the policy.
        name: Name,
        /// Guest-physical address of image data, else 0.
        image: u64,
        /// Bytes of image data, else 0.
        image_length: u64,
        /// Pages, for a fixed region; the weight, for a share.
        amount: u32,
        /// The fewest pages of a share.
        minimum: u32,
        /// The most pages of a share.
        maximum: u32,
        /// Where its memory comes from.
        kind: RegionKind,
        /// 1 if a restart of its one owner empties it.
        reset: u8,
    }
}
record! {
    /// A region in a service's address space.
    Mapping {
        /// Index of the service.
        service: u8,
        /// How.
        access: Access,
        /// Index of the region.
        region: u16,
        /// Page-aligned virtual address.
        address: u64,
    }
}
record! {
    /// A capability in a service's CSpace.
    Capability {
        /// Index of the service.
        service: u8,
        /// What it is to.
        kind: Kind,
        /// Its slot.
        slot: u16,
        /// What it allows.
        rights: Rights,
        /// Index of the object in the section of its kind (for a region, of the mapping); 0 where a kind has one
        /// object only.
        object: u32,
        /// The line of the policy file that grants it.
        line: u32,
        /// Its name in the policy.
        name: Name,
    }
}
record! {
    /// A one-way queue.
    Queue {
        /// Its name in the policy.
        name: Name,
        /// Index of the producing service.
        sender: u8,
        /// Index of the consuming service.
        receiver: u8,
        /// Notification bit by which the sender learns of space.
        sender_bit: u8,
        /// Notification bit by which the receiver learns of messages.
        receiver_bit: u8,
        /// Bytes of a message.
        message_size: u16,
        /// Messages it holds; a power of two.
        depth: u16,
        /// Index of the region that the sender alone writes.
        producer_region: u16,
        /// Index of the region that the receiver alone writes.
        consumer_region: u16,
    }
}
record! {
    /// A rule under which pages may be granted. Reference `first_ref + n` only ever names page `n` of the region.
    GrantRule {
        /// Its name in the policy.
        name: Name,
        /// Index of the region.
        region: u16,
        /// Whether the peer may write.
        access: Access,
        /// The first grant reference of the rule.
        first_ref: u32,
        /// Pages it covers, from the region's first.
        count: u32,
        /// The lowest domain id it allows as peer.
        peer_first: u16,
        /// The highest domain id it allows as peer.
        peer_last: u16,
    }
}
record! {
    /// An event channel that a service may have.
    PortRule {
        /// Its name in the policy.
        name: Name,
        /// Index of the service.
        service: u8,
        /// Notification bit by which the service learns of events.
        bit: u8,
        /// What it is to.
        kind: PortKind,
        /// The lowest domain id it allows as peer.
        peer_first: u16,
        /// The highest domain id it allows as peer.
        peer_last: u16,
    }
}

/// The sections, in the order in which the header lists them.
pub const SECTIONS: [&str; 10] = [
    "services",
    "segments",
    "regions",
    "mappings",
    "capabilities",
    "queues",
    "grants",
    "ports",
    "names",
    "policy text",
];
/// Bytes of the header: magic, version, length, hash, and (offset, count) of each section.
pub const HEADER_SIZE: usize = 8 + 4 + 4 + 32 + SECTIONS.len() * 8;

mod view;
pub use view::{Records, Tables};
