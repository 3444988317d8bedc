//! Processors of several kinds. The bits are those that the makers document for the models, put
//! together by hand; those of the last Zen 4 and of QEMU were read from the machines.

use cloister_caps::weakness::Weaknesses;

use super::*;

/// A processor: the registers that matter.
#[derive(Clone, Copy)]
struct Chip {
    vendor: &'static [u8; 12],
    highest: u32,
    signature: u32,
    leaf7: [u32; 4],
    leaf7_2_edx: u32,
    highest_extended: u32,
    extended8_ebx: u32,
    extended21_eax: u32,
    capabilities: Option<u64>,
}

const INTEL: Chip = Chip {
    vendor: b"GenuineIntel",
    highest: 0x16,
    signature: 0,
    leaf7: [0; 4],
    leaf7_2_edx: 0,
    highest_extended: 0x8000_0008,
    extended8_ebx: 0,
    extended21_eax: 0,
    capabilities: None,
};
const AMD: Chip = Chip { vendor: b"AuthenticAMD", highest: 0x10, highest_extended: 0x8000_001F, ..INTEL };

/// A client with microcode of 2019 or later.
const SKYLAKE: Chip = Chip { signature: 0x506E3, leaf7: [0, 0x029C_6FBB, 0, 0x9C00_0600], ..INTEL };
/// The same without that microcode: neither MD_CLEAR nor IBPB.
const OLD_SKYLAKE: Chip = Chip { leaf7: [0, 0x029C_6FBB, 0, 0], ..SKYLAKE };
/// RDCL_NO, IBRS_ALL, MDS_NO, TSX_CTRL, and transactions on.
const CASCADE_LAKE: Chip =
    Chip { signature: 0x50657, leaf7: [0, 0xD39F_FFFB, 0, 0xBC00_0400], capabilities: Some(0x2_00AB), ..INTEL };
/// TAA_NO, too.
const ICE_LAKE: Chip = Chip {
    signature: 0x606A6,
    highest: 0x1B,
    leaf7: [0, 0xF3BF_FFEF, 0, 0xBC04_0412],
    capabilities: Some(0x2_01EB),
    ..INTEL
};
/// No stale data of devices, and BHI_DIS_S.
const SAPPHIRE_RAPIDS: Chip = Chip {
    signature: 0x806F8,
    highest: 0x20,
    leaf7: [2, 0xF3BF_BFEF, 0, 0xFFDD_4432],
    leaf7_2_edx: 0x17,
    capabilities: Some(0xE1EB),
    ..INTEL
};
/// With the microcode of 2024: RFDS_CLEAR.
const ALDER_LAKE: Chip = Chip {
    signature: 0x90672,
    highest: 0x20,
    leaf7: [2, 0x239C_27EB, 0, 0xFC1C_C410],
    leaf7_2_edx: 0x17,
    capabilities: Some(0x1000_E1EB),
    ..INTEL
};
/// IBPB, and IBRS that has to be written at each entry.
const ZEN_2: Chip = Chip { signature: 0x83_0F10, leaf7: [0, 0x219C_91A9, 0, 0], extended8_ebx: 0x0110_D005, ..AMD };
const ZEN_4: Chip = Chip {
    signature: 0xA1_0F11,
    leaf7: [1, 0xF1BF_97A9, 0, 0x10],
    highest_extended: 0x8000_0028,
    extended8_ebx: 0x711E_F257,
    extended21_eax: 0x6210_D1CF & !extended21_eax::SRSO_USER_KERNEL_NO & !extended21_eax::SRSO_NO,
    ..AMD
};
const ZEN_5: Chip = Chip { signature: 0xB0_0F21, extended21_eax: ZEN_4.extended21_eax | 1 << 30, ..ZEN_4 };
/// A guest of another hypervisor, which hides IBPB and automatic IBRS.
const HIDDEN_ZEN_4: Chip = Chip {
    highest: 0x1C,
    signature: 0xA1_0F11,
    leaf7: [1, 0xF1BF_07AB, 0x0040_5FC6, 0x10],
    highest_extended: 0x8000_0021,
    extended8_ebx: 0x5002_0005,
    extended21_eax: 0x204,
    ..AMD
};
/// QEMU without hardware virtualisation, `-cpu qemu64` and `max`: an AMD of family 15.
const TCG: Chip =
    Chip { highest: 0xD, signature: 0x60FB1, leaf7: [0, 0x219C_07AB, 0, 0], highest_extended: 0x8000_000A, ..AMD };
const OTHER: Chip = Chip { vendor: b"CentaurHauls", signature: 0x6FD, ..SKYLAKE };

impl Chip {
    fn cpuid(&self, image: &Image) -> Cpuid {
        let word = |at: usize| u32::from_le_bytes(self.vendor[at..at + 4].try_into().unwrap());
        Cpuid::read(image, |leaf, sub_leaf| match (leaf, sub_leaf) {
            (0, _) => [self.highest, word(0), word(8), word(4)],
            (1, _) => [self.signature, 0, 0, 0],
            (7, 0) if self.highest >= 7 => self.leaf7,
            (7, 2) if self.leaf7[0] >= 2 => [0, 0, 0, self.leaf7_2_edx],
            (0x8000_0000, _) => [self.highest_extended, 0, 0, 0],
            (0x8000_0008, _) if self.highest_extended >= leaf => [0, self.extended8_ebx, 0, 0],
            (0x8000_0021, _) if self.highest_extended >= leaf => [self.extended21_eax, 0, 0, 0],
            // What a processor does: the content of another leaf.
            _ => [u32::MAX; 4],
        })
    }

    fn decide(&self, isolation: Isolation, refused: Weaknesses) -> Result<Speculation, Unmet> {
        let image = Image { isolation, refused };
        let cpuid = self.cpuid(&image);
        assert_eq!(cpuid.has_arch_capabilities(), self.capabilities.is_some());
        decide(&cpuid, self.capabilities, &image)
    }

    fn standard(&self) -> Speculation {
        self.decide(Isolation::Standard, Weaknesses::NONE).unwrap()
    }

    fn strict(&self) -> Speculation {
        self.decide(Isolation::Strict, Weaknesses::NONE).unwrap()
    }
}

/// Asserts the exposures of a processor as the boot line writes them, less what is the same for
/// all.
#[track_caller]
fn is(chip: Chip, expected: &str) {
    let text = chip.standard().exposures.to_string();
    let text = text.replace("spectre-v1=clamped ", "").replace(" isolation=standard", "");
    assert_eq!(text, expected);
}

#[test]
fn processors_of_intel() {
    is(
        SKYLAKE,
        "meltdown=unknown l1tf=empty-entries mds=verw taa=verw mmio=verw rfds=no \
         spectre-v2=vulnerable bhi=vulnerable returns=vulnerable",
    );
    is(
        OLD_SKYLAKE,
        "meltdown=unknown l1tf=empty-entries mds=unknown taa=unknown mmio=unknown rfds=no \
         spectre-v2=vulnerable bhi=vulnerable returns=vulnerable",
    );
    is(
        Chip { capabilities: Some(0), leaf7: [0, 0x029C_6FBB, 0, 1 << 29], ..SKYLAKE },
        "meltdown=vulnerable l1tf=empty-entries mds=vulnerable taa=vulnerable mmio=vulnerable rfds=no \
         spectre-v2=vulnerable bhi=vulnerable returns=vulnerable",
    );
    is(
        CASCADE_LAKE,
        "meltdown=no l1tf=no mds=no taa=verw mmio=verw rfds=no spectre-v2=eibrs bhi=vulnerable returns=smep",
    );
    is(ICE_LAKE, "meltdown=no l1tf=no mds=no taa=no mmio=verw rfds=no spectre-v2=eibrs bhi=vulnerable returns=smep");
    is(
        SAPPHIRE_RAPIDS,
        "meltdown=no l1tf=no mds=no taa=no mmio=no rfds=no spectre-v2=eibrs bhi=bhi-dis-s returns=smep",
    );
    is(ALDER_LAKE, "meltdown=no l1tf=no mds=no taa=no mmio=no rfds=verw spectre-v2=eibrs bhi=bhi-dis-s returns=smep");
    let old = Chip { capabilities: Some(0xE1EB), ..ALDER_LAKE };
    assert_eq!(old.standard().exposures.of(Weakness::Rfds), Exposure::Vulnerable);
    let mended = Chip { capabilities: Some(0x081E_E1EB | 1 << 27), ..ALDER_LAKE };
    let exposures = mended.standard().exposures;
    assert_eq!([Weakness::Rfds, Weakness::Bhi].map(|weakness| exposures.of(weakness)), [Exposure::NotAffected; 2]);
}

/// Each bit is the only one that the decision hangs on.
#[test]
fn single_bits_decide() {
    // Without transactions there is nothing to abort, whatever the processor says about TAA.
    let without_rtm = Chip { leaf7: [0, 0x029C_67BB, 0, 0x9C00_0600], ..SKYLAKE };
    assert_eq!(without_rtm.standard().exposures.of(Weakness::Taa), Exposure::NotAffected);
    let without_smep = Chip { leaf7: [0, 0xD39F_FF7B, 0, 0xBC00_0400], ..CASCADE_LAKE };
    assert_eq!(without_smep.standard().exposures.of(Weakness::Returns), Exposure::Vulnerable);
}

#[test]
fn processors_of_amd() {
    let intels = "meltdown=no l1tf=no mds=no taa=no mmio=no rfds=no";
    let open = format!("{intels} spectre-v2=vulnerable bhi=no returns=vulnerable");
    is(ZEN_2, &open);
    is(HIDDEN_ZEN_4, &open);
    is(TCG, &open);
    is(Chip { vendor: b"HygonGenuine", ..ZEN_2 }, &open);
    is(ZEN_4, &format!("{intels} spectre-v2=auto-ibrs bhi=no returns=vulnerable"));
    is(ZEN_5, &format!("{intels} spectre-v2=auto-ibrs bhi=no returns=smep"));
}

#[test]
fn of_other_makers_nothing_is_known() {
    is(
        OTHER,
        "meltdown=unknown l1tf=empty-entries mds=unknown taa=unknown mmio=unknown rfds=unknown \
         spectre-v2=vulnerable bhi=vulnerable returns=vulnerable",
    );
}

#[test]
fn controls_are_switched_on_where_they_are_announced() {
    let (none, auto) = (Controls::default(), Controls { spec_ctrl: 0, auto_ibrs: true });
    for (chip, controls) in [
        (SKYLAKE, none),
        (CASCADE_LAKE, Controls { spec_ctrl: 1, auto_ibrs: false }),
        (SAPPHIRE_RAPIDS, Controls { spec_ctrl: 1 << 10 | 1, auto_ibrs: false }),
        (ZEN_2, none),
        (ZEN_4, auto),
        (TCG, none),
        (OTHER, none),
        // Without IBRS in CPUID the register does not exist, whatever the capabilities say.
        (Chip { leaf7: [0, 0, 0, 1 << 29], ..CASCADE_LAKE }, none),
        // It is there, and not the enhanced one.
        (Chip { leaf7: [0, 0, 0, 1 << 29 | 1 << 26], capabilities: Some(0), ..SKYLAKE }, none),
    ] {
        assert_eq!(chip.standard().controls, controls, "{:#x}", chip.signature);
    }
}

#[test]
fn barriers_are_kept_where_they_help() {
    let barriers = |verw, flush| Barriers { verw, flush };
    for (chip, verw) in
        [(SKYLAKE, true), (OLD_SKYLAKE, false), (CASCADE_LAKE, true), (SAPPHIRE_RAPIDS, false), (ALDER_LAKE, true)]
    {
        assert_eq!(chip.standard().barriers, barriers(verw, false), "{:#x}", chip.signature);
    }
    assert_eq!(SKYLAKE.strict().barriers, barriers(true, true));
    assert_eq!(ZEN_5.strict().barriers, barriers(false, true));
    assert!(!ZEN_5.standard().barriers.any() && ZEN_5.strict().barriers.any() && SKYLAKE.standard().barriers.any());
    assert_eq!(ZEN_5.strict().exposures.of(Weakness::Returns), Exposure::Fill);
    // The fill protects services from each other, and not the kernel where its branches are open.
    assert_eq!(ZEN_2.strict().exposures.of(Weakness::Returns), Exposure::Vulnerable);
}

#[test]
fn strict_isolation_needs_ibpb() {
    for chip in [TCG, HIDDEN_ZEN_4, OLD_SKYLAKE] {
        let unmet = chip.decide(Isolation::Strict, Weaknesses::NONE).unwrap_err();
        assert_eq!(unmet, Unmet::NoIbpb);
        assert!(unmet.to_string().contains("isolation = \"strict\""), "{unmet}");
    }
    for chip in [SKYLAKE, CASCADE_LAKE, ZEN_2, ZEN_4] {
        assert_eq!(chip.strict().exposures.isolation, Isolation::Strict);
    }
}

#[test]
fn a_weakness_is_refused_exactly_if_it_is_open() {
    for chip in
        [SKYLAKE, OLD_SKYLAKE, CASCADE_LAKE, ICE_LAKE, SAPPHIRE_RAPIDS, ALDER_LAKE, ZEN_2, ZEN_4, ZEN_5, TCG, OTHER]
    {
        let exposures = chip.standard().exposures;
        for weakness in Weakness::ALL {
            let state = exposures.of(*weakness);
            let decided = chip.decide(Isolation::Standard, Weaknesses::NONE.with(*weakness));
            assert_eq!(decided.err(), state.is_open().then_some(Unmet::Open(*weakness, state)));
        }
        let all = Weakness::ALL.iter().fold(Weaknesses::NONE, |set, weakness| set.with(*weakness));
        let first = Weakness::ALL.iter().find(|weakness| exposures.of(**weakness).is_open());
        let unmet = chip.decide(Isolation::Standard, all).err();
        assert_eq!(unmet, first.map(|weakness| Unmet::Open(*weakness, exposures.of(*weakness))));
    }
    let text = |exposure| Unmet::Open(Weakness::SpectreV2, exposure).to_string();
    assert!(text(Exposure::Vulnerable).contains("\"spectre-v2\", and the processor is vulnerable"));
    assert!(text(Exposure::Unknown).contains("\"spectre-v2\", and the processor may be vulnerable"));
}

/// A bit that a processor does not announce is never acted on: all processors of random bits.
mod any {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_what_is_announced_is_used(
            vendor in 0_usize..3,
            highest in prop_oneof![0_u32..8, Just(0x20)],
            leaf7 in any::<[u32; 4]>(),
            leaf7_2_edx in any::<u32>(),
            highest_extended in prop_oneof![Just(0), 0x8000_0000_u32..0x8000_0030],
            (extended8_ebx, extended21_eax) in any::<(u32, u32)>(),
            signature in any::<u32>(),
            capabilities in any::<u64>(),
            strict in any::<bool>(),
        ) {
            let vendor = [b"GenuineIntel", b"AuthenticAMD", b"CyrixInstead"][vendor];
            let announced = highest >= 7 && leaf7[3] >> 29 & 1 == 1;
            let capabilities = announced.then_some(capabilities);
            let chip = Chip {
                vendor, highest, signature, leaf7, leaf7_2_edx, highest_extended, extended8_ebx, extended21_eax,
                capabilities,
            };
            let intel = highest >= 7 && vendor[0] == b'G';
            let amd = |leaf: u32, register: u32, bit: u32| {
                vendor[0] == b'A' && highest_extended >= leaf && register >> bit & 1 == 1
            };
            let ibpb = if vendor[0] == b'A' {
                amd(0x8000_0008, extended8_ebx, 12)
            } else {
                highest >= 7 && leaf7[3] >> 26 & 1 == 1
            };
            let isolation = if strict { Isolation::Strict } else { Isolation::Standard };
            match chip.decide(isolation, Weaknesses::NONE) {
                Err(unmet) => {
                    prop_assert_eq!(unmet, Unmet::NoIbpb);
                    prop_assert!(strict && !ibpb);
                }
                Ok(Speculation { controls, barriers, exposures }) => {
                    prop_assert!(!strict || ibpb);
                    prop_assert_eq!(barriers.flush, strict);
                    prop_assert_eq!(controls.auto_ibrs, amd(0x8000_0021, extended21_eax, 8));
                    let enhanced = intel && leaf7[3] >> 26 & 1 == 1 && capabilities.is_some_and(|bits| bits >> 1 & 1 == 1);
                    prop_assert_eq!(controls.spec_ctrl & 1 == 1, enhanced);
                    let history = enhanced && leaf7[0] >= 2 && leaf7_2_edx >> 4 & 1 == 1;
                    prop_assert_eq!(controls.spec_ctrl & !1, if history { 1 << 10 } else { 0 });
                    let clears = leaf7[3] >> 10 & 1 == 1
                        || capabilities.is_some_and(|bits| bits & (1 << 17 | 1 << 28) != 0);
                    prop_assert!(!barriers.verw || intel && clears);
                    prop_assert_eq!(Exposures::from_words(exposures.words()), Some(exposures));
                }
            }
        }
    }
}

/// Processors with Goldmont, Tremont or Gracemont cores, by Intel's list of affected processors.
#[test]
fn every_model_with_rfds_is_affected() {
    let signatures = [
        0x506C0, 0x506F0, 0x706A0, 0x80660, 0x806A0, 0x90660, 0x90670, 0x906A0, 0x906C0, 0xB0670, 0xB06A0, 0xB06E0,
        0xB06F0,
    ];
    let refused = Weaknesses::NONE.with(Weakness::Rfds);
    for signature in signatures {
        let chip = Chip { signature, ..ALDER_LAKE };
        let text = chip.standard().exposures.to_string();
        assert!(text.contains("rfds=verw"), "{signature:#x}: {text}");
        assert!(chip.standard().barriers.verw, "{signature:#x}");
        let old = Chip { capabilities: Some(0xE1EB), ..chip };
        assert!(old.decide(Isolation::Standard, refused).is_err(), "{signature:#x} without the microcode boots");
    }
    assert!(SAPPHIRE_RAPIDS.decide(Isolation::Standard, refused).is_ok());
}

/// A hypervisor announces the remedy to a guest that may run on, or move to, an affected host,
/// whatever model the guest sees.
#[test]
fn who_announces_the_remedy_for_rfds_is_affected() {
    let moved = Chip { capabilities: Some(0x1000_E1EB), ..SAPPHIRE_RAPIDS };
    assert!(moved.standard().barriers.verw);
    let denied = Chip { capabilities: Some(0x1800_E1EB), ..SAPPHIRE_RAPIDS };
    assert!(!denied.standard().barriers.verw, "it denies the weakness itself");
}
