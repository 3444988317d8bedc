//! Measures downloads over a link that loses frames, in virtual time.

use cloister_interfaces::net::Offloads;
use cloister_scenarios::Network;
use cloister_scenarios::client::SERVER;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use crate::rig::{Loss, Rig, Setup};
use crate::{pattern, site};

/// A connection with room for many of the longest frames.
fn connect(rig: &mut Rig) -> SocketHandle {
    let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
    let mut socket = tcp::Socket::new(buffer(512 * 1024), buffer(4096));
    socket.set_ack_delay(None);
    socket.connect(rig.client.interface.context(), (SERVER, 80), 4000).unwrap();
    let handle = rig.client.sockets.add(socket);
    while !rig.socket(handle).may_send() {
        rig.step();
    }
    handle
}

#[test]
fn bulk_data_is_sent_in_the_longest_frames() {
    let setup = Setup { site: site(), ring_out: 128 * 1024, offloads: Offloads::all(), ..Setup::default() };
    let mut rig = Rig::new(setup);
    let handle = connect(&mut rig);
    let before = rig.frames();
    rig.send(handle, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(rig.response(handle, false).1 == pattern(3_000_000));
    let (frames, least) = (rig.frames() - before, 3_000_000usize.div_ceil(44 * 1460));
    assert!(frames <= least + 4, "{frames} frames, where {least} hold all");
}

/// Returns the median time of five downloads of 3 MB, in ms.
fn download(offloads: Offloads, loss: Loss) -> u64 {
    let whole = pattern(3_000_000);
    let mut times: Vec<u64> = (1..=5)
        .map(|seed| {
            let (site, ring_out, command_line) = (site(), 128 * 1024, "ip=10.0.0.2/24");
            let mut rig = Rig::new(Setup { offloads, site, ring_out, command_line, ..Setup::default() });
            let handle = connect(&mut rig);
            rig.send(handle, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
            rig.run(2);
            rig.lose(Loss { seed, ..loss });
            let began = rig.nanoseconds;
            let (_, body) = rig.response(handle, false);
            assert!(body == whole, "the file is whole");
            (rig.nanoseconds - began) / 1_000_000
        })
        .collect();
    times.sort_unstable();
    println!("{offloads:?} {loss:?}: {times:?} ms");
    times[2]
}

#[test]
fn lost_frames_hardly_slow_a_download_down() {
    let good = download(Offloads::all(), Loss::default());
    for (frames, most) in [(10_000, 10), (50_000, 30)] {
        let time = download(Offloads::all(), Loss { frames, ..Loss::default() });
        assert!(time <= good + most, "{frames} of a million frames lost: {time} ms instead of {good}");
    }
}

#[test]
fn lost_packets_hardly_slow_a_download_down() {
    for offloads in [Offloads::all(), Offloads::empty()] {
        let good = download(offloads, Loss::default());
        for (packets, most) in [(1_000, 10), (10_000, 20), (50_000, 60)] {
            let time = download(offloads, Loss { packets, ..Loss::default() });
            assert!(time <= good + most, "{packets} of a million packets lost: {time} ms instead of {good}");
        }
    }
}

#[test]
fn lost_acknowledgements_hardly_slow_a_download_down() {
    let good = download(Offloads::all(), Loss::default());
    let time = download(Offloads::all(), Loss { acks: 50_000, ..Loss::default() });
    assert!(time <= good + 20, "{time} ms instead of {good}");
}

#[test]
fn no_service_spins_while_a_lost_segment_cannot_be_sent_again() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    let handle = rig.connect();
    rig.send(handle, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    rig.lose(Loss { frames: 1_000_000, ..Loss::default() });
    rig.run(20);
    rig.disconnect();
    for _ in 0..1000 {
        rig.advance(10_000_000);
        rig.run(2);
        assert_ne!(rig.poll_delay(), Some(core::time::Duration::ZERO));
    }
}
