//! Processors that are plugged into a guest that runs.

use super::*;

#[tokio::test]
async fn processors_are_plugged_in_once_and_the_change_is_done() {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| vmi["spec"]["domain"]["cpu"] = json!({"sockets": 1, "cores": 2, "maxSockets": 4}));
    bench.pass().await;
    assert_eq!(bench.world.state().domains[DOMAIN].vcpus, Some((2, 8)));
    let under_way = json!([{"type": "HotVCPUChange", "status": "True"}]);
    bench.world.change(VMI, |vmi| {
        vmi["spec"]["domain"]["cpu"]["sockets"] = json!(3);
        vmi["status"]["conditions"] = under_way;
    });
    bench.world.state().failing.insert("plug vCPUs into the domain");
    bench.pass().await;
    assert_eq!(bench.condition("HotVCPUChange")["status"], "True");
    assert_eq!(bench.condition("Synchronized")["status"], "False", "the guest says what could not be done");
    assert_eq!(bench.status()["currentCPUTopology"]["sockets"], 1, "what is in force, not what is wished for");
    bench.world.state().failing.clear();
    bench.pass().await;
    assert_eq!(bench.world.state().domains[DOMAIN].vcpus, Some((6, 8)));
    assert_eq!(bench.status()["currentCPUTopology"]["sockets"], 3);
    assert!(bench.condition("HotVCPUChange").is_null() && bench.condition("Synchronized").is_null());
    assert_eq!(bench.world.state().started.len(), 1, "it was not started again");
}
