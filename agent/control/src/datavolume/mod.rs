//! DataVolumes up to the agent that fills them; see `furrow_model::datavolume` for the steps. Refuses to move bytes, and
//! to touch the status once an agent has begun.

mod claim;
pub(crate) mod golden;
mod status;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use furrow_api::datavolume::DataVolumePhase;
use furrow_api::import::{HttpImport, ImportJob, ImportSource, RegistryImport};
use furrow_api::{DataVolume, names};
use furrow_model::datavolume::{Claim, Observed, Phase, Source, SourceClaim, Step, Waiting, choose_node, step};
use furrow_model::oci::{Reference, ReferenceError};

use crate::calls::{self, CallError};
use crate::cluster::{Cluster, controller, find, find_cluster, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};
use crate::vmi::{capacity_bytes, claim_bound, claim_phase, rbd_image};

use self::status::Note;

/// Why a pass over a DataVolume failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataVolumeError {
    /// The API server did not do its part.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The job has no JSON form: a defect.
    #[error("import job of {volume} cannot be written")]
    Job {
        /// The DataVolume.
        volume: Key,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The controller of DataVolumes.
pub(crate) struct DataVolumes {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

impl Reconcile for DataVolumes {
    type Error = DataVolumeError;

    const NAME: &'static str = "datavolume";

    fn keys(&self) -> Vec<Key> {
        self.cluster.data_volumes.state().iter().map(|volume| key_of(volume.as_ref())).collect()
    }

    /// Observe: the DataVolume, its claim, the claim it copies, the nodes. Validate: is its source one we have? Plan:
    /// `furrow_model::datavolume`. Execute: make the claim, or hand the work to a node. Report: the status.
    async fn reconcile(&self, key: &Key) -> Result<Next, DataVolumeError> {
        let Some(volume) = find(&self.cluster.data_volumes, &key.namespace, &key.name) else {
            return Ok(Next::OnChange);
        };
        if volume.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let Some(source) = self.source(&volume) else {
            let note = Note::warning(
                "SourceNotSupported",
                "only the sources http, registry, pvc and blank can be used".to_owned(),
            );
            return self.report(&volume, status::waiting(&volume, Phase::Pending, &note), Some(note)).await;
        };
        let nodes = self.nodes();
        let observed = self.observe(&volume, source);
        match step(&observed, &nodes) {
            Step::MakeClaim(phase) => self.make_claim(&volume, phase).await,
            Step::Wait(phase, waiting) => {
                let note = self.note(&volume, waiting);
                self.report(&volume, status::waiting(&volume, phase, &note), Some(note)).await
            }
            Step::Schedule => self.schedule(&volume, &nodes).await,
            Step::Finish => {
                let note = Note::normal("Succeeded", format!("Successfully filled {}", volume.name_any()));
                self.report(&volume, status::succeeded(&volume), Some(note)).await
            }
            Step::Leave => self.report(&volume, status::left(&volume), None).await,
        }
    }

    fn disposition(error: &DataVolumeError) -> Disposition {
        match error {
            DataVolumeError::Call(error) => Disposition::of_call(error),
            DataVolumeError::Job { .. } => Disposition::OnChange,
        }
    }
}

impl DataVolumes {
    /// Where the bytes come from; `None` for a source that is not realised.
    fn source(&self, volume: &DataVolume) -> Option<Source> {
        let source = volume.spec.source.as_ref()?;
        if source.http.is_some() || source.registry.is_some() {
            return Some(Source::Import);
        }
        if source.blank.is_some() {
            return Some(Source::Blank);
        }
        source.pvc.as_ref()?;
        let (namespace, name) = copied(volume)?;
        let claim = find(&self.cluster.claims, &namespace, &name);
        let filler = find(&self.cluster.data_volumes, &namespace, &name);
        let filled = filler.is_none_or(|filler| {
            filler.status.as_ref().is_some_and(|status| status.phase == DataVolumePhase::Succeeded)
        });
        Some(Source::Clone(match claim {
            None => SourceClaim::Missing,
            Some(claim) if claim_bound(&claim) && filled => SourceClaim::Ready,
            Some(_) => SourceClaim::Unready,
        }))
    }

    fn observe(&self, volume: &DataVolume, source: Source) -> Observed {
        let claim = find(&self.cluster.claims, &volume.namespace().unwrap_or_default(), &volume.name_any());
        let phase = volume.status.as_ref().map(|status| status.phase.clone()).unwrap_or_default();
        let phase = match phase {
            DataVolumePhase::Unset => Phase::Unset,
            DataVolumePhase::Pending | DataVolumePhase::PvcBound => Phase::Pending,
            DataVolumePhase::ImportScheduled => Phase::ImportScheduled,
            DataVolumePhase::CsiCloneInProgress => Phase::CsiCloneInProgress,
            DataVolumePhase::Succeeded => Phase::Succeeded,
            DataVolumePhase::Failed => Phase::Failed,
            _ => Phase::Other,
        };
        Observed {
            phase,
            source,
            claim: match claim {
                None => Claim::Missing,
                Some(claim) if !owned_by(&claim, volume) => Claim::Foreign,
                Some(claim) if claim.metadata.deletion_timestamp.is_some() || claim_phase(&claim) == "Lost" => {
                    Claim::Lost
                }
                Some(claim) if claim_bound(&claim) => Claim::Bound,
                Some(_) => Claim::Unbound,
            },
            node: volume.labels().get(names::LABEL_IMPORT_NODE).cloned(),
            started: phase == Phase::Other,
        }
    }

    /// The nodes that can import, each with how many imports it has.
    fn nodes(&self) -> BTreeMap<String, usize> {
        let ready = |node: &Node| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            node.metadata.deletion_timestamp.is_none()
                && conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        };
        let nodes = self.cluster.nodes.state();
        let mut counts: BTreeMap<_, _> =
            nodes.iter().filter(|node| ready(node)).map(|node| (node.name_any(), 0)).collect();
        for volume in self.cluster.data_volumes.state() {
            let over = volume.status.as_ref().is_some_and(|status| status.phase.is_final());
            let node = volume.labels().get(names::LABEL_IMPORT_NODE).filter(|_| !over);
            if let Some(count) = node.and_then(|node| counts.get_mut(node)) {
                *count += 1;
            }
        }
        counts
    }

    async fn make_claim(&self, volume: &DataVolume, phase: Phase) -> Result<Next, DataVolumeError> {
        let source = copied(volume).and_then(|(namespace, name)| find(&self.cluster.claims, &namespace, &name));
        let claim = match claim::render(&self.cluster, volume, source.as_deref()) {
            Ok(claim) => claim,
            Err(error) => {
                let note = Note::warning("ErrClaimNotValid", error.to_string());
                return self.report(volume, status::waiting(volume, Phase::Pending, &note), Some(note)).await;
            }
        };
        let api = self.cluster.api::<PersistentVolumeClaim>(&volume.namespace().unwrap_or_default());
        let note = match calls::create(&api, &claim).await {
            Ok(Some(_)) => Note::normal("Pending", format!("PVC {} Pending", volume.name_any())),
            // Seen as ours or as somebody else's once the cache has it.
            Ok(None) => return Ok(Next::OnChange),
            Err(error) if error.is_refusal() => {
                let note = Note::warning("ErrClaimNotValid", error.message());
                self.report(volume, status::waiting(volume, Phase::Pending, &note), Some(note)).await?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        self.report(volume, status::waiting(volume, phase, &note), Some(note)).await
    }

    /// What a DataVolume that waits says of it.
    fn note(&self, volume: &DataVolume, waiting: Waiting) -> Note {
        let name = volume.name_any();
        let (source_namespace, source_name) = copied(volume).unwrap_or_default();
        match waiting {
            Waiting::Binding => match claim::missing_class(&self.cluster, volume) {
                Some(class) => Note::warning(
                    "ErrStorageClassNotFound",
                    format!("PVC {name} cannot be bound: storage class {class} does not exist"),
                ),
                None => Note::normal("Pending", format!("PVC {name} Pending")),
            },
            Waiting::SourceMissing => Note::warning(
                "CloneWithoutSource",
                format!("The source PVC {source_namespace}/{source_name} doesn't exist"),
            ),
            Waiting::SourceUnready => Note::normal(
                "CloneSourceNotReady",
                format!("The source PVC {source_namespace}/{source_name} is not filled yet"),
            ),
            Waiting::ForeignClaim => Note::warning(
                "ErrResourceExists",
                format!("Resource \"{name}\" already exists and is not managed by DataVolume"),
            ),
            Waiting::LostClaim => {
                Note::warning("ClaimLost", format!("PVC {name} is being deleted, or its volume is lost"))
            }
            Waiting::Agent => Note::normal("ImportScheduled", format!("Import into {name} scheduled")),
        }
    }

    /// Hands the import to a node.
    async fn schedule(&self, volume: &DataVolume, nodes: &BTreeMap<String, usize>) -> Result<Next, DataVolumeError> {
        let name = volume.name_any();
        let namespace = volume.namespace().unwrap_or_default();
        let claim = find(&self.cluster.claims, &namespace, &name);
        let persistent =
            claim.and_then(|claim| find_cluster(&self.cluster.volumes, claim.spec.as_ref()?.volume_name.as_ref()?));
        // Its event marks this DataVolume.
        let Some(persistent) = persistent else { return Ok(Next::OnChange) };
        let Some((pool, image)) = rbd_image(&persistent) else {
            let message = format!("PVC {name} cannot be filled: its volume is not one of {}", names::CSI_DRIVER);
            let note = Note::warning("VolumeNotSupported", message);
            return self.report(volume, status::waiting(volume, Phase::Pending, &note), Some(note)).await;
        };
        let Some(node) = choose_node(nodes, seed(volume)) else {
            let note = Note::warning("NoNode", format!("no node is ready to fill PVC {name}"));
            return self.report(volume, status::waiting(volume, Phase::Pending, &note), Some(note)).await;
        };
        let source = match self.import_source(volume).await? {
            Ok(source) => source,
            Err(error) => {
                let note = Note::warning("SourceNotSupported", error.to_string());
                return self.report(volume, status::waiting(volume, Phase::Pending, &note), Some(note)).await;
            }
        };
        let job = ImportJob { pool, image, capacity_bytes: capacity_bytes(&persistent), source };
        let job =
            serde_json::to_string(&job).map_err(|source| DataVolumeError::Job { volume: key_of(volume), source })?;
        let mut new = volume.clone();
        new.labels_mut().insert(names::LABEL_IMPORT_NODE.to_owned(), node.to_owned());
        new.annotations_mut().insert(names::ANNOTATION_IMPORT.to_owned(), job);
        let api = self.cluster.api::<DataVolume>(&namespace);
        let scheduled = calls::update(&api, volume, &new).await?.unwrap_or(new);
        tracing::info!(volume = %key_of(volume), node, "import scheduled");
        let note = Note::normal("ImportScheduled", format!("Import into {name} scheduled"));
        self.report(&scheduled, status::waiting(&scheduled, Phase::ImportScheduled, &note), Some(note)).await
    }

    /// What an agent is told of the source; the inner error is of a reference that is none.
    async fn import_source(
        &self,
        volume: &DataVolume,
    ) -> Result<Result<ImportSource, ReferenceError>, DataVolumeError> {
        let Some(source) = &volume.spec.source else { return Ok(Ok(ImportSource::Blank)) };
        if let Some(http) = &source.http {
            return Ok(Ok(ImportSource::Http(HttpImport {
                url: http.url.clone(),
                secret_ref: http.secret_ref.clone(),
                cert_config_map: http.cert_config_map.clone(),
            })));
        }
        let Some(registry) = &source.registry else { return Ok(Ok(ImportSource::Blank)) };
        let image = match Reference::from_url(registry.url.as_deref().unwrap_or_default()) {
            Ok(image) => image,
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(ImportSource::Registry(RegistryImport {
            plain_http: golden::plain_http(&self.cluster, &image).await?,
            image: image.to_string(),
            path: golden::path(volume),
            secret_ref: registry.secret_ref.clone(),
            pull_secret: golden::pull_secret(volume),
            cert_config_map: registry.cert_config_map.clone(),
        })))
    }

    /// Writes the status, and an event if it says something new.
    async fn report(&self, old: &DataVolume, new: DataVolume, note: Option<Note>) -> Result<Next, DataVolumeError> {
        let api = self.cluster.api::<DataVolume>(&old.namespace().unwrap_or_default());
        let written = calls::update_status(&api, old, &new).await?;
        if let Some(note) = note.filter(|note| written.is_some() && status::is_news(old, note)) {
            if note.warning {
                self.cluster.events.warning(old, note.reason, note.message);
            } else {
                self.cluster.events.normal(old, note.reason, note.message);
            }
        }
        Ok(Next::OnChange)
    }
}

fn owned_by(claim: &PersistentVolumeClaim, volume: &DataVolume) -> bool {
    controller::<DataVolume>(claim).is_some_and(|owner| Some(&owner.uid) == volume.metadata.uid.as_ref())
}

/// Namespace and name of the claim that a DataVolume copies.
pub(crate) fn copied(volume: &DataVolume) -> Option<(String, String)> {
    let source = volume.spec.source.as_ref()?.pvc.as_ref()?;
    let namespace = Some(source.namespace.clone()).filter(|namespace| !namespace.is_empty());
    Some((namespace.or_else(|| volume.namespace())?, source.name.clone()))
}

fn seed(volume: &DataVolume) -> u64 {
    let digest = Sha256::digest(volume.uid().unwrap_or_default());
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
