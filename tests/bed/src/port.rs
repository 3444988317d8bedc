//! Finds TCP ports of this machine.

use std::net::{Ipv4Addr, TcpListener};

use crate::BedError;

/// Returns the port to use: `wanted` if it is free, or any free port for 0.
pub fn choose(wanted: u16) -> Result<u16, BedError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).map_err(|_| BedError::PortTaken(wanted))?;
    Ok(listener.local_addr().map_err(|_| BedError::PortTaken(wanted))?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_found_and_can_be_asked_for() {
        let port = choose(0).expect("some port is free");
        assert_ne!(port, 0);
        assert_eq!(choose(port).expect("still free"), port);
    }

    #[test]
    fn a_taken_port_is_an_error_that_names_it() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let port = holder.local_addr().expect("address").port();
        let error = choose(port).expect_err("it is taken");
        assert!(error.to_string().contains(&format!("port {port} ")), "{error}");
    }
}
