//! Renders the page as Markdown.

use std::fmt::Write;

use super::claims::AssertionRow;
use super::page::Page;
use crate::sound::Step;

/// Returns text that Markdown shows as it is: every sign of ASCII that could begin something else
/// is escaped (CommonMark, 2.4).
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii_punctuation() && !matches!(c, '.' | ',' | ';' | ':' | '/' | '%' | '?' | '-' | '\'') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

pub(super) fn render(page: &Page) -> String {
    let mut out = format!("# Policy of the image {}\n\n", escape(&page.image));
    for (what, value) in page.head() {
        let _ = writeln!(out, "- {what}: {}", escape(&value));
    }
    let _ = writeln!(out, "\n{}", page.summary());
    for table in &page.tables {
        let _ = write!(out, "\n## {}\n\n{}\n\n", table.title, escape(table.note));
        let heads: Vec<String> = table.columns.iter().map(|column| escape(column)).collect();
        let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
        for row in &table.rows {
            let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }
    let _ = write!(out, "\n## Assertions\n\n{}\n\n", page.summary());
    page.assertions.iter().for_each(|row| assertion(row, &mut out));
    out
}

fn assertion(row: &AssertionRow, out: &mut String) {
    let verdict = &row.verdict;
    let word = if verdict.holds { "holds" } else { "FAILS" };
    let name = escape(&verdict.name);
    let _ = writeln!(out, "- **{word}** {name} (line {}): {}", verdict.line, escape(&row.sentence));
    let _ = writeln!(out, "    - as written: {}", escape(&verdict.claim));
    let _ = writeln!(out, "    - found: {}", escape(&verdict.finding));
    steps(&verdict.path, out);
    let _ = writeln!(out, "    - considered: {}", escape(&row.considered));
    for path in &row.paths {
        let _ = writeln!(out, "    - {}", escape(&path.says));
        steps(&path.steps, out);
    }
    let _ = writeln!(out, "    - the author says, and nothing checks: \"{}\"", escape(&verdict.why));
}

fn steps(steps: &[Step], out: &mut String) {
    for step in steps {
        let _ = writeln!(out, "        - line {}: {}", step.line, escape(&step.says));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_markup() {
        let text = escape("<b>holds</b> [x](y) `z` *a* _b_ # | ~ & ! \\");
        let mut before = ' ';
        for c in text.chars() {
            assert!(before == '\\' || !"<>[]()`*_#|~&!".contains(c), "{text}");
            before = if before == '\\' { ' ' } else { c };
        }
        assert_eq!(escape("a-b.c: 4 pages, 10 %"), "a-b.c: 4 pages, 10 %");
    }
}
