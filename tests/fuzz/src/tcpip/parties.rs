//! The parties around tcpip. Each is hostile in one target.

use arbitrary::Arbitrary;
use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{Reply as LinkReply, Request as LinkRequest, TxPage};
use cloister_interfaces::socket;
use cloister_interfaces::{Memory, control};

use super::packet::Frame;
use super::{Bench, Hostile, PAGES};
use crate::host::Pause;
use crate::peer::{Act, Any};
use crate::script::{Bytes, Trace, World};

/// The queue depth, and `true` if the address is static.
#[derive(Arbitrary, Debug)]
pub struct Setup {
    depth: u8,
    fixed: bool,
}

/// A step of every target.
#[derive(Arbitrary, Debug)]
pub enum Common {
    Frame(Box<Frame>),
    /// tcpip runs this number of times.
    Run(u8),
    Lie(Bytes),
    Pass(Pause),
}

impl Bench {
    fn common(&mut self, step: &Common) {
        match step {
            Common::Frame(frame) => {
                let bytes = frame.bytes(&self.last);
                self.frame(&bytes);
            }
            Common::Run(times) => self.turns(usize::from(times % 32)),
            Common::Lie(Bytes(bytes)) => {
                self.host.script.lie(bytes);
                match self.hostile {
                    Hostile::Link => self.link.record_lie(),
                    Hostile::Application => self.application.record_lie(),
                    Hostile::Control => self.control.record_lie(),
                    Hostile::Wire => {}
                }
            }
            Common::Pass(pause) => self.host.pass(pause.nanoseconds()),
        }
    }
}

/// The target: tcpip against a hostile wire.
pub struct HostileWire(Bench);

impl World for HostileWire {
    type Setup = Setup;
    type Step = Common;

    fn new(setup: Setup, trace: &Trace) -> Self {
        HostileWire(Bench::new(Hostile::Wire, setup.depth, setup.fixed, trace))
    }

    fn step(&mut self, step: Common) {
        self.0.common(&step);
        self.0.turn();
    }

    fn honest(mut self) {
        if self.0.host.recorder.console().contains("10.0.0.2") {
            self.0.works();
        }
    }
}

/// A step of a hostile link, or of the other parties.
#[derive(Arbitrary, Debug)]
pub enum LinkStep {
    Link(Act<Any<LinkReply>>),
    /// A frame in a page of the pool.
    Page {
        page: u8,
        offset: u16,
        length: u16,
        more: bool,
        checked: bool,
        frame: Box<Frame>,
    },
    Transmitted(u8),
    Application(Act<Any<socket::Request>>),
    Common(Common),
}

/// The target: tcpip against a hostile netfront.
pub struct HostileLink(Bench);

impl World for HostileLink {
    type Setup = Setup;
    type Step = LinkStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        HostileLink(Bench::new(Hostile::Link, setup.depth, true, trace))
    }

    fn step(&mut self, step: LinkStep) {
        let bench = &mut self.0;
        match step {
            LinkStep::Link(act) => {
                for request in bench.link.act(act, &bench.host) {
                    if let LinkRequest::Transmit { page: TxPage(page), length, .. } = request {
                        let end = usize::from(page) * PAGE_SIZE + usize::from(length);
                        assert!(end <= usize::from(PAGES) * PAGE_SIZE, "{request:?} leaves the pool");
                    }
                }
            }
            LinkStep::Page { page, offset, length, more, checked, frame } => {
                let bytes = frame.bytes(&bench.last);
                let page = u16::from(page) % (PAGES + 1);
                let offset = if offset % 4 == 0 { offset } else { offset % 64 };
                let length = if length % 4 == 0 { length } else { bytes.len() as u16 };
                bench.rx_pool.write(usize::from(page) * PAGE_SIZE + usize::from(offset), &bytes);
                // As words: a message of its type cannot hold every offset and length.
                let flags = u8::from(more) | u8::from(checked) << 1;
                let fields = [page, offset, length].map(u16::to_le_bytes).concat();
                bench.link.send_bytes(&[&[3, flags][..], &fields].concat());
            }
            LinkStep::Transmitted(page) => {
                bench.link.send(&LinkReply::Transmitted { page: TxPage(u16::from(page) % (PAGES + 1)) });
            }
            LinkStep::Application(act) => {
                if matches!(act, Act::Lie(_)) {
                    // The lies also change the words that the link wrote.
                    bench.link.record_lie();
                }
                bench.application.act(act, &bench.host);
            }
            LinkStep::Common(step) => bench.common(&step),
        }
        bench.turn();
    }

    fn honest(mut self) {
        let bench = &mut self.0;
        bench.application.behave(&bench.host);
        bench.hostile = Hostile::Link;
        bench.open.clear();
        // The application restarts, too.
        for _ in 0..2 {
            bench.application.send(&socket::Request::Listen { port: 80 });
            bench.turns(8);
        }
        bench.works();
    }
}

/// A step of a hostile application, or of the other parties.
#[derive(Arbitrary, Debug)]
pub enum SocketStep {
    Application(Act<Any<socket::Request>>),
    /// A request about a connection that may exist.
    Listen(u8),
    Close(u8, bool),
    Consumed(u8, u16),
    Common(Common),
}

/// The target: tcpip against a hostile application.
pub struct HostileApplication(Bench);

impl World for HostileApplication {
    type Setup = Setup;
    type Step = SocketStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        HostileApplication(Bench::new(Hostile::Application, setup.depth, true, trace))
    }

    fn step(&mut self, step: SocketStep) {
        let bench = &mut self.0;
        let connection = |index: u8| socket::ConnectionId(u16::from(index) % 6);
        match step {
            SocketStep::Application(act) => drop(bench.application.act(act, &bench.host)),
            SocketStep::Listen(port) => {
                bench.application.send(&socket::Request::Listen { port: u16::from(port % 90) });
            }
            SocketStep::Close(index, abort) => {
                let connection = connection(index);
                bench.application.send(&match abort {
                    true => socket::Request::Abort { connection },
                    false => socket::Request::Close { connection },
                });
            }
            SocketStep::Consumed(index, length) => {
                let (connection, length) = (connection(index), length.into());
                bench.application.send(&socket::Request::Consumed { connection, length });
            }
            SocketStep::Common(step) => bench.common(&step),
        }
        bench.turn();
    }

    fn honest(mut self) {
        self.0.works();
    }
}

/// A step of a hostile control service, or of the other parties.
#[derive(Arbitrary, Debug)]
pub enum ControlStep {
    Control(Act<Any<control::Request>>),
    /// A step that is common to all targets.
    Common(Common),
}

/// The target: tcpip against a hostile control service.
pub struct HostileControl {
    bench: Bench,
    /// It may have requested tcpip to quiesce, as it is allowed to.
    requested: bool,
}

impl World for HostileControl {
    type Setup = Setup;
    type Step = ControlStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        HostileControl { bench: Bench::new(Hostile::Control, setup.depth, true, trace), requested: false }
    }

    fn step(&mut self, step: ControlStep) {
        let bench = &mut self.bench;
        match step {
            ControlStep::Control(act) => {
                self.requested |= !matches!(act, Act::Receive | Act::Tail(_) | Act::Events(..) | Act::Restart);
                bench.control.act(act, &bench.host);
            }
            ControlStep::Common(step) => bench.common(&step),
        }
        bench.turn();
    }

    fn honest(mut self) {
        let bench = &mut self.bench;
        bench.control.behave(&bench.host);
        if !self.requested {
            return bench.works();
        }
        // tcpip quiesces in order, and says so.
        bench.hostile = Hostile::Wire;
        let mut sent = false;
        for _ in 0..40 {
            sent = sent || bench.control.send(&control::Request::Quiesce);
            bench.settle();
            bench.host.pass(1_000_000_000);
        }
        assert!(sent, "it takes no request");
        assert!(bench.quiet, "it is not quiet: {}", bench.host.recorder.console());
    }
}
