//! Tests tcpip with a DHCP server.

use cloister_scenarios::Network;
use cloister_scenarios::dhcp::Dhcp;
use smoltcp::socket::tcp;
use smoltcp::wire::Ipv4Address;

use crate::rig::{Rig, Setup};

fn wait(dhcp: &mut Dhcp, rig: &mut Rig, seconds: u64) {
    for _ in 0..seconds * 20 {
        rig.advance(50_000_000);
        rig.step();
        dhcp.serve(&mut rig.client);
    }
}

#[test]
fn an_address_is_leased_renewed_lost_and_leased_again() {
    let mut rig = Rig::new(Setup { command_line: "", ..Setup::default() });
    let mut dhcp = Dhcp::new(&mut rig.client, Ipv4Address::new(10, 0, 0, 2));
    wait(&mut dhcp, &mut rig, 15);
    assert!(rig.system.console().contains("address 10.0.0.2/24, gateway 10.0.0.1"), "{}", rig.system.console());
    assert!(rig.get("/").0.starts_with("HTTP/1.1 200 "));
    let before = dhcp.requests;
    wait(&mut dhcp, &mut rig, 120);
    assert!(dhcp.requests > before, "the lease is renewed");
    assert!(!rig.system.console().contains("address lost"));
    let open = rig.connect();
    rig.run(50);
    rig.wait(70);
    assert!(rig.system.console().contains("address lost"));
    wait(&mut dhcp, &mut rig, 30);
    assert_eq!(rig.system.console().matches("listening on port 80").count(), 2, "{}", rig.system.console());
    assert!(rig.get("/").0.starts_with("HTTP/1.1 200 "));
    assert_ne!(rig.socket(open).state(), tcp::State::Established);
}

#[test]
fn an_address_that_no_host_can_have_is_refused() {
    let mut rig = Rig::new(Setup { command_line: "ip=dhcp", ..Setup::default() });
    let mut dhcp = Dhcp::new(&mut rig.client, Ipv4Address::new(127, 0, 0, 1));
    wait(&mut dhcp, &mut rig, 30);
    assert!(dhcp.requests > 0);
    assert!(!rig.system.console().contains("listening"), "{}", rig.system.console());
}
