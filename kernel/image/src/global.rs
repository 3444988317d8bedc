//! Holds state that outlives an entry of the kernel.

use spin::{Mutex, Once};

/// Holds a value that is set once, at boot, and then used by one entry of the kernel at a time.
///
/// The lock is never contended, because there is one processor and the kernel is not preemptible.
/// With it, a defect (an exception inside the kernel) ends in a message instead of in two exclusive
/// references.
pub struct Global<T>(Once<Mutex<T>>);

impl<T> Global<T> {
    /// Creates a global without a value.
    pub const fn new() -> Self {
        Global(Once::new())
    }

    /// Sets the value, once.
    pub fn set(&self, value: T) {
        self.0.call_once(|| Mutex::new(value));
    }

    /// Calls `work` with the value. Returns `None` if it is not set, or in use by an entry that
    /// faulted.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.get()?.try_lock().map(|mut value| work(&mut value))
    }
}
