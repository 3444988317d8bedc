//! Judges the network interface: an entry of `vif` (`xl-network-configuration(5)`).

/// Checks an entry of `vif` against the domains that may be the back end, each by its first and
/// last id. Returns what is worth knowing.
pub(super) fn check(entry: &str, domains: &[(u16, u16)]) -> Result<Option<String>, String> {
    let mut backend = None;
    let mut seen: Vec<&str> = Vec::new();
    for part in entry.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let wanted = match key {
            "mac" => (!is_mac(value)).then_some("six numbers like 00:16:3e:01:02:03"),
            "bridge" | "script" | "rate" | "mtu" | "vifname" => value.is_empty().then_some("a value"),
            "trusted" | "untrusted" => part.contains('=').then_some("nothing after the word"),
            "backend" => value.is_empty().then_some("a domain"),
            _ => {
                return Err(format!(
                    "`{key}` of `vif` is not judged: the image needs no more than mac, bridge and backend"
                ));
            }
        };
        if let Some(wanted) = wanted {
            return Err(format!("`{key}` of `vif` needs {wanted}"));
        }
        if seen.contains(&key) {
            return Err(format!("`{key}` is in an entry of `vif` more than once: keep one of them"));
        }
        seen.push(key);
        if key == "backend" {
            backend = Some(value);
        }
    }
    judge_backend(backend, domains)
}

/// Judges the domain of the back end: without `backend`, it is domain 0.
fn judge_backend(backend: Option<&str>, domains: &[(u16, u16)]) -> Result<Option<String>, String> {
    let ranges: Vec<String> = domains
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    let allowed = ranges.join(", ");
    match backend.map_or(Ok(0), str::parse::<u16>) {
        Ok(id) if domains.iter().any(|(first, last)| (*first..=*last).contains(&id)) => Ok(None),
        Ok(id) => Err(format!(
            "the back end of `vif` is in domain {id}, and the policy allows {allowed}: set `backend`, or build the image with `--backend {id}`"
        )),
        Err(_) => Ok(Some(format!(
            "`backend` of `vif` is a name: `xl domid` must give one of {allowed}, else the guest has no network"
        ))),
    }
}

fn is_mac(value: &str) -> bool {
    let parts: Vec<&str> = value.split(':').collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
