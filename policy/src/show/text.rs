//! Renders the page as text.

use std::fmt::Write;

use super::claims::AssertionRow;
use super::page::{Page, Table};

/// Columns wider than this are not padded.
const WIDEST: usize = 48;

pub(super) fn render(page: &Page) -> String {
    let mut out = format!("Policy of the image {}\n", page.image);
    for (what, value) in page.head() {
        let _ = writeln!(out, "{what:16} {value}");
    }
    let _ = writeln!(out, "\n{}", page.summary());
    for table in &page.tables {
        let _ = write!(out, "\n{}\n{}\n{}\n", table.title, "-".repeat(table.title.len()), table.note);
        rows(table, &mut out);
    }
    let title = "Assertions";
    let _ = write!(out, "\n{title}\n{}\n{}\n", "-".repeat(title.len()), page.summary());
    page.assertions.iter().for_each(|row| assertion(row, &mut out));
    out
}

fn assertion(row: &AssertionRow, out: &mut String) {
    let verdict = &row.verdict;
    let word = if verdict.holds { "holds" } else { "FAILS" };
    let _ = writeln!(out, "\n  {word}  {} (line {})", verdict.name, verdict.line);
    let _ = writeln!(out, "    claim       {}", row.sentence);
    let _ = writeln!(out, "    as written  {}", verdict.claim);
    let _ = writeln!(out, "    found       {}", verdict.finding);
    for step in &verdict.path {
        let _ = writeln!(out, "                  line {:>4}  {}: {}", step.line, step.rule, step.says);
    }
    let _ = writeln!(out, "    considered  {}", row.considered);
    for path in &row.paths {
        let _ = writeln!(out, "                {}", path.says);
        for step in &path.steps {
            let _ = writeln!(out, "                  line {:>4}  {}: {}", step.line, step.rule, step.says);
        }
    }
    let _ = writeln!(out, "    the author says, and nothing checks: \"{}\"", verdict.why);
}

fn rows(table: &Table, out: &mut String) {
    if table.rows.is_empty() {
        out.push_str("  none\n");
        return;
    }
    let width = |column: usize| {
        let cells = table.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        let head = table.columns.get(column).map_or(0, |head| head.len());
        cells.chain([head]).max().unwrap_or(0).min(WIDEST)
    };
    let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();
    let mut row = |cells: &[String]| {
        let mut line = String::from(" ");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(line, " {cell:width$} ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    };
    row(&table.columns);
    table.rows.iter().for_each(|cells| row(cells));
}
