//! Fields and values that are refused, each with the path that the refusal must name. A row whose field is realised one day
//! fails here with its path, and moves to `fields` then.

use anyhow::{Context, Result};
use serde_json::Value;

/// A field, below `spec`.
pub(super) struct Refused {
    /// Where the value goes, as a JSON pointer below `spec`; `-` at its end adds to a list.
    pointer: &'static str,
    /// The value, as JSON.
    value: &'static str,
    /// What is named after the path of the value: the rest of the path of the field that is wrong.
    below: &'static str,
}

const fn row(pointer: &'static str, value: &'static str, below: &'static str) -> Refused {
    Refused { pointer, value, below }
}

pub(super) const REFUSED: &[Refused] = &[
    // Not realised yet, or never.
    row("/dnsPolicy", r#""ClusterFirst""#, ""),
    row("/subdomain", r#""two.rooms""#, ""),
    row("/dnsConfig", r#"{"options":[{"name":"ndots","value":"1"}]}"#, "options"),
    row("/livenessProbe", r#"{"tcpSocket":{"port":22,"host":"192.0.2.1"}}"#, "tcpSocket.host"),
    row("/domain/launchSecurity", r#"{"sev":{}}"#, ""),
    row("/domain/devices/gpus", r#"[{"name":"g","deviceName":"vendor.example/gpu"}]"#, ""),
    row("/domain/devices/hostDevices", r#"[{"name":"h","deviceName":"vendor.example/card"}]"#, ""),
    row("/domain/devices/autoattachVSOCK", "true", ""),
    row("/domain/devices/filesystems", r#"[{"name":"f","virtiofs":{}}]"#, "[0].name"),
    row("/volumes/-", r#"{"name":"x","hostDisk":{"path":"/x.img","type":"Disk"}}"#, "hostDisk.path"),
    row("/volumes/-", r#"{"name":"x","containerPath":{"path":"/x"}}"#, "containerPath"),
    // What cannot be.
    row("/domain/machine", r#"{"type":"pc"}"#, "type"),
    row("/domain/firmware/uuid", r#""no-uuid""#, ""),
    row("/domain/resources", r#"{"requests":{"ephemeral-storage":"1Gi"}}"#, "requests.ephemeral-storage"),
    // The guest has less than the gibibyte that it must have to grow.
    row("/domain/memory/maxGuest", r#""1Gi""#, ""),
    row("/domain/memory/hugepages", r#"{"pageSize":"4Mi"}"#, "pageSize"),
    row("/domain/cpu", r#"{"sockets":16,"cores":16,"threads":1}"#, ""),
    // What builds on dedicated CPUs, without them; and more threads than a core has.
    row("/domain/cpu/isolateEmulatorThread", "true", ""),
    row("/domain/cpu/numa", r#"{"guestMappingPassthrough":{}}"#, "guestMappingPassthrough"),
    row("/domain/cpu/realtime", r#"{"mask":"3-1"}"#, "mask"),
    row("/domain/cpu", r#"{"threads":4,"dedicatedCpuPlacement":true}"#, "dedicatedCpuPlacement"),
    row("/domain/clock", r#"{"utc":{},"timezone":"Europe/Berlin"}"#, ""),
    row("/domain/devices/disks/-", r#"{"name":"nowhere","disk":{"bus":"virtio"}}"#, "name"),
    row("/domain/devices/disks/-", r#"{"name":"two","disk":{},"cdrom":{}}"#, ""),
    row("/networks/-", r#"{"name":"empty"}"#, ""),
];

impl Refused {
    /// Puts the value into a spec and returns the path that is to be named.
    pub(super) fn put(&self, spec: &mut Value) -> Result<String> {
        let value = serde_json::from_str(self.value).with_context(|| format!("the value {}", self.value))?;
        let (parent, key) = self.pointer.rsplit_once('/').context("a pointer begins with a slash")?;
        let mut path: String = parent.replace('/', ".");
        let place = spec.pointer_mut(parent).with_context(|| format!("the manifest has no {parent}"))?;
        match place {
            Value::Array(list) => {
                path.push_str(&format!("[{}]", list.len()));
                list.push(value);
            }
            place => {
                place[key] = value;
                path.push_str(&format!(".{key}"));
            }
        }
        match self.below {
            "" => {}
            below if below.starts_with('[') => path.push_str(below),
            below => path.push_str(&format!(".{below}")),
        }
        Ok(format!("spec{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::contract::fields::least;

    #[test]
    fn every_row_has_its_place_and_its_path() {
        for row in REFUSED {
            let mut vmi = least("x");
            let path = row.put(&mut vmi["spec"]).unwrap_or_else(|error| panic!("{}: {error:#}", row.pointer));
            assert!(path.starts_with("spec.") && !path.contains('/'), "{path}");
        }
        let mut vmi = least("x");
        let find = |text: &str| REFUSED.iter().find(|row| row.value.contains(text)).unwrap();
        assert_eq!(find("hostDisk").put(&mut vmi["spec"]).unwrap(), "spec.volumes[0].hostDisk.path");
        assert_eq!(find("containerPath").put(&mut vmi["spec"]).unwrap(), "spec.volumes[1].containerPath");
        assert_eq!(
            find("ephemeral").put(&mut vmi["spec"]).unwrap(),
            "spec.domain.resources.requests.ephemeral-storage"
        );
    }
}
