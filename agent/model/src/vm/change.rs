//! Which change of a virtual machine's template a guest that runs can take, as JSON of `template.spec` before and after:
//! KubeVirt's list for the roll-out strategy LiveUpdate (`syncRestartRequired`). Refuses to carry any of it out.
//!
//! | part                                                        | while it runs                                  |
//! |-------------------------------------------------------------|------------------------------------------------|
//! | `nodeSelector`, `affinity`, `tolerations`                   | taken over by the guest, for its next placement |
//! | `domain.cpu.sockets`, `domain.memory.guest`                 | judged by [`super::plug`]                      |
//! | a volume that is `hotpluggable`, and its disk               | plugged in or out by the guest's own controller |
//! | everything else                                             | waits for a restart                            |

use serde_json::{Map, Value};

/// KubeVirt's words for a change that waits.
pub const RESTART: &str = "a non-live-updatable field was changed in the template spec";

/// Parts that a guest takes over as they are.
pub const PLACEMENT: [&str; 3] = ["nodeSelector", "affinity", "tolerations"];

/// Parts with a judge of their own, as paths.
const SIZES: [&[&str]; 2] = [&["domain", "cpu", "sockets"], &["domain", "memory", "guest"]];

/// Whether a change of the template's spec waits for a restart of the guest.
#[must_use]
pub fn restart_required(before: &Value, after: &Value) -> bool {
    let (mut before, mut after) = (before.clone(), after.clone());
    let volumes = [hotpluggable(&before), hotpluggable(&after)];
    for spec in [&mut before, &mut after] {
        for part in PLACEMENT {
            remove(spec, &[part]);
        }
        for path in SIZES {
            remove(spec, path);
        }
    }
    strip(&mut before, &mut after, &volumes);
    tidy(&mut before);
    tidy(&mut after);
    before != after
}

/// Names of volumes that may come and go.
fn hotpluggable(spec: &Value) -> Vec<String> {
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let comes_and_goes = |volume: &&Value| {
        let sources = ["persistentVolumeClaim", "dataVolume"];
        sources.iter().any(|source| volume[source]["hotpluggable"] == Value::Bool(true))
    };
    volumes.filter(comes_and_goes).filter_map(|volume| volume["name"].as_str().map(str::to_owned)).collect()
}

/// Leaves out the volumes and disks that may come and go. What was fixed before and is hotpluggable now is no plug, and
/// a CD-ROM's drive stays.
fn strip(before: &mut Value, after: &mut Value, [was, is]: &[Vec<String>; 2]) {
    let drives = cdroms(before);
    let leave_out = |spec: &mut Value, names: &[String]| {
        for list in ["/volumes", "/domain/devices/disks"] {
            let drive = |name: &String| list != "/volumes" && drives.contains(name);
            if let Some(elements) = spec.pointer_mut(list).and_then(Value::as_array_mut) {
                elements.retain(|element| {
                    let name = element["name"].as_str().unwrap_or_default().to_owned();
                    !names.contains(&name) || drive(&name)
                });
            }
        }
    };
    let fixed_before: Vec<_> = names(before).into_iter().filter(|name| !was.contains(name)).collect();
    let plugged: Vec<_> = is.iter().filter(|name| !fixed_before.contains(name)).cloned().collect();
    leave_out(before, was);
    leave_out(after, &plugged);
}

fn names(spec: &Value) -> Vec<String> {
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    volumes.filter_map(|volume| volume["name"].as_str().map(str::to_owned)).collect()
}

fn cdroms(spec: &Value) -> Vec<String> {
    let disks = spec.pointer("/domain/devices/disks").and_then(Value::as_array).into_iter().flatten();
    let drives = disks.filter(|disk| disk.get("cdrom").is_some_and(|drive| !drive.is_null()));
    drives.filter_map(|disk| disk["name"].as_str().map(str::to_owned)).collect()
}

fn remove(value: &mut Value, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else { return };
    let Some(object) = value.as_object_mut() else { return };
    if rest.is_empty() {
        object.remove(*first);
    } else if let Some(child) = object.get_mut(*first) {
        remove(child, rest);
    }
}

/// Leaves out what says nothing, so that `cpu: {sockets: 2}` and no `cpu` differ by their sockets only.
fn tidy(value: &mut Value) {
    let Some(domain) = value.get_mut("domain").and_then(Value::as_object_mut) else { return };
    for part in ["cpu", "memory"] {
        if domain.get(part).and_then(Value::as_object).is_some_and(Map::is_empty) {
            domain.remove(part);
        }
    }
    for list in ["/volumes", "/domain/devices/disks"] {
        let is_empty = value.pointer(list).and_then(Value::as_array).is_some_and(Vec::is_empty);
        let (parent, name) = list.rsplit_once('/').unwrap_or_default();
        if is_empty && let Some(parent) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
            parent.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Value {
        json!({
            "domain": {
                "cpu": {"sockets": 2, "cores": 1}, "memory": {"guest": "1Gi"},
                "devices": {"disks": [{"name": "root", "disk": {"bus": "virtio"}}, {"name": "cd", "cdrom": {}}]},
            },
            "volumes": [
                {"name": "root", "dataVolume": {"name": "web-root"}},
                {"name": "cd", "persistentVolumeClaim": {"claimName": "iso", "hotpluggable": true}},
            ],
        })
    }

    /// The spec with one JSON pointer's value replaced, or made.
    fn with(pointer: &str, value: Value) -> Value {
        let mut spec = spec();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(elements) if name == "-" => elements.push(value),
            parent => parent[name] = value,
        }
        spec
    }

    fn check(after: &Value, expected: bool) {
        assert_eq!(restart_required(&spec(), after), expected, "{after}");
    }

    #[test]
    fn what_is_live_needs_no_restart() {
        check(&spec(), false);
        check(&with("/nodeSelector", json!({"rack": "a"})), false);
        check(&with("/affinity", json!({"nodeAffinity": {}})), false);
        check(&with("/tolerations", json!([{"operator": "Exists"}])), false);
        check(&with("/domain/cpu/sockets", json!(4)), false);
        check(&with("/domain/memory/guest", json!("2Gi")), false);
    }

    #[test]
    fn everything_else_waits() {
        check(&with("/domain/cpu/cores", json!(2)), true);
        check(&with("/domain/cpu/maxSockets", json!(8)), true);
        check(&with("/terminationGracePeriodSeconds", json!(5)), true);
        check(&with("/domain/devices/rng", json!({})), true);
        check(&with("/volumes/-", json!({"name": "more", "dataVolume": {"name": "more"}})), true);
        check(&with("/domain/devices/disks/-", json!({"name": "more", "disk": {}})), true);
        let other = json!([{"name": "root", "dataVolume": {"name": "other"}}]);
        check(&with("/volumes", other), true);
    }

    #[test]
    fn hotpluggable_volumes_come_and_go() {
        let mut plugged =
            with("/volumes/-", json!({"name": "data", "dataVolume": {"name": "d", "hotpluggable": true}}));
        plugged["domain"]["devices"]["disks"].as_array_mut().unwrap().push(json!({"name": "data", "disk": {}}));
        check(&plugged, false);
        assert!(!restart_required(&plugged, &spec()), "and out again");
        let mut ejected = spec();
        ejected["volumes"].as_array_mut().unwrap().truncate(1);
        check(&ejected, false);
        ejected["domain"]["devices"]["disks"].as_array_mut().unwrap().truncate(1);
        check(&ejected, true);
        let fixed = json!({"name": "root", "dataVolume": {"name": "web-root", "hotpluggable": true}});
        check(&with("/volumes", json!([fixed])), true);
    }

    #[test]
    fn a_size_that_was_not_written_is_still_a_size() {
        let silent = json!({"domain": {"devices": {}}});
        let sized = json!({"domain": {"devices": {}, "cpu": {"sockets": 2}, "memory": {"guest": "1Gi"}}});
        assert!(!restart_required(&silent, &sized));
        assert!(restart_required(&silent, &json!({"domain": {"devices": {}, "cpu": {"cores": 2}}})));
    }
}
