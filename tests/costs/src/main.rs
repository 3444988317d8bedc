//! `cloister-costs NAME COUNT` runs one piece of the image's pure code COUNT times. `cargo xtask
//! bench --regime host` runs it under valgrind with two counts; the difference is the cost of one
//! run. Without arguments it lists the names and the number of units in one run of each.
#![forbid(unsafe_code)]

mod kernel;
mod memory;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use cloister_caps::{Operation, PAGE_SIZE};
use cloister_http::request;
use cloister_interfaces::Instant;
use cloister_interfaces::message::{Defect, Message, Reader, Writer};
use cloister_interfaces::queue::{QueueEnd, Receiver, Sender, producer_pages};
use cloister_interfaces::system::System;
use cloister_netfront::ring::FrontRing;
use cloister_tcpip::link::frame;
use cloister_tcpip::link::segmentation::outgoing;
use cloister_tcpip::table::{Key, Table};
use cloister_tcpip::tcp::recovery::Recovery;

use crate::kernel::Caller;
use crate::memory::Words;

/// A prepared piece: runs it this number of times.
type Ready = Box<dyn FnMut(u32)>;

/// Prepares a piece.
type Piece = fn() -> Result<Ready, String>;

/// The pieces: the name, the number of units in one run, and the function that prepares it.
const PIECES: [(&str, u32, Piece); 13] = [
    ("check", 1, check),
    ("hop-awake", 1, hop_awake),
    ("hop", 1, hop),
    ("hop-switch", 1, hop_switch),
    ("hop-32", 32, hop_32),
    ("ring", 1, || ring(1)),
    ("ring-32", 32, || ring(32)),
    ("parse-35", 1, || parse("GET / HTTP/1.1\r\nHost: 10.0.2.15\r\n\r\n")),
    ("parse-177", 1, || parse(BROWSER)),
    ("checksum-64", 1, || checksum(24)),
    ("checksum-1500", 1, || checksum(1460)),
    ("lookup", 1, lookup),
    ("follow", 1, follow),
];

/// A request of 177 bytes.
const BROWSER: &str = "GET / HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux)\r\n\
    Accept: text/html,application/xhtml+xml\r\nAccept-Language: en-GB,en;q=0.5\r\nConnection: keep-alive\r\n\r\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, count] = arguments.as_slice() else {
        PIECES.iter().for_each(|(name, units, _)| println!("{name} {units}"));
        return ExitCode::SUCCESS;
    };
    match run(name, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, count: &str) -> Result<(), String> {
    let count: u32 = count.parse().map_err(|_| "COUNT is a number")?;
    let (.., piece) = PIECES.iter().find(|(known, ..)| *known == name).ok_or("there is no such piece")?;
    let mut piece = piece()?;
    piece(count);
    Ok(())
}

/// Returns a function that runs `once` again and again, with nothing in between that would be
/// counted.
fn repeated(mut once: impl FnMut() + 'static) -> Result<Ready, String> {
    Ok(Box::new(move |count| (0..count).for_each(|_| once())))
}

/// One invocation of a capability: looking it up, checking its rights, the operation, and recording
/// it.
fn check() -> Result<Ready, String> {
    let caller = Caller::new()?;
    repeated(move || {
        let _ = caller.invoke(caller.slot, Operation::QueueNotify, [0; 4]);
    })
}

/// A descriptor of 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Descriptor([u32; 4]);

impl Message for Descriptor {
    const SIZE: usize = 16;
    fn encode(&self, writer: &mut Writer<'_>) {
        self.0.iter().for_each(|word| writer.u32(*word));
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        Ok(Descriptor([reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?]))
    }
}

/// Both ends of a queue of descriptors.
type Ends = (Sender<Descriptor, Caller, Words>, Receiver<Descriptor, Caller, Words>);

/// Creates a queue to a receiver that sleeps.
fn queue() -> Result<Ends, String> {
    between(&Caller::new()?)
}

fn between(caller: &Caller) -> Result<Ends, String> {
    const DEPTH: u32 = 64;
    let producer = Words::new(producer_pages(Descriptor::SIZE, DEPTH as usize) * PAGE_SIZE);
    let consumer = Words::new(PAGE_SIZE);
    let end =
        || QueueEnd { slot: caller.slot, bit: 0, depth: DEPTH, producer: producer.clone(), consumer: consumer.clone() };
    let mut receiver = Receiver::new(caller.clone(), end());
    if receiver.pop().is_some() {
        return Err("the queue is not empty".to_owned());
    }
    Ok((Sender::new(caller.clone(), end()), receiver))
}

/// Sends a descriptor through a queue to a receiver that does not sleep: writes it, publishes it,
/// finds that no notification is needed, and consumes it. Its slot is freed together with those of
/// 31 others. The kernel is not called, so no capability is checked: each side can do this because
/// the pages are mapped.
fn hop_awake() -> Result<Ready, String> {
    let mut ends = queue()?;
    repeated(move || {
        let (sender, receiver) = black_box(&mut ends);
        let _ = sender.push(black_box(&Descriptor([0, 1, 2, 3])));
        sender.flush();
        let _ = black_box(receiver.pop());
    })
}

/// Sends a descriptor through a queue to a receiver that sleeps: writes it, publishes it with one
/// capability check, consumes it, and checks the queue once more after asking for a notification.
fn hop() -> Result<Ready, String> {
    let mut ends = queue()?;
    repeated(move || {
        let (sender, receiver) = black_box(&mut ends);
        let _ = sender.push(black_box(&Descriptor([0, 1, 2, 3])));
        sender.flush();
        while let Some(message) = receiver.pop() {
            let _ = black_box(message);
        }
    })
}

/// [`hop`] with the kernel's decisions when one service sleeps and the other runs: the sender's
/// `wait`, the choice of the receiver, its notifications, its `wait`, and that no service is ready
/// then. It contains nothing that needs the processor of the image: the entries, and the change of
/// the address space.
fn hop_switch() -> Result<Ready, String> {
    let caller = Caller::new()?;
    let mut ends = between(&caller)?;
    repeated(move || {
        let (sender, receiver) = black_box(&mut ends);
        let _ = sender.push(black_box(&Descriptor([0, 1, 2, 3])));
        sender.flush();
        assert!(caller.hand_over().is_some());
        while let Some(message) = receiver.pop() {
            let _ = black_box(message);
        }
        assert!(caller.wait_receiver());
    })
}

/// [`hop`] of a batch of descriptors, from an array of the sender to the function of the receiver
/// that uses each.
fn hop_32() -> Result<Ready, String> {
    let mut ends = queue()?;
    let batch = [Descriptor([0, 1, 2, 3]); 32];
    repeated(move || {
        let (sender, receiver) = black_box(&mut ends);
        sender.push_all(black_box(&batch));
        sender.flush();
        receiver.pop_each(u32::MAX, |message| {
            let _ = message.map(black_box);
        });
    })
}

/// Writes a batch of transmit requests into the ring shared with the back end, and publishes it.
fn ring(batch: u32) -> Result<Ready, String> {
    let memory = Words::new(PAGE_SIZE);
    repeated(move || {
        let mut front = FrontRing::<_, 12>::new(memory.clone(), 0);
        for number in 0..batch {
            front.push(black_box([number, 0, 1514 << 16]));
        }
        black_box(front.publish());
    })
}

fn parse(text: &'static str) -> Result<Ready, String> {
    if !matches!(request::parse(text.as_bytes()), Ok(Some((_, length))) if length == text.len()) {
        return Err("the request is not whole".to_owned());
    }
    repeated(move || {
        let _ = black_box(request::parse(black_box(text.as_bytes())));
    })
}

/// Computes the checksum of a TCP segment.
fn checksum(payload: usize) -> Result<Ready, String> {
    let mut frame = vec![0; 14 + 20 + 20 + payload];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let length = u16::try_from(frame.len() - 14).map_err(|_| "too long")?;
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[23] = 6;
    frame[46] = 0x50;
    repeated(move || {
        black_box(frame::has_valid_checksum(black_box(&frame)));
    })
}

/// Finds a connection by its addresses and ports among 10,000.
fn lookup() -> Result<Ready, String> {
    const COUNT: u16 = 10_000;
    let mut table = Table::new(usize::from(COUNT), 0x9E37_79B9_7F4A_7C15);
    let key = |index: u16| Key::new([10, 0, 2, 20], 20_000 + index, 80);
    (0..COUNT).for_each(|index| table.insert(index, key(index)));
    let mut index = 0;
    repeated(move || {
        index = (index + 1) % COUNT;
        assert_eq!(table.find(black_box(key(index))), Some(index));
    })
}

/// Tracks the segments in flight: one of 612 bytes that is sent, its acknowledgement with the next
/// request, and the timer.
fn follow() -> Result<Ready, String> {
    const LENGTH: u16 = 612;
    let mut frame = vec![0; 14 + 20 + 20 + usize::from(LENGTH)];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&(40 + LENGTH).to_be_bytes());
    frame[23] = 6;
    frame[46..48].copy_from_slice(&[0x50, 0x18]);
    let key = Key::new([10, 0, 2, 20], 20_000, 80);
    let mut segment = cloister_tcpip::segment::Segment {
        key,
        port: 80,
        flags: cloister_tcpip::segment::TcpFlags::ACK,
        options: false,
        data: 100,
        offset: frame::ETHERNET_HEADER + 40,
        seq: 0,
        ack: 0,
        window: 1,
    };
    let mut recovery = Recovery::default();
    let mut now = Instant::START;
    repeated(move || {
        now = now + Duration::from_micros(100);
        frame[38..42].copy_from_slice(&segment.ack.to_be_bytes());
        assert!(!recovery.begin_round(1460, now));
        recovery.on_sent(outgoing(black_box(&frame)).unwrap_or_else(|| unreachable!("a segment")), now);
        let _ = black_box((recovery.send_ranges(), recovery.is_full(), recovery.deadline(1460)));
        segment.ack = segment.ack.wrapping_add(LENGTH.into());
        assert!(!recovery.is_duplicate_ack(black_box(&segment)));
        recovery.on_received(&segment, true, &[None; 3], 1460, now);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_runs() {
        for (name, ..) in PIECES {
            run(name, "3").unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(run("nonsense", "1").is_err());
        assert!(run("check", "many").is_err());
    }

    #[test]
    fn a_hop_carries_each_message_once() {
        let (mut sender, mut receiver) = queue().unwrap();
        let batch: Vec<_> = (0..32).map(|number| Descriptor([number, 1, 2, 3])).collect();
        for _ in 0..5 {
            assert_eq!(sender.push_all(&batch), 32);
            assert!(receiver.pop().is_none(), "not announced");
            sender.flush();
            let mut taken = Vec::new();
            assert_eq!(receiver.pop_each(u32::MAX, |message| taken.push(message.unwrap())), 32);
            assert!(taken == batch);
        }
    }
}
