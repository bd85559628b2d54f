//! `containerDisk` volumes: the guest's disk is a copy-on-write clone of the cluster's copy of the image (see
//! `furrow_model::oci`), and goes with the guest.
//!
//! ```text
//!   reference ──(an agent asks the registry)──> digest ──> golden DataVolume, made once, filled from the registry
//!                                                              └──copied──> DataVolume of the guest ──> its disk
//! ```
//! The guest's own DataVolume is made as soon as the digest is known: it records which image this start is of, waits by itself
//! until the copy is there, and is the one way in which a claim is copied from another namespace. A claim alone, as for
//! `ephemeral`, could not name the copy. No pass asks a registry while there is such a DataVolume.
//!
//! An agent asks and not control: it has the network, the node's proxy and a sandbox, and may read the pull secret. What
//! failed is asked for again as the kubelet does it: `ErrImagePull`, then `ImagePullBackOff` up to five minutes.
//!
//! Everything that is known stands in the two DataVolumes: control may end between any two writes, and whoever comes next
//! goes on. A copy whose node went away while it filled it is thrown away and made anew by another.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use furrow_api::channel::{ImageAnswer, ImageQuestion};
use furrow_api::datavolume::{DataVolumePhase, DataVolumeSource, DataVolumeSpec, ObjectSource};
use furrow_api::import::PullSecret;
use furrow_api::reservation::ReservedImage;
use furrow_api::vmi::{ContainerDisk, Volume};
use furrow_api::{DataVolume, VirtualMachineInstance, names};
use furrow_model::oci::{self, Choice, DISK_MAX_BYTES, Digest, PullPolicy, Reference};

use super::account;
use super::pull::{Pull, Pulls, Unanswered};
use super::scratch::{self, ScratchError};
use super::status::HeldUp;
use crate::calls;
use crate::cluster::{Cluster, controller, find, find_cluster};
use crate::datavolume::golden::{self, Wanted};
use crate::pod;
use crate::subresources::endpoints;

/// Until something that is on its way out is gone, or somebody else's turn is over.
const SOON: Duration = Duration::from_secs(2);
/// How often a guest that waits looks whether the node that makes its copy is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Makes the disks that are missing.
///
/// # Errors
/// What the guest waits for: of several things, one that somebody should look at.
pub(super) async fn ensure(cluster: &Cluster, pulls: &Pulls, vmi: &VirtualMachineInstance) -> Result<(), ScratchError> {
    let mut worst: Option<HeldUp> = None;
    let disks = || vmi.spec.volumes.iter().filter_map(|volume| Some((volume, volume.container_disk.as_ref()?)));
    let usual = usual(cluster, vmi, disks().any(|(_, disk)| named(disk).is_none())).await?;
    for (volume, disk) in disks() {
        let work = Work { cluster, pulls, vmi, disk, usual: usual.as_ref() };
        match work.ensure(volume).await {
            Ok(()) => {}
            Err(ScratchError::HeldUp(held_up)) if worst.as_ref().is_none_or(|worst| held_up.warn && !worst.warn) => {
                worst = Some(held_up);
            }
            Err(ScratchError::HeldUp(_)) => {}
            Err(error @ ScratchError::Call(_)) => return Err(error),
        }
    }
    worst.map_or(Ok(()), |held_up| Err(ScratchError::HeldUp(held_up)))
}

/// The image that the guest's kernel is in, at the digest that it has now. Nodes keep no images: each start fetches what it
/// needs of it.
///
/// # Errors
/// As [`ensure`].
pub(super) async fn kernel(
    cluster: &Cluster,
    pulls: &Pulls,
    vmi: &VirtualMachineInstance,
) -> Result<Option<ReservedImage>, ScratchError> {
    let boot = vmi.spec.domain.firmware.as_ref().and_then(|firmware| firmware.kernel_boot.as_ref());
    let Some(container) = boot.and_then(|boot| boot.container.as_ref()) else { return Ok(None) };
    let disk = ContainerDisk {
        image: container.image.clone(),
        image_pull_secret: container.image_pull_secret.clone(),
        ..ContainerDisk::default()
    };
    let usual = usual(cluster, vmi, named(&disk).is_none()).await?;
    let work = Work { cluster, pulls, vmi, disk: &disk, usual: usual.as_ref() };
    let reference = Reference::parse(&disk.image).map_err(|error| invalid(error.to_string()))?;
    let (digest, question) = work.digest(&reference).await?;
    pulls.succeeded(&work.pull());
    let image = reference.at(&digest).to_string();
    Ok(Some(ReservedImage { image, plain_http: question.plain_http, pull_secret: usual }))
}

/// The pull secret that a volume names itself.
fn named(disk: &ContainerDisk) -> Option<&str> {
    disk.image_pull_secret.as_deref().filter(|name| !name.is_empty())
}

/// The login of volumes that name none, if there are such.
async fn usual(
    cluster: &Cluster,
    vmi: &VirtualMachineInstance,
    wanted: bool,
) -> Result<Option<PullSecret>, ScratchError> {
    if !wanted {
        return Ok(None);
    }
    account::secrets(cluster, vmi).await.map_err(ScratchError::Call)
}

/// One volume of one guest.
struct Work<'a> {
    cluster: &'a Cluster,
    pulls: &'a Pulls,
    vmi: &'a VirtualMachineInstance,
    disk: &'a ContainerDisk,
    /// The login of volumes that name none.
    usual: Option<&'a PullSecret>,
}

impl Work<'_> {
    fn namespace(&self) -> String {
        self.vmi.namespace().unwrap_or_default()
    }

    /// An empty path is none.
    fn path(&self) -> Option<&str> {
        self.disk.path.as_deref().filter(|path| !path.is_empty())
    }

    fn secret(&self) -> Option<PullSecret> {
        let own = named(self.disk).map(|name| PullSecret::named(&self.namespace(), name));
        own.or_else(|| self.usual.cloned())
    }

    fn pull(&self) -> Pull {
        Pull::new(&self.disk.image, self.path(), self.secret().as_ref())
    }

    async fn ensure(&self, volume: &Volume) -> Result<(), ScratchError> {
        let name = scratch::claim_name(self.vmi, volume).unwrap_or_default();
        let Some(own) = find(&self.cluster.data_volumes, &self.namespace(), &name) else {
            return self.begin(&name).await;
        };
        let owner = controller::<VirtualMachineInstance>(own.as_ref());
        if owner.is_none_or(|owner| Some(&owner.uid) != self.vmi.metadata.uid.as_ref()) {
            let message = format!("DataVolume {name} exists and is not this guest's");
            return Err(held_up(HeldUp::until_change("FailedCreate", message)));
        }
        if phase(&own) == DataVolumePhase::Succeeded {
            self.pulls.succeeded(&self.pull());
            return Ok(());
        }
        self.wait(&own).await
    }

    /// The digest is known; the copy is being made, or its clone.
    async fn wait(&self, own: &DataVolume) -> Result<(), ScratchError> {
        let source = own.spec.source.as_ref().and_then(|source| source.pvc.as_ref());
        let name = source.map(|source| source.name.clone()).unwrap_or_default();
        match find(&self.cluster.data_volumes, names::SYSTEM_NAMESPACE, &name) {
            Some(copy) if phase(&copy) == DataVolumePhase::Failed => {
                let why = failure(&copy).unwrap_or_else(|| "it could not be copied".to_owned());
                self.delete(&copy).await?;
                self.delete(own).await?;
                Err(self.failed(&why))
            }
            Some(copy) if self.is_stranded(&copy) => {
                tracing::warn!(copy = name, "copy of a container disk made anew: the node that filled it is gone");
                self.delete(&copy).await?;
                self.delete(own).await?;
                Err(self.pulling(SOON))
            }
            // It was deleted meanwhile: another is made, of what the reference points to then.
            None => {
                self.delete(own).await?;
                Err(self.pulling(SOON))
            }
            // The agent tries again by itself.
            Some(copy) => match failure(&copy).filter(|_| phase(&copy) == DataVolumePhase::ImportInProgress) {
                Some(why) => Err(held_up(HeldUp::pull_failed(&self.disk.image, &why).again(LOOK_AGAIN))),
                None => Err(self.pulling(LOOK_AGAIN)),
            },
        }
    }

    /// A node has begun to fill this copy and is not ready any more: nobody else would go on with it.
    fn is_stranded(&self, copy: &DataVolume) -> bool {
        let Some(node) = copy.labels().get(names::LABEL_IMPORT_NODE) else { return false };
        let there = find_cluster(&self.cluster.nodes, node).is_some_and(|node| endpoints::is_ready(&node));
        phase(copy) == DataVolumePhase::ImportInProgress && !there
    }

    async fn begin(&self, name: &str) -> Result<(), ScratchError> {
        let image = &self.disk.image;
        let reference = Reference::parse(image).map_err(|error| invalid(error.to_string()))?;
        let policy = PullPolicy::parse(self.disk.image_pull_policy.as_deref(), &reference);
        let policy = policy.ok_or_else(|| invalid("the pull policy is none of Always, IfNotPresent, Never".into()))?;
        let copies = golden::copies(self.cluster);
        let copy = match oci::choose(policy, (image, &reference), self.path(), &self.namespace(), &copies) {
            Choice::Use(copy) => copy,
            Choice::NeverPulled => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                return Err(held_up(HeldUp::until_change("ErrImageNeverPull", message)));
            }
            Choice::Ask => self.resolve(&reference).await?,
        };
        self.note_use(&copy).await?;
        self.create(&self.own(name, copy)).await?;
        Err(self.pulling(LOOK_AGAIN))
    }

    /// Keeps a copy that is used from being the first to go.
    async fn note_use(&self, name: &str) -> Result<(), ScratchError> {
        let Some(copy) = find(&self.cluster.data_volumes, names::SYSTEM_NAMESPACE, name) else { return Ok(()) };
        let Some(noted) = golden::noted(&copy, Timestamp::now()) else { return Ok(()) };
        let api = self.cluster.api::<DataVolume>(names::SYSTEM_NAMESPACE);
        match calls::update(&api, &copy, &noted).await {
            // Another guest's note, or the agent's status: this start is as good as theirs.
            Err(error) if error.is_conflict() || error.is_gone() => Ok(()),
            written => written.map(drop).map_err(ScratchError::Call),
        }
    }

    /// Asks the registry what the reference means; gives the question, too, for another.
    async fn digest(&self, reference: &Reference) -> Result<(Digest, ImageQuestion), ScratchError> {
        if let Some((wait, why)) = self.pulls.backing_off(&self.pull()) {
            return Err(held_up(HeldUp::back_off(&self.disk.image, &why).again(wait)));
        }
        let plain_http = golden::plain_http(self.cluster, reference).await.map_err(ScratchError::Call)?;
        let question = ImageQuestion {
            image: reference.to_string(),
            path: self.path().map(str::to_owned),
            plain_http,
            pull_secret: self.secret(),
            measure: false,
        };
        let answer = self.ask(&question).await?;
        let digest = Digest::parse(&answer.digest).map_err(|error| self.failed(&error.to_string()))?;
        Ok((digest, question))
    }

    /// Asks the registry, and has a copy made unless there is one; gives the copy's name.
    async fn resolve(&self, reference: &Reference) -> Result<String, ScratchError> {
        let (digest, mut question) = self.digest(reference).await?;
        let image = reference.at(&digest);
        let name = oci::golden_name(reference, &digest, self.path());
        if let Some(copy) = find(&self.cluster.data_volumes, names::SYSTEM_NAMESPACE, &name) {
            return self.check(&copy, &image).await.map(|()| name);
        }
        // What is measured is what will be fetched, even if the tag moves now.
        question.image = image.to_string();
        question.measure = true;
        let answer = self.ask(&question).await?;
        let disk_bytes = answer.disk_bytes.ok_or_else(|| self.failed("the size of its disk is not known"))?;
        if disk_bytes > DISK_MAX_BYTES {
            return Err(self.failed(&format!("its disk has {disk_bytes} bytes, at most {DISK_MAX_BYTES} are copied")));
        }
        let (path, secret, asked) = (question.path, question.pull_secret, self.disk.image.clone());
        let wanted = Wanted { name: name.clone(), image, asked, path, secret, disk_bytes };
        self.create(&golden::render(&wanted)).await?;
        self.cluster.events.normal(self.vmi, "Pulling", format!("Pulling image \"{}\"", self.disk.image));
        tracing::info!(image = %wanted.image, copy = name, disk_bytes, "copy of a container disk begun");
        self.make_room().await?;
        Ok(name)
    }

    /// Whether a copy of the right name is one of the right image, and none that is about to go.
    async fn check(&self, copy: &DataVolume, image: &Reference) -> Result<(), ScratchError> {
        let Some(found) = golden::read(copy) else {
            return Err(self.pulling(SOON));
        };
        if found.image != *image || found.path.as_deref() != self.path() {
            return Err(self.failed(&format!("DataVolume {} is of {}, not of {image}", found.name, found.image)));
        }
        if phase(copy) == DataVolumePhase::Failed {
            self.delete(copy).await?;
            return Err(self.pulling(SOON));
        }
        Ok(())
    }

    async fn ask(&self, question: &ImageQuestion) -> Result<ImageAnswer, ScratchError> {
        let answer = Box::pin(self.pulls.ask(self.cluster, question)).await;
        answer.map_err(|why| match why {
            Unanswered::Busy => self.pulling(SOON),
            Unanswered::Failed(why) => self.failed(&why),
        })
    }

    /// It is on its way: the guest waits, and is looked at again.
    fn pulling(&self, again: Duration) -> ScratchError {
        held_up(HeldUp::pulling(&self.disk.image).again(again))
    }

    /// Remembers the failure, for every guest with this image.
    fn failed(&self, why: &str) -> ScratchError {
        let wait = self.pulls.failed(self.pull(), why);
        held_up(HeldUp::pull_failed(&self.disk.image, why).again(wait))
    }

    async fn make_room(&self) -> Result<(), ScratchError> {
        let copies = golden::copies(self.cluster);
        for name in oci::surplus(&copies) {
            if let Some(copy) = find(&self.cluster.data_volumes, names::SYSTEM_NAMESPACE, name) {
                tracing::info!(copy = name, "copy of a container disk deleted: many are newer, and nobody uses it");
                self.delete(&copy).await?;
            }
        }
        Ok(())
    }

    fn own(&self, name: &str, copy: String) -> DataVolume {
        let source = ObjectSource { namespace: names::SYSTEM_NAMESPACE.to_owned(), name: copy };
        let spec = DataVolumeSpec {
            source: Some(DataVolumeSource { pvc: Some(source), ..DataVolumeSource::default() }),
            storage: Some(golden::block(None)),
            ..DataVolumeSpec::default()
        };
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: self.vmi.namespace(),
            labels: Some([(names::LABEL_CREATED_BY.to_owned(), self.vmi.uid().unwrap_or_default())].into()),
            owner_references: Some(vec![pod::owner(self.vmi)]),
            ..ObjectMeta::default()
        };
        DataVolume { metadata, spec, status: None }
    }

    /// Of two passes, or two guests, that make the same one, the first counts.
    async fn create(&self, volume: &DataVolume) -> Result<(), ScratchError> {
        let api = self.cluster.api::<DataVolume>(&volume.namespace().unwrap_or_default());
        calls::create(&api, volume).await.map(drop).map_err(ScratchError::of_create)
    }

    async fn delete(&self, volume: &DataVolume) -> Result<(), ScratchError> {
        let api = self.cluster.api::<DataVolume>(&volume.namespace().unwrap_or_default());
        calls::delete(&api, volume).await.map_err(ScratchError::Call)
    }
}

fn invalid(why: String) -> ScratchError {
    held_up(HeldUp::until_change("InvalidImageName", why))
}

fn held_up(held_up: HeldUp) -> ScratchError {
    ScratchError::HeldUp(held_up)
}

fn phase(volume: &DataVolume) -> DataVolumePhase {
    volume.status.as_ref().map(|status| status.phase.clone()).unwrap_or_default()
}

/// Why the last attempt to fill a DataVolume failed; `None` while one is under way.
fn failure(volume: &DataVolume) -> Option<String> {
    let conditions = volume.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let running = conditions.iter().find(|condition| condition.type_ == "Running" && condition.status == "False");
    running.and_then(|condition| condition.message.clone()).filter(|message| !message.is_empty())
}
