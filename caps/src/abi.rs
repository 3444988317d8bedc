//! The invocation ABI: the two system calls, and every operation that `invoke` knows.
//!
//! The calls are `wait(deadline, hold)` and `invoke(slot, operation, a0, a1, a2, a3)`. The number
//! of the call is in RAX, and the arguments are in RDI, RSI, RDX, R10, R8, R9. The kernel returns a
//! [`Status`] in RAX and two words in RDI and RSI. It never follows a pointer that a service
//! passes.
//!
//! ```
//! use cloister_caps::abi::SYSTEM_CALL_INVOKE;
//! use cloister_caps::{InvokeError, Kind, Operation, Rights, Status};
//!
//! // The registers of an invocation that asks for the time: call, slot and operation.
//! let (rax, rdi, rsi) = (SYSTEM_CALL_INVOKE, 3, Operation::ClockNow as u64);
//! assert_eq!((rax, rdi), (1, 3));
//!
//! // The kernel takes the number apart again, and knows which object and which right it needs.
//! let operation = Operation::from_number(rsi).unwrap();
//! assert!(operation.applies_to(Kind::Clock) && !operation.applies_to(Kind::Console));
//! assert_eq!((operation.name(), operation.right()), ("now", Rights::NOW));
//! assert_eq!(Operation::from_number(u64::MAX), None);
//!
//! // The caller sees a status: done, or why not.
//! let refused: Result<(), InvokeError> = Status::MissingRight.into_result();
//! assert_eq!(refused.unwrap_err().status(), Status::MissingRight);
//! assert!(Status::Done.into_result().is_ok());
//! ```

use core::ops::Range;

use crate::clamped::Clamped;
use crate::rights::{Kind, Rights};

/// System call number of `wait(deadline, hold)`.
///
/// Blocks until a notification is pending or the monotonic clock (ns) reaches `deadline`. The
/// deadline [`NO_DEADLINE`] never passes. Unmasks the service's event channels whose events were
/// delivered, except those whose notification bits are in `hold`. A channel that is held stays
/// masked until a `wait` whose `hold` lacks its bit. Returns the pending notification bits, and the
/// time if the service holds a clock.
pub const SYSTEM_CALL_WAIT: u64 = 0;
/// System call number of `invoke(slot, operation, a0..a3)`.
pub const SYSTEM_CALL_INVOKE: u64 = 1;

/// The kernel's virtual addresses minus its guest-physical ones, in every address space
/// (`KERNEL_OFFSET` of `kernel/image/link.ld`).
pub const KERNEL_OFFSET: u64 = 0xFFFF_FFFF_8000_0000;
/// The start of the 2 MiB of fixed addresses at which the kernel maps pages that are not part of
/// the image: its fixmap.
pub const KERNEL_FIXMAP: u64 = 0xFFFF_FFFF_C000_0000;
/// The virtual address of the hypercall page: the first page of a GiB that holds nothing else the
/// kernel uses.
pub const KERNEL_HYPERCALL_PAGE: u64 = 0xFFFF_FFFF_4000_0000;
/// The address ranges that hold all of the kernel's own mappings. Ring 3 can access nothing in
/// them.
pub const KERNEL_ADDRESSES: [Range<u64>; 2] =
    [KERNEL_HYPERCALL_PAGE..KERNEL_HYPERCALL_PAGE + 0x1000, KERNEL_OFFSET..KERNEL_FIXMAP + 0x20_0000];

/// The guest-physical addresses that an image may have. Its kernel begins at the first (`link.ld`).
/// Below the end, the boot code maps memory at [`KERNEL_OFFSET`] too (`boot.s`).
pub const IMAGE_ADDRESSES: Range<u64> = 0x10_0000..1 << 30;

/// The deadline for a `wait` that only a notification ends.
pub const NO_DEADLINE: u64 = u64::MAX;

/// The number of bytes of text in one console write: its four argument words.
pub const CONSOLE_CHUNK: usize = 32;

/// The status of a system call. 0 is success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u64)]
pub enum Status {
    /// The operation succeeded.
    Done = 0,
    /// The slot holds no capability.
    NoCapability = 1,
    /// The capability's object does not have this operation.
    WrongOperation = 2,
    /// The capability lacks the right that the operation needs.
    MissingRight = 3,
    /// An argument is out of range for the object.
    BadArgument = 4,
    /// The policy's rule for the object does not allow these arguments.
    NotPermitted = 5,
    /// The peer is still using the page, or a port or page of the domain set.
    InUse = 6,
    /// The object's state does not allow the operation: the port is not open, the page is not
    /// granted, or no domain of the set is pinned.
    WrongState = 7,
    /// The machine or the hypervisor does not support the operation.
    Unavailable = 8,
    /// No system call has this number.
    BadSystemCall = 9,
}

/// The status of an invocation that did not succeed.
///
/// # Holding one proves
/// Its [`Status`] is not [`Status::Done`]: the operation was refused or failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct InvokeError(Status);

impl InvokeError {
    /// Returns the status that the kernel returned.
    #[must_use]
    pub const fn status(self) -> Status {
        self.0
    }
}

impl Status {
    /// Every status, in the order of the numbers.
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

    /// Returns the status with this number.
    ///
    /// An unknown number gives [`Status::Unavailable`]; only a broken kernel would return one.
    #[must_use]
    pub fn from_number(number: u64) -> Status {
        usize::try_from(number).ok().and_then(|index| Status::ALL.get(index).copied()).unwrap_or(Status::Unavailable)
    }

    /// Converts the status into a result.
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

            /// Returns `true` if objects of `kind` have this operation.
            #[must_use]
            pub const fn applies_to(self, kind: Kind) -> bool {
                match self {
                    $(Operation::$name => matches!(kind, $kinds),)*
                }
            }

            /// Returns the right that the operation needs.
            #[must_use]
            pub const fn right(self) -> Rights {
                $(const { assert!(Rights::$right.bits() == 1 << ($number - 1), "in the order of the operations") };)*
                Rights::from_bits_retain(1 << (self as u32 - 1))
            }

            /// Returns the operation's name in the policy language and in the refusal log.
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
    /// Console: writes up to [`CONSOLE_CHUNK`] bytes of text, packed into `a0..a3` in little-endian
    /// order and ended by the first NUL. A line feed ends the line. Returns 1 if lines that it ends
    /// may have been dropped, because the service exceeds its own rate or room, and 0 otherwise.
    ConsoleWrite = 1: Kind::Console, WRITE, "write";
    /// Clock: returns the monotonic time in ns since an arbitrary start.
    ClockNow = 2: Kind::Clock, NOW, "now";
    /// Clock: returns the UTC time in ns since 1970.
    ClockWall = 3: Kind::Clock, WALL, "wall";
    /// Entropy: returns 128 random bits of the kernel's generator. It is no exclusive right to random
    /// numbers: RDRAND and RDSEED work in ring 3.
    EntropyDraw = 4: Kind::Entropy, DRAW, "draw";
    /// Power: powers the domain off. Does not return.
    PowerOff = 5: Kind::Power, OFF, "off";
    /// Power: reboots the domain. Does not return.
    PowerReboot = 6: Kind::Power, REBOOT, "reboot";
    /// Queue end: notifies the service at the other end.
    QueueNotify = 7: Kind::Sender | Kind::Receiver, NOTIFY, "notify";
    /// Port: opens an event channel with domain `a0` and returns the port number. If `a1` is 0, the
    /// kernel allocates the channel for the peer to bind. Otherwise the kernel binds the channel
    /// that the peer allocated as its port `a1`; only a kernel built for a back end does.
    PortOpen = 8: Kind::Port, OPEN, "open";
    /// Port: sends an event.
    PortSend = 9: Kind::Port, SEND, "send";
    /// Port: closes the event channel.
    PortClose = 10: Kind::Port, CLOSE, "close";
    /// Grant: shares page `a0` of the rule's region with domain `a1`.
    ///
    /// If `a2` is 0, grants the peer access to our page and returns the grant reference. `a3` is
    /// the number of further pages after `a0` to grant as well, with the references that follow.
    /// Either all of them are granted, or none.
    ///
    /// Otherwise maps the page that the peer granted under reference `a2` in place of ours, and
    /// returns 0. Only a kernel built for a back end does. It maps one page a call, so `a3` is 0.
    GrantIssue = 11: Kind::Grant, ISSUE, "issue";
    /// Grant: ends the sharing of page `a0`. Returns `InUse` while the peer still maps the page.
    GrantEnd = 12: Kind::Grant, END, "end";
    /// Info: returns the two words of item `a0` (see [`info`]).
    InfoRead = 13: Kind::Info, READ, "read";
    /// Region: returns the address at which the service maps it, and its size in bytes with flags
    /// (see [`region`]).
    RegionFind = 14: Kind::Region, FIND, "find";
    /// Domain set: pins domain `a0` of the set as the peer of every port and grant rule that names
    /// the set. Does nothing if it is pinned already. Returns `InUse` if another one is pinned and
    /// a port under such a rule is open, or a page is granted or mapped.
    DomainPin = 15: Kind::Domain, PIN, "pin";
}

impl Operation {
    /// Returns the operation with this number, if there is one.
    #[must_use]
    #[inline(never)] // `cargo xtask test` looks at its machine code, which must have no branch.
    pub fn from_number(number: u64) -> Option<Operation> {
        const BY_NUMBER: Clamped<Option<Operation>, { Operation::ALL.len() + 2 }> = {
            // Operations are numbered from 1, in the order of `ALL`.
            let mut operations = [None; _];
            let mut index = 0;
            while index < Operation::ALL.len() {
                operations[index + 1] = Some(Operation::ALL[index]);
                index += 1;
            }
            Clamped::new(operations)
        };
        // A compiler that saw the entries would make a branch of the minimum again.
        *core::hint::black_box(&BY_NUMBER).get(number)
    }
}

/// Flags in the size that [`Operation::RegionFind`] returns.
pub mod region {
    /// Nothing can write the region while the image runs.
    pub const CONSTANT: u64 = 1 << 63;
    /// The service that asks is the only one that maps the region, and it maps it for writing.
    /// Grant rules share the region with other domains, for reading only. So only its owner can
    /// write the data that leaves the image.
    pub const EXCLUSIVE: u64 = 1 << 62;
    /// No earlier run of the service has written this exclusive region: the kernel cleared it at
    /// boot, and the service has not restarted since.
    pub const FRESH: u64 = 1 << 61;
    /// The service that asks is the only one that maps the region, it maps it for writing, and no
    /// grant rule names it. Such a region may be a heap.
    pub const PRIVATE: u64 = 1 << 60;
    /// The mask of the size's bits.
    pub const SIZE: u64 = PRIVATE - 1;
}

/// Items of [`Operation::InfoRead`].
pub mod info {
    /// Words 0 and 1 of the policy's SHA-256, big endian within a word.
    pub const POLICY_HASH_LOW: u64 = 0;
    /// Words 2 and 3 of the policy's SHA-256.
    pub const POLICY_HASH_HIGH: u64 = 1;
    /// The monotonic time in ns at which the kernel started, and the size of the guest's memory in
    /// bytes.
    pub const BOOT: u64 = 2;
    /// The number of this service's earlier runs, and the number of its system calls refused so
    /// far.
    pub const HISTORY: u64 = 3;
    /// What the processor's weaknesses to speculation are, and what is done about them: the words of
    /// [`Exposures`](crate::weakness::Exposures).
    pub const SPECULATION: u64 = 4;
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
