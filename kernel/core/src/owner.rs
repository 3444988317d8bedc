//! Names what the guest's memory is used for when the image boots.

use core::fmt;

/// Names what a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The kernel: code, data and stacks.
    Kernel,
    /// The capability tables.
    Tables,
    /// The services' programs, as the image has them.
    Programs,
    /// Data regions of the image.
    ImageData,
    /// The registers of the local APIC.
    LocalApic,
    /// The start info.
    StartInfo,
    /// The list of boot modules.
    ModuleList,
    /// The memory map.
    MemoryMap,
    /// The command line.
    CommandLine,
    /// The boot module.
    Module,
    /// The page of the XenStore ring.
    XenStorePage,
    /// The page of the console ring.
    ConsolePage,
    /// The shared info and the grant table.
    SharedPages,
}

impl Owner {
    /// Returns `true` if owners may have bytes in one page.
    ///
    /// The toolstack puts the boot data next to each other, and the kernel reads each part once.
    /// Constants of the image are for `verify` to compare with each other: nobody writes them.
    pub(crate) fn shares_pages_with(self, other: Owner) -> bool {
        let constant = matches!(self, Owner::Programs | Owner::ImageData);
        self.is_boot_data() && other.is_boot_data() || constant && self == other
    }

    pub(crate) fn is_boot_data(self) -> bool {
        matches!(self, Owner::StartInfo | Owner::ModuleList | Owner::MemoryMap | Owner::CommandLine)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Owner::Kernel => "the kernel",
            Owner::Tables => "the capability tables",
            Owner::Programs => "the services' programs",
            Owner::ImageData => "data of the image",
            Owner::LocalApic => "the local APIC",
            Owner::StartInfo => "the start info",
            Owner::ModuleList => "the module list",
            Owner::MemoryMap => "the memory map",
            Owner::CommandLine => "the command line",
            Owner::Module => "the boot module",
            Owner::XenStorePage => "the XenStore page",
            Owner::ConsolePage => "the console page",
            Owner::SharedPages => "Xen's shared pages",
        })
    }
}
