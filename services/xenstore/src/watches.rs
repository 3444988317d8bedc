//! The watches that clients hold. The token on the wire is the index in the table.

use cloister_interfaces::store::Path;

/// Watches that one client may hold, so that none can use up another's.
pub const MAX_PER_CLIENT: usize = 4;
/// Watches in all: 4 clients.
pub const MAX_WATCHES: usize = 4 * MAX_PER_CLIENT;

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
    entries: [Option<Watch>; MAX_WATCHES],
    /// Slots from here on were never taken: few are, and all are looked at often.
    used: usize,
}

impl Watches {
    /// No watches.
    pub const fn new() -> Self {
        Watches { entries: [const { None }; MAX_WATCHES], used: 0 }
    }

    /// Takes a slot for a watch that is yet to be registered; `None` if the client has its share.
    pub fn add(&mut self, client: usize, path: Path, token: u16) -> Option<usize> {
        if self.entries.iter().flatten().filter(|watch| watch.client == client).count() >= MAX_PER_CLIENT {
            return None;
        }
        let index = self.entries.iter().position(Option::is_none)?;
        self.used = self.used.max(index + 1);
        let watch = Watch { client, token, path, registered: false, pending: false };
        self.entries.get_mut(index)?.replace(watch);
        Some(index)
    }

    /// The slot of this watch.
    pub fn find(&self, client: usize, path: &Path, token: u16) -> Option<usize> {
        self.entries.iter().position(|entry| {
            entry.as_ref().is_some_and(|watch| watch.client == client && watch.path == *path && watch.token == token)
        })
    }

    /// The watch in a slot.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Watch> {
        self.entries.get_mut(index)?.as_mut()
    }

    /// Frees a slot.
    pub fn remove(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = None;
        }
    }

    /// A watch that the daemon does not know of.
    pub fn unregistered(&self) -> Option<(usize, &Path)> {
        let found = |(index, watch): (usize, &'_ Option<Watch>)| {
            watch.as_ref().is_some_and(|watch| !watch.registered).then_some(index)
        };
        let index = self.entries.iter().take(self.used).enumerate().find_map(found)?;
        Some((index, &self.entries.get(index)?.as_ref()?.path))
    }

    /// Every watch.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Watch> {
        self.entries.iter_mut().take(self.used).flatten()
    }
}
