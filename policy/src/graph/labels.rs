//! Places the labels of edges: beside their own edge, and on no line, box or other label where that
//! is possible.

use std::collections::HashMap;

use super::layout::Place;

/// Width of a character of a label, and height of a line, in the units of the picture.
pub(super) const CHARACTER: f64 = 7.4;
pub(super) const LINE: f64 = 15.0;
/// The side of a cell of the grid in which points are looked up.
const CELL: f64 = 24.0;
/// The free space around a label.
const MARGIN: f64 = 2.0;
/// The number of labels up to which places are compared. A larger picture is not read on paper.
const MAX_LABELS: usize = 400;

/// Returns the width and the height of a label of several lines.
pub(super) fn size(label: &str) -> (f64, f64) {
    let widest = label.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    (widest as f64 * CHARACTER, label.lines().count() as f64 * LINE)
}

/// Everything that a label must not cover.
pub(super) struct Obstacles<'a> {
    pub boxes: &'a [Place],
    /// The size of the picture.
    pub size: (f64, f64),
    points: HashMap<(i64, i64), Vec<(f64, f64)>>,
}

impl<'a> Obstacles<'a> {
    /// Makes the obstacles from boxes and from lines, each a list of near points.
    pub(super) fn new(boxes: &'a [Place], lines: &[Vec<(f64, f64)>], size: (f64, f64)) -> Self {
        let mut points: HashMap<(i64, i64), Vec<(f64, f64)>> = HashMap::new();
        for point in lines.iter().flatten() {
            points.entry((cell(point.0), cell(point.1))).or_default().push(*point);
        }
        Obstacles { boxes, size, points }
    }

    /// Returns how bad a place is: 0 if it covers nothing.
    fn cost(&self, place: &Place, labels: &[Place]) -> f64 {
        let grown = grown(place, MARGIN);
        let covered = self.boxes.iter().chain(labels).filter(|other| overlap(&grown, other)).count();
        let outside = place.x < 4.0
            || place.y < 28.0
            || place.x + place.width > self.size.0 - 4.0
            || place.y + place.height > self.size.1 - 4.0;
        let (mut crossed, last) = (0usize, (grown.x + grown.width, grown.y + grown.height));
        for column in cell(grown.x)..=cell(last.0) {
            for row in cell(grown.y)..=cell(last.1) {
                let near = self.points.get(&(column, row)).map_or(&[][..], Vec::as_slice);
                let inside = |point: &&(f64, f64)| {
                    (grown.x..=last.0).contains(&point.0) && (grown.y..=last.1).contains(&point.1)
                };
                crossed += near.iter().filter(inside).count();
            }
        }
        covered as f64 * 4000.0 + f64::from(u8::from(outside)) * 20_000.0 + crossed as f64 * 300.0
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a position in a picture is small; `as` saturates")]
fn cell(position: f64) -> i64 {
    (position / CELL).floor() as i64
}

fn grown(place: &Place, by: f64) -> Place {
    Place { x: place.x - by, y: place.y - by, width: place.width + 2.0 * by, height: place.height + 2.0 * by }
}

fn overlap(one: &Place, other: &Place) -> bool {
    one.x < other.x + other.width
        && other.x < one.x + one.width
        && one.y < other.y + other.height
        && other.y < one.y + one.height
}

/// Returns the place of each label, given its text and the points of its edge.
pub(super) fn place(labels: &[(&str, &[(f64, f64)])], obstacles: &Obstacles<'_>) -> Vec<Place> {
    let mut placed: Vec<Place> = Vec::new();
    for (label, line) in labels {
        let size = size(label);
        let middle = line.get(line.len() / 2).copied().unwrap_or_default();
        let best = if labels.len() > MAX_LABELS {
            None
        } else {
            let candidates = candidates(line, size);
            let costs = candidates.map(|(place, far)| (obstacles.cost(&place, &placed) + far, place));
            costs.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, place)| place)
        };
        placed.push(best.unwrap_or_else(|| around(middle, size)));
    }
    placed
}

fn around((x, y): (f64, f64), (width, height): (f64, f64)) -> Place {
    Place { x: x - width / 2.0, y: y - height / 2.0, width, height }
}

/// Returns the places beside an edge, each with its distance from the best one: just above the
/// middle.
fn candidates(line: &[(f64, f64)], size: (f64, f64)) -> impl Iterator<Item = (Place, f64)> {
    let (width, height) = size;
    let (beside, above) = (width / 2.0 + 5.0, height / 2.0 + 5.0);
    let offsets = [
        (0.0, -above, 0.0),
        (0.0, above, 4.0),
        (beside, 0.0, 8.0),
        (-beside, 0.0, 8.0),
        (beside, -above * 0.6, 10.0),
        (-beside, -above * 0.6, 10.0),
        (beside, above * 0.6, 12.0),
        (-beside, above * 0.6, 12.0),
        (0.0, -above * 1.7, 30.0),
        (0.0, above * 1.7, 34.0),
    ];
    let count = line.len();
    line.iter().enumerate().step_by(2).flat_map(move |(index, (x, y))| {
        let far = (index as f64 / count as f64 - 0.5).abs() * 60.0;
        offsets.map(|(dx, dy, extra)| (around((x + dx, y + dy), size), far + extra))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_beside_the_lines_and_not_on_a_box() {
        let line = |y: f64| -> Vec<(f64, f64)> { (0..100).map(|step| (f64::from(step) * 5.0, y)).collect() };
        let lines = [line(100.0), line(112.0)];
        let boxes = [Place { x: 150.0, y: 60.0, width: 200.0, height: 30.0 }];
        let obstacles = Obstacles::new(&boxes, &lines, (500.0, 300.0));
        let places = place(&[("one", &lines[0]), ("two\nlines", &lines[1])], &obstacles);
        for (index, label) in places.iter().enumerate() {
            assert!(!overlap(label, &boxes[0]), "{label:?}");
            let on = |point: &(f64, f64)| overlap(label, &Place { x: point.0, y: point.1, width: 0.1, height: 0.1 });
            assert!(!lines.iter().flatten().any(on), "{label:?}");
            assert!(!places[..index].iter().any(|other| overlap(label, other)), "{places:?}");
        }
    }
}
