//! Volumes that a guest mounts by virtiofs: ConfigMaps, Secrets, metadata, a token. Their files are below
//! `<shares>/<uid>/<volume>`, laid out as the kubelet does (`furrow_model::share`), and follow their objects while the guest
//! runs: metadata at once, the others within [`PAUSE`], in the guest's own passes. An agent has no watch on Secrets, and is
//! to have none: it may get those by name that its guests name.
//!
//! The directory is in memory, and root's alone. It is not the guest's own, which belongs to QEMU's user: whoever breaks
//! out of QEMU could lead virtiofsd, which is root, anywhere from there. Refuses to fail a guest that runs: what cannot be
//! read stays as it was, as in a pod.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use furrow_api::VirtualMachineInstance;
use furrow_api::vmi::Volume;
use furrow_model::reasons::chain;
use furrow_model::share::{DATA, Files, FoundShare, ShareStep, share_steps};
use tokio::time::Instant;

use super::media::{self, MediaError, Place};
use super::publish::API_TIMEOUT;
use super::seed::SeedError;

/// Between two looks at the objects of a guest.
const PAUSE: Duration = Duration::from_secs(45);
/// Modes that a guest sees; KubeVirt's. It is root who may look in from outside.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;

/// How far the files of a running guest follow their objects.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// When the objects are read next.
    next: Option<Instant>,
    /// What could not be done last, so that it is said once.
    failed: Option<String>,
}

impl Kept {
    /// Files that were written just now.
    pub(super) fn fresh() -> Self {
        Self { next: Some(Instant::now() + PAUSE), failed: None }
    }

    /// Brings the files to what the objects say, if it is time to. Returns the pause until the next time; `None` for a
    /// guest that mounts nothing.
    pub(super) async fn follow(&mut self, place: &Place<'_>, dir: &Path) -> Option<Duration> {
        if place.vmi.spec.domain.devices.filesystems.is_empty() {
            return None;
        }
        let now = Instant::now();
        let due = self.next.is_none_or(|next| next <= now);
        if due {
            self.next = Some(now + PAUSE);
        }
        // What is read of the guest itself costs nothing.
        let wanted = |volume: &&Volume| due || volume.downward_api.is_some();
        let mut failed = None;
        for volume in shared(place.vmi).filter(wanted) {
            if let Err(error) = bring(place, volume, dir).await {
                failed = Some(chain(&error));
            }
        }
        if let Some(error) = failed.as_ref().filter(|_| failed != self.failed) {
            tracing::warn!(vm = place.label(), error, "what a guest mounts stays as it was");
        }
        if due || failed.is_some() {
            self.failed = failed;
        }
        self.next.map(|next| next.saturating_duration_since(now))
    }
}

/// Makes the files of a guest that starts.
pub(super) async fn fill(place: &Place<'_>, dir: &Path) -> Result<(), SeedError> {
    for volume in shared(place.vmi) {
        bring(place, volume, dir).await?;
    }
    Ok(())
}

/// Whether a volume is shown by virtiofs, and not as a disk besides.
pub(super) fn is_share_only(vmi: &VirtualMachineInstance, volume: &str) -> bool {
    let devices = &vmi.spec.domain.devices;
    let shared = devices.filesystems.iter().any(|filesystem| filesystem.name == volume);
    shared && !devices.disks.iter().any(|disk| disk.name == volume)
}

fn shared(vmi: &VirtualMachineInstance) -> impl Iterator<Item = &Volume> {
    let filesystems = &vmi.spec.domain.devices.filesystems;
    vmi.spec.volumes.iter().filter(|volume| filesystems.iter().any(|filesystem| filesystem.name == volume.name))
}

/// Brings the files of one volume to what its object says.
async fn bring(place: &Place<'_>, volume: &Volume, dir: &Path) -> Result<(), SeedError> {
    let name = volume.name.clone();
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(MediaError::Field { volume: name, message: "its name is no DNS label".to_owned() }.into());
    }
    let late = |_| MediaError::Late { volume: name.clone() };
    // Dropping a request is safe: it only reads.
    let files = tokio::time::timeout(API_TIMEOUT, media::files(place, volume)).await.map_err(late)??;
    let Some(files) = files else { return Ok(()) };
    let path = dir.join(&name);
    let failed = |source| SeedError::Write { path: path.clone(), source };
    let written = {
        let (dir, name) = (dir.to_owned(), name.clone());
        tokio::task::spawn_blocking(move || write(&dir, &name, &files))
    };
    let steps = written.await.map_err(|error| failed(io::Error::other(error)))?;
    let steps = steps.map_err(|error| match error {
        WriteError::Name(source) => MediaError::Name { volume: name.clone(), source }.into(),
        WriteError::Io(source) => failed(source),
    })?;
    if steps > 0 {
        tracing::info!(vm = place.label(), volume = name, "what the guest mounts was written");
    }
    Ok(())
}

enum WriteError {
    Name(furrow_model::share::FileNameError),
    Io(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Brings a directory below `parent`, which is made as well, to these files. Returns how many steps that took. Blocks.
fn write(parent: &Path, name: &str, files: &Files) -> Result<usize, WriteError> {
    DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let dir = parent.join(name);
    make_dir(&dir)?;
    let version = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let steps = share_steps(&read(&dir)?, files, &version).map_err(WriteError::Name)?;
    for step in &steps {
        carry_out(&dir, step, files)?;
    }
    Ok(steps.len())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Whatever the agent's umask is.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(DIR_MODE))
}

fn read(dir: &Path) -> io::Result<FoundShare> {
    let names = |dir: &Path| -> io::Result<Vec<String>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let current = match std::fs::read_link(dir.join(DATA)) {
        Ok(version) => {
            let version = version.to_string_lossy().into_owned();
            let files = names(&dir.join(&version)).unwrap_or_default().into_iter();
            let content = |name: String| std::fs::read(dir.join(&version).join(&name)).ok().map(|data| (name, data));
            Some((version.clone(), files.filter_map(content).collect()))
        }
        Err(_) => None,
    };
    Ok(FoundShare { entries: names(dir)?, current })
}

fn carry_out(dir: &Path, step: &ShareStep, files: &Files) -> io::Result<()> {
    match step {
        ShareStep::Fill(version) => {
            let inside = dir.join(version);
            make_dir(&inside)?;
            files.iter().try_for_each(|(name, data)| {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(inside.join(name))?;
                file.write_all(data)?;
                file.set_permissions(std::fs::Permissions::from_mode(FILE_MODE))
            })
        }
        ShareStep::Point(version) => {
            let half = dir.join("..data_tmp");
            remove(&half)?;
            symlink(version, &half)?;
            std::fs::rename(&half, dir.join(DATA))
        }
        ShareStep::Link(name) => symlink(Path::new(DATA).join(name), dir.join(name)),
        ShareStep::Unlink(name) | ShareStep::Remove(name) => remove(&dir.join(name)),
    }
}

/// Removes a link, a file or a directory; one that is not there is no error. No link is followed.
fn remove(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if found.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[(&str, &str)]) -> Files {
        all.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    fn brought(parent: &Path, wanted: &[(&str, &str)]) -> usize {
        let steps = write(parent, "v", &files(wanted)).unwrap_or_else(|_| panic!("written"));
        let dir = parent.join("v");
        for (name, text) in wanted {
            assert_eq!(std::fs::read_to_string(dir.join(name)).expect("a file"), *text);
            let mode = std::fs::metadata(dir.join(name)).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, FILE_MODE, "{name}");
        }
        let shown = std::fs::read_dir(&dir).expect("a directory").flatten();
        let mut shown: Vec<_> = shown.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        shown.retain(|name| !name.starts_with(".."));
        shown.sort();
        assert_eq!(shown, wanted.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
        let versions = std::fs::read_dir(&dir).expect("a directory").flatten();
        assert_eq!(versions.filter(|entry| entry.path().is_dir() && !entry.path().is_symlink()).count(), 1);
        steps
    }

    #[test]
    fn files_change_together_and_an_open_one_stays_as_it_was() {
        let parent = tempfile::tempdir().expect("a directory");
        let parent = parent.path().join("uid");
        brought(&parent, &[("a", "1"), ("b", "1")]);
        let mode = std::fs::metadata(&parent).expect("a directory").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "nobody but root looks in");
        let mut open = std::fs::File::open(parent.join("v/a")).expect("a file");
        assert_eq!(brought(&parent, &[("a", "1"), ("b", "1")]), 0, "the same again does nothing");
        assert!(brought(&parent, &[("b", "2"), ("c", "2")]) > 0);
        let mut text = String::new();
        io::Read::read_to_string(&mut open, &mut text).expect("read");
        assert_eq!(text, "1");
        brought(&parent, &[]);
    }

    #[test]
    fn what_an_agent_left_half_done_is_made_good() {
        let parent = tempfile::tempdir().expect("a directory");
        brought(parent.path(), &[("a", "1")]);
        let dir = parent.path().join("v");
        std::fs::create_dir(dir.join("..half")).expect("made");
        std::fs::write(dir.join("..half/a"), "2").expect("written");
        symlink("..half", dir.join("..data_tmp")).expect("made");
        brought(parent.path(), &[("a", "2")]);
        assert!(!dir.join("..data_tmp").is_symlink());
    }
}
