//! The records of the tables: as they lie there, and as checked tables hand them out.

use super::field::{Field, Record};
use super::ids::{DomainSetId, GrantRuleId, MappingId, PortRuleId, Proven, QueueId, RegionId, ServiceId};
use super::{Access, AfterLimit, Isolation, RegionKind};
use crate::rights::{Kind, Rights};
use crate::weakness::Weaknesses;

/// A record of checked tables. Nothing outside of this crate can name this trait, so nothing
/// outside makes such a record from a raw one.
pub trait Entry: Sized {
    /// The record as it lies in the tables.
    type Raw: Record;
    /// Converts a record of checked tables.
    fn proven(raw: Self::Raw) -> Self;
}

/// A checked record that an id names.
pub trait Numbered: Entry {
    /// The id.
    type Id: Copy;
    /// Returns the id of the record at `index`, which is less than the length of its section.
    fn id(index: usize) -> Self::Id;
    /// Returns the index of a record.
    fn index(id: Self::Id) -> usize;
}

macro_rules! numbered {
    ($($record:ident by $id:ident from $raw:ty),*) => {$(
        impl Numbered for $record {
            type Id = $id;
            fn id(index: usize) -> $id {
                $id::proven(index as $raw)
            }
            fn index(id: $id) -> usize {
                id.index()
            }
        }
    )*};
}
numbered! {
    Service by ServiceId from u8, Region by RegionId from u16, Mapping by MappingId from u32, Queue by QueueId from u32,
    GrantRule by GrantRuleId from u32, PortRule by PortRuleId from u32, DomainSet by DomainSetId from u32
}

/// A name.
///
/// # Holding one proves
/// It is a part of the names of checked tables, and UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(raw::Name);

impl Name {
    /// Returns where the name lies.
    #[must_use]
    pub const fn raw(self) -> raw::Name {
        self.0
    }
}

impl Proven<raw::Name> for Name {
    fn proven(raw: raw::Name) -> Name {
        Name(raw)
    }
}

impl Proven<u8> for bool {
    fn proven(raw: u8) -> bool {
        raw == 1
    }
}

impl Field for raw::Name {
    const SIZE: usize = 8;
    fn put(&self, out: &mut [u8]) {
        self.offset.put(out);
        self.length.put(&mut out[4..]);
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        Some(raw::Name { offset: u32::get(bytes)?, length: u32::get(bytes.get(4..)?)? })
    }
}

macro_rules! raw_type {
    ($kind:ty) => {
        $kind
    };
    ($kind:ty, $raw:ty) => {
        $raw
    };
}

macro_rules! records {
    (
        checked { $(
            $(#[$doc:meta])*
            $name:ident { $($(#[$fdoc:meta])* $field:ident: $kind:ty $(as $raw:ty)?,)* }
        )* }
        raw { $(
            $(#[$rdoc:meta])*
            $rname:ident { $($(#[$rfdoc:meta])* $rfield:ident: $rkind:ty,)* }
        )* }
    ) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            pub struct $name { $($(#[$fdoc])* pub $field: $kind,)* }

            impl Entry for $name {
                type Raw = raw::$name;
                fn proven(raw: raw::$name) -> $name {
                    $name { $($field: Proven::proven(raw.$field),)* }
                }
            }
        )*

        /// The records as they lie in the tables. A number in one proves nothing.
        pub mod raw {
            use super::*;

            /// A name: a part of the names section.
            #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
            pub struct Name {
                /// Byte offset within the section.
                pub offset: u32,
                /// Length in bytes.
                pub length: u32,
            }

            $(record! { $(#[$doc])* $name { $($(#[$fdoc])* $field: raw_type!($kind $(, $raw)?),)* } })*
            $(record! { $(#[$rdoc])* $rname { $($(#[$rfdoc])* $rfield: $rkind,)* } })*
        }
    };
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

records! {
    checked {
        /// A service.
        Service {
            /// Its name in the policy.
            name: Name as raw::Name,
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
            /// The action at a fault past the limit.
            after_limit: AfterLimit,
        }
        /// A loadable part of a service's program.
        ///
        /// Text and read-only data are mapped from where they lie in the image. A writable segment
        /// is copied to pages of its own, so that the image keeps the original for a restart.
        Segment {
            /// The service.
            service: ServiceId as u8,
            /// Bits of [`segment_flag`](crate::tables::segment_flag). It is never writable and
            /// executable.
            flags: u8,
            /// Its page-aligned virtual address.
            address: u64,
            /// The page-aligned guest-physical address of its bytes in the image.
            image_address: u64,
            /// The number of its bytes in the image.
            file_size: u64,
            /// The number of its bytes in memory. Those beyond `file_size`, which only a writable
            /// segment has, are zero.
            memory_size: u64,
        }
        /// A region of memory.
        Region {
            /// Its name in the policy.
            name: Name as raw::Name,
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
            /// 1 or `true` if a restart of the only service that maps it clears it.
            clear_on_restart: bool as u8,
        }
        /// A region in a service's address space.
        Mapping {
            /// The service.
            service: ServiceId as u8,
            /// The service's access to it.
            access: Access,
            /// The region.
            region: RegionId as u16,
            /// Its page-aligned virtual address.
            address: u64,
        }
        /// A one-way queue.
        Queue {
            /// Its name in the policy.
            name: Name as raw::Name,
            /// The producing service.
            sender: ServiceId as u8,
            /// The consuming service.
            receiver: ServiceId as u8,
            /// The notification bit that tells the sender of free slots.
            sender_bit: u8,
            /// The notification bit that tells the receiver of messages.
            receiver_bit: u8,
            /// The size of a message in bytes.
            message_size: u16,
            /// The number of messages that it holds: a power of two.
            depth: u16,
            /// The region that only the sender writes.
            producer_region: RegionId as u16,
            /// The region that only the receiver writes.
            consumer_region: RegionId as u16,
        }
        /// A rule that allows granting pages of a region.
        ///
        /// Grant reference `first_ref + n` is used for page `n` of the region and for no other
        /// page.
        GrantRule {
            /// Its name in the policy.
            name: Name as raw::Name,
            /// The region.
            region: RegionId as u16,
            /// The peer's access to the pages.
            access: Access,
            /// The first grant reference of the rule.
            first_ref: u32,
            /// The number of pages that it covers, from the region's first.
            count: u32,
            /// The domains that it allows as the peer.
            peers: DomainSetId as u16,
        }
        /// A rule that allows a service one event channel.
        PortRule {
            /// Its name in the policy.
            name: Name as raw::Name,
            /// The service.
            service: ServiceId as u8,
            /// The notification bit that tells the service of events.
            bit: u8,
            /// The other end: 0 for the XenStore daemon, else the index of a domain set, plus 1.
            peer: PortPeer as u16,
        }
        /// A set of other domains: those of consecutive ids.
        DomainSet {
            /// Its name in the policy.
            name: Name as raw::Name,
            /// The lowest id.
            first: u16,
            /// The highest id.
            last: u16,
            /// 1 or `true` if only the domain is the peer that was pinned with
            /// [`DomainPin`](crate::abi::Operation::DomainPin).
            pinned: bool as u8,
        }
        /// What the policy demands of the processor.
        Image {
            /// How services are kept apart in the predictors.
            isolation: Isolation,
            /// The weaknesses with which the image does not boot, if nothing is done about them.
            refused: Weaknesses,
        }
    }
    raw {
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
            /// Index of the object in the section of its kind, or of the mapping for a region. 0
            /// for a kind that has only one object.
            object: u32,
            /// The line of the policy file that grants it.
            line: u32,
            /// Its name in the policy.
            name: raw::Name,
        }
    }
}

/// The other end of an event channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortPeer {
    /// The XenStore daemon. The toolstack made the channel (`HVM_PARAM_STORE_EVTCHN`).
    XenStore,
    /// One of these domains. The channel is made at the request of the service.
    Domains(DomainSetId),
}

impl Proven<u16> for PortPeer {
    fn proven(raw: u16) -> PortPeer {
        raw.checked_sub(1).map_or(PortPeer::XenStore, |set| PortPeer::Domains(Proven::proven(set)))
    }
}

/// A capability in a service's CSpace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// The service.
    pub service: ServiceId,
    /// Its slot, which is below [`MAX_SLOTS`](super::MAX_SLOTS).
    pub slot: u16,
    /// The operations that it allows.
    pub rights: Rights,
    /// Its object.
    pub object: Object,
    /// The line of the policy file that grants it.
    pub line: u32,
    /// Its name in the policy.
    pub name: Name,
}

/// The object of a capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Object {
    /// The guest console.
    Console,
    /// The clocks.
    Clock,
    /// The random number generator.
    Entropy,
    /// The power of the domain.
    Power,
    /// Information about the image.
    Info,
    /// The producing end of a queue.
    Sender(QueueId),
    /// The consuming end of a queue.
    Receiver(QueueId),
    /// An event channel.
    Port(PortRuleId),
    /// The pages of a grant rule.
    Grant(GrantRuleId),
    /// A mapped region.
    Region(MappingId),
    /// A set of domains, one of which is pinned at a time.
    Domain(DomainSetId),
}

impl Object {
    /// Returns the kind of the object.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Object::Console => Kind::Console,
            Object::Clock => Kind::Clock,
            Object::Entropy => Kind::Entropy,
            Object::Power => Kind::Power,
            Object::Info => Kind::Info,
            Object::Sender(_) => Kind::Sender,
            Object::Receiver(_) => Kind::Receiver,
            Object::Port(_) => Kind::Port,
            Object::Grant(_) => Kind::Grant,
            Object::Region(_) => Kind::Region,
            Object::Domain(_) => Kind::Domain,
        }
    }
}

impl Capability {
    /// Returns the kind of its object.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.object.kind()
    }
}

impl Entry for Capability {
    type Raw = raw::Capability;
    fn proven(raw: raw::Capability) -> Capability {
        let object = match raw.kind {
            Kind::Console => Object::Console,
            Kind::Clock => Object::Clock,
            Kind::Entropy => Object::Entropy,
            Kind::Power => Object::Power,
            Kind::Info => Object::Info,
            Kind::Sender => Object::Sender(Proven::proven(raw.object)),
            Kind::Receiver => Object::Receiver(Proven::proven(raw.object)),
            Kind::Port => Object::Port(Proven::proven(raw.object)),
            Kind::Grant => Object::Grant(Proven::proven(raw.object)),
            Kind::Region => Object::Region(Proven::proven(raw.object)),
            Kind::Domain => Object::Domain(Proven::proven(raw.object)),
        };
        let raw::Capability { service, slot, rights, line, name, .. } = raw;
        Capability { service: Proven::proven(service), slot, rights, object, line, name: Proven::proven(name) }
    }
}
