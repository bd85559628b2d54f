//! What a node needs to join, as a server keeps it for one token. Everything here is secret: it is neither logged nor
//! shown. A server's part makes its holder an administrator, so that it is only there where the token may make servers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Role;

/// The material.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Material {
    /// k3s's own join tokens.
    pub(crate) k3s: K3sTokens,
    /// Ceph.
    pub(crate) ceph: CephMaterial,
    /// Furrow's CA, for servers.
    pub(crate) ca: Option<Authority>,
}

/// k3s's join tokens.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct K3sTokens {
    /// Of `server/node-token`: joins anything.
    pub(crate) server: Option<String>,
    /// Of `server/agent-token`: joins agents.
    pub(crate) agent: Option<String>,
}

/// What Ceph's daemons and clients need.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CephMaterial {
    /// The cluster's identity.
    pub(crate) fsid: String,
    /// `mon_host` of all monitors that there were.
    pub(crate) mon_host: String,
    /// Keyrings by entity.
    pub(crate) keyrings: BTreeMap<String, String>,
}

/// A CA with its key, PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authority {
    /// Certificate.
    pub(crate) crt: String,
    /// Private key.
    pub(crate) key: String,
}

/// Ceph's entities whose keyrings go to a node.
pub(crate) fn entities(role: Role) -> &'static [&'static str] {
    match role {
        Role::Server => &["client.admin", "mon."],
        Role::Agent => &["client.bootstrap-osd", "client.furrow-agent", "client.furrow-qemu"],
    }
}

impl Material {
    /// Whether all is there that a node of this role needs.
    ///
    /// # Errors
    /// What is missing, by name.
    pub(crate) fn check(&self, role: Role) -> Result<(), String> {
        let token = match role {
            Role::Server => &self.k3s.server,
            Role::Agent => &self.k3s.agent,
        };
        let keyring = |entity: &&&str| !self.ceph.keyrings.contains_key(**entity);
        if token.is_none() {
            return Err("k3s's token".into());
        }
        if role == Role::Server && self.ca.is_none() {
            return Err("Furrow's CA".into());
        }
        if self.ceph.fsid.is_empty() || self.ceph.mon_host.is_empty() {
            return Err("Ceph's identity and monitors".into());
        }
        entities(role).iter().find(keyring).map_or(Ok(()), |entity| Err(format!("the keyring of {entity}")))
    }
}

/// What is there, not its content.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = |role| if self.check(role).is_ok() { "complete" } else { "incomplete" };
        write!(f, "material ({} for a server, {} for an agent)", role(Role::Server), role(Role::Agent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents() -> Material {
        let keyring = |entity: &&str| ((*entity).to_owned(), format!("[{entity}]\n\tkey = SECRET\n"));
        Material {
            k3s: K3sTokens { server: None, agent: Some("SECRET".into()) },
            ceph: CephMaterial {
                fsid: "f".into(),
                mon_host: "m".into(),
                keyrings: entities(Role::Agent).iter().map(keyring).collect(),
            },
            ca: None,
        }
    }

    #[test]
    fn an_agents_material_makes_no_server() {
        assert_eq!(agents().check(Role::Agent), Ok(()));
        assert_eq!(agents().check(Role::Server), Err("k3s's token".into()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut material = agents();
        material.ceph.keyrings.remove("client.furrow-qemu");
        assert_eq!(material.check(Role::Agent), Err("the keyring of client.furrow-qemu".into()));
    }

    #[test]
    fn nothing_secret_is_shown() {
        assert_eq!(format!("{:?}", agents()), "material (incomplete for a server, complete for an agent)");
    }
}
