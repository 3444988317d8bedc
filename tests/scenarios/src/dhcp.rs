//! A minimal DHCP server on the client's host.

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, IpEndpoint, Ipv4Address};

use crate::client::Client;

/// Its own address.
const SERVER_ADDRESS: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);

/// The server.
pub struct Dhcp {
    handle: SocketHandle,
    offered: Ipv4Address,
    /// The number of requests.
    pub requests: usize,
}

impl Dhcp {
    /// Creates a server at `client` that leases `offered` for a minute to any host.
    ///
    /// # Panics
    /// The client already runs one.
    pub fn new(client: &mut Client, offered: Ipv4Address) -> Self {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(67).unwrap();
        Dhcp { handle: client.sockets.add(socket), offered, requests: 0 }
    }

    /// Answers one request, if there is one.
    ///
    /// # Panics
    /// The request is malformed.
    pub fn serve(&mut self, client: &mut Client) {
        let socket = client.sockets.get_mut::<udp::Socket<'_>>(self.handle);
        let Ok((bytes, _)) = socket.recv() else { return };
        let bytes = bytes.to_vec();
        let packet = DhcpPacket::new_checked(&bytes[..]).unwrap();
        let request = DhcpRepr::parse(&packet).unwrap();
        self.requests += 1;
        let message_type = match request.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            _ => DhcpMessageType::Ack,
        };
        let answer = DhcpRepr {
            message_type,
            your_ip: self.offered,
            server_ip: SERVER_ADDRESS,
            router: Some(SERVER_ADDRESS),
            subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
            server_identifier: Some(SERVER_ADDRESS),
            lease_duration: Some(60),
            client_ip: Ipv4Address::UNSPECIFIED,
            broadcast: true,
            requested_ip: None,
            client_identifier: None,
            parameter_request_list: None,
            max_size: None,
            ..request
        };
        let to = IpEndpoint::new(Ipv4Address::BROADCAST.into(), 68);
        let space = socket.send(answer.buffer_len(), to).unwrap();
        answer.emit(&mut DhcpPacket::new_unchecked(space)).unwrap();
    }
}
