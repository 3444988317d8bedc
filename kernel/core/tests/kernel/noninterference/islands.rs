//! A policy of two islands: each has one of everything, and no way to the other.
//!
//! The random policies have one service that issues grants and one that pins domains, so of these
//! objects nothing can be seen there by a stranger. Here one island must not notice what the other
//! shares with its domain, which domain it pins, or what is left when its services stop.

use std::fmt::Write;

use cloister_caps::tables::Tables;

use crate::machine::tables;

/// Returns the policy. Each service restarts `limit` times, and then stops.
pub fn islands(limit: u16) -> Tables<'static> {
    let mut text = String::from("format = 2\nimage = { name = \"islands\" }\n");
    for island in 0..2 {
        for service in ["manager", "store", "driver"] {
            let _ = write!(
                text,
                "[services.{service}-{island}]\nprogram = \"p\"\npriority = 1\nstack = \"4K\"\n\
                 cpu = {{ budget_us = 100, period_us = 1000 }}\n\
                 console = [\"write\"]\nclock = [\"wall\"]\nentropy = [\"draw\"]\ninfo = [\"read\"]\n\
                 restart = {{ limit = {limit}, then = \"stop-service\" }}\n"
            );
        }
        let _ = write!(
            text,
            "[domains.peer-{island}]\nids = \"1-2\"\n\
             pin = {{ by = \"store-{island}\", node = \"device/vif/{island}/backend-id\" }}\n\
             [queues.to-manager-{island}]\nfrom = \"driver-{island}\"\nto = \"manager-{island}\"\n\
             interface = \"grants\"\ndepth = 4\n\
             [queues.to-store-{island}]\nfrom = \"driver-{island}\"\nto = \"store-{island}\"\n\
             interface = \"store\"\ndepth = 4\n\
             [xenstore.driver-{island}]\n\"device/vif/{island}/backend-id\" = [\"read\"]\n\
             [regions.pages-{island}]\npages = 3\nmap = {{ driver-{island} = \"read-write\" }}\n\
             [grants.pages-of-{island}]\nregion = \"pages-{island}\"\npeer = \"peer-{island}\"\n\
             access = \"read-write\"\npages = 3\nlifetime = \"session\"\n\
             held-by = \"manager-{island}\"\non-behalf-of = \"driver-{island}\"\n\
             [ports.events-{island}]\nservice = \"driver-{island}\"\npeer = \"peer-{island}\"\n\
             rights = [\"open\", \"send\", \"close\"]\n"
        );
    }
    tables(&text)
}
