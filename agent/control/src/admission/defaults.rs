//! Defaults that are written into objects, as KubeVirt's and CDI's mutating webhooks do, so that everybody who reads the
//! object sees what is in effect, and a new guest's first status and finalizer. Works on JSON and leaves alone what it does
//! not understand: the schema, which is checked after this, says better what is wrong with it.

use std::sync::Arc;

use furrow_api::names::FINALIZER_VMI;
use furrow_api::quantity;
use furrow_api::vmi::DomainSpec;
use furrow_model::vm::memory::{self, ClusterRoom};
use furrow_model::vm::plug;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Map, Value, json};

use super::facts::{Facts, FactsError};
use super::guest::compute::VCPUS_MAX;
use super::review::{Answer, Request};
use super::{instancetypes, is_own, presets, settled, verdict, vm};
use crate::room;

/// Machine type when neither the guest nor the cluster names one.
const MACHINE_TYPE: &str = "q35";

/// Name of the network and the interface of a guest that names none.
const DEFAULT_NETWORK: &str = "default";

pub(super) async fn of_vm<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let mut object = request.object.clone();
    let completed = instancetypes::complete(facts.as_ref(), &request, &mut object).await?;
    if !completed.causes.is_empty() {
        return Ok(verdict(completed.causes, Vec::new()));
    }
    // Fixed in the virtual machine and not at each start: a guest's hardware is not to change under it.
    if let Some(spec) = vm::template_spec(&mut object) {
        machine(spec, completed.machine.or_else(|| facts.default_machine_type()));
    }
    for template in elements(&mut object, "/spec/dataVolumeTemplates") {
        if let Some(spec) = template.get_mut("spec") {
            data_volume(spec, request.namespace());
        }
    }
    Ok(patch(&request.object, &object))
}

pub(super) async fn of_vmi<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if !request.is_create() {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let mut object = request.object.clone();
    let odds = presets::apply(facts.as_ref(), &request, &mut object);
    if !odds.is_empty() {
        return Ok(verdict(odds, Vec::new()));
    }
    if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
        machine(spec, facts.default_machine_type());
        guest(spec, facts.cluster_room());
        let strategy = facts.eviction_strategy();
        if let (Some(spec), Some(strategy)) = (spec.as_object_mut(), strategy) {
            spec.entry("evictionStrategy").or_insert_with(|| json!(strategy));
        }
    }
    accept(&mut object, !is_own(&request));
    Ok(patch(&request.object, &object))
}

/// Finalizer on, phase Pending, so that control need not write them. `foreign`: whoever makes the guest has no say in its
/// status, and an object that was exported from a running guest must not claim to run. Control names the revision that the
/// guest is made from.
fn accept(object: &mut Value, foreign: bool) {
    let begun = !text(object.pointer("/status/phase")).is_empty();
    if let Ok(Value::Object(pending)) = serde_json::to_value(crate::vmi::pending())
        && (foreign || !begun)
    {
        match object["status"].as_object_mut().filter(|_| !foreign) {
            Some(status) => status.extend(pending),
            None => object["status"] = Value::Object(pending),
        }
    }
    let Some(metadata) = object.as_object_mut().and_then(|object| child(object, "metadata")) else { return };
    let finalizers = metadata.entry("finalizers").or_insert(Value::Null);
    if finalizers.is_null() {
        *finalizers = json!([]);
    }
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|finalizer| finalizer == FINALIZER_VMI)
    {
        finalizers.push(json!(FINALIZER_VMI));
    }
}

pub(super) async fn of_data_volume<F: Facts>(_facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if !request.is_create() {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let mut object = request.object.clone();
    if let Some(spec) = object.get_mut("spec") {
        data_volume(spec, request.namespace());
    }
    Ok(patch(&request.object, &object))
}

/// A JSON patch from one object to the other, for the parts that defaults touch.
fn patch(old: &Value, new: &Value) -> Answer {
    let mut operations = Vec::new();
    if old.get("spec") != new.get("spec") {
        operations.push(json!({"op": "replace", "path": "/spec", "value": new["spec"]}));
    }
    // Adding replaces what is there.
    for path in ["/metadata/annotations", "/metadata/finalizers", "/status"] {
        if let Some(new) = new.pointer(path).filter(|new| old.pointer(path) != Some(new)) {
            operations.push(json!({"op": "add", "path": path, "value": new}));
        }
    }
    if operations.is_empty() { Answer::Allowed(Vec::new()) } else { Answer::Patched(Value::Array(operations)) }
}

fn machine(spec: &mut Value, default: Option<String>) {
    let Some(machine) = object(spec, "domain").and_then(|domain| child(domain, "machine")) else { return };
    if text(machine.get("type")).is_empty() {
        machine.insert("type".to_owned(), Value::String(default.unwrap_or_else(|| MACHINE_TYPE.to_owned())));
    }
}

fn guest(spec: &mut Value, room: ClusterRoom) {
    default_network(spec);
    for interface in elements(spec, "/domain/devices/interfaces") {
        let Some(interface) = interface.as_object_mut() else { continue };
        let bindings = ["binding", "bridge", "macvtap", "masquerade", "passt", "passtBinding", "slirp", "sriov"];
        if !bindings.iter().any(|binding| interface.get(*binding).is_some_and(|value| !value.is_null())) {
            interface.insert("bridge".to_owned(), json!({}));
        }
    }
    disks_of_volumes(spec);
    guest_memory(spec);
    topology(spec, room);
    max_guest(spec, room);
}

/// Devices of a guest that says nothing of them: to be there before a preference is applied, which is for those too.
pub(crate) fn devices(spec: &mut Value) {
    default_network(spec);
    disks_of_volumes(spec);
}

/// A guest that says nothing of networks is on the default one.
fn default_network(spec: &mut Value) {
    let is_empty = |list: Option<&Value>| list.and_then(Value::as_array).is_none_or(Vec::is_empty);
    let devices = spec.pointer("/domain/devices");
    let wanted = devices.and_then(|devices| devices.get("autoattachPodInterface")) != Some(&Value::Bool(false));
    let silent = is_empty(spec.get("networks")) && is_empty(devices.and_then(|devices| devices.get("interfaces")));
    if !(wanted && silent) {
        return;
    }
    let Some(devices) = object(spec, "domain").and_then(|domain| child(domain, "devices")) else { return };
    devices.insert("interfaces".to_owned(), json!([{"name": DEFAULT_NETWORK, "bridge": {}}]));
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("networks".to_owned(), json!([{"name": DEFAULT_NETWORK, "pod": {}}]));
    }
}

/// A volume that is neither a disk nor a file system becomes a disk: it was listed to be seen.
fn disks_of_volumes(spec: &mut Value) {
    let names = |list: Option<&Value>| -> Vec<String> {
        let elements = list.and_then(Value::as_array).into_iter().flatten();
        elements.map(|element| text(element.get("name")).to_owned()).filter(|name| !name.is_empty()).collect()
    };
    let mut shown = names(spec.pointer("/domain/devices/disks"));
    shown.extend(names(spec.pointer("/domain/devices/filesystems")));
    let hidden: Vec<_> = names(spec.get("volumes")).into_iter().filter(|name| !shown.contains(name)).collect();
    if hidden.is_empty() {
        return;
    }
    let Some(devices) = object(spec, "domain").and_then(|domain| child(domain, "devices")) else { return };
    let disks = devices.entry("disks").or_insert_with(|| json!([]));
    if disks.is_null() {
        *disks = json!([]);
    }
    if let Some(disks) = disks.as_array_mut() {
        disks.extend(hidden.into_iter().map(|name| json!({"name": name, "disk": {}})));
    }
}

fn guest_memory(spec: &mut Value) {
    let named = ["/domain/memory/guest", "/domain/resources/requests/memory", "/domain/resources/limits/memory"];
    let found = named.iter().find_map(|path| spec.pointer(path).filter(|value| !value.is_null()).cloned());
    let (Some(found), Some(memory)) = (found, object(spec, "domain").and_then(|domain| child(domain, "memory"))) else {
        return;
    };
    memory.entry("guest").or_insert(found);
}

/// One vCPU, or as many as the resources ask for when the topology is silent.
fn topology(spec: &mut Value, room: ClusterRoom) {
    let parts = ["sockets", "cores", "threads"];
    let named = parts.iter().any(|part| spec.pointer(&format!("/domain/cpu/{part}")).is_some_and(|v| !v.is_null()));
    let resources = ["/domain/resources/limits/cpu", "/domain/resources/requests/cpu"];
    let asked = resources.iter().find_map(|path| {
        let value = spec.pointer(path).filter(|value| !value.is_null())?;
        let written = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        quantity::units(&Quantity(written)).ok().filter(|count| *count > 0)
    });
    let Some(cpu) = object(spec, "domain").and_then(|domain| child(domain, "cpu")) else { return };
    let sockets = if named { 1 } else { asked.unwrap_or(1) };
    for (part, default) in parts.into_iter().zip([sockets, 1, 1]) {
        let value = cpu.entry(part).or_insert(Value::Null);
        if value.is_null() {
            *value = json!(default);
        }
    }
    max_sockets(cpu, room);
}

/// Room for processors that are plugged in later. A guest whose processors are pinned one by one has none to spare.
fn max_sockets(cpu: &mut Map<String, Value>, room: ClusterRoom) {
    let says = |part: &str| cpu.get(part).is_some_and(|value| !value.is_null() && value != &Value::Bool(false));
    let count = |part: &str| cpu.get(part).and_then(Value::as_i64).filter(|count| *count > 0);
    if says("maxSockets") {
        return;
    }
    let (Some(sockets), Some(cores), Some(threads)) = (count("sockets"), count("cores"), count("threads")) else {
        return;
    };
    let pinned = ["dedicatedCpuPlacement", "numa", "realtime"].into_iter().any(says);
    let most = if pinned { sockets } else { plug::room([sockets, cores, threads], VCPUS_MAX, room) };
    cpu.insert("maxSockets".to_owned(), json!(most));
}

/// Room for memory that is plugged in later, where the cluster's settings give it to guests that name none.
fn max_guest(spec: &mut Value, cluster: ClusterRoom) {
    let own = spec.pointer("/domain/memory/maxGuest").is_some_and(|value| !value.is_null());
    let domain = spec.get("domain").cloned().map(serde_json::from_value::<DomainSpec>);
    let Some(Ok(domain)) = domain.filter(|_| !own) else { return };
    let most = memory::most(room::of(&domain), cluster);
    let memory = object(spec, "domain").and_then(|domain| child(domain, "memory"));
    if let (Some(most), Some(memory)) = (most, memory) {
        // What the model gives is whole blocks of 2 MiB.
        memory.insert("maxGuest".to_owned(), json!(format!("{}Mi", most >> 20)));
    }
}

/// The source's namespace, which CDI leaves to its webhook, and the volume mode: CDI leaves that to Kubernetes, whose
/// default is a file system, on which a disk would be a file. Here a disk is a block device.
fn data_volume(spec: &mut Value, namespace: &str) {
    if let Some(source) = spec.pointer_mut("/source/pvc").and_then(Value::as_object_mut)
        && text(source.get("namespace")).is_empty()
    {
        source.insert("namespace".to_owned(), Value::String(namespace.to_owned()));
    }
    for target in ["/pvc", "/storage"] {
        if let Some(target) = spec.pointer_mut(target).and_then(Value::as_object_mut)
            && text(target.get("volumeMode")).is_empty()
        {
            target.insert("volumeMode".to_owned(), Value::String("Block".to_owned()));
        }
    }
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

/// A field that is an object already.
fn object<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    value.get_mut(key).and_then(Value::as_object_mut)
}

/// A field that is an object, made if it is missing; `None` if it is something else.
fn child<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let value = parent.entry(key).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

fn elements<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

#[cfg(test)]
#[path = "defaults_tests.rs"]
mod tests;
