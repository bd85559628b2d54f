//! NetworkAttachmentDefinition (k8s.cni.cncf.io): the name by which a VM asks for a network.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The network, as CNI configuration.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "k8s.cni.cncf.io", version = "v1", kind = "NetworkAttachmentDefinition", namespaced)]
#[kube(plural = "network-attachment-definitions", singular = "network-attachment-definition")]
#[kube(shortname = "net-attach-def", derive = "PartialEq", derive = "Default")]
#[kube(doc = "The name by which a VM asks for a network.")]
#[serde(rename_all = "camelCase")]
pub struct NetworkAttachmentDefinitionSpec {
    /// CNI configuration, JSON. Furrow reads `type: kube-ovn` and `provider: <name>.<namespace>.ovn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// What Furrow reads of [`NetworkAttachmentDefinitionSpec::config`]; other keys are for CNI plugins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NadConfig {
    /// CNI plugin; `kube-ovn` for networks of Furrow.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// Subnet provider: `<name>.<namespace>.ovn`, or `ovn` for the default subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

impl NetworkAttachmentDefinitionSpec {
    /// Reads [`Self::config`]. An absent or empty one is an empty configuration.
    ///
    /// # Errors
    /// When the text is no JSON object.
    pub fn parse_config(&self) -> Result<NadConfig, serde_json::Error> {
        match self.config.as_deref().map(str::trim) {
            None | Some("") => Ok(NadConfig::default()),
            Some(text) => serde_json::from_str(text),
        }
    }
}
