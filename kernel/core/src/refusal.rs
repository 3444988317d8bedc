//! Formats the log line of a refused system call: service, operation, object, and the missing rule.

use core::fmt;

use cloister_caps::abi::{SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT};
use cloister_caps::tables::{Capability, Object, Tables};
use cloister_caps::{Kind, Operation, ServiceId, Status};

/// Describes a refused system call. Its `Display` form is the line for the log.
#[derive(Clone, Copy)]
pub struct Refusal<'a> {
    /// The tables, for names and line numbers.
    pub tables: Tables<'a>,
    /// The service that made the call.
    pub service: ServiceId,
    /// The number of the system call.
    pub call: u64,
    /// The slot that the caller named.
    pub slot: u64,
    /// The number of the operation that the caller named.
    pub operation: u64,
    /// The arguments of the operation.
    pub arguments: [u64; 4],
    /// The capability in the slot, if there is one.
    pub capability: Option<Capability>,
    /// The reason of the refusal.
    pub status: Status,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: service={} ", self.tables.service_name(self.service))?;
        if self.status == Status::BadSystemCall {
            return write!(
                f,
                "operation=call:{} object=none missing=\"there are two system calls, wait ({SYSTEM_CALL_WAIT}) and \
                 invoke ({SYSTEM_CALL_INVOKE})\"",
                self.call
            );
        }
        match Operation::from_number(self.operation) {
            Some(operation) => write!(f, "operation={} ", operation.name())?,
            None => write!(f, "operation={} ", self.operation)?,
        }
        match self.capability {
            Some(capability) => write!(f, "object={}:{} ", capability.kind().name(), self.object(&capability))?,
            None => write!(f, "object=slot:{} ", self.slot)?,
        }
        write!(f, "missing=\"")?;
        self.missing(f)?;
        write!(f, "\"")
    }
}

impl Refusal<'_> {
    /// Returns the name of the object of a capability, or the capability's own if the object has
    /// none.
    fn object(&self, capability: &Capability) -> &str {
        let tables = &self.tables;
        tables.name(match capability.object {
            Object::Sender(queue) | Object::Receiver(queue) => tables.queue(queue).name,
            Object::Port(rule) => tables.port(rule).name,
            Object::Grant(rule) => tables.grant(rule).name,
            Object::Region(mapping) => tables.region(tables.mapping(mapping).region).name,
            Object::Domain(set) => tables.domain_set(set).name,
            Object::Console | Object::Clock | Object::Entropy | Object::Power | Object::Info => capability.name,
        })
    }

    /// Writes the rule that is missing, or why the operation is not possible.
    fn missing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.tables.service_name(self.service);
        let operation = Operation::from_number(self.operation).map_or("?", Operation::name);
        let Some(capability) = self.capability else {
            return write!(f, "no rule gives {service} a capability in this slot");
        };
        let [first, second, _, further] = self.arguments;
        match (self.status, capability.kind()) {
            (Status::WrongOperation, _) => write!(f, "a {} has no such operation", capability.kind().name()),
            (Status::MissingRight, _) => write!(f, "'{operation}' is not among the rights of line {}", capability.line),
            (Status::NotPermitted, Kind::Grant) => {
                let issue = self.operation == Operation::GrantIssue as u64;
                write!(f, "line {} does not allow ", capability.line)?;
                // Only issuing a grant takes a peer and further pages.
                match further {
                    1.. if issue => write!(f, "pages {first} to {}", first.saturating_add(further))?,
                    _ => write!(f, "page {first}")?,
                }
                if issue { write!(f, " for peer {second}") } else { Ok(()) }
            }
            (Status::NotPermitted, _) => write!(f, "line {} does not allow peer {first}", capability.line),
            (Status::BadArgument, _) => write!(f, "argument {first:#x} is out of range for line {}", capability.line),
            (Status::WrongState, _) => write!(f, "none: not possible in the object's present state"),
            (Status::Unavailable, _) => write!(f, "none: the machine does not offer it"),
            (Status::InUse, _) => write!(f, "none: the peer still uses the page"),
            (Status::Done | Status::NoCapability | Status::BadSystemCall, _) => write!(f, "none"),
        }
    }
}
