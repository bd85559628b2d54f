//! Joining a cluster: the one-time token, what is fetched with it, and the record that this node has joined.
//!
//! ```text
//!  token create (on a server) ──> Secrets bootstrap-token-ID, join-ID ──> token ──> node.yaml of the new node
//!  step join: CA by its hash ──> join-ID by the token ──> no other node is this machine ──> record (material, role) ──> both Secrets deleted
//! ```
//! From the record on, nothing depends on the token any more. Refuses to decide how the material is used: that is the
//! steps' affair.

mod fetch;
mod machine;
mod material;
mod token;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Role;
use crate::files::{record, replace};

pub(crate) use fetch::{JoinError, connect, consume, fetch};
pub(crate) use machine::{Machine, distinct};
pub(crate) use material::{Authority, CephMaterial, K3sTokens, Material, entities};
pub(crate) use token::{Token, TokenError, hash, letters};

/// Where Furrow's own Secrets are.
pub(crate) const NAMESPACE: &str = "furrow-system";
/// Servers that a cluster wants before further nodes become agents: what etcd and the monitors need to lose one.
pub(crate) const WANTED_SERVERS: usize = 3;

/// Name of the Secret with the material for the token of this id.
pub(crate) fn material_secret(id: &str) -> String {
    format!("join-{id}")
}

/// Name of the Secret in kube-system that makes the token valid.
pub(crate) fn token_secret(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// That this node has joined, as what, and with what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Joined {
    /// Decided once.
    pub(crate) role: Role,
    /// The server that was asked.
    pub(crate) server: String,
    /// Id of the token that was used.
    pub(crate) token_id: String,
    /// What came with it.
    pub(crate) material: Material,
    /// Whether the cluster has been told to forget the token.
    pub(crate) consumed: bool,
}

fn path(state: &Path) -> PathBuf {
    state.join("join/joined.json")
}

impl Joined {
    /// The record; None when this node has not joined a cluster.
    ///
    /// # Errors
    /// When it is there and cannot be read: without it the node would make itself a cluster of its own.
    pub(crate) fn load(state: &Path) -> std::io::Result<Option<Joined>> {
        record(&path(state))
    }

    /// What a node with this state is: as the record says, or the server that makes a cluster.
    ///
    /// # Errors
    /// As [`Joined::load`].
    pub(crate) fn role(state: &Path) -> std::io::Result<Role> {
        Ok(Joined::load(state)?.map_or(Role::Server, |joined| joined.role))
    }

    /// Writes the record, whole or not at all, for root alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, state: &Path) -> std::io::Result<()> {
        replace(&path(state), &serde_json::to_vec_pretty(self)?, 0o600)
    }
}

/// What a node that joins becomes: what its node.yaml says, otherwise what the cluster needs.
pub(crate) fn choose_role(wanted: Option<Role>, servers: usize) -> Role {
    wanted.unwrap_or(if servers < WANTED_SERVERS { Role::Server } else { Role::Agent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_servers_come_first() {
        assert_eq!(choose_role(None, 1), Role::Server);
        assert_eq!(choose_role(None, 2), Role::Server);
        assert_eq!(choose_role(None, 3), Role::Agent);
        assert_eq!(choose_role(Some(Role::Agent), 1), Role::Agent);
        assert_eq!(choose_role(Some(Role::Server), 3), Role::Server);
    }

    #[test]
    fn the_record_is_private_and_reads_back() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Joined::load(dir.path()).expect("none yet"), None);
        let joined = Joined {
            role: Role::Agent,
            server: "https://10.0.0.1:6443".into(),
            token_id: "abcdef".into(),
            material: Material::default(),
            consumed: false,
        };
        joined.save(dir.path()).expect("saved");
        assert_eq!(Joined::load(dir.path()).expect("there"), Some(joined));
        let mode = std::fs::metadata(path(dir.path())).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(path(dir.path()), "{").expect("written");
        assert!(Joined::load(dir.path()).is_err(), "a broken record is not none");
    }
}
