//! `spec.accessCredentials`: SSH keys and passwords handed to the guest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::Empty;

/// A credential for the guest. One of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessCredential {
    /// SSH public keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<SshPublicKey>,
    /// A user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_password: Option<UserPassword>,
}

/// SSH public keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshPublicKey {
    /// Where they come from.
    pub source: CredentialSource,
    /// How they reach the guest.
    pub propagation_method: SshPropagation,
}

/// A user's password.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserPassword {
    /// Where it comes from.
    pub source: CredentialSource,
    /// How it reaches the guest.
    pub propagation_method: PasswordPropagation,
}

/// Where a credential comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialSource {
    /// A Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<CredentialSecret>,
}

/// A Secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialSecret {
    /// Name of the Secret.
    pub secret_name: String,
}

/// How SSH keys reach the guest; one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshPropagation {
    /// In the config drive's metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<Empty>,
    /// In the NoCloud seed's metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_cloud: Option<Empty>,
    /// By the guest agent, while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu_guest_agent: Option<AgentUsers>,
}

/// How a password reaches the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordPropagation {
    /// By the guest agent, while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu_guest_agent: Option<Empty>,
}

/// Users of the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentUsers {
    /// User names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
}
