//! Identifiers. Each is a type of its own, so that a port cannot be passed as a grant reference.

use core::fmt;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

identifier! {
    /// The id of a Xen domain (`domid_t`, `xen.h`). Ids of real domains are below
    /// [`DomId::FIRST_RESERVED`].
    DomId(u16), "dom"
}
identifier! {
    /// A grant reference (`grant_ref_t`, `grant_table.h`): an index into this domain's grant table.
    /// A bare number: that a page is granted under it, only the kernel knows.
    GrantRef(u32), "gref "
}
identifier! {
    /// An event-channel port (`evtchn_port_t`, `event_channel.h`), local to this domain. 0 is
    /// invalid.
    EvtchnPort(u32), "port "
}
identifier! {
    /// A guest frame number: a guest-physical address divided by the page size.
    Gfn(u64), "gfn "
}
identifier! {
    /// The number of a slot in a service's CSpace.
    ///
    /// Holding one proves nothing: the kernel looks up the slot at every invocation.
    Slot(u16), "slot "
}

impl DomId {
    /// The calling domain (`DOMID_SELF`, `xen.h`).
    pub const SELF: DomId = DomId(0x7FF0);
    /// The first id that names no real domain (`DOMID_FIRST_RESERVED`, `xen.h`); nor do those
    /// above.
    pub const FIRST_RESERVED: DomId = DomId(0x7FF0);

    /// Returns `true` if this id can name a real domain.
    #[must_use]
    pub const fn is_real(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}
