//! The whole shipped image: its six services and the kernel, with a XenStore daemon, a network back
//! end, and a client on the network.

mod backend;
mod programs;

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use cloister_policy::Checked;
use cloister_sim::hypervisor::events::XENSTORE_PORT;
use cloister_sim::hypervisor::{End, Machine, Setup, Step};
use cloister_sim::{Netback, Xenstored};

use crate::client::{Client, Network};
use backend::{Backend, GUEST};

/// The longest sleep of the whole simulation, in ns.
const LONGEST_SLEEP: u64 = 50_000_000;

/// The settings of an image.
pub struct Options {
    /// The text of the policy: [`fused_policy`], or one with the services, queues and capabilities
    /// of the shipped policy, with which the programs are compiled.
    pub policy: String,
    /// The guest's command line.
    pub command_line: &'static str,
    /// The guest's module.
    pub site: Vec<u8>,
    /// The guest's memory, in bytes.
    pub memory: u64,
    /// The number of the back end's domain.
    pub backend: u16,
    /// The seed of random bits and of all durations.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            policy: shipped_policy(),
            command_line: "ip=10.0.0.2/24 gw=10.0.0.1",
            site: Vec::new(),
            memory: 16 << 20,
            backend: 0,
            seed: 1,
        }
    }
}

/// Returns the text of the policy that ships.
///
/// # Panics
/// The file cannot be read.
#[must_use]
pub fn shipped_policy() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/default.toml");
    std::fs::read_to_string(path).expect("policy/default.toml")
}

/// Returns the text of the policy of the fused build, whose services are one program.
///
/// # Panics
/// The file cannot be read.
#[must_use]
pub fn fused_policy() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/fused.toml");
    std::fs::read_to_string(path).expect("tests/guests/fused.toml")
}

/// The numbers of the driver domains of [`driver_domain_policy`].
pub const DRIVER_DOMAIN: u16 = 12;
/// The other one.
pub const OTHER_DRIVER_DOMAIN: u16 = 13;

/// Returns the text of the policy that ships, with the back end in one of two driver domains.
///
/// # Panics
/// The policy that ships does not have its back end in domain 0.
#[must_use]
pub fn driver_domain_policy() -> String {
    let text = shipped_policy();
    let changed = text.replace("ids = \"0\"", &format!("ids = \"{DRIVER_DOMAIN}-{OTHER_DRIVER_DOMAIN}\""));
    assert!(changed != text, "the back end of the policy that ships is not in domain 0");
    changed
}

/// The image, and the domains and the client around it.
pub struct Image {
    /// The machine that it runs on.
    pub machine: Rc<Machine>,
    /// The policy.
    pub policy: Checked,
    /// The client.
    pub client: Client,
    backend: Backend,
    /// The back end before the device was given another one.
    earlier: Option<Backend>,
    store: Xenstored,
    /// `true` if another domain than the guest has used the store.
    store_used: bool,
}

impl Image {
    /// Creates an image with a network device.
    ///
    /// # Panics
    /// The policy does not hold, or its regions do not fit in the memory.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let mut image = Image::without_device(options);
        image.backend.netback.create(&mut image.store);
        image
    }

    /// Creates an image without a network device.
    ///
    /// # Panics
    /// The policy does not hold, or its regions do not fit in the memory.
    #[must_use]
    pub fn without_device(options: Options) -> Self {
        let policy = cloister_policy::parse("the policy", &options.policy).unwrap_or_else(|report| panic!("{report}"));
        let machine = Machine::new(Setup {
            tables: policy.tables().expect("tables"),
            data: policy.data().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect(),
            memory: options.memory,
            command_line: options.command_line.to_string(),
            module: options.site,
            seed: options.seed,
        })
        .unwrap_or_else(|error| panic!("{error}"));
        if options.policy == fused_policy() {
            machine.install("fused", programs::fused::make);
        } else {
            programs::install(&machine);
        }
        if policy.canonical().contains(&format!("ids = \"{DRIVER_DOMAIN}-{OTHER_DRIVER_DOMAIN}\"")) {
            machine.install("netfront", programs::driver_domain_netfront::make);
        }
        let store = Xenstored::new(machine.region("xenstore-ring"), GUEST);
        let backend = Backend::new(options.backend);
        Image { machine, policy, client: Client::new(), backend, earlier: None, store, store_used: true }
    }

    /// Returns the XenStore daemon, for changes by the toolstack.
    pub fn store(&mut self) -> &mut Xenstored {
        self.store_used = true;
        &mut self.store
    }

    /// Returns the back end.
    pub fn netback(&mut self) -> &mut Netback {
        &mut self.backend.netback
    }

    /// Creates the device, as the toolstack does.
    pub fn create_device(&mut self) {
        self.store_used = true;
        self.backend.netback.create(&mut self.store);
    }

    /// Removes the device, as the toolstack does.
    pub fn remove_device(&mut self) {
        self.store_used = true;
        self.backend.end_connection(&self.machine);
        self.backend.netback.destroy(&mut self.store);
    }

    /// Gives the device a back end in another domain, as the toolstack does: it removes the device
    /// and creates it again. If the earlier back end keeps its mappings, it does so until
    /// [`Image::release_earlier`].
    pub fn move_device(&mut self, domain: u16) {
        self.remove_device();
        self.earlier = Some(std::mem::replace(&mut self.backend, Backend::new(domain)));
        self.create_device();
    }

    /// Makes the earlier back end end its mappings.
    pub fn release_earlier(&mut self) {
        if let Some(mut earlier) = self.earlier.take() {
            earlier.keeps_mappings = false;
            earlier.end_connection(&self.machine);
        }
    }

    /// Returns the domains that the guest shares a page or an event channel of a service with.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<u16> {
        let xen = self.machine.xen();
        let granted = xen.grants.active().map(|(_, _, peer, _)| peer.0);
        granted.chain(xen.events.peers()).collect()
    }

    /// Ends the connection at the back end, and announces it.
    pub fn close_back_end(&mut self) {
        self.store_used = true;
        self.backend.end_connection(&self.machine);
        self.backend.netback.set_state(&mut self.store, "5");
    }

    /// Makes the back end keep its mappings of the rings, whatever it announces, or stop keeping
    /// them.
    pub fn keep_mappings(&mut self, keeps_mappings: bool) {
        self.backend.keeps_mappings = keeps_mappings;
    }

    /// Returns the front end's state.
    #[must_use]
    pub fn front_state(&self) -> Option<String> {
        self.store.text(&format!("{}/state", self.backend.netback.front_directory()))
    }

    /// Returns the console output so far.
    #[must_use]
    pub fn console(&self) -> String {
        self.machine.xen().console()
    }

    /// Returns how the domain ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.machine.ended()
    }

    /// Runs until `done` returns `true`, for at most `seconds` of virtual time. Returns `true` if
    /// it did.
    pub fn until(&mut self, seconds: u64, mut done: impl FnMut(&mut Image) -> bool) -> bool {
        let end = self.machine.now() + seconds * 1_000_000_000;
        while self.machine.now() < end {
            if done(self) {
                return true;
            }
            if self.ended().is_some() {
                break;
            }
            self.step();
        }
        done(self)
    }

    /// Runs until the web server listens.
    ///
    /// # Panics
    /// It does not listen within a minute of virtual time.
    pub fn listens(&mut self, times: usize) {
        let listens = |image: &mut Image| image.console().matches("listening on port 80").count() >= times;
        assert!(self.until(60, listens), "{}", self.console());
    }

    /// Runs everything except the guest once. Returns `true` if anything changed.
    fn world(&mut self) -> bool {
        let woken = self.machine.xen().events.take_remote(0, XENSTORE_PORT);
        let mut moved = false;
        if (woken || std::mem::take(&mut self.store_used)) && self.store.run() {
            self.machine.xen().events.notify(0, XENSTORE_PORT);
            moved = true;
        }
        if self.backend.run(&self.machine, &mut self.store, &mut self.client.wire) {
            // The back end's states are watched.
            self.store_used = true;
            moved = true;
        }
        moved | self.client.poll(self.machine.now())
    }
}

impl Network for Image {
    fn step(&mut self) {
        let (now, world_first) = (self.machine.now(), self.machine.xen().jitter(4) == 0);
        if world_first {
            self.world();
        }
        if self.machine.step(now) == Step::Idle && !self.world() {
            let now = self.machine.now();
            let sleeps = self.client.poll_delay(now).unwrap_or(LONGEST_SLEEP).clamp(1_000, LONGEST_SLEEP);
            self.machine.step(now + sleeps);
        }
    }

    fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}
