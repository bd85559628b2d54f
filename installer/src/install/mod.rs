//! Installing to a disk: the plan of it, and its execution. Runs on the medium, where everything writable is in memory.
//! What is installed are the medium's own root, hash tree and boot files, bit for bit. Refuses to write anything before
//! the whole plan is valid; a failed install is run again as a whole.
//!
//! ```text
//!  node.yaml ─> target (which disk) ─> layout (its partitions) ─> write: partitions, root, boot files, configuration
//! ```

mod layout;
mod medium;
mod target;
mod write;

use std::fmt;
use std::path::Path;

use furrow_host::block;

use crate::config::{Install, NodeConfig};
use crate::{network, settings};
use layout::{Layout, LayoutError};
use target::{Target, TargetError};

pub(crate) use layout::{ESP_LABEL, MIN_DISK_BYTES, MIN_SHARED_BYTES, UNFINISHED_LABEL, is_root, uuid};
pub(crate) use medium::{CONFIG_LABEL, is_unattended, read_config, word};
pub(crate) use target::unusable_disk;
pub(crate) use write::WriteError;

/// Why nothing is installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("node.yaml has no `install`, which names the disk")]
    NoInstall,
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
    let medium = medium::find().map_err(PlanError::NoMedium)?;
    let devices = block::list().await?;
    let resolved =
        |path: &str| std::fs::canonicalize(path).map_or_else(|_| path.to_owned(), |p| p.display().to_string());
    let target = target::choose(&devices, &install, &medium.disk, &resolved)?;
    let osd = config.ceph.disks.iter().any(|d| d.partition_label.as_deref() == Some(layout::OSD_LABEL));
    let layout = layout::plan(target.size, osd, &medium.root_hash)?;
    Ok(InstallPlan { target, layout, medium, node_yaml, config, install })
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
    /// Writes all of it, and says what it does through `say`.
    ///
    /// # Errors
    /// The first thing that failed, with its step.
    pub(crate) async fn execute(&self, say: &dyn Fn(&str)) -> Result<(), WriteError> {
        write::all(self, say).await
    }

    /// Whether the machine is to be switched off, rather than restarted, when all is done.
    pub(crate) fn powers_off(&self) -> bool {
        self.install.power_off
    }

    fn disk(&self) -> &Path {
        Path::new(&self.target.path)
    }
}
