//! The policy compiler: one TOML file states the whole authority of an image.
//!
//! This crate reads and checks the file. It makes the capability tables that the kernel enforces
//! and the bindings that each program is compiled with. It packs kernel, programs and tables into
//! one bootable ELF file, and verifies such a file by a second, independent path ([`verify`]).
//!
//! The stages of a policy are types: [`Sound`] can be analysed, [`Checked`] can become an image.
//!
//! ```
//! use cloister_policy::{STARTING_POLICY, parse};
//!
//! let policy = parse("mine.toml", STARTING_POLICY).unwrap();
//! let names: Vec<_> = policy.services().map(|service| service.name()).collect();
//! assert_eq!(names, ["server", "worker"]);
//! // The worker's program is compiled with this text, which has only its own capabilities.
//! let bindings = policy.bindings("worker").unwrap();
//! assert!(bindings.contains("clock") && !bindings.contains("entropy"));
//!
//! // A mistake is refused, with its place and with what would be right.
//! let mistaken = STARTING_POLICY.replace("interface = \"socket\"", "interface = \"sockets\"");
//! let Err(report) = parse("mine.toml", &mistaken) else { panic!("`sockets` is no interface") };
//! assert!(report.to_string().contains("sockets"), "{report}");
//! ```
#![forbid(unsafe_code)]

mod address_space;
mod authority;
mod bindings;
mod canonical;
mod check;
mod checked;
mod claim;
mod diagnostic;
mod diff;
mod emit;
mod explain;
mod facts;
mod format;
mod graph;
pub mod guest_config;
mod html;
mod image_form;
mod image_limits;
mod matrix;
mod model;
mod nearest;
mod pack;
mod plan;
mod printable;
mod prove;
mod read;
pub mod release;
mod schema;
mod show;
pub mod sign;
mod sound;
pub mod unused;
pub mod verify;
mod warn;

// The files of tests/common, which unit tests include, name the crate by its outside name.
#[cfg(test)]
extern crate self as cloister_policy;

pub use checked::{Checked, load, parse};
pub use diagnostic::{Finding, Related, Report};
pub use diff::{Asserted, Assertions, Broken, Change, Class, Difference, PinChange, Replaced, Reworded, Witness, diff};
pub use explain::{Answer, Explanation, Unclear};
pub use facts::{Facts, SCHEMA as FACTS_SCHEMA, facts_of_image, facts_of_policy};
pub use format::{format, format_file};
pub use graph::Graph;
pub use matrix::{Least, Matrix, MatrixRow};
pub use pack::{Extras, PackError, Program, pack, pack_with};
pub use printable::{hexadecimal, is_plain, printable, printable_json, printable_lines};
pub use prove::Verdict;
pub use read::text::text_of;
pub use schema::schema;
pub use show::{About, AssertionRow, Considered, ImageHashes, Page, ShowFormat, date_of};
pub use sound::{Service, Sound, Step, analyse, analyse_text};
pub use warn::Warning;

/// A commented policy to start from.
pub const STARTING_POLICY: &str = include_str!("init.toml");
