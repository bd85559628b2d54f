//! A guest whose machine keeps its state: what is prepared before it starts, and that no two of them share it.

use super::*;

const IMAGE: &str = "volumes/csi-vol-nvram";

/// A world whose guest keeps the variables of its firmware.
fn keeping_variables() -> Bench {
    let bench = Bench::new();
    let firmware = json!({"bootloader": {"efi": {"secureBoot": false, "persistent": true}}});
    bench.world.change(VMI, |vmi| vmi["spec"]["domain"]["firmware"] = firmware);
    bench.world.change(POD, |pod| {
        let annotation = &mut pod["metadata"]["annotations"]["furrow.io/reservation"];
        let mut reservation: Value = serde_json::from_str(annotation.as_str().expect("a text")).expect("JSON");
        let volume = fields::state_volume("state/nvram", "csi-vol-nvram");
        reservation["volumes"].as_array_mut().expect("volumes").push(json!(volume));
        *annotation = reservation.to_string().into();
    });
    bench
}

#[tokio::test]
async fn the_flash_is_filled_before_it_is_opened_and_released_with_the_guest() {
    let mut bench = keeping_variables();
    bench.pass().await;
    assert_eq!(bench.phase(), "Running", "{}", bench.condition("Synchronized"));
    assert!(bench.world.state().open.contains(IMAGE));
    let template = bench.world.state().flashes.get(IMAGE).cloned();
    assert!(template.as_deref().is_some_and(|path| path.ends_with("/OVMF_VARS_4M.fd")), "{template:?}");
    assert_eq!(bench.condition("LiveMigratable")["status"], "True");
    let volumes = bench.status()["volumeStatus"].as_array().cloned().expect("volumes");
    let names: Vec<_> = volumes.iter().map(|volume| &volume["name"]).collect();
    assert_eq!(names, ["persistent-state-for-vm-abcde", "root", "seed"]);
    assert_eq!(volumes[0]["persistentVolumeClaimInfo"]["claimName"], "persistent-state-for-vm-abcde");
    bench.assert_the_same_again_writes_nothing().await;
    bench.world.end(DOMAIN, OffReason::Shutdown);
    bench.pass().await;
    assert_eq!(bench.phase(), "Succeeded");
    assert!(!bench.world.state().open.contains(IMAGE));
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_guest_does_not_start_without_its_flash() {
    let mut bench = keeping_variables();
    bench.world.state().failing.insert("prepare UEFI variables");
    bench.pass().await;
    assert!(bench.world.state().started.is_empty());
    assert_eq!(bench.condition("Synchronized")["reason"], "ToldToFail");
    bench.world.state().failing.clear();
    bench.owner.take_image("default_other", IMAGE);
    bench.pass().await;
    assert!(bench.world.state().started.is_empty());
    assert_eq!(bench.condition("Synchronized")["reason"], "ImageInUse");
}
