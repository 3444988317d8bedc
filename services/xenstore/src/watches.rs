//! The watches that clients hold. The token on the wire is the index in the table.

use cloister_interfaces::store::Path;

/// Watches that one client may hold, so that none can use up another's.
pub const PER_CLIENT: usize = 4;
/// Watches in all: 4 clients.
pub const WATCHES: usize = 4 * PER_CLIENT;

/// A watch.
pub struct Watch {
    /// Whose it is: an index of the clients.
    pub client: usize,
    /// The client's token.
    pub token: u16,
    /// What is watched, as the client wrote it.
    pub path: Path,
    /// Whether the daemon knows of it.
    pub registered: bool,
    /// An event came that the client has not been told of.
    pub pending: bool,
}

/// The table.
pub struct Watches {
    slots: [Option<Watch>; WATCHES],
    /// Slots from here on were never taken: few are, and all are looked at often.
    taken: usize,
}

impl Watches {
    /// No watches.
    pub const fn new() -> Self {
        Watches { slots: [const { None }; WATCHES], taken: 0 }
    }

    /// Takes a slot for a watch that is yet to be registered; `None` if the client has its share.
    pub fn add(&mut self, client: usize, path: Path, token: u16) -> Option<usize> {
        if self.slots.iter().flatten().filter(|watch| watch.client == client).count() >= PER_CLIENT {
            return None;
        }
        let free = self.slots.iter().position(Option::is_none)?;
        self.taken = self.taken.max(free + 1);
        let watch = Watch { client, token, path, registered: false, pending: false };
        self.slots.get_mut(free)?.replace(watch);
        Some(free)
    }

    /// The slot of this watch.
    pub fn find(&self, client: usize, path: &Path, token: u16) -> Option<usize> {
        self.slots.iter().position(|slot| {
            slot.as_ref().is_some_and(|watch| watch.client == client && watch.path == *path && watch.token == token)
        })
    }

    /// The watch in a slot.
    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Watch> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Frees a slot.
    pub fn remove(&mut self, slot: usize) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = None;
        }
    }

    /// A watch that the daemon does not know of.
    pub fn unregistered(&self) -> Option<(usize, &Path)> {
        let found = |(slot, watch): (usize, &'_ Option<Watch>)| {
            watch.as_ref().is_some_and(|watch| !watch.registered).then_some(slot)
        };
        let slot = self.slots.iter().take(self.taken).enumerate().find_map(found)?;
        Some((slot, &self.slots.get(slot)?.as_ref()?.path))
    }

    /// Every watch.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Watch> {
        self.slots.iter_mut().take(self.taken).flatten()
    }
}
