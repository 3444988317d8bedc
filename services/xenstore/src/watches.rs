//! The watches of the clients. The token that the daemon gets is the index in the table.

use cloister_interfaces::rules::ClientIndex;
use cloister_interfaces::store::Path;

/// The largest number of watches of one client, so that none can use up another's.
pub const MAX_PER_CLIENT: usize = 4;
/// The largest number of watches in all, for 4 clients.
pub const MAX_WATCHES: usize = 4 * MAX_PER_CLIENT;

/// A watch.
pub struct Watch {
    /// The index of the client.
    pub client: ClientIndex,
    /// The client's token.
    pub token: u16,
    /// The watched path, as the client wrote it.
    pub path: Path,
    /// The client may be told of changes of every node below, too.
    pub below: bool,
    /// The daemon has the watch.
    pub registered: bool,
    /// An event came, and the client was not notified yet.
    pub pending: bool,
}

impl Watch {
    /// Returns `true` if the client may be told of a change at `changed`, as the daemon writes it.
    ///
    /// The daemon fires a watch for the watched node and for all below it, and writes the node that
    /// changed in the form of the watched path.
    pub fn may_tell(&self, changed: &[u8]) -> bool {
        self.below || changed.strip_prefix(self.path.as_bytes()).is_none_or(|below| below.first() != Some(&b'/'))
    }
}

/// The table of watches.
pub struct Watches {
    entries: [Option<Watch>; MAX_WATCHES],
    /// Entries from this index on were never used. It keeps the frequent passes over the table
    /// short.
    used: usize,
}

impl Watches {
    /// Creates an empty table.
    pub const fn new() -> Self {
        Watches { entries: [const { None }; MAX_WATCHES], used: 0 }
    }

    /// Adds a watch that is not registered yet, and returns its index. Returns `None` if the client
    /// has [`MAX_PER_CLIENT`] watches.
    pub fn add(&mut self, client: ClientIndex, path: Path, token: u16, below: bool) -> Option<usize> {
        if self.entries.iter().flatten().filter(|watch| watch.client == client).count() >= MAX_PER_CLIENT {
            return None;
        }
        let index = self.entries.iter().position(Option::is_none)?;
        self.used = self.used.max(index + 1);
        let watch = Watch { client, token, path, below, registered: false, pending: false };
        self.entries.get_mut(index)?.replace(watch);
        Some(index)
    }

    /// Returns the index of a client's watch.
    pub fn find(&self, client: ClientIndex, path: &Path, token: u16) -> Option<usize> {
        self.entries.iter().position(|entry| {
            entry.as_ref().is_some_and(|watch| watch.client == client && watch.path == *path && watch.token == token)
        })
    }

    /// Returns the watch at an index.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Watch> {
        self.entries.get_mut(index)?.as_mut()
    }

    /// Removes the watch at an index.
    pub fn remove(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = None;
        }
    }

    /// Returns the index and the path of a watch that the daemon does not have yet.
    pub fn unregistered(&self) -> Option<(usize, &Path)> {
        let found = |(index, watch): (usize, &'_ Option<Watch>)| {
            watch.as_ref().is_some_and(|watch| !watch.registered).then_some(index)
        };
        let index = self.entries.iter().take(self.used).enumerate().find_map(found)?;
        Some((index, &self.entries.get(index)?.as_ref()?.path))
    }

    /// Returns an iterator over all watches.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Watch> {
        self.entries.iter_mut().take(self.used).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_found_by_its_client_path_and_token_together() {
        let path = |text: &str| Path::from(text).expect("a short path");
        let mut watches = Watches::new();
        let all = || (0..2).flat_map(|client| [("a", 1), ("a", 2)].map(|(at, token)| (ClientIndex(client), at, token)));
        let mut added = Vec::new();
        for (client, at, token) in all() {
            assert_eq!(watches.find(client, &path(at), token), None);
            added.push(watches.add(client, path(at), token, false).expect("room"));
        }
        for ((client, at, token), index) in all().zip(added.clone()) {
            assert_eq!(watches.find(client, &path(at), token), Some(index));
        }
        for (client, at, token) in [(0, "b", 1), (0, "a", 3), (2, "a", 1)] {
            assert_eq!(watches.find(ClientIndex(client), &path(at), token), None);
        }
        watches.remove(added[1]);
        assert_eq!(watches.find(ClientIndex(0), &path("a"), 2), None);
        assert_eq!(watches.add(ClientIndex(1), path("b"), 9, false), Some(added[1]), "its place is free");
    }
}
