//! Guests with processors of their own, over the fakes.

use super::super::cpus::{Dedicated, Waits, follow};
use super::*;

/// Waits that tests have time for.
const WAITS: Waits =
    Waits { assign: Duration::from_millis(100), pause: Duration::from_millis(10), period: Duration::from_millis(20) };

/// The record of who has which, over the fakes.
pub(super) fn dedicated(world: &World) -> Dedicated {
    Dedicated::new(Arc::new(world.clone()), WAITS)
}

/// The kubelet's record with these set aside for the guest's pod.
fn record(pool: &str, exclusive: &str) -> String {
    json!({"policyName": "static", "defaultCpuSet": pool, "entries": {"pod-of-uid-1": {"compute": exclusive}}})
        .to_string()
}

/// A bench whose guest asks for two processors of its own.
fn bench() -> Bench {
    let bench = Bench::new();
    let cpu = json!({"sockets": 2, "maxSockets": 8, "dedicatedCpuPlacement": true});
    bench.world.change(VMI, |vmi| vmi["spec"]["domain"]["cpu"] = cpu);
    bench
}

fn synchronized(bench: &Bench) -> (Value, String) {
    let condition = bench.condition("Synchronized");
    (condition["reason"].clone(), condition["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn other_guests_are_off_the_processors_before_the_guest_starts() {
    let mut bench = bench();
    bench.world.state().cpu_record = Some(record("0-1,4-7", "2-3"));
    bench.world.state().failing.insert("start the domain");
    bench.pass().await;
    assert_eq!(bench.world.state().shares, ["0-1,4-7"]);
    bench.world.state().failing.clear();
    bench.pass().await;
    assert_eq!(bench.phase(), "Running");
    let state = bench.world.state();
    let domain = &state.domains[DOMAIN];
    assert_eq!((domain.cpus.as_deref(), domain.vcpus), (Some("2-3"), Some((2, 2))), "no room for more");
}

#[tokio::test]
async fn a_guest_waits_for_the_kubelets_word_and_says_so() {
    let mut bench = bench();
    bench.world.state().cpu_record = Some(json!({"policyName": "static", "defaultCpuSet": "0-7"}).to_string());
    bench.pass().await;
    assert!(bench.world.state().started.is_empty());
    let (reason, message) = synchronized(&bench);
    assert_eq!(reason, "CpusNotAssigned");
    assert!(message.starts_with("spec.domain.cpu.dedicatedCpuPlacement: "), "{message}");
    bench.world.state().cpu_record = Some(record("0-5", "6-7"));
    bench.pass().await;
    assert_eq!(bench.phase(), "Running");
}

#[tokio::test]
async fn a_kubelet_without_the_policy_is_named() {
    let mut bench = bench();
    bench.world.state().cpu_record = Some(json!({"policyName": "none", "defaultCpuSet": ""}).to_string());
    bench.pass().await;
    assert!(bench.world.state().started.is_empty());
    let (reason, message) = synchronized(&bench);
    assert_eq!(reason, "CpusNotAssigned");
    assert!(message.contains("policy is \"none\""), "{message}");
}

#[tokio::test]
async fn too_few_processors_start_nothing() {
    let mut bench = bench();
    bench.world.state().cpu_record = Some(record("0-6", "7"));
    bench.pass().await;
    assert!(bench.world.state().started.is_empty());
    assert_eq!(synchronized(&bench).1, "the guest needs 2 dedicated CPUs and its pod has 7");
}

#[tokio::test]
async fn a_processor_that_another_domain_still_has_is_not_given_away() {
    let mut bench = bench();
    bench.world.state().cpu_record = Some(record("0-1,4-7", "2-3"));
    bench.owner.hold_cpus("default_old", "3-4");
    bench.pass().await;
    assert!(bench.world.state().started.is_empty());
    let (reason, message) = synchronized(&bench);
    assert_eq!((reason, message.as_str()), (json!("CpusInUse"), "CPUs 3 are still in use by the domain default_old"));
    bench.owner.release_cpus("default_old");
    bench.pass().await;
    assert_eq!(bench.phase(), "Running");
}

#[tokio::test]
async fn nothing_starts_where_others_cannot_be_kept_off() {
    let mut bench = bench();
    bench.world.state().cpu_record = Some(record("0-1,4-7", "2-3"));
    bench.world.state().failing.insert("keep guests off CPUs");
    bench.pass().await;
    assert!(bench.world.state().started.is_empty());
    assert!(synchronized(&bench).1.contains("told to fail"));
}

#[tokio::test]
async fn the_node_says_what_it_offers_and_others_have_what_guests_leave() {
    let world = World::default();
    world.state().cpu_record = Some(record("0-7", ""));
    let dedicated = Arc::new(dedicated(&world));
    dedicated.hold("default_a", "2-3".parse().expect("a list"));
    let stop = CancellationToken::new();
    let following = tokio::spawn(follow(Arc::clone(&dedicated), stop.clone()));
    let becomes = async |labels: (bool, bool), share: &str| {
        let so = || {
            let state = world.state();
            state.labels == Some(labels) && state.shares.last().is_some_and(|last| last == share)
        };
        for _ in 0..500 {
            if so() {
                return;
            }
            tokio::time::sleep(WAITS.pause).await;
        }
        panic!("{labels:?} and {share:?} never came: {:?} {:?}", world.state().labels, world.state().shares);
    };
    becomes((true, false), "0-1,4-7").await;
    dedicated.release("default_a");
    becomes((true, false), "0-7").await;
    world.state().cpu_record = Some(json!({"policyName": "none", "defaultCpuSet": ""}).to_string());
    becomes((false, false), "").await;
    stop.cancel();
    following.await.expect("it ends");
}
