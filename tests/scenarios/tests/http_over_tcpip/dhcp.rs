//! A DHCP server of a few lines, and what tcpip makes of it.

use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, IpEndpoint, Ipv4Address};

use crate::rig::{Rig, Setup};

const OURS: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);

struct Dhcp {
    handle: SocketHandle,
    offered: Ipv4Address,
    requests: usize,
}

impl Dhcp {
    fn new(rig: &mut Rig, offered: Ipv4Address) -> Self {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(67).unwrap();
        Dhcp { handle: rig.sockets.add(socket), offered, requests: 0 }
    }

    fn serve(&mut self, rig: &mut Rig) {
        let socket = rig.sockets.get_mut::<udp::Socket<'_>>(self.handle);
        let Ok((bytes, _)) = socket.recv() else { return };
        let bytes = bytes.to_vec();
        let packet = DhcpPacket::new_checked(&bytes[..]).unwrap();
        let asked = DhcpRepr::parse(&packet).unwrap();
        self.requests += 1;
        let message_type = match asked.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            _ => DhcpMessageType::Ack,
        };
        let answer = DhcpRepr {
            message_type,
            your_ip: self.offered,
            server_ip: OURS,
            router: Some(OURS),
            subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
            server_identifier: Some(OURS),
            lease_duration: Some(60),
            client_ip: Ipv4Address::UNSPECIFIED,
            broadcast: true,
            requested_ip: None,
            client_identifier: None,
            parameter_request_list: None,
            max_size: None,
            ..asked
        };
        let to = IpEndpoint::new(Ipv4Address::BROADCAST.into(), 68);
        let space = socket.send(answer.buffer_len(), to).unwrap();
        answer.emit(&mut DhcpPacket::new_unchecked(space)).unwrap();
    }

    fn wait(&mut self, rig: &mut Rig, seconds: u64) {
        for _ in 0..seconds * 20 {
            rig.advance(50_000_000);
            rig.step();
            self.serve(rig);
        }
    }
}

#[test]
fn an_address_is_leased_renewed_lost_and_leased_again() {
    let mut rig = Rig::new(Setup { command_line: "", ..Setup::default() });
    let mut dhcp = Dhcp::new(&mut rig, Ipv4Address::new(10, 0, 0, 2));
    dhcp.wait(&mut rig, 15);
    assert!(rig.system.console().contains("address 10.0.0.2/24, gateway 10.0.0.1"), "{}", rig.system.console());
    assert!(rig.get("/").0.starts_with("HTTP/1.1 200 "));
    let before = dhcp.requests;
    dhcp.wait(&mut rig, 120);
    assert!(dhcp.requests > before, "the lease is renewed");
    assert!(!rig.system.console().contains("address lost"));
    let open = rig.connect();
    rig.run(50);
    rig.wait(70);
    assert!(rig.system.console().contains("address lost"));
    dhcp.wait(&mut rig, 30);
    assert_eq!(rig.system.console().matches("listening on port 80").count(), 2, "{}", rig.system.console());
    assert!(rig.get("/").0.starts_with("HTTP/1.1 200 "));
    assert_ne!(rig.socket(open).state(), tcp::State::Established);
}

#[test]
fn an_address_that_no_host_can_have_is_refused() {
    let mut rig = Rig::new(Setup { command_line: "ip=dhcp", ..Setup::default() });
    let mut dhcp = Dhcp::new(&mut rig, Ipv4Address::new(127, 0, 0, 1));
    dhcp.wait(&mut rig, 30);
    assert!(dhcp.requests > 0);
    assert!(!rig.system.console().contains("listening"), "{}", rig.system.console());
}
