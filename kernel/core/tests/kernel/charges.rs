//! Tests that the kernel charges its own work.

use cloister_kernel_core::Costs;

use crate::machine::{Bench, shipped};

/// docs/scheduling.md says who pays for what.
#[test]
fn the_kernels_work_is_charged_to_who_caused_it() {
    let mut bench = Bench::new(&shipped());
    let [caller, next] = ["http", "tcpip"].map(|name| bench.service(name));
    let kernel = &mut bench.kernel;
    kernel.start_accounting(Costs::new(0), 1_000);
    kernel.charge_entry(caller, caller, 1_010);
    kernel.charge_kernel_work(next, || 1_030);
    assert_eq!((kernel.cpu_time(caller), kernel.cpu_time(next)), (30, 0), "to go on to another");
    kernel.charge_entry(next, next, 1_100);
    kernel.charge_restart(next, 1_500);
    assert_eq!((kernel.cpu_time(caller), kernel.cpu_time(next)), (30, 470), "to restart it");
}
