//! All jobs of the benchmarks.

use anyhow::{anyhow, ensure};
use cloister_bed::Clock;

use super::disturbances;
use super::isolation;
use super::job::{ALL, Job, SERVERS, Scale, download, download_counts, fetch, job, request_counts, requests, wrk};
use super::load_tools;
use super::machine::{CLOISTER, MEMORY, Machine, PAGE_BYTES};
use super::metrics as m;
use super::stats;

/// Returns all jobs, first those that leave the guests running.
pub fn all(scale: Scale, clock: Clock) -> Vec<Job> {
    let mut jobs = pings(scale);
    jobs.extend(small_requests(scale));
    jobs.extend(downloads(scale));
    jobs.extend(uploads(scale));
    jobs.push(idle(scale));
    jobs.extend(counts());
    jobs.extend(isolation::jobs());
    if clock == Clock::Wall {
        // httperf never sleeps: with one processor, the guest would run only when httperf is
        // preempted.
        jobs.push(httperf());
    }
    if scale == Scale::Full {
        jobs.extend(closing());
        jobs.extend(users());
        jobs.extend(disturbances::losses());
        jobs.extend(beside_idle());
        jobs.extend(disturbances::peers());
    }
    jobs.extend(boots());
    if scale == Scale::Full {
        jobs.push(disturbances::reattach());
        jobs.push(memory());
    }
    jobs
}

fn pings(scale: Scale) -> Vec<Job> {
    let count = scale.pick(1_000, 10_000);
    let rtt = |bytes: u32| {
        let metrics = [&m::RTT_MEDIAN, &m::RTT_99, &m::RTT_MAX];
        job("ping", Some(f64::from(bytes)), SERVERS, &metrics, move |machine, system| {
            let words = format!("run /usr/bin/ping -n -A -s {bytes} -c {count} {}", system.address);
            let times = load_tools::ping(machine.measure(&words)?.output())?;
            Ok(vec![stats::median(&times), stats::quantile(&times, 0.99), stats::quantile(&times, 1.0)])
        })
    };
    let flood = job("flood", None, SERVERS, &[&m::FLOOD_GUEST, &m::FLOOD_DOM0], move |machine, system| {
        let measured = machine.measure(&format!("run /usr/bin/ping -n -q -f -c {count} {}", system.address))?;
        let answered = load_tools::answered(measured.output())?;
        Ok(vec![measured.cpu_us(machine.domain(system)?)? / answered, measured.cpu_us("0")? / answered])
    });
    vec![rtt(56), rtt(1400), flood]
}

fn small_requests(scale: Scale) -> Vec<Job> {
    let connections: &[u32] = scale.pick(&[1, 30], &[1, 2, 5, 10, 30, 100, 300, 1000]);
    let wrk = |count: u32| {
        let mut metrics = vec![&m::REQUESTS, &m::REQUEST_GUEST, &m::REQUEST_DOM0, &m::REQUEST_LATENCY];
        if count == 1 {
            metrics[1] = &m::REQUEST_GUEST_1;
        }
        let systems = if scale == Scale::Full && matches!(count, 1 | 30) { ALL } else { SERVERS };
        job("requests", Some(f64::from(count)), systems, &metrics, move |machine, system| {
            requests(machine, system, count).map(Vec::from)
        })
    };
    connections.iter().copied().map(wrk).collect()
}

/// A connection for each request, and siege, which the original study used.
fn closing() -> Vec<Job> {
    let ab = |count: u32| {
        let metrics = [&m::CLOSING, &m::CLOSING_GUEST];
        job("closing", Some(f64::from(count)), SERVERS, &metrics, move |machine, system| {
            let url = format!("http://{}:{}/page", system.address, system.port);
            let measured = machine.measure(&format!("run ab -q -n 500 -c {count} {url}"))?;
            let load = load_tools::ab(measured.output())?;
            Ok(vec![load.per_second, measured.cpu_us(machine.domain(system)?)? / load.requests])
        })
    };
    let siege = |users: u32| {
        job("siege", Some(f64::from(users)), SERVERS, &[&m::SIEGE], move |machine, system| {
            let url = format!("http://{}:{}/page", system.address, system.port);
            let words = format!("run env HOME=/tmp siege -b -q -c {users} -r {} {url}", 200 / users);
            Ok(vec![load_tools::siege(machine.measure(&words)?.output())?.per_second])
        })
    };
    vec![ab(1), ab(30), siege(1), siege(10), siege(20), siege(40)]
}

fn httperf() -> Job {
    job("httperf", Some(1.0), SERVERS, &[&m::HTTPERF], |machine, system| {
        let words = format!(
            "run httperf --hog --server {} --port {} --uri /page --num-conns 50 --num-calls 10",
            system.address, system.port
        );
        Ok(vec![load_tools::httperf(machine.measure(&words)?.output())?.per_second])
    })
}

fn downloads(scale: Scale) -> Vec<Job> {
    let files: &[(&str, u32)] = scale.pick(
        &[("10m", 10_000_000), ("100m", 100_000_000)],
        &[("page", PAGE_BYTES), ("100k", 100_000), ("1m", 1_000_000), ("10m", 10_000_000), ("100m", 100_000_000)],
    );
    let systems = scale.pick(SERVERS, ALL);
    let one = |&(file, bytes): &(&'static str, u32)| {
        let metrics = [&m::DOWNLOAD, &m::DOWNLOAD_GUEST, &m::DOWNLOAD_DOM0];
        job("download", Some(f64::from(bytes)), systems, &metrics, move |machine, system| {
            download(machine, system, file, bytes).map(Vec::from)
        })
    };
    files.iter().map(one).collect()
}

fn users() -> Vec<Job> {
    let at_once = |users: u32| {
        let metrics = [&m::USERS, &m::USERS_SLOWEST];
        job("users", Some(f64::from(users)), SERVERS, &metrics, move |machine, system| {
            let measured = fetch(machine, system, "1m", 1_000_000, users)?;
            let slowest = stats::quantile(&measured.numbers("times"), 1.0) / 1e6;
            Ok(vec![f64::from(users) / measured.seconds()?, slowest])
        })
    };
    [1, 10, 20, 40, 100, 200].map(at_once).into()
}

fn uploads(scale: Scale) -> Vec<Job> {
    let sizes: &[u32] = scale.pick(&[10_000_000], &[100_000, 1_000_000, 10_000_000, 100_000_000]);
    let one = |bytes: u32| {
        let metrics = [&m::UPLOAD, &m::UPLOAD_GUEST, &m::UPLOAD_DOM0];
        job("upload", Some(f64::from(bytes)), SERVERS, &metrics, move |machine, system| {
            let measured = machine.measure(&format!("send {} {} /sink {bytes} 1 120", system.address, system.port))?;
            measured.ensure_complete()?;
            let megabytes = f64::from(bytes) / 1e6;
            let guest = measured.cpu_us(machine.domain(system)?)? / megabytes;
            Ok(vec![megabytes / measured.seconds()?, guest, measured.cpu_us("0")? / megabytes])
        })
    };
    sizes.iter().copied().map(one).collect()
}

fn idle(scale: Scale) -> Job {
    let rounds = scale.pick(1, 4);
    job("idle", None, SERVERS, &[&m::IDLE_GUEST], move |machine, system| {
        let measured = machine.measure(&format!("run sleep {}", 5 * rounds))?;
        Ok(vec![measured.cpu_us(machine.domain(system)?)? / f64::from(rounds)])
    })
}

/// The growth of our kernel's counts for each 64 KB of a download, and for each small request.
fn counts() -> Vec<Job> {
    let bulk = [&m::HYPERCALLS, &m::NOTIFICATIONS, &m::GRANTS, &m::BULK_SWITCHES];
    let bulk = job("counts", None, &[CLOISTER], &bulk, |machine, system| {
        download_counts(machine, system, &["hypercalls", "events-sent", "grants", "switches"])
    });
    let small = [&m::REQUEST_HYPERCALLS, &m::REQUEST_NOTIFICATIONS, &m::REQUEST_SWITCHES, &m::REQUEST_CALLS];
    let small = job("counts", Some(30.0), &[CLOISTER], &small, |machine, system| {
        request_counts(machine, system, 30, &["hypercalls", "events-sent", "switches", "system-calls"])
    });
    vec![bulk, small]
}

/// Requests beside idle connections.
fn beside_idle() -> Vec<Job> {
    let beside = |count: u32| {
        let metrics = [&m::HELD, &m::HELD_GUEST];
        job("held", Some(f64::from(count)), SERVERS, &metrics, move |machine, system| {
            let words = format!("hold {} {} /page {count} {}", system.address, system.port, wrk(machine, system, 100));
            let measured = machine.measure(&words)?;
            measured.ensure_complete()?;
            for name in ["held", "alive"] {
                let number = measured.number(name)?;
                ensure!(number == f64::from(count), "{number} of {count} connections were {name}");
            }
            let load = load_tools::wrk(measured.output())?;
            Ok(vec![load.per_second, measured.cpu_us(machine.domain(system)?)? / load.requests])
        })
    };
    [0, 10, 100, 1_000, 10_000].map(beside).into()
}

/// Boots with the memory of all other measures, and with the memory that our image needs.
fn boots() -> Vec<Job> {
    let with = |memory: u32, systems| {
        let metrics = [&m::BOOT_CREATE, &m::BOOT_PING, &m::BOOT_HTTP, &m::BOOT_GUEST, &m::BOOT_FRAME];
        let boot = job("boot", Some(f64::from(memory)), systems, &metrics, move |machine, system| {
            let measured = machine.boot_again(system, memory)?;
            let milliseconds = |name: &str| measured.number(name).map(|seconds| seconds * 1e3);
            let domain = machine.domain(system)?;
            let (guest, frame) = (measured.cpu_us(domain)? / 1e3, measured.frame_cpu_us(domain)? / 1e3);
            Ok(vec![milliseconds("create")?, milliseconds("ping")?, milliseconds("http")?, guest, frame])
        });
        Job { once: true, ..boot }
    };
    let own = job("boot", Some(16.0), &[CLOISTER], &[&m::BOOT_OWN_FRAME, &m::BOOT_OWN], |machine, system| {
        let own = |machine: &Machine<'_>| machine.counts(system)?.number("own-ns").map(|own| own / 1e6);
        machine.boot_to_frame(system, 16)?;
        let frame = own(machine)?;
        machine.boot_again(system, 16)?;
        Ok(vec![frame, own(machine)?])
    });
    vec![with(MEMORY, SERVERS), with(16, &[CLOISTER]), Job { once: true, ..own }]
}

/// The least memory with which the guest serves: tries less and less until one fails.
fn memory() -> Job {
    let memory = job("memory", None, SERVERS, &[&m::MEMORY_LEAST], |machine, system| {
        let tries: &[u32] = if *system == CLOISTER { &[16, 8, 6, 5, 4, 3, 2] } else { &[128, 96, 80, 64] };
        let mut least = Err(anyhow!("it does not serve with {} MiB", tries[0]));
        for memory in tries {
            match machine.boot_again(system, *memory) {
                Ok(_) => least = Ok(vec![f64::from(*memory)]),
                Err(_) => break,
            }
        }
        least
    });
    Job { once: true, ..memory }
}
