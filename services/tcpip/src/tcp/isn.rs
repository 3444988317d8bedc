//! Initial sequence numbers (RFC 6528), and how smoltcp is made to use them.
//!
//! smoltcp draws a connection's initial sequence number from a random generator of its interface,
//! and the number reveals the generator's state: three numbers tell all that follow. It has no hook
//! for another choice. But the generator is seeded when an interface is created, and each of its
//! steps can be undone. So a SYN that opens a connection is parsed through an interface created for
//! it, with the seed after which the generator's next number is the one that we chose.
//!
//! Decision 21 (`docs/decisions/0021-sequence-numbers-resets-neighbours-before-smoltcp.md`) names
//! the alternatives.

use cloister_interfaces::Instant;
use siphasher::sip::SipHasher24;

use crate::table::Key;

/// The time in which the numbers of one pair of addresses and ports advance by one, in ns (RFC
/// 6528, 3: 4 µs).
const TICK: u64 = 4000;
/// The distance from the last number of a connection to the first number of the next one, if the
/// earlier one sent faster than the clock advances. It is more than a window that is not scaled.
const BEYOND: u32 = 0x1_0001;

/// Chooses initial sequence numbers.
pub struct IsnGenerator {
    hasher: SipHasher24,
}

impl IsnGenerator {
    /// Creates a generator whose numbers depend on `secret`.
    pub fn new([first, second]: [u64; 2]) -> Self {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&first.to_le_bytes());
        key[8..].copy_from_slice(&second.to_le_bytes());
        IsnGenerator { hasher: SipHasher24::new_with_key(&key) }
    }

    /// Returns the initial sequence number of the connection `key` of the host `own`. `last` is
    /// where the connection before it ended, if there was one.
    pub fn initial(&self, own: [u8; 4], key: Key, last: Option<u32>, now: Instant) -> u32 {
        let mut input = [0; 12];
        input[..4].copy_from_slice(&own);
        input[4..].copy_from_slice(&key.bytes());
        let number = (self.hasher.hash(&input) as u32).wrapping_add((now.0 / TICK) as u32);
        match last {
            Some(last) if number.wrapping_sub(last) as i32 <= 0 => last.wrapping_add(BEYOND),
            _ => number,
        }
    }
}

/// The random generator of smoltcp 0.14 (`src/rand.rs`).
mod generator {
    const FACTOR: u64 = 0xbb2e_fcec_3c39_611d;
    const INCREMENT: u64 = 0x7590_ef39;
    const INVERSE: u64 = inverse(FACTOR);
    const _: () = assert!(FACTOR.wrapping_mul(INVERSE) == 1);

    /// Returns the inverse of an odd number modulo 2^64. Each of Newton's steps doubles the number
    /// of correct bits, three at first.
    const fn inverse(odd: u64) -> u64 {
        let mut inverse = odd;
        let mut step = 0;
        while step < 5 {
            inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
            step += 1;
        }
        inverse
    }

    /// Returns the state before `state`.
    pub fn before(state: u64) -> u64 {
        state.wrapping_sub(INCREMENT).wrapping_mul(INVERSE)
    }

    /// Returns the number that the generator gives in `state`.
    pub fn number(state: u64) -> u32 {
        (state >> (29 - (state >> 61))) as u32
    }

    /// Returns a state in which it gives `number`: one for each `variant` below 2^29.
    pub fn state(number: u32, variant: u32) -> u64 {
        u64::from(number) << 29 | u64::from(variant)
    }
}

/// Returns the seed of an interface that gives `number` to the first connection that it opens.
pub fn seed(number: u32) -> u64 {
    // The interface itself draws first, for its IPv4 identification, and again if the halves of
    // that number cancel out.
    let cancels = |first: u64| {
        let drawn = generator::number(first);
        drawn as u16 == (drawn >> 16) as u16
    };
    let mut variant = 0;
    loop {
        let first = generator::before(generator::state(number, variant));
        if !cancels(first) {
            return generator::before(first);
        }
        variant += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::iface::{Config, Interface, SocketSet};
    use smoltcp::phy::{Loopback, Medium};
    use smoltcp::socket::tcp;
    use smoltcp::time::Instant as StackInstant;
    use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, TcpPacket};

    use super::*;

    /// Returns the sequence number of the first segment of the first connection of an interface
    /// with this seed.
    fn first_number(seed: u64) -> u32 {
        let mut device = Loopback::new(Medium::Ethernet);
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress([2; 6])));
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, StackInstant::ZERO);
        let own = Ipv4Address::new(10, 0, 0, 2);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(own.into(), 24)).expect("room for one"));
        let buffer = || tcp::SocketBuffer::new(vec![0; 64]);
        let mut sockets = SocketSet::new(vec![]);
        let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
        // The broadcast address needs no neighbour.
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(interface.context(), (Ipv4Address::new(10, 0, 0, 255), 80), 5000).expect("a closed socket");
        interface.poll_egress(StackInstant::ZERO, &mut device, &mut sockets);
        let (frame, _) = smoltcp::phy::Device::receive(&mut device, StackInstant::ZERO).expect("a SYN");
        smoltcp::phy::RxToken::consume(frame, |frame| {
            TcpPacket::new_checked(&frame[34..]).expect("a segment").seq_number().0 as u32
        })
    }

    proptest! {
        /// What is known of the generator holds for smoltcp itself.
        #[test]
        fn smoltcp_uses_the_chosen_number(number: u32) {
            prop_assert_eq!(first_number(seed(number)), number);
        }
    }

    #[test]
    fn smoltcp_uses_a_number_for_which_it_draws_twice() {
        let number = (0..u32::MAX).find(|number| {
            let drawn = generator::number(generator::before(generator::state(*number, 0)));
            drawn as u16 == (drawn >> 16) as u16
        });
        let number = number.expect("one in 65,536 is");
        assert_eq!(first_number(seed(number)), number);
    }

    #[test]
    fn a_connection_begins_beyond_its_predecessor() {
        let (numbers, key) = (IsnGenerator::new([1, 2]), Key::new([10, 0, 0, 1], 5000, 80));
        let number = numbers.initial([10, 0, 0, 2], key, None, Instant(1 << 40));
        for (distance, follows) in [(1, false), (1 << 20, false), (0x7fff_ffff, false), (0, true), (u32::MAX, true)] {
            let last = number.wrapping_sub(distance);
            let next = numbers.initial([10, 0, 0, 2], key, Some(last), Instant(1 << 40));
            assert_eq!(next, if follows { last.wrapping_add(BEYOND) } else { number }, "{distance}");
        }
    }
}
