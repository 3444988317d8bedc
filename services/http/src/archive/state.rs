//! What entries of a tar archive say of the entries after them.

/// What pax records say of entries. An empty name is a name, which nothing has, as in GNU tar.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'a> {
    pub path: Option<&'a [u8]>,
    pub link: Option<&'a [u8]>,
    pub size: Option<&'a [u8]>,
    pub modified: Option<&'a [u8]>,
}

/// What was read before an entry, and is about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct State<'a> {
    /// What is said of all entries from here on (pax, `g`).
    pub global: Said<'a>,
    /// What is said of the next one (pax, `x`).
    pub next: Said<'a>,
    /// The name of the next one (GNU, `L`).
    pub long_name: Option<&'a [u8]>,
    /// The target of its link (GNU, `K`).
    pub long_link: Option<&'a [u8]>,
}

impl<'a> State<'a> {
    /// Returns what `field` of the records says of the next entry.
    pub fn said(&self, field: impl Fn(&Said<'a>) -> Option<&'a [u8]>) -> Option<&'a [u8]> {
        field(&self.next).or_else(|| field(&self.global))
    }
}

impl<'a> Said<'a> {
    /// Adds what later records say.
    pub fn add(&mut self, later: Said<'a>) {
        *self = Said {
            path: later.path.or(self.path),
            link: later.link.or(self.link),
            size: later.size.or(self.size),
            modified: later.modified.or(self.modified),
        };
    }
}
