//! The numbers and layouts of `cloister_caps::xen` are those of Xen's own headers, read here from
//! the distribution's package.
#![forbid(unsafe_code)]

mod header;
mod kernel;

use std::mem::offset_of;

use cloister_caps::PAGE_SIZE;
use cloister_caps::xen::xenbus::XenbusState;
use cloister_caps::xen::xs_wire::MessageType;
use cloister_caps::xen::{console, elfnote, event, grant, netif, ring, start_info, xs_wire};
use header::Header;

#[test]
fn netif_matches_the_header() {
    let header = Header::read(&["io/netif.h"]);
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
    use netif::{ExtraGso, RxRequest, RxResponse, TxRequest, TxResponse};
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
    header.lays_out(
        "netif_extra_info",
        &[
            ("type", offset_of!(ExtraGso, kind)),
            ("flags", offset_of!(ExtraGso, flags)),
            ("u.gso.size", offset_of!(ExtraGso, size)),
            ("u.gso.type", offset_of!(ExtraGso, protocol)),
            ("u.gso.features", offset_of!(ExtraGso, features)),
        ],
    );
    for (structure, size) in [
        ("netif_extra_info", size_of::<ExtraGso>()),
        ("netif_tx_request", size_of::<TxRequest>()),
        ("netif_tx_response", size_of::<TxResponse>()),
        ("netif_rx_request", size_of::<RxRequest>()),
        ("netif_rx_response", size_of::<RxResponse>()),
    ] {
        assert_eq!(header.structure(structure).size, size, "{structure}");
    }
}

#[test]
fn the_ring_matches_the_header() {
    let header = Header::read(&["io/ring.h"]);
    let first = header.structure("__name##_sring").offset("ring");
    header.lays_out(
        "__name##_sring",
        &[
            ("req_prod", ring::REQ_PROD),
            ("req_event", ring::REQ_EVENT),
            ("rsp_prod", ring::RSP_PROD),
            ("rsp_event", ring::RSP_EVENT),
            ("ring", ring::FIRST_SLOT),
        ],
    );
    // `__CONST_RING_SIZE`: as many entries as fit, rounded down to a power of two. An entry is the
    // union of a request and a response.
    let netif = Header::read(&["io/netif.h"]);
    for (request, response, ours) in [
        ("netif_tx_request", "netif_tx_response", netif::TX_SLOTS),
        ("netif_rx_request", "netif_rx_response", netif::RX_SLOTS),
    ] {
        let entry = netif.structure(request).size.max(netif.structure(response).size);
        let fitting = (PAGE_SIZE - first.expect("the offset of the slots")) / entry;
        assert_eq!(1 << fitting.ilog2(), ours, "{request}");
    }
}

#[test]
fn the_console_ring_matches_the_header() {
    use console::Interface;
    let header = Header::read(&["io/console.h"]);
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
    let header = Header::read(&["arch-x86/hvm/start_info.h"]);
    header.holds(&[
        ("XEN_HVM_START_MAGIC_VALUE", start_info::MAGIC.into()),
        ("XEN_HVM_MEMMAP_TYPE_RAM", start_info::MEMMAP_TYPE_RAM.into()),
    ]);
    Header::read(&["xen.h"]).holds(&[("SIF_INITDOMAIN", start_info::INIT_DOMAIN.into())]);
    Header::read(&["elfnote.h"]).holds(&[("XEN_ELFNOTE_PHYS32_ENTRY", elfnote::PHYS32_ENTRY.into())]);
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
        assert_eq!(header.structure(structure).size, size, "{structure}");
    }
}

#[test]
fn the_grant_table_matches_the_header() {
    let header = Header::read(&["grant_table.h"]);
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
    assert_eq!(header.structure("grant_entry_v1").size, size_of::<Entry>());
}

#[test]
fn xenbus_states_match_the_header() {
    let header = Header::read(&["io/xenbus.h"]);
    for state in XenbusState::ALL {
        header.holds(&[(&format!("XenbusState{state:?}"), state as i64)]);
        assert_eq!(state.digit(), (state as u8).to_string());
    }
}

#[test]
fn the_xenstore_ring_matches_the_header() {
    let header = Header::read(&["io/xs_wire.h"]);
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
    assert_eq!(header.structure("xsd_sockmsg").size, size_of::<xs_wire::Header>());
}

#[test]
fn the_shared_info_matches_the_headers() {
    use event::{SharedInfo, TimeInfo, VcpuInfo};
    let header = Header::read(&["arch-x86/xen.h", "arch-x86/xen-x86_64.h", "xen.h", "event_channel.h"]);
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
    header.lays_out(
        "vcpu_info",
        &[
            ("evtchn_upcall_pending", offset_of!(VcpuInfo, upcall_pending)),
            ("evtchn_pending_sel", offset_of!(VcpuInfo, pending_selector)),
            ("time", offset_of!(VcpuInfo, time)),
        ],
    );
    assert_eq!(header.structure("vcpu_time_info").size, size_of::<TimeInfo>());
    assert_eq!(header.structure("vcpu_info").size, size_of::<VcpuInfo>());
    header.lays_out(
        "shared_info",
        &[
            ("vcpu_info", offset_of!(SharedInfo, vcpu_info)),
            ("evtchn_pending", offset_of!(SharedInfo, pending)),
            ("evtchn_mask", offset_of!(SharedInfo, mask)),
            ("wc_version", offset_of!(SharedInfo, wc_version)),
            ("wc_sec", offset_of!(SharedInfo, wc_sec)),
            ("wc_nsec", offset_of!(SharedInfo, wc_nsec)),
            ("wc_sec_hi", offset_of!(SharedInfo, wc_sec_hi)),
            // The end of what we describe.
            ("arch", size_of::<SharedInfo>()),
        ],
    );
    header.holds(&[("EVTCHN_2L_NR_CHANNELS", event::PORTS as i64)]);
}
