//! The limits of the tables: the largest number of each kind of record.

/// The largest number of services in an image.
pub const MAX_SERVICES: usize = 16;
/// The number of slots in a service's CSpace.
pub const MAX_SLOTS: usize = 64;
/// The largest number of regions in an image.
pub const MAX_REGIONS: usize = 96;
/// The largest number of mappings in an image: each service maps a region at most once.
pub const MAX_MAPPINGS: usize = MAX_SERVICES * MAX_REGIONS;
/// The largest number of one-way queues in an image.
pub const MAX_QUEUES: usize = 48;
/// The largest number of grant rules in an image.
pub const MAX_GRANT_RULES: usize = 16;
/// The largest number of event-channel rules in an image.
pub const MAX_PORT_RULES: usize = 16;
/// The largest number of sets of other domains: each is the peer of a grant or event-channel rule.
pub const MAX_DOMAIN_SETS: usize = MAX_GRANT_RULES + MAX_PORT_RULES;
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
