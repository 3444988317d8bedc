//! Images that do not match their policy, each by one change made by hand, and what `verify`
//! reports. Each is sealed again, so that not the seal but the change itself must be found.

mod common;

use cloister_caps::tables::{Record, Tables};
use cloister_policy::verify::{Against, verify};
use common::image::{image, kernel, pack_all, program};
use common::{Elf, Part, cut_zeros, fill_up, headers, offset_of, seal};
use sha2::{Digest, Sha256};

/// The tables of an image, which are changed in place.
struct Blob<'a> {
    file: &'a mut Vec<u8>,
    start: usize,
}

/// The sections of the tables, by their position in the header.
const SERVICES: usize = 0;
const SEGMENTS: usize = 1;
const REGIONS: usize = 2;
const MAPPINGS: usize = 3;
const CAPABILITIES: usize = 4;
const QUEUES: usize = 5;
const GRANTS: usize = 6;
const PORTS: usize = 7;
const DOMAINS: usize = 8;
const IMAGE: usize = 11;

impl Blob<'_> {
    fn word(&self, at: usize) -> usize {
        let at = self.start + at;
        u32::from_le_bytes(self.file[at..at + 4].try_into().unwrap()) as usize
    }

    /// Returns the bytes of record `index` of a section whose records have `size` bytes.
    fn record(&mut self, section: usize, size: usize, index: usize) -> &mut [u8] {
        let at = self.start + self.word(48 + section * 8) + index * size;
        assert!(index < self.word(52 + section * 8));
        &mut self.file[at..at + size]
    }

    /// Changes the first record of a section for which `change` returns a new one.
    fn change<R: Record>(&mut self, section: usize, mut change: impl FnMut(&mut R) -> bool) {
        for index in 0..self.word(52 + section * 8) {
            let bytes = self.record(section, R::SIZE, index);
            let mut record = R::decode(bytes).unwrap();
            if change(&mut record) {
                record.encode(bytes);
                return;
            }
        }
        panic!("no record to change");
    }

    /// Returns the index of the region of this name.
    fn region(&self, name: &str) -> u16 {
        let tables = Tables::parse(&self.file[self.start..]).unwrap();
        tables.regions().iter().position(|region| tables.name(region.name) == name).unwrap() as u16
    }

    /// Replaces a piece of the policy text by one of the same length, and updates the hash.
    fn rewrite(&mut self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        let (start, length) = (self.start + self.word(48 + 10 * 8), self.word(52 + 10 * 8));
        let text = &mut self.file[start..start + length];
        let at = text.windows(from.len()).position(|window| window == from.as_bytes()).expect("in the policy");
        text[at..at + to.len()].copy_from_slice(to.as_bytes());
        let hash = Sha256::digest(text);
        self.file[self.start + 16..self.start + 48].copy_from_slice(&hash);
    }
}

fn tables(change: impl FnOnce(&mut Blob<'_>)) -> Vec<u8> {
    let mut file = image();
    let start = offset_of(&file, b"CLOISTER");
    let (_, all) = headers(&file);
    let header = all.iter().find(|header| header.kind == 1 && header.offset == start as u64).unwrap();
    let address = header.physical_address;
    fill_up(&mut file, address);
    let start = offset_of(&file, b"CLOISTER");
    change(&mut Blob { file: &mut file, start });
    cut_zeros(&mut file, address);
    file
}

/// Seals a file again, and returns its errors.
fn errors(mut file: Vec<u8>) -> Vec<String> {
    seal(&mut file);
    let verdict = verify(&file, &Against::default()).unwrap();
    let errors: Vec<String> =
        verdict.findings.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect();
    assert!(errors.iter().all(|error| !error.contains("seal")), "{errors:?}");
    errors
}

#[track_caller]
fn is_found(file: Vec<u8>, expected: &str) {
    let errors = errors(file);
    assert!(errors.iter().any(|error| error.contains(expected)), "{expected}: {errors:#?}");
}

/// A change to `Elf` header number `index` of the file, counted over all program headers.
fn header(index: usize, field: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = image();
    let at = 64 + index * 56 + field;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// Returns the number of the program header whose segment is at this virtual address.
fn header_at(address: u64) -> usize {
    headers(&image()).1.iter().position(|header| header.kind == 1 && header.virtual_address == address).unwrap()
}

/// Returns an image in which the text of `manager` has these bytes at offset 0x100.
fn text(bytes: &[u8]) -> Vec<u8> {
    let mut changed = program(1);
    changed.parts[1].bytes[0x100..0x100 + bytes.len()].copy_from_slice(bytes);
    pack_all(&kernel(), &[program(0), changed, program(2)])
}

/// Returns an image with a changed program for `manager`, which the packer accepts.
fn changed(change: impl FnOnce(&mut Elf)) -> Vec<u8> {
    let mut elf = program(1);
    change(&mut elf);
    pack_all(&kernel(), &[program(0), elf, program(2)])
}

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident: $file:expr => $expected:literal;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            is_found($file, $expected);
        }
    )*};
}

/// Tables with more authority than the policy gives, less, or other.
mod of_tables {
    use cloister_caps::Rights;
    use cloister_caps::tables::raw::{
        Capability, DomainSet, GrantRule, Image, Mapping, PortRule, Queue, Region, Segment, Service,
    };
    use cloister_caps::tables::{Access, AfterLimit, Isolation};
    use cloister_caps::weakness::{Weakness, Weaknesses};

    use super::*;

    mutations! {
        isolation_changed: tables(|blob| blob.change::<Image>(IMAGE, |image| {
            image.isolation = Isolation::Strict;
            true
        })) => "image as a whole: the isolation is strict; [image] makes it standard";
        weakness_refused: tables(|blob| blob.change::<Image>(IMAGE, |image| {
            image.refused = Weaknesses::NONE.with(Weakness::Mds).with(Weakness::Returns);
            true
        })) => "image as a whole: the list of refused weaknesses is mds returns; [image] makes it ";
        right_added: tables(|blob| blob.change::<Capability>(CAPABILITIES, |capability| {
            let clock = capability.kind == cloister_caps::Kind::Clock;
            capability.rights |= if clock { Rights::WALL } else { Rights::empty() };
            clock
        })) => "capability clock of driver: clock: the rights is now wall; [services.driver] makes it now";
        right_removed: tables(|blob| blob.change::<Capability>(CAPABILITIES, |capability| {
            let port = capability.rights.contains(Rights::CLOSE);
            capability.rights.remove(Rights::CLOSE);
            port
        })) => "capability port of driver: events: the rights is open send; [ports.events] makes it close open send";
        right_of_another_kind: tables(|blob| blob.change::<Capability>(CAPABILITIES, |capability| {
            capability.rights = Rights::OFF;
            true
        })) => "the rights is off; [services.driver] makes it write";
        capability_moved_to_another_service: tables(|blob| blob.change::<Capability>(CAPABILITIES, |capability| {
            let console = capability.kind == cloister_caps::Kind::Console;
            (capability.service, capability.slot) = (2, 40);
            console
        })) => "capability console of store: console is in the tables; no line of the policy gives it";
        capability_of_another_kind: tables(|blob| blob.change::<Capability>(CAPABILITIES, |capability| {
            let console = capability.kind == cloister_caps::Kind::Console;
            capability.kind = cloister_caps::Kind::Power;
            console
        })) => "capability power of driver: console is in the tables; no line of the policy gives it";
        capability_in_another_slot: tables(|blob| blob.change::<Capability>(CAPABILITIES, |capability| {
            capability.slot = 50;
            true
        })) => "the slot is 50; [services.driver] makes it 1";
        /// The capabilities of two mappings are exchanged: each mapping has one at most.
        capability_to_another_object: tables(|blob| for (from, to) in [(0, u32::MAX), (1, 0), (u32::MAX, 1)] {
            blob.change::<Capability>(CAPABILITIES, |capability| {
                let region = capability.kind == cloister_caps::Kind::Region && capability.object == from;
                capability.object = to;
                region
            });
        }) => "makes it driver.stack";
        second_capability_to_a_mapping: tables(|blob| blob.change::<Capability>(CAPABILITIES, |capability| {
            let region = capability.kind == cloister_caps::Kind::Region && capability.object == 0;
            capability.object = 1;
            region
        })) => "the kernel would refuse them: capability record";
        grant_of_more_pages: tables(|blob| blob.change::<GrantRule>(GRANTS, |grant| {
            grant.count = 3;
            true
        })) => "grant pool-pages: the number of pages is 3; [grants.pool-pages] makes it 4";
        grant_of_another_region: tables(|blob| {
            let region = blob.region("driver.stack");
            blob.change::<GrantRule>(GRANTS, |grant| {
                grant.region = region;
                true
            });
        }) => "grant pool-pages: the region is driver.stack; [grants.pool-pages] makes it pool";
        any_domain_in_a_set: tables(|blob| blob.change::<DomainSet>(DOMAINS, |domains| {
            domains.last = 32751;
            true
        })) => "domain backend: the ids is 0 to 32751; [domains.backend] makes it 0 to 0";
        /// No service has the capability to pin one of its domains.
        pin_of_a_set: tables(|blob| blob.change::<DomainSet>(DOMAINS, |domains| {
            domains.pinned = 1;
            true
        })) => "domain backend: the pin is true; [domains.backend] makes it false";
        grant_read_only: tables(|blob| blob.change::<GrantRule>(GRANTS, |grant| {
            grant.access = Access::Read;
            true
        })) => "grant pool-pages: the access is read;";
        grant_under_another_reference: tables(|blob| blob.change::<GrantRule>(GRANTS, |grant| {
            grant.first_ref = 12;
            true
        })) => "the first reference is 12; [grants.pool-pages] makes it 8";
        port_to_the_daemon: tables(|blob| blob.change::<PortRule>(PORTS, |port| {
            port.peer = 0;
            true
        })) => "port events: the peers is the XenStore daemon; [ports.events] makes it backend";
        port_to_a_domain: tables(|blob| blob.change::<PortRule>(PORTS, |port| {
            let xenstore = port.peer == 0;
            port.peer = 1;
            xenstore
        })) => "port store-events: the peers is backend; [ports.store-events] makes it the XenStore daemon";
        mapping_moved: tables(|blob| {
            let region = blob.region("store.rules");
            blob.change::<Mapping>(MAPPINGS, |mapping| {
                let found = mapping.region == region;
                mapping.address += if found { 0x1000_0000 } else { 0 };
                found
            });
        }) => "mapping store.rules in store: the address is";
        mapping_read_only: tables(|blob| {
            let region = blob.region("pool");
            blob.change::<Mapping>(MAPPINGS, |mapping| {
                let found = mapping.region == region && mapping.access == Access::ReadWrite;
                mapping.access = Access::Read;
                found
            });
        }) => "mapping pool in driver: the access is read; [regions.pool] makes it read-write";
        mapping_of_another_region: tables(|blob| {
            let (pool, ring) = (blob.region("pool"), blob.region("manager.stack"));
            blob.change::<Mapping>(MAPPINGS, |mapping| {
                let found = mapping.region == pool && mapping.access == Access::Read;
                mapping.region = ring;
                found
            });
        }) => "mapping manager.stack in store is in the tables; no line of the policy gives it";
        region_larger: tables(|blob| {
            let mut seen = 0;
            let pool = blob.region("pool");
            blob.change::<Region>(REGIONS, |region| {
                seen += 1;
                region.amount = 5;
                seen == pool + 1
            });
        }) => "region pool: the amount is 5; [regions.pool] makes it 4";
        region_kept_over_a_restart: tables(|blob| blob.change::<Region>(REGIONS, |region| {
            let reset = region.clear_on_restart == 1;
            region.clear_on_restart = 0;
            reset
        })) => "the clearing at a restart is false;";
        queue_with_another_receiver_bit: tables(|blob| blob.change::<Queue>(QUEUES, |queue| {
            queue.receiver_bit = 40;
            true
        })) => "the receiver's bit is 40;";
        queue_over_another_region: tables(|blob| {
            let pool = blob.region("pool");
            blob.change::<Queue>(QUEUES, |queue| {
                queue.producer_region = pool;
                true
            });
        }) => "the producer's region is pool; [queues.nodes] makes it nodes.requests.producer";
        queue_deeper: tables(|blob| blob.change::<Queue>(QUEUES, |queue| {
            queue.depth = 16;
            true
        })) => "queue nodes.requests: the depth is 16;";
        priority_raised: tables(|blob| blob.change::<Service>(SERVICES, |service| {
            service.priority = 255;
            true
        })) => "service driver: the priority is 255; [services.driver] makes it 50";
        budget_raised: tables(|blob| blob.change::<Service>(SERVICES, |service| {
            service.budget_us = 9999;
            true
        })) => "service driver: the budget is 9999;";
        restarts_allowed: tables(|blob| blob.change::<Service>(SERVICES, |service| {
            service.restart_limit = 1;
            true
        })) => "service driver: the number of restarts is 1;";
        end_of_restarts_changed: tables(|blob| blob.change::<Service>(SERVICES, |service| {
            service.after_limit = AfterLimit::StopService;
            true
        })) => "the end of the restarts is stop-service;";
        stack_moved: tables(|blob| blob.change::<Service>(SERVICES, |service| {
            service.stack_top -= 16;
            true
        })) => "service driver: the end of the stack is";
        entry_elsewhere_in_the_text: tables(|blob| blob.change::<Service>(SERVICES, |service| {
            service.entry += 12;
            true
        })) => "driver: the entry point 0x100100c is not the runtime's";
        entry_in_constants: tables(|blob| blob.change::<Service>(SERVICES, |service| {
            service.entry = 0x0100_0000;
            true
        })) => "driver: the entry point 0x1000000 is in no executable segment";
        entry_in_another_service: tables(|blob| blob.change::<Service>(SERVICES, |service| {
            service.entry = 0x0200_1000;
            true
        })) => "driver: the entry point 0x2001000 is in no executable segment";
        segment_writable_and_executable: tables(|blob| {
            blob.record(SEGMENTS, Segment::SIZE, 1)[1] = 7;
        }) => "the kernel would refuse them: segment record 1 is out of range";
        constants_writable: tables(|blob| blob.change::<cloister_caps::tables::raw::Segment>(SEGMENTS, |segment| {
            segment.flags = 3;
            true
        })) => "driver: its segments are not constants, text and data, in this order";
        data_executable: tables(|blob| blob.change::<cloister_caps::tables::raw::Segment>(SEGMENTS, |segment| {
            let data = segment.flags == 3;
            (segment.flags, segment.memory_size) = (5, segment.file_size);
            data
        })) => "driver: the segment at 0x1003000 is R in the image";
        segment_of_another_program: tables(|blob| blob.change::<cloister_caps::tables::raw::Segment>(SEGMENTS, |segment| {
            let constants = segment.service == 1;
            segment.service = 0;
            constants
        })) => "driver: the segment at 0x2000000 is outside 0x1000000 to 0x1ffffff";
        segment_from_another_place: tables(|blob| {
            let other = Segment::decode(blob.record(SEGMENTS, Segment::SIZE, 4)).unwrap().image_address;
            blob.change::<cloister_caps::tables::raw::Segment>(SEGMENTS, |segment| {
                let text = segment.flags == 5;
                segment.image_address = other;
                text
            });
        }) => "the segment at 0x1001000 is linked at 0x2001000";
        segment_from_the_kernel: tables(|blob| blob.change::<cloister_caps::tables::raw::Segment>(SEGMENTS, |segment| {
            segment.image_address = 0x10_1000;
            true
        })) => "driver: nothing is loaded at physical 0x101000";
        segment_outside_the_image: tables(|blob| blob.change::<cloister_caps::tables::raw::Segment>(SEGMENTS, |segment| {
            segment.image_address = 0xF_F000;
            true
        })) => "segment record 0 is out of range";
        region_mapped_twice: tables(|blob| {
            let first = Mapping::decode(blob.record(MAPPINGS, Mapping::SIZE, 0)).unwrap();
            let mut seen = 0;
            blob.change::<Mapping>(MAPPINGS, |mapping| {
                seen += 1;
                (mapping.service, mapping.region, mapping.access) = (first.service, first.region, Access::Read);
                seen == 2
            });
        }) => "mapping record 1 is out of range";
        hash_of_another_policy: tables(|blob| {
            let at = blob.start + 20;
            blob.file[at] ^= 1;
        }) => "error: policy: the text's hash is";
        policy_text_changed: tables(|blob| blob.rewrite("depth = 8", "depth = 4"))
            => "queue nodes.requests: the depth is 8; [queues.nodes] makes it 4";
        policy_text_with_a_right_less: tables(|blob| blob.rewrite("\"open\", \"send\"", "\"open\"        "))
            => "capability port of driver: events: the rights is close open send;";
        policy_text_not_canonical: tables(|blob| blob.rewrite("priority = 50", "priority= 50 "))
            => "the embedded text is not in canonical form";
        policy_text_broken: tables(|blob| blob.rewrite("[services.driver]", "[services.driver "))
            => "the embedded policy does not hold: not TOML";
        something_behind_the_tables: tables(|blob| {
            let at = blob.start + blob.word(12);
            blob.file[at + 3] = 1;
        }) => "there is something after the tables";
        sections_apart: tables(|blob| {
            let at = blob.start + 48 + 7 * 8;
            let ports = blob.word(48 + 7 * 8);
            // The records of another section, read as if they were ports.
            blob.file[at..at + 4].copy_from_slice(&(ports as u32 - 15).to_le_bytes());
        }) => "error: tables:";
    }
}

/// Parts of the image at other places, with headers that say so.
mod of_segments {
    use super::*;

    mutations! {
        kernel_text_writable: header(2, 4, &[7]) => "the segment at 0xffffffff80101000 (physical 0x101000) is writable and executable";
        program_text_writable: header(header_at(0x0100_1000), 4, &[7]) => "is writable and executable";
        constants_executable: header(header_at(0x0100_0000), 4, &[5])
            => "driver: the segment at 0x1000000 is RX in the image";
        constants_loaded_writable: header(header_at(0x0100_0000), 4, &[6]) => "is writable in the image";
        segment_over_another: {
            let two = headers(&image()).1[header_at(0x0200_0000)].physical_address;
            header(header_at(0x0100_0000), 24, &two.to_le_bytes())
        } => "overlap";
        segment_in_the_kernels_half: header(header_at(0x0100_0000), 16, &0xFFFF_FFFF_9000_0000_u64.to_le_bytes())
            => "in the kernel's half";
        segment_beyond_a_gibibyte: header(header_at(0x0300_0000), 24, &0x4000_0000_u64.to_le_bytes())
            => "reaches beyond 1 GiB";
        entry_of_the_file: {
            let mut file = image();
            file[24..32].copy_from_slice(&0x10_0024_u64.to_le_bytes());
            file
        } => "the PVH entry point is 0x100020, that of the ELF header 0x100024";
        entry_of_the_note: {
            let mut file = image();
            let at = headers(&file).1[0].offset as usize + 16;
            file[at..at + 4].copy_from_slice(&0x10_3000_u32.to_le_bytes());
            file
        } => "the PVH entry point 0x103000 is not in the kernel's boot code";
        note_missing: header(0, 0, &[6]) => "there is no PVH entry note";
        interpreter_added: header(0, 0, &[3]) => "a program header of type 0x3";
        kernel_with_other_tables: {
            let mut file = image();
            let at = headers(&file).1[3].offset as usize;
            file[at] ^= 0x10;
            file
        } => "the kernel looks for its tables at";
        rules_changed: {
            let mut file = image();
            let at = offset_of(&file[..], b"\x02\0\0\x0D\x0C\0device/vif/0");
            file[at + 6 + 11] = b'1';
            file
        } => "store.rules: its bytes are not the rules of the policy";
        segment_that_nothing_names: {
            let mut file = image();
            // The driver's constants, now of the manager too, leave its own without a name.
            let start = offset_of(&file, b"CLOISTER");
            let mut blob = Blob { file: &mut file, start };
            blob.change::<cloister_caps::tables::raw::Segment>(SEGMENTS, |segment| {
                (segment.file_size, segment.memory_size, segment.image_address) = (0, 0, 0);
                true
            });
            file
        } => "the tables do not account for the segment at physical";
    }

    #[test]
    fn a_changed_byte_of_the_kernel_is_found_by_the_seal() {
        let mut file = image();
        let at = headers(&file).1[2].offset as usize;
        file[at] ^= 1;
        let verdict = verify(&file, &Against::default()).unwrap();
        assert_eq!(verdict.findings[0].about, "seal");
    }

    #[test]
    fn a_file_without_a_seal_is_refused() {
        let mut file = image();
        file[40..48].fill(0);
        file[60..64].fill(0);
        let Err(error) = verify(&file, &Against::default()) else { panic!("it is taken") };
        assert!(error.to_string().contains("has 0 section headers"), "{error}");
    }
}

/// The code of a program.
mod of_code {
    use super::*;

    mutations! {
        vmcall: text(&[0x0F, 0x01, 0xC1]) => "manager: the compiled code has `vmcall` at 0x2001100";
        vmmcall: text(&[0x0F, 0x01, 0xD9]) => "manager: the compiled code has `vmmcall` at 0x2001100";
        vmcall_within_an_instruction: text(&[0xB8, 0x0F, 0x01, 0xC1, 0x00])
            => "manager: a jump into the middle of an instruction would execute `vmcall` at 0x2001101";
        wrpkru_within_an_instruction: text(&[0xB8, 0x0F, 0x01, 0xEF, 0x00]) => "would execute `wrpkru` at 0x2001101";
        xrstor: text(&[0x0F, 0xAE, 0x28]) => "the compiled code has `xrstor`";
        second_system_call: text(&[0x0F, 0x05, 0x90]) => "manager: the compiled code has `syscall` at 0x2001100";
        second_stub: text(&[0x0F, 0x05, 0xC3]) => "manager: the text contains `syscall` in 2 places, the second at 0x2001100";
        software_interrupt: text(&[0xCD, 0x80]) => "the compiled code has `int` at";
        sysenter: text(&[0x0F, 0x34]) => "the compiled code has `sysenter` at";
        write_of_cr3: text(&[0x0F, 0x22, 0xD8]) => "the compiled code has `mov cr3` at";
        write_of_dr7: text(&[0x0F, 0x23, 0xF8]) => "the compiled code has `mov dr7` at";
        write_of_a_segment_register: text(&[0x8E, 0xD8]) => "the compiled code has `mov ds` at";
        wrmsr: text(&[0x0F, 0x30]) => "the compiled code has `wrmsr` at";
        lidt: text(&[0x0F, 0x01, 0x18]) => "the compiled code has `lidt` at";
        sgdt: text(&[0x0F, 0x01, 0x00]) => "the compiled code has `sgdt` at";
        output_to_a_port: text(&[0xE6, 0xE9]) => "the compiled code has `out` at";
        cli: text(&[0xFA]) => "the compiled code has `cli` at";
        hlt: text(&[0xF4]) => "the compiled code has `hlt` at";
        swapgs: text(&[0x0F, 0x01, 0xF8]) => "the compiled code has `swapgs` at";
        rdtsc: text(&[0x0F, 0x31]) => "the compiled code has `rdtsc` at";
        iretq: text(&[0x48, 0xCF]) => "the compiled code has `iretq` at";
        jump_out_of_the_program: text(&[0xE9, 0, 0, 0, 1]) => "goes to 0x3001105, outside the program's text";
        reference_out_of_the_program: text(&[0x8B, 0x05, 0, 0, 0, 1]) => "refers to 0x3001106, outside the program";
        address_of_the_kernel_in_an_instruction: text(&[0x48, 0xC7, 0xC0, 0x00, 0x10, 0x10, 0x80])
            => "names 0xffffffff80101000, an address of the kernel";
        address_of_the_kernel_in_data: changed(|elf| {
            elf.parts[0].bytes[0x10..0x18].copy_from_slice(&0xFFFF_FFFF_8010_1000_u64.to_le_bytes());
        }) => "a word at 0x2000010 is an address of the kernel";
        address_of_a_fixmap_page_in_data: changed(|elf| {
            elf.parts[0].bytes[0x10..0x18].copy_from_slice(&0xFFFF_FFFF_C01F_FFFF_u64.to_le_bytes());
        }) => "a word at 0x2000010 is an address of the kernel";
        start_that_is_not_the_runtimes: changed(|elf| elf.parts[1].bytes[0] = 0x33)
            => "manager: the entry point 0x2001000 is not the runtime's";
        segments_in_another_order: changed(|elf| {
            elf.parts.push(Part::new(4, 0x0200_6000, 0x0200_6000, &[1; 8]));
        }) => "manager: its segments are not constants, text and data, in this order";
    }

    /// Tables of bytes and numbers may look like upper addresses at which the kernel has nothing.
    #[test]
    fn words_beside_the_kernels_addresses_are_not_its() {
        for word in [0xFFFF_8000_0000_0000_u64, 0xFFFF_FFFF_7FFF_FFFF, 0xFFFF_FFFF_C020_0000, u64::MAX] {
            let image = changed(|elf| elf.parts[0].bytes[0x10..0x18].copy_from_slice(&word.to_le_bytes()));
            let verdict = verify(&image, &Against::default()).unwrap();
            assert!(verdict.holds(), "{word:#x}: {}", verdict.text());
        }
    }

    #[test]
    fn a_useless_instruction_inside_another_is_a_notice() {
        let verdict = verify(&text(&[0xB8, 0x0F, 0x05, 0xFA, 0x00]), &Against::default()).unwrap();
        assert!(verdict.holds(), "{}", verdict.text());
        let own = verdict.hits.iter().filter(|hit| (0x0200_1100..0x0200_1105).contains(&hit.address));
        let found: Vec<&str> = own.map(|hit| hit.mnemonic.as_str()).collect();
        assert_eq!(found, ["syscall", "cli"]);
        assert!(
            verdict
                .text()
                .contains("manager: in the middle of instructions, useless in ring 3: cli 1, in 1, syscall 1")
        );
    }

    #[test]
    fn only_a_finding_at_its_address_can_be_accepted() {
        let file = text(&[0xB8, 0x0F, 0x01, 0xC1, 0x00]);
        let accept = ["manager@0x2001101=vmcall".to_owned()];
        let verdict = verify(&file, &Against { accept: &accept, ..Against::default() }).unwrap();
        assert!(verdict.holds() && verdict.text().contains("accepted: manager@0x2001101=vmcall"));
        let accept = ["manager@0x2001102=vmcall".to_owned()];
        let error = verify(&file, &Against { accept: &accept, ..Against::default() }).err().unwrap();
        assert!(error.to_string().contains("nothing was found at manager@0x2001102=vmcall"));
    }
}

#[test]
fn a_segment_register_can_be_neither_read_nor_written() {
    for (bytes, what) in [
        (&[0x8C, 0xD8][..], "mov ds"),
        (&[0x66, 0x8C, 0xE0], "mov fs"),
        (&[0x0F, 0xA0], "push fs"),
        (&[0x8C, 0x18], "mov ds"),
        (&[0x8E, 0xD8], "mov ds"),
        (&[0x0F, 0xA1], "pop fs"),
    ] {
        is_found(text(bytes), what);
    }
}
