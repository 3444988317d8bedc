//! Which rights were exercised: what the policy could do without shows in a record of real work.

use core::fmt;

use cloister_caps::tables::{Capability, Tables};
use cloister_caps::{Kind, Operation, Rights};

/// What a capability was used for. Written as `use: SERVICE NAME KIND WORD…`, in which a kind of two words has a hyphen
/// and no word at all is `-`. `cloister-policy unused` reads these lines.
pub struct Use<'t> {
    tables: Tables<'t>,
    capability: Capability,
    rights: Rights,
}

/// What each capability was used for, but those to regions: nothing but finding them can be done with these.
pub(crate) fn uses<'t>(
    tables: Tables<'t>,
    used: impl Fn(&Capability) -> Option<Rights>,
) -> impl Iterator<Item = Use<'t>> {
    (0..tables.capabilities().len()).filter_map(move |index| {
        let capability = tables.capabilities().get(index).filter(|capability| capability.kind != Kind::Region)?;
        let rights = used(&capability)?;
        Some(Use { tables, capability, rights })
    })
}

impl fmt::Display for Use<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Capability { service, kind, name, .. } = self.capability;
        let kind = match kind {
            Kind::Sender => "queue-sender",
            Kind::Receiver => "queue-receiver",
            other => other.name(),
        };
        write!(f, "use: {} {} {kind}", self.tables.service_name(service), self.tables.name(name))?;
        if self.rights.is_empty() {
            return write!(f, " -");
        }
        Operation::ALL
            .iter()
            .filter(|operation| operation.applies_to(self.capability.kind) && self.rights.contains(operation.right()))
            .try_for_each(|operation| write!(f, " {}", operation.name()))
    }
}
