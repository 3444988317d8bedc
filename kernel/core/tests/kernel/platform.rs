//! Tests what a platform does that implements only what it must.

use cloister_caps::{DomId, EvtchnPort, GrantRef};
use cloister_kernel_core::Platform;
use cloister_sim::platform::NullPlatform;

use crate::machine::{Bench, shipped};

#[test]
fn a_machine_without_back_end_support_binds_and_maps_nothing() {
    assert_eq!(NullPlatform.bind_port(DomId(3), EvtchnPort(7)), None);
    let bench = Bench::new(&shipped());
    let rule = bench.tables.grants().iter().next().unwrap();
    let frame = bench.kernel.placements()[rule.region].page(0).unwrap();
    assert!(!NullPlatform.map_grant(GrantRef(8), frame, DomId(3), GrantRef(9), true));
}
