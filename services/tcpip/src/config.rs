//! The configuration of the network, from the guest's command line.

use core::fmt;

use cloister_interfaces::log::Excerpt;
use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

/// The source of our address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressing {
    /// From a DHCP server.
    Dhcp,
    /// From the command line.
    Static {
        /// The address and its network.
        address: Ipv4Cidr,
        /// The router to every other network.
        gateway: Option<Ipv4Address>,
    },
}

/// The options for tcpip on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// `ip=` and `gw=`.
    pub addressing: Addressing,
    /// `udp-echo=`: the UDP port that echoes what it receives.
    pub udp_echo: Option<u16>,
    /// `offload=`: use the link's offloads. With `off`, the link is given complete frames, whatever
    /// it offers.
    pub offload: bool,
}

/// An option on the command line whose value is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnusableOption<'a> {
    /// The option's key.
    pub key: &'static str,
    /// Its value.
    pub value: &'a str,
    /// What is possible instead.
    pub wanted: &'static str,
}

impl fmt::Display for UnusableOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command line: {}={} is not {}", self.key, Excerpt(self.value.as_bytes()), self.wanted)
    }
}

/// Parses the command line. Options of others are skipped. A bad address is passed to `report`,
/// and DHCP is used instead.
pub fn parse<'a>(line: &'a [u8], mut report: impl FnMut(UnusableOption<'a>)) -> Config {
    let mut config = Config { addressing: Addressing::Dhcp, udp_echo: None, offload: true };
    let (mut address, mut gateway, mut good) = (None, None, true);
    for word in line.split(|byte| byte.is_ascii_whitespace() || *byte == 0) {
        let Ok(word) = core::str::from_utf8(word) else { continue };
        let Some((key, value)) = word.split_once('=') else { continue };
        match key {
            "ip" if value == "dhcp" => address = None,
            "ip" => match host(value) {
                Some(host) => address = Some(host),
                None => {
                    good = false;
                    report(UnusableOption { key: "ip", value, wanted: "dhcp or an address such as 10.0.2.15/24" });
                }
            },
            "gw" => match value.parse().ok().filter(Ipv4Address::is_usable) {
                Some(router) => gateway = Some((value, router)),
                None => {
                    good = false;
                    report(UnusableOption { key: "gw", value, wanted: "an address such as 10.0.2.2" });
                }
            },
            "udp-echo" => match value.parse() {
                Ok(port) if port != 0 => config.udp_echo = Some(port),
                _ => report(UnusableOption { key: "udp-echo", value, wanted: "a port" }),
            },
            "offload" => match value {
                "on" => config.offload = true,
                "off" => config.offload = false,
                _ => report(UnusableOption { key: "offload", value, wanted: "on or off" }),
            },
            _ => {}
        }
    }
    if let (true, Some(address)) = (good, address) {
        config.addressing = Addressing::Static { address, gateway: gateway.map(|(_, router)| router) };
    } else if let (None, Some((value, _))) = (address, gateway) {
        report(UnusableOption { key: "gw", value, wanted: "of use without a good ip=" });
    }
    config
}

fn host(value: &str) -> Option<Ipv4Cidr> {
    let (address, prefix) = value.split_once('/')?;
    let (address, prefix) = (address.parse::<Ipv4Address>().ok()?, prefix.parse::<u8>().ok()?);
    ((1..=32).contains(&prefix) && address.is_usable()).then(|| Ipv4Cidr::new(address, prefix))
}

/// Checks an address: smoltcp panics if it is given an impossible one.
pub trait Usable {
    /// Returns `true` if a host can have this address: it is not unspecified, loopback, multicast,
    /// reserved or broadcast.
    fn is_usable(&self) -> bool;
}

impl Usable for Ipv4Address {
    fn is_usable(&self) -> bool {
        let first = self.octets()[0];
        first != 0 && first != 127 && first < 224
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> (Config, Vec<String>) {
        let mut complaints = Vec::new();
        let config = parse(line.as_bytes(), |option| complaints.push(option.to_string()));
        (config, complaints)
    }

    fn fixed(address: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>) -> Addressing {
        let address = Ipv4Cidr::new(Ipv4Address::from(address), prefix);
        Addressing::Static { address, gateway: gateway.map(Ipv4Address::from) }
    }

    #[test]
    fn a_static_address_with_and_without_a_gateway() {
        let (config, complaints) = read("quiet ip=10.0.2.15/24 gw=10.0.2.2 udp-echo=7\0");
        assert_eq!(config.addressing, fixed([10, 0, 2, 15], 24, Some([10, 0, 2, 2])));
        assert_eq!((config.udp_echo, complaints.len()), (Some(7), 0));
        assert_eq!(read("ip=192.168.1.9/32").0.addressing, fixed([192, 168, 1, 9], 32, None));
    }

    #[test]
    fn dhcp_is_the_default_and_can_be_requested() {
        assert_eq!(read("").0.addressing, Addressing::Dhcp);
        assert_eq!(read("ip=dhcp"), (Config { addressing: Addressing::Dhcp, udp_echo: None, offload: true }, vec![]));
    }

    #[test]
    fn offloads_can_be_turned_off() {
        assert!(read("").0.offload && read("offload=on").0.offload);
        assert!(!read("ip=dhcp offload=off").0.offload);
        let (config, complaints) = read("offload=maybe");
        assert!(config.offload && complaints.len() == 1);
    }

    #[test]
    fn bad_values_are_reported_and_leave_dhcp() {
        for line in [
            "ip=10.0.2.15",
            "ip=10.0.2.15/33",
            "ip=10.0.2.15/0",
            "ip=256.0.0.1/24",
            "ip=",
            "ip=224.0.0.1/24",
            "ip=0.0.0.0/8",
            "ip=255.255.255.255/32",
            "ip=127.0.0.1/8",
            "ip=10.0.2.15/24 gw=nowhere",
            "ip=10.0.2.15/24 gw=239.1.1.1",
            "gw=10.0.2.2",
        ] {
            let (config, complaints) = read(line);
            assert_eq!((config.addressing, complaints.len()), (Addressing::Dhcp, 1), "{line}");
        }
        assert_eq!(read("udp-echo=0").1.len(), 1);
        assert_eq!(read("udp-echo=70000").1.len(), 1);
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(&line, |option| assert!(option.to_string().len() <= 160));
        }

        #[test]
        fn every_host_address_is_read_back(octets in any::<[u8; 4]>(), prefix in 1u8..=32) {
            let [a, b, c, d] = octets;
            let expected = if Ipv4Address::from(octets).is_usable() { fixed(octets, prefix, None) } else { Addressing::Dhcp };
            prop_assert_eq!(read(&format!("ip={a}.{b}.{c}.{d}/{prefix}")).0.addressing, expected);
        }
    }
}
