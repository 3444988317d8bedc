//! The phases of a connection. Each carries the data that exists in it, and no other.

use core::ops::{Index, IndexMut};
use core::time::Duration;

use bitflags::bitflags;
use cloister_caps::{DomId, EvtchnPort, GrantRef};
use cloister_interfaces::Instant;
use cloister_interfaces::net::Offloads;
use cloister_interfaces::store::Path;

use crate::keys::Backend;
use crate::ring::Violation;

/// The device's directory, relative to the domain's.
pub(super) const DEVICE: &str = "device/vif/0";
/// The time that another service has to answer a request.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(15);
/// The time that the back end has to offer a connection, and then to connect. Hotplug scripts take
/// seconds.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(60);
/// The time that the back end has to close.
pub(super) const CLOSE_TIME: Duration = Duration::from_secs(5);
/// The time between two requests to end the grants of pages that a back end still maps. The grant
/// manager also reports when they are free, but it may have been restarted since.
pub(super) const STILL_MAPPED_POLL: Duration = Duration::from_secs(300);

/// Returns the path of the node `name` of the device.
pub(super) fn node(name: &str) -> Path {
    let mut path = Path::new();
    // Every name fits.
    let _ = path.try_push_str(DEVICE);
    let _ = path.try_push_str("/");
    let _ = path.try_push_str(name);
    path
}

/// A part of memory that is granted to the back end, under a grant rule of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Area {
    /// The ring pages.
    Rings,
    /// The rx-pool, which the back end fills.
    RxPool,
    /// The tx-pool, which the back end sends from.
    TxPool,
}

impl Area {
    /// Every area, in the order in which they are granted.
    pub(super) const ALL: [Area; 3] = [Area::Rings, Area::RxPool, Area::TxPool];

    /// Returns the area after this one.
    pub(super) fn next(self) -> Option<Area> {
        match self {
            Area::Rings => Some(Area::RxPool),
            Area::RxPool => Some(Area::TxPool),
            Area::TxPool => None,
        }
    }
}

/// A value for each area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PerArea<T>(pub(super) [T; 3]);

impl<T> Index<Area> for PerArea<T> {
    type Output = T;

    fn index(&self, area: Area) -> &T {
        let [rings, rx_pool, tx_pool] = &self.0;
        match area {
            Area::Rings => rings,
            Area::RxPool => rx_pool,
            Area::TxPool => tx_pool,
        }
    }
}

impl<T> IndexMut<Area> for PerArea<T> {
    fn index_mut(&mut self, area: Area) -> &mut T {
        let [rings, rx_pool, tx_pool] = &mut self.0;
        match area {
            Area::Rings => rings,
            Area::RxPool => rx_pool,
            Area::TxPool => tx_pool,
        }
    }
}

/// The grants of an area, as far as the grant manager has reported them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Grants {
    /// Pages may be granted: this run of the service requested it, or an earlier run may have.
    Possible,
    /// All were ended. A back end still maps this number of pages.
    Ended { still_mapped: u16 },
}

/// The watches of this service in XenStore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Watches {
    /// None, as far as this run of the service knows.
    None,
    /// The watch on the device's `backend` node.
    Device,
    /// That watch, and the one on the `state` node of this back end.
    DeviceAndBackend(Backend),
}

/// A device.
///
/// # Holding one proves
/// Its nodes were read and are in form, and the policy allows the domain of the back end as peer of
/// all three grant rules. They may be of two devices until `state` was read, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Device {
    pub(super) backend: Backend,
    pub(super) mac: [u8; 6],
    /// The length of the largest IP packet, in bytes.
    pub(super) mtu: u16,
}

bitflags! {
    /// The features that a back end offers.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Features: u8 {
        /// The receive ring has a port of its own (`feature-split-event-channels`).
        const SPLIT = 1;
        /// The back end takes frames of several slots (`feature-sg`).
        const SCATTER_GATHER = 2;
        /// The back end splits TCP segments (`feature-gso-tcpv4`).
        const SEGMENTATION = 4;
    }
}

/// A device, and the features of its back end.
///
/// # Holding one proves
/// The back end was in state `InitWait`, copies received frames, and offers these features.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) device: Device,
    pub(super) features: Features,
}

impl Offer {
    /// Returns the offloads of the back end for frames to send. Every back end completes the
    /// checksums of IPv4 frames: there is no key for it.
    pub(super) fn offloads(&self) -> Offloads {
        let long = self.features.contains(Features::SCATTER_GATHER | Features::SEGMENTATION);
        if long { Offloads::CHECKSUM | Offloads::SEGMENTS } else { Offloads::CHECKSUM }
    }

    /// Returns `true` if the receive ring has a port of its own.
    pub(super) fn is_split(&self) -> bool {
        self.features.contains(Features::SPLIT)
    }
}

/// The references under which the first pages of the areas are granted. Those of the other pages
/// follow.
///
/// # Holding one proves
/// Every page of the three areas was granted to the back end's domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct References {
    pub(super) rings: GrantRef,
    pub(super) rx_pool: GrantRef,
    pub(super) tx_pool: GrantRef,
}

/// The data that the front end publishes for the back end.
///
/// # Holding one proves
/// The areas were granted, and the ports are open for the back end's domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shared {
    pub(super) references: References,
    /// The port for frames to send.
    pub(super) tx: EvtchnPort,
    /// The port for received frames: the same one, unless the back end offers
    /// [`Features::SPLIT`].
    pub(super) rx: EvtchnPort,
}

/// A connection with a back end.
///
/// # Holding one proves
/// Both ends have written the state `Connected`. All pages of the three areas are granted to the
/// back end's domain, the ports are open, and the keys that name them are published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackEndConnection {
    pub(super) offer: Offer,
    /// The time at which it was made.
    pub(super) since: Instant,
}

impl BackEndConnection {
    /// Returns the interface's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.offer.device.mac
    }

    /// Returns the length of the largest IP packet, in bytes.
    pub fn mtu(&self) -> u16 {
        self.offer.device.mtu
    }

    /// Returns `true` if the receive ring has a port of its own.
    pub fn is_split(&self) -> bool {
        self.offer.is_split()
    }

    /// Returns the offloads of the back end for frames to send.
    pub fn offloads(&self) -> Offloads {
        self.offer.offloads()
    }
}

/// A directory of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Directory {
    /// The device's.
    Device,
    Backend(Backend),
}

/// A phase of a connection. The order is that of the variants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Waits for the deadline, or for a change of the device.
    Paused,
    /// Sets the watch on the device's `backend` node.
    WatchingDevice,
    /// Reads the nodes of the device.
    Probing(Probe),
    /// Waits for the back end's offer, and reads it.
    Negotiating(Negotiating),
    /// Grants the areas, opens the ports, and publishes both.
    Connecting(Connecting),
    /// There is a connection.
    Up(BackEndConnection),
    /// Ends a connection, as far as it was made.
    Closing(Closing),
    /// Does nothing any more: the connection was closed for good.
    Stopped,
}

/// The node of the device that is read next, with the values of those before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Probe {
    BackendId,
    /// The domain is one that the policy allows.
    Backend(DomId),
    Mac(Backend),
    Mtu(Backend, [u8; 6]),
    /// The back end's node.
    Online(Device),
    /// This front end's own state.
    State(Device),
}

/// The exchange with a back end before anything is granted to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Negotiating {
    pub(super) device: Device,
    /// The features found so far.
    pub(super) features: Features,
    pub(super) step: NegotiationStep,
}

/// A step of [`Negotiating`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NegotiationStep {
    /// Removes the watch on the state of another back end.
    Unwatch,
    /// Watches the state of this one.
    Watch,
    /// Writes the state `Initialising`.
    Initialise,
    /// Waits for the back end's state `InitWait`.
    AwaitInit,
    RxCopy,
    Split,
    ScatterGather,
    Segmentation,
}

/// The making of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Connecting {
    pub(super) offer: Offer,
    pub(super) step: ConnectionStep,
}

/// A step of [`Connecting`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ConnectionStep {
    /// Ends the grants of an earlier connection. `waited` is `true` if some of their pages had to
    /// be waited for.
    EndEarlier {
        area: Area,
        waited: bool,
    },
    /// Checks whether a back end still maps pages of an earlier connection.
    CheckFree {
        waited: bool,
    },
    /// Waits until no back end maps such pages.
    AwaitFree,
    /// Empties the rings.
    ResetRings,
    GrantRings,
    GrantRxPool {
        rings: GrantRef,
    },
    GrantTxPool {
        rings: GrantRef,
        rx_pool: GrantRef,
    },
    OpenPorts(References),
    /// Posts the pages of the rx-pool.
    Start(Shared),
    Publish(Publication, PublicationStep),
    /// Writes the state `Connected`.
    Connect,
    /// Waits for the back end's state `Connected`.
    AwaitConnected,
}

/// The transaction that publishes the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Publication {
    pub(super) shared: Shared,
    /// The number of times that it conflicted with another.
    pub(super) conflicts: u8,
}

/// A step of a [`Publication`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PublicationStep {
    Begin,
    /// Writes the key with this index.
    Key(u8),
    Commit,
}

/// The end of a connection, and what there is of it to undo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Closing {
    pub(super) step: ClosingStep,
    /// A transaction may be open.
    pub(super) open_transaction: bool,
    /// The violation to write to the device's error node.
    pub(super) report: Option<Violation>,
    /// The back end, if it is there and may have seen a state of this front end beyond
    /// `Initialising`. Then it sees this front end close.
    pub(super) informed: Option<Backend>,
    pub(super) next: Next,
}

/// A step of [`Closing`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ClosingStep {
    /// Stops using the rings.
    Stop,
    Abort,
    Report,
    /// Writes the state `Closing`.
    WriteClosing,
    /// Waits for the back end's state `Closing` or `Closed`.
    AwaitClosing,
    EndGrants(Area),
    /// Writes the state `Closed`.
    WriteClosed,
}

/// The continuation after a connection was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Pause, and start over.
    Pause,
    /// Start over at once, because the device changed meanwhile.
    StartOver,
    /// Stop for good.
    Stop,
}

impl Phase {
    /// Returns the phase that begins to read the device.
    pub(super) const PROBE: Phase = Phase::Probing(Probe::BackendId);

    /// Returns `true` if the connection is being ended, or was closed for good.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self, Phase::Closing(_) | Phase::Stopped)
    }

    /// Returns `true` if the device's back end is used, and must be verified when the device
    /// changes.
    pub(super) fn depends_on_device(&self) -> bool {
        matches!(
            self,
            Phase::Negotiating(Negotiating { step: NegotiationStep::AwaitInit, .. })
                | Phase::Connecting(Connecting { step: ConnectionStep::AwaitConnected, .. })
                | Phase::Up(_)
        )
    }

    /// Returns the time that the step may take.
    pub(super) fn time_limit(&self) -> Option<Duration> {
        match self {
            Phase::Up(_) | Phase::Stopped => None,
            Phase::Negotiating(Negotiating { step: NegotiationStep::AwaitInit, .. })
            | Phase::Connecting(Connecting { step: ConnectionStep::AwaitConnected, .. }) => Some(CONNECT_TIME),
            Phase::Connecting(Connecting { step: ConnectionStep::AwaitFree, .. }) => Some(STILL_MAPPED_POLL),
            Phase::Closing(Closing { step: ClosingStep::AwaitClosing, .. }) => Some(CLOSE_TIME),
            _ => Some(ANSWER_TIME),
        }
    }

    /// Returns the directory and the name of the node that the step reads, if it reads one.
    pub(super) fn node_to_read(&self) -> Option<(Directory, &'static str)> {
        let (backend, name) = match self {
            Phase::Probing(probe) => match probe {
                Probe::BackendId => return Some((Directory::Device, "backend-id")),
                Probe::Backend(_) => return Some((Directory::Device, "backend")),
                Probe::Mac(_) => return Some((Directory::Device, "mac")),
                Probe::Mtu(..) => return Some((Directory::Device, "mtu")),
                Probe::State(_) => return Some((Directory::Device, "state")),
                Probe::Online(device) => (device.backend, "online"),
            },
            Phase::Negotiating(Negotiating { device, step, .. }) => (device.backend, step.node_to_read()?),
            Phase::Connecting(Connecting { offer, step: ConnectionStep::AwaitConnected })
            | Phase::Up(BackEndConnection { offer, .. }) => (offer.device.backend, "state"),
            Phase::Closing(Closing { step: ClosingStep::AwaitClosing, informed: Some(backend), .. }) => {
                (*backend, "state")
            }
            _ => return None,
        };
        Some((Directory::Backend(backend), name))
    }

    /// Returns the area whose pages the step grants.
    pub(super) fn area_to_grant(&self) -> Option<Area> {
        let Phase::Connecting(Connecting { step, .. }) = self else { return None };
        match step {
            ConnectionStep::GrantRings => Some(Area::Rings),
            ConnectionStep::GrantRxPool { .. } => Some(Area::RxPool),
            ConnectionStep::GrantTxPool { .. } => Some(Area::TxPool),
            _ => None,
        }
    }

    /// Returns the area whose grants the step ends.
    pub(super) fn area_to_end(&self) -> Option<Area> {
        match self {
            Phase::Connecting(Connecting { step: ConnectionStep::EndEarlier { area, .. }, .. })
            | Phase::Closing(Closing { step: ClosingStep::EndGrants(area), .. }) => Some(*area),
            _ => None,
        }
    }
}

impl Probe {
    /// Returns `true` if the device needs no such node.
    pub(super) fn is_optional(&self) -> bool {
        matches!(self, Probe::Mtu(..) | Probe::Online(_) | Probe::State(_))
    }
}

impl Directory {
    /// Returns the path of the node `name` in the directory.
    pub(super) fn node(self, name: &str) -> Path {
        match self {
            Directory::Device => node(name),
            Directory::Backend(backend) => backend.node(name),
        }
    }
}

impl NegotiationStep {
    /// Returns the name of the back end's node that the step reads, if it reads one.
    fn node_to_read(self) -> Option<&'static str> {
        match self {
            NegotiationStep::Unwatch | NegotiationStep::Watch | NegotiationStep::Initialise => None,
            NegotiationStep::AwaitInit => Some("state"),
            NegotiationStep::RxCopy => Some("feature-rx-copy"),
            NegotiationStep::Split => Some("feature-split-event-channels"),
            NegotiationStep::ScatterGather => Some("feature-sg"),
            NegotiationStep::Segmentation => Some("feature-gso-tcpv4"),
        }
    }
}

impl Negotiating {
    /// Returns the phase after this step.
    pub(super) fn after_step(&self) -> Phase {
        let step = match self.step {
            NegotiationStep::Unwatch => NegotiationStep::Watch,
            NegotiationStep::Watch => NegotiationStep::Initialise,
            NegotiationStep::Initialise => NegotiationStep::AwaitInit,
            NegotiationStep::AwaitInit => NegotiationStep::RxCopy,
            NegotiationStep::RxCopy => NegotiationStep::Split,
            NegotiationStep::Split => NegotiationStep::ScatterGather,
            NegotiationStep::ScatterGather => NegotiationStep::Segmentation,
            NegotiationStep::Segmentation => {
                let offer = Offer { device: self.device, features: self.features };
                let step = ConnectionStep::EndEarlier { area: Area::Rings, waited: false };
                return Phase::Connecting(Connecting { offer, step });
            }
        };
        Phase::Negotiating(Negotiating { step, ..*self })
    }
}

impl Connecting {
    /// Returns the same connection in another step, as phase.
    pub(super) fn at(&self, step: ConnectionStep) -> Phase {
        Phase::Connecting(Connecting { step, ..*self })
    }
}

impl Closing {
    /// Returns the step after this one. Returns `None` after the last.
    pub(super) fn after_step(&self) -> Option<ClosingStep> {
        Some(match self.step {
            ClosingStep::Stop => ClosingStep::Abort,
            ClosingStep::Abort => ClosingStep::Report,
            ClosingStep::Report => ClosingStep::WriteClosing,
            ClosingStep::WriteClosing if self.informed.is_some() => ClosingStep::AwaitClosing,
            ClosingStep::WriteClosing | ClosingStep::AwaitClosing => ClosingStep::EndGrants(Area::Rings),
            ClosingStep::EndGrants(area) => area.next().map_or(ClosingStep::WriteClosed, ClosingStep::EndGrants),
            ClosingStep::WriteClosed => return None,
        })
    }

    /// Returns `true` if the step has nothing to undo.
    pub(super) fn is_step_unneeded(&self) -> bool {
        match self.step {
            ClosingStep::Abort => !self.open_transaction,
            ClosingStep::Report => self.report.is_none(),
            ClosingStep::WriteClosing | ClosingStep::WriteClosed => self.informed.is_none(),
            ClosingStep::Stop | ClosingStep::AwaitClosing | ClosingStep::EndGrants(_) => false,
        }
    }
}
