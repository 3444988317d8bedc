//! Shared memory and notifications as loom models them. A test runs a protocol in every ordering of
//! its memory accesses that the language's memory model allows, stale reads included.
//!
//! The protocols are generic over [`Memory`] and [`System`]: a test runs the unchanged code of the
//! image, and needs no `--cfg loom`. A region can be weakened in one respect. The tests that fail
//! with a weak region show that the model finds such a defect.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed as Uncontrolled};
use std::sync::{Arc, Mutex, MutexGuard};

use cloister_caps::{InvokeError, Operation, Slot};
use cloister_interfaces::system::ExclusiveMemory;
use cloister_interfaces::{Memory, System};
use loom::sync::Notify;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicU32, fence};

/// The offset of the slots of a queue, and of a ring.
const SLOTS: usize = 64;

/// The respect in which a region is weaker than [`Memory`] promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weakness {
    /// None.
    None,
    /// [`Memory::barrier`] does nothing.
    Barrier,
    /// Loads do not acquire and stores do not release.
    Ordering,
    /// The load after a barrier at this offset returns the value of the load before it, as if it
    /// were left out.
    SecondLoad(usize),
}

/// The header and the first slots of a shared page.
pub struct Region {
    header: Arc<[AtomicU32]>,
    slots: Arc<[AtomicU32]>,
    weakness: Weakness,
    seen: Arc<Mutex<Seen>>,
}

/// The last value that one holder of regions loaded at the offset of [`Weakness::SecondLoad`].
#[derive(Default)]
struct Seen {
    value: u32,
    /// `true` if a barrier followed.
    barrier: bool,
}

impl Region {
    /// Creates a region whose first four words are `header`, with this number of bytes of slots,
    /// which are whole words. Must be called inside a model.
    #[must_use]
    pub fn new(header: [u32; 4], slots: usize, weakness: Weakness) -> Self {
        Region {
            header: header.into_iter().map(AtomicU32::new).collect(),
            slots: (0..slots / 4).map(|_| AtomicU32::new(0)).collect(),
            weakness,
            seen: Arc::default(),
        }
    }

    /// Returns the same region for the party that holds `other` too: a barrier orders all accesses
    /// of one party.
    #[must_use]
    pub fn beside(&self, other: &Region) -> Self {
        Region { seen: other.seen.clone(), ..self.clone() }
    }

    /// Returns the same region for a party with an unweakened view.
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
        let watched = self.weakness == Weakness::SecondLoad(offset);
        if watched && std::mem::take(&mut self.seen().barrier) {
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
        self.seen().barrier = true;
        if self.weakness != Weakness::Barrier {
            fence(SeqCst);
        }
    }
}

/// No region of a model is edited in place.
pub enum Never {}

impl ExclusiveMemory for Never {
    fn size(&self) -> usize {
        match *self {}
    }
    fn edit<R>(&mut self, _: usize, _: usize, _: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        match *self {}
    }
}

/// Wakes a party: a notification that stays until it is consumed, as that of the kernel and of an
/// event channel does.
#[derive(Clone)]
pub struct Notification {
    notify: Arc<Notify>,
    broken: bool,
}

impl Notification {
    /// Creates a notification that is not pending. Must be called inside a model.
    #[must_use]
    pub fn new() -> Self {
        Notification { notify: Arc::new(Notify::new()), broken: false }
    }

    /// Returns the same notification for a party whose notifications are lost.
    #[must_use]
    pub fn broken(&self) -> Self {
        Notification { broken: true, ..self.clone() }
    }

    /// Notifies the sleeper.
    pub fn notify(&self) {
        if !self.broken {
            self.notify.notify();
        }
    }

    /// Sleeps until a notification, unless there was one since the last sleep. loom may also wake
    /// it once without a reason.
    pub fn wait(&self) {
        self.notify.wait();
    }
}

impl Default for Notification {
    fn default() -> Self {
        Self::new()
    }
}

impl System for Notification {
    fn invoke(&self, _: Slot, operation: Operation, _: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        assert_eq!(operation, Operation::QueueNotify);
        self.notify();
        Ok([0; 2])
    }
}

/// Runs `model` in every ordering in which a thread is preempted at most `preemptions` times, or in
/// all orderings for `None`. Returns the number of orderings.
///
/// # Panics
/// An ordering fails. If no thread can run, the message is "deadlock".
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
