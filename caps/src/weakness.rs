//! The weaknesses of processors by which code learns, through speculation, what it cannot access.
//!
//! `kernel/core/src/speculation.rs` finds out what the processor says about each, and what the
//! kernel does about it.

use crate::tables::Isolation;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $($(#[$vdoc:meta])* $variant:ident = $number:literal, $word:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)* }

        impl $name {
            /// Every value, in the order of the numbers, which start at 0.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// Returns the word for it, in the policy language and on the console.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// A class of weakness.
    Weakness:
    /// A service reads the kernel's memory, which is mapped in its address space (CVE-2017-5754).
    Meltdown = 0, "meltdown";
    /// A service reads the level-1 cache by an entry of a page table that is not present
    /// (CVE-2018-3620).
    L1tf = 1, "l1tf";
    /// A service reads what the processor's internal buffers hold of others (CVE-2018-12126,
    /// -12127, -12130, CVE-2019-11091).
    Mds = 2, "mds";
    /// The same, by an aborted transaction (CVE-2019-11135).
    Taa = 3, "taa";
    /// The same, of data that accesses to devices left behind (CVE-2022-21123, -21125, -21166).
    Mmio = 4, "mmio";
    /// The same, of vector and floating-point registers (CVE-2023-28746).
    Rfds = 5, "rfds";
    /// The kernel runs past a bounds check, and loads from where a service's number points
    /// (CVE-2017-5753).
    SpectreV1 = 6, "spectre-v1";
    /// A service chooses where the kernel's indirect branches are predicted to go (CVE-2017-5715).
    SpectreV2 = 7, "spectre-v2";
    /// The same in spite of the mitigations of `SpectreV2`, by the history of branches
    /// (CVE-2022-0001).
    Bhi = 8, "bhi";
    /// A service chooses where returns in the kernel are predicted to go (CVE-2022-29900, -29901,
    /// CVE-2023-20569).
    Returns = 9, "returns";
}

words! {
    /// What is known about a weakness of the processor.
    Exposure:
    /// CPUID does not say.
    Unknown = 0, "unknown";
    /// The processor is said not to have it.
    NotAffected = 1, "no";
    /// The processor has it, or may have it, and the kernel does nothing about it.
    Vulnerable = 2, "vulnerable";
    /// Numbers from services index tables only through [`Clamped`](crate::Clamped).
    Clamped = 3, "clamped";
    /// Entries of page tables that are not present are 0, and name no address.
    EmptyEntries = 4, "empty-entries";
    /// VERW clears the buffers when another service runs.
    Verw = 5, "verw";
    /// Enhanced IBRS is on.
    Eibrs = 6, "eibrs";
    /// Automatic IBRS is on.
    AutoIbrs = 7, "auto-ibrs";
    /// The control BHI_DIS_S is on.
    BhiDisS = 8, "bhi-dis-s";
    /// SMEP: the kernel never runs code of a service, not even by a mispredicted return.
    Smep = 9, "smep";
    /// The predictions of returns are overwritten when another service runs.
    Fill = 10, "fill";
}

impl Weakness {
    /// Returns the weakness with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Weakness> {
        Weakness::ALL.iter().copied().find(|weakness| weakness.name() == name)
    }
}

impl Exposure {
    /// Returns `true` if the processor may have the weakness, and nothing is done about it.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Exposure::Unknown | Exposure::Vulnerable)
    }
}

/// A set of weaknesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Weaknesses(u16);

impl Weaknesses {
    /// No weakness.
    pub const NONE: Weaknesses = Weaknesses(0);

    /// Returns the set with these bits, of which bit *n* stands for the weakness of number *n*.
    /// Returns `None` if a bit stands for none.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Weaknesses> {
        if bits >> Weakness::ALL.len() == 0 { Some(Weaknesses(bits)) } else { None }
    }

    /// Returns the set as bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Returns the set with one weakness more.
    #[must_use]
    pub const fn with(self, weakness: Weakness) -> Weaknesses {
        Weaknesses(self.0 | 1 << weakness as u16)
    }

    /// Returns `true` if the weakness is in the set.
    #[must_use]
    pub const fn contains(self, weakness: Weakness) -> bool {
        self.0 >> weakness as u16 & 1 == 1
    }

    /// Returns the weaknesses in the set, in the order of the numbers.
    pub fn iter(self) -> impl Iterator<Item = Weakness> {
        Weakness::ALL.iter().copied().filter(move |weakness| self.contains(*weakness))
    }
}

/// The exposure to each weakness, and how services are kept apart: what the item
/// [`info::SPECULATION`](crate::abi::info::SPECULATION) says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exposures {
    of: [Exposure; Weakness::ALL.len()],
    /// How the predictors are treated when another service runs.
    pub isolation: Isolation,
}

/// Bits for each exposure in the word of [`Exposures`].
const BITS: u32 = 4;
const _: () = assert!(Exposure::ALL.len() <= 1 << BITS && Weakness::ALL.len() as u32 * BITS <= u64::BITS);

impl Exposures {
    /// Nothing is known, and nothing is done.
    pub const UNKNOWN: Exposures =
        Exposures { of: [Exposure::Unknown; Weakness::ALL.len()], isolation: Isolation::Standard };

    /// Creates the exposures from what `of` says of each weakness.
    #[must_use]
    pub fn new(isolation: Isolation, of: impl Fn(Weakness) -> Exposure) -> Exposures {
        Exposures { of: core::array::from_fn(|index| of(Weakness::ALL[index])), isolation }
    }

    /// Returns the exposure to one weakness.
    #[must_use]
    pub const fn of(&self, weakness: Weakness) -> Exposure {
        self.of[weakness as usize]
    }

    /// Returns two words. The first has the number of each exposure in four bits, that of weakness
    /// number *n* from bit 4*n* up; the second has the number of the isolation.
    #[must_use]
    pub fn words(&self) -> [u64; 2] {
        let states = self.of.iter().rev().fold(0, |word, exposure| word << BITS | u64::from(*exposure as u8));
        [states, u64::from(self.isolation as u8)]
    }

    /// Reads the words that [`Exposures::words`] returns. Returns `None` if a number in them is
    /// unknown.
    #[must_use]
    pub fn from_words([states, isolation]: [u64; 2]) -> Option<Exposures> {
        let number = |weakness: Weakness| (states >> (weakness as u32 * BITS) & ((1 << BITS) - 1)) as usize;
        let known = Weakness::ALL.iter().all(|weakness| number(*weakness) < Exposure::ALL.len())
            && states >> (Weakness::ALL.len() as u32 * BITS) == 0;
        let isolation = [Isolation::Standard, Isolation::Strict].into_iter().find(|one| *one as u64 == isolation)?;
        known.then(|| Exposures::new(isolation, |weakness| Exposure::ALL[number(weakness)]))
    }
}

/// Writes each weakness with its exposure, then the isolation, as the boot line has them.
impl core::fmt::Display for Exposures {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for weakness in Weakness::ALL {
            f.write_str(weakness.name())?;
            f.write_str("=")?;
            f.write_str(self.of(*weakness).name())?;
            f.write_str(" ")?;
        }
        f.write_str("isolation=")?;
        f.write_str(self.isolation.name())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn numbers_are_indices_and_names_are_unique() {
        for (index, weakness) in Weakness::ALL.iter().enumerate() {
            assert_eq!((*weakness as usize, Weakness::from_name(weakness.name())), (index, Some(*weakness)));
        }
        assert_eq!(Weakness::from_name("spectre"), None);
        for (index, exposure) in Exposure::ALL.iter().enumerate() {
            assert_eq!(*exposure as usize, index);
            assert_eq!(Exposure::ALL.iter().filter(|other| other.name() == exposure.name()).count(), 1);
        }
        let open: std::vec::Vec<_> = Exposure::ALL.iter().filter(|one| one.is_open()).collect();
        assert_eq!(open, [&Exposure::Unknown, &Exposure::Vulnerable]);
    }

    #[test]
    fn a_set_has_what_was_put_into_it_and_no_other_bits() {
        let set = Weaknesses::NONE.with(Weakness::Returns).with(Weakness::Meltdown).with(Weakness::Meltdown);
        assert!(set.iter().eq([Weakness::Meltdown, Weakness::Returns]));
        assert_eq!((set.bits(), Weaknesses::from_bits(set.bits())), (1 << 9 | 1, Some(set)));
        assert_eq!(Weaknesses::from_bits(1 << Weakness::ALL.len()), None);
        assert_eq!(Weaknesses::from_bits(u16::MAX), None);
    }

    #[test]
    fn words_are_read_back_and_unknown_ones_refused() {
        for shift in 0..Exposure::ALL.len() {
            let of = |weakness: Weakness| Exposure::ALL[(weakness as usize + shift) % Exposure::ALL.len()];
            for isolation in [Isolation::Standard, Isolation::Strict] {
                let exposures = Exposures::new(isolation, of);
                assert!(Weakness::ALL.iter().all(|weakness| exposures.of(*weakness) == of(*weakness)));
                assert_eq!(Exposures::from_words(exposures.words()), Some(exposures));
            }
        }
        let [states, isolation] = Exposures::UNKNOWN.words();
        assert_eq!((states, isolation), (0, 0));
        let bad = [[Exposure::ALL.len() as u64, 0], [0xF0, 0], [1 << 40, 0], [1 << 63, 0], [0, 2], [0, u64::MAX]];
        assert!(bad.into_iter().all(|words| Exposures::from_words(words).is_none()));
    }

    #[test]
    fn the_text_names_each_weakness_once() {
        let exposures = Exposures::new(Isolation::Strict, |weakness| match weakness {
            Weakness::Mds => Exposure::Verw,
            _ => Exposure::NotAffected,
        });
        assert_eq!(
            exposures.to_string(),
            "meltdown=no l1tf=no mds=verw taa=no mmio=no rfds=no spectre-v1=no spectre-v2=no bhi=no returns=no isolation=strict"
        );
    }
}
