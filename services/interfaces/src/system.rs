//! All that a service can reach: capabilities that it may invoke, and memory that it shares.

use alloc::vec::Vec;
use core::fmt;
use core::ops::{Add, Sub};
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use cloister_caps::{InvokeError, Operation, Slot};

use crate::message::{MAX_MESSAGE, Words};

/// The kernel, as a service calls it.
pub trait System: Clone {
    /// Invokes `operation` on the capability in `slot` and returns two words.
    ///
    /// # Errors
    /// The kernel refused the invocation and has logged why, or the operation failed.
    fn invoke(&self, slot: Slot, operation: Operation, arguments: [u64; 4]) -> Result<[u64; 2], InvokeError>;
}

/// A region of memory that others may read or write at any moment.
///
/// There are no references into it. Every access copies exactly once: the compiler never repeats
/// it. An access outside the region is a defect of the caller; it reads zeros or writes nothing.
pub trait Memory: Clone {
    /// The type of a region that only this service can write.
    type Exclusive: ExclusiveMemory;
    /// Returns the size of the region in bytes.
    fn len(&self) -> usize;
    /// Returns `true` if the region has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads the `u32` at `offset`, a multiple of 4, with acquire ordering.
    fn load(&self, offset: usize) -> u32;
    /// Writes the `u32` at `offset`, a multiple of 4, with release ordering.
    fn store(&self, offset: usize, value: u32);
    /// Reads words from `offset`, a multiple of 8: each once, with acquire ordering, and no more
    /// than a message has.
    fn load_words(&self, offset: usize, into: &mut [u64]) {
        let mut bytes = [[0; 8]; MAX_MESSAGE / 8];
        let bytes = &mut bytes[..into.len().min(MAX_MESSAGE / 8)];
        self.read(offset, bytes.as_flattened_mut());
        for (word, bytes) in into.iter_mut().zip(bytes) {
            *word = u64::from_le_bytes(*bytes);
        }
    }
    /// Writes words from `offset`, a multiple of 8, with release ordering.
    fn store_words(&self, offset: usize, from: &[u64]) {
        for (index, word) in from.iter().enumerate() {
            self.write(offset + index * 8, &word.to_le_bytes());
        }
    }
    /// Reads `count` adjacent items of `size` words each from `offset`, a multiple of 8, as
    /// [`Memory::load_words`] does, and passes each to `take`. Reads nothing if one of them is
    /// outside the region.
    fn load_each(&self, offset: usize, size: usize, count: usize, mut take: impl FnMut(Words)) {
        let there = offset.checked_add(size * 8 * count).is_some_and(|end| end <= self.len());
        for index in 0..if there { count } else { 0 } {
            let mut words = Words::default();
            self.load_words(offset + index * size * 8, &mut words[..size]);
            take(words);
        }
    }
    /// Converts each item with `words` and writes the first `size` words of it, one item after the
    /// other from `offset`, a multiple of 8, as [`Memory::store_words`] does.
    fn store_each<T>(&self, offset: usize, size: usize, items: &[T], words: impl Fn(&T) -> Words) {
        for (index, item) in items.iter().enumerate() {
            self.store_words(offset + index * size * 8, &words(item)[..size]);
        }
    }
    /// Copies bytes from `offset` out of the region.
    fn read(&self, offset: usize, into: &mut [u8]);
    /// Copies bytes into the region at `offset`.
    fn write(&self, offset: usize, from: &[u8]);
    /// Copies `count` bytes from `offset` to `at` in `to`: each is read once and written once.
    fn copy(&self, offset: usize, count: usize, to: &Self, at: usize) {
        let mut bytes = [0; 256];
        for done in (0..count).step_by(bytes.len()) {
            let bytes = &mut bytes[..(count - done).min(256)];
            self.read(offset + done, bytes);
            to.write(at + done, bytes);
        }
    }
    /// Allocates a buffer of `length` bytes with unspecified contents, so that a large one need not
    /// be cleared. Returns `None` if the heap has no room for it.
    #[must_use]
    fn buffer(length: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).ok()?;
        bytes.resize(length, 0);
        Some(bytes)
    }
    /// Orders every store before it ahead of every load after it (`xen_mb` of Xen). Needed between
    /// publishing something to a peer and reading whether the peer has gone to sleep.
    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// A region that only its holder can write.
///
/// Its contents can be edited in place. Other domains may read the bytes while they are edited.
///
/// # Holding one proves
/// No other service maps the region, and other domains can at most read it.
pub trait ExclusiveMemory {
    /// Returns the size of the region in bytes.
    fn size(&self) -> usize;
    /// Returns `true` if the region holds only zeros and what was written through `self`: no
    /// earlier run of the service has written it.
    fn is_fresh(&self) -> bool {
        false
    }
    /// Lends `length` bytes from `offset` to `edit` and returns its result. Returns `None` if the
    /// bytes are not all in the region.
    fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R>;
}

/// A point in time on the monotonic clock: nanoseconds since an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The start of the clock. As a deadline, it has always passed.
    pub const START: Instant = Instant(0);

    /// Returns the earlier of two points in time, if there is one at all.
    #[must_use]
    #[inline]
    pub fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            _ => one.or(other),
        }
    }

    /// Returns the time since `earlier`, or zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        let seconds = duration.as_secs().saturating_mul(1_000_000_000);
        Instant(self.0.saturating_add(seconds).saturating_add(u64::from(duration.subsec_nanos())))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} s", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}
