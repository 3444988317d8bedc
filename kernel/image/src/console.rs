//! Prints lines: to Xen's console ring once it is mapped, before that to the debug port.

use core::fmt::{self, Write};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use cloister_caps::EvtchnPort;
use cloister_caps::xen::console::{Interface, OUT_SIZE};
use cloister_kernel_core::claims::ClaimedFrames;
use cloister_kernel_core::console::room;

use crate::global::Global;
use crate::hypercall_page::{self, Xen};
use crate::{hypercall, paging, processor};

/// Bytes of text that can wait for room in the ring.
const BACKLOG: usize = 16 * 1024;
/// The number of times that [`drain`] yields the processor to the daemon before it gives up.
const MAX_DRAIN_YIELDS: usize = 20_000;

/// Holds the output side of the ring, and the text that waits for room in it.
///
/// # Holding one proves
/// The console page is mapped at `CONSOLE`.
struct Ring {
    xen: Xen,
    /// The port of the console daemon.
    port: EvtchnPort,
    /// Our producer index. The one in the ring is read once, at the start.
    produced: u32,
    backlog: [u8; BACKLOG],
    /// Index of the first byte that waits.
    head: usize,
    /// Bytes that wait.
    length: usize,
    /// Bytes dropped since the last message about that.
    dropped: u32,
}

static RING: Global<Ring> = Global::new();

/// Maps the page of the ring, and sends all text from now on to the ring.
///
/// # Safety
/// The page is claimed for the console.
pub unsafe fn map_ring(xen: Xen, page: ClaimedFrames, port: EvtchnPort) {
    // SAFETY: the page has no other owner, so that only the console daemon uses it.
    unsafe { paging::map_fixed(paging::CONSOLE, page.first()) };
    let mut ring = Ring { xen, port, produced: 0, backlog: [0; BACKLOG], head: 0, length: 0, dropped: 0 };
    ring.produced = ring.index(offset_of!(Interface, out_prod)).load(Ordering::Relaxed);
    RING.set(ring);
}

impl Ring {
    /// Returns an index of the ring.
    fn index(&self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: the page is mapped, as a `Ring` proves. The offset is that of an aligned index in
        // it. The daemon may change an atomic at any time.
        unsafe { AtomicU32::from_ptr((paging::CONSOLE as usize + offset) as *mut u32) }
    }

    fn push(&mut self, byte: u8) {
        if self.length == BACKLOG {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.backlog[(self.head + self.length) % BACKLOG] = byte;
        self.length += 1;
    }

    /// Moves as much of the backlog to the ring as fits, and notifies the daemon.
    fn flush(&mut self) {
        let room = room(self.produced, self.index(offset_of!(Interface, out_cons)).load(Ordering::Acquire)) as usize;
        let count = room.min(self.length);
        for _ in 0..count {
            let address =
                paging::CONSOLE as usize + offset_of!(Interface, output) + self.produced as usize % OUT_SIZE as usize;
            // SAFETY: it is a byte of the output half of the mapped ring. The daemon only reads it,
            // after `OUT_PROD` is past it.
            unsafe { (address as *mut u8).write_volatile(self.backlog[self.head]) };
            self.head = (self.head + 1) % BACKLOG;
            self.produced = self.produced.wrapping_add(1);
        }
        self.length -= count;
        if count > 0 {
            self.index(offset_of!(Interface, out_prod)).store(self.produced, Ordering::SeqCst);
            // Without a daemon that listens, the kernel runs on.
            let _ = hypercall::send(self.xen, self.port);
        }
        if self.length == 0 && self.dropped > 0 {
            let dropped = core::mem::take(&mut self.dropped);
            let _ = write!(ByteWriter(|byte| self.push(byte)), "[{dropped} bytes of the console were dropped]\r\n");
        }
    }
}

/// Writes formatted text by calling a function for each byte.
struct ByteWriter<F>(F);

impl<F: FnMut(u8)> Write for ByteWriter<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(&mut self.0);
        Ok(())
    }
}

/// Prints a line.
pub fn line(text: fmt::Arguments<'_>) {
    let to_ring = RING.with(|ring| {
        let _ = ByteWriter(|byte| ring.push(byte)).write_fmt(text);
        ring.push(b'\r');
        ring.push(b'\n');
        ring.flush();
    });
    if to_ring.is_none() {
        debug_line(text);
    }
}

/// Returns `true` if lines go to Xen's ring.
pub fn has_ring() -> bool {
    RING.with(|_| ()).is_some()
}

/// Prints a line on the debug port, and without Xen on the serial port too.
pub fn debug_line(text: fmt::Arguments<'_>) {
    let serial = hypercall_page::chosen().is_none();
    let byte = |byte| {
        processor::debug_byte(byte);
        if serial {
            processor::serial_byte(byte);
        }
    };
    let _ = ByteWriter(byte).write_fmt(text);
    byte(b'\n');
}

/// Handles an event of the daemon, which has taken output or sent input. Input is dropped.
pub fn handle_event() {
    RING.with(|ring| {
        let produced = ring.index(offset_of!(Interface, in_prod)).load(Ordering::Acquire);
        ring.index(offset_of!(Interface, in_cons)).store(produced, Ordering::Release);
        ring.flush();
    });
}

/// Waits until the daemon has taken all output, at most for `MAX_DRAIN_YIELDS` yields.
pub fn drain() {
    for _ in 0..MAX_DRAIN_YIELDS {
        let left = RING.with(|ring| {
            ring.flush();
            let left =
                ring.length > 0 || ring.index(offset_of!(Interface, out_cons)).load(Ordering::Acquire) != ring.produced;
            left.then_some(ring.xen)
        });
        let Some(Some(xen)) = left else { return };
        hypercall::yield_now(xen);
    }
}
