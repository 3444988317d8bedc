//! Judges the guest's command line by the options that the services read (`services/tcpip`, DHCP
//! and addresses; `docs/architecture.md`).

use std::net::Ipv4Addr;

/// Returns what is wrong with a command line.
pub(super) fn check(line: &str) -> Result<(), String> {
    let mut seen: Vec<&str> = Vec::new();
    for word in line.split_ascii_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let wanted = match key {
            "ip" => {
                (value != "dhcp" && !is_network(value)).then_some("`ip=dhcp`, or an address like `ip=192.0.2.10/24`")
            }
            "gw" => (!is_host(value)).then_some("an address like `gw=192.0.2.1`"),
            "offload" => (!matches!(value, "on" | "off")).then_some("`offload=on` or `offload=off`"),
            "udp-echo" => (!value.parse::<u16>().is_ok_and(|port| port != 0)).then_some("a port like `udp-echo=7`"),
            _ => return Err(format!("no service reads `{word}` of the command line: remove it")),
        };
        if let Some(wanted) = wanted {
            return Err(format!("`{word}` of the command line is not {wanted}"));
        }
        if seen.contains(&key) {
            return Err(format!("`{key}=` is more than once on the command line: keep one of them"));
        }
        seen.push(key);
    }
    let fixed = line.split_ascii_whitespace().any(|word| word.starts_with("ip=") && word != "ip=dhcp");
    if seen.contains(&"gw") && !fixed {
        return Err("`gw=` on the command line needs an address in `ip=`".to_owned());
    }
    Ok(())
}

fn is_network(value: &str) -> bool {
    let parts = value.split_once('/');
    parts.is_some_and(|(host, prefix)| {
        is_host(host) && prefix.parse().is_ok_and(|prefix: u8| (1..=32).contains(&prefix))
    })
}

/// Returns `true` for an address that a host can have.
fn is_host(value: &str) -> bool {
    value.parse::<Ipv4Addr>().is_ok_and(|host| !matches!(host.octets()[0], 0 | 127 | 224..))
}
