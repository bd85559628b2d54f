//! What a guest's agent says, in KubeVirt's words, from libvirt's flat list of named values
//! (<https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainGetGuestInfo>) and from two answers of the agent itself.
//! Pure. Refuses to trust: a guest writes these values, so every text and count is capped.

use std::collections::{BTreeMap, HashMap};

use furrow_api::subresources::{
    Filesystem, FilesystemDisk, FilesystemInfo, FilesystemList, GuestAgentCommand, GuestAgentInfo, GuestUser, UserList,
};
use serde_json::Value;

use crate::guest::os_info;

/// More than a guest has that is not out to harm.
const MAX_USERS: usize = 256;
const MAX_FILESYSTEMS: usize = 256;
const MAX_DISKS: usize = 16;
const MAX_COMMANDS: usize = 256;
/// Longest text taken from a guest, in characters.
const MAX_TEXT: usize = 256;

type Values = HashMap<String, String>;

fn capped(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn text(values: &Values, name: &str) -> String {
    values.get(name).map(|value| capped(value)).unwrap_or_default()
}

fn count(values: &Values, name: &str, limit: usize) -> usize {
    values.get(name).and_then(|count| count.parse::<usize>().ok()).unwrap_or(0).min(limit)
}

/// Who is logged in.
pub(super) fn users(values: &Values) -> UserList {
    let user = |index: usize| {
        let field = |name: &str| text(values, &format!("user.{index}.{name}"));
        let login_ms = field("login-time").parse::<f64>().ok();
        GuestUser {
            user_name: field("name"),
            domain: field("domain"),
            // libvirt gives milliseconds, KubeVirt seconds.
            login_time: login_ms.filter(|ms| ms.is_finite()).map(|ms| ms / 1000.0),
        }
    };
    UserList { metadata: BTreeMap::new(), items: (0..count(values, "user.count", MAX_USERS)).map(user).collect() }
}

/// The file systems.
pub(super) fn filesystems(values: &Values) -> FilesystemList {
    let filesystem = |index: usize| {
        let field = |name: &str| text(values, &format!("fs.{index}.{name}"));
        let bytes = |name: &str| field(name).parse().unwrap_or(0);
        let disks = count(values, &format!("fs.{index}.disk.count"), MAX_DISKS);
        Filesystem {
            disk_name: field("name"),
            mount_point: field("mountpoint"),
            file_system_type: field("fstype"),
            used_bytes: bytes("used-bytes"),
            total_bytes: bytes("total-bytes"),
            disk: (0..disks)
                .map(|disk| FilesystemDisk {
                    serial: field(&format!("disk.{disk}.serial")),
                    bus_type: bus(&field(&format!("disk.{disk}.alias"))).to_owned(),
                })
                .collect(),
        }
    };
    let items = (0..count(values, "fs.count", MAX_FILESYSTEMS)).map(filesystem).collect();
    FilesystemList { metadata: BTreeMap::new(), items }
}

/// The bus of a disk, of which libvirt tells only the name that the domain has for it, such as `vda` or `sdb`.
fn bus(target: &str) -> &'static str {
    match target.get(..2) {
        Some("vd") => "virtio",
        Some("sd") => "scsi",
        Some("hd") => "ide",
        _ => "",
    }
}

/// All of it. `about` and `frozen`: the agent's answers to `guest-info` and `guest-fsfreeze-status`.
pub(super) fn everything(values: &Values, about: Option<&str>, frozen: Option<&str>) -> GuestAgentInfo {
    let answer = |text: Option<&str>| -> Value {
        let answer: Value = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        answer["return"].clone()
    };
    let (about, frozen) = (answer(about), answer(frozen));
    let zone = text(values, "timezone.name");
    let timezone = if zone.is_empty() { zone } else { format!("{zone}, {}", text(values, "timezone.offset")) };
    let command = |entry: &Value| {
        let name = capped(entry["name"].as_str()?);
        Some(GuestAgentCommand { name, enabled: entry["enabled"].as_bool().unwrap_or(false) })
    };
    let commands = about["supported_commands"].as_array().into_iter().flatten();
    let os = values.iter().map(|(name, value)| (name.clone(), capped(value))).collect();
    GuestAgentInfo {
        guest_agent_version: capped(about["version"].as_str().unwrap_or_default()),
        supported_commands: commands.filter_map(command).take(MAX_COMMANDS).collect(),
        hostname: text(values, "hostname"),
        os: os_info(&os),
        timezone,
        user_list: users(values).items,
        fs_info: FilesystemInfo { disks: filesystems(values).items },
        fs_freeze_status: capped(frozen.as_str().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn check(shown: impl serde::Serialize, expected: Value) {
        assert_eq!(serde_json::to_value(shown).expect("it serialises"), expected);
    }

    #[test]
    fn users_and_file_systems_are_lists_in_kubevirts_words() {
        let said = values(&[
            ("user.count", "2"),
            ("user.0.name", "root"),
            ("user.0.login-time", "1614776000500"),
            ("user.1.name", "jane"),
            ("user.1.domain", "CORP"),
            ("fs.count", "1"),
            ("fs.0.name", "vda1"),
            ("fs.0.mountpoint", "/"),
            ("fs.0.fstype", "ext4"),
            ("fs.0.used-bytes", "5"),
            ("fs.0.total-bytes", "9"),
            ("fs.0.disk.count", "1"),
            ("fs.0.disk.0.alias", "vda"),
            ("fs.0.disk.0.serial", "s1"),
        ]);
        let users = json!([{"userName": "root", "loginTime": 1_614_776_000.5}, {"userName": "jane", "domain": "CORP"}]);
        let disks = json!([{"diskName": "vda1", "mountPoint": "/", "fileSystemType": "ext4", "usedBytes": 5,
            "totalBytes": 9, "disk": [{"serial": "s1", "busType": "virtio"}]}]);
        check(super::users(&said), json!({"metadata": {}, "items": users}));
        check(filesystems(&said), json!({"metadata": {}, "items": disks}));
    }

    #[test]
    fn everything_is_told_at_once() {
        let said = values(&[
            ("hostname", "web"),
            ("os.id", "debian"),
            ("os.pretty-name", "Debian GNU/Linux 13 (trixie)"),
            ("timezone.name", "CET"),
            ("timezone.offset", "3600"),
        ]);
        let about =
            r#"{"return":{"version":"10.0.0","supported_commands":[{"enabled":true,"name":"guest-ping"},{"x":1}]}}"#;
        let shown = everything(&said, Some(about), Some(r#"{"return":"thawed"}"#));
        check(
            shown,
            json!({"guestAgentVersion": "10.0.0", "supportedCommands": [{"name": "guest-ping", "enabled": true}],
                "hostname": "web", "os": {"id": "debian", "prettyName": "Debian GNU/Linux 13 (trixie)"},
                "timezone": "CET, 3600", "fsInfo": {"disks": []}, "fsFreezeStatus": "thawed"}),
        );
    }

    #[test]
    fn a_guest_cannot_make_the_report_large_or_break_it() {
        let long = "x".repeat(10_000);
        let said = values(&[("user.count", "4000000000"), ("fs.count", "-1"), ("hostname", &long)]);
        let shown = everything(&said, Some("not json"), Some("{}"));
        assert_eq!((shown.user_list.len(), shown.fs_info.disks.len()), (MAX_USERS, 0));
        assert_eq!(shown.hostname.len(), MAX_TEXT);
        assert_eq!(shown.guest_agent_version, "");
    }
}
