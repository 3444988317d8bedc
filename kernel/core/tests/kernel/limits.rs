//! Tests what the kernel says when Xen has too little of something for the policy.

use cloister_caps::tables::Tables;
use cloister_kernel_core::{event_channels, grant_frames};

use crate::machine::{shipped, tables};

/// Returns a policy that grants `pages` pages, and has no port.
fn granting(pages: u32) -> Tables<'static> {
    let service = |name: &str| {
        format!(
            "[services.{name}]\nprogram = \"p\"\npriority = 1\nstack = \"4K\"\n\
             cpu = {{ budget_us = 100, period_us = 1000 }}\nrestart = {{ limit = 0, then = \"stop-image\" }}\n"
        )
    };
    tables(&format!(
        "format = 2\nimage = {{ name = \"granting\" }}\n{}{}[domains.d]\nids = \"0\"\n\
         [queues.q]\nfrom = \"client\"\nto = \"manager\"\ninterface = \"grants\"\ndepth = 4\n\
         [regions.r]\npages = {pages}\nmap = {{ client = \"read-write\" }}\n\
         [grants.g]\nregion = \"r\"\npeer = \"d\"\naccess = \"read\"\npages = {pages}\nlifetime = \"session\"\n\
         held-by = \"manager\"\non-behalf-of = \"client\"\n",
        service("client"),
        service("manager")
    ))
}

/// A frame has 512 entries (`grant_entry_v1`), of which Xen reserves the first eight.
#[test]
fn grant_rules_need_the_frames_with_their_entries() {
    let needed = |pages| grant_frames::needed(&granting(pages));
    assert_eq!([1, 504, 505, 1016, 1017].map(needed), [1, 1, 2, 2, 3]);
    assert_eq!(grant_frames::check(2, 2), Ok(()));
    assert_eq!(grant_frames::check(2, 3), Ok(()));
    let text = grant_frames::check(3, 2).unwrap_err().to_string();
    assert!(text.contains("needs 3 grant frames, Xen offers 2; raise max_grant_frames"), "{text}");
}

/// Those of XenStore, the console and the timer, and one for each port to a domain.
#[test]
fn each_port_to_a_domain_needs_an_event_channel() {
    assert_eq!(event_channels::needed(&granting(1)), 3);
    assert_eq!(event_channels::needed(&tables(&shipped())), 5);
}
