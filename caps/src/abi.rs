//! The invocation ABI: the two system calls, and every operation that `invoke` knows.
//!
//! `wait(deadline, hold)` and `invoke(slot, operation, a0, a1, a2, a3)` are all there is. The number of the
//! call is in RAX and the arguments in RDI, RSI, RDX, R10, R8, R9; the answer is a [`Status`] in RAX
//! and two words in RDI and RSI. The kernel never follows a pointer that a service gives it.

use core::ops::Range;

use crate::clamped::Clamped;
use crate::rights::{Kind, Rights};

/// System call number of `wait(deadline, hold)`: block until a notification or until the monotonic
/// clock (ns) reaches `deadline`; `u64::MAX` is no deadline. The service's event channels whose events it was told of
/// let the next ones in, but for those whose notification bits are in `hold`: they stay shut until a `wait` without.
/// Answers with the notification bits, and with the time if the service holds a clock.
pub const SYSTEM_CALL_WAIT: u64 = 0;
/// System call number of `invoke(slot, operation, a0..a3)`.
pub const SYSTEM_CALL_INVOKE: u64 = 1;

/// Where the kernel's physical addresses appear in every address space: `KERNEL_OFFSET` of `kernel/image/link.ld`.
pub const KERNEL_OFFSET: u64 = 0xFFFF_FFFF_8000_0000;
/// Where the 2 MiB begin in which the kernel maps pages that are no part of the image.
pub const KERNEL_SPECIAL: u64 = 0xFFFF_FFFF_C000_0000;
/// Where the GiB begins whose first page holds the instructions that leave for Xen.
pub const KERNEL_HYPERCALL_PAGE: u64 = 0xFFFF_FFFF_4000_0000;
/// All that the kernel maps for itself lies in these addresses; ring 3 reaches nothing there.
pub const KERNEL_ADDRESSES: [Range<u64>; 2] =
    [KERNEL_HYPERCALL_PAGE..KERNEL_HYPERCALL_PAGE + 0x1000, KERNEL_OFFSET..KERNEL_SPECIAL + 0x20_0000];

/// The deadline of a `wait` that only a notification ends.
pub const NO_DEADLINE: u64 = u64::MAX;

/// Bytes of text that one console write carries, in its four argument words.
pub const CONSOLE_CHUNK: usize = 32;

/// How a system call ended. 0 is success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u64)]
pub enum Status {
    /// The operation was carried out.
    Done = 0,
    /// The slot holds no capability.
    NoCapability = 1,
    /// The capability's object has no such operation.
    WrongOperation = 2,
    /// The capability lacks the right to the operation.
    MissingRight = 3,
    /// An argument is out of range for the object.
    BadArgument = 4,
    /// The policy's rule for the object does not allow these arguments.
    NotPermitted = 5,
    /// The peer still uses the page.
    InUse = 6,
    /// The object is not in a state for this operation: a port not open, a page not granted.
    WrongState = 7,
    /// The machine or the hypervisor does not offer this.
    Unavailable = 8,
    /// There is no system call of this number.
    BadSystemCall = 9,
}

/// Why an invocation did not succeed: every [`Status`] but `Done`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct InvokeError(Status);

impl InvokeError {
    /// The status that was answered.
    #[must_use]
    pub const fn status(self) -> Status {
        self.0
    }
}

impl Status {
    /// Every status, in the order of its number.
    pub const ALL: [Status; 10] = [
        Status::Done,
        Status::NoCapability,
        Status::WrongOperation,
        Status::MissingRight,
        Status::BadArgument,
        Status::NotPermitted,
        Status::InUse,
        Status::WrongState,
        Status::Unavailable,
        Status::BadSystemCall,
    ];

    /// The status with this number; an unknown number, which only a broken kernel would answer, is
    /// [`Status::Unavailable`].
    #[must_use]
    pub fn from_number(number: u64) -> Status {
        usize::try_from(number).ok().and_then(|index| Status::ALL.get(index).copied()).unwrap_or(Status::Unavailable)
    }

    /// The status as a result.
    ///
    /// # Errors
    /// Every status but [`Status::Done`].
    pub const fn into_result(self) -> Result<(), InvokeError> {
        match self {
            Status::Done => Ok(()),
            other => Err(InvokeError(other)),
        }
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal: $kinds:pat, $right:ident, $word:literal;)*) => {
        /// An operation of `invoke`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u32)]
        pub enum Operation {
            $($(#[$doc])* $name = $number,)*
        }

        impl Operation {
            /// Every operation.
            pub const ALL: &'static [Operation] = &[$(Operation::$name,)*];

            /// Whether objects of `kind` have this operation.
            #[must_use]
            pub const fn applies_to(self, kind: Kind) -> bool {
                match self {
                    $(Operation::$name => matches!(kind, $kinds),)*
                }
            }

            /// The rights to all operations that objects of `kind` have.
            #[must_use]
            pub const fn rights_of(kind: Kind) -> Rights {
                let mut rights = Rights::empty();
                $(if matches!(kind, $kinds) {
                    rights = rights.union(Operation::$name.right());
                })*
                rights
            }

            /// The right that the operation needs.
            #[must_use]
            pub const fn right(self) -> Rights {
                $(const { assert!(Rights::$right.bits() == 1 << ($number - 1), "in the order of the operations") };)*
                Rights::from_bits_retain(1 << (self as u32 - 1))
            }

            /// The word that the policy language and the denial log use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Operation::$name => $word,)*
                }
            }
        }
    };
}

operations! {
    /// Console: write up to [`CONSOLE_CHUNK`] bytes of text held in `a0..a3`, little endian, ended by
    /// the first NUL. A line feed ends the line.
    ConsoleWrite = 1: Kind::Console, WRITE, "write";
    /// Clock: answers the monotonic time in ns since an arbitrary start.
    ClockNow = 2: Kind::Clock, NOW, "now";
    /// Clock: answers the UTC time in ns since 1970.
    ClockWall = 3: Kind::Clock, WALL, "wall";
    /// Entropy: answers 128 random bits.
    EntropyDraw = 4: Kind::Entropy, DRAW, "draw";
    /// Power: power off. Does not return.
    PowerOff = 5: Kind::Power, OFF, "off";
    /// Power: reboot. Does not return.
    PowerReboot = 6: Kind::Power, REBOOT, "reboot";
    /// Queue end: wake the service at the other end.
    QueueNotify = 7: Kind::Sender | Kind::Receiver, NOTIFY, "notify";
    /// Port: open an event channel with domain `a0`; answers the port number. If `a1` is 0 the channel is allocated for the
    /// peer to bind; otherwise the peer has allocated it, as its port `a1`, which only a back end's kernel binds.
    PortOpen = 8: Kind::Port, OPEN, "open";
    /// Port: send an event.
    PortSend = 9: Kind::Port, SEND, "send";
    /// Port: close.
    PortClose = 10: Kind::Port, CLOSE, "close";
    /// Grant: share page `a0` of the rule's region with domain `a1`. If `a2` is 0 the page is ours: the peer may use it, and
    /// the answer is the grant reference. Otherwise the page is the peer's, granted by it under the reference `a2`, and
    /// takes the place of ours, which only a back end's kernel arranges; the answer is 0. `a3` is how many further pages
    /// behind page `a0` are shared as well, with the references that follow: all of them, or none if one may not be. Of the
    /// peer's pages there is one a call, and `a3` is 0.
    GrantIssue = 11: Kind::Grant, ISSUE, "issue";
    /// Grant: share page `a0` no more; `InUse` while the peer still maps it.
    GrantEnd = 12: Kind::Grant, END, "end";
    /// Info: answers the two words of item `a0` (see [`info`]).
    InfoRead = 13: Kind::Info, READ, "read";
    /// Region: answers the address at which the service maps it, and its size in bytes, with flags (see [`region`]).
    RegionFind = 14: Kind::Region, FIND, "find";
}

impl Operation {
    /// The operation with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Operation> {
        const BY_NUMBER: Clamped<Option<Operation>, { Operation::ALL.len() + 2 }> = {
            // They are numbered from 1 in their order.
            let mut operations = [None; _];
            let mut index = 0;
            while index < Operation::ALL.len() {
                operations[index + 1] = Some(Operation::ALL[index]);
                index += 1;
            }
            Clamped::new(operations)
        };
        *BY_NUMBER.get(number)
    }
}

/// Flags in the size that [`Operation::RegionFind`] answers.
pub mod region {
    /// Nobody can write the region while the image runs.
    pub const CONSTANT: u64 = 1 << 63;
    /// Other domains are granted it for reading only, the service that asks maps it for writing, and no other service maps
    /// it: what leaves the image is written there, and nobody writes it but its owner.
    pub const EXCLUSIVE: u64 = 1 << 62;
    /// No former run of the service has written a region of its own: the kernel has emptied it at boot, and nobody has had it
    /// since.
    pub const FRESH: u64 = 1 << 61;
    /// The bits of the size.
    pub const SIZE: u64 = FRESH - 1;
}

/// Items of [`Operation::InfoRead`].
pub mod info {
    /// Words 0 and 1 of the policy's SHA-256, big endian within a word.
    pub const POLICY_HASH_LOW: u64 = 0;
    /// Words 2 and 3 of the policy's SHA-256.
    pub const POLICY_HASH_HIGH: u64 = 1;
    /// Monotonic time in ns at which the kernel started, and the guest's memory in bytes.
    pub const BOOT: u64 = 2;
    /// How often this service was started before, and how many of its own system calls were refused so far.
    pub const HISTORY: u64 = 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_own_number_and_a_kind() {
        for (index, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(Operation::from_number(index as u64 + 1), Some(*operation));
            assert!(Kind::ALL.iter().any(|kind| operation.applies_to(*kind)));
        }
        for number in [0, Operation::ALL.len() as u64 + 1, 255, 1 << 32 | 1, 1 << 63] {
            assert_eq!(Operation::from_number(number), None);
        }
        assert_eq!(Operation::from_number(u64::MAX), None);
    }

    #[test]
    fn statuses_round_trip() {
        for status in Status::ALL {
            assert_eq!(Status::from_number(status as u64), status);
        }
        assert_eq!(Status::from_number(999), Status::Unavailable);
    }
}
