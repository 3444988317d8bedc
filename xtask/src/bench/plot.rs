//! Draws the growth of each measure over its load, one SVG each.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::machine::{BUSYBOX, CLOISTER, LINUX};
use super::record::{Cell, Row, Run};
use super::table::number;

/// The size of a picture, in pixels.
const SIZE: (u32, u32) = (760, 420);
/// Colours that people with colour blindness can tell apart (Okabe, Ito 2008).
const COLOURS: [(&str, RGBColor); 3] = [
    (CLOISTER.name, RGBColor(0, 114, 178)),
    (LINUX.name, RGBColor(213, 94, 0)),
    (BUSYBOX.name, RGBColor(120, 120, 120)),
];
/// The number of loads from which a measure has a curve.
const LEAST_LOADS: usize = 3;

/// The values of one system at each load; `None` where it failed.
struct Curve {
    system: &'static str,
    colour: RGBColor,
    points: Vec<(f64, Option<f64>)>,
}

/// Draws every measure that has a curve into `folder`; returns the titles and files.
pub fn draw(run: &Run, folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let rows = run.rows();
    let mut done: Vec<Row> = Vec::new();
    let mut files = Vec::new();
    for row in &rows {
        let family = Row { load: None, ..*row };
        if done.contains(&family) {
            continue;
        }
        done.push(family);
        let loads: Vec<&Row> = rows.iter().filter(|other| Row { load: None, ..**other } == family).collect();
        let loads: Vec<&Row> = loads.into_iter().filter(|row| row.load.is_some()).collect();
        if loads.len() < LEAST_LOADS {
            continue;
        }
        let offload = if row.offload { "" } else { "-plain" };
        let path = folder.join(format!("{}-{}{offload}.svg", row.metric.id, row.regime));
        picture(&family, &curves(run, &loads), &path)?;
        files.push((
            format!("{}, {}{}", row.metric.title, row.regime, if row.offload { "" } else { ", offloads off" }),
            path,
        ));
    }
    Ok(files)
}

fn curves(run: &Run, loads: &[&Row]) -> Vec<Curve> {
    let curve = |(system, colour): (&'static str, RGBColor)| {
        let point = |row: &&Row| match (row.load, run.cell(row, system)) {
            (Some(load), Cell::Failed(_)) => Some((load, None)),
            (Some(load), cell) => cell.median().map(|value| (load, Some(value))),
            (None, _) => None,
        };
        let mut points: Vec<_> = loads.iter().filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { system, colour, points }
    };
    COLOURS.into_iter().map(curve).filter(|curve| !curve.points.is_empty()).collect()
}

fn picture(row: &Row, curves: &[Curve], path: &Path) -> Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    paint(row, curves, &area).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    area.present().map_err(|error| anyhow!("{}: {error}", path.display()))
}

type Painted = Result<(), Box<dyn std::error::Error>>;

fn paint(row: &Row, curves: &[Curve], area: &DrawingArea<SVGBackend<'_>, Shift>) -> Painted {
    let loads: Vec<f64> = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0)).collect();
    let values: Vec<f64> = curves.iter().flat_map(|curve| curve.points.iter().filter_map(|point| point.1)).collect();
    let span = |list: &[f64]| list.iter().fold((f64::MAX, 0.0_f64), |(low, high), &x| (low.min(x), high.max(x)));
    let ((_, most), (_, top)) = (span(&loads), span(&values));
    // A load of 0 has a position on the logarithmic axis too: left of the smallest load.
    let positive: Vec<f64> = loads.iter().copied().filter(|load| *load > 0.0).collect();
    let least = span(&positive).0.min(most);
    let zero = least / 2.0;
    let left = if positive.len() < loads.len() { zero } else { least };
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(row.metric.title, ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d((left / 1.15..most * 1.15).log_scale(), 0.0..top.max(1e-9) * 1.08)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(90, 90, 90))
        .label_style(("sans-serif", 12))
        .x_label_formatter(&|load| short(*load))
        .y_label_formatter(&|value| number(*value))
        .x_desc("load")
        .y_desc(row.metric.unit)
        .draw()?;
    for curve in curves {
        let position = |load: f64| if load > 0.0 { load } else { zero };
        let (colour, name) = (curve.colour, curve.system);
        let good: Vec<(f64, f64)> = curve.points.iter().filter_map(|(x, y)| y.map(|y| (position(*x), y))).collect();
        chart
            .draw_series(LineSeries::new(good.iter().copied(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(good.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        let failed = curve.points.iter().filter(|(_, y)| y.is_none());
        chart.draw_series(failed.map(|(x, _)| Cross::new((position(*x), 0.0), 5, colour.stroke_width(2))))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .label_font(("sans-serif", 12))
        .draw()?;
    Ok(())
}

/// Returns a load in the form `100`, `1k`, `10M`.
fn short(load: f64) -> String {
    let (value, unit) = match load {
        load if load >= 1e6 => (load / 1e6, "M"),
        load if load >= 1e3 => (load / 1e3, "k"),
        load => (load, ""),
    };
    let text = format!("{value:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::super::metrics::{REQUESTS, RTT_MAX};
    use super::super::record::Reading;
    use super::*;

    fn readings(metric: &'static super::super::metrics::Metric, loads: &[f64]) -> Vec<Reading> {
        let reading = |&load: &f64| Reading {
            metric,
            regime: "icount",
            offload: true,
            system: CLOISTER.name,
            load: Some(load),
            repeat: 0,
            value: (load < 100.0).then_some(load * 10.0),
            error: (load >= 100.0).then(|| "reset".to_owned()),
        };
        loads.iter().map(reading).collect()
    }

    #[test]
    fn what_grows_has_a_picture_in_which_failures_are_no_points() {
        let folder = tempfile::tempdir().expect("folder");
        let mut all = readings(&REQUESTS, &[0.0, 1.0, 10.0, 100.0]);
        all.extend(readings(&RTT_MAX, &[56.0, 90.0]));
        let files = draw(&Run { readings: all, ..Run::default() }, folder.path()).expect("drawn");
        assert_eq!(files.len(), 1, "two loads are no curve");
        let svg = std::fs::read_to_string(&files[0].1).expect("read");
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains(CLOISTER.name) && !svg.contains(LINUX.name));
    }

    #[test]
    fn loads_are_short() {
        assert_eq!([0.5, 30.0, 1000.0, 1.5e6].map(short), ["0.5", "30", "1k", "1.5M"]);
    }
}
