//! What Furrow asks of a Ceph cluster, each command as the document that the `ceph` program would make of its words.
//!
//! Names and types of arguments are those of `src/mon/MonCommands.h` and `src/mgr/MgrCommands.h` of Ceph 18.2.7: of a name
//! that a command does not have the cluster says nothing, and a number is not taken for a text or for a fraction. Refuses
//! to send anything, and to decide what should be asked.

use std::fmt;

use serde_json::{Map, Value, json};

/// Whose command it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The monitors'.
    Monitors,
    /// The active manager's: `FLAG(MGR)` in the descriptions.
    Manager,
}

/// A command, and the bytes that go with it. What is secret is in the bytes, and they are never shown.
pub struct Command {
    prefix: &'static str,
    target: Target,
    arguments: Map<String, Value>,
    input: Vec<u8>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} and {} bytes", self.target, self.document(), self.input.len())
    }
}

impl Command {
    fn new(target: Target, prefix: &'static str) -> Self {
        Self { prefix, target, arguments: Map::new(), input: Vec::new() }
    }

    fn monitors(prefix: &'static str) -> Self {
        Self::new(Target::Monitors, prefix)
    }

    fn manager(prefix: &'static str) -> Self {
        Self::new(Target::Manager, prefix)
    }

    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.to_owned(), value.into());
        self
    }

    fn with_input(mut self, input: String) -> Self {
        self.input = input.into_bytes();
        self
    }

    /// Asks for the answer in JSON. Without it the answer is what `ceph` prints.
    #[must_use]
    pub(super) fn in_json(self) -> Self {
        self.with("format", "json")
    }

    /// The command's words.
    pub(super) fn prefix(&self) -> &'static str {
        self.prefix
    }

    pub(super) fn target(&self) -> Target {
        self.target
    }

    pub(super) fn input(&self) -> &[u8] {
        &self.input
    }

    /// What is sent.
    pub(super) fn document(&self) -> String {
        let mut document = self.arguments.clone();
        document.insert("prefix".to_owned(), self.prefix.into());
        Value::Object(document).to_string()
    }
}

/// Health, with the reason of each check. In JSON: `status`, `checks`.
pub fn health_detail() -> Command {
    Command::monitors("health").with("detail", "detail")
}

/// The cluster at a glance. In JSON: `pgmap`.
pub fn status() -> Command {
    Command::monitors("status")
}

/// Room and use. In JSON: `pools`.
pub fn df() -> Command {
    Command::monitors("df")
}

/// Which monitors there are and which agree. In JSON: `quorum_names`, `monmap`.
pub fn quorum_status() -> Command {
    Command::monitors("quorum_status")
}

/// The monitors' map. In JSON: `fsid`, `mons`.
pub fn mon_dump() -> Command {
    Command::monitors("mon dump")
}

/// The monitors' map as `--monmap` takes it: bytes.
pub fn mon_getmap() -> Command {
    Command::monitors("mon getmap")
}

/// Takes a monitor out of the map; no error where it is in none.
pub fn mon_remove(name: &str) -> Command {
    Command::monitors("mon rm").with("name", name)
}

/// Whether a manager serves. In JSON: `available`.
pub(super) fn mgr_stat() -> Command {
    Command::monitors("mgr stat")
}

/// The keyring of an entity. Its answer is secret.
pub fn auth_get(entity: &str) -> Command {
    Command::monitors("auth get").with("entity", entity)
}

/// The keyring of an entity, made with these capabilities (pairs of daemon and what is allowed there) if there is none.
/// Its answer is secret.
pub fn auth_get_or_create(entity: &str, capabilities: &[(&str, &str)]) -> Command {
    let words: Vec<&str> = capabilities.iter().flat_map(|(daemon, allowed)| [*daemon, *allowed]).collect();
    Command::monitors("auth get-or-create").with("entity", entity).with("caps", words)
}

/// Takes an entity and its key away; no error where there is none.
pub fn auth_remove(entity: &str) -> Command {
    Command::monitors("auth rm").with("entity", entity)
}

/// The OSDs' map. In JSON: `osds`.
pub fn osd_dump() -> Command {
    Command::monitors("osd dump")
}

/// The OSDs by place. In JSON: `nodes`.
pub fn osd_tree() -> Command {
    Command::monitors("osd tree")
}

/// What OSDs hold. In JSON: `nodes`.
pub fn osd_df() -> Command {
    Command::manager("osd df")
}

/// A number for an OSD's identity and its key, the same at each asking. The answer, not in JSON, is the number.
pub fn osd_new(uuid: &str, key: &str) -> Command {
    Command::monitors("osd new").with("uuid", uuid).with_input(json!({"cephx_secret": key}).to_string())
}

fn of_osds(command: Command, osds: &[u64]) -> Command {
    // Texts: ranges and names of all are allowed there too.
    let ids: Vec<String> = osds.iter().map(ToString::to_string).collect();
    command.with("ids", ids)
}

/// Lets OSDs be emptied.
pub fn osd_out(osds: &[u64]) -> Command {
    of_osds(Command::monitors("osd out"), osds)
}

/// Declares OSDs down.
pub fn osd_down(osds: &[u64]) -> Command {
    of_osds(Command::monitors("osd down"), osds)
}

/// Refused while the data of one of the OSDs is needed, with the reason.
pub fn osd_safe_to_destroy(osds: &[u64]) -> Command {
    of_osds(Command::manager("osd safe-to-destroy"), osds)
}

/// Takes an OSD with its key and its place out of the maps, whatever it holds.
pub fn osd_purge(osd: u64) -> Command {
    Command::manager("osd purge").with("id", osd).with("yes_i_really_mean_it", true)
}

/// Shuts a client, as an address with a nonce, out for so many seconds.
pub fn osd_blocklist_add(client: &str, seconds: u32) -> Command {
    let add = Command::monitors("osd blocklist").with("blocklistop", "add");
    add.with("addr", client).with("expire", f64::from(seconds))
}

/// Takes an empty bucket out of the CRUSH map.
pub fn crush_remove(name: &str) -> Command {
    Command::monitors("osd crush rm").with("name", name)
}

/// A rule that puts each copy below another bucket of a kind; no error where it is there.
pub fn crush_rule_create(name: &str, root: &str, kind: &str) -> Command {
    let create = Command::monitors("osd crush rule create-replicated");
    create.with("name", name).with("root", root).with("type", kind)
}

/// All rules. In JSON a list.
pub fn crush_rules() -> Command {
    Command::monitors("osd crush rule dump")
}

/// One rule. In JSON: `rule_id`.
pub fn crush_rule(name: &str) -> Command {
    crush_rules().with("name", name)
}

/// All pools with what is set for them. In JSON a list.
pub fn pools() -> Command {
    Command::monitors("osd pool ls").with("detail", "detail")
}

/// A replicated pool with this many placement groups, which stay as many; no error where it is there.
pub fn pool_create(pool: &str, groups: u32) -> Command {
    let create = Command::monitors("osd pool create").with("pool", pool).with("pool_type", "replicated");
    create.with("pg_num", groups).with("pgp_num", groups).with("autoscale_mode", "off")
}

/// Sets one value of a pool.
pub fn pool_set(pool: &str, variable: &str, value: &str) -> Command {
    Command::monitors("osd pool set").with("pool", pool).with("var", variable).with("val", value)
}

/// Lets in only clients of this release or a later one.
pub fn require_client(release: &str) -> Command {
    let require = Command::monitors("osd set-require-min-compat-client");
    require.with("version", release).with("yes_i_really_mean_it", true)
}

/// Placement groups by state. In JSON: `pg_summary`.
pub fn pg_stat() -> Command {
    Command::manager("pg stat")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: Target, command: &Command, expected: &Value) {
        let document: Value = serde_json::from_str(&command.document()).expect("a document");
        assert_eq!((command.target(), &document), (target, expected));
    }

    #[test]
    fn questions_are_their_words_alone() {
        for (command, prefix) in [
            (status(), "status"),
            (df(), "df"),
            (quorum_status(), "quorum_status"),
            (mon_dump(), "mon dump"),
            (mon_getmap(), "mon getmap"),
            (mgr_stat(), "mgr stat"),
            (osd_dump(), "osd dump"),
            (osd_tree(), "osd tree"),
            (crush_rules(), "osd crush rule dump"),
        ] {
            check(Target::Monitors, &command, &json!({"prefix": prefix}));
            check(Target::Monitors, &command.in_json(), &json!({"prefix": prefix, "format": "json"}));
        }
        check(Target::Manager, &pg_stat(), &json!({"prefix": "pg stat"}));
        check(Target::Manager, &osd_df(), &json!({"prefix": "osd df"}));
    }

    #[test]
    fn arguments_have_the_names_and_types_of_the_monitors() {
        let really = "yes_i_really_mean_it";
        for (command, expected) in [
            (health_detail(), json!({"prefix": "health", "detail": "detail"})),
            (pools(), json!({"prefix": "osd pool ls", "detail": "detail"})),
            (mon_remove("n2"), json!({"prefix": "mon rm", "name": "n2"})),
            (auth_get("mon."), json!({"prefix": "auth get", "entity": "mon."})),
            (auth_remove("mgr.n2"), json!({"prefix": "auth rm", "entity": "mgr.n2"})),
            (
                auth_get_or_create("client.q", &[("mon", "profile rbd"), ("osd", "profile rbd pool=volumes")]),
                json!({"prefix": "auth get-or-create", "entity": "client.q",
                       "caps": ["mon", "profile rbd", "osd", "profile rbd pool=volumes"]}),
            ),
            (osd_out(&[0, 11]), json!({"prefix": "osd out", "ids": ["0", "11"]})),
            (osd_down(&[3]), json!({"prefix": "osd down", "ids": ["3"]})),
            (
                osd_blocklist_add("10.0.0.1:0/123", 86400),
                json!({"prefix": "osd blocklist", "blocklistop": "add", "addr": "10.0.0.1:0/123", "expire": 86400.0}),
            ),
            (crush_remove("n2"), json!({"prefix": "osd crush rm", "name": "n2"})),
            (crush_rule("r"), json!({"prefix": "osd crush rule dump", "name": "r"})),
            (
                crush_rule_create("r", "default", "host"),
                json!({"prefix": "osd crush rule create-replicated", "name": "r", "root": "default", "type": "host"}),
            ),
            (
                pool_create("volumes", 32),
                json!({"prefix": "osd pool create", "pool": "volumes", "pg_num": 32, "pgp_num": 32,
                       "pool_type": "replicated", "autoscale_mode": "off"}),
            ),
            (
                pool_set("volumes", "size", "3"),
                json!({"prefix": "osd pool set", "pool": "volumes", "var": "size", "val": "3"}),
            ),
            (
                require_client("mimic"),
                json!({"prefix": "osd set-require-min-compat-client", "version": "mimic", really: true}),
            ),
        ] {
            check(Target::Monitors, &command, &expected);
        }
    }

    #[test]
    fn what_depends_on_the_data_is_asked_of_the_manager() {
        check(
            Target::Manager,
            &osd_safe_to_destroy(&[1, 2]),
            &json!({"prefix": "osd safe-to-destroy", "ids": ["1", "2"]}),
        );
        check(Target::Manager, &osd_purge(4), &json!({"prefix": "osd purge", "id": 4, "yes_i_really_mean_it": true}));
    }

    #[test]
    fn a_span_is_a_fraction_also_where_it_is_whole() {
        // The monitors refuse a whole number there.
        assert!(osd_blocklist_add("a", 60).document().contains(r#""expire":60.0"#));
    }

    #[test]
    fn a_key_is_in_the_bytes_and_is_never_shown() {
        let command = osd_new("u", "SECRET");
        check(Target::Monitors, &command, &json!({"prefix": "osd new", "uuid": "u"}));
        let input: Value = serde_json::from_slice(command.input()).expect("a document");
        assert_eq!(input, json!({"cephx_secret": "SECRET"}));
        assert!(!format!("{command:?}").contains("SECRET"), "{command:?}");
    }
}
