//! The Ceph key that QEMU uses, as a libvirt secret: read from its keyring, kept in libvirtd's memory (ephemeral and
//! private), so that it is neither in a domain's XML nor on disk twice. Refuses keyrings without exactly one key.

use std::path::PathBuf;

use base64::Engine as _;
use serde::Serialize;
use uuid::Uuid;
use virt::connect::Connect;

use super::LibvirtError;

const NO_FLAGS: u32 = 0;

/// One Ceph key for libvirt.
#[derive(Debug, Clone)]
pub struct CephSecret {
    /// The UUID by which domains name it.
    pub uuid: Uuid,
    /// The usage name, for people: `client.furrow-qemu secret`.
    pub usage: String,
    /// The keyring file.
    pub keyring: PathBuf,
}

#[derive(Serialize)]
#[serde(rename = "secret")]
struct SecretDocument<'a> {
    #[serde(rename = "@ephemeral")]
    ephemeral: &'static str,
    #[serde(rename = "@private")]
    private: &'static str,
    uuid: String,
    usage: Usage<'a>,
}

#[derive(Serialize)]
struct Usage<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    name: &'a str,
}

impl<'a> SecretDocument<'a> {
    fn new(spec: &'a CephSecret) -> Self {
        let usage = Usage { kind: "ceph", name: &spec.usage };
        Self { ephemeral: "yes", private: "yes", uuid: spec.uuid.to_string(), usage }
    }
}

pub(super) fn install(connection: &Connect, spec: &CephSecret) -> Result<(), LibvirtError> {
    let text = std::fs::read_to_string(&spec.keyring)
        .map_err(|source| LibvirtError::Keyring { path: spec.keyring.clone(), source })?;
    let key = parse_key(&text).ok_or_else(|| LibvirtError::KeyringFormat { path: spec.keyring.clone() })?;
    let xml = quick_xml::se::to_string(&SecretDocument::new(spec))
        .map_err(|error| LibvirtError::Xml { what: "the ceph secret", message: error.to_string() })?;
    let secret = connection
        .define_secret_xml(&xml, NO_FLAGS)
        .map_err(|error| LibvirtError::from_virt("define the ceph secret", &error))?;
    secret.set_value(&key, NO_FLAGS).map_err(|error| LibvirtError::from_virt("set the ceph secret", &error))
}

/// The key of a keyring in Ceph's ini-like form (`[client.x]`, `key = <base64>`).
fn parse_key(keyring: &str) -> Option<Vec<u8>> {
    let mut keys = keyring
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.trim() == "key")
        // Only the first '=' separates; base64 padding has more of them.
        .map(|(_, value)| value.trim());
    let key = keys.next()?;
    if keys.next().is_some() {
        return None;
    }
    base64::engine::general_purpose::STANDARD.decode(key).ok().filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::parse_key;

    #[test]
    fn reads_the_one_key_of_a_keyring() {
        let keyring = "[client.furrow-qemu]\n\tkey = AQBkZW1vLWtleQ==\n\tcaps mon = \"profile rbd\"\n";
        assert_eq!(parse_key(keyring).as_deref(), Some(&b"\x01\x00demo-key"[..]));
    }

    #[test]
    fn refuses_a_keyring_without_key_or_with_two() {
        assert_eq!(parse_key("[client.x]\n"), None);
        assert_eq!(parse_key("[a]\nkey = AQ==\n[b]\nkey = AQ==\n"), None);
    }
}
