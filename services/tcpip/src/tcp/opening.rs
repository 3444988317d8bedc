//! Opening a connection: its SYN is parsed through an interface of its own.

use cloister_interfaces::{Instant, Memory, System};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};

use super::isn;
use crate::link::device::LinkDevice;
use crate::time::to_smoltcp;

/// Creates a smoltcp interface whose random generator has this seed.
pub fn interface<S: System, M: Memory>(
    device: &mut LinkDevice<S, M>,
    mac: [u8; 6],
    seed: u64,
    now: Instant,
) -> Interface {
    let mut settings = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
    settings.random_seed = seed;
    Interface::new(settings, device, to_smoltcp(now))
}

/// The steps of opening a connection.
#[derive(Clone, Copy)]
pub struct Opening {
    pub own: Ipv4Address,
    pub mac: [u8; 6],
    /// Our initial sequence number.
    pub number: u32,
}

impl Opening {
    /// Lets smoltcp parse the SYN in the device's current frame, for a socket that listens.
    #[inline(never)] // It inlines much of smoltcp.
    pub fn parse<S: System, M: Memory>(
        self,
        device: &mut LinkDevice<S, M>,
        set: &mut SocketSet<'static>,
        now: Instant,
    ) {
        let mut interface = interface(device, self.mac, isn::seed(self.number), now);
        // The list has room for at least one.
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(self.own.into(), 32));
        });
        interface.poll_ingress_single(to_smoltcp(now), device, set);
    }
}
