//! Parses the output of load tools. A failed tool, or a failed request, is an error and never a
//! number.

use anyhow::{Context, Result, bail, ensure};

/// The result of a load tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Requests that were answered.
    pub requests: f64,
    /// Answered requests a second, by the tool's own clock.
    pub per_second: f64,
    /// The median (wrk) or mean time of one request, in microseconds, if the tool prints one.
    pub latency_us: Option<f64>,
}

/// Parses the output of `wrk --latency`.
pub fn wrk(text: &str) -> Result<Load> {
    if let Some(line) = text.lines().find(|l| l.contains("Non-2xx") || l.contains("Socket errors")) {
        bail!("wrk: {}", line.trim());
    }
    let requests = number_before(text, " requests in ").context("wrk names no number of requests")?;
    ensure!(requests > 0.0, "wrk: no request was answered");
    let per_second = number_after(text, "Requests/sec:").context("wrk names no rate")?;
    let median = text.lines().find_map(|line| line.trim().strip_prefix("50%")).map(str::trim).and_then(microseconds);
    Ok(Load { requests, per_second, latency_us: median })
}

/// Parses the output of `ab`.
pub fn ab(text: &str) -> Result<Load> {
    let requests = number_after(text, "Complete requests:").with_context(|| format!("ab: {}", last_line(text)))?;
    for failure in ["Failed requests:", "Non-2xx responses:"] {
        let count = number_after(text, failure).unwrap_or(0.0);
        ensure!(count == 0.0, "ab: {failure} {count}");
    }
    let per_second = number_after(text, "Requests per second:").context("ab names no rate")?;
    let mean = number_after(text, "Time per request:").map(|milliseconds| milliseconds * 1000.0);
    Ok(Load { requests, per_second, latency_us: mean })
}

/// Parses the output of `httperf`.
pub fn httperf(text: &str) -> Result<Load> {
    let total = text.lines().find(|line| line.starts_with("Total: connections")).context("httperf names no total")?;
    let requests = number_after(total, "requests ").context("httperf names no requests")?;
    let replies = number_after(total, "replies ").context("httperf names no replies")?;
    ensure!(requests > 0.0 && requests == replies, "httperf: {requests} requests, {replies} replies");
    let status = text.lines().find(|line| line.starts_with("Reply status:")).context("httperf names no status")?;
    let good = number_after(status, "2xx=").unwrap_or(0.0);
    ensure!(good == replies, "httperf: {status}");
    let errors = text.lines().find(|line| line.starts_with("Errors: total")).context("httperf names no errors")?;
    ensure!(number_after(errors, "total") == Some(0.0), "httperf: {errors}");
    let per_second = number_after(text, "Request rate:").context("httperf names no rate")?;
    let latency_us = number_after(text, "Reply time [ms]: response").map(|milliseconds| milliseconds * 1000.0);
    Ok(Load { requests, per_second, latency_us })
}

/// Parses the output of `siege`.
pub fn siege(text: &str) -> Result<Load> {
    let field = |old: &str, new: &str| number_after(text, old).or_else(|| json(text, new));
    let requests = field("Transactions:", "transactions").with_context(|| format!("siege: {}", last_line(text)))?;
    let failed = field("Failed transactions:", "failed_transactions").context("siege names no failures")?;
    ensure!(failed == 0.0 && requests > 0.0, "siege: {requests} answered, {failed} failed");
    let per_second = field("Transaction rate:", "transaction_rate").context("siege names no rate")?;
    Ok(Load { requests, per_second, latency_us: None })
}

/// Returns the round-trip times of a `ping`, in microseconds, in the order of arrival. Lost answers
/// are an error.
pub fn ping(text: &str) -> Result<Vec<f64>> {
    answered(text)?;
    let times: Vec<f64> = text
        .lines()
        .filter_map(|line| number_after(line, " time="))
        .map(|milliseconds| milliseconds * 1000.0)
        .collect();
    ensure!(!times.is_empty(), "ping names no times");
    Ok(times)
}

/// Returns the number of echo requests that `ping` sent. Lost answers are an error.
pub fn answered(text: &str) -> Result<f64> {
    let (sent, received) = transmitted(text)?;
    ensure!(sent > 0.0 && sent == received, "ping: {received} of {sent} were answered");
    Ok(sent)
}

/// Returns the numbers of echo requests sent and answers received.
pub fn transmitted(text: &str) -> Result<(f64, f64)> {
    let line = text.lines().find(|line| line.contains(" packets transmitted")).context("ping printed no summary")?;
    let sent = number_before(line, " packets transmitted").context("ping sent nothing")?;
    let received = number_before(line, " received").context("ping received nothing")?;
    Ok((sent, received))
}

/// Returns the number after `mark` in `text`.
fn number_after(text: &str, mark: &str) -> Option<f64> {
    let rest = text.split_once(mark)?.1.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Returns the number before `mark` in `text`.
fn number_before(text: &str, mark: &str) -> Option<f64> {
    let before = text.split_once(mark)?.0;
    let start = before.rfind(|c: char| !c.is_ascii_digit() && c != '.').map_or(0, |at| at + 1);
    before[start..].parse().ok()
}

/// Returns the number of a field in siege's newer form: `"transactions": 12,`.
fn json(text: &str, name: &str) -> Option<f64> {
    number_after(text, &format!("\"{name}\":"))
}

/// Parses `123.00us`, `4.56ms` or `1.20s`, and returns microseconds.
fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (unit, factor) = units.into_iter().find(|(unit, _)| text.ends_with(unit))?;
    text.strip_suffix(unit)?.parse::<f64>().ok().map(|value| value * factor)
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("printed nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 1s test @ http://10.0.2.15/page\n  1 threads and 30 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     3.27ms  100.05us   3.90ms   77.00%\n  Latency Distribution\n     50%    3.26ms\n     75%    3.30ms\n  9107 requests in 1.00s, 7.51MB read\nRequests/sec:   9107.12\nTransfer/sec:      7.51MB\n";

    #[test]
    fn wrk_is_read() {
        let load = wrk(WRK).expect("good");
        assert_eq!(load, Load { requests: 9107.0, per_second: 9107.12, latency_us: Some(3260.0) });
    }

    #[test]
    fn wrk_with_errors_is_an_error() {
        let errors = format!("{WRK}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        assert!(wrk(&errors).expect_err("errors").to_string().contains("read 3"));
        assert!(wrk(&format!("{WRK}  Non-2xx or 3xx responses: 9107\n")).is_err());
        assert!(wrk(&WRK.replace("9107 requests", "0 requests")).is_err());
        assert!(wrk("unable to connect to 10.0.2.15:80 Connection refused").is_err());
    }

    const AB: &str = "Concurrency Level:      30\nTime taken for tests:   0.250 seconds\nComplete requests:      1000\nFailed requests:        0\nRequests per second:    4000.00 [#/sec] (mean)\nTime per request:       7.500 [ms] (mean)\n";

    #[test]
    fn ab_is_read_and_its_failures_are_errors() {
        let load = ab(AB).expect("good");
        assert_eq!((load.requests, load.per_second, load.latency_us), (1000.0, 4000.0, Some(7500.0)));
        assert!(ab(&AB.replace("Failed requests:        0", "Failed requests:        2")).is_err());
        assert!(ab(&format!("{AB}Non-2xx responses:      1000\n")).is_err());
        assert!(ab("apr_socket_recv: Connection reset by peer (104)").expect_err("bad").to_string().contains("reset"));
    }

    const HTTPERF: &str = "Total: connections 100 requests 1000 replies 1000 test-duration 0.200 s\nRequest rate: 5000.0 req/s (0.2 ms/req)\nReply time [ms]: response 0.2 transfer 0.0\nReply status: 1xx=0 2xx=1000 3xx=0 4xx=0 5xx=0\nErrors: total 0 client-timo 0 socket-timo 0 connrefused 0 connreset 0\n";

    #[test]
    fn httperf_is_read_and_its_failures_are_errors() {
        assert_eq!(httperf(HTTPERF).expect("good").per_second, 5000.0);
        assert!(httperf(&HTTPERF.replace("replies 1000", "replies 999")).is_err());
        assert!(httperf(&HTTPERF.replace("2xx=1000", "2xx=0").replace("4xx=0", "4xx=1000")).is_err());
        assert!(httperf(&HTTPERF.replace("Errors: total 0", "Errors: total 4")).is_err());
    }

    #[test]
    fn siege_is_read_in_both_its_forms() {
        let old = "Transactions:\t\t 300 hits\nTransaction rate:\t 600.00 trans/sec\nFailed transactions:\t 0\n";
        let new = "{\t\"transactions\":\t300,\n\"transaction_rate\":\t600.00,\n\"failed_transactions\":\t0\n}";
        for text in [old, new] {
            let load = siege(text).expect("good");
            assert_eq!((load.requests, load.per_second), (300.0, 600.0));
        }
        assert!(siege(&old.replace("Failed transactions:\t 0", "Failed transactions:\t 1")).is_err());
    }

    #[test]
    fn pings_are_read_and_loss_is_an_error() {
        let text = "64 bytes from 10.0.2.15: icmp_seq=1 ttl=64 time=0.109 ms\n64 bytes from 10.0.2.15: icmp_seq=2 ttl=64 time=0.110 ms\n\n2 packets transmitted, 2 received, 0% packet loss, time 4ms\n";
        assert_eq!(ping(text).expect("good").len(), 2);
        assert!(
            ping(&text.replace("2 received, 0%", "1 received, 50%")).expect_err("loss").to_string().contains("1 of 2")
        );
        assert!(ping("connect: Network is unreachable").is_err());
    }
}
