//! Writing to devices: blocks copied, compared and digested with progress, and file systems mounted for a moment. Knows no
//! partition by name.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use furrow_host::block;
use furrow_host::cmd::{Cmd, CmdError};
use sha2::{Digest, Sha256};

/// What is read and written at once.
const COPY_BYTES: usize = 4 << 20;
/// A partition table is written at once, but for a slow disk.
const TABLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A journal may have to be replayed.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(60);
/// What was written may still lie in memory.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(300);

/// Why a device could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error(transparent)]
    Command(#[from] CmdError),
    #[error(transparent)]
    Block(#[from] block::BlockError),
    #[error("{path}")]
    File {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{0} is in use: something is mounted from it, or it is part of another device")]
    InUse(String),
    #[error("{0} reads back differently from what was written: the disk is not sound")]
    NotSound(String),
}

/// The error of a file.
pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> DeviceError {
    let path = path.display().to_string();
    move |source| DeviceError::File { path, source }
}

/// Copies a device or file bit for bit to a device, tells how far it is every second, compares what can be read back, and
/// returns the digest of what was read, SHA-256 in hexadecimal.
///
/// # Errors
/// When something cannot be read or written, the target is in use, or reads back differently.
pub(crate) fn copy_blocks(from: &Path, to: &Path, say: &dyn Fn(&str)) -> Result<String, DeviceError> {
    let mut source = File::open(from).map_err(file(from))?;
    let total = source.seek(SeekFrom::End(0)).and_then(|n| source.rewind().map(|()| n)).map_err(file(from))?;
    let flags = nix::libc::O_EXCL | nix::libc::O_CLOEXEC;
    let mut target = File::options().read(true).write(true).custom_flags(flags).open(to).map_err(file(to))?;
    let mut progress = Progress::new(total, say);
    let mut buffer = vec![0; COPY_BYTES];
    let mut digest = Sha256::new();
    while let n @ 1.. = source.read(&mut buffer).map_err(file(from))? {
        target.write_all(&buffer[..n]).map_err(file(to))?;
        digest.update(&buffer[..n]);
        progress.add(n as u64, "written");
    }
    target.sync_all().map_err(file(to))?;
    // Otherwise the cache would be compared with itself.
    nix::fcntl::posix_fadvise(&target, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .map_err(|e| file(to)(e.into()))?;
    source.rewind().and_then(|()| target.rewind()).map_err(file(to))?;
    let mut back = vec![0; COPY_BYTES];
    let mut progress = Progress::new(total, say);
    while let n @ 1.. = source.read(&mut buffer).map_err(file(from))? {
        target.read_exact(&mut back[..n]).map_err(file(to))?;
        if buffer[..n] != back[..n] {
            return Err(DeviceError::NotSound(to.display().to_string()));
        }
        progress.add(n as u64, "compared");
    }
    Ok(hex(&digest.finalize()))
}

/// Changes what the partition table says of a partition: `key` is sfdisk's option, such as `--part-label`. `in_use`: the
/// kernel goes on with the table that it knows, because partitions of the disk are mounted.
///
/// # Errors
/// When the table cannot be read or written.
pub(crate) async fn set_partition(
    disk: &Path,
    (number, key, value): (u32, &str, &str),
    in_use: bool,
) -> Result<(), DeviceError> {
    let options: &[&str] = if in_use { &["--no-reread", "--no-tell-kernel"] } else { &[] };
    let sfdisk = Cmd::new("/usr/sbin/sfdisk").arg("--quiet").args(options).arg(key).arg(disk);
    sfdisk.arg(number.to_string()).arg(value).timeout(TABLE_TIMEOUT).run().await?;
    nix::unistd::sync();
    Ok(())
}

/// The device behind a path, which may be one of udev's links; the path itself where there is nothing.
pub(crate) fn resolved(path: &str) -> String {
    std::fs::canonicalize(path).map_or_else(|_| path.to_owned(), |found| found.display().to_string())
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A line a second with bytes, speed and time left.
pub(crate) struct Progress<'a> {
    total: u64,
    done: u64,
    /// What was there at the beginning, which says nothing of the speed.
    first: u64,
    begun: Instant,
    said: Instant,
    say: &'a dyn Fn(&str),
}

impl<'a> Progress<'a> {
    fn new(total: u64, say: &'a dyn Fn(&str)) -> Progress<'a> {
        Progress::from(0, total, say)
    }

    /// Begins at `done` of `total` bytes.
    pub(crate) fn from(done: u64, total: u64, say: &'a dyn Fn(&str)) -> Progress<'a> {
        Progress { total, done, first: done, begun: Instant::now(), said: Instant::now(), say }
    }

    /// Counts bytes.
    pub(crate) fn add(&mut self, bytes: u64, verb: &str) {
        self.done += bytes;
        if self.said.elapsed() < Duration::from_secs(1) && self.done < self.total {
            return;
        }
        self.said = Instant::now();
        let mb = |n: u64| n / 1_000_000;
        let speed = ((self.done - self.first) as f64 / self.begun.elapsed().as_secs_f64().max(0.001)) as u64;
        let left = (self.total - self.done).checked_div(speed).unwrap_or(0);
        (self.say)(&format!("  {} of {} MB {verb}, {} MB/s, {left} s left", mb(self.done), mb(self.total), mb(speed)));
    }
}

/// Mounts a device or a file on `dir`, lets `work` use it, and takes it off again whatever happened. What was written is on
/// the disk then.
///
/// # Errors
/// What failed first.
pub(crate) async fn mounted<T>(
    device: &Path,
    dir: &Path,
    options: &str,
    work: impl AsyncFnOnce(&Path) -> Result<T, DeviceError>,
) -> Result<T, DeviceError> {
    std::fs::create_dir_all(dir).map_err(file(dir))?;
    Cmd::new("/usr/bin/mount").args(["--options", options]).arg(device).arg(dir).timeout(MOUNT_TIMEOUT).run().await?;
    let done = work(dir).await;
    // Taking it off writes nothing out while it is mounted elsewhere as well, as systemd does with the ESP.
    let written = std::fs::File::open(dir).and_then(|open| Ok(nix::unistd::syncfs(open)?)).map_err(file(dir));
    let off = Cmd::new("/usr/bin/umount").arg(dir).timeout(UNMOUNT_TIMEOUT).run().await;
    let done = done?;
    written?;
    off?;
    Ok(done)
}
