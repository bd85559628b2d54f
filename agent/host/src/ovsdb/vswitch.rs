//! Bridges, ports and interfaces of Open vSwitch in the words of the rest of Furrow, and the operations that change
//! them (ovs-vswitchd.conf.db(5)). Refuses to touch rows that do not carry Furrow's mark: `external_ids:furrow-owner`.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::value::{Atom, Datum, Row};
use super::{Compare, DATABASE, Monitored, Mutator, Operation, Tables};

/// The tables and columns that [`bridges`] and `Ovsdb::apply` read. No statistics: they change every few seconds.
pub const MONITORED: &[Monitored] = &[
    (DATABASE, &["bridges", "next_cfg", "cur_cfg", "external_ids", "other_config", "ovs_version"]),
    ("Bridge", &["name", "ports", "external_ids", "datapath_type", "fail_mode"]),
    ("Port", &["name", "interfaces", "tag", "vlan_mode", "external_ids"]),
    ("Interface", &["name", "ofport", "error", "external_ids"]),
];

/// Marks what Furrow made, and whose it is: `port` of a guest, `nic` or `bridge` of a provider network.
pub const OWNER: &str = "furrow-owner";

/// A bridge and its ports by name. The bridge's own local port is not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Row.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Empty for the kernel datapath, `netdev` for the userspace one.
    pub datapath_type: String,
    /// `external_ids:furrow-owner`, if it has one.
    pub owner: Option<String>,
    /// Ports by name.
    pub ports: BTreeMap<String, Port>,
}

/// A port with one interface of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Row.
    pub uuid: Uuid,
    /// Access VLAN; `None` for a trunk.
    pub tag: Option<i64>,
    /// `external_ids`.
    pub external_ids: BTreeMap<String, String>,
    /// What vswitchd calls it; `None` while it is not open, -1 when it cannot be opened.
    pub ofport: Option<i64>,
    /// Why it cannot be opened.
    pub error: Option<String>,
}

/// A port to make or change.
#[derive(Debug, Clone)]
pub struct PortConfig<'a> {
    /// Name of port, interface and network device.
    pub name: &'a str,
    /// Access VLAN, 0 for untagged frames only; `None` makes a trunk.
    pub tag: Option<u16>,
    /// `external_ids` of the port.
    pub external_ids: &'a [(&'a str, &'a str)],
    /// `external_ids` of the interface.
    pub interface_ids: &'a [(&'a str, &'a str)],
}

/// Every bridge, by name.
#[must_use]
pub fn bridges(tables: &Tables) -> BTreeMap<String, Bridge> {
    let bridge = |(uuid, row): (Uuid, &Row)| {
        let name = row.text("name").to_owned();
        let ports = row.references("ports").filter_map(|port| Some((port, tables.row("Port", port)?)));
        let ports = ports.map(|(uuid, port)| (port.text("name").to_owned(), port_of(tables, uuid, port)));
        let ports = ports.filter(|(port, _)| *port != name).collect();
        let owner = row.key("external_ids", OWNER).map(str::to_owned);
        (name.clone(), Bridge { uuid, name, datapath_type: row.text("datapath_type").to_owned(), owner, ports })
    };
    tables.rows("Bridge").map(bridge).collect()
}

/// The value of a key in `external_ids` of the root row.
#[must_use]
pub fn setting<'a>(tables: &'a Tables, key: &str) -> Option<&'a str> {
    tables.rows(DATABASE).next().and_then(|(_, root)| root.key("external_ids", key))
}

fn port_of(tables: &Tables, uuid: Uuid, row: &Row) -> Port {
    let interface = row.references("interfaces").find_map(|interface| tables.row("Interface", interface));
    let external_ids = match row.0.get("external_ids") {
        Some(Datum::Map(pairs)) => pairs.iter().filter_map(|(key, value)| Some((text(key)?, text(value)?))).collect(),
        _ => BTreeMap::new(),
    };
    // A tag of 0 that means "untagged" and no tag differ: the column is optional, so 0 is sent.
    Port {
        uuid,
        tag: row.integer("tag"),
        external_ids,
        ofport: interface.and_then(|interface| interface.integer("ofport")),
        error: interface.map(|interface| interface.text("error").to_owned()).filter(|error| !error.is_empty()),
    }
}

fn text(atom: &Atom) -> Option<String> {
    match atom {
        Atom::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// Operations that make a bridge with secure fail mode: nothing is forwarded without a flow.
#[must_use]
pub fn add_bridge(name: &str, datapath_type: &str, owner: &str) -> Vec<Operation> {
    let ids = Datum::map([(OWNER, owner)]);
    let interface = Row::of([("name", Datum::one(name)), ("type", Datum::one("internal"))]);
    let port = Row::of([("name", Datum::one(name)), ("interfaces", named("interface"))]);
    let bridge = Row::of([
        ("name", Datum::one(name)),
        ("datapath_type", Datum::one(datapath_type)),
        ("fail_mode", Datum::one("secure")),
        ("ports", named("port")),
        ("external_ids", ids),
    ]);
    vec![
        // Two rows of one name would be refused anyway by the table's index; this names the reason.
        Operation::Expect { table: "Bridge", rows: by_name(name), are: Vec::new() },
        Operation::Insert { table: "Interface", row: interface, name: "interface".into() },
        Operation::Insert { table: "Port", row: port, name: "port".into() },
        Operation::Insert { table: "Bridge", row: bridge, name: "bridge".into() },
        Operation::Mutate {
            table: DATABASE,
            rows: Vec::new(),
            mutations: vec![("bridges", Mutator::Insert, named("bridge"))],
        },
    ]
}

/// Operations that remove a bridge; its ports go with it.
#[must_use]
pub fn remove_bridge(bridge: &Bridge) -> Vec<Operation> {
    let mutations = vec![("bridges", Mutator::Delete, Datum::one(bridge.uuid))];
    vec![Operation::Mutate { table: DATABASE, rows: Vec::new(), mutations }]
}

/// Operations that put a port on a bridge. The transaction fails when the bridge is gone.
#[must_use]
pub fn add_port(bridge: &Bridge, port: &PortConfig<'_>) -> Vec<Operation> {
    let interface =
        Row::of([("name", Datum::one(port.name)), ("external_ids", Datum::map(port.interface_ids.iter().copied()))]);
    let mut row = port_row(port);
    row.0.insert("name".into(), Datum::one(port.name));
    row.0.insert("interfaces".into(), named("interface"));
    vec![
        Operation::Expect {
            table: "Bridge",
            rows: vec![("_uuid", Compare::Equal, Datum::one(bridge.uuid))],
            are: vec![Row::of([("name", Datum::one(bridge.name.as_str()))])],
        },
        Operation::Insert { table: "Interface", row: interface, name: "interface".into() },
        Operation::Insert { table: "Port", row, name: "port".into() },
        Operation::Mutate {
            table: "Bridge",
            rows: vec![("_uuid", Compare::Equal, Datum::one(bridge.uuid))],
            mutations: vec![("ports", Mutator::Insert, named("port"))],
        },
    ]
}

/// Operations that change the tag and the remembered values of a port in place.
#[must_use]
pub fn change_port(port: &PortConfig<'_>) -> Vec<Operation> {
    let interface = Row::of([("external_ids", Datum::map(port.interface_ids.iter().copied()))]);
    vec![
        Operation::Update { table: "Port", rows: by_name(port.name), row: port_row(port) },
        Operation::Update { table: "Interface", rows: by_name(port.name), row: interface },
    ]
}

/// Operations that take a port off its bridge. One that is gone already is success.
#[must_use]
pub fn remove_port(bridge: Uuid, port: Uuid) -> Vec<Operation> {
    vec![Operation::Mutate {
        table: "Bridge",
        rows: vec![("_uuid", Compare::Equal, Datum::one(bridge))],
        mutations: vec![("ports", Mutator::Delete, Datum::one(port))],
    }]
}

fn port_row(port: &PortConfig<'_>) -> Row {
    let tag = port.tag.map_or_else(Datum::empty, |tag| Datum::one(i64::from(tag)));
    // Without a mode, a port without a tag carries every VLAN: a guest's port always says `access`.
    let mode = port.tag.map_or_else(Datum::empty, |_| Datum::one("access"));
    let ids = Datum::map(port.external_ids.iter().copied());
    Row::of([("tag", tag), ("vlan_mode", mode), ("external_ids", ids)])
}

fn named(name: &str) -> Datum {
    Datum::Set([Atom::Named(name.to_owned())].into())
}

fn by_name(name: &str) -> super::Where {
    vec![("name", Compare::Equal, Datum::one(name))]
}
