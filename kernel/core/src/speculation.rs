//! What the processor says about its weaknesses to speculation, and what the kernel does about
//! each.
//!
//! The bits of CPUID and of `IA32_ARCH_CAPABILITIES` are those of Intel's SDM (volume 2A, "CPUID",
//! and volume 4) and of its page "CPUID Enumeration and Architectural MSRs", and of AMD's APM
//! (volume 3, appendix E). A hypervisor may hide them. What is hidden is not taken for good.

use core::fmt;

use cloister_caps::tables::{Image, Isolation};
use cloister_caps::weakness::{Exposure, Exposures, Weakness};

/// The maker of the processor, by the name in CPUID leaf 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Vendor {
    Intel,
    /// AMD, and Hygon, whose processors are AMD's.
    Amd,
    Other,
}

/// What CPUID says that matters here.
#[derive(Clone, Copy, Debug)]
pub struct Cpuid {
    vendor: Vendor,
    family: u32,
    model: u32,
    /// Leaf 7.0, EBX and EDX.
    leaf7: (u32, u32),
    /// Leaf 7.2, EDX.
    leaf7_2: u32,
    /// Leaf 0x8000_0008, EBX; 0 if the isolation is not strict.
    extended8: u32,
    /// Leaf 0x8000_0021, EAX.
    extended21: u32,
}

/// Bits of CPUID 7.0 EBX.
mod leaf7_ebx {
    /// Supervisor-mode execution prevention.
    pub const SMEP: u32 = 1 << 7;
    /// Restricted transactional memory.
    pub const RTM: u32 = 1 << 11;
}
/// Bits of CPUID 7.0 EDX.
mod leaf7_edx {
    /// VERW clears the buffers.
    pub const MD_CLEAR: u32 = 1 << 10;
    /// IBRS and IBPB exist: the registers `IA32_SPEC_CTRL` and `IA32_PRED_CMD`.
    pub const IBRS_IBPB: u32 = 1 << 26;
    /// `IA32_ARCH_CAPABILITIES` exists.
    pub const ARCH_CAPABILITIES: u32 = 1 << 29;
}
/// CPUID 7.2 EDX: `IA32_SPEC_CTRL` has the bit BHI_DIS_S.
const BHI_CTRL: u32 = 1 << 4;
/// CPUID 0x8000_0008 EBX of AMD: IBPB exists.
const AMD_IBPB: u32 = 1 << 12;
/// Bits of CPUID 0x8000_0021 EAX of AMD.
mod extended21_eax {
    /// Automatic IBRS exists: a bit of EFER.
    pub const AUTO_IBRS: u32 = 1 << 8;
    /// Predictions of returns cannot be poisoned (SRSO_NO).
    pub const SRSO_NO: u32 = 1 << 29;
    /// Ring 3 cannot poison those of ring 0 (SRSO_USER_KERNEL_NO).
    pub const SRSO_USER_KERNEL_NO: u32 = 1 << 30;
}
/// Bits of `IA32_ARCH_CAPABILITIES`.
mod capability {
    /// No Meltdown, and no L1TF.
    pub const RDCL_NO: u64 = 1 << 0;
    /// Enhanced IBRS: one write to `IA32_SPEC_CTRL` is enough.
    pub const IBRS_ALL: u64 = 1 << 1;
    pub const MDS_NO: u64 = 1 << 5;
    pub const TAA_NO: u64 = 1 << 8;
    /// SBDR_SSDP_NO, FBSDP_NO and PSDP_NO: no stale data of devices.
    pub const MMIO_NO: u64 = 0b111 << 13;
    /// VERW clears the fill buffers.
    pub const FB_CLEAR: u64 = 1 << 17;
    pub const BHI_NO: u64 = 1 << 20;
    pub const RFDS_NO: u64 = 1 << 27;
    /// VERW clears the register files.
    pub const RFDS_CLEAR: u64 = 1 << 28;
}

/// Models of Intel's family 6 that may have RFDS, by Intel's list: Goldmont, Tremont and Gracemont
/// cores, and processors with such cores among others.
const RFDS_MODELS: [u32; 13] = [0x5C, 0x5F, 0x7A, 0x86, 0x8A, 0x96, 0x97, 0x9A, 0x9C, 0xB7, 0xBA, 0xBE, 0xBF];

impl Cpuid {
    /// Reads what matters by `cpuid`, which returns EAX, EBX, ECX and EDX of a leaf and sub-leaf.
    ///
    /// A leaf beyond the highest that there is counts as 0. A processor would return another leaf's
    /// content. Each leaf costs an exit to Xen, so what `image` does not need is not read.
    pub fn read(image: &Image, mut cpuid: impl FnMut(u32, u32) -> [u32; 4]) -> Cpuid {
        let [highest, ebx, ecx, edx] = cpuid(0, 0);
        let vendor = match [ebx, edx, ecx].map(u32::to_le_bytes).as_flattened() {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Other,
        };
        let [signature, ..] = cpuid(1, 0);
        let [sub_leaves, ebx, _, edx] = if highest >= 7 { cpuid(7, 0) } else { [0; 4] };
        let leaf7_2 = if vendor == Vendor::Intel && sub_leaves >= 2 { cpuid(7, 2)[3] } else { 0 };
        let highest = if vendor == Vendor::Amd { cpuid(0x8000_0000, 0)[0] } else { 0 };
        let mut extended = |leaf: u32| if highest >= leaf { cpuid(leaf, 0) } else { [0; 4] };
        let base = signature >> 8 & 0xF;
        Cpuid {
            vendor,
            family: if base == 0xF { base + (signature >> 20 & 0xFF) } else { base },
            model: signature >> 4 & 0xF | signature >> 12 & 0xF0,
            leaf7: (ebx, edx),
            leaf7_2,
            extended8: if image.isolation == Isolation::Strict { extended(0x8000_0008)[1] } else { 0 },
            extended21: extended(0x8000_0021)[0],
        }
    }

    /// Returns `true` if `IA32_ARCH_CAPABILITIES` exists. Reading it elsewhere is an exception.
    #[must_use]
    pub fn has_arch_capabilities(&self) -> bool {
        self.leaf7.1 & leaf7_edx::ARCH_CAPABILITIES != 0
    }

    fn has_ibpb(&self) -> bool {
        match self.vendor {
            Vendor::Amd => self.extended8 & AMD_IBPB != 0,
            _ => self.leaf7.1 & leaf7_edx::IBRS_IBPB != 0,
        }
    }
}

/// What the kernel switches on once, at boot. Each control is announced by CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Controls {
    /// Bits to set in `IA32_SPEC_CTRL`; 0 if the register is to be left alone.
    pub spec_ctrl: u64,
    /// Automatic IBRS, in EFER.
    pub auto_ibrs: bool,
}

/// `IA32_SPEC_CTRL`: IBRS.
const IBRS: u64 = 1 << 0;
/// `IA32_SPEC_CTRL`: BHI_DIS_S.
const BHI_DIS_S: u64 = 1 << 10;

/// What the kernel does each time another service runs. Each is announced by CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Barriers {
    /// Clear the processor's buffers, by VERW.
    pub verw: bool,
    /// Flush the predictions of branches and returns, by IBPB and 32 calls.
    pub flush: bool,
}

impl Barriers {
    /// Returns `true` if there is anything to do.
    #[must_use]
    #[inline]
    pub fn any(self) -> bool {
        self.verw || self.flush
    }
}

/// What there is to know and to do about speculation on this processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Speculation {
    /// The exposure to each weakness, once the controls are on and the barriers are kept.
    pub exposures: Exposures,
    /// What to switch on at boot.
    pub controls: Controls,
    /// What to do when another service runs.
    pub barriers: Barriers,
}

/// Says which demand of the policy the processor does not meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmet {
    /// The isolation is strict, and there is no IBPB.
    NoIbpb,
    /// The weakness is refused, and nothing is done about it.
    Open(Weakness, Exposure),
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unmet::NoIbpb => f.write_str(
                "the policy has isolation = \"strict\", and the processor announces no IBPB: update its microcode, or use another",
            ),
            Unmet::Open(weakness, exposure) => {
                let state = if *exposure == Exposure::Unknown { "may be vulnerable" } else { "is vulnerable" };
                write!(
                    f,
                    "the policy has refuse-weakness = \"{}\", and the processor {state}: update its microcode or Xen, or use another",
                    weakness.name()
                )
            }
        }
    }
}

/// Decides what to do on a processor, and checks what the policy demands of it.
///
/// `capabilities` is the value of `IA32_ARCH_CAPABILITIES`, or `None` where
/// [`Cpuid::has_arch_capabilities`] is `false`.
///
/// # Errors
/// The processor does not meet a demand: the first one.
pub fn decide(cpuid: &Cpuid, capabilities: Option<u64>, image: &Image) -> Result<Speculation, Unmet> {
    let strict = image.isolation == Isolation::Strict;
    if strict && !cpuid.has_ibpb() {
        return Err(Unmet::NoIbpb);
    }
    let controls = controls(cpuid, capabilities);
    let known = Known { cpuid, capabilities, controls, strict };
    let exposures = Exposures::new(image.isolation, |weakness| known.exposure(weakness));
    let open = |weakness: &Weakness| exposures.of(*weakness).is_open();
    if let Some(weakness) = image.refused.iter().find(open) {
        return Err(Unmet::Open(weakness, exposures.of(weakness)));
    }
    let verw = Weakness::ALL.iter().any(|weakness| exposures.of(*weakness) == Exposure::Verw);
    Ok(Speculation { exposures, controls, barriers: Barriers { verw, flush: strict } })
}

fn controls(cpuid: &Cpuid, capabilities: Option<u64>) -> Controls {
    match cpuid.vendor {
        Vendor::Intel => {
            let enhanced = capabilities.is_some_and(|bits| bits & capability::IBRS_ALL != 0);
            if !enhanced || cpuid.leaf7.1 & leaf7_edx::IBRS_IBPB == 0 {
                // IBRS without the enhancement has to be written at each entry of the kernel.
                return Controls::default();
            }
            let history = if cpuid.leaf7_2 & BHI_CTRL != 0 { BHI_DIS_S } else { 0 };
            Controls { spec_ctrl: IBRS | history, auto_ibrs: false }
        }
        Vendor::Amd => Controls { spec_ctrl: 0, auto_ibrs: cpuid.extended21 & extended21_eax::AUTO_IBRS != 0 },
        Vendor::Other => Controls::default(),
    }
}

/// Everything that an exposure follows from.
struct Known<'a> {
    cpuid: &'a Cpuid,
    capabilities: Option<u64>,
    controls: Controls,
    strict: bool,
}

impl Known<'_> {
    fn exposure(&self, weakness: Weakness) -> Exposure {
        match weakness {
            Weakness::SpectreV1 => Exposure::Clamped,
            Weakness::SpectreV2 => self.branches(),
            Weakness::Bhi => self.history(),
            Weakness::Returns => self.returns(),
            // AMD names none of the others for its processors.
            _ if self.cpuid.vendor == Vendor::Amd => Exposure::NotAffected,
            _ if self.cpuid.vendor == Vendor::Other && weakness == Weakness::L1tf => Exposure::EmptyEntries,
            _ if self.cpuid.vendor == Vendor::Other => Exposure::Unknown,
            Weakness::Meltdown => self.unless(capability::RDCL_NO, false),
            Weakness::L1tf => match self.unless(capability::RDCL_NO, false) {
                Exposure::NotAffected => Exposure::NotAffected,
                _ => Exposure::EmptyEntries,
            },
            Weakness::Mds => self.unless(capability::MDS_NO, self.clears()),
            Weakness::Taa if self.cpuid.leaf7.0 & leaf7_ebx::RTM == 0 => Exposure::NotAffected,
            Weakness::Taa => self.unless(capability::TAA_NO, self.clears()),
            Weakness::Mmio => {
                // On a processor with MDS, the VERW against that clears the fill buffers, too.
                let by_mds = self.clears() && !self.says(capability::MDS_NO);
                self.unless(capability::MMIO_NO, by_mds || self.says(capability::FB_CLEAR))
            }
            Weakness::Rfds if !self.may_have_rfds() => Exposure::NotAffected,
            Weakness::Rfds => self.unless(capability::RFDS_NO, self.says(capability::RFDS_CLEAR)),
        }
    }

    /// Returns `true` for the affected models, and for a processor that announces the remedy: a
    /// hypervisor does so for a guest that may run on an affected one, whatever model it shows.
    fn may_have_rfds(&self) -> bool {
        let listed = self.cpuid.family == 6 && RFDS_MODELS.contains(&self.cpuid.model);
        listed || self.cpuid.vendor == Vendor::Intel && self.says(capability::RFDS_CLEAR)
    }

    /// Returns `true` if the processor says all of these bits.
    fn says(&self, bits: u64) -> bool {
        self.capabilities.is_some_and(|capabilities| capabilities & bits == bits)
    }

    fn clears(&self) -> bool {
        self.cpuid.leaf7.1 & leaf7_edx::MD_CLEAR != 0
    }

    /// Returns the exposure to a weakness that the processor denies by these bits, and for which
    /// VERW helps if `verw` is `true`.
    fn unless(&self, denied: u64, verw: bool) -> Exposure {
        match self.capabilities {
            _ if self.says(denied) => Exposure::NotAffected,
            _ if verw => Exposure::Verw,
            Some(_) => Exposure::Vulnerable,
            None => Exposure::Unknown,
        }
    }

    fn branches(&self) -> Exposure {
        match self.controls {
            Controls { auto_ibrs: true, .. } => Exposure::AutoIbrs,
            Controls { spec_ctrl, .. } if spec_ctrl & IBRS != 0 => Exposure::Eibrs,
            _ => Exposure::Vulnerable,
        }
    }

    fn history(&self) -> Exposure {
        match self.cpuid.vendor {
            Vendor::Amd => Exposure::NotAffected,
            _ if self.says(capability::BHI_NO) => Exposure::NotAffected,
            _ if self.controls.spec_ctrl & BHI_DIS_S != 0 => Exposure::BhiDisS,
            _ => Exposure::Vulnerable,
        }
    }

    /// Returns what is done about the returns of the kernel. Where its branches are not protected,
    /// its returns are not either: many processors predict them alike when a return has no call.
    fn returns(&self) -> Exposure {
        let denied = extended21_eax::SRSO_NO | extended21_eax::SRSO_USER_KERNEL_NO;
        let poisoned = self.cpuid.vendor == Vendor::Amd && self.cpuid.extended21 & denied == 0;
        if poisoned || self.branches() == Exposure::Vulnerable {
            Exposure::Vulnerable
        } else if self.strict {
            Exposure::Fill
        } else if self.cpuid.leaf7.0 & leaf7_ebx::SMEP != 0 {
            Exposure::Smep
        } else {
            Exposure::Vulnerable
        }
    }
}

#[cfg(test)]
mod tests;
