use super::*;
use crate::boot::{BootData, MapEntry, Module};
use crate::test_tables::{REGION, SERVICE, tables};
use cloister_caps::tables::{RegionKind, raw};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const PAGE: u64 = PAGE_SIZE as u64;

fn entry(address: u64, length: u64, ram: bool) -> MapEntry {
    MapEntry { address, length, ram }
}

fn frames(start: u64, end: u64) -> FrameRange {
    FrameRange { start, end }
}

/// Returns tables with a program of one segment and a data region, at these addresses and lengths.
fn image(program: (u64, u64), data: (u64, u64)) -> Tables<'static> {
    let segment = raw::Segment {
        service: 0,
        flags: 5,
        address: 0x1000,
        image_address: program.0,
        file_size: program.1,
        memory_size: program.1,
    };
    let region = raw::Region { kind: RegionKind::ImageData, image_address: data.0, image_length: data.1, ..REGION };
    tables(&[SERVICE], &[segment], &[region], &[])
}

/// Returns the numbers of the free frames.
fn drained(mut free: FreeMemory) -> Vec<u64> {
    let mut frames: Vec<u64> = std::iter::from_fn(|| Some(free.take(1)?.first().0)).collect();
    frames.sort_unstable();
    frames
}

/// A guest as libxl builds it, with 64 MiB.
struct Guest {
    info: StartInfo,
    map: Vec<MapEntry>,
    location: KernelLocation,
    pages: SpecialPages,
}

impl Guest {
    fn usual() -> Guest {
        let data = |owner, address, length| BootData { owner, address, length };
        Guest {
            info: StartInfo {
                boot_data: [
                    data(Owner::StartInfo, 0x50_0000, 56),
                    data(Owner::ModuleList, 0x50_0048, 32),
                    data(Owner::CommandLine, 0x50_0038, 16),
                    data(Owner::MemoryMap, 0x50_0888, 120),
                ]
                .into_iter()
                .collect(),
                module: Some(Module { address: 0x40_0000, length: 0x2800 }),
                ..StartInfo::default()
            },
            map: vec![
                entry(0, 64 * MIB, true),
                entry(0xFEFF_8000, 0x8000, false),
                entry(0xFC00_8000, 0x40, false),
                entry(0xFC00_0000, 0x1000, false),
                entry(0xFC00_1000, 0x7000, false),
            ],
            location: KernelLocation { kernel: (MIB, 0x1_8001), tables: (0x20_0000, 0x1000) },
            pages: SpecialPages { xenstore: Some(Gfn(0xF_EFFC)), console: Some(Gfn(0xF_EFFF)) },
        }
    }

    fn divide(&self) -> Result<GuestMemory, ClaimError> {
        let tables = image((0x30_0000, 0x1001), (0x31_0000, 1));
        GuestMemory::divide(&self.info, &self.map, &tables, &self.location, &self.pages)
    }

    /// Returns the owners of the two claims that overlap: the one that is refused, and the one
    /// before it.
    fn overlap(&self) -> Option<(Owner, Owner)> {
        match self.divide() {
            Err(ClaimError::Overlap(wanted, held)) => Some((wanted.owner, held.owner)),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    }
}

#[test]
fn what_libxl_builds_is_divided_up() {
    let memory = Guest::usual().divide().unwrap();
    let (module, length) = memory.module.unwrap();
    assert_eq!((module.range(), length), (frames(0x400, 0x403), 0x2800));
    assert_eq!(memory.xenstore.unwrap().first(), Gfn(0xF_EFFC));
    assert_eq!(memory.console.unwrap().range(), frames(0xF_EFFF, 0xF_F000));
    assert_eq!(memory.shared_pages.range(), frames(0xF_0000, 0xF_0000 + SHARED_PAGES));
    assert_eq!(memory.ram, 64 * MIB);
    let mut expected = vec![true; 0x4000];
    for used in [0..1, 0x100..0x119, 0x200..0x201, 0x300..0x302, 0x310..0x311, 0x400..0x403, 0x500..0x501] {
        expected[used].fill(false);
    }
    let expected: Vec<u64> = (0..0x4000).filter(|frame| expected[*frame as usize]).collect();
    assert_eq!(drained(memory.free), expected);
}

#[test]
fn a_guest_needs_no_module_and_no_pages() {
    let guest = Guest { pages: SpecialPages::default(), info: StartInfo::default(), ..Guest::usual() };
    let memory = guest.divide().unwrap();
    assert!(memory.module.is_none() && memory.xenstore.is_none() && memory.console.is_none());
}

/// Each thing that the toolstack places, at the frame of each other thing.
#[test]
fn each_two_things_are_kept_apart() {
    type Put = fn(&mut Guest, u64);
    let boot_data: [(Owner, Put); 4] = [
        (Owner::StartInfo, |guest, frame| guest.info.boot_data[0].address = frame * PAGE),
        (Owner::ModuleList, |guest, frame| guest.info.boot_data[1].address = frame * PAGE + 100),
        (Owner::CommandLine, |guest, frame| guest.info.boot_data[2].address = frame * PAGE + 200),
        (Owner::MemoryMap, |guest, frame| guest.info.boot_data[3].address = (frame + 1) * PAGE - 1),
    ];
    let others: [(Owner, Put); 3] = [
        (Owner::Module, |guest, frame| guest.info.module.as_mut().unwrap().address = frame * PAGE),
        (Owner::XenStorePage, |guest, frame| guest.pages.xenstore = Some(Gfn(frame))),
        (Owner::ConsolePage, |guest, frame| guest.pages.console = Some(Gfn(frame))),
    ];
    let placed = || boot_data.iter().chain(&others);
    for (owner, put) in placed() {
        for (frame, held) in [
            (0x100, Owner::Kernel),
            (0x118, Owner::Kernel),
            (0x200, Owner::Tables),
            (0x301, Owner::Programs),
            (0x310, Owner::ImageData),
            (0xF_EE00, Owner::LocalApic),
        ] {
            let mut guest = Guest::usual();
            put(&mut guest, frame);
            assert_eq!(guest.overlap(), Some((*owner, held)), "{frame:#x}");
        }
        for (other, put_other) in placed().filter(|(other, _)| other != owner) {
            let mut guest = Guest::usual();
            put(&mut guest, 0x3000);
            put_other(&mut guest, 0x3000);
            let found = guest.overlap();
            let shared = owner.is_boot_data() && other.is_boot_data();
            let named = found == Some((*owner, *other)) || found == Some((*other, *owner));
            assert!(if shared { found.is_none() } else { named }, "{owner} and {other}: {found:?}");
        }
        let mut guest = Guest::usual();
        put(&mut guest, 0x10_0000);
        assert!(matches!(guest.divide(), Err(ClaimError::TooHigh(claim)) if claim.owner == *owner), "{owner}");
    }
}

#[test]
fn a_frame_number_that_no_address_can_have_is_refused() {
    // Times the size of a page, each is an address in the kernel if the overflow is ignored.
    for frame in [u64::MAX, (1 << 52) + 0x100, (1 << 40) + 0x100] {
        let pages = SpecialPages { xenstore: Some(Gfn(frame)), console: None };
        let result = Guest { pages, ..Guest::usual() }.divide();
        assert!(matches!(result, Err(ClaimError::TooHigh(_))), "{frame:#x}: {result:?}");
    }
}

#[test]
fn only_boot_data_and_constants_of_one_kind_share_a_frame() {
    use Owner::*;
    let boot_data = [StartInfo, ModuleList, MemoryMap, CommandLine];
    let others = [Kernel, Tables, Programs, ImageData, LocalApic, Module, XenStorePage, ConsolePage, SharedPages];
    let all = || boot_data.into_iter().chain(others);
    for one in all() {
        for other in all() {
            let mut claims = Claims::default();
            claims.claim(one, frames(5, 7)).unwrap();
            let both = boot_data.contains(&one) && boot_data.contains(&other);
            let constants = one == other && [Programs, ImageData].contains(&one);
            assert_eq!(claims.claim(other, frames(6, 8)).is_ok(), both || constants, "{one} and {other}");
        }
    }
}

#[test]
fn the_last_frame_below_4_gib_can_be_claimed() {
    let mut claims = Claims::default();
    let mut claim = |frame| claims.claim(Owner::ConsolePage, frames(frame, frame + 1)).map(|claimed| claimed.first());
    assert_eq!(claim(0xF_FFFF), Ok(Gfn(0xF_FFFF)));
    assert!(matches!(claim(0x10_0000), Err(ClaimError::TooHigh(_))));
}

#[test]
fn a_page_in_ram_is_not_given_out() {
    let pages = SpecialPages { xenstore: Some(Gfn(0x1000)), console: Some(Gfn(0x1001)) };
    let memory = Guest { pages, ..Guest::usual() }.divide().unwrap();
    let free = drained(memory.free);
    assert!(!free.contains(&0x1000) && !free.contains(&0x1001) && free.contains(&0x1002));
}

#[test]
fn the_image_in_too_many_pieces_is_refused() {
    let mut claims = Claims::default();
    for piece in 0..MAX_CLAIMS as u64 {
        claims.claim(Owner::Programs, frames(piece * 2, piece * 2 + 1)).unwrap();
    }
    let last = frames(500, 501);
    assert_eq!(
        claims.claim(Owner::Module, last).unwrap_err(),
        ClaimError::TooMany(Claim { owner: Owner::Module, frames: last })
    );
    // What follows the last one makes no new piece, and is claimed all the same.
    let after = (MAX_CLAIMS as u64) * 2 - 1;
    claims.claim(Owner::Programs, frames(after, after + 2)).unwrap();
    assert!(claims.claim(Owner::Module, frames(after + 1, after + 2)).is_err());
    assert!(claims.claim(Owner::Module, frames(900, 900)).is_ok(), "nothing at all");
}

#[test]
fn the_hole_is_the_first_that_nothing_touches() {
    let at = |frame: u64| frame * PAGE;
    let hole = |map: &[MapEntry]| Claims::default().claim_hole(map).map(|frames| frames.first().0);
    assert_eq!(SHARED_PAGES, 9);
    assert_eq!(hole(&[entry(0, 64 * MIB, true)]), Ok(0xF_0000));
    // Not only RAM is in the way, and a byte is enough.
    for ram in [true, false] {
        for taken in [entry(at(0xF_0008), 1, ram), entry(at(0xF_0000) - 1, 2, ram)] {
            assert_eq!(hole(&[entry(0, MIB, true), taken]), Ok(0xF_D000), "{taken:?}");
        }
    }
    for beside in [entry(at(0xF_0009), 1, false), entry(0, at(0xF_0000), true), entry(at(0xF_0001), 0, true)] {
        assert_eq!(hole(&[beside]), Ok(0xF_0000), "{beside:?}");
    }
    let taken = [entry(at(0xF_0000), 1, false), entry(at(0xF_D004), 1, false)];
    assert_eq!(hole(&taken), Ok(0xE_0000));
    assert_eq!(hole(&[entry(0, 1 << 32, true)]), Err(ClaimError::NoHole));
    // A claim is in the way, too.
    let mut claims = Claims::default();
    claims.claim(Owner::XenStorePage, frames(0xF_0008, 0xF_0009)).unwrap();
    assert_eq!(claims.claim_hole(&[]).unwrap().first(), Gfn(0xF_D000));
}

#[test]
fn without_ram_there_is_no_memory() {
    for map in [vec![entry(0, 4 * MIB, false), entry(MIB, 10, true)], vec![]] {
        let result = Guest { map, ..Guest::usual() }.divide();
        assert_eq!(result.err(), Some(ClaimError::Map(BootError::NoMemory)));
    }
}

/// The message is the last line on the console of an image that cannot start.
#[test]
fn an_error_names_both_sides_and_where_they_are() {
    let wanted = Claim { owner: Owner::ConsolePage, frames: frames(0x110, 0x111) };
    let held = Claim { owner: Owner::Kernel, frames: frames(0x100, 0x119) };
    for (error, text) in [
        (
            ClaimError::Overlap(wanted, held),
            "the console page (frames 0x110 to 0x110) overlaps the kernel (frames 0x100 to 0x118); the toolstack must put them apart",
        ),
        (ClaimError::TooHigh(wanted), "the console page (frames 0x110 to 0x110) is not below 4 GiB"),
        (
            ClaimError::TooMany(held),
            "no room to note the kernel (frames 0x100 to 0x118): the image is in too many pieces",
        ),
        (ClaimError::NoHole, "no hole in the memory map for Xen's shared pages"),
        (ClaimError::Map(BootError::NoMemory), "the memory map describes no RAM"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

/// Where the random guests have their parts: page 0, the places of the image, of holes and of the
/// APIC.
const WINDOWS: [u64; 6] = [0, 0x100, 0xE_0000, 0xF_0000, 0xF_D000, 0xF_EDF8];
/// Frames of a window that are looked at.
const WINDOW: u64 = 80;

/// An address in a window, at any byte.
fn place() -> impl Strategy<Value = u64> {
    (prop::sample::select(WINDOWS.to_vec()), 0..64 * PAGE).prop_map(|(window, byte)| window * PAGE + byte)
}

/// Numbers of frames, of which most are at the place of the image.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0x100_u64..0x140, 1 => place().prop_map(|address| address / PAGE)]
}

fn map_entry() -> impl Strategy<Value = (u64, u64, u32)> {
    let length = prop_oneof![4 => 0..40 * PAGE, 2 => (0_u64..40).prop_map(|pages| pages * PAGE), 1 => any::<u64>()];
    let address = prop_oneof![2 => place(), 3 => page().prop_map(|page| page * PAGE), 1 => any::<u64>()];
    (address, length, 0_u32..4)
}

/// A range of bytes, without the arithmetic of the code under test.
#[derive(Clone, Copy, Debug)]
struct Bytes(u128, u128);

impl Bytes {
    fn new(address: u64, length: u64) -> Bytes {
        Bytes(address.into(), u128::from(address) + u128::from(length))
    }

    fn touches(self, page: u64) -> bool {
        let start = u128::from(page) << 12;
        self.0 < self.1 && self.0 < start + 4096 && start < self.1
    }

    fn has_all_of(self, page: u64) -> bool {
        let start = u128::from(page) << 12;
        self.0 <= start && start + 4096 <= self.1
    }
}

/// What an oracle says about one page: `true` if it is RAM.
fn is_ram(map: &[(u64, u64, u32)], page: u64) -> bool {
    let of = |(address, length, _): &(u64, u64, u32)| Bytes::new(*address, *length);
    map.iter().any(|entry| entry.2 == 1 && of(entry).has_all_of(page))
        && !map.iter().any(|entry| entry.2 != 1 && of(entry).touches(page))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Each frame has one owner, or is free, or nobody's: what the code gives is compared with an
    /// oracle that looks at each page by itself.
    #[test]
    fn no_frame_has_two_owners(
        map in prop::collection::vec(map_entry(), 0..10),
        bases in prop::collection::vec(page(), 10),
        lengths in prop::collection::vec(0_u64..2 * PAGE, 10),
        present in any::<[bool; 3]>(),
    ) {
        let at = |index: usize| (bases[index] * PAGE, lengths[index]);
        // Tables allow no others.
        let in_image = |index: usize| ((0x100 + bases[index] % 64) * PAGE, lengths[index] + 1);
        let boot = [Owner::StartInfo, Owner::ModuleList, Owner::MemoryMap, Owner::CommandLine];
        let info = StartInfo {
            boot_data: boot.iter().zip(4..).map(|(owner, index)| {
                BootData { owner: *owner, address: at(index).0 + 100, length: at(index).1 }
            }).collect(),
            module: present[0].then_some(Module { address: at(8).0, length: at(8).1 + 1 }),
            ..StartInfo::default()
        };
        let pages = SpecialPages {
            xenstore: present[1].then_some(Gfn(bases[9])),
            console: present[2].then_some(Gfn(bases[9] + lengths[9] % 3)),
        };
        let entries: Vec<_> = map.iter().map(|(address, length, kind)| MapEntry::new(*address, *length, *kind)).collect();
        let location = KernelLocation { kernel: at(0), tables: at(1) };
        let result = GuestMemory::divide(&info, &entries, &image(in_image(2), in_image(3)), &location, &pages);

        // The parts that have an owner of their own, and those that may share pages.
        let image = [at(0), at(1), in_image(2), in_image(3)];
        let mut own: Vec<Bytes> = image.iter().map(|(address, length)| Bytes::new(*address, *length)).collect();
        own.push(Bytes::new(0xFEE0_0000, 4096));
        own.extend(info.module.map(|module| Bytes::new(module.address, module.length)));
        own.extend([pages.xenstore, pages.console].into_iter().flatten().map(|Gfn(page)| Bytes::new(page << 12, 4096)));
        let shared: Vec<Bytes> = (4..8).map(|index| Bytes::new(at(index).0 + 100, at(index).1)).collect();
        let owners = |page| {
            let own = own.iter().filter(|bytes| bytes.touches(page)).count();
            own + usize::from(shared.iter().any(|bytes| bytes.touches(page)))
        };
        let window = || WINDOWS.iter().flat_map(|start| *start..start + WINDOW);
        let twice = window().any(|page| owners(page) > 1);
        match result {
            Err(ClaimError::Overlap(..)) => prop_assert!(twice, "nothing overlaps"),
            Err(ClaimError::NoHole) => {
                // Each of the three holes is in use.
                for start in [0xF_0000, 0xF_D000, 0xE_0000_u64] {
                    prop_assert!((start..start + 9).any(|page| owners(page) > 0
                        || map.iter().any(|entry| Bytes::new(entry.0, entry.1).touches(page))));
                }
            }
            Err(ClaimError::Map(BootError::NoMemory)) => prop_assert!(!window().any(|page| is_ram(&map, page))),
            Err(other) => prop_assert!(false, "{other}"),
            Ok(memory) => {
                prop_assert!(!twice, "two owners");
                let hole = memory.shared_pages.range();
                prop_assert_eq!(hole.count(), 9);
                for page in hole.start..hole.end {
                    prop_assert!(owners(page) == 0, "{page:#x}");
                    prop_assert!(!map.iter().any(|entry| Bytes::new(entry.0, entry.1).touches(page)), "{page:#x}");
                }
                let mut free = memory.free;
                let mut given = std::collections::BTreeSet::new();
                // Large ranges are not looked at page by page.
                while let Some(frames) = free.take(free.largest()).filter(|_| given.len() < 2_000) {
                    let range = frames.range();
                    let near = window().filter(|page| (range.start..range.end).contains(page));
                    for page in near {
                        prop_assert!(given.insert(page), "{page:#x} is given twice");
                    }
                }
                for page in window() {
                    let expected = page != 0 && owners(page) == 0 && is_ram(&map, page) && !(hole.start..hole.end).contains(&page);
                    prop_assert_eq!(given.contains(&page), expected, "page {:#x}", page);
                }
            }
        }
    }
}
