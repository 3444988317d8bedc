//! Shared memory and wake-ups as loom models them, so that a test runs a protocol in every ordering of its memory accesses
//! that the language's memory model allows, stale reads included.
//!
//! The protocols are generic over [`Memory`] and [`System`]: what is tested is the code of the image, unchanged, and no
//! `--cfg loom` is needed. A region can be weakened in one respect; the tests that a weak one fails are what shows that
//! the model would notice.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed as Uncontrolled};
use std::sync::{Arc, Mutex, MutexGuard};

use cloister_caps::{InvokeError, Operation, Slot};
use cloister_interfaces::system::ExclusiveMemory;
use cloister_interfaces::{Memory, System};
use loom::sync::Notify;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicU32, fence};

/// Where the slots of a queue, and of a ring, begin.
const SLOTS: usize = 64;

/// In what respect a region is weaker than [`Memory`] promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weakness {
    /// In none.
    None,
    /// [`Memory::barrier`] does nothing.
    Barrier,
    /// Loads do not acquire and stores do not release.
    Ordering,
    /// The look that follows a barrier finds what the look before it found, at this offset: as if it were left out.
    SecondLook(usize),
}

/// The header and the first slots of a shared page.
pub struct Region {
    header: Arc<[AtomicU32]>,
    slots: Arc<[AtomicU32]>,
    weakness: Weakness,
    seen: Arc<Mutex<Seen>>,
}

/// What one holder of regions last saw at the offset of [`Weakness::SecondLook`].
#[derive(Default)]
struct Seen {
    value: u32,
    /// A barrier followed.
    again: bool,
}

impl Region {
    /// A region whose first four words are `header`, with so many bytes of slots, which are whole words. To be made inside a model.
    #[must_use]
    pub fn new(header: [u32; 4], slots: usize, weakness: Weakness) -> Self {
        Region {
            header: header.into_iter().map(AtomicU32::new).collect(),
            slots: (0..slots / 4).map(|_| AtomicU32::new(0)).collect(),
            weakness,
            seen: Arc::default(),
        }
    }

    /// The same region, for the party that holds `other` too: a barrier concerns all that one party sees.
    #[must_use]
    pub fn beside(&self, other: &Region) -> Self {
        Region { seen: other.seen.clone(), ..self.clone() }
    }

    /// The same region, for a party that sees it as it is.
    #[must_use]
    pub fn sound(&self) -> Self {
        Region { weakness: Weakness::None, ..self.clone() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics while it is locked")
    }

    fn header(&self, offset: usize) -> &AtomicU32 {
        self.header.get(offset / 4).filter(|_| offset.is_multiple_of(4)).expect("the header is four words")
    }

    fn slot(&self, offset: usize) -> &AtomicU32 {
        let index = offset.checked_sub(SLOTS).filter(|_| offset.is_multiple_of(4));
        index.and_then(|index| self.slots.get(index / 4)).expect("words of the slots that the test uses")
    }
}

/// A clone is for another party.
impl Clone for Region {
    fn clone(&self) -> Self {
        Region { header: self.header.clone(), slots: self.slots.clone(), weakness: self.weakness, seen: Arc::default() }
    }
}

impl Memory for Region {
    type Exclusive = Never;

    fn len(&self) -> usize {
        SLOTS + self.slots.len() * 4
    }

    fn load(&self, offset: usize) -> u32 {
        let watched = self.weakness == Weakness::SecondLook(offset);
        if watched && std::mem::take(&mut self.seen().again) {
            return self.seen().value;
        }
        let order = if self.weakness == Weakness::Ordering { Relaxed } else { Acquire };
        let value = if offset < SLOTS {
            self.header(offset).load(order)
        } else {
            let mut word = [0; 4];
            self.read(offset, &mut word);
            u32::from_le_bytes(word)
        };
        if watched {
            self.seen().value = value;
        }
        value
    }

    fn store(&self, offset: usize, value: u32) {
        let order = if self.weakness == Weakness::Ordering { Relaxed } else { Release };
        if offset < SLOTS {
            self.header(offset).store(value, order);
        } else {
            self.write(offset, &value.to_le_bytes());
        }
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        for (index, word) in into.chunks_mut(4).enumerate() {
            word.copy_from_slice(&self.slot(offset + index * 4).load(Relaxed).to_le_bytes()[..word.len()]);
        }
    }

    fn write(&self, offset: usize, from: &[u8]) {
        for (index, word) in from.as_chunks().0.iter().enumerate() {
            self.slot(offset + index * 4).store(u32::from_le_bytes(*word), Relaxed);
        }
    }

    fn barrier(&self) {
        self.seen().again = true;
        if self.weakness != Weakness::Barrier {
            fence(SeqCst);
        }
    }
}

/// No region of a model is built in place.
pub enum Never {}

impl ExclusiveMemory for Never {
    fn size(&self) -> usize {
        match *self {}
    }
    fn edit<R>(&mut self, _: usize, _: usize, _: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        match *self {}
    }
}

/// Wakes somebody: a notification that stays until it is taken, as the kernel's and an event channel's do.
#[derive(Clone)]
pub struct Bell {
    notify: Arc<Notify>,
    broken: bool,
}

impl Bell {
    /// A bell that nobody rang. To be made inside a model.
    #[must_use]
    pub fn new() -> Self {
        Bell { notify: Arc::new(Notify::new()), broken: false }
    }

    /// The same bell, for somebody whose ringing is not heard.
    #[must_use]
    pub fn broken(&self) -> Self {
        Bell { broken: true, ..self.clone() }
    }

    /// Rings.
    pub fn ring(&self) {
        if !self.broken {
            self.notify.notify();
        }
    }

    /// Sleeps until somebody rings, or has rung since the last time. loom also wakes without reason, once.
    pub fn wait(&self) {
        self.notify.wait();
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

impl System for Bell {
    fn invoke(&self, _: Slot, operation: Operation, _: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        assert_eq!(operation, Operation::QueueNotify);
        self.ring();
        Ok([0; 2])
    }
}

/// Runs `model` in every ordering in which a thread is interrupted at most `preemptions` times while it could go on, and
/// in all for `None`; answers how many there were.
///
/// # Panics
/// One of them fails; if nobody can go on, with "deadlock".
pub fn every_ordering(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) -> u64 {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        counted.fetch_add(1, Uncontrolled);
        model();
    });
    count.load(Uncontrolled)
}
