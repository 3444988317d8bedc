//! Tests what a platform does that implements only what it must.

use cloister_caps::{DomId, EvtchnPort, Gfn, GrantRef};
use cloister_kernel_core::Platform;
use cloister_sim::platform::NullPlatform;

#[test]
fn a_machine_without_back_end_support_binds_and_maps_nothing() {
    assert_eq!(NullPlatform.bind_port(DomId(3), EvtchnPort(7)), None);
    assert!(!NullPlatform.map_grant(GrantRef(8), Gfn(1), DomId(3), GrantRef(9), true));
}
