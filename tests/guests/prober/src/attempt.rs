//! The attempts, in order. Each is one thing that a service must not be able to do.

use core::fmt;
use core::hint::black_box;
use core::sync::atomic::AtomicU32;

use cloister_caps::Operation;
use cloister_probe as probe;

use crate::raw_queue::QueueAttack;

/// Programs are linked at multiples of `1 << PROGRAM_BITS` (16 MiB), from 16 MiB on.
const PROGRAM_BITS: u32 = 24;
/// The number of programs.
const PROGRAMS: u64 = 8;
/// The operation numbers to invoke: all that exist, one below and some above.
const OPERATIONS: [u64; 20] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0xFFFF, 1 << 32 | 13, u64::MAX];
/// The slots to invoke beyond those of a CSpace.
const SLOTS: [u64; 6] = [64, 65, 255, 0x1_0000, 1 << 32, u64::MAX];
/// The number of slots of a CSpace.
const CSPACE: u64 = 64;
/// The last slot of a CSpace. No role holds a capability in it, nor in the 15 before.
pub const LAST_SLOT: u64 = CSPACE - 1;
/// Numbers of system calls that do not exist.
const CALLS: [u64; 8] = [2, 3, 4, 29, 255, 1 << 32, 1 << 63, u64::MAX];
/// Arguments of every class: small, at limits, negative, a kernel address, a non-canonical one.
const ARGUMENTS: [u64; 7] = [1, 4, 0xFFFF, u64::MAX, 1 << 63, KERNEL_TEXT, 0x8000_0000_0000];
/// Where the kernel's text starts.
const KERNEL_TEXT: u64 = 0xFFFF_FFFF_8010_1000;

/// Addresses of the kernel, of what Xen shares with it, of physical memory if it were mapped, and
/// of nothing.
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

/// Instructions that ring 3 must not execute, or that the image never needs.
const INSTRUCTIONS: [(&str, fn()); 38] = [
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
    ("sum without room", overflow),
];

/// Adds two numbers whose sum has no room. The compiler's check must end in a fault.
fn overflow() {
    black_box(black_box(u32::MAX) + black_box(1));
}

/// The times to the deadline of a storm's waits, in µs: about as long as a timer and a change of
/// services take, on a processor and in emulation.
pub const STORMS: [u64; 10] = [1, 2, 5, 10, 20, 35, 50, 70, 100, 200];

/// An instruction by its name.
type Named<F> = (&'static str, F);

/// Both hypercall instructions. One faults, depending on the processor's vendor. Xen refuses the
/// other.
const HYPERCALLS: [Named<fn() -> i64>; 2] = [("vmmcall", probe::vmmcall), ("vmcall", probe::vmcall)];

/// One attempt.
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
    SystemCall(u64),
    /// Invoke every operation on a slot; each must be refused unless the policy gives it.
    Slot(u64),
    /// Invoke a held capability with arguments out of range; the kernel may answer anything that
    /// holds no address of its own and opens no channel with no domain.
    Arguments(u64),
    /// Read the registers that a system call and a restart leave; they must be clear.
    Registers,
    /// Reach beyond the region in a slot; it must fault.
    Region(u64, Side),
    /// Wait again and again with a deadline that has passed.
    PassedDeadlines,
    /// Wait again and again with a deadline this number of µs ahead; the other services must keep
    /// their share of the processor.
    Storm(u64),
    /// Write more lines than the console takes.
    Flood,
    /// Fill the console's backlog, then make a call that is refused, and fault: the log must show
    /// both.
    Silence(Noise),
    /// Attack the queue of the role with this index; its other end must keep running.
    Queue(usize, QueueAttack),
    /// Make the attempt with this index of those that only this role can make.
    OfRole(usize),
    /// Send the role's message with this index.
    Message(usize),
    /// Use all the processor time there is, by spins and storms, forever.
    Spin,
}

/// What fills the console's backlog, beside lines of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noise {
    /// Refusals of one operation on one slot.
    OneKind,
    /// Refusals of many operations on many slots.
    ManyKinds,
}

impl Noise {
    /// Returns the operation on [`LAST_SLOT`] that must be in the log. Nothing before invokes it.
    #[must_use]
    pub const fn deed(self) -> Operation {
        match self {
            Noise::OneKind => Operation::PowerOff,
            Noise::ManyKinds => Operation::PowerReboot,
        }
    }

    /// Returns the refused calls that make the noise: slots and operations.
    pub fn calls(self) -> impl Iterator<Item = (u64, Operation)> {
        let (slots, repeats) = match self {
            Noise::OneKind => (LAST_SLOT - 1..LAST_SLOT, 30),
            Noise::ManyKinds => (LAST_SLOT - 15..LAST_SLOT, 1),
        };
        slots.flat_map(move |slot| {
            let operations = Operation::ALL.iter().map(move |operation| match self {
                Noise::OneKind => Operation::GrantIssue,
                Noise::ManyKinds => *operation,
            });
            (0..repeats).flat_map(move |_| operations.clone()).map(move |operation| (slot, operation))
        })
    }
}

/// The side on which an access leaves a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Before its first byte.
    Below,
    /// After its last page.
    Above,
    /// Inside it, as code.
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
            Attempt::SystemCall(number) => write!(f, "system call {number:#x}"),
            Attempt::Slot(slot) => write!(f, "every operation on slot {slot:#x}"),
            Attempt::Arguments(slot) => write!(f, "every argument on slot {slot:#x}"),
            Attempt::Registers => write!(f, "registers after a system call"),
            Attempt::Region(slot, Side::Below) => write!(f, "read below the region in slot {slot}"),
            Attempt::Region(slot, Side::Above) => write!(f, "read above the region in slot {slot}"),
            Attempt::Region(slot, Side::Inside) => write!(f, "execute the region in slot {slot}"),
            Attempt::PassedDeadlines => write!(f, "waits whose deadlines have passed"),
            Attempt::Storm(ahead) => write!(f, "waits for {ahead} us"),
            Attempt::Flood => write!(f, "a flood of lines"),
            Attempt::Silence(Noise::OneKind) => write!(f, "a deed after lines and equal refusals"),
            Attempt::Silence(Noise::ManyKinds) => write!(f, "a deed after lines and many kinds of refusals"),
            Attempt::Queue(queue, attack) => write!(f, "queue {queue}: {attack}"),
            Attempt::OfRole(number) => write!(f, "attempt {number} of the role"),
            Attempt::Message(number) => write!(f, "message {number}"),
            Attempt::Spin => write!(f, "spin"),
        }
    }
}

/// The numbers of the attempts that depend on the role.
#[derive(Clone, Copy, Default, Debug)]
pub struct Extent {
    /// A bit for each slot that holds a region. Only known, and attempted, after every slot was
    /// invoked.
    pub regions: u64,
    /// The number of queues to peers.
    pub queues: usize,
    /// The number of the role's own attempts.
    pub role_attempts: usize,
    /// The number of messages.
    pub messages: usize,
}

/// The attempts of a program.
pub struct Attempts {
    text: u64,
    data: u64,
    constant: u64,
    extent: Extent,
}

/// Lies in writable data, so its address must not be executable.
static MARK: AtomicU32 = AtomicU32::new(0);

impl Attempts {
    /// Returns the attempts of a program whose text, writable data and constants lie at these
    /// addresses.
    #[must_use]
    pub const fn new([text, data, constant]: [u64; 3], extent: Extent) -> Attempts {
        Attempts { text, data, constant, extent }
    }

    /// Returns the attempts of the program that runs.
    #[must_use]
    pub fn of_this_program(extent: Extent) -> Attempts {
        let text = operations as fn() -> &'static [u64] as usize as u64;
        Attempts::new([text, MARK.as_ptr() as u64, operations().as_ptr() as u64], extent)
    }

    /// Returns all attempts, in order.
    pub fn all(&self) -> impl Iterator<Item = Attempt> + '_ {
        let Extent { regions, queues, role_attempts, messages } = self.extent;
        let own = self.text >> PROGRAM_BITS;
        let programs = (1..=PROGRAMS).filter(move |index| *index != own).map(|index| index << PROGRAM_BITS);
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
            // Before every operation on every slot: only the first refusal of each is always shown.
            .chain([Noise::OneKind, Noise::ManyKinds].map(Attempt::Silence))
            .chain([Attempt::Registers])
            .chain(CALLS.into_iter().map(Attempt::SystemCall))
            .chain((0..CSPACE).chain(SLOTS).map(Attempt::Slot))
            .chain((0..CSPACE).map(Attempt::Arguments))
            .chain(
                (0..CSPACE)
                    .filter(move |slot| regions >> slot & 1 == 1)
                    .flat_map(|slot| [Side::Below, Side::Above, Side::Inside].map(|side| Attempt::Region(slot, side))),
            )
            .chain((0..queues).flat_map(|queue| QueueAttack::ALL.map(|attack| Attempt::Queue(queue, attack))))
            .chain((0..role_attempts).map(Attempt::OfRole))
            .chain([Attempt::PassedDeadlines])
            .chain(STORMS.into_iter().map(Attempt::Storm))
            .chain([Attempt::Flood])
            .chain((0..messages).map(Attempt::Message))
            .chain([Attempt::Spin])
    }
}

/// Returns the operation numbers to invoke on a slot.
#[must_use]
pub const fn operations() -> &'static [u64] {
    &OPERATIONS
}

/// Returns the arguments to invoke a held capability with.
#[must_use]
pub const fn arguments() -> &'static [u64] {
    &ARGUMENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_attempted() {
        let extent = Extent { regions: 0b101 << 40, queues: 2, role_attempts: 3, messages: 4 };
        let attempts: std::vec::Vec<_> = Attempts::new([0x0400_1000, 0x0400_5000, 0x0400_0000], extent).all().collect();
        let count = |wanted: fn(&Attempt) -> bool| attempts.iter().filter(|attempt| wanted(attempt)).count();
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Instruction(..))), INSTRUCTIONS.len());
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Slot(_))), CSPACE as usize + SLOTS.len());
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Read("another program", _))), PROGRAMS as usize - 1);
        assert!(!attempts.iter().any(|attempt| matches!(attempt, Attempt::Read(_, 0x0400_0000))));
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Region(40 | 42, _))), 2 * 3);
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Region(..))), 2 * 3);
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Queue(..))), 2 * QueueAttack::ALL.len());
        assert_eq!(count(|attempt| matches!(attempt, Attempt::OfRole(_))), 3);
        assert_eq!(count(|attempt| matches!(attempt, Attempt::Message(_))), 4);
        assert!(matches!(attempts.last(), Some(Attempt::Spin)));
    }

    /// The deed is of a kind of its own, and comes before any attempt that invokes it.
    #[test]
    fn no_refusal_before_a_deed_is_of_its_kind() {
        let attempts: std::vec::Vec<_> = Attempts::new([0x0400_1000; 3], Extent::default()).all().collect();
        let position = |wanted: fn(&Attempt) -> bool| attempts.iter().position(wanted).unwrap();
        let last = position(|attempt| matches!(attempt, Attempt::Silence(Noise::ManyKinds)));
        assert!(last < position(|attempt| matches!(attempt, Attempt::Slot(_) | Attempt::SystemCall(_))));
        for noise in [Noise::OneKind, Noise::ManyKinds] {
            assert!(noise.calls().all(|(slot, _)| slot != LAST_SLOT));
            assert!(noise.calls().count() > 200, "more than may come at once");
        }
        assert_ne!(Noise::OneKind.deed(), Noise::ManyKinds.deed());
    }
}
