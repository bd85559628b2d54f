//! Executes the steps of a reset. One `match`, no decisions; each step finds what an earlier start left.

use std::path::Path;
use std::time::{Duration, Instant};

use furrow_host::block;
use furrow_host::cmd::Cmd;
use furrow_model::reasons::chain;

use super::observe;
use super::plan::Step;
use super::{erase, load, save};
use crate::firmware_entry::{self, EntryError};
use crate::steps::{self, StepError};
use crate::{files, membership};

/// Disks answer late after a power cut; one that is not here by then was taken out.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks for disks.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a step was not done. The unit tries it again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResetError {
    #[error(transparent)]
    Step(#[from] StepError),
    #[error("could not erase {path}")]
    Erase {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("another furrow-install is at work on this node")]
    Busy,
    #[error("the disk that this system runs from is not found")]
    NoSystem,
    #[error("nothing says any more that this node is to be reset")]
    NoMark,
}

fn erase_error(path: &Path) -> impl FnOnce(std::io::Error) -> ResetError {
    let path = path.display().to_string();
    move |source| ResetError::Erase { path, source }
}

/// Executes one step.
pub(super) async fn step(state: &Path, step: &Step, say: &dyn Fn(&str)) -> Result<(), ResetError> {
    match step {
        Step::Mark => {
            let reason = "this node is being reset: it is erased and restarts by itself";
            membership::keep_off(state, reason).map_err(ResetError::from)
        }
        Step::Services(name) => {
            services(name, say).await;
            Ok(())
        }
        Step::Osds(_) => erase_osds(state, say).await,
        Step::FirmwareEntry => {
            forget_entry(say);
            Ok(())
        }
        Step::PartitionTable(_) => erase_table(state).await,
        Step::Restart => restart().await,
    }
}

/// What cannot be stopped holds its disk, which is then refused to the next step.
async fn services(name: &str, say: &dyn Fn(&str)) {
    // What would start others, or makes OSDs.
    let first = ["furrow-follow.timer", "furrow-follow.service", "furrow-bootstrap.service", "furrow-agent.service"];
    for unit in first {
        membership::stop(&["stop", unit], say).await;
    }
    for guest in observe::guests().await {
        let destroy = Cmd::new("/usr/bin/virsh").args(["--connect", "qemu:///system", "destroy", &guest]);
        if let Err(error) = destroy.run().await {
            say(&format!("guest {guest} was not stopped: {error}"));
        }
    }
    membership::stop_services(name, say).await;
}

/// Erases each OSD that is here, by the identity in its label, and notes that; those that are not are waited for a while.
async fn erase_osds(state: &Path, say: &dyn Fn(&str)) -> Result<(), ResetError> {
    // Nothing makes OSDs meanwhile.
    let lock = files::lock(state).map_err(steps::file_error("lock the steps below", state))?;
    let _lock = lock.ok_or(ResetError::Busy)?;
    let begun = Instant::now();
    let mut mark = load(state)?.ok_or(ResetError::NoMark)?;
    while !mark.osds.is_empty() {
        let devices = block::list().await.map_err(StepError::from)?;
        for disk in observe::osd_disks(&devices).await {
            let Some(at) = mark.osds.iter().position(|osd| osd.uuid == disk.label.osd_uuid) else { continue };
            erase::osd(&disk.path).map_err(erase_error(&disk.path))?;
            say(&format!("erased {}", mark.osds.remove(at).disk));
            save(state, &mark)?;
        }
        if !mark.osds.is_empty() && begun.elapsed() > APPEAR_TIMEOUT {
            for osd in &mark.osds {
                say(&format!(
                    "{} is not here as an OSD (any more): if it was taken out, it keeps what it holds",
                    osd.disk
                ));
            }
            break;
        }
        if !mark.osds.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// An entry that stays leads to nothing, and the next installation takes its place.
fn forget_entry(say: &dyn Fn(&str)) {
    match firmware_entry::forget(Path::new(firmware_entry::VARIABLES)) {
        Ok(_) | Err(EntryError::NoVariables) => {}
        Err(error) => say(&format!("the firmware's boot entry stays: {}", chain(&error))),
    }
}

async fn erase_table(state: &Path) -> Result<(), ResetError> {
    load(state)?.ok_or(ResetError::NoMark)?;
    let devices = block::list().await.map_err(StepError::from)?;
    let disk = observe::marked_disk(&devices).ok_or(ResetError::NoSystem)?;
    let path = Path::new(&disk.path);
    let name = path.file_name().unwrap_or_default();
    let queue = Path::new("/sys/class/block").join(name).join("queue/logical_block_size");
    let text = std::fs::read_to_string(&queue).map_err(steps::file_error("read", &queue))?;
    let senseless = || StepError::Answer("the kernel", format!("{text} in {}", queue.display()));
    let block = text.trim().parse::<u64>().map_err(|_| senseless())?;
    erase::table(path, block).map_err(erase_error(path))
}

/// The programs of the running system are still there: the kernel reads its partitions by the table that it knows.
async fn restart() -> Result<(), ResetError> {
    if steps::systemctl(&["--no-block", "reboot"]).await.is_err() {
        steps::systemctl(&["--force", "reboot"]).await?;
    }
    Ok(())
}
