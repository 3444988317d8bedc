//! A UDP port that echoes what it receives (RFC 862), if the command line requests one.

use alloc::vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp;

const PACKETS: usize = 8;
const BYTES: usize = 4096;

/// The echo port.
pub struct Echo(SocketHandle);

impl Echo {
    /// Opens `port`, which is not 0.
    pub fn new(port: u16, sockets: &mut SocketSet<'static>) -> Option<Self> {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; PACKETS], vec![0; BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).ok()?;
        Some(Echo(sockets.add(socket)))
    }

    /// Echoes received packets while there is room. Packets that are too long, or from well-known
    /// ports, are dropped. Returns `true` if any was echoed.
    pub fn pump(&self, sockets: &mut SocketSet<'static>) -> bool {
        let socket = sockets.get_mut::<udp::Socket<'_>>(self.0);
        let mut sent = false;
        if !socket.can_recv() {
            return sent;
        }
        let mut packet = [0; 2048];
        for _ in 0..PACKETS {
            if !socket.can_send() {
                return sent;
            }
            match socket.recv_slice(&mut packet) {
                // Two echo ports would echo to each other for ever, so a well-known port gets no
                // answer.
                Ok((length, from)) if from.endpoint.port >= 1024 => {
                    sent |= socket.send_slice(packet.get(..length).unwrap_or_default(), from.endpoint).is_ok();
                }
                Ok(_) | Err(udp::RecvError::Truncated) => {}
                Err(udp::RecvError::Exhausted) => return sent,
            }
        }
        sent
    }
}
