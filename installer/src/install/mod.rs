//! Installing to a disk: the plan of it, and its execution. Runs on the medium, where everything writable is in memory.
//! What is installed are the medium's own root, hash tree and boot files, bit for bit. Refuses to write anything before
//! the whole plan is valid; a failed install is run again as a whole.
//!
//! ```text
//!  node.yaml ─> target (which disk) ─> layout (its partitions) ─> write: partitions, root, boot files, configuration
//! ```

mod cmdline;
mod document;
mod layout;
mod log;
mod medium;
mod target;
mod write;

use std::fmt;
use std::path::Path;

use furrow_host::block;
use furrow_model::reasons::chain;

use crate::config::{Install, NodeConfig};
use crate::device::resolved;
use crate::events::{Event, Events};
use crate::{network, settings};
use layout::{Layout, LayoutError};
use target::{Target, TargetError};

pub(crate) use cmdline::{WordError, with_values};
pub(crate) use document::read_config;
pub(crate) use layout::{ESP_LABEL, MIN_DISK_BYTES, MIN_SHARED_BYTES, STATE_LABEL, UNFINISHED_LABEL, is_root, uuid};
pub(crate) use medium::{CONFIG_LABEL, is_unattended, word};
pub(crate) use target::unusable_disk;
pub(crate) use write::WriteError;

/// Why nothing is installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("node.yaml has no `install`, which names the disk")]
    NoInstall,
    #[error("node.yaml refers to a secret that was not opened: {0}")]
    Closed(&'static str),
    #[error("this is no installation medium: {0}")]
    NoMedium(String),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Block(#[from] block::BlockError),
}

/// Everything that will be written, already chosen.
pub(crate) struct InstallPlan {
    target: Target,
    layout: Layout,
    medium: medium::Medium,
    node_yaml: String,
    config: NodeConfig,
    install: Install,
}

/// Chooses the disk and its partitions. Changes nothing.
///
/// # Errors
/// Whatever makes the installation impossible, by the name of the disk or key.
pub(crate) async fn plan(config: NodeConfig, node_yaml: String) -> Result<InstallPlan, PlanError> {
    let install = config.install.clone().ok_or(PlanError::NoInstall)?;
    if let Some(key) = config.references().first() {
        return Err(PlanError::Closed(key.name()));
    }
    let medium = medium::find().map_err(PlanError::NoMedium)?;
    let devices = block::list().await?;
    let target = target::choose(&devices, &install, &medium.disk, &resolved)?;
    let osd = config.ceph.disks.iter().any(|d| d.partition_label.as_deref() == Some(layout::OSD_LABEL));
    let layout = layout::plan(target.size, osd, &medium.root_hash)?;
    Ok(InstallPlan { target, layout, medium, node_yaml, config, install })
}

/// Tells the webhook of a document that was refused before anything was written.
pub(crate) fn tell_refusal(config: &NodeConfig, error: &PlanError) {
    let say = |line: &str| eprintln!("{line}");
    let events = Events::open(config.install.as_ref().and_then(|i| i.webhook.as_ref()), &config.hostname, &say);
    events.send(Event::Failed("plan", &chain(error)));
    events.close(&say);
}

/// The disk that the medium is.
///
/// # Errors
/// Why this system runs from no medium.
pub(crate) fn medium_disk() -> Result<String, String> {
    Ok(medium::find()?.disk)
}

/// For people: what is lost, and what will be there.
impl fmt::Display for InstallPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "disk       {}", self.target)?;
        match &self.target.holds {
            Some(data) => writeln!(f, "erased     {data} (install.disk.wipe is true)")?,
            None => writeln!(f, "erased     nothing: the disk is empty")?,
        }
        writeln!(f, "version    {}", self.medium.version)?;
        for partition in &self.layout.partitions {
            writeln!(f, "partition  {partition}")?;
        }
        writeln!(f, "node       {}", self.config.hostname)?;
        writeln!(f, "network    {}", network::describe(&self.config.management))?;
        write!(f, "settings   {}", settings::describe(&self.config))
    }
}

/// Ends an installation that was cut off between its last file and its last word, on a node that runs from it: otherwise
/// the next installation would take the disk for one that holds nothing. Without effect elsewhere.
///
/// # Errors
/// When the ESP cannot be named.
pub(crate) async fn end_interrupted() -> Result<(), WriteError> {
    match word("roothash") {
        Some(hash) => write::end_interrupted(&hash).await,
        None => Ok(()),
    }
}

impl InstallPlan {
    /// Writes all of it, and says what it does through `say` and to the webhook. A failure's log is kept.
    ///
    /// # Errors
    /// The first thing that failed, with its step.
    pub(crate) async fn execute(&self, say: &dyn Fn(&str)) -> Result<(), WriteError> {
        let log = log::Log::new(say);
        let say = |line: &str| log.say(line);
        let events = Events::open(self.install.webhook.as_ref(), &self.config.hostname, &say);
        events.send(Event::Started);
        let done = write::all(self, &write::Report { say: &say, events: &events }).await;
        match &done {
            Ok(()) => events.send(Event::Finished),
            Err(error) => {
                events.send(Event::Failed(error.step(), &chain(error)));
                say(&format!("failed: {}", chain(error)));
                log.keep(write::state_partition(self).await.as_deref()).await;
            }
        }
        events.close(&say);
        done
    }

    /// Whether the machine is to be switched off, rather than restarted, when all is done.
    pub(crate) fn powers_off(&self) -> bool {
        self.install.power_off
    }

    fn disk(&self) -> &Path {
        Path::new(&self.target.path)
    }
}
