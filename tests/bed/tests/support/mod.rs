//! What the tests on real Xen have in common.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cloister_bed::{Bed, Config, Guest};

/// How long a guest may take to answer.
pub const READY: Duration = Duration::from_secs(90);

/// A bed with one guest that answers HTTP.
pub fn serving(name: &str, guest: &Guest) -> Bed {
    let mut progress = |text: &str| println!("{name}: {text}");
    let config = Config::for_guest(name, guest);
    let started = Bed::start(&config, &mut progress).and_then(|bed| {
        bed.create(guest, &mut progress)?;
        bed.wait_for_http(guest, READY, &mut progress)?;
        Ok(bed)
    });
    started.unwrap_or_else(|error| panic!("{error}"))
}

/// A guest from the image of a policy.
pub fn guest(policy: &str) -> Guest {
    Guest::new(cloister_bed::image(policy).unwrap_or_else(|error| panic!("{error}")))
}

/// An HTTP client that gives up after a while instead of hanging the test, and answers every status.
pub fn client() -> ureq::Agent {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(900)));
    config.http_status_as_error(false).build().into()
}

/// Sends bytes as they are and returns all that comes back until the server closes.
pub fn raw(bed: &Bed, request: &[u8], limit: Duration) -> Vec<u8> {
    let mut stream = connect(bed, limit);
    // A server may answer and close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let until = Instant::now() + limit;
    let mut piece = [0; 4096];
    while Instant::now() < until {
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => answer.extend_from_slice(&piece[..count]),
            _ => break,
        }
    }
    answer
}

/// A connection with a time limit on reading and writing.
pub fn connect(bed: &Bed, limit: Duration) -> TcpStream {
    let stream = bed.connect().expect("QEMU forwards the port");
    stream.set_read_timeout(Some(limit)).expect("time limit");
    stream.set_write_timeout(Some(limit)).expect("time limit");
    stream
}

/// The status in an answer's first line.
pub fn status(answer: &[u8]) -> Option<u16> {
    let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\n').next()?).into_owned();
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim().parse().ok()
}

/// Asserts that the guest serves: the next client is answered with 200.
pub fn assert_serves(bed: &Bed) {
    let answer = client().get(bed.url()).call().expect("an answer");
    assert_eq!(answer.status(), 200);
}

/// The numbers of `ping -q`'s summary: sent and received.
pub fn ping(bed: &Bed, count: u32, interval: &str) -> (u32, u32) {
    // By its path: busybox has a ping of its own.
    let command = format!("/usr/bin/ping -q -n -W 5 -c {count} -i {interval} 10.0.2.15");
    let output = bed.dom0(&command, Duration::from_secs(300)).expect("dom0 answers").stdout;
    println!("{output}");
    let line = output.lines().find(|line| line.contains("packets transmitted")).unwrap_or_default();
    let number = |at: usize| line.split(", ").nth(at).and_then(|part| part.split(' ').next()?.parse().ok());
    (number(0).unwrap_or_default(), number(1).unwrap_or_default())
}
