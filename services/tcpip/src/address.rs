//! Our IPv4 address: from the command line, or leased by DHCP.

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{IpCidr, Ipv4Address, Ipv4Cidr};

use crate::config::{Addressing, Usable};

/// An address and the router to other networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The address and its network.
    pub address: Ipv4Cidr,
    /// The router to other networks.
    pub gateway: Option<Ipv4Address>,
}

/// A change of our address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// There is a new address.
    Gained(Lease),
    /// There is no address any more.
    Lost,
    /// The DHCP server offered an address that no host can have.
    Impossible,
}

/// Our address, and where it comes from.
pub struct Address {
    fixed: Option<Lease>,
    dhcp: Option<SocketHandle>,
    /// The current address.
    ///
    /// It is usable: no reserved or multicast address, with a prefix of 1 to 32 bits.
    pub current: Option<Lease>,
}

impl Address {
    /// Creates an address that comes from `addressing`. There is none at first.
    pub fn new(addressing: Addressing, sockets: &mut SocketSet<'static>) -> Self {
        match addressing {
            Addressing::Dhcp => Address { fixed: None, dhcp: Some(sockets.add(dhcpv4::Socket::new())), current: None },
            Addressing::Static { address, gateway } => {
                Address { fixed: Some(Lease { address, gateway }), dhcp: None, current: None }
            }
        }
    }

    /// Handles a link that has come up. A fixed address is there at once. A leased one stays; if
    /// there is none, DHCP starts again.
    pub fn link_up(&mut self, sockets: &mut SocketSet<'static>) -> Option<Change> {
        if let (None, Some(handle)) = (self.current, self.dhcp) {
            sockets.get_mut::<dhcpv4::Socket<'_>>(handle).reset();
        }
        match (self.current, self.fixed) {
            (None, Some(lease)) => {
                self.current = Some(lease);
                Some(Change::Gained(lease))
            }
            _ => None,
        }
    }

    /// Returns a change that the DHCP client reports.
    pub fn poll(&mut self, sockets: &mut SocketSet<'static>) -> Option<Change> {
        match sockets.get_mut::<dhcpv4::Socket<'_>>(self.dhcp?).poll()? {
            dhcpv4::Event::Configured(config) => {
                let lease = Lease { address: config.address, gateway: config.router.filter(Usable::is_usable) };
                if !(lease.address.address().is_usable() && (1..=32).contains(&lease.address.prefix_len())) {
                    return Some(Change::Impossible);
                }
                let renewed = self.current.replace(lease) == Some(lease);
                (!renewed).then_some(Change::Gained(lease))
            }
            dhcpv4::Event::Deconfigured => self.current.take().map(|_| Change::Lost),
        }
    }

    /// Sets the current address in `interface`, and makes it the next hop of all packets.
    pub fn apply(&self, interface: &mut Interface) {
        let address = self.current.map(|lease| lease.address.address());
        interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(address) = address {
                // The list has room for at least one.
                let _ = addresses.push(IpCidr::new(address.into(), 32));
            }
        });
        interface.routes_mut().remove_default_ipv4_route();
        if let Some(address) = address {
            // The table has no other route.
            let _ = interface.routes_mut().add_default_ipv4_route(address);
        }
    }
}
