//! Jobs with disturbances from outside the guest: lost packets, bursts, clients that leave, a
//! detached network.

use anyhow::Result;

use super::job::{Job, SERVERS, fetch, job};
use super::load_tools;
use super::machine::{CLOISTER, Machine, PAGE_BYTES, System};
use super::metrics as m;

/// Returns jobs with downloads during which packets from or to the guest are lost.
pub fn losses() -> Vec<Job> {
    const BYTES: u32 = 10_000_000;
    let lossy = |name, metric, percent: f64, script: fn(&str, f64) -> (String, String)| {
        job(name, Some(percent), SERVERS, &[metric], move |machine, system| {
            let (begin, end) = script(&format!("vif{}.0", machine.domain(system)?), percent);
            machine.shell(&begin)?;
            let measured = fetch(machine, system, "10m", BYTES, 1);
            machine.shell(&end)?;
            Ok(vec![f64::from(BYTES) / 1e6 / measured?.seconds()?])
        })
    };
    let both =
        |percent| [lossy("loss", &m::LOSS_DATA, percent, from_guest), lossy("loss", &m::LOSS_ACKS, percent, to_guest)];
    [0.0, 0.1, 1.0, 5.0].into_iter().flat_map(both).collect()
}

/// `tc` by its path: busybox has a smaller `tc`, which its shell prefers.
const TC: &str = "/usr/sbin/tc";

/// Returns the commands that start and stop losing packets to the guest.
fn to_guest(vif: &str, percent: f64) -> (String, String) {
    (format!("{TC} qdisc add dev {vif} root netem loss {percent}%"), format!("{TC} qdisc del dev {vif} root"))
}

/// Returns the commands that start and stop losing packets from the guest.
///
/// netem works on sent packets, so the packets are redirected through another device.
fn from_guest(vif: &str, percent: f64) -> (String, String) {
    let begin = format!(
        "ip link set ifb0 up && {TC} qdisc add dev ifb0 root netem loss {percent}% && {TC} qdisc add dev {vif} ingress && \
         {TC} filter add dev {vif} parent ffff: protocol all matchall action mirred egress redirect dev ifb0"
    );
    (begin, format!("{TC} qdisc del dev {vif} ingress; {TC} qdisc del dev ifb0 root"))
}

/// Returns jobs with clients that ask too much at once, or leave.
pub fn peers() -> Vec<Job> {
    let lost =
        |text: &str| load_tools::transmitted(text).map(|(sent, received)| vec![100.0 * (sent - received) / sent]);
    let ping = move |name, metric, options: &'static str| {
        job(name, None, SERVERS, &[metric], move |machine, system| {
            // ping's status is 1 when answers are missing, which is what this job measures.
            let words = format!("run sh -c '/usr/bin/ping -n -q {options} {} || true'", system.address);
            lost(machine.measure(&words)?.output())
        })
    };
    vec![
        ping("burst", &m::BURST, "-f -l 300 -c 300"),
        ping("ping-4000", &m::PING_4000, "-A -s 4000 -c 100"),
        job("closed", None, SERVERS, &[&m::CLOSED], closed),
    ]
}

/// Makes thousands of connections that the client closes, and then a request on a new one.
fn closed(machine: &mut Machine<'_>, system: &System) -> Result<Vec<f64>> {
    const COUNT: u32 = 5000;
    let url = format!("http://{}:{}/page", system.address, system.port);
    let load = load_tools::ab(machine.measure(&format!("run ab -q -n {COUNT} -c 100 {url}"))?.output())?;
    fetch(machine, system, "page", PAGE_BYTES, 1)?;
    Ok(vec![100.0 * (1.0 - load.requests / f64::from(COUNT))])
}

/// Returns a job that detaches the network, attaches it again, and waits until a request is
/// answered.
///
/// On Linux another program would have to give the new interface its address, so it is not measured
/// there.
pub fn reattach() -> Job {
    let reattach = job("reattach", None, &[CLOISTER], &[&m::REATTACH], |machine, system| {
        let measured = machine.reattach(system)?;
        Ok(vec![measured.number("http")? * 1e3])
    });
    Job { once: true, ..reattach }
}
