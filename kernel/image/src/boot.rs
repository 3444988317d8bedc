//! Takes the kernel from the boot code to the first service.

use core::fmt;

use arrayvec::ArrayVec;
use cloister_caps::abi::IMAGE_ADDRESSES;
use cloister_caps::tables::{TableError, Tables};
use cloister_caps::{EvtchnPort, Gfn, PAGE_SIZE};
use cloister_kernel_core::address_space::allocate_copies;
use cloister_kernel_core::boot::{self, BootError, MAX_MAP, MapEntry, StartInfo};
use cloister_kernel_core::claims::{ClaimError, ClaimedFrames, GuestMemory, KernelLocation, SpecialPages};
use cloister_kernel_core::event_channels::{self, TooFewPorts};
use cloister_kernel_core::events::take_events;
use cloister_kernel_core::grant_frames::{self, TooFewFrames};
use cloister_kernel_core::memory::{FreeMemory, OwnedFrames};
use cloister_kernel_core::placement::{
    BootRegions, PAGES_PER_LARGE, PlacementError, Placements, page_table_reserve, place_regions,
};
use cloister_kernel_core::speculation::{Speculation, Unmet};
use cloister_kernel_core::tables_hash::{Hex, TablesHash};
use cloister_kernel_core::{Costs, Kernel};

use crate::fatal::fatal;
use crate::grants::GrantTable;
use crate::hypercall::{self, E820Entry, HypercallError, Param, Space};
use crate::hypercall_page::{self, Xen};
use crate::machine::Machine;
use crate::paging::{self, HYPERCALL_FRAME, IdentityMap, KernelRoot, OFFSET, PagingError};
use crate::processor::{self, Features, UnloadedTables};
use crate::run::{self, Run};
use crate::service;
use crate::shared_info::{self, SharedInfo};
use crate::trap_frame::TrapFrames;
use crate::{console, count, profile, speculation};

/// Physical address and length of the capability tables. The packer writes both.
#[unsafe(link_section = ".tables")]
#[unsafe(no_mangle)]
static CLOISTER_TABLES: [u64; 2] = [0; 2];

/// `XENFEAT_auto_translated_physmap` and `XENFEAT_hvm_callback_vector` (`features.h`).
const REQUIRED_FEATURES: u32 = 1 << 2 | 1 << 8;

/// The number of times that the cost of an interrupt is measured: once with cold caches, once with
/// warm ones. Each makes the boot longer.
const MEASUREMENTS: u32 = 2;

/// Says why the image cannot run on this machine.
enum Failure {
    NotXen,
    NoExecute,
    NoSystemCall,
    Features(u32),
    Boot(BootError),
    Hypercall(HypercallError),
    NoTables,
    Tables(TableError),
    Claim(ClaimError),
    Placement(PlacementError),
    Paging(PagingError),
    GrantFrames(TooFewFrames),
    Speculation(Unmet),
    Ports(TooFewPorts),
}

macro_rules! failure_from {
    ($($error:ty => $variant:ident),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::$variant(error)
            }
        }
    )*};
}
failure_from!(BootError => Boot, HypercallError => Hypercall, TableError => Tables, ClaimError => Claim, PlacementError => Placement, PagingError => Paging, TooFewFrames => GrantFrames, TooFewPorts => Ports, Unmet => Speculation);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotXen => {
                write!(f, "not running under Xen: no Xen CPUID leaves; start it with `xl create`, type=\"pvh\"")
            }
            Failure::NoExecute => write!(f, "the processor has no NX; without it pages cannot be kept from execution"),
            Failure::NoSystemCall => {
                write!(f, "the processor has no `syscall`; without it services cannot call the kernel")
            }
            Failure::Features(offered) => {
                write!(f, "Xen lacks what a PVH guest needs (features {offered:#x}, needed {REQUIRED_FEATURES:#x})")
            }
            Failure::Boot(error) => error.fmt(f),
            Failure::Hypercall(error) => error.fmt(f),
            Failure::NoTables => write!(f, "no capability tables: this kernel was not packed with a policy"),
            Failure::Tables(error) => error.fmt(f),
            Failure::Claim(error) => error.fmt(f),
            Failure::Placement(error) => error.fmt(f),
            Failure::Paging(error) => error.fmt(f),
            Failure::GrantFrames(error) => error.fmt(f),
            Failure::Speculation(error) => error.fmt(f),
            Failure::Ports(error) => error.fmt(f),
        }
    }
}

/// Continues from `boot.s`, with the physical address of the start info.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(start_info: u32) -> ! {
    count::start_counting(processor::counter());
    match UnloadedTables::take() {
        Some(tables) => processor::load_tables(tables),
        None => fatal(format_args!("the kernel was started twice")),
    }
    // SAFETY: `boot.s` has put its page tables in force, and calls this once.
    let identity = unsafe { IdentityMap::assume_active() };
    match prepare(u64::from(start_info), identity) {
        Ok(()) => run::start(),
        Err(failure) => fatal(format_args!("{failure}")),
    }
}

/// Checks the machine and the boot data, puts the kernel's own page tables in force, and sets up
/// the services.
fn prepare(start_info: u64, mut identity: IdentityMap) -> Result<(), Failure> {
    let features = Features::detect();
    let xen = hypercall_page::choose_instruction(&features).ok_or(Failure::NotXen)?;
    let no_execute = processor::enable_no_execute(&features).ok_or(Failure::NoExecute)?;
    let system_call = features.system_call().ok_or(Failure::NoSystemCall)?;
    let offered = hypercall::features(xen)?;
    if offered & REQUIRED_FEATURES != REQUIRED_FEATURES {
        return Err(Failure::Features(offered));
    }
    let info = StartInfo::read(&identity, start_info)?;
    let map = memory_map(xen, &info)?;
    let tables_range = tables_location()?;
    // SAFETY: the packer put the tables there. The boot code's page tables map them. So do the
    // kernel's own, which replace these below: read-only, and for good.
    let bytes = unsafe { core::slice::from_raw_parts((tables_range.0 + OFFSET) as *const u8, tables_range.1 as usize) };
    // The packer puts the programs and their data after the tables.
    let tables = Tables::parse_within(bytes, &(tables_range.0 + tables_range.1..IMAGE_ADDRESSES.end))?;
    let kernel = (IMAGE_ADDRESSES.start, paging::kernel_end_address() - IMAGE_ADDRESSES.start);
    let pages = SpecialPages {
        xenstore: hypercall::get_param(xen, Param::StorePfn).map(Gfn),
        console: hypercall::get_param(xen, Param::ConsolePfn).map(Gfn),
    };
    let location = KernelLocation { kernel, tables: tables_range };
    let GuestMemory { mut free, module, xenstore, console, shared_pages, ram } =
        GuestMemory::divide(&info, &map, &tables, &location, &pages)?;
    let mut kernel_root = paging::build_kernel(&mut identity, &mut free, tables_range, no_execute)?;
    processor::protect(&features, system_call);
    if features.gigabyte() {
        relocate_hypercall_page(xen, &mut kernel_root, &mut identity, &mut free)?;
    }
    let console_port = start_console(xen, tables, console);
    print_version(xen, ram)?;
    print_policy(&tables, &features);
    let speculation = speculation::prepare(&features, &tables.image())?;
    console::line(format_args!("cloister: speculation {}", speculation.exposures));
    let (shared_info, grants) = map_shared_pages(xen, &tables, &shared_pages)?;
    let command_line = Some(copy_command_line(&info, &identity, &mut free)?);
    let boot_regions = BootRegions { module, command_line, xenstore };
    let prepared =
        BootState { xen, tables, boot_regions, memory: ram, features, speculation, shared_info, grants, console_port };
    set_up_services(prepared, kernel_root, identity, free)
}

/// Holds what [`prepare`] has found out.
struct BootState {
    xen: Xen,
    tables: Tables<'static>,
    boot_regions: BootRegions,
    memory: u64,
    features: Features,
    speculation: Speculation,
    shared_info: SharedInfo,
    grants: GrantTable,
    console_port: Option<EvtchnPort>,
}

/// Places the regions, builds the address spaces, drops the identity map and makes the kernel's
/// state.
///
/// The kernel's state is large, and each copy of it would be on the stack. So it is built here and
/// goes straight to where it stays.
fn set_up_services(
    prepared: BootState,
    kernel_root: KernelRoot,
    identity: IdentityMap,
    mut free: FreeMemory,
) -> Result<(), Failure> {
    let BootState { xen, tables, boot_regions, memory, features, speculation, shared_info, grants, console_port } =
        prepared;
    let copies = allocate_copies(&tables, &mut free).ok_or(PagingError::NoMemory)?;
    let reserve = page_table_reserve(&tables, free.free_frames());
    let placements: Placements = place_regions(&tables, &mut free, &boot_regions, reserve)?;
    let services = service::build(tables, kernel_root, identity, &mut free, &placements, copies)?;
    services.clear_at_boot(&placements);
    let ports_needed = event_channels::needed(&tables);
    let timer_port = bind_timer(xen, ports_needed)?;
    let mut kernel = Kernel::new(tables, placements, shared_info.now(), memory);
    kernel.set_exposures(speculation.exposures);
    shared_info.unmask(timer_port);
    let (costs, idle) = measure_interrupt(xen, shared_info);
    if let Some(port) = console_port {
        shared_info.unmask(port);
    }
    if let Some(port) = hypercall::get_param(xen, Param::StoreEvtchn).and_then(|port| u32::try_from(port).ok()) {
        kernel.set_xenstore_port(EvtchnPort(port));
        shared_info.unmask(EvtchnPort(port));
    }
    let machine = Machine::new(xen, shared_info, grants, features.rdrand(), ports_needed);
    if !machine.has_random() {
        console::line(format_args!("cloister: no random source: the entropy capability will refuse"));
    }
    console::line(format_args!("cloister: {} KiB free", free.free_frames() * 4));
    console::line(format_args!(
        "cloister: an interrupt costs {} ns, a timer waits {} ns",
        costs.interrupt, costs.grain
    ));
    kernel.start_accounting(costs, shared_info.now());
    // SAFETY: the boot code runs once.
    let trap_frames = unsafe { TrapFrames::new() };
    run::install(Run {
        kernel,
        machine,
        xen,
        shared_info,
        services,
        trap_frames,
        timer_port,
        console_port,
        current: None,
        idle,
        barriers: speculation.barriers,
        tables_hash: TablesHash::new(&tables, shared_info.now()),
    });
    Ok(())
}

/// Binds the timer to a port. The policy's rules need `ports_needed` event channels.
fn bind_timer(xen: Xen, ports_needed: u32) -> Result<EvtchnPort, Failure> {
    hypercall::bind_timer(xen).map_err(|error| match event_channels::check(error.code, ports_needed) {
        Err(too_few) => too_few.into(),
        Ok(()) => error.into(),
    })
}

/// Measures what a timer interrupt costs on this machine. Returns also the time in ns for which the
/// processor slept meanwhile.
///
/// The cost is the least time from setting a timer that is due to having taken its event. It
/// includes the hypercall, so that a service that is charged for an interrupt pays too much rather
/// than too little. All other ports are still masked.
fn measure_interrupt(xen: Xen, shared_info: SharedInfo) -> (Costs, u64) {
    let (mut least, mut idle) = (u64::MAX, 0);
    for _ in 0..MEASUREMENTS {
        let begun = shared_info.now();
        hypercall::set_timer(xen, begun);
        let asleep = shared_info.now();
        hypercall_page::sleep(xen);
        let now = shared_info.now();
        least = least.min(now.saturating_sub(begun));
        idle += now.saturating_sub(asleep);
        take_events(shared_info, |port| shared_info.unmask(port));
    }
    (profile::costs(Costs::new(least)), idle)
}

/// Returns the memory map: that of the start info, or Xen's own if that has none, as in version 0.
fn memory_map(xen: Xen, info: &StartInfo) -> Result<ArrayVec<MapEntry, MAX_MAP>, Failure> {
    if !info.map.is_empty() {
        return Ok(info.map.clone());
    }
    let mut records = [E820Entry::default(); MAX_MAP];
    let count = hypercall::memory_map(xen, &mut records)?;
    Ok(records[..count].iter().map(|record| MapEntry::new(record.address, record.length, record.kind)).collect())
}

/// Returns physical address and length of the capability tables.
fn tables_location() -> Result<(u64, u64), Failure> {
    // SAFETY: it is a static of ours. The volatile read returns what the packer wrote, not the
    // initial value that the compiler knows.
    let [address, length] = unsafe { (&raw const CLOISTER_TABLES).read_volatile() };
    let fits = address >= paging::kernel_end_address()
        && address.is_multiple_of(PAGE_SIZE as u64)
        && address.checked_add(length).is_some_and(|end| end < IMAGE_ADDRESSES.end);
    if length > 0 && fits { Ok((address, length)) } else { Err(Failure::NoTables) }
}

/// Moves the hypercall page to [`HYPERCALL_FRAME`] and uses it there. If Xen refuses, the copy in
/// the kernel's text stays in use, which is slower.
///
/// # Errors
/// No frame is free.
fn relocate_hypercall_page(
    xen: Xen,
    root: &mut KernelRoot,
    identity: &mut IdentityMap,
    free: &mut FreeMemory,
) -> Result<(), PagingError> {
    // The frame leaves a hole, for which Xen splits a large entry of its own page tables. That
    // should not be an entry that leads to our page tables, so take the frame from another 2 MiB.
    let mut from = free.take_aligned(1, PAGES_PER_LARGE).or_else(|| free.take(1)).ok_or(PagingError::NoMemory)?;
    paging::write_frame(&mut from, hypercall_page::content());
    // SAFETY: the frame is ours alone, and there is none at `HYPERCALL_FRAME`.
    if unsafe { hypercall::add_to_physmap(xen, Space::GuestFrame, from.first().0, HYPERCALL_FRAME) }.is_err() {
        return Ok(());
    }
    root.map_hypercall_page(identity, free)?;
    // SAFETY: the page is mapped in the kernel's half, which every address space has.
    unsafe { hypercall_page::use_relocated_copy() };
    Ok(())
}

/// Starts the console, on the page that Xen provides for it. Returns the console's port, if there
/// is one.
fn start_console(xen: Xen, tables: Tables<'static>, page: Option<ClaimedFrames>) -> Option<EvtchnPort> {
    let provided = page.and_then(|page| {
        let port = u32::try_from(hypercall::get_param(xen, Param::ConsoleEvtchn)?).ok()?;
        Some((page, EvtchnPort(port)))
    });
    let port = provided.as_ref().map(|(_, port)| *port);
    // SAFETY: `GuestMemory` has claimed the page for the console.
    console::start(tables, provided.map(|(page, port)| unsafe { console::map_ring(xen, page, port) }));
    port
}

/// Prints the versions of the image and of Xen, and the size of the memory.
fn print_version(xen: Xen, memory: u64) -> Result<(), Failure> {
    let version = hypercall::version(xen)?;
    console::line(format_args!(
        "cloister {} on Xen {}.{}, {} KiB of memory",
        env!("CARGO_PKG_VERSION"),
        version >> 16,
        version & 0xFFFF,
        memory / 1024
    ));
    Ok(())
}

/// Prints the policy's hash, the size of the tables, and the protections that are on.
fn print_policy(tables: &Tables<'_>, features: &Features) {
    console::line(format_args!("cloister: policy {}", Hex(tables.policy_hash())));
    console::line(format_args!(
        "cloister: services {}, capabilities {}, queues {}; NX WP{}{}{}",
        tables.services().len(),
        tables.capabilities().len(),
        tables.queues().len(),
        if features.smep() { " SMEP" } else { "" },
        if features.smap() { " SMAP" } else { "" },
        if features.umip() { " UMIP" } else { "" },
    ));
}

/// Puts the shared info and the grant table at their frames, and maps them. Enables the upcall,
/// with every port masked.
fn map_shared_pages(
    xen: Xen,
    tables: &Tables<'_>,
    frames: &ClaimedFrames,
) -> Result<(SharedInfo, GrantTable), Failure> {
    // The shared info goes to the first frame, and the grant table after it.
    let first = frames.first();
    // SAFETY: the frames are claimed for these pages alone, and the memory map has nothing there.
    let shared_info = unsafe { shared_info::map(xen, first)? };
    // This also makes Xen fill in the wall clock.
    hypercall::set_callback_vector(xen)?;
    let needed = grant_frames::needed(tables);
    if needed > 0 {
        grant_frames::check(needed, hypercall::grant_frames(xen)?)?;
    }
    // SAFETY: as above.
    let grants = unsafe { GrantTable::map(xen, Gfn(first.0 + 1), needed)? };
    Ok((shared_info, grants))
}

/// Copies the command line to a page of its own. Returns the page, and the line's length.
fn copy_command_line(
    info: &StartInfo,
    identity: &IdentityMap,
    free: &mut FreeMemory,
) -> Result<(OwnedFrames, u64), Failure> {
    let mut text = [0; boot::MAX_COMMAND_LINE];
    let length = info.command_line.map_or(0, |line| boot::copy_command_line(identity, line, &mut text));
    let mut page = free.take(1).ok_or(PagingError::NoMemory)?;
    paging::write_frame(&mut page, &text[..length]);
    Ok((page, length as u64))
}
