//! The job, which is one kind of load, and the loads that several jobs share.

use anyhow::{Context, Result, ensure};
use cloister_bed::Clock;

use super::load_tools::{self, Load};
use super::machine::{BUSYBOX, CLOISTER, LINUX, Machine, Measured, System};
use super::metrics::Metric;

/// One kind of load, which gives one value for each of its metrics.
pub struct Job {
    /// The job's name, for `--only`.
    pub name: &'static str,
    /// The amount of load, if it varies.
    pub load: Option<f64>,
    /// The systems that it measures.
    pub systems: &'static [System],
    /// The metrics of the values that the action returns, in order.
    pub metrics: Vec<&'static Metric>,
    /// Runs the job once.
    pub action: Box<Action>,
    /// `true` if the job creates guests again: it then runs last, and once.
    pub once: bool,
}

/// Runs a job on one system, and returns a value for each metric.
pub type Action = dyn Fn(&mut Machine<'_>, &System) -> Result<Vec<f64>>;

/// All servers.
pub const ALL: &[System] = &[CLOISTER, LINUX, BUSYBOX];
/// The servers that ratios compare.
pub const SERVERS: &[System] = &[CLOISTER, LINUX];

/// The amount of work of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Only the measures with targets: minutes.
    Quick,
    /// Everything.
    Full,
}

impl Scale {
    /// Returns `quick` or `full`.
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// Makes a job that leaves the guests running.
pub fn job(
    name: &'static str,
    load: Option<f64>,
    systems: &'static [System],
    metrics: &[&'static Metric],
    action: impl Fn(&mut Machine<'_>, &System) -> Result<Vec<f64>> + 'static,
) -> Job {
    Job { name, load, systems, metrics: metrics.to_vec(), action: Box::new(action), once: false }
}

/// Measures small requests on kept connections.
///
/// Returns the requests a second, the processor time of guest and dom0 for each request, and the
/// median time of a request, in microseconds.
pub fn requests(machine: &Machine<'_>, system: &System, connections: u32) -> Result<[f64; 4]> {
    let measured = machine.measure(&format!("run {}", wrk(machine, system, connections)))?;
    let Load { requests, per_second, latency_us } = load_tools::wrk(measured.output())?;
    let guest = measured.cpu_us(machine.domain(system)?)? / requests;
    Ok([per_second, guest, measured.cpu_us("0")? / requests, latency_us.context("wrk names no times")?])
}

/// Returns the words that run wrk with keep-alive connections for the small page.
pub fn wrk(machine: &Machine<'_>, system: &System, connections: u32) -> String {
    // Thousands of requests by the instruction clock, and hundreds by the wall clock, which is slow
    // without KVM.
    let seconds = match machine.clock() {
        Clock::Instructions => 0.3,
        Clock::Wall => 3.0,
    };
    let url = format!("http://{}:{}/page", system.address, system.port);
    format!("--for {seconds} wrk -t 1 -c {connections} -d 60s --latency {url}")
}

/// Measures one user's download: megabytes a second, and the processor time of guest and dom0 for
/// each megabyte.
pub fn download(machine: &Machine<'_>, system: &System, file: &str, bytes: u32) -> Result<[f64; 3]> {
    let measured = fetch(machine, system, file, bytes, 1)?;
    let megabytes = f64::from(bytes) / 1e6;
    let guest = measured.cpu_us(machine.domain(system)?)? / megabytes;
    Ok([megabytes / measured.seconds()?, guest, measured.cpu_us("0")? / megabytes])
}

/// Lets users fetch a whole file at once, each on a connection.
pub fn fetch(machine: &Machine<'_>, system: &System, file: &str, bytes: u32, users: u32) -> Result<Measured> {
    let words = format!("fetch {} {} /{file} {bytes} {users} 120", system.address, system.port);
    let measured = machine.measure(&words)?;
    measured.ensure_complete()?;
    let (expected, received) = (f64::from(bytes) * f64::from(users), measured.number("bytes")?);
    ensure!(received == expected, "{received} of {expected} bytes arrived");
    Ok(measured)
}

/// Returns by how much these counts of our kernel grow for each 64 KB of a download.
pub fn download_counts(machine: &Machine<'_>, system: &System, names: &[&str]) -> Result<Vec<f64>> {
    const BYTES: u32 = 10_000_000;
    let before = machine.counts(system)?;
    fetch(machine, system, "10m", BYTES, 1)?;
    let after = machine.counts(system)?;
    names.iter().map(|name| after.since(&before, name, f64::from(BYTES) / 65536.0)).collect()
}

/// Returns by how much these counts of our kernel grow for each small request.
pub fn request_counts(machine: &Machine<'_>, system: &System, connections: u32, names: &[&str]) -> Result<Vec<f64>> {
    let before = machine.counts(system)?;
    let requests =
        load_tools::wrk(machine.measure(&format!("run {}", wrk(machine, system, connections)))?.output())?.requests;
    let after = machine.counts(system)?;
    names.iter().map(|name| after.since(&before, name, requests)).collect()
}
