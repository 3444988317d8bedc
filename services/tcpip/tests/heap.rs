//! The heap that the policy gives tcpip is enough for the worst that peers can do.
#![forbid(unsafe_code)]

mod bench;

use bench::{Bench, Frame, GATEWAY, Host, OURS, PORT, SYN, Segment, arp, fragment, host, long_ping, packet, ping};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What is left for fragmentation of the heap, of 256 KiB or more.
const SLACK: usize = 8 * 1024;
/// A host beyond the gateway that does not exist.
const FAR: Host = Host { address: [192, 0, 2, 7], mac: GATEWAY.mac };

/// Returns the sizes of the heap and of the stream-in region in the default policy, for a
/// stream-out region of this size.
fn sizes(stream_out: usize) -> (usize, usize) {
    let pages = |bytes: usize| bytes / 4096 * 4096;
    (pages(stream_out / 16 * 40).max(256 << 10), pages(stream_out / 16 * 9).max(32 << 10))
}

/// Answers what the DHCP client sent with the lease of a server on the gateway.
fn lease(bench: &mut Bench, sent: &[Frame], kind: u8) -> Vec<Frame> {
    let asked = sent.iter().rev().find_map(|frame| match frame {
        Frame::Datagram(payload) => Some(payload),
        _ => None,
    });
    let mut message = vec![2, 1, 6, 0];
    message.extend(&asked.expect("a client asks")[4..8]);
    message.resize(16, 0);
    message.extend(OURS);
    message.resize(28, 0);
    message.extend(bench::OUR_MAC);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, kind, 54, 4, 10, 0, 0, 1, 1, 4, 255, 255, 0, 0, 3, 4, 10, 0, 0, 1]);
    message.extend([51, 4, 0, 0, 14, 16, 255]);
    let ports = [0, 67, 0, 68];
    let datagram = [&ports[..], &(8 + message.len() as u16).to_be_bytes(), &[0, 0], &message].concat();
    bench.frame(&packet(GATEWAY.mac, GATEWAY.address, OURS, 17, &datagram))
}

/// Returns fragments of many packets, of all lengths and at all offsets, and pings of all lengths.
fn long_frames() -> Vec<Vec<u8>> {
    let part = |protocol, length| packet(GATEWAY.mac, GATEWAY.address, OURS, protocol, &vec![7; length]);
    let mut frames = Vec::new();
    for protocol in [1, 17, 6] {
        for number in 0..6 {
            for at in [0, 8, 1016, 1024, 2032, 4048, 4064, 4072, 8128, 16_384, 65_520] {
                frames.push(fragment(part(protocol, if at == 0 { 1016 } else { 8 }), number, at));
            }
            for (at, length) in [(0, 1016), (0, 65_480), (2000, 1480), (3040, 1000), (60_000, 1480), (8, 65_480)] {
                frames.push(fragment(part(protocol, length), 10 + number, at));
            }
        }
    }
    frames.extend([1472, 4000, 9000, 65_000].map(|length| long_ping(GATEWAY.mac, GATEWAY.address, OURS, length)));
    frames
}

/// Fills every table and buffer of a service with these regions. Returns the peak size of its heap,
/// and by how much the heap grew after all connections existed.
fn worst(command_line: &'static str, stream_in: usize, stream_out: usize) -> (usize, usize) {
    let (long, mut before) = (long_frames(), 0);
    let mut bench = Bench::made(command_line, 0, stream_in, stream_out, || {
        before = HEAP.current_usage();
    });
    // The bench clears a pool in a copy when the link comes up. That is not tcpip's memory.
    HEAP.reset_peak_usage();
    if !command_line.contains("ip=") {
        let sent = bench.pass(20_000);
        let sent = lease(&mut bench, &sent, 2);
        lease(&mut bench, &sent, 5);
    }
    bench.frame(&arp(1, GATEWAY, OURS));
    assert!(bench.frame(&ping(FAR.mac, FAR.address, OURS)).iter().any(|frame| matches!(frame, Frame::Echo(_))));
    let mut answered = 0;
    // Fills the table of connections, and opens some of them.
    for number in 0..(stream_in / 2048).min(stream_out / 4096) as u16 {
        let syn = Segment { from: 1000 + number, to: PORT, seq: 5, flags: SYN, window: 1000, ..Segment::default() };
        answered += bench.segment(GATEWAY, &syn).len();
        if number % 64 == 0 {
            bench.open(FAR, 1000 + number, 5);
        }
    }
    assert!(answered >= 16, "{answered}");
    let full = HEAP.current_usage();
    // Hosts that send requests and hosts that are requested. A frame waits for each.
    for high in 1..3 {
        for low in 0..200 {
            bench.frame(&arp(1, host(high, low), OURS));
            bench.frame(&ping(GATEWAY.mac, host(high + 10, low).address, OURS));
        }
    }
    for frame in &long {
        bench.frame(frame);
    }
    let grown = HEAP.current_usage().saturating_sub(full);
    let most = HEAP.peak_usage();
    // The interface is created again, and everything sends again or ends.
    bench.up();
    HEAP.reset_peak_usage();
    for seconds in [1, 3, 10, 61] {
        bench.pass(seconds * 1000);
    }
    bench.frame(&arp(1, GATEWAY, OURS));
    bench.replies.clear();
    (most.max(HEAP.peak_usage()) - before, grown)
}

/// Runs the test without a harness, whose threads would share the allocator. The last line is the
/// harness's, which `cargo xtask test` counts.
fn main() {
    the_heap_is_enough_for_the_worst_that_peers_can_do();
    println!("\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}

fn the_heap_is_enough_for_the_worst_that_peers_can_do() {
    let mut short = Vec::new();
    for command_line in ["ip=10.0.0.2/16 gw=10.0.0.1 udp-echo=7", "udp-echo=7"] {
        for pages in [16, 17, 24, 32, 64, 256, 1024, 4096] {
            let stream_out = pages * 4096;
            let (heap, stream_in) = sizes(stream_out);
            let (most, grown) = worst(command_line, stream_in, stream_out);
            println!("{command_line}: stream-out of {pages} pages, heap of {heap}: {most}, {grown} more by what came");
            assert_eq!(grown, 0, "what comes takes no memory for good");
            if most + SLACK > heap {
                short.push((command_line, pages, heap, most));
            }
        }
    }
    assert!(short.is_empty(), "{short:?}");
}
