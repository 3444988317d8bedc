//! Asks an HTTP server for an answer. A connection alone proves nothing: QEMU accepts it for a
//! guest that does not exist.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Returns the status of the answer to `GET /` on 127.0.0.1, if one comes within `limit`.
pub fn probe(port: u16, limit: Duration) -> Option<u16> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = [0; 32];
    let mut length = 0;
    while length < "HTTP/1.1 200".len() {
        match stream.read(answer.get_mut(length..)?).ok()? {
            0 => return None,
            count => length += count,
        }
    }
    status(&answer[..length])
}

fn status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("HTTP/1.")?;
    rest.split(' ').nth(1)?.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status(b"HTTP/1.1 404 Not Found\r\n"), Some(404));
        assert_eq!(status(b"HTTP/1.0 200"), Some(200));
        assert_eq!(status(b"SSH-2.0-OpenSSH_9"), None);
        assert_eq!(status(b"HTTP/1.1 "), None);
    }

    #[test]
    fn a_server_that_closes_at_once_is_not_ready() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let port = listener.local_addr().expect("address").port();
        let server = std::thread::spawn(move || drop(listener.accept()));
        assert_eq!(probe(port, Duration::from_secs(2)), None);
        server.join().expect("server");
    }
}
