//! Formats the log line of a refused system call: service, operation, object, and the missing rule.

use core::fmt;

use cloister_caps::abi::{SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT};
use cloister_caps::tables::{Capability, MAX_SLOTS, Object, Tables};
use cloister_caps::{Kind, Operation, ServiceId, Status};

use crate::console::first::{Refused, RefusedCall};

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
    /// The reason of the refusal. `None` if it is not kept, nor are the arguments and numbers out
    /// of range.
    pub status: Option<Status>,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: service={} operation=", self.tables.service_name(self.service))?;
        if self.call != SYSTEM_CALL_INVOKE {
            write!(f, "call:{} object=none missing=\"", self.number(self.call))?;
        } else {
            match Operation::from_number(self.operation) {
                Some(operation) => f.write_str(operation.name())?,
                None => write!(f, "{}", self.number(self.operation))?,
            }
            match self.capability {
                Some(capability) => {
                    write!(f, " object={}:{}", capability.kind().name(), self.object(&capability))?;
                }
                None if self.slot < MAX_SLOTS as u64 => write!(f, " object=slot:{}", self.slot)?,
                None => write!(f, " object=slot:{}", self.number(self.slot))?,
            }
            write!(f, " missing=\"")?;
        }
        match self.status {
            Some(status) => self.missing(f, status)?,
            None => write!(f, "not kept: the console had no room")?,
        }
        write!(f, "\"")
    }
}

/// A number that is not kept if its value is `None`.
struct Number(Option<u64>);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

/// Returns the capability in a slot of a service, if there is one.
#[inline(never)] // It is rare, and long.
pub(crate) fn capability_in(tables: &Tables<'_>, service: ServiceId, slot: u64) -> Option<Capability> {
    let of = |capability: &Capability| capability.service == service && u64::from(capability.slot) == slot;
    tables.capabilities().iter().find(of)
}

impl<'a> Refusal<'a> {
    /// Returns a refusal of which the line had no room when it was made.
    pub(crate) fn late(tables: Tables<'a>, service: ServiceId, refused: Refused) -> Refusal<'a> {
        let slot = u64::from(refused.slot);
        let (call, operation) = match refused.what {
            RefusedCall::Operation(operation) => (SYSTEM_CALL_INVOKE, operation as u64),
            RefusedCall::UnknownOperation => (SYSTEM_CALL_INVOKE, u64::MAX),
            RefusedCall::UnknownCall => (u64::MAX, 0),
        };
        let capability = capability_in(&tables, service, slot);
        Refusal { tables, service, call, slot, operation, arguments: [0; 4], capability, status: None }
    }

    /// Returns a number that no slot, operation or system call has, if it is kept.
    fn number(&self, number: u64) -> Number {
        Number(self.status.map(|_| number))
    }

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
    fn missing(&self, f: &mut fmt::Formatter<'_>, status: Status) -> fmt::Result {
        if status == Status::BadSystemCall {
            return write!(
                f,
                "there are two system calls, wait ({SYSTEM_CALL_WAIT}) and invoke ({SYSTEM_CALL_INVOKE})"
            );
        }
        let service = self.tables.service_name(self.service);
        let operation = Operation::from_number(self.operation).map_or("?", Operation::name);
        let Some(capability) = self.capability else {
            return write!(f, "no rule gives {service} a capability in this slot");
        };
        let [first, second, _, further] = self.arguments;
        match (status, capability.kind()) {
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
