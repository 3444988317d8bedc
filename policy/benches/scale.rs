//! Measures time and memory of the analyses on generated policies of 10, 32 and 64 services with
//! about 100 rules each, in which almost everybody can cause everything. Fails if a bound of docs/policy.md is exceeded.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::time::{Duration, Instant};

use cloister_policy::{About, ShowFormat, analyse_text, diff};

/// Rules of every service: 20 regions with two mappers each.
const RULES: usize = 40;
/// Additional rules of a client: 4 queues, 3 ports, 3 grants, 52 paths.
const CLIENT_RULES: usize = 62;
/// The number of servers of `grants`; as many of `store` follow.
const SERVERS: usize = 2;

/// Returns a policy of this many services; with `changed`, one that differs in a few places.
fn policy(services: usize, changed: bool) -> String {
    let mut out = String::from("format = 2\nimage = { name = \"scale\" }\n[domains.backend]\nids = \"0-32751\"\n");
    for service in 0..services {
        let name = format!("s{service:04}");
        let priority = 1 + service % 255;
        let _ = write!(
            out,
            "[services.{name}]\nprogram = \"program-{}\"\npriority = {priority}\nstack = \"16K\"\n\
             cpu = {{ budget_us = 10, period_us = 10000 }}\nrestart = {{ limit = 0, then = \"stop-image\" }}\n",
            service % 7
        );
        regions(service, services, changed, &mut out);
        if service >= 2 * SERVERS {
            client(service, changed, &mut out);
        }
    }
    assertions(&mut out);
    out
}

/// One assertion of each kind that takes much work.
fn assertions(out: &mut String) {
    let mut assertion = |name: &str, rest: &str| {
        let _ = writeln!(out, "[[assert]]\nname = \"{name}\"\nwhy = \"a threat\"\n{rest}");
    };
    assertion("no-cause", "kind = \"cannot-cause\"\nfrom = \"s0002\"\nto = \"grant.issue\"");
    assertion("no-power", "kind = \"cannot-cause\"\nfrom = \"backend\"\nto = \"power.off\"\ntakeovers = 15");
    assertion("only", "kind = \"only\"\nwho = [\"s0000\"]\nmay = \"r0000-0.write\"");
    assertion("exclusive", "kind = \"exclusive\"\nowner = \"s0000\"\nregions = [\"r0000-0\"]\naccess = \"write\"");
    assertion("leak", "kind = \"no-leak\"\nregions = [\"r0000-0\"]\nto = \"backend\"");
    assertion("share", "kind = \"share-nothing\"\nbetween = [\"s0003\", \"s0009\"]");
    assertion("pages", "kind = \"at-most\"\nwhat = \"granted-pages\"\nlimit = 20000");
}

fn regions(service: usize, services: usize, changed: bool, out: &mut String) {
    for region in 0..20 {
        let reader = (service * 7 + region * 13 + 1) % services;
        let reader = if reader == service { (service + 1) % services } else { reader };
        let pages = if changed && region == 0 && service.is_multiple_of(10) { 5 } else { 4 };
        let _ = write!(
            out,
            "[regions.r{service:04}-{region}]\npages = {pages}\nmap = {{ s{service:04} = \"read-write\", s{reader:04} = \"read\" }}\n"
        );
    }
}

fn client(service: usize, changed: bool, out: &mut String) {
    let (manager, store) = (service % SERVERS, SERVERS + service % SERVERS);
    // Requests go to a service of a smaller number, so that they form no circle.
    let lower = 2 * SERVERS + (service - 2 * SERVERS) / 2;
    let mut queue = |kind: &str, to: usize| {
        let _ = write!(
            out,
            "[queues.q{service:04}-{kind}]\nfrom = \"s{service:04}\"\nto = \"s{to:04}\"\ninterface = \"{kind}\"\ndepth = 8\n"
        );
    };
    queue("grants", manager);
    queue("store", store);
    if lower != service {
        queue("net", lower);
        queue("socket", lower);
    }
    for port in 0..3 {
        let _ = write!(
            out,
            "[ports.p{service:04}-{port}]\nservice = \"s{service:04}\"\npeer = \"backend\"\nrights = [\"open\", \"send\"]\n"
        );
        let access = if changed && port == 0 && service.is_multiple_of(10) { "read-write" } else { "read" };
        let _ = write!(
            out,
            "[grants.g{service:04}-{port}]\nregion = \"r{service:04}-{port}\"\npeer = \"backend\"\naccess = \"{access}\"\n\
             pages = 4\nlifetime = \"session\"\nheld-by = \"s{manager:04}\"\non-behalf-of = \"s{service:04}\"\n"
        );
    }
    let _ = writeln!(out, "[xenstore.s{service:04}]");
    for path in 0..52 {
        let _ = writeln!(out, "\"device/{service}/{path}\" = [\"read\", \"watch\"]");
    }
}

/// Returns the peak memory of the process, in MiB (`proc(5)`).
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kibibytes| kibibytes / 1024)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

fn main() {
    println!("services    rules       bytes   check ms   show ms   diff ms   peak MiB");
    let mut within = true;
    for services in [10, 32, 64] {
        let (old, new) = (policy(services, false), policy(services, true));
        let (sound, check) = timed(|| {
            let sound = analyse_text("old", &old).expect("the generated policy is sound");
            assert!(!sound.verdicts().is_empty(), "it has assertions");
            sound
        });
        let (_, show) = timed(|| {
            let sound = analyse_text("old", &old).expect("the generated policy is sound");
            sound.show(ShowFormat::Text, &About::default())
        });
        drop(sound);
        let (changes, difference) = timed(|| {
            let old = analyse_text("old", &old).expect("the generated policy is sound");
            let new = analyse_text("new", &new).expect("the generated policy is sound");
            diff(&old, &new)
        });
        assert!(!changes.changes.is_empty(), "the policies differ");
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        println!(
            "{services:8} {:8} {:11} {:10.1} {:9.1} {:9.1} {:10}",
            services * RULES + (services - 2 * SERVERS) * CLIENT_RULES,
            old.len(),
            millis(check),
            millis(show),
            millis(difference),
            peak()
        );
        let second = Duration::from_secs(1);
        within &= check < second && show < second && difference < 2 * second && peak() < 500;
    }
    if !within {
        eprintln!("error: check and show must take less than 1 s, diff less than 2 s, and all less than 500 MiB");
        std::process::exit(1);
    }
}
