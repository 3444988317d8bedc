//! Slow clients on real Xen: `slowhttptest` in dom0, in each of its modes, with more connections
//! than the image has, all of dom0's address. A client with an address of its own, in a network
//! namespace of dom0, is served meanwhile, and each time within a second.
//!
//! The time is that of instructions, and is measured where packets reach the image and leave it, so
//! that a slow machine changes nothing.
#![forbid(unsafe_code)]

#[path = "support/capture.rs"]
mod capture;
mod support;

use std::time::Duration;

use capture::{Connection, connections};
use cloister_bed::{Bed, Clock, Config, Dom0, Guest};
use cloister_cpio::Archive;
use support::guest;

/// The options of each mode, beside those of all modes.
const MODES: [(&str, &str); 5] = [
    ("headers", "-H -i 3"),
    ("body", "-B -i 3 -x 8 -s 65536"),
    ("read", "-X -w 256 -y 512 -n 5 -z 32"),
    ("pipelined-read", "-X -w 256 -y 512 -n 5 -z 32 -k 5"),
    ("range", "-R -a 1 -b 3000 -t GET"),
];
/// The number of connections, the number of new ones in a second, and the duration in seconds.
const COMMON: &str = "-c 2000 -r 200 -l 15 -p 15 -u http://10.0.2.15/large";
const HONEST: [u8; 4] = [10, 0, 2, 30];
/// The time within which an answer must come. A SYN that was dropped is repeated after a second at
/// the earliest.
const LIMIT: Duration = Duration::from_secs(1);
/// The time that a command may take in dom0.
const PATIENCE: Duration = Duration::from_secs(120);
/// Takes QEMU's network off the bridge, whose time is this machine's, and puts the honest client on
/// it. The client is 20 ms away, so that SYNs of others come between its segments.
const SETUP: &str = "
brctl delif xenbr0 eth0
unshare -n sleep 1000000 > /dev/null 2>&1 &
echo $! > /run/honest
sleep 1
/usr/sbin/ip link add honest type veth peer name eth0 netns $(cat /run/honest) || exit
brctl addif xenbr0 honest && ip link set honest up || exit
nsenter -t $(cat /run/honest) -n ip addr add 10.0.2.30/24 dev eth0 || exit
nsenter -t $(cat /run/honest) -n ip link set eth0 up || exit
/usr/sbin/tc qdisc add dev honest root netem delay 20ms || exit
for try in $(seq 100); do
    timeout 5 wget -q -O /dev/null http://10.0.2.15/ && exit
    usleep 100000
done
exit 1
";
/// Runs the slow clients, and requests the page as the honest client until they end. Prints a line
/// for each answer, and the number of packets that the back end dropped.
const ATTACK: &str = "
ulimit -n 8192
tcpdump -Z root -n -i vif1.0 -s 96 -w /run/honest.pcap host 10.0.2.30 2> /run/tcpdump.log &
tap=$!
sleep 1
dropped=$(cat /sys/class/net/vif1.0/statistics/tx_dropped)
touch /run/attack
(slowhttptest @OPTIONS@; rm /run/attack) &
while [ -e /run/attack ]; do
    echo \"answer: $(nsenter -t $(cat /run/honest) -n wget -q -O - http://10.0.2.15/ 2>&1)\"
    usleep 20000
done
sleep 1
kill $tap; wait $tap
cat /run/tcpdump.log
echo back end dropped: $(($(cat /sys/class/net/vif1.0/statistics/tx_dropped) - dropped))
cp /run/honest.pcap /host/@MODE@.pcap
cp /run/console/* /host/console/
";

fn bed() -> Bed {
    let mut archive = Archive::new(Vec::new());
    archive.file("index.html", 0o644, b"<h1>site</h1>").expect("in memory");
    archive.file("large", 0o644, &[b'x'; 1_000_000]).expect("in memory");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), archive.finish().expect("in memory")).expect("write");
    let guest = Guest { memory: 8, ramdisk: Some(file.path().to_owned()), ..guest("default") };
    let mut progress = |text: &str| println!("slow: {text}");
    let config = Config { dom0: Dom0::SlowClients, clock: Clock::Instructions, ..Config::for_guest("slow", &guest) };
    let started = Bed::start(&config, &mut progress).and_then(|bed| {
        bed.create(&guest, &mut progress)?;
        Ok(bed)
    });
    let bed = started.unwrap_or_else(|error| panic!("{error}"));
    let ready = bed.dom0(SETUP, PATIENCE).expect("dom0 answers");
    assert!(ready.success(), "{}", ready.stdout);
    bed
}

/// Returns the numbers of one kind in the reports of `slowhttptest`, which it colours.
fn numbers<'a>(report: &'a str, kind: &'a str) -> impl Iterator<Item = usize> + 'a {
    report
        .lines()
        .filter(move |line| line.contains(kind))
        .filter_map(|line| line.split_whitespace().last()?.parse().ok())
}

/// Returns what is wrong with a connection of the honest client, if anything is.
fn problem(connection: &Connection) -> Option<&'static str> {
    match connection {
        Connection { reset: true, .. } => Some("was reset"),
        Connection { syns: 2.., .. } => Some("needed several SYNs"),
        Connection { served: None, .. } => Some("was not served"),
        Connection { served: Some(time), .. } if *time >= LIMIT => Some("was served late"),
        _ => None,
    }
}

#[test]
fn an_honest_client_is_served_beside_slow_ones_of_every_kind() {
    let bed = bed();
    let mut problems = String::new();
    for (mode, options) in MODES {
        let command = ATTACK.replace("@OPTIONS@", &format!("{options} {COMMON}")).replace("@MODE@", mode);
        let report = bed.dom0(&command, PATIENCE).expect("dom0 answers").stdout;
        let held = numbers(&report, "connected:").max().unwrap_or(0);
        assert!(held >= 40, "{mode}: no attack, only {held} connections at a time\n{report}");
        assert_eq!(numbers(&report, "back end dropped:").collect::<Vec<_>>(), [0], "{mode}\n{report}");
        let capture = std::fs::read(bed.folder().join(format!("{mode}.pcap"))).expect("a capture");
        let all = connections(&capture, HONEST);
        let right = report.lines().filter(|line| line.contains("answer: <h1>site</h1>")).count();
        let longest = |of: fn(&Connection) -> Option<Duration>| all.iter().filter_map(of).max().unwrap_or_default();
        println!(
            "{mode}: {} connections, {right} answers; SYN answered within {:?}, page within {:?}",
            all.len(),
            longest(|one| one.answered),
            longest(|one| one.served)
        );
        assert!(right > 40, "{mode}: only {right} answers\n{report}");
        for connection in &all {
            if let Some(problem) = problem(connection) {
                problems += &format!("{mode}: a connection {problem}:\n{}", connection.text);
            }
        }
        let answers = report.lines().filter(|line| line.contains("answer: ")).count();
        assert_eq!((all.len(), right), (answers, answers), "{mode}: not everything was answered\n{problems}{report}");
    }
    assert_eq!(problems, "");
    bed.finish(&["cloister"]);
}
