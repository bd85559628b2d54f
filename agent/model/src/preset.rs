//! Presets: parts of `domain` that guests with certain labels get where they have none. The rules are KubeVirt's
//! (`mutators/preset.go`): a part is taken whole or not at all, what the guest says goes before it, and two presets that
//! say different things are at odds whatever the guest says. Works on JSON; refuses to select presets.

use serde_json::{Map, Value};

/// Parts that a preset can give, below `domain`, each taken whole. Requests are compared one by one, and taken whole.
const PARTS: [&str; 9] = [
    "/resources/requests",
    "/cpu",
    "/firmware",
    "/clock/utc",
    "/clock/timezone",
    "/clock/timer",
    "/features",
    "/devices/watchdog",
    "/ioThreadsPolicy",
];

/// The two of which a clock has at most one.
const CLOCK_OFFSETS: [&str; 2] = ["/clock/utc", "/clock/timezone"];

/// A preset that matches a guest.
#[derive(Debug, Clone, Copy)]
pub struct Preset<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its `domain`.
    pub domain: &'a Value,
}

/// What became of a preset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// A part of it is in effect.
    pub applied: bool,
    /// Parts that the guest says otherwise, as paths below `spec.domain`.
    pub overridden: Vec<String>,
}

/// Puts presets into a guest's `domain`.
///
/// # Errors
/// Pairs of presets that are at odds, in a sentence each; nothing is then changed.
pub fn apply(domain: &mut Value, presets: &[Preset<'_>]) -> Result<Vec<Outcome>, Vec<String>> {
    let mut odds = Vec::new();
    for (at, later) in presets.iter().enumerate() {
        for earlier in presets.iter().take(at) {
            let parts = differing(later.domain, earlier.domain);
            if !parts.is_empty() {
                let parts = parts.join(", ");
                odds.push(format!("presets '{}' and '{}' conflict: {parts}", later.name, earlier.name));
            }
        }
    }
    if !odds.is_empty() {
        return Err(odds);
    }
    Ok(presets.iter().map(|preset| put(domain, *preset)).collect())
}

/// A part that says something: an empty object does everywhere but in the requests.
fn there<'a>(domain: &'a Value, path: &str) -> Option<&'a Value> {
    let is_empty = |value: &Value| path == "/resources/requests" && value.as_object().is_some_and(Map::is_empty);
    domain.pointer(path).filter(|value| !value.is_null() && !is_empty(value))
}

/// Parts of which both say something, and not the same.
fn differing(one: &Value, other: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for path in PARTS {
        let (Some(one), Some(other)) = (there(one, path), there(other, path)) else { continue };
        let name = path.trim_start_matches('/').replace('/', ".");
        if path == "/resources/requests" {
            let requests = one.as_object().into_iter().flatten();
            let differ = requests.filter(|(key, value)| other.get(key.as_str()).is_some_and(|said| said != *value));
            found.extend(differ.map(|(key, _)| format!("{name}[{key}]")));
        } else if one != other {
            found.push(name);
        }
    }
    found
}

fn put(domain: &mut Value, preset: Preset<'_>) -> Outcome {
    let overridden = differing(preset.domain, domain);
    let mut applied = false;
    let has_offset = CLOCK_OFFSETS.iter().any(|path| there(domain, path).is_some());
    for path in PARTS {
        let Some(part) = there(preset.domain, path) else { continue };
        let blocked = has_offset && CLOCK_OFFSETS.contains(&path);
        if there(domain, path).is_none() && !blocked {
            set(domain, path, part.clone());
        }
        applied |= there(domain, path) == Some(part);
    }
    Outcome { name: preset.name.to_owned(), applied, overridden }
}

fn set(value: &mut Value, path: &str, new: Value) {
    let mut node = value;
    for name in path.split('/').skip(1) {
        if !node.is_object() {
            *node = Value::Object(Map::new());
        }
        node = &mut node[name];
    }
    *node = new;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied(domain: Value, presets: &[(&str, Value)]) -> Result<(Value, Vec<Outcome>), Vec<String>> {
        let mut domain = domain;
        let presets: Vec<_> = presets.iter().map(|(name, domain)| Preset { name, domain }).collect();
        apply(&mut domain, &presets).map(|outcomes| (domain, outcomes))
    }

    #[test]
    fn a_preset_gives_what_the_guest_does_not_say() {
        let preset = json!({"cpu": {"cores": 4}, "resources": {"requests": {"memory": "1Gi"}},
            "devices": {"watchdog": {"name": "w"}}, "clock": {"timezone": "UTC"}});
        let (domain, outcomes) = applied(
            json!({"devices": {"disks": []}, "clock": {"utc": {}}, "resources": {"requests": {}}}),
            &[("small", preset)],
        )
        .unwrap();
        let expected = json!({
            "cpu": {"cores": 4}, "resources": {"requests": {"memory": "1Gi"}}, "clock": {"utc": {}},
            "devices": {"disks": [], "watchdog": {"name": "w"}},
        });
        assert_eq!(domain, expected);
        assert!(outcomes[0].applied && outcomes[0].overridden.is_empty());
    }

    #[test]
    fn the_guest_goes_before_a_preset() {
        let guest = json!({"cpu": {"cores": 2}, "resources": {"requests": {"memory": "2Gi"}}});
        let preset = json!({"cpu": {"cores": 4}, "resources": {"requests": {"memory": "1Gi", "cpu": 1}}});
        let (domain, outcomes) = applied(guest.clone(), &[("small", preset)]).unwrap();
        assert_eq!(domain, guest);
        assert!(!outcomes[0].applied);
        assert_eq!(outcomes[0].overridden, ["resources.requests[memory]", "cpu"]);
    }

    #[test]
    fn presets_that_are_at_odds_change_nothing() {
        let presets = [("a", json!({"cpu": {"cores": 4}})), ("b", json!({"cpu": {"cores": 2}}))];
        let odds = applied(json!({}), &presets).unwrap_err();
        assert_eq!(odds, ["presets 'b' and 'a' conflict: cpu"]);
        let same = [("a", json!({"cpu": {"cores": 4}})), ("b", json!({"cpu": {"cores": 4}, "features": {}}))];
        let (domain, outcomes) = applied(json!({}), &same).unwrap();
        assert_eq!(domain, json!({"cpu": {"cores": 4}, "features": {}}));
        assert!(outcomes.iter().all(|outcome| outcome.applied));
    }
}
