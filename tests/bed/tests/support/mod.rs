//! Helpers of the tests on real Xen.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cloister_bed::{Bed, Config, Guest};

/// The time within which a guest must answer.
pub const READY: Duration = Duration::from_secs(90);

/// Starts a bed with one guest that answers HTTP.
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

/// Returns a guest with the image of a policy.
pub fn guest(policy: &str) -> Guest {
    Guest::new(cloister_bed::image(policy).unwrap_or_else(|error| panic!("{error}")))
}

/// Returns an HTTP client that times out instead of hanging the test, and that returns every
/// status.
pub fn client() -> ureq::Agent {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(900)));
    config.http_status_as_error(false).build().into()
}

/// Sends bytes unchanged. Returns everything that comes back until the server closes.
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

/// Opens a connection with a time limit on reading and writing.
pub fn connect(bed: &Bed, limit: Duration) -> TcpStream {
    let stream = bed.connect().expect("QEMU forwards the port");
    stream.set_read_timeout(Some(limit)).expect("time limit");
    stream.set_write_timeout(Some(limit)).expect("time limit");
    stream
}

/// Returns the status in an answer's first line.
pub fn status(answer: &[u8]) -> Option<u16> {
    let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\n').next()?).into_owned();
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim().parse().ok()
}

/// Asserts that the guest serves: the next client is answered with 200.
pub fn assert_serves(bed: &Bed) {
    let answer = client().get(bed.url()).call().expect("an answer");
    assert_eq!(answer.status(), 200);
}

/// Returns the numbers of sent and received pings in the summary of `ping -q`.
pub fn ping(bed: &Bed, count: u32, interval: &str) -> (u32, u32) {
    // Called by its path, because busybox has another `ping`.
    let command = format!("/usr/bin/ping -q -n -W 5 -c {count} -i {interval} 10.0.2.15");
    let output = bed.dom0(&command, Duration::from_secs(300)).expect("dom0 answers").stdout;
    println!("{output}");
    let line = output.lines().find(|line| line.contains("packets transmitted")).unwrap_or_default();
    let number = |at: usize| line.split(", ").nth(at).and_then(|part| part.split(' ').next()?.parse().ok());
    (number(0).unwrap_or_default(), number(1).unwrap_or_default())
}

/// Returns the part of the processor that a service uses now, by the kernel's own account: the
/// difference of two reports, which an NMI makes the kernel print.
pub fn processor_share(bed: &Bed, guest: &str, service: &str) -> f64 {
    let console = || std::fs::read_to_string(bed.guest_log(guest)).unwrap_or_default();
    let report = || {
        let (began, before) = (Instant::now(), reports(&console(), service).len());
        bed.dom0(&format!("xl trigger {guest} nmi"), READY).expect("dom0 answers");
        while reports(&console(), service).len() == before {
            assert!(began.elapsed() < READY, "no report after an NMI\n{}", console());
            std::thread::sleep(Duration::from_millis(100));
        }
        reports(&console(), service).last().copied().unwrap_or_default()
    };
    let (from, used_from) = report();
    std::thread::sleep(Duration::from_secs(2));
    let (to, used_to) = report();
    (used_to - used_from) as f64 / (to - from) as f64 / 1000.0
}

/// Returns the kernel's reports: the time in ms, and a service's processor time in µs.
fn reports(console: &str, service: &str) -> Vec<(u64, u64)> {
    let number = |line: &str, prefix: &str| line.strip_prefix(prefix)?.split(' ').next()?.parse().ok();
    let own = format!("cloister: {service} ");
    let mut reports = Vec::new();
    let mut at = None;
    for line in console.lines() {
        at = number(line, "cloister: at ").or(at);
        if let (Some(time), Some(used)) = (at, number(line, &own)) {
            reports.push((time, used));
            at = None;
        }
    }
    reports
}
