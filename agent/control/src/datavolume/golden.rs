//! The DataVolumes in which the cluster keeps its copies of container disks (see `furrow_model::oci`): what one looks like,
//! and what it is a copy of. They stand in Furrow's own namespace, where no user reads or writes; what control must know of
//! one again is in its annotations. Refuses to read these annotations anywhere else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use furrow_api::datavolume::{
    DataVolumePhase, DataVolumeSource, DataVolumeSpec, RegistrySource, StorageSpec, VolumeResources,
};
use furrow_api::import::PullSecret;
use furrow_api::{CDIConfig, DataVolume, names};
use furrow_model::oci::{Golden, Reference, State, use_is_news};

use crate::calls::{self, CallError};
use crate::cluster::Cluster;

/// Volumes are a multiple of this, bytes.
const STEP_BYTES: u64 = 1 << 20;

/// What is to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Name of the DataVolume.
    pub(crate) name: String,
    /// Repository and digest.
    pub(crate) image: Reference,
    /// The reference that a guest asked for.
    pub(crate) asked: String,
    /// Path of the disk.
    pub(crate) path: Option<String>,
    /// Login for the registry.
    pub(crate) secret: Option<PullSecret>,
    /// Size of the disk, bytes.
    pub(crate) disk_bytes: u64,
}

/// The DataVolume that makes a copy.
pub(crate) fn render(wanted: &Wanted) -> DataVolume {
    let mut annotations = BTreeMap::from([(names::ANNOTATION_CONTAINER_IMAGE.to_owned(), wanted.asked.clone())]);
    if let Some(path) = &wanted.path {
        annotations.insert(names::ANNOTATION_CONTAINER_DISK_PATH.to_owned(), path.clone());
    }
    if let Some(secret) = &wanted.secret {
        annotations.insert(names::ANNOTATION_PULL_SECRET.to_owned(), secret.to_string());
    }
    let bytes = wanted.disk_bytes.div_ceil(STEP_BYTES).saturating_mul(STEP_BYTES);
    let resources = VolumeResources {
        requests: [("storage".to_owned(), Quantity(bytes.to_string()))].into(),
        ..VolumeResources::default()
    };
    let registry = RegistrySource { url: Some(format!("docker://{}", wanted.image)), ..RegistrySource::default() };
    let spec = DataVolumeSpec {
        source: Some(DataVolumeSource { registry: Some(registry), ..DataVolumeSource::default() }),
        storage: Some(block(Some(resources))),
        ..DataVolumeSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(wanted.name.clone()),
        namespace: Some(names::SYSTEM_NAMESPACE.to_owned()),
        labels: Some([(names::LABEL_CONTAINER_DISK.to_owned(), "true".to_owned())].into()),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    DataVolume { metadata, spec, status: None }
}

/// A volume of the default class that guests can be moved with.
pub(crate) fn block(resources: Option<VolumeResources>) -> StorageSpec {
    StorageSpec {
        access_modes: vec!["ReadWriteMany".to_owned()],
        volume_mode: Some("Block".to_owned()),
        storage_class_name: Some(names::STORAGE_CLASS.to_owned()),
        resources,
        ..StorageSpec::default()
    }
}

fn is_copy(volume: &DataVolume) -> bool {
    volume.namespace().as_deref() == Some(names::SYSTEM_NAMESPACE)
        && volume.labels().contains_key(names::LABEL_CONTAINER_DISK)
}

fn annotation(volume: &DataVolume, name: &str) -> Option<String> {
    volume.annotations().get(name).filter(|_| is_copy(volume)).cloned()
}

/// Path of the disk in the image that a copy is made of.
pub(super) fn path(volume: &DataVolume) -> Option<String> {
    annotation(volume, names::ANNOTATION_CONTAINER_DISK_PATH)
}

/// The login that a copy is made with.
pub(super) fn pull_secret(volume: &DataVolume) -> Option<PullSecret> {
    PullSecret::parse(&annotation(volume, names::ANNOTATION_PULL_SECRET)?)
}

/// What a copy is of; `None` for any other DataVolume.
pub(crate) fn read(volume: &DataVolume) -> Option<Golden> {
    if !is_copy(volume) || volume.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let url = volume.spec.source.as_ref()?.registry.as_ref()?.url.as_ref()?;
    let created_s = volume.creation_timestamp().map_or(0, |time| time.0.as_second());
    let last_used = annotation(volume, names::ANNOTATION_LAST_USED).and_then(|text| text.parse::<Timestamp>().ok());
    Some(Golden {
        name: volume.name_any(),
        image: Reference::from_url(url).ok()?,
        path: path(volume),
        asked: annotation(volume, names::ANNOTATION_CONTAINER_IMAGE).unwrap_or_default(),
        secret_of: pull_secret(volume).map(|secret| secret.namespace),
        state: match volume.status.as_ref().map(|status| &status.phase) {
            Some(DataVolumePhase::Succeeded) => State::Ready,
            Some(DataVolumePhase::Failed) => State::Failed,
            _ => State::Filling,
        },
        created_s,
        last_used_s: last_used.map_or(created_s, |time| time.as_second()),
        used: false,
    })
}

/// The same copy, with the note that it was cloned now; `None` where that is noted already.
pub(crate) fn noted(volume: &DataVolume, now: Timestamp) -> Option<DataVolume> {
    let copy = read(volume)?;
    use_is_news(&copy, now.as_second()).then(|| {
        let mut new = volume.clone();
        new.annotations_mut().insert(names::ANNOTATION_LAST_USED.to_owned(), now.to_string());
        new
    })
}

/// The cluster's copies.
pub(crate) fn copies(cluster: &Cluster) -> Vec<Golden> {
    let volumes = cluster.data_volumes.state();
    let cloned = |name: &str| {
        volumes.iter().any(|volume| {
            let source = volume.spec.source.as_ref().and_then(|source| source.pvc.as_ref());
            source.is_some_and(|source| source.namespace == names::SYSTEM_NAMESPACE && source.name == name)
        })
    };
    let found = volumes.iter().filter_map(|volume| read(volume));
    found.map(|copy| Golden { used: cloned(&copy.name), ..copy }).collect()
}

/// Whether a registry may be asked without TLS: CDI's list of insecure registries says so.
///
/// # Errors
/// When the list cannot be read.
pub(crate) async fn plain_http(cluster: &Cluster, image: &Reference) -> Result<bool, CallError> {
    let config = calls::get(&cluster.api_all::<CDIConfig>(), names::CDI_CONFIG_NAME).await?;
    let listed = config.map(|config| config.spec.insecure_registries).unwrap_or_default();
    Ok(listed.iter().any(|registry| registry == image.registry()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        let image = format!("r.example/x@sha256:{}", "0".repeat(64));
        Wanted {
            name: "containerdisk-0".into(),
            image: Reference::parse(&image).unwrap(),
            asked: "r.example/x:1".into(),
            path: Some("/disk/a".into()),
            secret: Some(PullSecret::named("shop", "login")),
            disk_bytes: (5 << 20) + 1,
        }
    }

    #[test]
    fn a_copy_is_read_as_it_was_made() {
        let mut volume = render(&wanted());
        let storage = volume.spec.storage.clone().unwrap();
        assert_eq!(storage.resources.unwrap().requests["storage"].0, (6u64 << 20).to_string());
        let copy = read(&volume).unwrap();
        let Wanted { name, image, asked, path, .. } = wanted();
        assert_eq!((copy.name, copy.image, copy.asked, copy.path), (name, image, asked, path));
        assert_eq!((copy.secret_of.as_deref(), copy.state), (Some("shop"), State::Filling));
        assert_eq!(pull_secret(&volume), wanted().secret);
        // Its clones are noted, and not each of them.
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let noted = noted(&volume, now).unwrap();
        assert_eq!(read(&noted).unwrap().last_used_s, now.as_second());
        assert_eq!(super::noted(&noted, now), None);
        // The same DataVolume of a user reaches no secret of others.
        volume.metadata.namespace = Some("shop".into());
        assert_eq!((read(&volume), pull_secret(&volume), super::path(&volume)), (None, None, None));
    }
}
