//! The numbers and structures of the kernel's hypercalls are those of Xen's headers.
//!
//! The kernel is no library, so its source is read. There, the comment of a number begins with
//! Xen's name of it, and that of a structure with `struct` and Xen's name.

use crate::header::Header;

const SOURCES: [&str; 2] = [
    include_str!("../../../../kernel/image/src/hypercall.rs"),
    include_str!("../../../../kernel/image/src/back_end.rs"),
];

fn headers() -> Header {
    Header::read(&[
        "arch-x86/xen.h",
        "xen.h",
        "version.h",
        "memory.h",
        "grant_table.h",
        "sched.h",
        "event_channel.h",
        "hvm/hvm_op.h",
        "hvm/params.h",
    ])
}

/// Returns the first word in backticks of a comment.
fn named(comment: &str) -> Option<&str> {
    Some(comment.trim().strip_prefix("/// `")?.split_once('`')?.0)
}

/// Returns the numbers of a source, each with Xen's name.
fn numbers(source: &str) -> Vec<(&str, i64)> {
    let mut found = Vec::new();
    for (line, next) in source.lines().zip(source.lines().skip(1)) {
        let value = |line: &str| line.rsplit_once(" = ")?.1.trim_end_matches([',', ';']).parse().ok();
        if let (Some(name), Some(value)) = (named(line), value(next)) {
            found.push((name, value));
        }
        // The two constants of an operation: its number, then its name.
        if let (Some(value), Some((_, name))) = (value(line), next.split_once("const NAME: &'static str = \"")) {
            found.push((name.trim_end_matches("\";"), value));
        }
        // The same of an operation that the macro defines.
        if let Some(rest) = line.strip_prefix("hypercall!(unsafe ") {
            let parts: Vec<_> = rest.split(", ").collect();
            if let Ok(value) = parts[2].parse() {
                found.push((parts[3].trim_start_matches('"').split('"').next().unwrap_or_default(), value));
            }
        }
    }
    found
}

/// A structure of the kernel.
struct Structure<'a> {
    /// Xen's name of it.
    name: &'a str,
    /// The fields with their offsets in bytes.
    fields: Vec<(&'a str, usize)>,
    /// The size in bytes.
    size: usize,
}

/// Returns the structures of a source. Only `ref` has another name in the kernel, because it is a
/// keyword.
fn structures(source: &str) -> Vec<Structure<'_>> {
    let mut found = Vec::new();
    for part in source.split("/// `struct ").skip(1) {
        let Some((name, rest)) = part.split_once('`') else { continue };
        let Some((attributes, rest)) = rest.split_once("struct ") else { continue };
        if !attributes.contains("#[repr(C)]") {
            continue;
        }
        let body = rest.split_once(" {\n").and_then(|(_, rest)| rest.split_once("\n}"));
        let (mut fields, mut end, mut most) = (Vec::new(), 0_usize, 1);
        for line in body.expect("a body").0.lines().filter(|line| !line.trim().starts_with("//")) {
            let (field, kind) = line.trim().trim_end_matches(',').split_once(": ").expect("a field");
            let size = match kind {
                "u16" | "i16" => 2,
                "u32" => 4,
                "u64" => 8,
                kind if kind.starts_with("*mut ") => 8,
                kind if kind.starts_with("PhantomData<") => continue,
                kind => panic!("{name}.{field}: {kind}"),
            };
            end = end.next_multiple_of(size);
            fields.push((if field == "reference" { "ref" } else { field }, end));
            end += size;
            most = most.max(size);
        }
        found.push(Structure { name, fields, size: end.next_multiple_of(most) });
    }
    found
}

#[test]
fn the_numbers_of_the_hypercalls_match_the_headers() {
    let numbers: Vec<_> = SOURCES.into_iter().flat_map(numbers).collect();
    headers().holds(&numbers);
    // The seven hypercalls, their operations, and the values that these take.
    for name in [
        "__HYPERVISOR_memory_op",
        "__HYPERVISOR_set_timer_op",
        "__HYPERVISOR_xen_version",
        "__HYPERVISOR_grant_table_op",
        "__HYPERVISOR_sched_op",
        "__HYPERVISOR_event_channel_op",
        "__HYPERVISOR_hvm_op",
        "XENVER_version",
        "XENVER_get_features",
        "HVMOP_set_param",
        "HVMOP_get_param",
        "HVM_PARAM_CALLBACK_IRQ",
        "HVM_PARAM_CALLBACK_TYPE_VECTOR",
        "HVM_PARAM_STORE_PFN",
        "HVM_PARAM_STORE_EVTCHN",
        "HVM_PARAM_CONSOLE_PFN",
        "HVM_PARAM_CONSOLE_EVTCHN",
        "XENMEM_add_to_physmap",
        "XENMAPSPACE_shared_info",
        "XENMAPSPACE_grant_table",
        "XENMAPSPACE_gmfn",
        "XENMEM_memory_map",
        "GNTTABOP_query_size",
        "GNTTABOP_map_grant_ref",
        "GNTTABOP_unmap_grant_ref",
        "SCHEDOP_yield",
        "SCHEDOP_shutdown",
        "SHUTDOWN_poweroff",
        "SHUTDOWN_reboot",
        "SHUTDOWN_crash",
        "EVTCHNOP_alloc_unbound",
        "EVTCHNOP_bind_virq",
        "EVTCHNOP_bind_interdomain",
        "EVTCHNOP_close",
        "EVTCHNOP_send",
        "EVTCHNOP_unmask",
        "VIRQ_TIMER",
    ] {
        assert!(numbers.iter().any(|number| number.0 == name), "{name} was not found in the source");
    }
}

#[test]
fn the_structures_of_the_hypercalls_match_the_headers() {
    let headers = headers();
    let structures: Vec<_> = SOURCES.into_iter().flat_map(structures).collect();
    for Structure { name, fields: ours, size } in &structures {
        let theirs = headers.structure(name);
        for (field, offset) in ours {
            match theirs.offset(field) {
                None => assert!(field.starts_with("pad"), "{name} has no {field}"),
                found => assert_eq!(found, Some(*offset), "{name}.{field}"),
            }
        }
        for (field, _) in &theirs.fields {
            assert!(ours.iter().any(|ours| ours.0 == field), "{name}.{field} is missing");
        }
        assert_eq!(theirs.size, *size, "{name}");
    }
    assert_eq!(structures.len(), 11);
}
