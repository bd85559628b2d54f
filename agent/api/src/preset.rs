//! VirtualMachineInstancePreset: what guests with certain labels are made of. Deprecated upstream in favour of
//! instancetypes and preferences.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::vmi::DomainSpec;

/// What guests with certain labels are made of.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevirt.io",
    version = "v1",
    kind = "VirtualMachineInstancePreset",
    plural = "virtualmachineinstancepresets",
    namespaced
)]
#[kube(derive = "PartialEq", derive = "Default", category = "all")]
#[kube(
    shortname = "vmipreset",
    shortname = "vmipresets",
    doc = "Deprecated: what guests with certain labels are made of."
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstancePresetSpec {
    /// Which guests.
    pub selector: LabelSelector,
    /// What is put into them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainSpec>,
}
