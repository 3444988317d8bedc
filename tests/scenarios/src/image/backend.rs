//! The back end on the simulated machine. It runs when an event, a watch or a frame asks for it,
//! and uses granted pages through the grant table.

use cloister_caps::EvtchnPort;
use cloister_sim::netback::Frame;
use cloister_sim::{Machine, Netback, Xenstored};

use crate::wire::Wire;

/// The guest's number.
pub const GUEST: u16 = 5;

/// The back end.
pub struct Backend {
    domain: u16,
    pub netback: Netback,
    /// If set, it keeps its mappings when the connection ends.
    pub keeps_mappings: bool,
    /// The references of the ring pages that it has mapped.
    mapped: Vec<u32>,
    /// The guest's ports that it has bound.
    bound: Vec<EvtchnPort>,
    /// The states of both ends at the last check.
    states: [Option<String>; 2],
}

impl Backend {
    pub fn new(domain: u16) -> Self {
        Backend {
            domain,
            netback: Netback::new(domain, GUEST),
            keeps_mappings: false,
            mapped: Vec::new(),
            bound: Vec::new(),
            states: [None, None],
        }
    }

    /// Runs if an event, a watch or a frame wakes it. Returns `true` if anything changed.
    pub fn run(&mut self, machine: &Machine, store: &mut Xenstored, wire: &mut Wire) -> bool {
        let domain = self.domain;
        let mut woken = !wire.to_server.is_empty();
        self.netback.waiting.extend(Frame::merged(wire.to_server.drain(..)));
        for port in &self.bound {
            woken |= machine.xen().events.take_remote(domain, *port);
        }
        let states = self.states_in(store);
        woken |= self.states != states;
        self.states = states;
        let moved = woken && self.netback.run(store, &|reference| machine.page_of(domain, reference));
        self.follow_connection(machine, store);
        for port in self.netback.events.drain(..) {
            machine.xen().events.notify(domain, EvtchnPort(port));
        }
        for frame in self.netback.sent.drain(..).flat_map(Frame::packets) {
            machine.xen().record(&frame);
            if wire.keeps() {
                wire.to_client.push_back(frame);
            }
        }
        moved
    }

    /// Returns the states that the front end and the back end have published.
    fn states_in(&self, store: &Xenstored) -> [Option<String>; 2] {
        [self.netback.front_directory(), self.netback.directory()]
            .map(|directory| store.text(&format!("{directory}/state")))
    }

    /// Maps the rings and binds the ports while there is a connection, and only then.
    fn follow_connection(&mut self, machine: &Machine, store: &Xenstored) {
        let Some(connection) = &self.netback.connection else {
            return self.end_connection(machine);
        };
        if !self.bound.is_empty() {
            return;
        }
        let (tx, rx) = connection.ports;
        self.bound = vec![EvtchnPort(tx), EvtchnPort(rx)];
        self.bound.dedup();
        for port in &self.bound {
            assert!(machine.xen().events.bind(self.domain, *port), "{port} is not for the back end");
        }
        for name in ["tx-ring-ref", "rx-ring-ref"] {
            let text = store.text(&format!("{}/{name}", self.netback.front_directory()));
            let reference = text.and_then(|text| text.parse().ok()).expect("the back end has read it");
            machine.map(self.domain, reference, true).expect("a ring page is granted for writing");
            self.mapped.push(reference);
        }
    }

    /// Ends the connection.
    pub fn end_connection(&mut self, machine: &Machine) {
        self.netback.connection = None;
        for port in self.bound.drain(..) {
            machine.xen().events.unbind(self.domain, port);
        }
        if !self.keeps_mappings {
            for reference in self.mapped.drain(..) {
                machine.unmap(self.domain, reference, true);
            }
        }
    }
}
