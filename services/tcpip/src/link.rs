//! The link: frames, their pages, and the neighbours on it.

pub(crate) mod device;
pub(crate) mod fragments;
pub mod frame;
pub(crate) mod neighbours;
pub(crate) mod page_runs;
pub mod segmentation;
