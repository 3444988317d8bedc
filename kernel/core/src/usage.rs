//! Lists the rights that were exercised. After real work, the others are those that the policy
//! could do without.

use core::fmt;

use cloister_caps::tables::{Capability, Tables};
use cloister_caps::{Kind, Operation, Rights};

/// Lists the rights of one capability that were exercised.
///
/// Its `Display` form is `use: SERVICE NAME KIND WORD…`. A kind of two words has a hyphen. `-` stands
/// for no word at all. `cloister-policy unused` reads these lines.
pub struct Use<'t> {
    tables: Tables<'t>,
    capability: Capability,
    rights: Rights,
}

/// Returns the exercised rights of each capability except those to regions, which have one
/// operation only.
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
