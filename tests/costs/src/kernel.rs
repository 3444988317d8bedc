//! The kernel of the image that ships, over a platform that does nothing: the cost of a capability
//! check.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;

use cloister_caps::abi::{NO_DEADLINE, SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT};
use cloister_caps::tables::{Object, Tables};
use cloister_caps::{InvokeError, Operation, PAGE_SIZE, ServiceId, Slot, Status};
use cloister_interfaces::System;
use cloister_kernel_core::claims::{Claims, Owner};
use cloister_kernel_core::memory::{FrameRange, FreeMemory};
use cloister_kernel_core::placement::{BootRegions, place_regions};
use cloister_kernel_core::{Kernel, Outcome};
use cloister_sim::platform::NullPlatform;

/// The policy that ships.
const POLICY: &str = include_str!("../../../policy/default.toml");

/// The kernel as one service calls it, which holds one end of a queue.
#[derive(Clone)]
pub struct Caller {
    kernel: Rc<RefCell<Kernel<'static>>>,
    service: ServiceId,
    /// The entry of the kernel, opaque to the compiler, like its arguments.
    enter: fn(&RefCell<Kernel<'static>>, ServiceId, u64, &[u64; 6]) -> Status,
    /// The slot of that end.
    pub slot: Slot,
    /// The service that has the other end.
    receiver: ServiceId,
}

impl Caller {
    /// Creates a caller for the first holder of a sending end in the policy.
    ///
    /// # Errors
    /// Describes what is wrong with the policy.
    pub fn new() -> Result<Self, String> {
        let policy = cloister_policy::parse("the policy", POLICY).map_err(|report| report.to_string())?;
        let bytes = policy.tables().ok_or("the policy has no tables")?.leak();
        let tables = Tables::parse(bytes).map_err(|error| format!("{error:?}"))?;
        let mut ends = tables.capabilities().iter().filter_map(|capability| match capability.object {
            Object::Sender(queue) => Some((capability, queue)),
            _ => None,
        });
        let (end, queue) = ends.next().ok_or("the policy has no queue")?;
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 0x400, end: (32 << 20) / PAGE_SIZE as u64 });
        let frames = FrameRange { start: 0xF_EFFC, end: 0xF_EFFD };
        let xenstore = Claims::default().claim(Owner::XenStorePage, frames).map_err(|_| "the page has an owner")?;
        let boot_regions = BootRegions { xenstore: Some(xenstore), ..BootRegions::default() };
        let placements =
            place_regions(&tables, &mut free, &boot_regions, 0).map_err(|_| "the regions have no place")?;
        let kernel = Rc::new(RefCell::new(Kernel::new(tables, placements, 0, 32 << 20)));
        let caller = Caller {
            kernel,
            service: end.service,
            enter: black_box(enter),
            slot: Slot(end.slot),
            receiver: tables.queue(queue).receiver,
        };
        tables.services().ids().for_each(|service| caller.wait(service));
        Ok(caller)
    }

    fn wait(&self, service: ServiceId) {
        (self.enter)(&self.kernel, service, SYSTEM_CALL_WAIT, &[NO_DEADLINE, 0, 0, 0, 0, 0]);
    }

    /// Makes this service wait. Returns the receiver's notifications if it runs next.
    #[inline]
    pub fn hand_over(&self) -> Option<u64> {
        self.wait(self.service);
        let mut kernel = self.kernel.borrow_mut();
        let next = kernel.next(0).service.filter(|service| *service == self.receiver)?;
        kernel.take_answer(next, 0).map(|answer| answer.words[0])
    }

    /// Makes the receiver wait. Returns `true` if no service is ready then.
    #[inline]
    pub fn wait_receiver(&self) -> bool {
        self.wait(self.receiver);
        self.kernel.borrow_mut().next(0).service.is_none()
    }
}

/// The other side.
fn enter(kernel: &RefCell<Kernel<'static>>, service: ServiceId, call: u64, arguments: &[u64; 6]) -> Status {
    match kernel.borrow_mut().system_call(&mut NullPlatform, service, call, arguments) {
        Outcome::Answer(answer) => answer.status,
        _ => Status::Done,
    }
}

impl System for Caller {
    #[inline]
    fn invoke(&self, slot: Slot, operation: Operation, [a, b, c, d]: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        let arguments = [u64::from(slot.0), operation as u64, a, b, c, d];
        // A notification has no result.
        (self.enter)(&self.kernel, self.service, SYSTEM_CALL_INVOKE, &arguments).into_result().map(|()| [0; 2])
    }
}
