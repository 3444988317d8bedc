//! Renders the page as text, as Markdown and as HTML.

use std::fmt::Write;

use super::page::{Page, Table};
use crate::html::escape;
use crate::prove::Verdict;

/// Columns wider than this are not padded.
const WIDEST: usize = 48;

pub(super) fn text(page: &Page) -> String {
    let mut out = format!("Policy of the image {}\n{}\nhash {}\n", page.image, page.file, page.hash_text());
    for table in &page.tables {
        let _ = write!(out, "\n{}\n{}\n{}\n", table.title, "-".repeat(table.title.len()), table.note);
        text_table(table, &mut out);
    }
    let title = "Assertions";
    let _ = write!(out, "\n{title}\n{}\n{}\n", "-".repeat(title.len()), summary(page));
    for verdict in &page.verdicts {
        let _ = writeln!(out, "  {:5}  {} (line {}): {}", word(verdict), verdict.name, verdict.line, verdict.why);
        let _ = writeln!(out, "         {}", verdict.finding);
        for step in &verdict.path {
            let _ = writeln!(out, "           line {:>4}  {}: {}", step.line, step.rule, step.says);
        }
    }
    out
}

fn word(verdict: &Verdict) -> &'static str {
    if verdict.holds { "holds" } else { "FAILS" }
}

fn summary(page: &Page) -> String {
    let failed = page.verdicts.iter().filter(|verdict| !verdict.holds).count();
    match (page.verdicts.len(), failed) {
        (0, _) => "The policy has no assertions.".into(),
        (count, 0) => format!("All {count} hold, proved over the closure."),
        (count, failed) => format!("{failed} of {count} do not hold."),
    }
}

fn text_table(table: &Table, out: &mut String) {
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
    let mut row = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::from(" ");
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, " {cell:width$} ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    };
    row(&mut table.columns.iter().copied());
    for cells in &table.rows {
        row(&mut cells.iter().map(String::as_str));
    }
}

pub(super) fn markdown(page: &Page) -> String {
    let escape = |text: &str| text.replace('|', "\\|").replace('*', "\\*");
    let mut out =
        format!("# Policy of the image {}\n\n`{}`, hash `{}`\n", page.image, escape(&page.file), page.hash_text());
    for table in &page.tables {
        let _ = write!(out, "\n## {}\n\n{}\n\n", table.title, table.note);
        let _ = writeln!(out, "| {} |\n|{}", table.columns.join(" | "), "---|".repeat(table.columns.len()));
        for row in &table.rows {
            let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }
    let _ = write!(out, "\n## Assertions\n\n{}\n\n", summary(page));
    for verdict in &page.verdicts {
        let _ = writeln!(
            out,
            "- **{}** `{}`: {}. Found: {}.",
            word(verdict),
            verdict.name,
            escape(&verdict.why),
            escape(&verdict.finding)
        );
        for step in &verdict.path {
            let _ = writeln!(out, "    - line {}: {}", step.line, escape(&step.says));
        }
    }
    out
}

const STYLE: &str = "
body { font: 14px/1.45 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .25rem; }
code, .hash { font-family: ui-monospace, monospace; font-size: .92em; overflow-wrap: anywhere; }
p { margin: .25rem 0 .6rem; color: #4a5058; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #d8dde3; }
th { font-weight: 600; color: #4a5058; } svg { width: 100%; height: auto; }
.holds { color: #1a6b32; font-weight: 600; } .fails { color: #b3261e; font-weight: 700; }
.sign td { height: 2.5rem; border-bottom: 1px solid #1b1f24; width: 33%; vertical-align: bottom; color: #4a5058; }
@media print { body { font-size: 10px; margin: 0; max-width: none; } h2 { break-after: avoid; } tr, svg { break-inside: avoid; } }
";

pub(super) fn html(page: &Page, graph: &str) -> String {
    let (image, file) = (escape(&page.image), escape(&page.file));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Policy of {image}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>Policy of the image {image}</h1>\n\
         <p>{file}<br>hash <span class=\"hash\">{}</span></p>\n<p>{}</p>\n{graph}\n",
        page.hash_text(),
        escape(&summary(page))
    );
    for table in &page.tables {
        let _ = write!(out, "<h2>{}</h2>\n<p>{}</p>\n<table>\n<tr>", table.title, escape(table.note));
        table.columns.iter().for_each(|column| out.push_str(&format!("<th>{column}</th>")));
        out.push_str("</tr>\n");
        for row in &table.rows {
            let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
            let _ = writeln!(out, "<tr>{cells}</tr>");
        }
        out.push_str("</table>\n");
    }
    out.push_str("<h2>Assertions</h2>\n<table>\n<tr><th>verdict</th><th>assertion</th><th>threat</th><th>found</th><th>line</th></tr>\n");
    for verdict in &page.verdicts {
        let class = if verdict.holds { "holds" } else { "fails" };
        let steps: String =
            verdict.path.iter().map(|step| format!("<br>line {}: {}", step.line, escape(&step.says))).collect();
        let _ = writeln!(
            out,
            "<tr><td class=\"{class}\">{class}</td><td><code>{}</code></td><td>{}</td><td>{}{steps}</td><td>{}</td></tr>",
            escape(&verdict.name),
            escape(&verdict.why),
            escape(&verdict.finding),
            verdict.line
        );
    }
    out.push_str("</table>\n<h2>Signature</h2>\n<table class=\"sign\"><tr><td>name</td><td>date</td><td>signature</td></tr></table>\n</body>\n</html>\n");
    out
}
