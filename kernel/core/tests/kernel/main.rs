//! Tests the kernel's decisions, under the policy that ships.
#![forbid(unsafe_code)]

mod authority;
mod charges;
mod clearing;
mod console;
mod events;
mod faults;
mod grants;
mod limits;
mod machine;
mod noninterference;
mod pins;
mod placements;
mod platform;
mod random;
mod refusals;
mod revoke;
mod shares;
mod usage;
