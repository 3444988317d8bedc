//! Jobs that measure what isolation costs: the image beside the fused build
//! (docs/decisions/0012-isolation-measured-against-a-fused-build.md).

use super::job::{Job, download, download_counts, job, request_counts, requests};
use super::machine::{CLOISTER, FUSED, System};
use super::metrics as m;

const BOTH: &[System] = &[CLOISTER, FUSED];

/// Returns jobs with small requests on one connection and on many, and downloads; then the kernel's
/// counts for the same.
pub fn jobs() -> Vec<Job> {
    let small = |connections: u32| {
        let metrics = [&m::TAX_REQUESTS, &m::TAX_REQUEST_GUEST, &m::TAX_REQUEST_LATENCY];
        job("tax", Some(f64::from(connections)), BOTH, &metrics, move |machine, system| {
            let [per_second, guest, _, latency] = requests(machine, system, connections)?;
            Ok(vec![per_second, guest, latency])
        })
    };
    let bulk = |(file, bytes): (&'static str, u32)| {
        job("tax", Some(f64::from(bytes)), BOTH, &[&m::TAX_DOWNLOAD, &m::TAX_DOWNLOAD_GUEST], move |machine, system| {
            let [per_second, guest, _] = download(machine, system, file, bytes)?;
            Ok(vec![per_second, guest])
        })
    };
    let small_counts = |connections: u32| {
        let metrics = [&m::TAX_REQUEST_CALLS, &m::TAX_REQUEST_SWITCHES, &m::TAX_REQUEST_HYPERCALLS];
        job("tax", Some(f64::from(connections)), BOTH, &metrics, move |machine, system| {
            request_counts(machine, system, connections, &["system-calls", "switches", "hypercalls"])
        })
    };
    let bulk_counts = [&m::TAX_BULK_CALLS, &m::TAX_BULK_SWITCHES, &m::TAX_BULK_HYPERCALLS];
    let bulk_counts = job("tax", None, BOTH, &bulk_counts, |machine, system| {
        download_counts(machine, system, &["system-calls", "switches", "hypercalls"])
    });
    vec![
        small(1),
        small(30),
        bulk(("10m", 10_000_000)),
        bulk(("100m", 100_000_000)),
        small_counts(1),
        small_counts(30),
        bulk_counts,
    ]
}
