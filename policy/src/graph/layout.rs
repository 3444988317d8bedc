//! Places the boxes of the graph in columns, so that few edges cross and connected boxes are near.
//!
//! An edge over several columns has a bend in each column, so that it passes no box.

use super::{Graph, Node};

/// Width of a character of a name, and of a detail.
const NAME_WIDTH: f64 = 8.8;
const DETAIL_WIDTH: f64 = 7.3;
/// Height of a line of details.
pub(super) const LINE: f64 = 16.0;
/// Space between columns, for edges and their labels, and between boxes of a column. The shipped
/// policy has to fit a page in landscape, with letters that can be read.
const GAP: f64 = 78.0;
const SPACE: f64 = 34.0;
/// More space after the first column, in which the subjects outside are: the edge of the image is
/// there.
const EDGE_GAP: f64 = 32.0;
/// The number of sweeps over the columns.
const SWEEPS: usize = 24;

/// The position of a box, or of a bend of an edge.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Place {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Place {
    pub(super) fn middle(&self) -> f64 {
        self.y + self.height / 2.0
    }
}

/// The layout.
pub(super) struct Layout {
    /// The position of each node.
    pub places: Vec<Place>,
    /// The bends of each edge, in order.
    pub bends: Vec<Vec<Place>>,
    pub width: f64,
    pub height: f64,
}

struct Columns {
    /// The members of each column, in order from the top.
    order: Vec<Vec<usize>>,
    /// The neighbours of each member.
    ties: Vec<Vec<usize>>,
    places: Vec<Place>,
}

pub(super) fn layout(graph: &Graph) -> Layout {
    // Empty columns are left out.
    let mut layers: Vec<usize> = graph.nodes.iter().map(|node| node.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let column = |node: &Node| layers.binary_search(&node.layer).unwrap_or(0);
    let mut columns = Columns {
        order: vec![Vec::new(); layers.len()],
        ties: vec![Vec::new(); graph.nodes.len()],
        places: graph.nodes.iter().map(size).collect(),
    };
    for (position, node) in graph.nodes.iter().enumerate() {
        if let Some(order) = columns.order.get_mut(column(node)) {
            order.push(position);
        }
    }
    let mut passes = Vec::new();
    for edge in &graph.edges {
        let (Some(from), Some(to)) = (graph.nodes.get(edge.from), graph.nodes.get(edge.to)) else { continue };
        passes.push(columns.route(edge.from, edge.to, column(from), column(to)));
    }
    columns.sort();
    columns.spread();
    let (width, height) = columns.settle();
    let place = |member: &usize| columns.places.get(*member).copied().unwrap_or_default();
    Layout {
        places: columns.places.iter().take(graph.nodes.len()).copied().collect(),
        bends: passes.iter().map(|members: &Vec<usize>| members.iter().map(place).collect()).collect(),
        width,
        height,
    }
}

fn size(node: &Node) -> Place {
    let details = node.details.iter().map(|detail| detail.chars().count() as f64 * DETAIL_WIDTH);
    let width = details.fold(node.name.chars().count() as f64 * NAME_WIDTH, f64::max) + 18.0;
    Place { width: width.max(84.0), height: 28.0 + node.details.len() as f64 * LINE + 4.0, ..Place::default() }
}

impl Columns {
    /// Gives an edge a bend in every column between its ends.
    fn route(&mut self, from: usize, to: usize, first: usize, last: usize) -> Vec<usize> {
        let between: Vec<usize> =
            if first < last { (first + 1..last).collect() } else { (last + 1..first).rev().collect() };
        let mut members = Vec::new();
        let mut before = from;
        for column in between {
            let member = self.places.len();
            self.places.push(Place { height: 6.0, ..Place::default() });
            self.ties.push(Vec::new());
            if let Some(order) = self.order.get_mut(column) {
                order.push(member);
            }
            self.tie(before, member);
            members.push(member);
            before = member;
        }
        self.tie(before, to);
        members
    }

    fn tie(&mut self, one: usize, other: usize) {
        for (member, tied) in [(one, other), (other, one)] {
            if let Some(ties) = self.ties.get_mut(member) {
                ties.push(tied);
            }
        }
    }

    /// Orders each column by the positions of its members' neighbours, sweeping right and left.
    fn sort(&mut self) {
        let mut rank = vec![0.0; self.places.len()];
        for order in &self.order {
            for (position, member) in order.iter().enumerate() {
                if let Some(rank) = rank.get_mut(*member) {
                    *rank = (position as f64 + 0.5) / order.len() as f64;
                }
            }
        }
        for sweep in 0..SWEEPS {
            let count = self.order.len();
            for step in 0..count {
                let column = if sweep % 2 == 0 { step } else { count - 1 - step };
                let Some(order) = self.order.get_mut(column) else { continue };
                let ties = &self.ties;
                let centre = |member: &usize| {
                    let tied = ties.get(*member).map_or(&[][..], Vec::as_slice);
                    let own = rank.get(*member).copied().unwrap_or(0.0);
                    let sum: f64 = tied.iter().filter_map(|other| rank.get(*other)).sum();
                    if tied.is_empty() { own } else { sum / tied.len() as f64 }
                };
                let mut keyed: Vec<(f64, usize)> = order.iter().map(|member| (centre(member), *member)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                *order = keyed.into_iter().map(|(_, member)| member).collect();
                let length = order.len() as f64;
                for (position, member) in order.iter().enumerate() {
                    if let Some(rank) = rank.get_mut(*member) {
                        *rank = (position as f64 + 0.5) / length;
                    }
                }
            }
        }
    }

    /// Sets the x of every column, and stacks its members.
    fn spread(&mut self) {
        let (mut x, mut gap) = (24.0, GAP + EDGE_GAP);
        for order in &self.order {
            let width =
                order.iter().filter_map(|member| self.places.get(*member)).map(|place| place.width).fold(0.0, f64::max);
            let mut y = 0.0;
            for member in order {
                if let Some(place) = self.places.get_mut(*member) {
                    if place.width == 0.0 {
                        place.width = width;
                    }
                    place.x = x + (width - place.width) / 2.0;
                    place.y = y;
                    y += place.height + SPACE;
                }
            }
            x += width + gap;
            gap = GAP;
        }
    }

    /// Moves each member towards its neighbours as far as the column allows, and returns the size
    /// of the graph.
    fn settle(&mut self) -> (f64, f64) {
        for _ in 0..SWEEPS {
            for order in &self.order {
                let mut wanted: Vec<f64> = Vec::new();
                for member in order {
                    let tied = self.ties.get(*member).map_or(&[][..], Vec::as_slice);
                    let middles = tied.iter().filter_map(|other| self.places.get(*other)).map(Place::middle);
                    let own = self.places.get(*member).copied().unwrap_or_default();
                    let target = if tied.is_empty() { own.middle() } else { middles.sum::<f64>() / tied.len() as f64 };
                    wanted.push(target - own.height / 2.0);
                }
                let heights: Vec<f64> =
                    order.iter().map(|member| self.places.get(*member).map_or(0.0, |place| place.height)).collect();
                for (member, y) in order.iter().zip(stacked(&wanted, &heights)) {
                    if let Some(place) = self.places.get_mut(*member) {
                        place.y = y;
                    }
                }
            }
        }
        let top = self.places.iter().map(|place| place.y).fold(f64::INFINITY, f64::min);
        let (mut width, mut height) = (0.0_f64, 0.0_f64);
        for place in &mut self.places {
            place.y += 64.0 - top;
            width = width.max(place.x + place.width + 24.0);
            height = height.max(place.y + place.height + 24.0);
        }
        (width, height)
    }
}

/// Returns positions as near to the wanted ones as order and spacing allow.
///
/// Blocks that would overlap are merged, and placed around the mean of their wanted positions.
fn stacked(wanted: &[f64], heights: &[f64]) -> Vec<f64> {
    let mut blocks: Vec<(f64, f64, usize)> = Vec::new();
    let mut offsets = Vec::new();
    for (target, height) in wanted.iter().zip(heights) {
        offsets.push(0.0);
        blocks.push((*target, height + SPACE, 1));
        while let [.., before, last] = blocks.as_slice() {
            if before.0 + before.1 <= last.0 {
                break;
            }
            let (mine, theirs) = (before.2 as f64, last.2 as f64);
            let start = (before.0 * mine + (last.0 - before.1) * theirs) / (mine + theirs);
            let merged = (start, before.1 + last.1, before.2 + last.2);
            blocks.truncate(blocks.len() - 2);
            blocks.push(merged);
        }
    }
    let mut next = 0;
    for (start, _, count) in blocks {
        let mut y = start;
        for index in next..next + count {
            if let Some(place) = offsets.get_mut(index) {
                *place = y;
            }
            y += heights.get(index).copied().unwrap_or(0.0) + SPACE;
        }
        next += count;
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_of_a_column_do_not_overlap() {
        let found = stacked(&[0.0, 5.0, 200.0, -50.0], &[10.0, 20.0, 30.0, 40.0]);
        for (pair, height) in found.windows(2).zip([10.0, 20.0, 30.0]) {
            assert!(pair[0] + height + SPACE <= pair[1] + 1e-9, "{found:?}");
        }
    }
}
