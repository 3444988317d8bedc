//! The work: each job is one kind of load, and gives one value for each of its metrics.

use anyhow::{Context, Result, ensure};

use super::machine::{BUSYBOX, CLOISTER, LINUX, Machine, System};
use super::metrics::{self as m, Metric};
use super::stats;
use super::tools::{self, Load};

/// One kind of load.
pub struct Job {
    /// Its name, for `--only`.
    pub name: &'static str,
    /// How much of it, where that varies.
    pub load: Option<f64>,
    /// Who has to do it.
    pub systems: &'static [System],
    /// What comes out, in this order.
    pub metrics: Vec<&'static Metric>,
    /// Doing it once.
    pub action: Box<Action>,
    /// Whether the guests are as before afterwards; what creates guests anew runs last, and once.
    pub once: bool,
}

/// Does the work on one system.
pub type Action = dyn Fn(&mut Machine<'_>, &System) -> Result<Vec<f64>>;

const ALL: &[System] = &[CLOISTER, LINUX, BUSYBOX];
const SERVERS: &[System] = &[CLOISTER, LINUX];

/// How much work there is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// The targets, in minutes.
    Quick,
    /// Everything.
    Full,
}

impl Scale {
    fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

fn job(
    name: &'static str,
    load: Option<f64>,
    systems: &'static [System],
    metrics: &[&'static Metric],
    action: impl Fn(&mut Machine<'_>, &System) -> Result<Vec<f64>> + 'static,
) -> Job {
    Job { name, load, systems, metrics: metrics.to_vec(), action: Box::new(action), once: false }
}

/// All jobs, those first that the guests survive.
pub fn jobs(scale: Scale) -> Vec<Job> {
    let mut jobs = pings(scale);
    jobs.extend(small_requests(scale));
    jobs.extend(downloads(scale));
    let rounds = scale.pick(1, 4);
    jobs.push(job("idle", None, SERVERS, &[&m::IDLE_GUEST], move |machine, system| {
        let measured = machine.measure(&format!("run sleep {}", 5 * rounds))?;
        Ok(vec![measured.cpu_us(machine.domain(system)?)? / f64::from(rounds)])
    }));
    jobs.push(Job {
        once: true,
        ..job("boot", None, SERVERS, &[&m::BOOT_CREATE, &m::BOOT_PING, &m::BOOT_HTTP, &m::BOOT_GUEST], boot)
    });
    jobs
}

fn pings(scale: Scale) -> Vec<Job> {
    let count = scale.pick(1_000, 10_000);
    let rtt = |bytes: u32| {
        let metrics = [&m::RTT_MEDIAN, &m::RTT_99, &m::RTT_MAX];
        job("ping", Some(f64::from(bytes)), SERVERS, &metrics, move |machine, system| {
            let words = format!("run /usr/bin/ping -n -A -s {bytes} -c {count} {}", system.address);
            let times = tools::ping(machine.measure(&words)?.output())?;
            Ok(vec![stats::median(&times), stats::quantile(&times, 0.99), stats::quantile(&times, 1.0)])
        })
    };
    let flood = job("flood", None, SERVERS, &[&m::FLOOD_GUEST, &m::FLOOD_DOM0], move |machine, system| {
        let measured = machine.measure(&format!("run /usr/bin/ping -n -q -f -c {count} {}", system.address))?;
        let answered = tools::answered(measured.output())?;
        Ok(vec![measured.cpu_us(machine.domain(system)?)? / answered, measured.cpu_us("0")? / answered])
    });
    vec![rtt(56), rtt(1400), flood]
}

fn small_requests(scale: Scale) -> Vec<Job> {
    let seconds = scale.pick(0.3, 1.0);
    let systems = scale.pick(SERVERS, ALL);
    let connections: &[u32] = scale.pick(&[1, 30], &[1, 2, 5, 10, 20, 30, 50, 100, 200, 500, 1000]);
    let wrk = |count: u32| {
        let mut metrics = vec![&m::REQUESTS, &m::REQUEST_GUEST, &m::REQUEST_DOM0, &m::REQUEST_LATENCY];
        if count == 1 {
            metrics[1] = &m::REQUEST_GUEST_1;
        }
        job("requests", Some(f64::from(count)), systems, &metrics, move |machine, system| {
            let url = format!("http://{}:{}/page", system.address, system.port);
            let words = format!("run --for {seconds} wrk -t 1 -c {count} -d 60s --latency {url}");
            let measured = machine.measure(&words)?;
            let Load { requests, per_second, latency_us } = tools::wrk(measured.output())?;
            let guest = measured.cpu_us(machine.domain(system)?)? / requests;
            Ok(vec![per_second, guest, measured.cpu_us("0")? / requests, latency_us.context("wrk names no times")?])
        })
    };
    connections.iter().copied().map(wrk).collect()
}

fn downloads(scale: Scale) -> Vec<Job> {
    let files: &[(&str, u32)] = scale.pick(
        &[("10m", 10_000_000), ("100m", 100_000_000)],
        &[("100k", 100_000), ("1m", 1_000_000), ("10m", 10_000_000), ("100m", 100_000_000)],
    );
    let systems = scale.pick(SERVERS, ALL);
    let one = |&(file, bytes): &(&'static str, u32)| {
        let metrics = [&m::DOWNLOAD, &m::DOWNLOAD_GUEST, &m::DOWNLOAD_DOM0];
        job("download", Some(f64::from(bytes)), systems, &metrics, move |machine, system| {
            let words = format!("fetch {} {} /{file} {bytes} 1 120", system.address, system.port);
            let measured = machine.measure(&words)?;
            measured.whole()?;
            ensure!(measured.number("bytes")? == f64::from(bytes), "a download was short");
            let megabytes = f64::from(bytes) / 1e6;
            let guest = measured.cpu_us(machine.domain(system)?)? / megabytes;
            Ok(vec![megabytes / measured.seconds()?, guest, measured.cpu_us("0")? / megabytes])
        })
    };
    files.iter().map(one).collect()
}

fn boot(machine: &mut Machine<'_>, system: &System) -> Result<Vec<f64>> {
    let measured = machine.boot_again(system)?;
    let milliseconds = |name: &str| measured.number(name).map(|seconds| seconds * 1e3);
    let guest = measured.cpu_us(machine.domain(system)?)? / 1e3;
    Ok(vec![milliseconds("create")?, milliseconds("ping")?, milliseconds("http")?, guest])
}
