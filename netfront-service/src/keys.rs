//! Parses the values of XenStore nodes strictly: nothing is stripped, and every other form is
//! refused.

use core::fmt::Write;

use cloister_caps::DomId;
use cloister_caps::xen::xenbus::XenbusState;
use cloister_interfaces::store::Path;

/// Parses a decimal number without sign, blanks or leading zeros, at most `max`.
#[must_use]
pub fn number(text: &[u8], max: u32) -> Option<u32> {
    if text.is_empty() || (text.len() > 1 && text.starts_with(b"0")) {
        return None;
    }
    let value = text.iter().try_fold(0u32, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u32::from(byte - b'0')),
        _ => None,
    })?;
    (value <= max).then_some(value)
}

/// Parses a `state` node.
#[must_use]
pub fn state(text: &[u8]) -> Option<XenbusState> {
    XenbusState::ALL.get(number(text, 8)? as usize).copied()
}

/// Parses the id of a domain that can be a back end: below `DOMID_FIRST_RESERVED`.
#[must_use]
pub fn domid(text: &[u8]) -> Option<DomId> {
    let id = number(text, u32::from(DomId::FIRST_RESERVED.0) - 1)?;
    u16::try_from(id).ok().map(DomId)
}

/// Parses a feature node: exactly `0` or `1`.
#[must_use]
pub fn flag(text: &[u8]) -> Option<bool> {
    match text {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

/// Parses an MTU: 68 (RFC 791) to 65535 bytes.
#[must_use]
pub fn mtu(text: &[u8]) -> Option<u16> {
    let mtu = number(text, 65535)?;
    u16::try_from(mtu).ok().filter(|mtu| *mtu >= 68)
}

/// Parses a MAC address: six pairs of hexadecimal digits with colons between them, unicast and not
/// zero.
#[must_use]
pub fn mac(text: &[u8]) -> Option<[u8; 6]> {
    if text.len() != 17 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut mac = [0; 6];
    for (byte, group) in mac.iter_mut().zip(text.chunks(3)) {
        *byte = match group {
            [high, low, b':'] | [high, low] => digit(*high)? << 4 | digit(*low)?,
            _ => return None,
        };
    }
    let unicast = mac.first().is_some_and(|byte| byte & 1 == 0);
    (unicast && mac != [0; 6]).then_some(mac)
}

/// A back end's directory: `/local/domain/<peer>/backend/vif/<domain>/<handle>`.
///
/// # Holding one proves
/// [`backend`] has parsed it. So its numbers are in range, there is one spelling of it, and it
/// leaves room for the names of its nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    peer: DomId,
    domain: DomId,
    handle: u8,
}

impl Backend {
    /// Returns the domain of the back end.
    #[must_use]
    pub fn peer(self) -> DomId {
        self.peer
    }

    /// Returns the path of the node `name` in the directory.
    #[must_use]
    pub fn node(self, name: &str) -> Path {
        let Backend { peer, domain, handle } = self;
        let mut path = Path::new();
        // Every name fits.
        let _ = write!(path, "/local/domain/{}/backend/vif/{}/{handle}/{name}", peer.0, domain.0);
        path
    }
}

/// Parses the directory of a back end in the domain `peer`.
#[must_use]
pub fn backend(text: &[u8], peer: DomId) -> Option<Backend> {
    let text = core::str::from_utf8(text).ok()?;
    let mut parts = text.strip_prefix("/local/domain/")?.split('/');
    let id = domid(parts.next()?.as_bytes())?;
    if id != peer || parts.next() != Some("backend") || parts.next() != Some("vif") {
        return None;
    }
    let domain = domid(parts.next()?.as_bytes())?;
    let handle = u8::try_from(number(parts.next()?.as_bytes(), 255)?).ok()?;
    if parts.next().is_some() { None } else { Some(Backend { peer, domain, handle }) }
}

#[cfg(test)]
mod tests;
