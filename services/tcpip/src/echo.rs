//! A UDP port that answers what it is sent (RFC 862), if the command line asks for one.

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

    /// Answers what came, as far as there is room. What is longer than its buffer, or comes from a well-known port, is not
    /// answered. Answers whether anything was sent.
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
                // Two echo ports that hear of each other would talk for ever: never answer a well-known port.
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
