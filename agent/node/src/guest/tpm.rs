//! A TPM that keeps its state: what the node needs of the storage for it, the passphrase that libvirt is lent at the start, a
//! task that has each change written while the guest runs, and the last write when it has ended. A write that fails while the
//! guest runs is tried again and told of; the last one holds the guest's end back. An agent that starts anew writes at once
//! and watches on. Refuses to choose when (`furrow_model::tpm`), and to log a passphrase or a state.

use std::sync::Arc;
use std::time::Duration;

use furrow_api::reservation::{ReservedVolume, STATE_TPM};
use furrow_api::{VirtualMachineInstance, names};
use furrow_host::libvirt::TpmSecret;
use furrow_model::reasons::chain;
use furrow_model::tpm::{NextSave, Outcome, Saving, secret_uuid};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Context;
use super::convert::GuestRequest;
use super::execute::{Failure, Pass, within};
use super::owner::Known;
use super::ports::HostError;
use super::publish::answered;

/// While the state cannot be watched it is looked at this often.
const UNWATCHED: Duration = Duration::from_secs(30);
/// Bytes of a passphrase: fewer can be guessed, and swtpm is given no more.
const PASSPHRASE_BYTES: std::ops::RangeInclusive<usize> = 32..=256;
/// What the event says when a state could not be written.
const NOT_SAVED: &str = "TPMStateNotSaved";
/// What it says when that is over.
const SAVED: &str = "TPMStateSaved";

/// Changes of a state, without what they are. It ends when there is nothing to watch any more.
pub(crate) type TpmChanges = BoxStream<'static, ()>;

/// Whose TPM it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TpmGuest<'a> {
    /// UID of its VirtualMachineInstance.
    pub(crate) uid: &'a str,
    /// `namespace/name` of it.
    pub(crate) vmi: &'a str,
}

/// What a write came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Saved {
    /// The image has what the TPM keeps.
    Kept,
    /// There is no state on this node.
    Nothing,
    /// It has no image any more, or the image is another guest's; why.
    Superseded(String),
}

/// The states of TPMs, by the UID of their guest.
pub(crate) trait TpmStates: Send + Sync {
    /// Makes the state in an image this guest's, and lays it where its TPM reads it, in place of whatever is there.
    fn restore<'a>(&'a self, guest: TpmGuest<'a>, volume: &'a ReservedVolume) -> BoxFuture<'a, Result<(), HostError>>;

    /// Tells of changes from now on.
    fn changes(&self, guest: &str) -> std::io::Result<TpmChanges>;

    /// Writes what is on this node to its image. The same again writes nothing. Finish it: one that is dropped goes on.
    fn save<'a>(&'a self, guest: &'a str) -> BoxFuture<'a, Result<Saved, HostError>>;

    /// Takes it away from this node. Doing it twice is no error.
    fn remove<'a>(&'a self, guest: &'a str) -> BoxFuture<'a, Result<(), HostError>>;

    /// Whether there is one on this node.
    fn has(&self, guest: &str) -> bool;

    /// Those of this node: UID and `namespace/name`.
    fn list(&self) -> Result<Vec<(String, String)>, HostError>;
}

/// The passphrase of a guest's TPM; `None` where its state is not kept.
pub(super) async fn secret(context: &Context, request: &GuestRequest) -> Result<Option<TpmSecret>, Failure> {
    let kept = request.reservation.volumes.iter().find(|volume| volume.name == STATE_TPM);
    let Some(volume) = kept.filter(|_| request.vmi.spec.domain.keeps_tpm()) else { return Ok(None) };
    let failed = |reason, message| Failure { reason, message, permanent: false };
    let namespace = request.vmi.namespace().unwrap_or_default();
    let (api, name) = (Api::<Secret>::namespaced(context.client.clone(), &namespace), &volume.claim);
    let found = answered(api.get_opt(name)).await.map_err(|error| {
        failed("StateKeyUnavailable", format!("could not read secret {namespace}/{name}: {}", chain(&error)))
    })?;
    let found = found.ok_or_else(|| {
        let what = "with the key of the TPM's state does not exist, and no other key can read that state";
        failed("StateKeyMissing", format!("could not start the guest: secret {namespace}/{name} {what}"))
    })?;
    let passphrase = found.data.unwrap_or_default().remove(names::STATE_PASSPHRASE).map(|text| text.0);
    let uid = request.vmi.uid().unwrap_or_default();
    let passphrase =
        passphrase.filter(|text| PASSPHRASE_BYTES.contains(&text.len()) && text.iter().all(u8::is_ascii_graphic));
    // It is ASCII by now.
    let passphrase = passphrase.and_then(|text| String::from_utf8(text).ok()).ok_or_else(|| {
        let what = format!("has no {} of {PASSPHRASE_BYTES:?} characters", names::STATE_PASSPHRASE);
        failed("StateKeyInvalid", format!("could not start the guest: secret {namespace}/{name} {what}"))
    })?;
    Ok(Some(TpmSecret { uuid: secret_uuid(&uid), usage: format!("furrow tpm {uid}"), passphrase }))
}

/// Starts writing the changes of a running guest's TPM, until the guard is dropped; `None` where they are not kept. A write
/// that is under way then is finished.
pub(super) fn start(context: &Arc<Context>, vmi: &Arc<VirtualMachineInstance>) -> Option<DropGuard> {
    if !vmi.spec.domain.keeps_tpm() {
        return None;
    }
    let stop = context.stop.child_token();
    let follower = Follower { context: Arc::clone(context), vmi: Arc::clone(vmi), failing: false };
    tokio::spawn(follower.run(stop.clone()));
    Some(stop.drop_guard())
}

/// The task of one running guest.
struct Follower {
    context: Arc<Context>,
    vmi: Arc<VirtualMachineInstance>,
    /// That its state cannot be written has been told.
    failing: bool,
}

impl Follower {
    async fn run(mut self, stop: CancellationToken) {
        let uid = self.vmi.uid().unwrap_or_default();
        let (mut saving, mut changes) = (Saving::default(), None);
        loop {
            // Watched before it is read: what changes in between is told of, and at worst read once more.
            if changes.is_none() {
                let watched = self.context.tpm.changes(&uid);
                changes = watched.inspect_err(|error| tracing::warn!(uid, error = %error, "a TPM is not watched")).ok();
            }
            // Not under `stop`: the last write, which follows, would meet a lock that nobody gives back.
            let outcome = self.save(&uid).await;
            let next = saving.next(outcome);
            let wait = async {
                match next {
                    NextSave::Done => {}
                    NextSave::After { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
                    NextSave::OnChange { after_ms } => {
                        tokio::time::sleep(Duration::from_millis(after_ms)).await;
                        let told = match &mut changes {
                            Some(changes) => changes.next().await.is_some(),
                            None => false,
                        };
                        if !told {
                            changes = None;
                            tokio::time::sleep(UNWATCHED).await;
                        }
                    }
                }
            };
            // Safe to cancel: what is not written yet is written when the guest has ended, or by the next agent.
            if stop.run_until_cancelled(wait).await.is_none() || next == NextSave::Done {
                return;
            }
        }
    }

    async fn save(&mut self, uid: &str) -> Outcome {
        match self.context.tpm.save(uid).await {
            Ok(Saved::Kept | Saved::Nothing) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(uid, "the state of a TPM is written again");
                    self.context.events.normal(&self.vmi, SAVED, "The state of the TPM is kept again.");
                }
                Outcome::Kept
            }
            Ok(Saved::Superseded(why)) => {
                tracing::warn!(uid, why, "the state of a TPM is not written any more");
                Outcome::Superseded
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(uid, error = %error, "the state of a TPM cannot be written, trying again");
                    let note = format!("The state of the TPM is not kept at the moment: {error}");
                    self.context.events.warning(&self.vmi, NOT_SAVED, &note);
                }
                Outcome::Failed
            }
        }
    }
}

impl Pass<'_> {
    /// The last write of a guest that has ended. Only after it is the state taken away from this node.
    pub(super) async fn keep_state(&self, known: &mut Known, uid: String) -> Result<(), Failure> {
        let tpm = &self.context.tpm;
        if let Saved::Superseded(why) = within("TPMStateTimeout", tpm.save(&uid)).await? {
            tracing::warn!(vm = %self.key, uid, why, "the last state of a TPM is let go of");
        }
        within("TPMStateTimeout", tpm.remove(&uid)).await?;
        known.artefacts.states.remove(&uid);
        Ok(())
    }
}
