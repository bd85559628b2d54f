//! An instancetype in a template: what both must not say, and what it sets. Rules are KubeVirt's
//! (`pkg/instancetype/apply`).

use serde_json::{Value, json};

use super::json::{at, count, object, put, quantity, says};
use super::{Fault, Types, topology};

/// What an instancetype always says itself, below `spec` of the template.
const TAKEN: [&str; 8] = [
    "domain.resources.requests.cpu",
    "domain.resources.limits.cpu",
    "domain.cpu.sockets",
    "domain.cpu.cores",
    "domain.cpu.threads",
    "domain.memory.guest",
    "domain.resources.requests.memory",
    "domain.resources.limits.memory",
];

/// What it may say: below `spec` of the template, below its own.
const SHARED: [(&str, &str); 14] = [
    ("nodeSelector", "nodeSelector"),
    ("schedulerName", "schedulerName"),
    ("domain.cpu.model", "cpu.model"),
    ("domain.cpu.dedicatedCpuPlacement", "cpu.dedicatedCPUPlacement"),
    ("domain.cpu.isolateEmulatorThread", "cpu.isolateEmulatorThread"),
    ("domain.cpu.numa", "cpu.numa"),
    ("domain.cpu.realtime", "cpu.realtime"),
    ("domain.memory.hugepages", "memory.hugepages"),
    ("domain.memory.maxGuest", "memory.maxGuest"),
    ("domain.ioThreadsPolicy", "ioThreadsPolicy"),
    ("domain.ioThreads", "ioThreads"),
    ("domain.launchSecurity", "launchSecurity"),
    ("domain.devices.gpus", "gpus"),
    ("domain.devices.hostDevices", "hostDevices"),
];

/// Fields in which a template and an instancetype are at odds.
pub(super) fn conflicts(base: &str, template: &Value, instancetype: &Value) -> Vec<Fault> {
    let spec = &template["spec"];
    let taken = TAKEN.iter().filter(|path| says(spec, path)).copied();
    let shared = SHARED.iter().filter(|(path, own)| at(instancetype, own).is_some() && stands(spec, path));
    let paths = taken.chain(shared.map(|(path, _)| *path));
    let mut conflicts: Vec<_> = paths.map(|path| Fault::conflict(format!("{base}.spec.{path}"))).collect();
    for (key, value) in annotations(instancetype) {
        if template.pointer("/metadata/annotations").and_then(|said| said.get(key)).is_some_and(|said| said != value) {
            conflicts.push(Fault::conflict(format!("{base}.metadata.annotations[{key}]")));
        }
    }
    conflicts
}

/// A selector of nothing is none, whereas an empty object elsewhere says something by being there.
fn stands(spec: &Value, path: &str) -> bool {
    says(spec, path) && (path != "nodeSelector" || spec[path] != json!({}))
}

fn annotations(instancetype: &Value) -> impl Iterator<Item = (&String, &Value)> {
    instancetype.get("annotations").and_then(Value::as_object).into_iter().flatten()
}

/// Sets what the instancetype says; there are no conflicts.
///
/// # Errors
/// When its vCPUs cannot be spread as the preference wants.
pub(super) fn apply(template: &mut Value, instancetype: &Value, types: &Types<'_>) -> Result<(), Fault> {
    let (sockets, cores, threads) = topology::place(count(instancetype, "cpu.guest"), types.preference)?;
    let spec = template.as_object_mut().map(|template| template.entry("spec").or_insert_with(|| json!({})));
    if let Some(spec) = spec {
        let cpu = object(spec, "domain.cpu");
        for (part, count) in [("sockets", sockets), ("cores", cores), ("threads", threads)] {
            cpu.insert(part.to_owned(), json!(count));
        }
        for (path, own) in SHARED {
            if let Some(value) = at(instancetype, own) {
                put(spec, path, value.clone());
            }
        }
        if let Some(most) = at(instancetype, "cpu.maxSockets") {
            put(spec, "domain.cpu.maxSockets", most.clone());
        }
        memory(spec, instancetype, types);
    }
    let said: Vec<_> = annotations(instancetype).map(|(key, value)| (key.clone(), value.clone())).collect();
    if !said.is_empty() {
        object(template, "metadata.annotations").extend(said);
    }
    Ok(())
}

/// The guest's memory. Overcommitted memory is requested from the scheduler in part only.
fn memory(spec: &mut Value, instancetype: &Value, types: &Types<'_>) {
    let Some(guest) = quantity(instancetype, "memory.guest") else { return };
    let percent = count(instancetype, "memory.overcommitPercent").clamp(0, 100);
    if let Some(bytes) = (types.bytes)(&guest).filter(|_| percent > 0) {
        let requested = i128::from(bytes) * i128::from(100 - percent) / 100;
        put(spec, "domain.resources.requests.memory", json!(requested.to_string()));
    }
    put(spec, "domain.memory.guest", json!(guest));
}
