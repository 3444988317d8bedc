//! Renders the page as one HTML file, which can be printed.

use std::fmt::Write;

use super::claims::AssertionRow;
use super::page::{Page, Table};
use crate::html::escape;
use crate::sound::Step;

/// Text is at least 7 pt on paper. The head of a table is repeated on each page, and the graph has
/// a page of its own, in landscape.
const STYLE: &str = "
body { font: 14px/1.45 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .25rem; }
code, .hash { font-family: ui-monospace, monospace; font-size: .92em; overflow-wrap: anywhere; }
p { margin: .25rem 0 .6rem; color: #4a5058; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #d8dde3; }
th { font-weight: 600; color: #4a5058; } svg { width: 100%; height: auto; }
thead { display: table-header-group; } tr { break-inside: avoid; }
.head { width: auto; } .head td { border: 0; padding: 0 1rem 0 0; }
.claim { font-weight: 600; } .said { color: #4a5058; font-style: italic; } .step { color: #4a5058; padding-left: 1rem; }
.holds { color: #1a6b32; font-weight: 600; } .fails { color: #b3261e; font-weight: 700; }
.sign td { height: 2.5rem; border-bottom: 1px solid #1b1f24; width: 33%; vertical-align: bottom; color: #4a5058; }
@page { size: A4; margin: 12mm; }
@page graph { size: A4 landscape; margin: 10mm; }
@media print {
  body { font-size: 7.5pt; margin: 0; padding: 0; max-width: none; } h1 { font-size: 13pt; } h2 { font-size: 10pt; break-after: avoid; }
  h2 + p { break-after: avoid; } th, td { padding: 1.5pt 5pt 1.5pt 0; } code, .hash { font-size: 7pt; } .head td { padding: 0 10pt 0 0; }
  .graph { page: graph; break-before: page; break-after: page; } svg { break-inside: avoid; max-height: 185mm; }
}
";

pub(super) fn render(page: &Page, graph: &str) -> String {
    let image = escape(&page.image);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Policy of {image}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>Policy of the image {image}</h1>\n<table class=\"head\">\n"
    );
    for (what, value) in page.head() {
        let _ = writeln!(out, "<tr><td>{what}</td><td class=\"hash\">{}</td></tr>", escape(&value));
    }
    let _ = writeln!(out, "</table>\n<p>{}</p>", escape(&page.summary()));
    let _ = writeln!(out, "<div class=\"graph\">\n{graph}</div>");
    page.tables.iter().for_each(|shown| table(shown, &mut out));
    out.push_str(
        "<h2>Assertions</h2>\n<p>The claim is a sentence that the tool makes from the rule. The author's words are the \
         author's; nothing checks them.</p>\n<table>\n<thead><tr><th>verdict</th><th>claim</th><th>found, and what was \
         considered</th><th>line</th></tr></thead>\n",
    );
    page.assertions.iter().for_each(|row| assertion(row, &mut out));
    out.push_str("</table>\n<h2>Signature</h2>\n<table class=\"sign\"><tr><td>name</td><td>date</td><td>signature</td></tr></table>\n</body>\n</html>\n");
    out
}

fn table(table: &Table, out: &mut String) {
    let _ = write!(out, "<h2>{}</h2>\n<p>{}</p>\n<table>\n<thead><tr>", escape(table.title), escape(table.note));
    for column in &table.columns {
        // A long name of an operation can break at its dot.
        let _ = write!(out, "<th>{}</th>", escape(column).replace('.', ".<wbr>"));
    }
    out.push_str("</tr></thead>\n");
    for row in &table.rows {
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = writeln!(out, "<tr>{cells}</tr>");
    }
    out.push_str("</table>\n");
}

fn assertion(row: &AssertionRow, out: &mut String) {
    let verdict = &row.verdict;
    let class = if verdict.holds { "holds" } else { "fails" };
    let _ = write!(
        out,
        "<tr><td class=\"{class}\">{class}</td><td><div class=\"claim\">{}</div><code>{}</code>: <code>{}</code>\
         <div class=\"said\">the author says: “{}”</div></td><td>{}",
        escape(&row.sentence),
        escape(&verdict.name),
        escape(&verdict.claim),
        escape(&verdict.why),
        escape(&verdict.finding)
    );
    steps(&verdict.path, out);
    let _ = write!(out, "<div>considered: {}</div>", escape(&row.considered));
    for path in &row.paths {
        let _ = write!(out, "<div>{}</div>", escape(&path.says));
        steps(&path.steps, out);
    }
    let _ = writeln!(out, "</td><td>{}</td></tr>", verdict.line);
}

fn steps(steps: &[Step], out: &mut String) {
    for step in steps {
        let _ = write!(out, "<div class=\"step\">line {}: {}</div>", step.line, escape(&step.says));
    }
}
