//! Counts `unsafe` in Rust sources.
//!
//! It counts every use in the source text, for any feature or target, including tests within the
//! files. That is an upper bound for the compiled code.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::visit::{self, Visit};

/// Numbers of uses of `unsafe`, by what follows the word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnsafeCounts {
    pub blocks: u64,
    pub functions: u64,
    pub traits: u64,
    pub implementations: u64,
    /// `true` if a root file forbids it: the compiler then refuses all of the above.
    pub forbids: bool,
}

/// Counts the uses in the files of one crate.
pub fn count(files: &[PathBuf]) -> Result<UnsafeCounts> {
    let mut counts = UnsafeCounts::default();
    for path in files {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        counts.add(&text, is_root(path));
    }
    Ok(counts)
}

fn is_root(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "lib.rs" || name == "main.rs")
}

impl UnsafeCounts {
    fn add(&mut self, text: &str, root: bool) {
        match syn::parse_file(text) {
            Ok(file) => {
                self.forbids |= root && file.attrs.iter().any(forbids);
                self.visit_file(&file);
            }
            // It is included by another file, or of a newer edition: count its words.
            Err(_) => self.words(text),
        }
    }

    /// Counts in text without a syntax tree, such as the inside of macros.
    fn words(&mut self, text: &str) {
        let spaced = text.replace('{', " { ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        for pair in words.windows(2) {
            match pair {
                ["unsafe", "{"] => self.blocks += 1,
                ["unsafe", "fn" | "extern"] => self.functions += 1,
                ["unsafe", "trait"] => self.traits += 1,
                ["unsafe", "impl"] => self.implementations += 1,
                _ => {}
            }
        }
    }
}

fn forbids(attribute: &syn::Attribute) -> bool {
    let list = attribute.meta.require_list();
    attribute.path().is_ident("forbid") && list.is_ok_and(|list| list.tokens.to_string().contains("unsafe_code"))
}

impl<'ast> Visit<'ast> for UnsafeCounts {
    fn visit_expr_unsafe(&mut self, node: &'ast syn::ExprUnsafe) {
        self.blocks += 1;
        visit::visit_expr_unsafe(self, node);
    }

    fn visit_signature(&mut self, node: &'ast syn::Signature) {
        self.functions += u64::from(matches!(node.safety, syn::Safety::Unsafe(_)));
        visit::visit_signature(self, node);
    }

    fn visit_item_trait(&mut self, node: &'ast syn::ItemTrait) {
        self.traits += u64::from(node.unsafety.is_some());
        visit::visit_item_trait(self, node);
    }

    fn visit_item_impl(&mut self, node: &'ast syn::ItemImpl) {
        self.implementations += u64::from(node.unsafety.is_some());
        visit::visit_item_impl(self, node);
    }

    fn visit_macro(&mut self, node: &'ast syn::Macro) {
        self.words(&node.tokens.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> UnsafeCounts {
        let mut counts = UnsafeCounts::default();
        counts.add(text, true);
        counts
    }

    #[test]
    fn each_form_is_counted_once_wherever_it_stands() {
        let text = "
            // unsafe { not this }
            unsafe fn a() { let s = \"unsafe { nor this }\"; unsafe { b() } }
            unsafe trait T { unsafe fn c(); }
            unsafe impl T for u8 { unsafe fn c() {} }
            macro_rules! m { () => { unsafe { x() } unsafe impl Y for Z {} } }
            fn d() { assert!(unsafe { e() }); }";
        let expected = UnsafeCounts { blocks: 3, functions: 3, traits: 1, implementations: 2, forbids: false };
        assert_eq!(counts(text), expected);
    }

    #[test]
    fn a_file_that_forbids_is_seen() {
        assert!(counts("#![forbid(unsafe_code)]\nfn a() {}").forbids);
        assert!(!counts("#![deny(unsafe_code)]\nfn a() {}").forbids);
        assert!(!counts("fn a() { #![allow(unsafe_code)] }").forbids);
    }

    #[test]
    fn what_does_not_parse_is_counted_by_its_words() {
        assert_eq!(counts("=> unsafe{ a } } unsafe fn b").blocks, 1);
        assert_eq!(counts("=> unsafe{ a } } unsafe fn b").functions, 1);
    }
}
