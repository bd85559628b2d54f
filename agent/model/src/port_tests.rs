//! Tests of ports: names, parsing, plans.

use super::*;

pub(crate) fn request() -> PortRequest {
    PortRequest {
        vmi_uid: "6ad58a25-0b0e-4b7c-9f7e-5d3f3a0c1f11".into(),
        vmi: "shop/db".into(),
        nic: "lan".into(),
        bridge: "br-prod".into(),
        vlan: 100,
        mac: "02:00:5e:10:00:01".into(),
        ip: Some("192.168.10.7".into()),
        prefix_len: Some(23),
        gateway: Some("192.168.10.1".into()),
        dns: vec!["192.168.10.2".into()],
        mtu: 1500,
        queues: 1,
        hostname: Some("db".into()),
        tcp_ports: None,
        dhcp_options: None,
        ip_object: "db.shop".into(),
    }
}

fn spec() -> PortSpec {
    PortSpec::parse(request()).expect("a valid request")
}

fn settled() -> Observed {
    let spec = spec();
    Observed {
        tap: Some(ObservedTap { multi_queue: false, mtu: 1500, up: true }),
        port: Some(ObservedPort { bridge: "br-prod".into(), tag: Some(100), spec: Some(spec), open: true }),
    }
}

fn check(observed: &Observed, expected: &[Step]) {
    assert_eq!(plan(&spec(), observed).steps, [expected, &[Step::Flows, Step::Dhcp]].concat());
}

#[test]
fn a_new_port_is_built_from_the_tap_up() {
    check(&Observed::default(), &[Step::CreateTap { multi_queue: false }, Step::RaiseTap { mtu: 1500 }, Step::AddPort]);
}

#[test]
fn a_settled_port_is_left_alone() {
    check(&settled(), &[]);
}

#[test]
fn a_row_whose_tap_is_gone_is_removed_before_anything_is_made() {
    let observed = Observed { tap: None, ..settled() };
    let removal = Step::RemovePort { bridge: "br-prod".into() };
    check(&observed, &[removal, Step::CreateTap { multi_queue: false }, Step::RaiseTap { mtu: 1500 }, Step::AddPort]);
}

#[test]
fn a_tap_of_the_wrong_kind_is_replaced_after_its_row_is_gone() {
    let mut observed = settled();
    observed.tap = Some(ObservedTap { multi_queue: true, mtu: 1500, up: true });
    check(
        &observed,
        &[
            Step::RemovePort { bridge: "br-prod".into() },
            Step::RemoveTap,
            Step::CreateTap { multi_queue: false },
            Step::RaiseTap { mtu: 1500 },
            Step::AddPort,
        ],
    );
}

#[test]
fn a_port_moves_between_bridges_by_leaving_first() {
    let mut observed = settled();
    observed.port.as_mut().expect("settled").bridge = "br-old".into();
    check(&observed, &[Step::RemovePort { bridge: "br-old".into() }, Step::AddPort]);
}

#[test]
fn a_new_tag_changes_the_row_in_place() {
    let mut observed = settled();
    observed.port.as_mut().expect("settled").tag = Some(200);
    check(&observed, &[Step::ChangePort]);
    observed.port.as_mut().expect("settled").tag = None;
    check(&observed, &[Step::ChangePort]);
}

#[test]
fn removal_takes_the_row_before_the_tap() {
    let expected = vec![Step::RemovePort { bridge: "br-prod".into() }, Step::RemoveTap];
    assert_eq!(plan_removal(&settled()).steps, expected);
    assert_eq!(plan_removal(&Observed::default()).steps, []);
}

#[test]
fn tap_names_fit_the_kernel_and_are_stable() {
    let name = TapName::of("uid", "lan");
    assert_eq!(name, TapName::of("uid", "lan"));
    assert_ne!(name, TapName::of("uid", "lan2"));
    assert_eq!(name.as_str().len(), 13);
    assert_eq!(TapName::recognise(name.as_str()), Some(name.clone()));
    assert_eq!(format!("fw{:011x}", name.bits()), name.as_str());
    for foreign in ["fw", "fw0123456789", "fw0123456789ag", "fwabcdefghijk", "tap0", "fwABCDEF01234"] {
        assert_eq!(TapName::recognise(foreign), None, "{foreign}");
    }
}

#[test]
fn a_request_that_cannot_be_is_refused_with_its_value() {
    let refused = |change: fn(&mut PortRequest)| {
        let mut request = request();
        change(&mut request);
        PortSpec::parse(request).expect_err("it cannot be").to_string()
    };
    assert_eq!(refused(|r| r.vlan = 5000), "VLAN id 5000 is not between 0 and 4094");
    assert!(refused(|r| r.mac = "01:00:5e:00:00:01".into()).contains("unicast"));
    assert!(refused(|r| r.mac = "2:0:5e:10:0:1".into()).contains("unicast"));
    assert!(refused(|r| r.mac = "00:00:00:00:00:00".into()).contains("unicast"));
    assert_eq!(refused(|r| r.ip = Some("fd00::1".into())), "address \"fd00::1\" is not an IPv4 address");
    assert_eq!(refused(|r| r.prefix_len = None), "an address with a prefix of None bits has no network");
    assert_eq!(refused(|r| r.mtu = 100), "an MTU of 100 bytes is not between 576 and 65521");
    assert_eq!(refused(|r| r.queues = 300), "300 queues are not between 1 and 255");
    assert_eq!(refused(|r| r.bridge = "br prod".into()), "\"br prod\" is not the name of a bridge");
}

#[test]
fn a_row_remembers_the_whole_port() {
    let text = serde_json::to_string(&spec()).expect("it serializes");
    assert_eq!(serde_json::from_str::<PortSpec>(&text).expect("it reads back"), spec());
    assert!(serde_json::from_str::<PortSpec>(&text.replace("\"vlan\":100", "\"vlan\":5000")).is_err());
}
