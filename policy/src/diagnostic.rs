//! Describes mistakes in a policy: the mistake, its position, and what to write instead.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, Title};

use crate::image_limits::MAX_POLICY;
use crate::printable::{escaped, is_plain, printable};

/// The number of mistakes that are shown; the others are counted.
const MAX_SHOWN: usize = 200;

/// The largest snippet of the file that shows a mistake, in bytes: the size of the largest policy
/// of an image.
const MAX_SNIPPET: usize = MAX_POLICY as usize;

/// A range of the policy's text, in bytes.
pub(crate) type Span = Range<usize>;

/// A value and its position in the text.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<T> {
    /// The value.
    pub value: T,
    /// The position.
    pub span: Span,
}

impl<T> Spanned<T> {
    pub(crate) fn new(value: T, span: Span) -> Self {
        Spanned { value, span }
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: change(self.value), span: self.span }
    }
}

/// One mistake.
#[derive(Clone, Debug)]
pub(crate) struct Diagnostic {
    message: String,
    span: Option<Span>,
    label: String,
    related: Vec<(Span, String)>,
    help: Option<String>,
}

impl Diagnostic {
    /// Makes a mistake at a position.
    pub(crate) fn at(span: &Span, message: impl Into<String>) -> Self {
        Diagnostic { span: Some(span.clone()), ..Diagnostic::of_file(message) }
    }

    /// Makes a mistake of the whole file.
    pub(crate) fn of_file(message: impl Into<String>) -> Self {
        let message = printable(&message.into()).into_owned();
        Diagnostic { message, span: None, label: String::new(), related: Vec::new(), help: None }
    }

    /// Adds a label at the position.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = printable(&label.into()).into_owned();
        self
    }

    /// Adds another position that is part of the mistake.
    pub(crate) fn related(mut self, span: &Span, label: impl Into<String>) -> Self {
        self.related.push((span.clone(), printable(&label.into()).into_owned()));
        self
    }

    /// Adds what to write instead.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(printable(&help.into()).into_owned());
        self
    }
}

/// The mistakes found so far.
#[derive(Default)]
pub(crate) struct Log(Vec<Diagnostic>);

impl Log {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first mistakes, in the order of the file, and the number of the others.
    fn into_sorted(mut self) -> (Vec<Diagnostic>, usize) {
        self.0.sort_by_key(|diagnostic| diagnostic.span.as_ref().map_or(0, |span| span.start));
        let more = self.0.len().saturating_sub(MAX_SHOWN);
        self.0.truncate(MAX_SHOWN);
        (self.0, more)
    }
}

/// A mistake, for programs.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Finding {
    /// Line, from 1; 0 if the mistake is of the whole file.
    pub line: usize,
    /// Column in characters, from 1; 0 if the mistake is of the whole file.
    pub column: usize,
    /// The problem.
    pub message: String,
    /// The text to write instead, if known.
    pub help: Option<String>,
    /// Other positions that are part of the mistake: for an assertion, the rules that break it.
    pub related: Vec<Related>,
}

/// Another position that is part of a mistake.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Related {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Its label.
    pub says: String,
}

/// The reasons why a policy is refused: its first 200 mistakes, and the number of the others.
pub struct Report {
    file: String,
    text: String,
    diagnostics: Vec<Diagnostic>,
    more: usize,
    readable: bool,
}

impl Report {
    /// Makes the report of a policy that does not hold.
    pub(crate) fn refused(file: &str, text: &str, log: Log) -> Self {
        let (diagnostics, more) = log.into_sorted();
        Report { file: printable(file).into_owned(), text: text.into(), diagnostics, more, readable: true }
    }

    /// Makes the report of a file that is not a policy at all.
    pub(crate) fn unusable(file: &str, text: &str, diagnostic: Diagnostic) -> Self {
        let (file, diagnostics) = (printable(file).into_owned(), vec![diagnostic]);
        Report { file, text: text.into(), diagnostics, more: 0, readable: false }
    }

    /// Returns `true` if the file could be read as TOML. If not, it is not a policy at all.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Returns the message that counts the mistakes that are not shown, if there are any.
    fn others(&self) -> Option<Diagnostic> {
        let others = match self.more {
            0 => return None,
            1 => "1 more error is".to_owned(),
            more => format!("{more} more errors are"),
        };
        Some(Diagnostic::of_file(format!("{others} not shown")))
    }

    /// Returns the first 200 mistakes, in the order of the file, and one of the whole file that
    /// counts the others.
    pub fn findings(&self) -> impl Iterator<Item = Finding> + '_ {
        let lines = Lines::new(&self.text);
        let all = self.diagnostics.iter().cloned().chain(self.others());
        all.map(move |diagnostic| {
            let position = |span: &Span| lines.position(&self.text, span.start);
            let (line, column) = diagnostic.span.as_ref().map_or((0, 0), position);
            let related = diagnostic.related.iter().map(|(span, says)| {
                let (line, column) = position(span);
                Related { line, column, says: says.clone() }
            });
            let related = related.collect();
            Finding { line, column, message: diagnostic.message, help: diagnostic.help, related }
        })
    }

    /// Renders the mistakes as text, with the lines of the file; in colour if `styled`.
    #[must_use]
    pub fn render(&self, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        let lines = Lines::new(&self.text);
        let others = self.others();
        for diagnostic in self.diagnostics.iter().chain(&others) {
            out.push_str(&renderer.render(&[self.group(diagnostic, &lines)]));
            out.push_str("\n\n");
        }
        let count = self.diagnostics.len() + self.more;
        let errors = if count == 1 { "1 error".to_owned() } else { format!("{count} errors") };
        out.push_str(&format!("{}: {errors}", self.file));
        // In the lines of the file, the renderer replaces most control characters, including the
        // escape with which its own colours start. The rest are escaped here.
        escaped(&out, |c| is_plain(c) || c == '\n' || styled && c == '\u{1b}').into_owned()
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic, lines: &Lines) -> Group<'a> {
        let title = Level::ERROR.primary_title(diagnostic.message.as_str());
        let Some(span) = &diagnostic.span else {
            let group = Group::with_title(title).element(Origin::path(self.file.as_str()));
            return match &diagnostic.help {
                Some(help) => group.element(Level::HELP.message(help.as_str())),
                None => group,
            };
        };
        // The renderer reads all the text that it is given. It gets only the lines from the first
        // position to the last, so that many mistakes do not take quadratic time.
        let spans = || std::iter::once(span).chain(diagnostic.related.iter().map(|(span, _)| span));
        let first = spans().map(|span| clamp(&self.text, span).start).min().unwrap_or(0);
        let last = spans().map(|span| clamp(&self.text, span).end).max().unwrap_or(0);
        let start = lines.start(lines.line(first));
        let end =
            self.text.get(last..).and_then(|rest| rest.find('\n')).map_or(self.text.len(), |length| last + length);
        if end - start > MAX_SNIPPET {
            return self.positions_only(diagnostic, span, title, lines);
        }
        let within = |span: &Span| {
            let span = clamp(&self.text, span);
            span.start - start..span.end - start
        };
        let related = diagnostic
            .related
            .iter()
            .map(|(span, label)| AnnotationKind::Context.span(within(span)).label(label.as_str()));
        let snippet = Snippet::source(self.text.get(start..end).unwrap_or_default())
            .line_start(lines.line(first))
            .path(self.file.as_str())
            .annotation(AnnotationKind::Primary.span(within(span)).label(diagnostic.label.as_str()))
            .annotations(related);
        let group = title.element(snippet);
        match &diagnostic.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }

    /// Renders a mistake with its positions, without the lines of the file.
    fn positions_only<'a>(
        &'a self,
        diagnostic: &'a Diagnostic,
        span: &Span,
        title: Title<'a>,
        lines: &Lines,
    ) -> Group<'a> {
        let (line, column) = lines.position(&self.text, span.start);
        let origin = Origin::path(self.file.as_str()).line(line).char_column(column);
        let mut group = Group::with_title(title).element(origin);
        for (span, label) in &diagnostic.related {
            let (line, column) = lines.position(&self.text, span.start);
            group = group.element(Level::NOTE.message(format!("{line}:{column}: {label}")));
        }
        match &diagnostic.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Report {}

/// The start of each line of a text.
pub(crate) struct Lines(Vec<usize>);

impl Lines {
    pub(crate) fn new(text: &str) -> Self {
        let next = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset + 1);
        Lines(std::iter::once(0).chain(next).collect())
    }

    /// Returns the line, from 1, of a byte of the text.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }

    /// Returns the first byte of a line.
    fn start(&self, line: usize) -> usize {
        line.checked_sub(1).and_then(|index| self.0.get(index)).copied().unwrap_or(0)
    }

    /// Returns line and column, each from 1, of a byte of the text.
    fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let offset = if text.is_char_boundary(offset) { offset } else { text.len() };
        let line = self.line(offset);
        let start = self.start(line);
        (line, text.get(start..offset).map_or(0, |before| before.chars().count()) + 1)
    }
}

/// Cuts a span to the text: parsers report an unexpected end just past it.
fn clamp(text: &str, span: &Span) -> Span {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let text = "a\nüb\n";
        let lines = Lines::new(text);
        let position = |text: &str, offset| lines.position(text, offset);
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (2, 1));
        assert_eq!(position(text, 4), (2, 2));
        assert_eq!(position(text, 6), (3, 1));
        assert_eq!(position(text, 99), (3, 1));
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let report = crate::checked::parse("x", "\"\\u001b[31m\\n\" = 1\nformat = 2\n").err().unwrap();
        assert!(!report.to_string().contains('\u{1b}'));
        assert!(report.findings().any(|found| found.message == "a policy has no key `\\u{1b}[31m\\n`"));
    }

    #[test]
    fn places_too_far_apart_to_be_shown_are_named() {
        let text = format!("first\n{}\n  second\n", "x".repeat(MAX_SNIPPET));
        let second = MAX_SNIPPET + 9;
        let mistake = Diagnostic::at(&(second..second + 6), "twice").related(&(0..5), "here").help("once");
        let shown = Report::unusable("file", &text, mistake).to_string();
        let all = ["error: twice", "file:3:3", "1:1: here", "once"];
        assert!(all.iter().all(|part| shown.contains(part)) && shown.len() < 200, "{shown}");
    }

    #[test]
    fn a_span_past_the_end_or_inside_a_character_is_rendered() {
        let text = "ü";
        let report = Report::unusable("x", text, Diagnostic::at(&(1..9), "cut"));
        assert!(report.to_string().contains("error: cut"));
        let report = Report::unusable("x", "", Diagnostic::at(&(7..9), "cut"));
        assert!(report.to_string().contains("x:1:1"));
    }
}
