//! Prints lines: to Xen's console ring if there is one, else to the debug port.

use core::fmt::{self, Write};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use cloister_caps::tables::Tables;
use cloister_caps::xen::console::{Interface, OUT_SIZE};
use cloister_caps::{EvtchnPort, ServiceId};
use cloister_kernel_core::claims::ClaimedFrames;
use cloister_kernel_core::console::{ConsoleLog, room};
use cloister_kernel_core::refusal::Refusal;
use spin::Mutex;

use crate::global::Global;
use crate::hypercall_page::{self, Xen};
use crate::{hypercall, paging, processor};

/// The number of times that [`drain`] yields the processor to the daemon before it gives up.
const MAX_DRAIN_YIELDS: usize = 20_000;

/// The lines that wait. It is all zero at boot.
static LOG: Mutex<ConsoleLog> = Mutex::new(ConsoleLog::new());
static OUTPUT: Global<Output> = Global::new();

/// Where lines go once the capability tables are known.
struct Output {
    tables: Tables<'static>,
    ring: Option<Ring>,
}

/// Holds the output side of the ring.
///
/// # Holding one proves
/// The console page is mapped at `CONSOLE`.
pub struct Ring {
    xen: Xen,
    /// The port of the console daemon.
    port: EvtchnPort,
    /// Our producer index. The one in the ring is read once, at the start.
    produced: u32,
}

/// Maps the page of the ring.
///
/// # Safety
/// The page is claimed for the console.
pub unsafe fn map_ring(xen: Xen, page: ClaimedFrames, port: EvtchnPort) -> Ring {
    // SAFETY: the page has no other owner, so that only the console daemon uses it.
    unsafe { paging::map_fixed(paging::CONSOLE, page.first()) };
    let mut ring = Ring { xen, port, produced: 0 };
    ring.produced = ring.index(offset_of!(Interface, out_prod)).load(Ordering::Relaxed);
    ring
}

/// Sends all lines from now on through the log: to the ring, or to the debug port if there is none.
pub fn start(tables: Tables<'static>, ring: Option<Ring>) {
    if let Some(mut log) = LOG.try_lock() {
        log.share_among(&tables);
    }
    OUTPUT.set(Output { tables, ring });
}

impl Ring {
    /// Returns an index of the ring.
    fn index(&self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: the page is mapped, as a `Ring` proves. The offset is that of an aligned index in
        // it. The daemon may change an atomic at any time.
        unsafe { AtomicU32::from_ptr((paging::CONSOLE as usize + offset) as *mut u32) }
    }

    /// Returns the daemon's index of the output.
    fn consumed(&self) -> u32 {
        self.index(offset_of!(Interface, out_cons)).load(Ordering::Acquire)
    }

    /// Moves as many bytes of the log to the ring as fit, and notifies the daemon.
    fn flush(&mut self, log: &mut ConsoleLog, tables: &Tables<'_>, now: u64) {
        let room = room(self.produced, self.consumed()) as usize;
        let mut produced = self.produced;
        log.take(tables, now, room, |bytes| {
            for byte in bytes {
                let place = offset_of!(Interface, output) + produced as usize % OUT_SIZE as usize;
                // SAFETY: it is a byte of the output half of the mapped ring. The daemon only reads
                // it, after `OUT_PROD` is past it.
                unsafe { ((paging::CONSOLE as usize + place) as *mut u8).write_volatile(*byte) };
                produced = produced.wrapping_add(1);
            }
        });
        if produced != self.produced {
            self.produced = produced;
            self.index(offset_of!(Interface, out_prod)).store(produced, Ordering::SeqCst);
            // Without a daemon that listens, the kernel runs on.
            let _ = hypercall::send(self.xen, self.port);
        }
    }
}

impl Output {
    /// Prints what fits of the log. `now` is the time in ns, or 0.
    fn flush(&mut self, log: &mut ConsoleLog, now: u64) {
        match &mut self.ring {
            Some(ring) => ring.flush(log, &self.tables, now),
            None => {
                let byte = |byte: &u8| {
                    if *byte != b'\r' {
                        processor::debug_byte(*byte)
                    }
                };
                log.take(&self.tables, now, usize::MAX, |bytes| bytes.iter().for_each(byte));
            }
        }
    }
}

/// Calls `add` with the log, and prints what fits. Returns `None` if lines do not go to the log
/// yet, or if it is in use by an entry that faulted.
fn with_log(now: u64, add: &mut dyn FnMut(&mut ConsoleLog, &Tables<'static>)) -> Option<()> {
    let mut log = LOG.try_lock()?;
    OUTPUT.with(|output| {
        add(&mut log, &output.tables);
        output.flush(&mut log, now);
    })
}

/// Prints a line of the kernel's own.
pub fn line(text: fmt::Arguments<'_>) {
    if with_log(0, &mut |log, _| log.add_line(text)).is_none() {
        debug_line(text);
    }
}

/// Prints text of a service at time `now` in ns. Returns `false` if a line that it ends may have
/// been dropped.
pub fn service_text(service: ServiceId, text: &[u8], now: u64) -> bool {
    let mut printed = false;
    with_log(now, &mut |log, tables| printed = log.add_text(tables, service, text, now));
    printed
}

/// Discards the text that a service has written since its last whole line.
pub fn discard_text(service: ServiceId) {
    with_log(0, &mut |log, _| log.discard_text(service));
}

/// Prints the line of a refusal at time `now` in ns.
pub fn refusal(refusal: &Refusal<'_>, now: u64) {
    with_log(now, &mut |log, _| log.add_refusal(refusal, now));
}

/// Prints how many lines were dropped, as far as that was not printed yet.
pub fn counts() {
    with_log(0, &mut |log, tables| log.add_counts(tables));
}

/// Returns `true` if lines go to Xen's ring.
pub fn has_ring() -> bool {
    OUTPUT.with(|output| output.ring.is_some()) == Some(true)
}

/// Prints a line on the debug port, and without Xen on the serial port too.
pub fn debug_line(text: fmt::Arguments<'_>) {
    let _ = DebugPort { serial: hypercall_page::chosen().is_none() }.write_fmt(format_args!("{text}\n"));
}

/// Writes to the debug port, and to the serial port if `serial`.
struct DebugPort {
    serial: bool,
}

impl Write for DebugPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            processor::debug_byte(byte);
            if self.serial {
                processor::serial_byte(byte);
            }
        }
        Ok(())
    }
}

/// Handles an event of the daemon, which has taken output or sent input, at time `now` in ns. Input
/// is dropped.
pub fn handle_event(now: u64) {
    with_log(now, &mut |_, _| ());
    OUTPUT.with(|output| {
        if let Some(ring) = &output.ring {
            let produced = ring.index(offset_of!(Interface, in_prod)).load(Ordering::Acquire);
            ring.index(offset_of!(Interface, in_cons)).store(produced, Ordering::Release);
        }
    });
}

/// Waits until the daemon has taken all output, at most for `MAX_DRAIN_YIELDS` yields.
pub fn drain() {
    for _ in 0..MAX_DRAIN_YIELDS {
        let mut waits = false;
        with_log(0, &mut |log, _| waits = !log.is_empty());
        let busy = OUTPUT.with(|output| {
            let ring = output.ring.as_ref()?;
            (waits || ring.consumed() != ring.produced).then_some(ring.xen)
        });
        let Some(xen) = busy.flatten() else { return };
        hypercall::yield_now(xen);
    }
}
