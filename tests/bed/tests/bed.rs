//! Tests the promises of the bed: its errors say what happened, and it leaves no process or file.
#![forbid(unsafe_code)]

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use cloister_bed::{Bed, BedError, Config, Guest};

const LIMIT: Duration = Duration::from_secs(30);

fn start(name: &str) -> Bed {
    Bed::start(&Config::new(name), &mut |_| {}).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn commands_in_dom0_give_output_and_status_side_by_side() {
    let bed = start("commands");
    let output = bed.dom0("echo out; echo err >&2; exit 7", LIMIT).expect("dom0 answers");
    assert_eq!((output.status, output.stdout.as_str()), (7, "out\nerr\n"));
    // Each waits for the other, which would never end if they ran one after the other.
    std::thread::scope(|scope| {
        for (own, others) in [("/tmp/one", "/tmp/two"), ("/tmp/two", "/tmp/one")] {
            let command = format!("touch {own}; until [ -e {others} ]; do usleep 50000; done");
            let bed = &bed;
            scope.spawn(move || assert!(bed.dom0(&command, LIMIT).expect("dom0 answers").success()));
        }
    });
    let late = bed.dom0("sleep 60", Duration::from_secs(1)).expect("dom0 answers");
    assert!(!late.success(), "a command over its limit is ended");
}

#[test]
fn a_guest_that_xl_refuses_is_an_error_with_xls_words() {
    let bed = start("refused");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), "no ELF file").expect("write");
    match bed.create(&Guest::new(file.path()), &mut |_| {}) {
        Err(BedError::InDom0 { status, output, .. }) => {
            assert_ne!(status, 0);
            assert!(output.contains("libxl"), "{output}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_end_of_dom0_is_noticed() {
    let bed = start("dom0-ends");
    let error = bed.dom0("echo c > /proc/sysrq-trigger; sleep 20", LIMIT).expect_err("dom0 is dead");
    assert!(matches!(error, BedError::Died { .. } | BedError::QemuEnded { .. }), "{error:?}");
    assert!(error.to_string().contains("xen.log"), "{error}");
}

#[test]
fn the_port_is_free_again_when_a_bed_is_dropped() {
    let bed = start("dropped");
    let port = bed.port();
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err(), "the bed holds it");
    drop(bed);
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("free again");
}
