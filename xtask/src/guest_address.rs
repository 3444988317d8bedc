//! How the guest gets its address.

use clap::ValueEnum;
use cloister_bed::guest::STATIC_CMDLINE;

/// Where the guest's address comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum GuestAddress {
    /// 10.0.2.15, given on the command line
    Static,
    /// From QEMU's DHCP server, which hands out the same
    Dhcp,
}

impl GuestAddress {
    /// The words on the guest's command line that say so.
    pub fn cmdline(self) -> &'static str {
        match self {
            Self::Static => STATIC_CMDLINE,
            Self::Dhcp => "ip=dhcp",
        }
    }
}
