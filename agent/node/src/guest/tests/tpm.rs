//! A guest whose TPM keeps its state: what its image has when, and what is told of it.

use super::*;

const IMAGE: &str = "volumes/csi-vol-tpm";
const SECRET: &str = "/api/v1/namespaces/default/secrets/persistent-state-for-vm-abcde";
const PASSPHRASE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A world whose guest keeps the state of its TPM.
fn keeping() -> Bench {
    let bench = Bench::new();
    bench.world.change(VMI, |vmi| vmi["spec"]["domain"]["devices"]["tpm"] = json!({"persistent": true}));
    bench.world.change(POD, |pod| {
        let annotation = &mut pod["metadata"]["annotations"]["furrow.io/reservation"];
        let mut reservation: Value = serde_json::from_str(annotation.as_str().expect("a text")).expect("JSON");
        let volume = fields::state_volume("state/tpm", "csi-vol-tpm");
        reservation["volumes"].as_array_mut().expect("volumes").push(json!(volume));
        *annotation = reservation.to_string().into();
    });
    bench.world.put(SECRET, secret(PASSPHRASE));
    bench
}

fn secret(passphrase: &str) -> Value {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode(passphrase);
    json!({"apiVersion": "v1", "kind": "Secret", "type": "furrow.io/state-key", "data": {"passphrase": data},
        "metadata": {"name": "persistent-state-for-vm-abcde", "namespace": "default"}})
}

impl Bench {
    /// What its image has, and of which guest.
    fn kept(&self) -> (String, String) {
        self.world.state().tpm.images.get(IMAGE).cloned().unwrap_or_default()
    }

    /// Waits until the image has this.
    async fn until_kept(&self, state: &str) {
        for _ in 0..100 {
            if self.kept().1 == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the image has {:?} and not {state}", self.kept());
    }

    async fn until_told(&self, reason: &str) {
        for _ in 0..100 {
            if self.world.state().events.iter().any(|told| told == reason) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{reason} is not told: {:?}", self.world.state().events);
    }
}

#[tokio::test]
async fn a_state_is_there_before_its_guest_starts_and_written_before_its_volumes_are_released() {
    let mut bench = keeping();
    bench.world.state().tpm.images.insert(IMAGE.into(), ("uid-0".into(), "of the guest before".into()));
    bench.pass().await;
    assert_eq!(bench.phase(), "Running", "{}", bench.condition("Synchronized"));
    assert_eq!(bench.world.state().tpm.local["uid-1"], "of the guest before");
    assert_eq!(bench.kept(), ("uid-1".into(), "of the guest before".into()), "it is this guest's from now on");
    let names: Vec<_> =
        bench.status()["volumeStatus"].as_array().expect("volumes").iter().map(|v| v["name"].clone()).collect();
    assert_eq!(names, ["persistent-state-for-vm-abcde", "root", "seed"]);
    // Written by the guest in its last moment.
    bench.world.state().tpm.local.insert("uid-1".into(), "last words".into());
    bench.world.end(DOMAIN, OffReason::Shutdown);
    bench.pass().await;
    assert_eq!(bench.phase(), "Succeeded");
    assert_eq!(bench.kept().1, "last words");
    bench.assert_nothing_left();
    let order = bench.world.state().order.clone();
    assert_eq!(order.first().map(String::as_str), Some("restore uid-1"));
    let place =
        |wanted: &str| order.iter().rposition(|done| done == wanted).unwrap_or_else(|| panic!("{wanted}: {order:?}"));
    assert!(place("restore uid-1") < place("start default_vm"), "{order:?}");
    assert!(place("save uid-1") < place("remove uid-1"), "{order:?}");
    assert!(place("remove uid-1") < place(&format!("release {IMAGE}")), "{order:?}");
}

#[tokio::test]
async fn a_guest_has_not_ended_while_its_last_state_cannot_be_written() {
    let mut bench = keeping();
    bench.pass().await;
    bench.until_kept("").await;
    bench.world.state().failing.insert("write a TPM's state");
    bench.world.state().tpm.local.insert("uid-1".into(), "last words".into());
    bench.world.end(DOMAIN, OffReason::Shutdown);
    let again = bench.pass().await.expect("it is tried again");
    assert!(again <= Duration::from_secs(60), "{again:?}");
    assert_eq!(bench.phase(), "Running", "its end is not told");
    assert_eq!(bench.condition("Synchronized")["reason"], "ToldToFail");
    assert!(bench.world.state().open.contains(IMAGE), "its volumes are not released");
    assert!(bench.world.state().domains.contains_key(DOMAIN), "how it ended is not forgotten");
    assert_eq!(bench.world.state().tpm.local["uid-1"], "last words");
    // Another agent goes on with it.
    bench.restart_agent();
    bench.world.state().failing.clear();
    bench.pass().await;
    assert_eq!((bench.phase().as_str(), bench.kept().1.as_str()), ("Succeeded", "last words"));
    bench.assert_nothing_left();
}

#[tokio::test]
async fn changes_are_written_while_the_guest_runs_and_failures_told_and_tried_again() {
    let mut bench = keeping();
    bench.pass().await;
    bench.world.change_tpm("uid-1", "one").await;
    bench.until_kept("one").await;
    bench.world.state().failing.insert("write a TPM's state");
    bench.world.change_tpm("uid-1", "two").await;
    bench.until_told("TPMStateNotSaved").await;
    bench.world.state().failing.clear();
    bench.until_kept("two").await;
    bench.until_told("TPMStateSaved").await;
    assert_eq!(bench.phase(), "Running");
}

#[tokio::test]
async fn an_agent_that_starts_anew_writes_what_it_has_missed_and_watches_on() {
    let mut bench = keeping();
    bench.pass().await;
    bench.until_kept("").await;
    bench.stop.cancel();
    bench.world.state().tpm.local.insert("uid-1".into(), "while no agent ran".into());
    bench.stop = CancellationToken::new();
    bench.restart_agent();
    bench.pass().await;
    bench.until_kept("while no agent ran").await;
    bench.world.change_tpm("uid-1", "after it").await;
    bench.until_kept("after it").await;
    assert_eq!(bench.world.state().started.len(), 1);
}

#[tokio::test]
async fn a_guest_does_not_start_without_the_key_and_says_which() {
    for (secret, reason) in [(Value::Null, "StateKeyMissing"), (secret("short"), "StateKeyInvalid")] {
        let mut bench = keeping();
        bench.world.state().objects.remove(SECRET);
        if !secret.is_null() {
            bench.world.put(SECRET, secret);
        }
        bench.world.state().tpm.images.insert(IMAGE.into(), ("uid-0".into(), "sealed".into()));
        bench.pass().await;
        assert!(bench.world.state().started.is_empty());
        let condition = bench.condition("Synchronized");
        assert_eq!(condition["reason"], reason, "{condition}");
        let message = condition["message"].as_str().expect("a message");
        assert!(message.contains("secret default/persistent-state-for-vm-abcde"), "{message}");
        assert_eq!(bench.kept(), ("uid-0".into(), "sealed".into()), "its state is as it was");
        // With its key it starts.
        bench.world.put(SECRET, super::tpm::secret(PASSPHRASE));
        bench.pass().await;
        assert_eq!(bench.phase(), "Running");
    }
}

#[tokio::test]
async fn a_state_is_not_claimed_while_a_disk_is_open_elsewhere() {
    let mut bench = keeping();
    bench.world.state().tpm.images.insert(IMAGE.into(), ("uid-0".into(), "of one that may still run".into()));
    bench.world.state().failing.insert("open a volume");
    bench.pass().await;
    assert_eq!(bench.condition("Synchronized")["reason"], "ToldToFail");
    assert_eq!(bench.kept().0, "uid-0", "its guest may write until its disks are free");
    bench.world.state().failing.clear();
    bench.pass().await;
    assert_eq!((bench.phase().as_str(), bench.kept().0.as_str()), ("Running", "uid-1"));
}

#[tokio::test]
async fn a_key_goes_to_libvirt_alone() {
    let mut bench = keeping();
    bench.pass().await;
    let state = bench.world.state();
    let lent = state.lent.clone().expect("libvirt is told");
    assert_eq!(lent.passphrase, PASSPHRASE);
    assert_eq!(lent.uuid, furrow_model::tpm::secret_uuid("uid-1"));
    assert!(state.documents[0].contains(&lent.uuid.to_string()), "the domain names it");
    assert!(!state.documents[0].contains(PASSPHRASE), "and no more");
    let vmi = state.objects[VMI].to_string();
    assert!(!vmi.contains(PASSPHRASE) && !format!("{lent:?}").contains(PASSPHRASE));
}

#[tokio::test]
async fn a_guest_that_was_succeeded_ends_and_leaves_the_state_alone() {
    let mut bench = keeping();
    bench.pass().await;
    bench.until_kept("").await;
    bench.world.state().tpm.images.insert(IMAGE.into(), ("uid-2".into(), "of the next".into()));
    bench.world.state().tpm.local.insert("uid-1".into(), "late".into());
    bench.world.end(DOMAIN, OffReason::Shutdown);
    bench.pass().await;
    assert_eq!(bench.phase(), "Succeeded");
    assert_eq!(bench.kept(), ("uid-2".into(), "of the next".into()));
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_start_that_failed_loses_nothing_and_is_tried_from_what_the_image_has() {
    let mut bench = keeping();
    bench.world.state().tpm.images.insert(IMAGE.into(), ("uid-0".into(), "one".into()));
    bench.world.state().failing.insert("start the domain");
    bench.pass().await;
    assert!(bench.world.state().started.is_empty());
    // As of a guest that ran for a moment that nobody saw.
    bench.world.state().tpm.local.insert("uid-1".into(), "two".into());
    bench.world.state().failing.clear();
    bench.pass().await;
    assert_eq!(bench.phase(), "Running");
    assert_eq!((bench.kept().1.as_str(), bench.world.state().tpm.local["uid-1"].as_str()), ("two", "two"));
}

#[tokio::test]
async fn what_a_guest_left_is_written_when_all_else_of_it_is_gone() {
    let mut bench = keeping();
    bench.pass().await;
    bench.until_kept("").await;
    bench.world.state().tpm.local.insert("uid-1".into(), "left behind".into());
    // Taken away by hand while no agent ran.
    for gone in [VMI, POD] {
        bench.world.state().objects.remove(gone);
    }
    bench.world.state().domains.clear();
    bench.world.state().ports.clear();
    std::fs::remove_dir_all(bench.guests.path().join("uid-1")).expect("removed");
    bench.restart_agent();
    bench.pass().await;
    assert_eq!(bench.kept().1, "left behind");
    bench.assert_nothing_left();
}
