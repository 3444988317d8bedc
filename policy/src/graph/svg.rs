//! Renders the graph as SVG, without scripts, fonts or external resources.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::labels::{self, Obstacles};
use super::layout::{LINE, Layout, Place, layout};
use super::{Edge, EdgeKind, Graph, Node, NodeKind};
use crate::html::escape;

const LEGEND: [(EdgeKind, &str); 5] = [
    (EdgeKind::Share, "memory across the edge"),
    (EdgeKind::Events, "events across the edge"),
    (EdgeKind::Queue, "queue: asks"),
    (EdgeKind::Write, "writes"),
    (EdgeKind::Read, "reads"),
];

impl Graph {
    /// Renders the graph as SVG.
    #[must_use]
    pub fn svg(&self) -> String {
        let layout = layout(self);
        let (width, height) = (layout.width.max(980.0), layout.height + 40.0);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
             font-family=\"system-ui, sans-serif\" role=\"img\">\n<title>The authority that the policy {} gives</title>\n<defs>\n",
            escape(&self.title)
        );
        for (kind, _) in LEGEND {
            let (colour, name) = (colour(kind), marker(kind));
            let _ = writeln!(
                out,
                "<marker id=\"{name}\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"9\" markerHeight=\"9\" markerUnits=\"userSpaceOnUse\" \
                 orient=\"auto-start-reverse\"><path d=\"M0 1 L10 5 L0 9 z\" fill=\"{colour}\"/></marker>"
            );
        }
        let _ = writeln!(out, "</defs>\n<rect width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#fff\"/>");
        self.frame(&layout.places, width, layout.height, &mut out);
        let curves = self.curves(&layout);
        for (edge, curve) in self.edges.iter().zip(&curves) {
            line(edge, curve, &mut out);
        }
        for (node, place) in self.nodes.iter().zip(&layout.places) {
            draw(node, place, &mut out);
        }
        self.labels(&layout, &curves, (width, layout.height), &mut out);
        legend(height - 20.0, &mut out);
        out.push_str("</svg>\n");
        out
    }

    /// Draws the image's edge: the subjects outside are left of it.
    fn frame(&self, places: &[Place], width: f64, height: f64, out: &mut String) {
        let left = self.left(places);
        if left.is_finite() {
            let _ = writeln!(
                out,
                "<rect x=\"{left:.0}\" y=\"30\" width=\"{:.0}\" height=\"{:.0}\" rx=\"10\" fill=\"#f7f9fb\" stroke=\"#1b1f24\" stroke-width=\"1.5\"/>\n\
                 <text x=\"{:.0}\" y=\"22\" font-size=\"14\" font-weight=\"600\" fill=\"#1b1f24\">image {}</text>",
                width - left - 6.0,
                height - 36.0,
                left + 4.0,
                escape(&self.title)
            );
        }
        if self.nodes.iter().any(|node| node.kind == NodeKind::Outside) {
            out.push_str(
                "<text x=\"24\" y=\"22\" font-size=\"14\" font-weight=\"600\" fill=\"#b3261e\">outside</text>\n",
            );
        }
    }

    /// Returns the curves of each edge.
    fn curves(&self, layout: &Layout) -> Vec<Vec<Bezier>> {
        let edges = self.edges.iter().zip(&layout.bends).zip(self.anchors(layout));
        let curve = |((edge, bends), anchor): ((&Edge, &Vec<Place>), [f64; 2])| {
            let (Some(from), Some(to)) = (layout.places.get(edge.from), layout.places.get(edge.to)) else {
                return Vec::new();
            };
            curve(&points(from, bends, to, anchor), bends.is_empty() && is_same_column(from, to))
        };
        edges.map(curve).collect()
    }

    /// Draws the labels of the edges.
    fn labels(&self, layout: &Layout, curves: &[Vec<Bezier>], size: (f64, f64), out: &mut String) {
        let mut lines: Vec<Vec<(f64, f64)>> = curves.iter().map(|curve| sampled(curve)).collect();
        // The edge of the image is a line, too.
        let left = self.left(&layout.places);
        let mut y = 30.0;
        let mut frame = Vec::new();
        while left.is_finite() && y < size.1 {
            frame.push((left, y));
            y += 5.0;
        }
        lines.push(frame);
        let obstacles = Obstacles::new(&layout.places, &lines, size);
        let labelled: Vec<(&Edge, &Vec<(f64, f64)>)> =
            self.edges.iter().zip(&lines).filter(|(edge, _)| !edge.label.is_empty()).collect();
        let texts: Vec<(&str, &[(f64, f64)])> =
            labelled.iter().map(|(edge, line)| (edge.label.as_str(), line.as_slice())).collect();
        for ((edge, _), place) in labelled.iter().zip(labels::place(&texts, &obstacles)) {
            label(edge, &place, out);
        }
    }

    /// Returns the x of the image's edge; infinity if nothing is inside.
    fn left(&self, places: &[Place]) -> f64 {
        let inside = self.nodes.iter().zip(places).filter(|(node, _)| node.kind != NodeKind::Outside);
        inside.map(|(_, place)| place.x).fold(f64::INFINITY, f64::min) - 20.0
    }

    /// Returns where each edge leaves and enters its boxes.
    ///
    /// The edges at a side are spread over it, in the order of their other ends.
    fn anchors(&self, layout: &Layout) -> Vec<[f64; 2]> {
        let mut sides: BTreeMap<Side, Vec<(f64, usize, usize)>> = BTreeMap::new();
        for (position, (edge, bends)) in self.edges.iter().zip(&layout.bends).enumerate() {
            let (Some(from), Some(to)) = (layout.places.get(edge.from), layout.places.get(edge.to)) else { continue };
            let rightward = from.x < to.x;
            let same_column = bends.is_empty() && is_same_column(from, to);
            let next = bends.first().unwrap_or(to).middle();
            let before = bends.last().unwrap_or(from).middle();
            sides.entry((edge.from, rightward && !same_column)).or_default().push((next, position, 0));
            sides.entry((edge.to, !rightward && !same_column)).or_default().push((before, position, 1));
        }
        let mut anchors = vec![[0.0; 2]; self.edges.len()];
        for ((node, _), mut lines) in sides {
            let Some(place) = layout.places.get(node) else { continue };
            lines.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let step = (place.height / (lines.len() as f64 + 1.0)).min(16.0);
            let first = place.middle() - step * (lines.len() as f64 - 1.0) / 2.0;
            for (index, (_, position, end)) in lines.into_iter().enumerate() {
                if let Some(anchor) = anchors.get_mut(position).and_then(|ends| ends.get_mut(end)) {
                    *anchor = first + index as f64 * step;
                }
            }
        }
        anchors
    }
}

/// A side of a box; `true` for the right one.
type Side = (usize, bool);

fn is_same_column(one: &Place, other: &Place) -> bool {
    (one.x + one.width / 2.0 - other.x - other.width / 2.0).abs() < 1.0
}

/// Returns the points of an edge.
fn points(from: &Place, bends: &[Place], to: &Place, [leaves, enters]: [f64; 2]) -> Vec<(f64, f64)> {
    let rightward = from.x < to.x;
    let same_column = bends.is_empty() && is_same_column(from, to);
    let start = if rightward && !same_column { from.x + from.width } else { from.x };
    let end = if same_column || rightward { to.x } else { to.x + to.width };
    let mut points = vec![(start, leaves)];
    for bend in bends {
        let (left, right) = (bend.x, bend.x + bend.width);
        let (enter, leave) = if rightward { (left, right) } else { (right, left) };
        points.extend([(enter, bend.middle()), (leave, bend.middle())]);
    }
    points.push((end, enters));
    points
}

/// A part of an edge: start, two control points, end.
type Bezier = [(f64, f64); 4];

/// Returns an edge as curves through its points.
fn curve(points: &[(f64, f64)], same_column: bool) -> Vec<Bezier> {
    let part = |pair: &[(f64, f64)]| {
        let [(x, y), (next_x, next_y)] = *pair else { return None };
        // An edge within a column goes round on the left.
        let reach = if same_column { -50.0 } else { (next_x - x) * 0.5 };
        let back = if same_column { -50.0 } else { -reach };
        Some([(x, y), (x + reach, y), (next_x + back, next_y), (next_x, next_y)])
    };
    points.windows(2).filter_map(part).collect()
}

/// Returns points of a curve, some 5 units apart.
fn sampled(curve: &[Bezier]) -> Vec<(f64, f64)> {
    let part = |[start, one, two, end]: &Bezier| {
        let length = (end.0 - start.0).abs() + (end.1 - start.1).abs() + 100.0 * f64::from(u8::from(start.0 == end.0));
        // At most 400 points, however long the part is.
        let count = (length / 5.0).clamp(2.0, 400.0).round();
        let at = |t: f64, pick: fn((f64, f64)) -> f64| {
            let u = 1.0 - t;
            u * u * u * pick(*start)
                + 3.0 * u * u * t * pick(*one)
                + 3.0 * u * t * t * pick(*two)
                + t * t * t * pick(*end)
        };
        let mut points = Vec::new();
        let mut step = 0.0;
        while step <= count {
            points.push((at(step / count, |point| point.0), at(step / count, |point| point.1)));
            step += 1.0;
        }
        points
    };
    curve.iter().flat_map(part).collect()
}

fn line(edge: &Edge, curve: &[Bezier], out: &mut String) {
    let mut path = String::new();
    for (index, [start, one, two, end]) in curve.iter().enumerate() {
        if index == 0 {
            let _ = write!(path, "M{:.1} {:.1}", start.0, start.1);
        }
        let _ = write!(path, " C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}", one.0, one.1, two.0, two.1, end.0, end.1);
    }
    let (width, dash) = match edge.kind {
        EdgeKind::Share => (2.4, ""),
        EdgeKind::Events => (1.6, " stroke-dasharray=\"6 4\""),
        EdgeKind::Queue | EdgeKind::Write => (1.6, ""),
        EdgeKind::Read => (1.1, ""),
    };
    let name = marker(edge.kind);
    let both = if edge.both { format!(" marker-start=\"url(#{name})\"") } else { String::new() };
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"{dash} marker-end=\"url(#{name})\"{both}/>",
        colour(edge.kind)
    );
}

fn label(edge: &Edge, place: &Place, out: &mut String) {
    for (number, text) in edge.label.lines().enumerate() {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"13\" text-anchor=\"middle\" fill=\"{}\">{}</text>",
            place.x + place.width / 2.0,
            place.y + 12.0 + number as f64 * labels::LINE,
            colour(edge.kind),
            escape(text)
        );
    }
}

fn draw(node: &Node, place: &Place, out: &mut String) {
    let (fill, stroke, radius) = match node.kind {
        NodeKind::Outside => ("#fdecea", "#b3261e", 2.0),
        NodeKind::EdgeRegion => ("#fff4e5", "#b3261e", 14.0),
        NodeKind::Region => ("#f0f0f0", "#6b7178", 14.0),
        NodeKind::Service => ("#e6effb", "#1f5fbf", 5.0),
    };
    let Place { x, y, width, height } = *place;
    let centre = x + width / 2.0;
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{radius}\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.5\"/>\n\
         <text x=\"{centre:.1}\" y=\"{:.1}\" font-size=\"14\" font-weight=\"600\" text-anchor=\"middle\" fill=\"#1b1f24\">{}</text>",
        y + 19.0,
        escape(&node.name)
    );
    for (line, detail) in node.details.iter().enumerate() {
        let _ = writeln!(
            out,
            "<text x=\"{centre:.1}\" y=\"{:.1}\" font-size=\"13\" text-anchor=\"middle\" fill=\"#4a5058\">{}</text>",
            y + 36.0 + line as f64 * LINE,
            escape(detail)
        );
    }
}

fn legend(y: f64, out: &mut String) {
    let mut x = 24.0;
    for (kind, says) in LEGEND {
        let dash = if kind == EdgeKind::Events { " stroke-dasharray=\"6 4\"" } else { "" };
        let _ = writeln!(
            out,
            "<path d=\"M{x:.0} {:.0} h34\" stroke=\"{}\" stroke-width=\"2\"{dash} marker-end=\"url(#{})\"/>\n\
             <text x=\"{:.0}\" y=\"{y:.0}\" font-size=\"13\" fill=\"#4a5058\">{says}</text>",
            y - 4.0,
            colour(kind),
            marker(kind),
            x + 40.0
        );
        x += 66.0 + says.len() as f64 * labels::CHARACTER;
    }
}

fn colour(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Share | EdgeKind::Events => "#b3261e",
        EdgeKind::Write => "#343a40",
        EdgeKind::Read => "#8a9099",
        EdgeKind::Queue => "#1f5fbf",
    }
}

fn marker(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Share => "arrow-share",
        EdgeKind::Events => "arrow-events",
        EdgeKind::Write => "arrow-write",
        EdgeKind::Read => "arrow-read",
        EdgeKind::Queue => "arrow-queue",
    }
}
