//! Does, in the allowed way, the same things as the attempts beside it.
#![forbid(unsafe_code)]

use cloister_caps::{DomId, EvtchnPort, GrantRef};
use cloister_interfaces::capability::{Clock, Console, Grant, Port};
use cloister_interfaces::store::Store;
use cloister_interfaces::system::ExclusiveMemory;
use cloister_interfaces::{Client, Instant, Memory, Notifications, Server, Service, System, net, store};

struct Caps<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    port: Port<S>,
    rule: Grant<S>,
    store: Client<Store, S, M>,
    net: Server<net::Net, S, M>,
    ring: M,
}

struct Clerk<S, M> {
    caps: Caps<S, M>,
}

fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    Clerk { caps }
}

fn say<S: System>(console: &Console<S>, now: Instant) {
    console.line(format_args!("{now}"));
}

impl<S: System, M: Memory> Service for Clerk<S, M> {
    fn notified(&mut self, _: Notifications) {
        say(&self.caps.console, self.caps.clock.now());
        let _: Result<GrantRef, _> = self.caps.rule.issue(0, 1, DomId(0));
        let _: Result<EvtchnPort, _> = self.caps.port.open(DomId(0));
        let _ = self.caps.store.requests.send(&store::Request { id: 0, action: store::Action::Begin });
        let _ = self.caps.store.replies.pop();
        let _ = self.caps.net.replies.send(&net::Reply::Down);
        self.caps.ring.store(0, 1);
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

fn first<O: ExclusiveMemory>(own: &mut O) -> Option<u8> {
    own.edit(0, 1, |bytes| bytes[0])
}

mod clerk {
    use cloister_interfaces::Memory;
    use cloister_interfaces::capability::Console;

    pub struct Caps<S, M: Memory> {
        pub console: Console<S>,
        pub notes: M,
    }
}

include!("clerk.bindings");

fn main() {
    let _ = (service::<cloister_runtime::Kernel, cloister_runtime::SharedRegion>, capabilities, HEAP, CONSOLE);
    let _ = first::<cloister_runtime::OwnedRegion>;
    let notes = |caps: clerk::Caps<cloister_runtime::Kernel, cloister_runtime::SharedRegion>| (caps.console, caps.notes);
    let _ = notes;
}
