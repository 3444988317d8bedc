//! The numbers and layouts of `cloister_caps::xen` are those of Xen's own headers, read here from
//! the distribution's package.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::PathBuf;
use std::sync::LazyLock;

use cloister_bed::{bed_dir, boot_files};
use cloister_caps::xen::xenbus::XenbusState;
use cloister_caps::xen::xs_wire::MessageType;
use cloister_caps::xen::{console, elfnote, event, grant, netif, ring, start_info, xs_wire};

/// The folder of Xen's public headers.
static HEADERS: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = boot_files::unpacked("libxen-dev", &bed_dir().join("cache"));
    folder.unwrap_or_else(|error| panic!("{error}")).join("usr/include/xen")
});

/// A header without its comments: its definitions, and its text.
struct Header {
    text: String,
    values: BTreeMap<String, i64>,
}

/// Removes C's comments.
fn without_comments(text: &str) -> String {
    let mut parts = text.split("/*");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + " " + part.split_once("*/").map_or("", |(_, code)| code))
}

impl Header {
    fn read(name: &str) -> Header {
        let path = HEADERS.join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut header = Header { text: without_comments(&text), values: BTreeMap::new() };
        let text = header.text.clone();
        for line in text.lines() {
            if let Some((name, value)) = line.strip_prefix("#define").and_then(|rest| rest.trim().split_once(' '))
                && let Some(value) = header.value(value)
            {
                header.values.insert(name.to_owned(), value);
            }
        }
        for body in text.split("enum ").skip(1).filter_map(|rest| rest.split_once('{')?.1.split_once('}')) {
            header.enumerate(body.0);
        }
        header
    }

    fn enumerate(&mut self, body: &str) {
        let mut next = 0;
        for entry in body.lines().filter(|line| !line.starts_with('#')).collect::<String>().split(',') {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            next = self.value(value).unwrap_or(next);
            self.values.insert(name.trim().to_owned(), next);
            next += 1;
        }
    }

    /// Returns the value of an expression of numbers, known names, sums, shifts and brackets.
    fn value(&self, text: &str) -> Option<i64> {
        let text = text.trim().trim_end_matches('U');
        if let Some(inner) = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
            return self.value(inner);
        }
        if let Some((left, right)) = text.split_once('+') {
            return Some(self.value(left)? + self.value(right)?);
        }
        if let Some((left, right)) = text.split_once("<<") {
            return Some(self.value(left)? << self.value(right)?);
        }
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            return i64::from_str_radix(digits, 16).ok();
        }
        text.parse().ok().or_else(|| self.values.get(text).copied())
    }

    /// Returns the fields of a structure, in order, each with its offset in bytes, and the end of
    /// the last.
    fn fields(&self, structure: &str) -> (Vec<(String, usize)>, usize) {
        let head = format!("struct {structure}");
        let mut bodies = self.text.split(&head).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('{'));
        let body = bodies.next().unwrap_or_else(|| panic!("there is no {structure}")).replace('\\', " ");
        let (mut fields, mut end) = (Vec::new(), 0usize);
        for declaration in body.split(';') {
            let words = declaration.trim();
            let Some((kind, names)) = words.split_once(char::is_whitespace) else { break };
            let size = match kind {
                "char" | "uint8_t" | "int8_t" => 1,
                "uint16_t" | "int16_t" | "domid_t" => 2,
                "uint32_t" | "grant_ref_t" | "RING_IDX" | "XENSTORE_RING_IDX" | "XENCONS_RING_IDX" => 4,
                "uint64_t" => 8,
                // The comparison ends at a nested type.
                _ => break,
            };
            for name in names.split(',') {
                let (name, count) = match name.trim().split_once('[') {
                    Some((name, count)) => (name, self.value(count.trim_end_matches(']')).unwrap() as usize),
                    None => (name.trim(), 1),
                };
                end = end.next_multiple_of(size);
                fields.push((name.to_owned(), end));
                end += size * count;
            }
        }
        (fields, end)
    }

    /// Asserts that each name has this value in the header.
    fn holds(&self, values: &[(&str, i64)]) {
        for (name, ours) in values {
            assert_eq!(self.values.get(*name), Some(ours), "{name}");
        }
    }

    /// Asserts that a structure's first fields are these, at these offsets.
    fn lays_out(&self, structure: &str, ours: &[(&str, usize)]) {
        let (theirs, _) = self.fields(structure);
        for (name, offset) in ours {
            let field = theirs.iter().find(|field| field.0 == *name);
            assert_eq!(field.map(|field| field.1), Some(*offset), "{structure}.{name}");
        }
    }
}

#[test]
fn netif_matches_the_header() {
    let header = Header::read("io/netif.h");
    header.holds(&[
        ("NETTXF_csum_blank", netif::tx_flag::CSUM_BLANK.into()),
        ("NETTXF_data_validated", netif::tx_flag::DATA_VALIDATED.into()),
        ("NETTXF_more_data", netif::tx_flag::MORE_DATA.into()),
        ("NETTXF_extra_info", netif::tx_flag::EXTRA_INFO.into()),
        ("NETRXF_data_validated", netif::rx_flag::DATA_VALIDATED.into()),
        ("NETRXF_csum_blank", netif::rx_flag::CSUM_BLANK.into()),
        ("NETRXF_more_data", netif::rx_flag::MORE_DATA.into()),
        ("NETRXF_extra_info", netif::rx_flag::EXTRA_INFO.into()),
        ("NETRXF_gso_prefix", netif::rx_flag::GSO_PREFIX.into()),
        ("NETIF_RSP_DROPPED", netif::status::DROPPED.into()),
        ("NETIF_RSP_ERROR", netif::status::ERROR.into()),
        ("NETIF_RSP_OKAY", netif::status::OKAY.into()),
        ("NETIF_RSP_NULL", netif::status::NULL.into()),
        ("XEN_NETIF_EXTRA_TYPE_GSO", netif::EXTRA_TYPE_GSO.into()),
        ("XEN_NETIF_EXTRA_FLAG_MORE", netif::EXTRA_FLAG_MORE.into()),
        ("XEN_NETIF_GSO_TYPE_TCPV4", netif::GSO_TYPE_TCPV4.into()),
        ("XEN_NETIF_NR_SLOTS_MIN", netif::NR_SLOTS_MIN as i64),
        ("XEN_NETIF_MAX_TX_SIZE", netif::MAX_TX_SIZE as i64),
    ]);
    use netif::{RxRequest, RxResponse, TxRequest, TxResponse};
    header.lays_out(
        "netif_tx_request",
        &[
            ("gref", offset_of!(TxRequest, gref)),
            ("offset", offset_of!(TxRequest, offset)),
            ("flags", offset_of!(TxRequest, flags)),
            ("id", offset_of!(TxRequest, id)),
            ("size", offset_of!(TxRequest, size)),
        ],
    );
    header.lays_out(
        "netif_tx_response",
        &[("id", offset_of!(TxResponse, id)), ("status", offset_of!(TxResponse, status))],
    );
    header.lays_out("netif_rx_request", &[("id", offset_of!(RxRequest, id)), ("gref", offset_of!(RxRequest, gref))]);
    header.lays_out(
        "netif_rx_response",
        &[
            ("id", offset_of!(RxResponse, id)),
            ("offset", offset_of!(RxResponse, offset)),
            ("flags", offset_of!(RxResponse, flags)),
            ("status", offset_of!(RxResponse, status)),
        ],
    );
    for (structure, size) in [
        ("netif_tx_request", size_of::<TxRequest>()),
        ("netif_tx_response", size_of::<TxResponse>()),
        ("netif_rx_request", size_of::<RxRequest>()),
        ("netif_rx_response", size_of::<RxResponse>()),
    ] {
        assert_eq!(header.fields(structure).1, size, "{structure}");
    }
}

#[test]
fn the_ring_matches_the_header() {
    Header::read("io/ring.h").lays_out(
        "__name##_sring",
        &[
            ("req_prod", ring::REQ_PROD),
            ("req_event", ring::REQ_EVENT),
            ("rsp_prod", ring::RSP_PROD),
            ("rsp_event", ring::RSP_EVENT),
        ],
    );
    assert_eq!((netif::TX_SLOTS, netif::RX_SLOTS), (256, 256));
}

#[test]
fn the_console_ring_matches_the_header() {
    use console::Interface;
    let header = Header::read("io/console.h");
    header.lays_out(
        "xencons_interface",
        &[
            ("in", offset_of!(Interface, input)),
            ("out", offset_of!(Interface, output)),
            ("in_cons", offset_of!(Interface, in_cons)),
            ("in_prod", offset_of!(Interface, in_prod)),
            ("out_cons", offset_of!(Interface, out_cons)),
            ("out_prod", offset_of!(Interface, out_prod)),
        ],
    );
    assert_eq!(offset_of!(Interface, in_cons) - offset_of!(Interface, output), console::OUT_SIZE as usize);
}

#[test]
fn the_start_of_a_pvh_guest_matches_the_headers() {
    let header = Header::read("arch-x86/hvm/start_info.h");
    header.holds(&[
        ("XEN_HVM_START_MAGIC_VALUE", start_info::MAGIC.into()),
        ("XEN_HVM_MEMMAP_TYPE_RAM", start_info::MEMMAP_TYPE_RAM.into()),
    ]);
    Header::read("xen.h").holds(&[("SIF_INITDOMAIN", start_info::INIT_DOMAIN.into())]);
    Header::read("elfnote.h").holds(&[("XEN_ELFNOTE_PHYS32_ENTRY", elfnote::PHYS32_ENTRY.into())]);
    use start_info::{MemmapEntry, Module, StartInfo};
    header.lays_out(
        "hvm_start_info",
        &[
            ("magic", offset_of!(StartInfo, magic)),
            ("version", offset_of!(StartInfo, version)),
            ("flags", offset_of!(StartInfo, flags)),
            ("nr_modules", offset_of!(StartInfo, nr_modules)),
            ("modlist_paddr", offset_of!(StartInfo, modlist_paddr)),
            ("cmdline_paddr", offset_of!(StartInfo, cmdline_paddr)),
            ("rsdp_paddr", offset_of!(StartInfo, rsdp_paddr)),
            ("memmap_paddr", offset_of!(StartInfo, memmap_paddr)),
            ("memmap_entries", offset_of!(StartInfo, memmap_entries)),
        ],
    );
    header.lays_out("hvm_modlist_entry", &[("paddr", offset_of!(Module, paddr)), ("size", offset_of!(Module, size))]);
    header.lays_out(
        "hvm_memmap_table_entry",
        &[
            ("addr", offset_of!(MemmapEntry, addr)),
            ("size", offset_of!(MemmapEntry, size)),
            ("type", offset_of!(MemmapEntry, kind)),
        ],
    );
    for (structure, size) in [
        ("hvm_start_info", size_of::<StartInfo>()),
        ("hvm_modlist_entry", size_of::<Module>()),
        ("hvm_memmap_table_entry", size_of::<MemmapEntry>()),
    ] {
        assert_eq!(header.fields(structure).1, size, "{structure}");
    }
}

#[test]
fn the_grant_table_matches_the_header() {
    let header = Header::read("grant_table.h");
    header.holds(&[
        ("GTF_permit_access", grant::PERMIT_ACCESS.into()),
        ("GTF_readonly", grant::READONLY.into()),
        ("GTF_reading", grant::READING.into()),
        ("GTF_writing", grant::WRITING.into()),
        ("GNTMAP_host_map", grant::map_flag::HOST_MAP.into()),
        ("GNTMAP_readonly", grant::map_flag::READONLY.into()),
    ]);
    use grant::Entry;
    let entry =
        [("flags", offset_of!(Entry, flags)), ("domid", offset_of!(Entry, domid)), ("frame", offset_of!(Entry, frame))];
    header.lays_out("grant_entry_v1", &entry);
    assert_eq!(header.fields("grant_entry_v1").1, size_of::<Entry>());
}

#[test]
fn xenbus_states_match_the_header() {
    let header = Header::read("io/xenbus.h");
    for state in XenbusState::ALL {
        header.holds(&[(&format!("XenbusState{state:?}"), state as i64)]);
        assert_eq!(state.digit(), (state as u8).to_string());
    }
}

#[test]
fn the_xenstore_ring_matches_the_header() {
    let header = Header::read("io/xs_wire.h");
    header.holds(&[
        ("XENSTORE_RING_SIZE", xs_wire::RING_SIZE as i64),
        ("XENSTORE_PAYLOAD_MAX", xs_wire::PAYLOAD_MAX.into()),
        ("XENSTORE_SERVER_FEATURE_RECONNECTION", xs_wire::SERVER_FEATURE_RECONNECTION.into()),
        ("XENSTORE_CONNECTED", xs_wire::CONNECTED.into()),
        ("XENSTORE_RECONNECT", xs_wire::RECONNECT.into()),
        ("XS_DIRECTORY", MessageType::Directory as i64),
        ("XS_READ", MessageType::Read as i64),
        ("XS_WATCH", MessageType::Watch as i64),
        ("XS_UNWATCH", MessageType::Unwatch as i64),
        ("XS_TRANSACTION_START", MessageType::TransactionStart as i64),
        ("XS_TRANSACTION_END", MessageType::TransactionEnd as i64),
        ("XS_WRITE", MessageType::Write as i64),
        ("XS_RM", MessageType::Rm as i64),
        ("XS_WATCH_EVENT", MessageType::WatchEvent as i64),
        ("XS_ERROR", MessageType::Error as i64),
        ("XS_RESET_WATCHES", MessageType::ResetWatches as i64),
    ]);
    header.lays_out(
        "xenstore_domain_interface",
        &[
            ("req", xs_wire::REQ),
            ("rsp", xs_wire::RSP),
            ("req_cons", xs_wire::REQ_CONS),
            ("req_prod", xs_wire::REQ_PROD),
            ("rsp_cons", xs_wire::RSP_CONS),
            ("rsp_prod", xs_wire::RSP_PROD),
            ("server_features", xs_wire::SERVER_FEATURES),
            ("connection", xs_wire::CONNECTION),
        ],
    );
    let message = [
        ("type", offset_of!(xs_wire::Header, kind)),
        ("req_id", offset_of!(xs_wire::Header, req_id)),
        ("tx_id", offset_of!(xs_wire::Header, tx_id)),
        ("len", offset_of!(xs_wire::Header, len)),
    ];
    header.lays_out("xsd_sockmsg", &message);
    assert_eq!(header.fields("xsd_sockmsg").1, size_of::<xs_wire::Header>());
}

#[test]
fn shared_info_time_matches_the_header() {
    use event::TimeInfo;
    let header = Header::read("xen.h");
    header.lays_out(
        "vcpu_time_info",
        &[
            ("version", offset_of!(TimeInfo, version)),
            ("tsc_timestamp", offset_of!(TimeInfo, tsc_timestamp)),
            ("system_time", offset_of!(TimeInfo, system_time)),
            ("tsc_to_system_mul", offset_of!(TimeInfo, tsc_to_system_mul)),
            ("tsc_shift", offset_of!(TimeInfo, tsc_shift)),
        ],
    );
    assert_eq!(event::PORTS, size_of::<u64>() * size_of::<u64>() * 64, "EVTCHN_2L_NR_CHANNELS");
}
