//! Replaces `cloister-runtime` on the host, under the same names: the bindings of the policy
//! compiler compile against it unchanged.
//!
//! As in the image, [`Kernel`] has no state: the machine knows which service runs. Here any code
//! can make one.

use std::rc::Rc;

use cloister_caps::abi::region::{CONSTANT, EXCLUSIVE, FRESH, PRIVATE, SIZE};
use cloister_caps::{InvokeError, Operation, RegionId, Slot};
use cloister_interfaces::{ExclusiveMemory, Memory, Service, System};

use crate::hypervisor::Machine;
use crate::memory::SharedMemory;

/// The kernel under the service that runs.
#[derive(Clone, Copy)]
pub struct Kernel;

impl System for Kernel {
    fn invoke(&self, slot: Slot, operation: Operation, arguments: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        let (machine, service) = Machine::running();
        machine.invoke(service, slot, operation, arguments)
    }
}

/// Makes the service of the program that runs, with the arguments of the runtime's `run`.
///
/// `heap` is the slot of the region for its allocator. Here it allocates from the host, but the
/// region must exist, and the service must be able to write it. `_console` is for the panic
/// message, which the host's tests print themselves.
///
/// # Panics
/// The service cannot write the region.
pub fn start<T: Service + 'static>(
    heap: Option<Slot>,
    _console: Option<Slot>,
    make: impl FnOnce(Kernel) -> T,
) -> Box<dyn Service> {
    if let Some(slot) = heap {
        let private = find(slot).is_some_and(|(_, _, size, writable)| writable && size & PRIVATE != 0);
        assert!(private, "the heap in {slot} is no region that only the service writes");
    }
    Box::new(make(Kernel))
}

/// A mapped region. A write to a region that is mapped read-only fails the test, as it faults in
/// the image.
#[derive(Clone)]
pub struct SharedRegion {
    memory: SharedMemory,
    /// The message of the fault that a write is, if the region is mapped read-only.
    read_only: Option<Rc<str>>,
}

/// Returns the machine, the index of the region that the capability in `slot` names, its size, and
/// `true` if the service may write it.
fn find(slot: Slot) -> Option<(Rc<Machine>, RegionId, u64, bool)> {
    let (machine, service) = Machine::running();
    let [address, size] = machine.invoke(service, slot, Operation::RegionFind, [0; 4]).ok()?;
    let (region, writable) = machine.mapped(service, address).expect("the kernel answers an address that is mapped");
    Some((machine, region, size, writable))
}

impl SharedRegion {
    /// Returns the region that the capability in `slot` names. It is empty if there is none.
    #[must_use]
    pub fn new(_: Kernel, slot: Slot) -> SharedRegion {
        let Some((machine, region, size, writable)) = find(slot).filter(|(_, _, size, _)| size & EXCLUSIVE == 0) else {
            return SharedRegion { memory: SharedMemory::new(0), read_only: None };
        };
        let memory = machine.regions().shared(region).expect("a shared region is one that is written");
        assert_eq!(memory.len() as u64, size & SIZE, "the kernel answers the size of what it maps");
        let name = machine.regions().name(region);
        SharedRegion { memory, read_only: (!writable).then(|| format!("{name} is mapped for reading").into()) }
    }

    fn check(&self) {
        assert!(self.read_only.is_none(), "write fault: {}", self.read_only.as_deref().unwrap_or_default());
    }
}

impl Memory for SharedRegion {
    type Exclusive = OwnedRegion;
    fn len(&self) -> usize {
        self.memory.len()
    }
    fn load(&self, offset: usize) -> u32 {
        self.memory.load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        self.check();
        self.memory.store(offset, value);
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        self.memory.read(offset, into);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.check();
        self.memory.write(offset, from);
    }
}

/// A region that only the service that runs can write or map.
pub struct OwnedRegion {
    memory: SharedMemory,
    fresh: bool,
}

impl OwnedRegion {
    /// Returns the region that the capability in `slot` names. It is empty if others can write or
    /// map it.
    #[must_use]
    pub fn new(_: Kernel, slot: Slot) -> OwnedRegion {
        let own = find(slot).filter(|(_, _, size, _)| size & EXCLUSIVE != 0);
        let fresh = own.as_ref().is_some_and(|(_, _, size, _)| size & FRESH != 0);
        let memory = own.and_then(|(machine, region, ..)| machine.regions().shared(region));
        OwnedRegion { memory: memory.unwrap_or_else(|| SharedMemory::new(0)), fresh }
    }
}

impl ExclusiveMemory for OwnedRegion {
    fn size(&self) -> usize {
        self.memory.size()
    }
    fn is_fresh(&self) -> bool {
        self.fresh
    }
    fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        self.memory.edit(offset, length, edit)
    }
}

/// Returns the bytes of a region that nothing can write while the image runs. Returns no bytes if
/// the region in `slot` is another.
#[must_use]
pub fn constant_bytes(_: Kernel, slot: Slot) -> &'static [u8] {
    match find(slot) {
        Some((machine, region, size, _)) if size & CONSTANT != 0 => {
            let bytes = machine.regions().constant(region).unwrap_or_default();
            assert_eq!(bytes.len() as u64, size & SIZE, "the kernel answers the size of what it maps");
            bytes
        }
        _ => &[],
    }
}
