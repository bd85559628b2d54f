//! Keys as libvirt secrets, kept in libvirtd's memory (ephemeral and private), so that they are neither in a domain's XML
//! nor on disk twice: the Ceph key that QEMU uses, read from its keyring, and the passphrase of a TPM's state, for as long as
//! its domain is being started. Refuses keyrings without exactly one key.

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use serde::Serialize;
use uuid::Uuid;
use virt::connect::Connect;
use virt::secret::Secret;

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

/// The passphrase that the state of a guest's TPM is encrypted with. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct TpmSecret {
    /// The UUID by which the domain names it.
    pub uuid: Uuid,
    /// The usage name, for people; libvirt has no two of one name.
    pub usage: String,
    /// The passphrase.
    pub passphrase: String,
}

impl fmt::Debug for TpmSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TpmSecret({}, {})", self.uuid, self.usage)
    }
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
    fn new(kind: &'static str, uuid: Uuid, name: &'a str) -> Self {
        Self { ephemeral: "yes", private: "yes", uuid: uuid.to_string(), usage: Usage { kind, name } }
    }
}

fn define(
    connection: &Connect,
    what: &'static str,
    document: &SecretDocument<'_>,
    value: &[u8],
) -> Result<Secret, LibvirtError> {
    let xml =
        quick_xml::se::to_string(document).map_err(|error| LibvirtError::Xml { what, message: error.to_string() })?;
    let secret = connection
        .define_secret_xml(&xml, NO_FLAGS)
        .map_err(|error| LibvirtError::from_virt("define a secret", &error))?;
    secret.set_value(value, NO_FLAGS).map_err(|error| LibvirtError::from_virt("set a secret", &error))?;
    Ok(secret)
}

/// Has libvirt know a TPM's passphrase for as long as `work` takes.
pub(super) fn lend<T>(
    connection: &Connect,
    spec: Option<&TpmSecret>,
    work: impl FnOnce() -> Result<T, LibvirtError>,
) -> Result<T, LibvirtError> {
    let Some(spec) = spec else { return work() };
    let document = SecretDocument::new("vtpm", spec.uuid, &spec.usage);
    let secret = define(connection, "the secret of a tpm", &document, spec.passphrase.as_bytes())?;
    let done = work();
    if let Err(error) = secret.undefine() {
        // In libvirtd's memory nobody can read it, and the next start of this guest replaces it.
        tracing::warn!(secret = %spec.uuid, error = %error, "libvirt keeps the key of a tpm longer than it is used");
    }
    done
}

pub(super) fn install(connection: &Connect, spec: &CephSecret) -> Result<(), LibvirtError> {
    let text = std::fs::read_to_string(&spec.keyring)
        .map_err(|source| LibvirtError::Keyring { path: spec.keyring.clone(), source })?;
    let key = parse_key(&text).ok_or_else(|| LibvirtError::KeyringFormat { path: spec.keyring.clone() })?;
    let document = SecretDocument::new("ceph", spec.uuid, &spec.usage);
    define(connection, "the ceph secret", &document, &key).map(drop)
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
    use super::*;

    #[test]
    fn a_secret_is_ephemeral_private_and_has_no_value_in_its_document_or_its_debug_form() {
        let spec = TpmSecret { uuid: Uuid::nil(), usage: "tpm of u-1".into(), passphrase: "correct horse".into() };
        let document = SecretDocument::new("vtpm", spec.uuid, &spec.usage);
        let xml = quick_xml::se::to_string(&document).expect("XML");
        let expected = "<secret ephemeral=\"yes\" private=\"yes\"><uuid>00000000-0000-0000-0000-000000000000</uuid>\
            <usage type=\"vtpm\"><name>tpm of u-1</name></usage></secret>";
        assert_eq!(xml, expected);
        assert!(!format!("{spec:?}").contains("horse"));
    }

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
