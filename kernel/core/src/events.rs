//! Takes the events that Xen marks as pending in the shared info page, in the two-level form
//! (`evtchn_pending`, `evtchn_mask` and `evtchn_pending_sel` of `xen.h`).

use cloister_caps::EvtchnPort;
use cloister_caps::xen::event::PORTS;

/// The words with the ports' bits. Each has 64.
pub const PORT_WORDS: usize = PORTS / 64;

/// The words of the shared info page that say which events are pending. Xen and other domains may
/// change them at any moment.
pub trait EventWords {
    /// Clears the flag that events are pending. Returns `true` if it was set.
    fn take_upcall(&self) -> bool;
    /// Clears the selector. Returns the bits that were set: one for each word that may have
    /// pending ports.
    fn take_selector(&self) -> u64;
    /// Takes the ports of a word that are pending and not masked: masks them and clears their
    /// events. Returns their bits. `index` is below [`PORT_WORDS`].
    fn take_ports(&self, index: usize) -> u64;
}

/// Takes each event that is pending and not masked, in one round: masks its port, clears the event,
/// and calls `handle` with the port.
///
/// `handle` may unmask the port. Events that come meanwhile are left for the next interrupt, which
/// Xen delivers as soon as a service runs: so each port is handled at most once, however fast its
/// peer sends.
#[inline]
pub fn take_events(words: impl EventWords, mut handle: impl FnMut(EvtchnPort)) {
    if !words.take_upcall() {
        return;
    }
    let mut selector = words.take_selector();
    while selector != 0 {
        let index = selector.trailing_zeros();
        selector &= selector - 1;
        let mut ports = words.take_ports(index as usize);
        while ports != 0 {
            let port = index * 64 + ports.trailing_zeros();
            ports &= ports - 1;
            handle(EvtchnPort(port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::BTreeSet;

    /// The words as plain memory.
    struct Page {
        upcall: Cell<bool>,
        selector: Cell<u64>,
        pending: [Cell<u64>; PORT_WORDS],
        mask: [Cell<u64>; PORT_WORDS],
    }

    impl Page {
        /// Creates a page without events, of which all ports are unmasked.
        fn new() -> Page {
            Page {
                upcall: Cell::new(false),
                selector: Cell::new(0),
                pending: [const { Cell::new(0) }; PORT_WORDS],
                mask: [const { Cell::new(0) }; PORT_WORDS],
            }
        }

        /// Does what Xen does for an event (`evtchn_2l_set_pending`): it delivers it only if the
        /// port was not pending, and is not masked.
        fn send(&self, port: u32) {
            let (index, bit) = (port as usize / 64, 1 << (port % 64));
            let before = self.pending[index].replace(self.pending[index].get() | bit);
            if before & bit == 0 && self.mask[index].get() & bit == 0 {
                self.selector.set(self.selector.get() | 1 << index);
                self.upcall.set(true);
            }
        }

        /// Unmasks a port, and has Xen deliver what came while it was masked.
        fn unmask(&self, port: u32) {
            let (index, bit) = (port as usize / 64, 1 << (port % 64));
            self.mask[index].set(self.mask[index].get() & !bit);
            if self.pending[index].get() & bit != 0 {
                self.selector.set(self.selector.get() | 1 << index);
                self.upcall.set(true);
            }
        }
    }

    impl EventWords for &Page {
        fn take_upcall(&self) -> bool {
            self.upcall.replace(false)
        }
        fn take_selector(&self) -> u64 {
            self.selector.replace(0)
        }
        fn take_ports(&self, index: usize) -> u64 {
            let bits = self.pending[index].get() & !self.mask[index].get();
            self.mask[index].set(self.mask[index].get() | bits);
            self.pending[index].set(self.pending[index].get() & !bits);
            bits
        }
    }

    /// The console daemon and the timer send an event each time that theirs is handled and
    /// unmasked.
    #[test]
    fn a_port_whose_peer_sends_without_end_is_handled_once() {
        let page = Page::new();
        let storm = [3, 3 + 64, 4095];
        storm.iter().for_each(|port| page.send(*port));
        for _ in 0..3 {
            let mut handled = Vec::new();
            take_events(&page, |EvtchnPort(port)| {
                handled.push(port);
                assert!(handled.len() < 100, "it does not end");
                page.unmask(port);
                page.send(port);
            });
            assert_eq!(handled, storm);
            assert!(page.upcall.get(), "the next interrupt is due");
        }
    }

    #[test]
    fn without_an_upcall_nothing_is_taken() {
        let page = Page::new();
        page.send(9);
        page.upcall.set(false);
        take_events(&page, |port| panic!("{port}"));
    }

    proptest! {
        /// Each port is handled at most once in a round, whatever comes meanwhile, and no event is
        /// lost: once no more come, each that was sent since it was last handled is handled.
        #[test]
        fn each_event_is_handled_in_this_round_or_the_next(
            first in prop::collection::vec(0_u32..4096, 0..60),
            later in prop::collection::vec((0_u32..4096, any::<bool>()), 0..60),
        ) {
            let page = Page::new();
            first.iter().for_each(|port| page.send(*port));
            let mut due: BTreeSet<u32> = first.iter().copied().collect();
            let mut later = later.into_iter();
            for _ in 0..200 {
                let mut handled = BTreeSet::new();
                take_events(&page, |EvtchnPort(port)| {
                    assert!(handled.insert(port), "{port} twice in a round");
                    due.remove(&port);
                    page.unmask(port);
                    for (port, again) in later.by_ref().take(2) {
                        let port = if again { handled.first().copied().unwrap_or(port) } else { port };
                        page.send(port);
                        due.insert(port);
                    }
                });
                prop_assert!(page.upcall.get() || due.is_empty(), "an interrupt comes if an event is due");
            }
            prop_assert!(due.is_empty());
        }
    }
}
