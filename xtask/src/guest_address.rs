//! The `--net` option: how the guest gets its IP address.

use clap::ValueEnum;
use cloister_bed::guest::STATIC_CMDLINE;

/// Says how the guest gets its IP address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum GuestAddress {
    /// 10.0.2.15, given on the command line
    Static,
    /// From QEMU's DHCP server, which assigns the same address
    Dhcp,
}

impl GuestAddress {
    /// Returns the words for the guest's command line.
    pub fn cmdline(self) -> &'static str {
        match self {
            Self::Static => STATIC_CMDLINE,
            Self::Dhcp => "ip=dhcp",
        }
    }
}
