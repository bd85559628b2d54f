//! Instancetypes and preferences: what a virtual machine is made of that refers to them. The rules are KubeVirt's
//! (`pkg/instancetype`):
//!
//! ```text
//!  matcher (name, kind, or a volume's labels) ──> spec of an instancetype, of a preference
//!  template ── autoattach preferences ── default devices (the caller's) ── instancetype ── preference ──> template
//! ```
//!
//! An instancetype never goes before what the template says: both saying something is a conflict, and refused. A
//! preference never goes before it either: it gives way. Works on the objects' JSON, since the shapes are the API's;
//! refuses to fetch anything, and to judge the result, which admission does as for any other template.

mod infer;
mod json;
mod matcher;
mod preference;
mod requirements;
mod size;
#[cfg(test)]
mod tests;
mod topology;

use serde_json::Value;

pub use infer::{Named, Source, labelled, of_data_volume, of_volume};
pub use matcher::{Scope, Which, faults, revision_labels, revision_name};
pub use preference::storage_class;
pub use requirements::unmet;
pub use topology::preference_faults;

/// Reads a quantity as bytes; `None` when it is none. Quantities are the API's affair.
pub type Bytes = fn(&str) -> Option<i64>;

/// Specs of what a virtual machine refers to.
#[derive(Debug, Clone, Copy)]
pub struct Types<'a> {
    /// `spec` of its instancetype.
    pub instancetype: Option<&'a Value>,
    /// `spec` of its preference.
    pub preference: Option<&'a Value>,
    /// How quantities are read.
    pub bytes: Bytes,
}

/// Something that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field from the root of the object.
    pub field: String,
    /// What is wrong, in KubeVirt's words where it has some.
    pub message: String,
}

impl Fault {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    fn conflict(field: String) -> Self {
        let message = format!("VM field(s) {field} conflicts with selected instance type");
        Self { field, message }
    }
}

/// What a preference says of devices that are there by default. To be called before defaults are filled in.
pub fn attach(spec: &mut Value, types: &Types<'_>) {
    if let Some(preference) = types.preference {
        preference::attach(spec, preference);
    }
}

/// Fills in a template, an object with `metadata` and `spec`: that of a virtual machine, or a guest. `base`: its path.
///
/// # Errors
/// Every field in which the template and the instancetype are at odds; the template is then as it was.
pub fn apply(base: &str, template: &mut Value, types: &Types<'_>) -> Result<(), Vec<Fault>> {
    let mut new = template.clone();
    if let Some(instancetype) = types.instancetype {
        let conflicts = size::conflicts(base, &new, instancetype);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        size::apply(&mut new, instancetype, types).map_err(|fault| vec![fault])?;
    }
    if let Some(preference) = types.preference {
        preference::apply(&mut new, preference);
    }
    *template = new;
    Ok(())
}

/// A virtual machine without references, from one whose template was filled in by `fill`.
///
/// # Errors
/// Those of `fill`.
pub fn expand<E>(vm: &Value, fill: impl FnOnce(&mut Value) -> Result<(), E>) -> Result<Value, E> {
    let mut vm = vm.clone();
    if let Some(template) = vm.pointer_mut("/spec/template") {
        fill(template)?;
    }
    if let Some(spec) = vm.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("instancetype");
        spec.remove("preference");
    }
    Ok(vm)
}
