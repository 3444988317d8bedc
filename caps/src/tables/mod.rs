//! The layout of the capability tables: what the policy compiler emits and the kernel reads.
//!
//! All integers are little endian. A header of [`HEADER_SIZE`] bytes comes first. Then follow the
//! sections of fixed-size records, the bytes of all names, and the canonical policy text. Nothing
//! in the tables is trusted to be in range: [`Tables::parse`] checks every field once, and a value
//! of that type proves it.

use crate::rights::{Kind, Rights};

/// The first eight bytes of the tables.
pub const MAGIC: [u8; 8] = *b"CLOISTER";
/// The version of the layout. A kernel accepts only its own.
pub const VERSION: u32 = 1;
/// The largest number of services in an image.
pub const MAX_SERVICES: usize = 16;
/// The number of slots in a service's CSpace.
pub const MAX_SLOTS: usize = 64;
/// The largest number of regions in an image.
pub const MAX_REGIONS: usize = 96;
/// The largest number of one-way queues in an image.
pub const MAX_QUEUES: usize = 48;
/// The largest number of grant rules in an image.
pub const MAX_GRANT_RULES: usize = 16;
/// The largest number of event-channel rules in an image.
pub const MAX_PORT_RULES: usize = 16;
/// The first grant reference that the image uses: 0 to 7 are the toolstack's
/// (`GNTTAB_NR_RESERVED_ENTRIES`, `grant_table.h`).
pub const FIRST_GRANT_REF: u32 = 8;
/// The size of the grant table in entries: eight frames of 512 version-1 entries. Every grant
/// reference of every rule is below it.
pub const MAX_GRANT_REFS: u32 = 8 * 512;
/// The longest name in bytes. The kernel writes some into one line of the log.
pub const MAX_NAME: u32 = 96;
/// The highest notification bit of a service. Bit 63 is the kernel's own.
pub const MAX_NOTIFICATION_BIT: u8 = 62;

/// The reason why tables were refused. The kernel prints it and stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// The bytes are fewer than the header, or than the length in the header.
    Truncated,
    /// The bytes do not start with [`MAGIC`].
    NotTables,
    /// The layout has this version, not [`VERSION`].
    Version(u32),
    /// The named section exceeds the tables, or holds more records than the kernel has room for.
    Section(&'static str),
    /// A record of the named kind, at this index, has a field out of range.
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

/// A name: a part of the names section.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Name {
    /// Byte offset within the section.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
}

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
    /// What happens when a service faults and has no restarts left.
    AfterLimit {
        /// The image stops with a crash code.
        StopImage = 0,
        /// The service stays stopped; the others continue.
        StopService = 1,
    }
}
enum_field! {
    /// The source of a region's memory.
    RegionKind {
        /// A fixed number of zeroed pages.
        Fixed = 1,
        /// A share of the RAM that is left after the fixed regions.
        Share = 2,
        /// The guest's first boot module (`ramdisk=`), read-only. Empty if there is none.
        Module = 3,
        /// One page with the guest's command line, NUL-terminated, read-only.
        CommandLine = 4,
        /// The XenStore ring page that Xen names in `HVM_PARAM_STORE_PFN`.
        XenStoreRing = 5,
        /// Bytes that the policy compiler put into the image, read-only.
        ImageData = 6,
    }
}
enum_field! {
    /// How memory may be accessed. A region is never executable.
    Access {
        /// Read-only.
        Read = 1,
        /// Read and write.
        ReadWrite = 3,
    }
}
enum_field! {
    /// What is at the other end of an event channel.
    PortKind {
        /// A peer domain, for which the channel is allocated unbound.
        Peer = 0,
        /// The XenStore daemon. The toolstack made the channel (`HVM_PARAM_STORE_EVTCHN`).
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
        /// The virtual address of its first instruction.
        entry: u64,
        /// The virtual address of the end of its stack, where the stack pointer starts.
        stack_top: u64,
        /// The CPU time that it may use in each period, in µs.
        budget_us: u32,
        /// The period, in µs.
        period_us: u32,
        /// The largest number of restarts after a fault while the image runs.
        restart_limit: u16,
        /// Its priority. A service of a larger one runs first.
        priority: u8,
        /// What happens at a fault past the limit.
        after_limit: AfterLimit,
    }
}
record! {
    /// A loadable part of a service's program.
    ///
    /// Text and read-only data are mapped from where they lie in the image. A writable segment is
    /// copied to pages of its own, so that the image keeps the original for a restart.
    Segment {
        /// Index of the service.
        service: u8,
        /// Bit 0: readable. Bit 1: writable. Bit 2: executable. Never both of bits 1 and 2.
        flags: u8,
        /// Its page-aligned virtual address.
        address: u64,
        /// The page-aligned guest-physical address of its bytes in the image.
        image_address: u64,
        /// The number of its bytes in the image.
        file_size: u64,
        /// The number of its bytes in memory. Those beyond `file_size` are zero.
        memory_size: u64,
    }
}
record! {
    /// A region of memory.
    Region {
        /// Its name in the policy.
        name: Name,
        /// The guest-physical address of image data; 0 for other kinds.
        image_address: u64,
        /// The number of bytes of image data; 0 for other kinds.
        image_length: u64,
        /// The number of pages of a fixed region, or the weight of a share.
        amount: u32,
        /// The smallest number of pages of a share.
        minimum: u32,
        /// The largest number of pages of a share.
        maximum: u32,
        /// The source of its memory.
        kind: RegionKind,
        /// 1 if a restart of the only service that maps it clears it, else 0.
        clear_on_restart: u8,
    }
}
record! {
    /// A region in a service's address space.
    Mapping {
        /// Index of the service.
        service: u8,
        /// How the service may access it.
        access: Access,
        /// Index of the region.
        region: u16,
        /// Its page-aligned virtual address.
        address: u64,
    }
}
record! {
    /// A capability in a service's CSpace.
    Capability {
        /// Index of the service.
        service: u8,
        /// The kind of its object.
        kind: Kind,
        /// Its slot.
        slot: u16,
        /// The operations that it allows.
        rights: Rights,
        /// Index of the object in the section of its kind, or of the mapping for a region. 0 for a
        /// kind that has only one object.
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
        /// The notification bit that tells the sender of free slots.
        sender_bit: u8,
        /// The notification bit that tells the receiver of messages.
        receiver_bit: u8,
        /// The size of a message in bytes.
        message_size: u16,
        /// The number of messages that it holds: a power of two.
        depth: u16,
        /// Index of the region that only the sender writes.
        producer_region: u16,
        /// Index of the region that only the receiver writes.
        consumer_region: u16,
    }
}
record! {
    /// A rule that allows granting pages of a region.
    ///
    /// Grant reference `first_ref + n` is used for page `n` of the region and for no other page.
    GrantRule {
        /// Its name in the policy.
        name: Name,
        /// Index of the region.
        region: u16,
        /// How the peer may access the pages.
        access: Access,
        /// The first grant reference of the rule.
        first_ref: u32,
        /// The number of pages that it covers, from the region's first.
        count: u32,
        /// The lowest domain id that it allows as the peer.
        peer_first: u16,
        /// The highest domain id that it allows as the peer.
        peer_last: u16,
    }
}
record! {
    /// A rule that allows a service one event channel.
    PortRule {
        /// Its name in the policy.
        name: Name,
        /// Index of the service.
        service: u8,
        /// The notification bit that tells the service of events.
        bit: u8,
        /// What is at the other end.
        kind: PortKind,
        /// The lowest domain id that it allows as the peer.
        peer_first: u16,
        /// The highest domain id that it allows as the peer.
        peer_last: u16,
    }
}

/// A section of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    /// The services.
    Services,
    /// The loadable segments of all services.
    Segments,
    /// The regions.
    Regions,
    /// The mappings of all services.
    Mappings,
    /// The capabilities of all services.
    Capabilities,
    /// The one-way queues.
    Queues,
    /// The grant rules.
    Grants,
    /// The event-channel rules.
    Ports,
    /// The text that every [`Name`] is a part of.
    Names,
    /// The canonical policy.
    PolicyText,
}

/// Name and size of a record in bytes, of each section in the order of [`Section`]. The records of
/// a text are its bytes.
const SECTIONS: [(&str, usize); 10] = [
    ("services", Service::SIZE),
    ("segments", Segment::SIZE),
    ("regions", Region::SIZE),
    ("mappings", Mapping::SIZE),
    ("capabilities", Capability::SIZE),
    ("queues", Queue::SIZE),
    ("grants", GrantRule::SIZE),
    ("ports", PortRule::SIZE),
    ("names", 1),
    ("policy text", 1),
];

impl Section {
    /// All sections, in the order of the header.
    pub const ALL: [Section; SECTIONS.len()] = [
        Section::Services,
        Section::Segments,
        Section::Regions,
        Section::Mappings,
        Section::Capabilities,
        Section::Queues,
        Section::Grants,
        Section::Ports,
        Section::Names,
        Section::PolicyText,
    ];

    /// Returns the name of the section in errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        SECTIONS[self as usize].0
    }

    /// Returns the size of one record of the section, in bytes.
    #[must_use]
    pub const fn record_size(self) -> usize {
        SECTIONS[self as usize].1
    }
}

/// The size of the header in bytes: magic, version, length, hash, and (offset, count) of each
/// section.
pub const HEADER_SIZE: usize = 8 + 4 + 4 + 32 + SECTIONS.len() * 8;

mod view;
pub use view::{Records, Tables};
