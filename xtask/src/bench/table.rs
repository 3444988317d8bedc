//! Renders a run as Markdown.

use std::fmt::Write;

use super::machine::{BUSYBOX, CLOISTER, FUSED, LINUX, System};
use super::record::{Cell, Row, Run};

/// Returns the report of a run.
pub fn markdown(run: &Run) -> String {
    let mut text = String::new();
    let mut errors = Vec::new();
    let part = |row: &Row| (row.regime, row.offload, row.metric.against);
    let rows = run.rows();
    let mut parts = Vec::new();
    for row in &rows {
        if !parts.contains(&part(row)) {
            parts.push(part(row));
        }
    }
    for one in parts {
        text += &heading(one);
        let lines = rows.iter().filter(|row| part(row) == one).map(|row| line(run, row, &mut errors));
        text.extend(lines);
    }
    for (title, list) in [("Errors", &errors), ("Not measured", &run.omissions)] {
        if !list.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n### {title}\n");
        }
        for (number, line) in list.iter().enumerate() {
            let _ = writeln!(text, "{}. {}", number + 1, line.replace('\n', " "));
        }
    }
    text
}

/// Returns the systems that are shown beside ours, the one in `against` first.
fn others(against: &str) -> &'static [System] {
    if against == FUSED.name { &[FUSED] } else { &[LINUX, BUSYBOX] }
}

fn heading((regime, offload, against): (&str, bool, &str)) -> String {
    let clock = match regime {
        "icount" => "Instruction clock",
        "wall" => "Wall clock",
        _ => "Pure code on the host",
    };
    let tax = if against == FUSED.name { ", what isolation costs" } else { "" };
    let offload = if offload { "" } else { ", offloads off" };
    let others = others(against);
    let names: String = others.iter().map(|system| format!(" {} |", system.name)).collect();
    format!(
        "\n### {clock}{tax}{offload}\n\n| measure | unit | load | {} |{names} ratio to {against} | 95 % interval | target |\n\
         |---|---|--:|--:|{}--:|--:|---|\n",
        CLOISTER.name,
        "--:|".repeat(others.len())
    )
}

fn line(run: &Run, row: &Row, errors: &mut Vec<String>) -> String {
    let against = row.metric.against;
    let mut cell = |system: &str| match run.cell(row, system) {
        Cell::Nothing => String::new(),
        Cell::Values(values) => number(super::stats::median(&values)),
        Cell::Failed(error) => {
            let error = format!("{system}, {}{}: {}", row.metric.title, at(row), error.replace('\n', " "));
            let index = errors.iter().position(|known| *known == error).unwrap_or(errors.len());
            if index == errors.len() {
                errors.push(error);
            }
            format!("error {}", index + 1)
        }
    };
    let ours = cell(CLOISTER.name);
    let others: String = others(against).iter().map(|system| format!(" {} |", cell(system.name))).collect();
    let (ratio, interval) = match run.ratio(row, CLOISTER.name, against) {
        Some(ratio) => (format!("{:.3}", ratio.value), format!("{:.3} – {:.3}", ratio.low, ratio.high)),
        None => (String::new(), String::new()),
    };
    format!(
        "| {} | {} | {} | {ours} |{others} {ratio} | {interval} | {} |\n",
        row.metric.title,
        row.metric.unit,
        row.load.map(number).unwrap_or_default(),
        target(run, row)
    )
}

fn at(row: &Row) -> String {
    row.load.map(|load| format!(" at {}", number(load))).unwrap_or_default()
}

/// Returns the target, and the words that say if it is reached.
fn target(run: &Run, row: &Row) -> String {
    let mark = |reached: bool| if reached { "reached" } else { "**missed**" };
    let metric = row.metric;
    let value = run.cell(row, CLOISTER.name).median().unwrap_or(f64::NAN);
    if let (Some(limit), Some(reached)) = (metric.limit, metric.within(row.load, value)) {
        return format!("≤ {} {} {}", number(limit), metric.unit, mark(reached));
    }
    let ratio = run.ratio(row, CLOISTER.name, metric.against).map_or(f64::NAN, |ratio| ratio.value);
    let (Some(target), Some(reached)) = (metric.target, metric.reached(row.load, ratio)) else { return String::new() };
    format!("{} {target} {}", if metric.more_is_better { '≥' } else { '≤' }, mark(reached))
}

/// Returns a number with four significant digits, or whole, with separated thousands.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 || value.fract() == 0.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if index > 0 && left.is_multiple_of(3) && !(index == 1 && whole.starts_with('-')) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::super::metrics::{BOOT_HTTP, REQUESTS, TAX_REQUEST_GUEST};
    use super::super::record::Reading;
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        let shown = [0.5, 12.345, 123.45, 9107.12, 1e8, -1234.0, 56.0].map(number);
        assert_eq!(shown, ["0.500", "12.35", "123.5", "9,107", "100,000,000", "-1,234", "56"]);
    }

    fn reading(
        metric: &'static super::super::metrics::Metric,
        system: &'static str,
        value: Result<f64, &str>,
    ) -> Reading {
        Reading {
            metric,
            regime: "icount",
            offload: true,
            system,
            load: metric.at,
            repeat: 0,
            value: value.ok(),
            error: value.err().map(str::to_owned),
        }
    }

    #[test]
    fn targets_errors_and_ratios_are_shown() {
        let readings = vec![
            reading(&REQUESTS, "cloister", Ok(20_000.0)),
            reading(&REQUESTS, "linux-nginx", Ok(10_000.0)),
            reading(&REQUESTS, "linux-busybox", Err("wrk: Socket errors")),
            reading(&BOOT_HTTP, "cloister", Ok(151.0)),
            reading(&TAX_REQUEST_GUEST, "cloister", Ok(11.2)),
            reading(&TAX_REQUEST_GUEST, "fused", Ok(10.0)),
        ];
        let run = Run { readings, ..Run::default() };
        let text = markdown(&run);
        for part in [
            "| 20,000 | 10,000 | error 1 | 2.000 |",
            "≥ 1.9 reached",
            "≤ 150 ms **missed**",
            "1. linux-busybox",
            "what isolation costs",
            "| cloister | fused | ratio to fused |",
            "| 11.20 | 10 | 1.120 | 1.120 – 1.120 | ≤ 1.1 **missed** |",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
