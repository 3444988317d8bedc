//! The attempts, in order. Each is one thing that a service must not be able to do.

use core::fmt;
use core::sync::atomic::AtomicU32;

use cloister_probe as probe;

use crate::line::Trick;

/// The first attempt at an address that is not a program's.
const OWN_PROGRAM_BITS: u32 = 24;
/// Programs lie 16 MiB apart from 16 MiB on.
const PROGRAMS: u64 = 8;
/// Operation numbers that are tried: all that exist, one below and some above.
const OPERATIONS: [u64; 20] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0xFFFF, 1 << 32 | 13, u64::MAX];
/// Slots that are tried: all that a CSpace has, and some beyond.
const SLOTS: [u64; 6] = [64, 65, 255, 0x1_0000, 1 << 32, u64::MAX];
/// Slots of a CSpace.
const CSPACE: u64 = 64;
/// Numbers of system calls that do not exist.
const CALLS: [u64; 8] = [2, 3, 4, 29, 255, 1 << 32, 1 << 63, u64::MAX];
/// Classes of arguments: nothing, small, at limits, negative, a kernel address, a non-canonical one.
const ARGUMENTS: [u64; 7] = [1, 4, 0xFFFF, u64::MAX, 1 << 63, KERNEL_TEXT, 0x8000_0000_0000];
/// Where the kernel's text starts.
const KERNEL_TEXT: u64 = 0xFFFF_FFFF_8010_1000;

/// Addresses that hold the kernel, what Xen shares with it, physical memory if it were mapped, other services' stacks,
/// queues and regions by their usual places, and nothing.
const ADDRESSES: [(&str, u64); 13] = [
    ("kernel text", KERNEL_TEXT),
    ("kernel data", 0xFFFF_FFFF_8011_4000),
    ("capability tables", 0xFFFF_FFFF_8014_0000),
    ("hypercall instructions", 0xFFFF_FFFF_4000_0000),
    ("shared info", 0xFFFF_FFFF_C000_1000),
    ("console ring", 0xFFFF_FFFF_C000_3000),
    ("grant table", 0xFFFF_FFFF_C000_5000),
    ("physical memory", 0x10_0000),
    ("page tables", 0x20_0000),
    ("address zero", 0),
    ("middle of nowhere", 0x3FFF_FFFF_F000),
    ("upper half start", 0xFFFF_8000_0000_0000),
    ("last page", 0xFFFF_FFFF_FFFF_F000),
];

/// Instructions that ring 3 must not execute, or that the image has no use for.
const INSTRUCTIONS: [(&str, fn()); 37] = [
    ("out 0xe9", probe::out_e9),
    ("in 0x60", probe::in_60),
    ("cli", probe::cli),
    ("sti", probe::sti),
    ("hlt", probe::hlt),
    ("mov rax, cr0", probe::read_cr0),
    ("mov rax, cr3", probe::read_cr3),
    ("mov cr3, rax", probe::write_cr3),
    ("mov cr4, rax", probe::write_cr4),
    ("rdmsr", probe::rdmsr),
    ("wrmsr", probe::wrmsr),
    ("lidt", probe::lidt),
    ("lgdt", probe::lgdt),
    ("sgdt", probe::sgdt),
    ("rdtsc", probe::rdtsc),
    ("rdpmc", probe::rdpmc),
    ("invlpg", probe::invlpg),
    ("wbinvd", probe::wbinvd),
    ("x87", probe::x87),
    ("sse", probe::sse),
    ("iret to ring 0", probe::iret_to_ring0),
    ("sysret", probe::sysret),
    ("swapgs", probe::swapgs),
    ("clts", probe::clts),
    ("ltr", probe::ltr),
    ("int 0xf3", probe::int_f3),
    ("int 8", probe::int_8),
    ("int3", probe::int3),
    ("single step", probe::single_step),
    ("ud2", probe::ud2),
    ("divide by zero", probe::divide),
    ("wild stack", probe::wild_stack),
    ("non-canonical", probe::non_canonical),
    ("wrpkru", probe::wrpkru),
    ("stac", probe::stac),
    ("monitor", probe::monitor),
    ("selectors left at a fault", probe::leave_segments),
];

/// The times to the deadline of a storm's waits, in µs: around those that a timer and a change of services take, on a processor
/// as in emulation.
pub const STORMS: [u64; 10] = [1, 2, 5, 10, 20, 35, 50, 70, 100, 200];

/// An instruction by its name.
type Named<F> = (&'static str, F);

/// Both hypercall instructions: one faults, by the processor's vendor, and one is refused by Xen.
const HYPERCALLS: [Named<fn() -> i64>; 2] = [("vmmcall", probe::vmmcall), ("vmcall", probe::vmcall)];

/// What an attempt is.
#[derive(Clone, Copy, Debug)]
pub enum Attempt {
    /// Execute an instruction; it must fault.
    Instruction(&'static str, fn()),
    /// Make a hypercall; it must fault, or be refused by Xen.
    Hypercall(&'static str, fn() -> i64),
    /// Read an address; it must fault.
    Read(&'static str, u64),
    /// Write an address; it must fault.
    Write(&'static str, u64),
    /// Jump to an address; it must fault.
    Execute(&'static str, u64),
    /// Call a system call that does not exist; it must be refused.
    Call(u64),
    /// Invoke every operation on a slot; each must be refused but for what the policy gives.
    Slot(u64),
    /// Invoke a held capability with arguments out of range; whatever the answer, nothing may break.
    Arguments(u64),
    /// Look at the registers that a system call and a restart leave; they must be clear.
    Leftovers,
    /// Reach beyond the region in a slot; it must fault.
    Region(u64, Side),
    /// Wait for what has passed, again and again.
    Hurry,
    /// Wait for a time that comes at once, so many µs ahead, again and again: the others have their share all the same.
    Storm(u64),
    /// Write more lines than the console takes.
    Flood,
    /// Do to a queue of the place what its other end must bear.
    Trick(usize, Trick),
    /// Try what only this place can, beside messages.
    Deed(usize),
    /// Send what only this place can.
    Letter(usize),
    /// Use all the processor time there is, by spins and storms, for ever.
    Spin,
}

/// Where a region is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Before its first byte.
    Below,
    /// After its last page.
    Above,
    /// Into it, as code.
    Inside,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attempt::Instruction(name, _) => write!(f, "instruction: {name}"),
            Attempt::Hypercall(name, _) => write!(f, "hypercall: {name}"),
            Attempt::Read(name, address) => write!(f, "read {address:#x}: {name}"),
            Attempt::Write(name, address) => write!(f, "write {address:#x}: {name}"),
            Attempt::Execute(name, address) => write!(f, "execute {address:#x}: {name}"),
            Attempt::Call(number) => write!(f, "system call {number:#x}"),
            Attempt::Slot(slot) => write!(f, "every operation on slot {slot:#x}"),
            Attempt::Arguments(slot) => write!(f, "every argument on slot {slot:#x}"),
            Attempt::Leftovers => write!(f, "registers after a system call"),
            Attempt::Region(slot, Side::Below) => write!(f, "read below the region in slot {slot}"),
            Attempt::Region(slot, Side::Above) => write!(f, "read above the region in slot {slot}"),
            Attempt::Region(slot, Side::Inside) => write!(f, "execute the region in slot {slot}"),
            Attempt::Hurry => write!(f, "waits whose deadlines have passed"),
            Attempt::Storm(ahead) => write!(f, "waits for {ahead} us"),
            Attempt::Flood => write!(f, "a flood of lines"),
            Attempt::Trick(line, trick) => write!(f, "line {line}: {trick}"),
            Attempt::Deed(number) => write!(f, "deed {number}"),
            Attempt::Letter(number) => write!(f, "letter {number}"),
            Attempt::Spin => write!(f, "spin"),
        }
    }
}

/// What there is to try of a place's own.
#[derive(Clone, Copy, Default, Debug)]
pub struct Extent {
    /// A bit for each slot that holds a region. They are known when every slot was tried, and tried after that.
    pub regions: u64,
    /// How many lines to peers there are.
    pub lines: usize,
    /// How many deeds.
    pub deeds: usize,
    /// How many letters.
    pub letters: usize,
}

/// The attempts of a program.
pub struct Attempts {
    text: u64,
    data: u64,
    constant: u64,
    extent: Extent,
}

/// Lies in writable data: its address is one that must not be executable.
static MARK: AtomicU32 = AtomicU32::new(0);

impl Attempts {
    /// The attempts of a program whose text, writable data and constants lie at these addresses.
    #[must_use]
    pub const fn new([text, data, constant]: [u64; 3], extent: Extent) -> Attempts {
        Attempts { text, data, constant, extent }
    }

    /// The attempts of the program that runs.
    #[must_use]
    pub fn of_this_program(extent: Extent) -> Attempts {
        let text = operations as fn() -> &'static [u64] as usize as u64;
        Attempts::new([text, MARK.as_ptr() as u64, operations().as_ptr() as u64], extent)
    }

    /// All attempts, in order.
    pub fn all(&self) -> impl Iterator<Item = Attempt> + '_ {
        let Extent { regions, lines, deeds, letters } = self.extent;
        let own = self.text >> OWN_PROGRAM_BITS;
        let programs = (1..=PROGRAMS).filter(move |index| *index != own).map(|index| index << OWN_PROGRAM_BITS);
        let own_pages = [
            Attempt::Write("own text", self.text),
            Attempt::Write("own constants", self.constant),
            Attempt::Execute("own data", self.data),
            Attempt::Execute("own constants", self.constant),
        ];
        let addresses = ADDRESSES.into_iter().flat_map(|(name, address)| {
            [Attempt::Read(name, address), Attempt::Write(name, address), Attempt::Execute(name, address)]
        });
        let others = programs.flat_map(|address| {
            [Attempt::Read("another program", address), Attempt::Write("another program", address)]
        });
        HYPERCALLS
            .into_iter()
            .map(|(name, call)| Attempt::Hypercall(name, call))
            .chain(INSTRUCTIONS.into_iter().map(|(name, instruction)| Attempt::Instruction(name, instruction)))
            .chain(own_pages)
            .chain(addresses)
            .chain(others)
            .chain([Attempt::Leftovers])
            .chain(CALLS.into_iter().map(Attempt::Call))
            .chain((0..CSPACE).chain(SLOTS).map(Attempt::Slot))
            .chain((0..CSPACE).map(Attempt::Arguments))
            .chain(
                (0..CSPACE)
                    .filter(move |slot| regions >> slot & 1 == 1)
                    .flat_map(|slot| [Side::Below, Side::Above, Side::Inside].map(|side| Attempt::Region(slot, side))),
            )
            .chain((0..lines).flat_map(|line| Trick::ALL.map(|trick| Attempt::Trick(line, trick))))
            .chain((0..deeds).map(Attempt::Deed))
            .chain([Attempt::Hurry])
            .chain(STORMS.into_iter().map(Attempt::Storm))
            .chain([Attempt::Flood])
            .chain((0..letters).map(Attempt::Letter))
            .chain([Attempt::Spin])
    }
}

/// Operation numbers to try on a slot.
#[must_use]
pub const fn operations() -> &'static [u64] {
    &OPERATIONS
}

/// Argument classes to try on a held capability.
#[must_use]
pub const fn arguments() -> &'static [u64] {
    &ARGUMENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_tried() {
        let extent = Extent { regions: 0b101 << 40, lines: 2, deeds: 3, letters: 4 };
        let attempts: std::vec::Vec<_> = Attempts::new([0x0400_1000, 0x0400_5000, 0x0400_0000], extent).all().collect();
        let count = |wanted: fn(&Attempt) -> bool| attempts.iter().filter(|attempt| wanted(attempt)).count();
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Instruction(..))), INSTRUCTIONS.len());
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Slot(_))), CSPACE as usize + SLOTS.len());
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Read("another program", _))), PROGRAMS as usize - 1);
        assert!(!attempts.iter().any(|attempt| matches!(attempt, Attempt::Read(_, 0x0400_0000))));
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Region(40 | 42, _))), 2 * 3);
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Region(..))), 2 * 3);
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Trick(..))), 2 * Trick::ALL.len());
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Deed(_))), 3);
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Letter(_))), 4);
        assert!(matches!(attempts.last(), Some(Attempt::Spin)));
    }
}
