//! The layout of the capability tables: what the policy compiler emits and the kernel reads.
//!
//! All integers are little endian. A header of [`HEADER_SIZE`] bytes comes first. Then follow the
//! sections: fixed-size records, the bytes of all names, and the canonical policy text. Nothing
//! in the tables is trusted to be in range: [`Tables::parse`] checks every field once, and a value
//! of that type proves it.
//!
//! There are two forms of a record. One of [`raw`] is what lies in the tables: the compiler writes
//! it, and its numbers prove nothing. The other is what checked tables hand out: its ids name what
//! is there.

mod field;
mod ids;
mod limits;
mod records;
mod view;

use field::Field;
use ids::Proven;

pub use field::Record;
pub use ids::{
    DomainSetId, GrantRuleId, MappingId, PerDomainSet, PerPortRule, PerRegion, PerService, PortRuleId, PortRuleSet,
    QueueId, RegionId, ServiceId,
};
pub use limits::{
    FIRST_GRANT_REF, MAX_DOMAIN_SETS, MAX_GRANT_REFS, MAX_GRANT_RULES, MAX_MAPPINGS, MAX_NAME, MAX_NOTIFICATION_BIT,
    MAX_PORT_RULES, MAX_QUEUES, MAX_REGIONS, MAX_SERVICES, MAX_SLOTS,
};
pub use records::{
    Capability, DomainSet, GrantRule, Image, Mapping, Name, Object, PortPeer, PortRule, Queue, Region, Segment,
    Service, raw,
};
pub use view::{RawRecords, Records, Tables};

/// The bits of a segment's flags.
pub mod segment_flag {
    /// The service can read the segment.
    pub const READABLE: u8 = 1;
    /// The service can write the segment: it has a copy of its own.
    pub const WRITABLE: u8 = 2;
    /// The service can execute the segment.
    pub const EXECUTABLE: u8 = 4;
}

/// The first eight bytes of the tables.
pub const MAGIC: [u8; 8] = *b"CLOISTER";
/// The version of the layout. A kernel accepts only its own.
pub const VERSION: u32 = 2;
/// The reason why tables were refused. The kernel prints it and stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// The bytes are fewer than the header, or than the length in the header.
    Truncated,
    /// The bytes do not start with [`MAGIC`].
    NotTables,
    /// The layout has this version, not [`VERSION`].
    Version(u32),
    /// The named section exceeds the tables, holds more records than the kernel has room for, or is
    /// not UTF-8.
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
            TableError::Section(name) => write!(f, "the section of {name} does not fit, or is not text"),
            TableError::Record(name, index) => write!(f, "{name} record {index} is out of range"),
        }
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
        impl Proven<$name> for $name {
            fn proven(raw: $name) -> $name {
                raw
            }
        }
    };
}

enum_field! {
    /// The action when a service faults and has no restarts left.
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
    /// The access to memory. A region is never executable.
    Access {
        /// Read-only.
        Read = 1,
        /// Read and write.
        ReadWrite = 3,
    }
}
enum_field! {
    /// How the predictors of the processor are treated when another service runs.
    Isolation {
        /// As the processor leaves them.
        Standard = 0,
        /// The predictions of branches and returns are flushed. An image does not boot where the
        /// processor cannot do that.
        Strict = 1,
    }
}

impl Isolation {
    /// Returns the word for it, in the policy language and on the console.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Isolation::Standard => "standard",
            Isolation::Strict => "strict",
        }
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
    /// The sets of other domains.
    Domains,
    /// The text that every [`Name`] is a part of.
    Names,
    /// The canonical policy.
    PolicyText,
    /// What the policy demands of the processor: one record.
    Image,
}

/// Name and size of a record in bytes, of each section in the order of [`Section`]. The records of
/// a text are its bytes.
const SECTIONS: [(&str, usize); 12] = [
    ("services", raw::Service::SIZE),
    ("segments", raw::Segment::SIZE),
    ("regions", raw::Region::SIZE),
    ("mappings", raw::Mapping::SIZE),
    ("capabilities", raw::Capability::SIZE),
    ("queues", raw::Queue::SIZE),
    ("grants", raw::GrantRule::SIZE),
    ("ports", raw::PortRule::SIZE),
    ("domains", raw::DomainSet::SIZE),
    ("names", 1),
    ("policy text", 1),
    ("image", raw::Image::SIZE),
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
        Section::Domains,
        Section::Names,
        Section::PolicyText,
        Section::Image,
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
