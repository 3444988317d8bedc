//! Reads the definitions and the layouts of Xen's public headers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use cloister_bed::{bed_dir, boot_files};

/// The folder of Xen's public headers.
static HEADERS: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = boot_files::unpacked("libxen-dev", &bed_dir().join("cache"));
    folder.unwrap_or_else(|error| panic!("{error}")).join("usr/include/xen")
});

/// Headers without their comments: their text, and the values of their definitions.
pub struct Header {
    text: String,
    values: BTreeMap<String, i64>,
}

/// The layout of a C structure on x86-64, or of a union.
pub struct Layout {
    /// The fields in order, each with its offset in bytes. A field of a nested structure follows
    /// that structure, under the names of both: `u.gso.size`.
    pub fields: Vec<(String, usize)>,
    /// The size in bytes.
    pub size: usize,
    align: usize,
}

/// Removes C's comments.
fn without_comments(text: &str) -> String {
    let mut parts = text.split("/*");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + " " + part.split_once("*/").map_or("", |(_, code)| code))
}

/// Keeps the first branch of each condition. In the structures that are compared, it is the one
/// for x86-64 and for the newest interface.
fn first_branches(text: &str) -> String {
    let mut skipping = false;
    let mut kept = String::new();
    for line in text.lines() {
        match line.trim_start().strip_prefix('#').map(str::trim_start) {
            Some(directive) if directive.starts_with("el") => skipping = true,
            Some(directive) if directive.starts_with("endif") => skipping = false,
            Some(_) => {}
            None if skipping => {}
            None => kept = kept + line.trim_end_matches('\\') + "\n",
        }
    }
    kept
}

/// Returns the declarations of a structure's body, up to its closing bracket.
fn declarations(body: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, character) in body.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ';' if depth == 0 => {
                found.push(body[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

impl Header {
    /// Reads headers. The later ones may use definitions of the earlier ones.
    pub fn read(names: &[&str]) -> Header {
        let mut header = Header { text: String::new(), values: BTreeMap::new() };
        for name in names {
            let path = HEADERS.join(name);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            header.define(&without_comments(&text));
        }
        header
    }

    /// Adds the text of a header and its definitions.
    fn define(&mut self, text: &str) {
        for line in text.lines() {
            if let Some((name, value)) = line.strip_prefix("#define").and_then(|rest| rest.trim().split_once(' '))
                && let Some(value) = self.value(value)
            {
                // A later definition of the same name is for an older interface.
                self.values.entry(name.to_owned()).or_insert(value);
            }
        }
        for body in text.split("enum ").skip(1).filter_map(|rest| rest.split_once('{')?.1.split_once('}')) {
            self.enumerate(body.0);
        }
        self.text.push_str(text);
    }

    fn enumerate(&mut self, body: &str) {
        let mut next = 0;
        for entry in body.lines().filter(|line| !line.starts_with('#')).collect::<String>().split(',') {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            next = self.value(value).unwrap_or(next);
            self.values.insert(name.trim().to_owned(), next);
            next += 1;
        }
    }

    /// Returns the value of an expression of numbers, known names and sizes, sums, products, shifts
    /// and brackets.
    fn value(&self, text: &str) -> Option<i64> {
        let text = text.trim().trim_end_matches('U');
        if let Some(inner) = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
            return self.value(inner);
        }
        if let Some((left, right)) = text.split_once('+') {
            return Some(self.value(left)? + self.value(right)?);
        }
        if let Some((left, right)) = text.split_once("<<") {
            return Some(self.value(left)? << self.value(right)?);
        }
        if let Some((left, right)) = text.split_once('*') {
            return Some(self.value(left)? * self.value(right)?);
        }
        if let Some(kind) = text.strip_prefix("sizeof(").and_then(|text| text.strip_suffix(')')) {
            return self.kind(kind).map(|layout| layout.size as i64);
        }
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            return i64::from_str_radix(digits, 16).ok();
        }
        text.parse().ok().or_else(|| self.values.get(text).copied())
    }

    /// Returns the layout of a type, if it is a number's or one of a structure that is defined
    /// here.
    fn kind(&self, kind: &str) -> Option<Layout> {
        let size = match kind {
            "char" | "uint8_t" | "int8_t" => 1,
            "uint16_t" | "int16_t" | "domid_t" => 2,
            "uint32_t" | "grant_ref_t" | "grant_handle_t" | "evtchn_port_t" => 4,
            "RING_IDX" | "XENSTORE_RING_IDX" | "XENCONS_RING_IDX" => 4,
            "uint64_t" | "xen_ulong_t" | "xen_pfn_t" | "XEN_GUEST_HANDLE(void)" => 8,
            _ => return self.find(kind).or_else(|| self.find(kind.strip_suffix("_t")?)),
        };
        Some(Layout { fields: Vec::new(), size, align: size })
    }

    /// Returns the layout of a structure, if it is defined here.
    fn find(&self, structure: &str) -> Option<Layout> {
        let head = format!("struct {structure}");
        let mut bodies = self.text.split(&head).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('{'));
        bodies.next().map(|body| self.layout(&first_branches(body), false))
    }

    /// Returns the layout of a body. It ends at the first field of an unknown type.
    fn layout(&self, body: &str, union: bool) -> Layout {
        let mut layout = Layout { fields: Vec::new(), size: 0, align: 1 };
        for declaration in declarations(body) {
            let (kind, names) = match declaration.split_once('{') {
                Some((keyword, rest)) => {
                    let (body, names) = rest.rsplit_once('}').expect("a closing bracket");
                    (Some(self.layout(body, keyword.starts_with("union"))), names.to_owned())
                }
                None => {
                    let plain = declaration.replace("unsigned long", "xen_ulong_t").replace("unsigned int", "uint32_t");
                    let plain = plain.trim_start_matches("struct ").trim_start_matches("union ");
                    let (kind, names) = plain.split_once(char::is_whitespace).expect("a type and names");
                    (self.kind(kind), names.to_owned())
                }
            };
            let known = kind.is_some();
            let kind = kind.unwrap_or(Layout { fields: Vec::new(), size: 0, align: 1 });
            for name in names.split(',') {
                let (name, count) = match name.trim().split_once('[') {
                    Some((name, count)) => (name, self.value(count.trim_end_matches(']'))),
                    None => (name.trim(), Some(1)),
                };
                let count = count.unwrap_or_else(|| panic!("the length of {name}"));
                let at = if union { 0 } else { layout.size.next_multiple_of(kind.align) };
                layout.fields.push((name.to_owned(), at));
                layout
                    .fields
                    .extend(kind.fields.iter().map(|(inner, offset)| (format!("{name}.{inner}"), at + offset)));
                layout.size = layout.size.max(at + kind.size * count as usize);
                layout.align = layout.align.max(kind.align);
            }
            if !known {
                return layout;
            }
        }
        layout.size = layout.size.next_multiple_of(layout.align);
        layout
    }

    /// Returns the layout of a structure. Its last field is the first of a type that is not known.
    pub fn structure(&self, structure: &str) -> Layout {
        self.find(structure).unwrap_or_else(|| panic!("there is no {structure}"))
    }

    /// Asserts that each name has this value in the headers.
    pub fn holds(&self, values: &[(&str, i64)]) {
        for (name, ours) in values {
            assert_eq!(self.values.get(*name), Some(ours), "{name}");
        }
    }

    /// Asserts that a structure has these fields, at these offsets.
    pub fn lays_out(&self, structure: &str, ours: &[(&str, usize)]) {
        let theirs = self.structure(structure);
        for (name, offset) in ours {
            assert_eq!(theirs.offset(name), Some(*offset), "{structure}.{name}");
        }
    }
}

impl Layout {
    /// Returns the offset of a field in bytes.
    pub fn offset(&self, name: &str) -> Option<usize> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1)
    }
}
