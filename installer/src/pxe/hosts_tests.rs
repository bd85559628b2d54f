//! The list of machines: who is approved, who gets what, and what is forgotten.

use super::*;

const NOW: u64 = 1_000_000;

fn list() -> (tempfile::TempDir, Hosts) {
    let dir = tempfile::tempdir().expect("a directory");
    let hosts = Hosts::open(&dir.path().join("hosts")).expect("made");
    (dir, hosts)
}

fn machine(mac: &str) -> Identity {
    Identity::cleaned(mac, "4C4C4544-0001", "SN 1")
}

fn pending(hosts: &Hosts, mac: &str, now: u64) -> Host {
    match hosts.arrive(machine(mac), now).expect("asked") {
        Arrival::Pending(host) => host,
        _ => panic!("{mac} is not pending"),
    }
}

fn subject(text: &str) -> Subject {
    text.parse().expect("a subject")
}

#[test]
fn a_machine_is_approved_by_the_fingerprint_that_it_shows() {
    let (_dir, hosts) = list();
    let host = pending(&hosts, "52:54:00:00:00:01", NOW);
    hosts.approve(&subject(&host.name), Some("config".into()), NOW + 5).expect("approved");
    let now = hosts.session(&host.token, NOW + 6).expect("read").expect("known");
    assert!(now.state == State::Approved && now.config.as_deref() == Some("config"));
}

#[test]
fn whoever_claims_the_same_identity_has_another_fingerprint() {
    let (_dir, hosts) = list();
    let first = pending(&hosts, "52:54:00:00:00:01", NOW);
    let second = pending(&hosts, "52-54-00-00-00-01", NOW);
    assert!(first.identity == second.identity && first.name != second.name && first.token != second.token);
    hosts.approve(&subject(&first.name), None, NOW).expect("approved");
    let other = hosts.session(&second.token, NOW).expect("read").expect("known");
    assert!(other.state == State::Pending);
}

#[test]
fn an_expected_machine_needs_no_fingerprint_and_gets_its_system_once() {
    for key in ["mac=52-54-00-00-00-01", "uuid=4c4c4544-0001", "serial=SN_1"] {
        let (_dir, hosts) = list();
        let name = hosts.approve(&subject(key), Some("config".into()), NOW).expect("approved").name;
        let Arrival::Approved(host) = hosts.arrive(machine("52:54:00:00:00:01"), NOW).expect("asked") else {
            panic!("{key} does not match");
        };
        assert_eq!(host.config.as_deref(), Some("config"));
        hosts.given(&name).expect("noted");
        let Arrival::Given(host) = hosts.arrive(machine("52:54:00:00:00:01"), NOW).expect("asked") else {
            panic!("{key} is served twice");
        };
        assert_eq!(host.config, None);
        hosts.forget(&name).expect("forgotten");
        pending(&hosts, "52:54:00:00:00:01", NOW);
    }
}

#[test]
fn the_silent_are_forgotten_and_not_approved() {
    let (_dir, hosts) = list();
    let host = pending(&hosts, "52:54:00:00:00:01", NOW);
    let late = NOW + SILENT_S + 1;
    assert!(matches!(hosts.approve(&subject(&host.name), None, late), Err(HostsError::Silent { .. })));
    pending(&hosts, "52:54:00:00:00:02", late);
    let left: Vec<String> = hosts.list().expect("read").into_iter().map(|h| h.identity.mac).collect();
    assert_eq!(left, ["52:54:00:00:00:02"]);
}

#[test]
fn a_flood_is_bounded() {
    let (_dir, hosts) = list();
    for n in 0..MAX_HOSTS {
        pending(&hosts, &format!("52:54:00:00:{:02x}:{:02x}", n / 256, n % 256), NOW);
    }
    assert!(matches!(hosts.arrive(machine("52:54:00:00:ff:ff"), NOW), Ok(Arrival::Full)));
}

#[test]
fn records_are_for_root_alone_and_broken_ones_are_named_without_their_content() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, hosts) = list();
    let host = pending(&hosts, "52:54:00:00:00:01", NOW);
    let path = hosts.path(&host.name);
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "{\"name\": \"secret").expect("written");
    let error = hosts.list().err().expect("refused").to_string();
    assert!(error.contains(&host.name) && !error.contains("secret"), "{error}");
}

#[test]
fn subjects_are_fingerprints_or_properties() {
    assert_eq!(subject("4F3A-91bc-07de"), Subject::Fingerprint("4f3a-91bc-07de".into()));
    for wrong in ["4f3a91bc07de", "4f3a-91bc", "mac=", "name=x", "../../x", "zzzz-zzzz-zzzz"] {
        assert!(wrong.parse::<Subject>().is_err(), "{wrong}");
    }
}
