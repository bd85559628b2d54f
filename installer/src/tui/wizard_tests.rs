//! The wizard by keys, as a person at the console uses it.

use super::*;
use crate::config::BondMode;
use crate::observe::Part;
use crate::tui::facts::Nic;

fn facts() -> Facts {
    let disks = furrow_host::block::parse(
        br#"{"blockdevices": [
        {"path":"/dev/sda","type":"disk","size":500000000000,"model":"SSD","serial":"S1","pttype":"gpt","mountpoints":[null],
         "children":[{"path":"/dev/sda1","type":"part","size":1000,"mountpoints":[null]}]},
        {"path":"/dev/sdb","type":"disk","size":2000000000000,"model":"BIG","serial":"S2","mountpoints":[null]},
        {"path":"/dev/sdc","type":"disk","size":1000000000,"model":"TINY","serial":"S3","mountpoints":[null]}
    ]}"#,
    )
    .expect("devices");
    let nic = |name: &str, address: Option<&str>| Nic {
        name: name.into(),
        mac: "52:54:00:00:00:01".into(),
        has_link: true,
        address: address.map(|a| (a.parse().expect("an address"), 24)),
    };
    Facts {
        checks: vec![Part::new("firmware", Level::Well, "UEFI")],
        disks,
        nics: vec![nic("eno1", Some("10.0.0.7")), nic("eno2", None)],
        gateway: Some("10.0.0.1".parse().expect("an address")),
        dns: vec!["10.0.0.2".parse().expect("an address")],
    }
}

fn press(wizard: &mut Wizard, keys: &[Key]) -> Outcome {
    keys.iter().fold(Outcome::Stay, |_, key| wizard.key(*key))
}

fn write(wizard: &mut Wizard, text: &str) {
    for c in text.chars() {
        wizard.key(if c == ' ' { Key::Space } else { Key::Char(c) });
    }
}

/// Goes to a screen with the answers that are offered.
fn at(screen: Screen) -> Wizard {
    let mut wizard = Wizard::new(facts());
    for _ in 0..40 {
        if wizard.screen == screen {
            return wizard;
        }
        wizard.key(Key::Enter);
    }
    panic!("{screen:?} is not reached: {:?} refuses with {:?}", wizard.screen, wizard.refusal)
}

#[test]
fn the_offered_answers_and_one_word_install() {
    let mut wizard = at(Screen::Summary);
    assert_eq!(press(&mut wizard, &[Key::Enter]), Outcome::Stay);
    assert!(wizard.refusal.as_deref().is_some_and(|r| r.contains("type `erase`")), "{:?}", wizard.refusal);
    write(&mut wizard, "erase");
    let Outcome::Install(text) = wizard.key(Key::Enter) else { panic!("{:?}", wizard.refusal) };
    let config = crate::config::parse(&text).expect("what the wizard writes is valid");
    assert_eq!(config.management.address.to_string(), "10.0.0.7");
    assert_eq!((config.management.prefix_length, config.management.dns.len()), (Some(24), 1));
    let install = config.install.expect("install");
    assert_eq!((install.disk.id.as_deref(), install.disk.wipe), (Some("S1"), true));
    let osds: Vec<_> = config.ceph.disks.iter().map(|d| d.id.as_deref()).collect();
    assert_eq!(osds, [Some("S2")], "the empty large disk, not the small one");
}

#[test]
fn nothing_is_erased_that_is_not_shown() {
    let wizard = at(Screen::Summary);
    assert_eq!(wizard.erased().len(), 1);
    assert!(
        wizard.erased()[0].contains("/dev/sda 500 GB SSD S1: it has a gpt partition table"),
        "{:?}",
        wizard.erased()
    );
    assert_eq!(wizard.word(), "erase");
}

#[test]
fn going_back_loses_no_answer() {
    let mut wizard = at(Screen::Node);
    wizard.cursor = 0;
    press(&mut wizard, &[Key::Erase; 6]);
    write(&mut wizard, "rack3");
    press(&mut wizard, &[Key::Back, Key::Back]);
    assert_eq!(wizard.screen, Screen::Card);
    press(&mut wizard, &[Key::Enter; 10]);
    assert_eq!(wizard.screen, Screen::Node);
    assert_eq!(wizard.node[HOST_NAME].answer(), "rack3");
}

#[test]
fn refusals_say_why_and_stay() {
    let mut wizard = at(Screen::Disk);
    press(&mut wizard, &[Key::Down, Key::Down, Key::Enter]);
    assert_eq!(wizard.screen, Screen::Disk);
    assert!(wizard.refusal.as_deref().is_some_and(|r| r.contains("/dev/sdc: smaller than")), "{:?}", wizard.refusal);

    let mut wizard = at(Screen::Address);
    press(&mut wizard, &[Key::Down, Key::Erase, Key::Erase, Key::Erase]);
    press(&mut wizard, &[Key::Enter; 9]);
    assert_eq!(wizard.screen, Screen::Address);
    assert!(wizard.refusal.is_some());

    let mut wizard = at(Screen::Storage);
    press(&mut wizard, &[Key::Down, Key::Space, Key::Enter]);
    assert_eq!(wizard.refusal.as_deref(), Some("Ceph needs at least one disk"));
}

#[test]
fn a_disk_can_be_shared() {
    let mut wizard = at(Screen::Storage);
    press(&mut wizard, &[Key::Down, Key::Space, Key::Up, Key::Space, Key::Enter]);
    assert_eq!(wizard.screen, Screen::Card, "{:?}", wizard.refusal);
    let text = wizard.node_yaml();
    assert!(text.contains("- partitionLabel: furrow-osd\n"), "{text}");
}

#[test]
fn a_failed_check_ends_it() {
    let mut facts = facts();
    facts.checks[0].level = Level::Fault;
    let mut wizard = Wizard::new(facts);
    press(&mut wizard, &[Key::Enter]);
    assert_eq!(wizard.screen, Screen::Checks);
    assert_eq!(wizard.key(Key::Back), Outcome::Leave);
}

#[test]
fn two_cards_become_a_bond_and_one_card_again() {
    let mut wizard = at(Screen::Card);
    press(&mut wizard, &[Key::Space, Key::Down, Key::Space, Key::Enter]);
    assert_eq!(wizard.screen, Screen::Address);
    let made = wizard.management().expect("a bond");
    let bond = made.bond.expect("a bond");
    assert_eq!((made.interface.as_str(), bond.mode, bond.members.len()), ("bond0", BondMode::ActiveBackup, 2));
    press(&mut wizard, &[Key::Back, Key::Space, Key::Down, Key::Space, Key::Up, Key::Enter]);
    assert_eq!(wizard.management().map(|m| (m.interface, m.bond)), Ok(("eno1".into(), None)));
}

#[test]
fn arrow_keys_alone_choose_dhcp_and_a_wrong_network_is_refused() {
    let mut wizard = at(Screen::Address);
    wizard.key(Key::Next);
    assert_eq!(wizard.management().map(|m| m.prefix_length), Ok(None));
    wizard.key(Key::Previous);
    press(&mut wizard, &[Key::Down, Key::Down, Key::Erase]);
    write(&mut wizard, "7");
    press(&mut wizard, &[Key::Enter; 10]);
    assert_eq!(wizard.screen, Screen::Address);
    assert!(
        wizard.refusal.as_deref().is_some_and(|r| r.contains("management.gateway: `10.0.0.7`")),
        "{:?}",
        wizard.refusal
    );
}

#[test]
fn a_password_is_asked_twice_and_leaves_only_its_hash() {
    let mut wizard = at(Screen::Node);
    wizard.key(Key::Enter);
    write(&mut wizard, "long enough");
    press(&mut wizard, &[Key::Enter; 7]);
    assert_eq!(wizard.refusal.as_deref(), Some("the two passwords differ"));
    press(&mut wizard, &[Key::Up, Key::Up, Key::Up, Key::Up]);
    write(&mut wizard, "long enough");
    assert_eq!(press(&mut wizard, &[Key::Enter; 5]), Outcome::Hash("long enough".into()));
    let hash = format!("$6$saltsalt${}", "a".repeat(86));
    assert_eq!(wizard.hashed(Ok(hash.clone())), Outcome::Stay);
    assert_eq!(wizard.screen, Screen::Summary, "{:?}", wizard.refusal);
    let text = wizard.node_yaml();
    assert!(text.contains(&hash) && !text.contains("long enough"), "{text}");
    // Back and on again: it is not hashed anew.
    wizard.key(Key::Back);
    press(&mut wizard, &[Key::Enter; 7]);
    assert_eq!(wizard.screen, Screen::Summary);
}

#[test]
fn time_servers_and_a_proxy_are_in_the_document() {
    let mut wizard = at(Screen::Node);
    for (n, text) in [(TIME, "10.0.0.3, time.example.com"), (PROXY, "http://proxy:3128"), (NO_PROXY, ".example.com")] {
        wizard.node[n].set(text);
    }
    let config = crate::config::parse(&wizard.node_yaml()).expect("valid");
    assert_eq!(config.ntp, ["10.0.0.3", "time.example.com"]);
    assert_eq!(config.proxy.map(|p| p.no_proxy), Some(vec![".example.com".into()]));
}
