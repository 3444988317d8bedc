//! Compares the programs that two policies pin by hash.
//!
//! A pin is no right of a subject: it limits whoever makes the image. One less is a widening, since
//! any build of the program may then run in the service.

use serde::Serialize;

use super::change::Class;
use super::side::Side;
use crate::printable::hexadecimal;

/// A program that is pinned otherwise than before.
#[derive(Clone, Debug, Serialize)]
pub struct PinChange {
    /// The class of the change.
    pub class: Class,
    /// The service, by its name in the new policy.
    pub service: String,
    /// The old hash, in hexadecimal.
    pub old: Option<String>,
    /// The new hash, in hexadecimal.
    pub new: Option<String>,
}

impl PinChange {
    /// Returns the change as a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let service = &self.service;
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => format!("the program of {service} was pinned to {old}, and is to {new}"),
            (Some(old), None) => format!("the program of {service} is no longer pinned to {old}"),
            (_, new) => format!("the program of {service} is pinned to {}", new.as_deref().unwrap_or_default()),
        }
    }
}

/// Returns the changes of the pins, for the services that both policies have.
pub(super) fn changes(old: &Side<'_>, new: &Side<'_>) -> Vec<PinChange> {
    let mut found = Vec::new();
    let before = old.sound.policy.services.items.iter().zip(&old.numbers.services);
    for (item, number) in before {
        let after = new.service(*number).and_then(|position| new.sound.policy.services.items.get(position));
        let Some(after) = after else { continue };
        let [one, other] = [item.body.program_hash, after.body.program_hash];
        if one != other {
            found.push(PinChange {
                class: Class::of(one.is_some(), other.is_some()),
                service: after.name.value.clone(),
                old: one.map(|hash| hexadecimal(&hash)),
                new: other.map(|hash| hexadecimal(&hash)),
            });
        }
    }
    found
}
