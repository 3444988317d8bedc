//! Xen's public interface, as far as a guest of ours and the other ends of its rings use it: one
//! module for each header (`xen/include/public`), constants and layouts only.
//!
//! The names are the header's, without its prefix. `tests/bed/tests/headers` holds the numbers and
//! layouts against the headers themselves.

pub mod console;
pub mod elfnote;
pub mod event;
pub mod grant;
pub mod netif;
pub mod ring;
pub mod start_info;
pub mod xenbus;
pub mod xs_wire;
