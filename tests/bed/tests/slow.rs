//! Slow clients on real Xen: `slowhttptest` in dom0, in each of its modes, with more connections
//! than the image has, all of dom0's address. A client on the host, whose connections come from the
//! address of QEMU's gateway, is served meanwhile. The test prints how many answers took longer than
//! a second, and does not fail on that: the machine may be slow.
#![forbid(unsafe_code)]

mod support;

use std::time::{Duration, Instant};

use cloister_bed::{Bed, Config, Dom0, Guest};
use cloister_cpio::Archive;
use support::{READY, client, guest};

/// The options of each mode, beside those of all modes.
const MODES: [(&str, &str); 5] = [
    ("headers", "-H -i 3"),
    ("body", "-B -i 3 -x 8 -s 65536"),
    ("read", "-X -w 256 -y 512 -n 5 -z 32"),
    ("read of what was pipelined", "-X -w 256 -y 512 -n 5 -z 32 -k 5"),
    ("range", "-R -a 1 -b 3000 -t GET"),
];
/// The number of connections, the number of new ones in a second, and the duration in seconds.
const COMMON: &str = "-c 2000 -r 200 -l 40 -p 20 -u http://10.0.2.15/large";
/// The time within which an answer should come. A SYN that was dropped is repeated after a second at
/// the earliest.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The time after which the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn bed() -> Bed {
    let mut archive = Archive::new(Vec::new());
    archive.file("index.html", 0o644, b"<h1>site</h1>").expect("in memory");
    archive.file("large", 0o644, &[b'x'; 1_000_000]).expect("in memory");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), archive.finish().expect("in memory")).expect("write");
    let guest = Guest { memory: 8, ramdisk: Some(file.path().to_owned()), ..guest("default") };
    let mut progress = |text: &str| println!("slow: {text}");
    let config = Config { dom0: Dom0::SlowClients, ..Config::for_guest("slow", &guest) };
    let started = Bed::start(&config, &mut progress).and_then(|bed| {
        bed.create(&guest, &mut progress)?;
        bed.wait_for_http(&guest, READY, &mut progress)?;
        Ok(bed)
    });
    started.unwrap_or_else(|error| panic!("{error}"))
}

/// Requests the page, again if the connection ends. Returns the time that this took.
fn served(bed: &Bed, mode: &str) -> Duration {
    let began = Instant::now();
    loop {
        let answer = client().get(bed.url()).call();
        match answer.and_then(|mut answer| answer.body_mut().read_to_string()) {
            Ok(body) => {
                assert_eq!(body, "<h1>site</h1>");
                return began.elapsed();
            }
            Err(error) => println!("{mode}: {error}"),
        }
        assert!(began.elapsed() < PATIENCE, "{mode}: not served in {PATIENCE:?}");
    }
}

/// Returns the numbers of one kind in the reports of `slowhttptest`, which it colours.
fn numbers<'a>(report: &'a str, kind: &'a str) -> impl Iterator<Item = u32> + 'a {
    report
        .lines()
        .filter(move |line| line.contains(kind))
        .filter_map(|line| line.split_whitespace().last()?.parse().ok())
}

#[test]
fn an_honest_client_is_served_beside_slow_ones_of_every_kind() {
    let bed = bed();
    for (mode, options) in MODES {
        let command = format!("ulimit -n 8192 && slowhttptest {options} {COMMON}");
        let (mut times, mut report) = (Vec::new(), String::new());
        std::thread::scope(|scope| {
            let attack = scope.spawn(|| bed.dom0(&command, Duration::from_secs(300)).expect("dom0 answers"));
            while !attack.is_finished() {
                times.push(served(&bed, mode));
            }
            report = attack.join().expect("it ends").stdout;
        });
        let held = numbers(&report, "connected:").max().unwrap_or(0);
        assert!(held >= 40, "{mode}: no attack, only {held} connections at a time\n{report}");
        times.sort();
        let late = times.iter().filter(|time| **time > AT_ONCE).count();
        println!("{mode}: {} answers, {late} late, {:?} at most\n{report}", times.len(), times.last());
        assert!(times.len() > 10, "{mode}: only {} answers", times.len());
    }
    bed.finish(&["cloister"]);
}
