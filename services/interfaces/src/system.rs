//! The world that a service sees: capabilities that it may invoke, and memory that it shares.

use alloc::vec::Vec;
use core::fmt;
use core::ops::{Add, Sub};
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use cloister_caps::{InvokeError, Operation, Slot};

use crate::message::{MAX_MESSAGE, Words};

/// The kernel, as a service reaches it.
pub trait System: Clone {
    /// Invokes `operation` on the capability in `slot`; answers two words.
    ///
    /// # Errors
    /// The kernel refused; it has logged why.
    fn invoke(&self, slot: Slot, operation: Operation, arguments: [u64; 4]) -> Result<[u64; 2], InvokeError>;
}

/// A region of memory that someone else may read or write at any moment.
///
/// There are no references into it: every access copies, once, and is never repeated by the
/// compiler. An access outside the region reads zeros or is dropped: it is a defect of the caller, and
/// can reach nothing.
pub trait Memory: Clone {
    /// What a region is to the one service that can write it.
    type Exclusive: ExclusiveMemory;
    /// The region's size in bytes.
    fn len(&self) -> usize;
    /// Whether the region has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads a `u32` at a multiple of 4, with acquire ordering.
    fn load(&self, offset: usize) -> u32;
    /// Writes a `u32` at a multiple of 4, with release ordering.
    fn store(&self, offset: usize, value: u32);
    /// Reads words from a multiple of 8, no more than a message has, each once, with acquire ordering.
    fn load_words(&self, offset: usize, into: &mut [u64]) {
        let mut bytes = [[0; 8]; MAX_MESSAGE / 8];
        let bytes = &mut bytes[..into.len().min(MAX_MESSAGE / 8)];
        self.read(offset, bytes.as_flattened_mut());
        for (word, bytes) in into.iter_mut().zip(bytes) {
            *word = u64::from_le_bytes(*bytes);
        }
    }
    /// Writes words from a multiple of 8, with release ordering.
    fn store_words(&self, offset: usize, from: &[u64]) {
        for (index, word) in from.iter().enumerate() {
            self.write(offset + index * 8, &word.to_le_bytes());
        }
    }
    /// Reads `count` runs of `size` words that follow each other from a multiple of 8, as [`Memory::load_words`] does, and
    /// hands each to `take`; none if not all of them are there.
    fn load_each(&self, offset: usize, size: usize, count: usize, mut take: impl FnMut(Words)) {
        let there = offset.checked_add(size * 8 * count).is_some_and(|end| end <= self.len());
        for index in 0..if there { count } else { 0 } {
            let mut words = Words::default();
            self.load_words(offset + index * size * 8, &mut words[..size]);
            take(words);
        }
    }
    /// Writes the first `size` words of what each item is as words, one after the other from a multiple of 8, as
    /// [`Memory::store_words`] does.
    fn store_each<T>(&self, offset: usize, size: usize, items: &[T], words: impl Fn(&T) -> Words) {
        for (index, item) in items.iter().enumerate() {
            self.store_words(offset + index * size * 8, &words(item)[..size]);
        }
    }
    /// Copies out.
    fn read(&self, offset: usize, into: &mut [u8]);
    /// Copies in.
    fn write(&self, offset: usize, from: &[u8]);
    /// Copies `count` bytes at `offset` to `to`, from `at` on: each read once and written once.
    fn copy(&self, offset: usize, count: usize, to: &Self, at: usize) {
        let mut bytes = [0; 256];
        for done in (0..count).step_by(bytes.len()) {
            let bytes = &mut bytes[..(count - done).min(256)];
            self.read(offset + done, bytes);
            to.write(at + done, bytes);
        }
    }
    /// A buffer of `length` bytes from the heap, for who writes before it reads: what it holds at first is not said, so that
    /// nobody has to empty what is large. None if the heap has no room for it.
    #[must_use]
    fn buffer(length: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).ok()?;
        bytes.resize(length, 0);
        Some(bytes)
    }
    /// Makes every store before it visible before any load after it is made (Xen's `xen_mb`): for who tells a peer
    /// something and then looks whether it has gone to sleep.
    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// A region that its holder alone can write: no other service maps it, and what other domains may do with it is to read.
///
/// It can be built in place; others may see the bytes while that goes on.
pub trait ExclusiveMemory {
    /// The region's size in bytes.
    fn size(&self) -> usize;
    /// Whether it holds zeros but for what was written through `self`: no former run of the service has had it.
    fn is_fresh(&self) -> bool {
        false
    }
    /// Lets `edit` change `length` bytes from `offset`; answers its result, or `None` if they leave the region.
    fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R>;
}

/// A point on the monotonic clock: nanoseconds since an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The clock's start; as a deadline, it has always passed.
    pub const START: Instant = Instant(0);

    /// The time since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
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
