//! A trial's files and what it refuses, without a systemd.

use super::*;

fn config(management: &str) -> NodeConfig {
    config::parse(&yaml(management)).expect("good")
}

fn yaml(management: &str) -> String {
    format!(
        "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {{{management}}}\nceph: {{disks: [{{path: /dev/b}}]}}\n"
    )
}

const OLD: &str = "interface: eth0, address: 10.0.0.1, prefixLength: 24";
const BOND: &str =
    "interface: b0, bond: {members: [eth0, '02:00:00:00:00:01']}, vlan: 5, address: 10.0.0.1, prefixLength: 24";

fn nics() -> Vec<Card> {
    let nic = |name: &str, mac: &str, master: Option<&str>| Card {
        name: name.into(),
        mac: mac.into(),
        master: master.map(str::to_owned),
        ..Card::default()
    };
    vec![
        nic("eth0", "02:00:00:00:00:00", None),
        nic("eth1", "02:00:00:00:00:01", None),
        nic("eth2", "02:00:00:00:00:02", Some("ovs-system")),
    ]
}

fn allowed(new: &str, is_server: bool) -> Result<(), String> {
    allow(&config(OLD), &config(new), is_server, &nics()).map_err(|e| e.to_string())
}

#[test]
fn what_would_cut_a_node_off_for_good_is_refused() {
    let moved = "interface: eth0, address: 10.0.0.2, prefixLength: 24";
    assert_eq!(allowed(moved, false), Ok(()));
    let error = allowed(moved, true).expect_err("a server's address is fixed");
    assert!(error.contains("known by 10.0.0.1, so that 10.0.0.2"), "{error}");
    assert_eq!(allowed(BOND, true), Ok(()), "the same address on a bond is no other address");
    let error = allowed("interface: eth9, address: 10.0.0.1", false).expect_err("no such card");
    assert!(error.contains("no network card eth9; there are: eth0, eth1, eth2"), "{error}");
    let error = allowed("interface: eth2, address: 10.0.0.1", false).expect_err("a port");
    assert!(error.contains("eth2 is a port of ovs-system"), "{error}");
}

/// A root with the old network in place.
fn root() -> (tempfile::TempDir, Places, Record) {
    let dir = tempfile::tempdir().expect("a directory");
    let places = Places::of(dir.path());
    std::fs::create_dir_all(&places.state).expect("made");
    let units = files(&config(OLD).management);
    places.write(&yaml(OLD), &units).expect("written");
    let record = Record {
        begun: 1,
        node_yaml: yaml(OLD),
        units,
        new_devices: made(&config(BOND).management),
        nics: nics_of(&config(BOND).management),
        bootstrap: false,
    };
    (dir, places, record)
}

#[test]
fn what_was_there_comes_back_whole() {
    let (_dir, places, record) = root();
    places.arm(&record).expect("armed");
    let bond = files(&config(BOND).management);
    places.write(&yaml(BOND), &bond).expect("changed");
    assert_eq!(present(&places.units).expect("read"), bond);
    // As another process would, after a power cut.
    let read = places.load().expect("read").expect("there");
    assert_eq!(read, record);
    places.write(&read.node_yaml, &read.units).expect("put back");
    assert_eq!(present(&places.units).expect("read"), record.units);
    assert_eq!(std::fs::read_to_string(&places.node_yaml).expect("read"), yaml(OLD));
}

#[test]
fn a_confirmed_change_has_nothing_to_come_back_to() {
    let (_dir, places, record) = root();
    places.arm(&record).expect("armed");
    places.disarm().expect("confirmed");
    assert_eq!(places.load().expect("read"), None);
}

#[test]
fn secrets_of_node_yaml_are_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, places, record) = root();
    places.arm(&record).expect("armed");
    for path in [places.record(), places.node_yaml.clone()] {
        let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

#[test]
fn devices_that_only_the_new_network_has_are_known() {
    let (_dir, _places, record) = root();
    let names: Vec<&str> = record.new_devices.iter().map(String::as_str).collect();
    assert_eq!(names, ["b0", "b0.5"]);
    assert!(record.nics.contains("02:00:00:00:00:01") && record.nics.contains("eth0"));
}
