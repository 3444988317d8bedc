//! Lists the rights that were exercised. After real work, the others are those that the policy
//! could do without.

use core::fmt;

use cloister_caps::tables::{Capability, Tables};
use cloister_caps::{Kind, Operation, Rights};

/// Lists the rights of one capability that were exercised.
///
/// Its `Display` form is `use: SERVICE NAME KIND WORD…`. A kind of two words has a hyphen. `-`
/// stands for no word at all. `cloister-policy unused` reads these lines.
pub struct UsedRights<'t> {
    tables: Tables<'t>,
    capability: Capability,
    rights: Rights,
}

/// Returns the exercised rights of each capability except those to regions, which have one
/// operation only.
pub(crate) fn used_rights<'t>(
    tables: Tables<'t>,
    used: impl Fn(&Capability) -> Rights,
) -> impl Iterator<Item = UsedRights<'t>> {
    let capabilities = tables.capabilities().iter().filter(|capability| capability.kind() != Kind::Region);
    capabilities.map(move |capability| UsedRights { tables, rights: used(&capability), capability })
}

impl fmt::Display for UsedRights<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Capability { service, name, .. } = self.capability;
        let kind = match self.capability.kind() {
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
            .filter(|operation| operation.applies_to(self.capability.kind()) && self.rights.contains(operation.right()))
            .try_for_each(|operation| write!(f, " {}", operation.name()))
    }
}
