//! Volumes made of Kubernetes objects: a ConfigMap, a Secret, answer files for Windows, metadata of the guest, a token
//! of a service account. Each is a small read-only file system (ISO 9660 with Rock Ridge and Joliet) in the guest's
//! directory, made anew at each start; what changes later reaches the guest at its next one, as with KubeVirt. Those that
//! the guest mounts by virtiofs instead are `super::shares`.
//!
//! Owns which files they hold and under which label. Objects are read by name, as the spec names them, with the agent's
//! own rights. Tokens are not: the agent may make none. The kubelet, which may for pods of its own node only, puts the
//! token into the reservation pod, and this file takes it from there.

use std::path::{Path, PathBuf};

use furrow_api::vmi::{DownwardApiVolume, Sysprep, Volume};
use furrow_api::{VirtualMachineInstance, names};
use furrow_model::downward::{self, Metadata};
use furrow_model::share::{FileNameError, Files};
use hadris_iso::write::InputEntry;
use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, Secret};
use kube::{Api, Client, ResourceExt as _};

use super::seed::{self, SeedError};

/// Label of the file system when the spec names none (KubeVirt's).
const LABEL: &str = "cfgdata";
/// Label of answer files, where Windows looks for them (KubeVirt's).
const SYSPREP_LABEL: &str = "unattendCD";
/// Most that the files of one volume may take, bytes: as much as one Kubernetes object holds.
const FILES_LIMIT: usize = 1_572_864;
/// Where the kubelet keeps the volumes of pods.
const KUBELET_PODS: &str = "/var/lib/kubelet/pods";
/// Files of a service account, as pods have them.
const TOKEN_FILES: [&str; 3] = ["ca.crt", "namespace", "token"];

/// Why a volume has no files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MediaError {
    /// The object is not there, or may not be read.
    #[error("could not read {kind} {name} for volume {volume}")]
    Object {
        volume: String,
        kind: &'static str,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The kubelet has not put the token into the pod yet.
    #[error("the service account token of volume {volume} is not there yet: {} cannot be read", path.display())]
    Token {
        volume: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A field that cannot be shown.
    #[error("could not make volume {volume}: {message}")]
    Field { volume: String, message: String },
    /// A file that cannot be shown.
    #[error("could not make volume {volume}")]
    Name { volume: String, source: FileNameError },
    /// The API server did not answer in time.
    #[error("the object of volume {volume} was not read in time")]
    Late { volume: String },
    /// More than a volume may hold.
    #[error("could not make volume {volume}: it has {bytes} bytes, more than {FILES_LIMIT}")]
    TooLarge { volume: String, bytes: usize },
}

impl MediaError {
    /// CamelCase, for conditions.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Object { .. } | Self::Token { .. } | Self::Late { .. } => "VolumeSourceUnavailable",
            Self::Field { .. } | Self::Name { .. } | Self::TooLarge { .. } => "VolumeSourceInvalid",
        }
    }

    /// Trying again cannot help.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            // A missing object may be created at any time, and nothing tells the agent when it is.
            Self::Object { .. }
            | Self::Token { .. }
            | Self::Late { .. }
            | Self::Name { .. }
            | Self::TooLarge { .. } => false,
            Self::Field { .. } => true,
        }
    }
}

/// Name of a volume's file in the guest's directory.
pub(crate) fn file_name(volume: &str) -> String {
    format!("volume-{volume}.iso")
}

/// Whose guest it is, and by what.
pub(crate) struct Place<'a> {
    /// Kubernetes.
    pub(crate) client: &'a Client,
    /// The guest.
    pub(crate) vmi: &'a VirtualMachineInstance,
    /// UID of its reservation pod.
    pub(crate) pod_uid: &'a str,
}

/// Gathers the files of a volume and lays them out; `None` for a volume that is none of these.
pub(crate) async fn gather(place: &Place<'_>, volume: &Volume) -> Result<Option<Vec<u8>>, SeedError> {
    let Some(files) = files(place, volume).await? else { return Ok(None) };
    let label = [
        volume.config_map.as_ref().and_then(|source| source.volume_label.as_deref()),
        volume.secret.as_ref().and_then(|source| source.volume_label.as_deref()),
        volume.sysprep.as_ref().map(|_| SYSPREP_LABEL),
        volume.downward_api.as_ref().and_then(|source| source.volume_label.as_deref()),
    ];
    let label = label.into_iter().flatten().find(|label| !label.is_empty()).unwrap_or(LABEL);
    let entries = files.into_iter().map(|(name, data)| InputEntry::file(name, data)).collect();
    seed::iso(label, entries).map(Some)
}

/// Gathers the files of a volume; `None` for a volume that is none of these.
pub(crate) async fn files(place: &Place<'_>, volume: &Volume) -> Result<Option<Files>, MediaError> {
    let name = volume.name.as_str();
    let files = if let Some(source) = &volume.config_map {
        place.config_map(name, source.name.as_deref(), source.optional == Some(true)).await?
    } else if let Some(source) = &volume.secret {
        place.secret(name, source.secret_name.as_deref(), source.optional == Some(true)).await?
    } else if let Some(source) = &volume.sysprep {
        place.sysprep(name, source).await?
    } else if let Some(source) = &volume.downward_api {
        place.downward_api(name, source)?
    } else if volume.service_account.is_some() {
        place.token(name).await?
    } else {
        return Ok(None);
    };
    let bytes = files.values().map(Vec::len).sum();
    if bytes > FILES_LIMIT {
        return Err(MediaError::TooLarge { volume: name.to_owned(), bytes });
    }
    Ok(Some(files))
}

impl Place<'_> {
    /// `namespace/name` of the guest.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.namespace(), self.vmi.name_any())
    }

    fn namespace(&self) -> String {
        self.vmi.namespace().unwrap_or_default()
    }

    async fn config_map(&self, volume: &str, name: Option<&str>, optional: bool) -> Result<Files, MediaError> {
        let name = name.unwrap_or_default();
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace());
        let found = read(api.get(name).await, (volume, "ConfigMap", name), optional)?.unwrap_or_default();
        let texts = found.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let binaries = found.binary_data.unwrap_or_default().into_iter().map(|(key, data)| (key, data.0));
        Ok(texts.chain(binaries).collect())
    }

    async fn secret(&self, volume: &str, name: Option<&str>, optional: bool) -> Result<Files, MediaError> {
        let name = name.unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace());
        let found = read(api.get(name).await, (volume, "Secret", name), optional)?.unwrap_or_default();
        Ok(found.data.unwrap_or_default().into_iter().map(|(key, data)| (key, data.0)).collect())
    }

    async fn sysprep(&self, volume: &str, source: &Sysprep) -> Result<Files, MediaError> {
        match (&source.secret, &source.config_map) {
            (Some(secret), _) => self.secret(volume, Some(&secret.name), false).await,
            (None, reference) => self.config_map(volume, reference.as_ref().map(|r| r.name.as_str()), false).await,
        }
    }

    fn downward_api(&self, volume: &str, source: &DownwardApiVolume) -> Result<Files, MediaError> {
        let invalid = |message: String| MediaError::Field { volume: volume.to_owned(), message };
        let namespace = self.namespace();
        let (name, uid) = (self.vmi.name_any(), self.vmi.uid().unwrap_or_default());
        let metadata = Metadata {
            name: &name,
            namespace: &namespace,
            uid: &uid,
            labels: self.vmi.labels(),
            annotations: self.vmi.annotations(),
        };
        let file = |item: &DownwardAPIVolumeFile| -> Result<(String, Vec<u8>), MediaError> {
            let path = item.field_ref.as_ref().map(|field| field.field_path.as_str()).unwrap_or_default();
            let name = downward::file_name(&item.path).map_err(|error| invalid(error.to_string()))?;
            let text = downward::value(&metadata, path).map_err(|error| invalid(error.to_string()))?;
            Ok((name.to_owned(), text.into_bytes()))
        };
        source.fields.iter().map(file).collect()
    }

    async fn token(&self, volume: &str) -> Result<Files, MediaError> {
        let dir = Path::new(KUBELET_PODS).join(self.pod_uid).join("volumes/kubernetes.io~projected");
        let dir = dir.join(names::SERVICE_ACCOUNT_VOLUME);
        let mut files = Files::new();
        for name in TOKEN_FILES {
            let path = dir.join(name);
            let failed = |source| MediaError::Token { volume: volume.to_owned(), path: path.clone(), source };
            files.insert(name.to_owned(), tokio::fs::read(&path).await.map_err(failed)?);
        }
        Ok(files)
    }
}

fn read<T>(
    answer: Result<T, kube::Error>,
    (volume, kind, name): (&str, &'static str, &str),
    optional: bool,
) -> Result<Option<T>, MediaError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if optional && status.code == 404 => Ok(None),
        Err(error) => {
            let source = Box::new(error);
            Err(MediaError::Object { volume: volume.to_owned(), kind, name: name.to_owned(), source })
        }
    }
}
