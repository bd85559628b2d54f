//! What a preference requires of whoever refers to it: vCPUs and memory, of the instancetype or, without one, of the
//! template. Words are KubeVirt's (`pkg/instancetype/preference/requirements`).

use serde_json::Value;

use super::json::{at, count, quantity, text};
use super::topology::{Across, Topology, spread, topology};
use super::{Fault, Types};

const CPU: &str = "spec.template.spec.domain.cpu";

/// Requirements that are not met. `spec`: the template's, before the instancetype was put into it.
#[must_use]
pub fn unmet(spec: &Value, types: &Types<'_>) -> Vec<Fault> {
    let Some(required) = types.preference.and_then(|preference| at(preference, "requirements")) else {
        return Vec::new();
    };
    let mut faults = cpu(spec, required, types);
    faults.extend(memory(spec, required, types));
    let wanted = text(required, "architecture");
    // A template that names none is of the only architecture there is.
    let said = Some(text(spec, "architecture")).filter(|said| !said.is_empty()).unwrap_or("amd64");
    if !wanted.is_empty() && wanted != said {
        let message = format!("preference requires architecture {wanted} but {said} is being requested");
        faults.push(Fault::new("spec.template.spec.architecture", message));
    }
    faults
}

fn cpu(spec: &Value, required: &Value, types: &Types<'_>) -> Vec<Fault> {
    let wanted = count(required, "cpu.guest");
    if wanted == 0 {
        return Vec::new();
    }
    if let Some(instancetype) = types.instancetype {
        let provided = count(instancetype, "cpu.guest");
        let message = format!(
            "insufficient CPU resources of {provided} vCPU provided by instance type, preference requires {wanted} vCPU"
        );
        return if provided < wanted { vec![Fault::new("spec.instancetype", message)] } else { Vec::new() };
    }
    if at(spec, "domain.cpu").is_none() {
        let message = format!("no CPU resources provided by VirtualMachine, preference requires {wanted} vCPU");
        return vec![Fault::new(CPU, message)];
    }
    let (parts, name) = counted(types.preference);
    // A part that is not said is one: the product is what the guest gets.
    let provided: i64 = match parts {
        [part] => count(spec, &format!("domain.cpu.{part}")),
        parts => parts.iter().map(|part| count(spec, &format!("domain.cpu.{part}")).max(1)).product(),
    };
    if provided >= wanted {
        return Vec::new();
    }
    let message = format!(
        "insufficient CPU resources of {provided} vCPU provided by VirtualMachine, preference requires {wanted} vCPU \
         provided as {name}"
    );
    parts.iter().map(|part| Fault::new(format!("{CPU}.{part}"), &message)).collect()
}

/// The parts of a topology that count for a preference, and what KubeVirt calls them.
fn counted(preference: Option<&Value>) -> (&'static [&'static str], &'static str) {
    match (topology(preference), spread(preference).0) {
        (Topology::Sockets, _) => (&["sockets"], "sockets"),
        (Topology::Cores, _) => (&["cores"], "cores"),
        (Topology::Threads, _) => (&["threads"], "threads"),
        (Topology::Any, _) => (&["cores", "sockets", "threads"], "cores, sockets and threads"),
        (Topology::Spread, Across::SocketsCores) => (&["sockets", "cores"], "SocketsCores"),
        (Topology::Spread, Across::CoresThreads) => (&["cores", "threads"], "CoresThreads"),
        (Topology::Spread, Across::SocketsCoresThreads) => (&["sockets", "cores", "threads"], "SocketsCoresThreads"),
    }
}

fn memory(spec: &Value, required: &Value, types: &Types<'_>) -> Option<Fault> {
    let wanted = quantity(required, "memory.guest")?;
    let (said, field, who) = match types.instancetype {
        Some(instancetype) => (quantity(instancetype, "memory.guest")?, "spec.instancetype", "instance type"),
        None => (quantity(spec, "domain.memory.guest")?, "spec.template.spec.domain.memory", "VirtualMachine"),
    };
    if (types.bytes)(&said)? >= (types.bytes)(&wanted)? {
        return None;
    }
    let message = format!("insufficient Memory resources of {said} provided by {who}, preference requires {wanted}");
    Some(Fault::new(field, message))
}
