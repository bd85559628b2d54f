//! cloud-init seeds: what a guest is told at its first boot, as a small ISO 9660 volume (Rock Ridge and Joliet) in the
//! two layouts that cloud-init's data sources NoCloud and ConfigDrive define. Owns gathering (inline, base64, Secrets),
//! layout and writing. Refuses to look into user data: it is the user's, and may hold secrets, so it is never logged.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use furrow_api::VirtualMachineInstance;
use furrow_api::vmi::{CloudInit, Volume};
use furrow_model::ssh_keys;
use hadris_iso::read::PathSeparator;
use hadris_iso::write::options::{CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{InputEntry, InputTree, IsoImageWriter};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::names;

/// Name of the seed in the guest's directory.
pub(crate) const SEED_FILE: &str = "seed.iso";
/// Most that user data and network data may take, decoded, in bytes: as much as one Kubernetes object holds.
const SEED_LIMIT: usize = 1_572_864;
/// User data of a guest that has none: without a first line cloud-init would warn about it.
const NO_USER_DATA: &[u8] = b"#cloud-config\n";

/// Why there is no seed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    /// Two of one kind would compete; cloud-init reads only one.
    #[error("could not make the seed: volumes {first} and {second} are both cloud-init seeds")]
    Several { first: String, second: String },
    /// The Secret is not there, or may not be read.
    #[error("could not read secret {secret} for volume {volume}")]
    Secret {
        volume: String,
        secret: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The Secret has none of the keys.
    #[error("could not make the seed: secret {secret} of volume {volume} has no key {key}")]
    Key { volume: String, secret: String, key: &'static str },
    /// Not base64.
    #[error("could not decode {field} of volume {volume}")]
    Base64 {
        volume: String,
        field: &'static str,
        #[source]
        source: base64::DecodeError,
    },
    /// A disk of this node that cannot be.
    #[error(transparent)]
    HostDisk(#[from] super::host_disk::HostDiskFileError),
    /// A volume of objects that cannot be.
    #[error(transparent)]
    Media(#[from] super::media::MediaError),
    /// More than a seed may hold.
    #[error("could not make the seed: volume {volume} has {bytes} bytes, more than {SEED_LIMIT}")]
    TooLarge { volume: String, bytes: usize },
    /// The ISO could not be laid out.
    #[error("could not lay out the seed")]
    Iso(#[source] hadris_iso::write::IsoCreationError),
    /// The file could not be written.
    #[error("could not write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl SeedError {
    /// CamelCase, for conditions.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Several { .. } | Self::Key { .. } | Self::Base64 { .. } | Self::TooLarge { .. } => "CloudInitInvalid",
            Self::Secret { .. } => "CloudInitSecretUnavailable",
            Self::Iso(_) | Self::Write { .. } => "CloudInitSeedFailed",
            Self::Media(error) => error.reason(),
            Self::HostDisk(error) => error.reason(),
        }
    }

    /// Trying again cannot help.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            // A missing Secret or key may be created at any time, and nothing tells the agent when it is.
            Self::Secret { .. } | Self::Key { .. } | Self::Write { .. } => false,
            Self::Media(error) => error.is_permanent(),
            Self::HostDisk(error) => error.is_permanent(),
            Self::Several { .. } | Self::Base64 { .. } | Self::TooLarge { .. } | Self::Iso(_) => true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    NoCloud,
    ConfigDrive,
}

/// A volume that is a seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeedVolume<'a> {
    /// Name of the volume.
    pub(crate) name: &'a str,
    layout: Layout,
    source: &'a CloudInit,
}

/// The seed volume among a guest's volumes.
pub(crate) fn find(volumes: &[Volume]) -> Result<Option<SeedVolume<'_>>, SeedError> {
    let mut seeds = volumes.iter().filter_map(|volume| {
        let name = volume.name.as_str();
        let no_cloud = volume.cloud_init_no_cloud.as_ref().map(|source| (Layout::NoCloud, source));
        let found = no_cloud.or(volume.cloud_init_config_drive.as_ref().map(|source| (Layout::ConfigDrive, source)));
        found.map(|(layout, source)| SeedVolume { name, layout, source })
    });
    let first = seeds.next();
    match (first, seeds.next()) {
        (Some(first), Some(second)) => {
            Err(SeedError::Several { first: first.name.to_owned(), second: second.name.to_owned() })
        }
        _ => Ok(first),
    }
}

/// Gathers a seed's data, from Secrets where it is there, and lays the volume out.
pub(crate) async fn gather(
    client: &Client,
    vmi: &VirtualMachineInstance,
    seed: SeedVolume<'_>,
) -> Result<Vec<u8>, SeedError> {
    let namespace = vmi.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let source = seed.source;
    let user_data = Piece {
        volume: seed.name,
        secret: source.secret_ref.as_ref().map(|reference| reference.name.as_str()),
        keys: ["userdata", "userData"],
        base64: ("userDataBase64", source.user_data_base64.as_deref()),
        plain: source.user_data.as_deref(),
    };
    let network_data = Piece {
        volume: seed.name,
        secret: source.network_data_secret_ref.as_ref().map(|reference| reference.name.as_str()),
        keys: ["networkdata", "networkData"],
        base64: ("networkDataBase64", source.network_data_base64.as_deref()),
        plain: source.network_data.as_deref(),
    };
    let user_data = user_data.read(&secrets).await?;
    let network_data = network_data.read(&secrets).await?;
    let bytes = user_data.as_ref().map_or(0, Vec::len) + network_data.as_ref().map_or(0, Vec::len);
    if bytes > SEED_LIMIT {
        return Err(SeedError::TooLarge { volume: seed.name.to_owned(), bytes });
    }
    let keys = public_keys(&secrets, vmi, seed).await?;
    let identity = Identity { keys, ..Identity::of(vmi) };
    lay_out(seed.layout, &identity, user_data.unwrap_or_else(|| NO_USER_DATA.to_vec()), network_data)
}

/// The SSH keys that the seed's own way of propagation is asked to carry.
async fn public_keys(
    secrets: &Api<Secret>,
    vmi: &VirtualMachineInstance,
    seed: SeedVolume<'_>,
) -> Result<Vec<String>, SeedError> {
    let mut keys = Vec::new();
    for credential in vmi.spec.access_credentials.iter().filter_map(|access| access.ssh_public_key.as_ref()) {
        let method = &credential.propagation_method;
        let here = match seed.layout {
            Layout::NoCloud => method.no_cloud.is_some(),
            Layout::ConfigDrive => method.config_drive.is_some(),
        };
        let Some(source) = credential.source.secret.as_ref().filter(|_| here) else { continue };
        let name = &source.secret_name;
        let secret = secrets.get(name).await.map_err(|error| SeedError::Secret {
            volume: seed.name.to_owned(),
            secret: name.clone(),
            source: Box::new(error),
        })?;
        for data in secret.data.unwrap_or_default().into_values() {
            keys.extend(ssh_keys::lines(&String::from_utf8_lossy(&data.0)));
        }
    }
    Ok(keys)
}

/// Where a piece of data may be; the first place given is taken.
struct Piece<'a> {
    volume: &'a str,
    secret: Option<&'a str>,
    keys: [&'static str; 2],
    base64: (&'static str, Option<&'a str>),
    plain: Option<&'a str>,
}

impl Piece<'_> {
    async fn read(&self, secrets: &Api<Secret>) -> Result<Option<Vec<u8>>, SeedError> {
        if let Some(name) = self.secret {
            return self.read_secret(secrets, name).await.map(Some);
        }
        if let (field, Some(text)) = self.base64 {
            let compact: String = text.split_ascii_whitespace().collect();
            let decoded = base64::engine::general_purpose::STANDARD.decode(compact);
            return decoded.map(Some).map_err(|source| SeedError::Base64 { volume: self.volume.into(), field, source });
        }
        Ok(self.plain.map(|text| text.as_bytes().to_vec()))
    }

    async fn read_secret(&self, secrets: &Api<Secret>, name: &str) -> Result<Vec<u8>, SeedError> {
        let volume = || self.volume.to_owned();
        let secret = secrets.get(name).await.map_err(|error| SeedError::Secret {
            volume: volume(),
            secret: name.to_owned(),
            source: Box::new(error),
        })?;
        let mut data = secret.data.unwrap_or_default();
        self.keys.iter().find_map(|key| data.remove(*key)).map(|bytes| bytes.0).ok_or_else(|| SeedError::Key {
            volume: volume(),
            secret: name.to_owned(),
            key: self.keys[0],
        })
    }
}

/// Who the guest is to cloud-init. The instance id is the VM's, not the run's: a restart must not run first-boot
/// modules again.
struct Identity {
    instance_id: String,
    hostname: String,
    /// SSH public keys of its default user.
    keys: Vec<String>,
}

impl Identity {
    fn of(vmi: &VirtualMachineInstance) -> Self {
        let name = vmi.name_any();
        let instance_id = format!("{name}.{}", vmi.namespace().unwrap_or_default());
        Self { instance_id, hostname: names::full_name(vmi), keys: Vec::new() }
    }
}

fn lay_out(
    layout: Layout,
    identity: &Identity,
    user_data: Vec<u8>,
    network_data: Option<Vec<u8>>,
) -> Result<Vec<u8>, SeedError> {
    match layout {
        Layout::NoCloud => {
            // One `key: value` a line, so that guests with less than a YAML parser can read it too.
            let mut meta = format!("instance-id: {}\nlocal-hostname: {}\n", identity.instance_id, identity.hostname);
            if !identity.keys.is_empty() {
                // A list in JSON is one in YAML, too.
                meta.push_str(&format!("public-keys: {}\n", json!(identity.keys)));
            }
            let mut files = vec![InputEntry::file("meta-data", meta), InputEntry::file("user-data", user_data)];
            files.extend(network_data.map(|data| InputEntry::file("network-config", data)));
            iso("cidata", files)
        }
        Layout::ConfigDrive => {
            let mut meta = json!({
                "instance_id": identity.instance_id,
                "uuid": identity.instance_id,
                "hostname": identity.hostname,
                "local-hostname": identity.hostname,
            });
            if !identity.keys.is_empty() {
                let numbered = identity.keys.iter().enumerate().map(|(index, key)| (index.to_string(), json!(key)));
                meta["public_keys"] = numbered.collect::<serde_json::Map<_, _>>().into();
            }
            let mut files =
                vec![InputEntry::file("meta_data.json", meta.to_string()), InputEntry::file("user_data", user_data)];
            files.extend(network_data.map(|data| InputEntry::file("network_data.json", data)));
            let latest = InputEntry::directory("latest", files);
            iso("config-2", vec![InputEntry::directory("openstack", vec![latest])])
        }
    }
}

/// Lays a small volume out.
pub(super) fn iso(label: &str, files: Vec<InputEntry>) -> Result<Vec<u8>, SeedError> {
    let options = IsoFormatOptions {
        volume_name: label.to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: 2048,
        features: CreationFeatures::extensions(),
        path_separator: PathSeparator::ForwardSlash,
        // cloud-init looks for labels in lower case, which ECMA-119 itself does not have.
        strict_charset: false,
    };
    let tree = InputTree::new(PathSeparator::ForwardSlash, files);
    IsoImageWriter::create(Cursor::new(Vec::new()), tree, options).map(Cursor::into_inner).map_err(SeedError::Iso)
}

/// Writes a volume into the guest's directory, readable by its owner only; libvirt hands it to QEMU's user for as long
/// as the guest runs.
pub(crate) fn write(guest_dir: &Path, name: &str, iso: &[u8]) -> Result<(), SeedError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = guest_dir.join(name);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(iso));
    written.map_err(|source| SeedError::Write { path, source })
}

/// A summary of a seed's volume for `furrow-agent plan`: its name, never its content.
pub(crate) fn describe(volumes: &[Volume]) -> BTreeMap<&str, &'static str> {
    volumes
        .iter()
        .filter_map(|volume| {
            let kind = volume.cloud_init_no_cloud.as_ref().map(|_| "cloudInitNoCloud");
            let kind = kind.or(volume.cloud_init_config_drive.as_ref().map(|_| "cloudInitConfigDrive"));
            kind.or(volume.object_kind()).map(|kind| (volume.name.as_str(), kind))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use hadris_iso::read::IsoImage;

    use super::*;

    fn identity() -> Identity {
        Identity { instance_id: "vm.default".into(), hostname: "vm".into(), keys: vec!["ssh-ed25519 AAAA me".into()] }
    }

    /// The primary volume descriptor's label (ECMA-119 8.4.7): 32 bytes at offset 40 of sector 16.
    fn label(iso: &[u8]) -> String {
        String::from_utf8_lossy(&iso[16 * 2048 + 40..16 * 2048 + 72]).trim_end().to_owned()
    }

    #[test]
    fn a_nocloud_seed_has_its_label_and_files() {
        let iso = lay_out(Layout::NoCloud, &identity(), b"#cloud-config\n".to_vec(), Some(b"version: 2\n".to_vec()))
            .expect("a seed");
        assert_eq!(label(&iso), "cidata");
        IsoImage::open(Cursor::new(&iso[..])).expect("a readable volume");
        let text = String::from_utf8_lossy(&iso);
        assert!(text.contains("instance-id: vm.default\nlocal-hostname: vm\n"));
        assert!(text.contains("public-keys: [\"ssh-ed25519 AAAA me\"]\n"));
        for name in ["meta-data", "user-data", "network-config"] {
            assert!(text.contains(name), "the Rock Ridge name {name} is missing");
        }
    }

    #[test]
    fn a_config_drive_has_its_label_and_metadata() {
        let iso = lay_out(Layout::ConfigDrive, &identity(), NO_USER_DATA.to_vec(), None).expect("a seed");
        assert_eq!(label(&iso), "config-2");
        assert!(String::from_utf8_lossy(&iso).contains("\"hostname\":\"vm\""));
        assert!(String::from_utf8_lossy(&iso).contains("\"public_keys\":{\"0\":\"ssh-ed25519 AAAA me\"}"));
    }

    #[test]
    fn two_seeds_are_refused() {
        let seed = |name: &str| Volume {
            name: name.into(),
            cloud_init_no_cloud: Some(CloudInit::default()),
            ..Volume::default()
        };
        assert!(matches!(find(&[seed("a"), seed("b")]), Err(SeedError::Several { .. })));
        assert_eq!(find(&[seed("a")]).expect("one").map(|found| found.name), Some("a"));
        assert!(find(&[Volume::default()]).expect("none").is_none());
    }
}
