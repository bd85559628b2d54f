//! How fast a disk reads, by a short look from its middle. Writes nothing.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use furrow_host::block::Device;

/// What is read of a disk at most.
const MAX_BYTES: u64 = 64 << 20;
/// How long at most.
const MAX_TIME: Duration = Duration::from_secs(1);
/// A disk whose first answer takes longer is broken.
const ANSWER: Duration = Duration::from_secs(5);
/// Disks that are tested; a shelf of a hundred would take minutes.
const MAX_DISKS: usize = 12;
/// One reading.
const CHUNK: usize = 1 << 20;

/// What the look said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Speed {
    /// Bytes a second.
    Reads(u64),
    /// Why it does not.
    Fails(String),
    NotTested,
}

/// The speed of each disk, by its path.
pub(super) async fn of(disks: &[Device]) -> Vec<(String, Speed)> {
    let mut speeds = Vec::new();
    for (n, disk) in disks.iter().enumerate() {
        let speed = if n < MAX_DISKS { read(disk.path.clone(), disk.size).await } else { Speed::NotTested };
        speeds.push((disk.path.clone(), speed));
    }
    speeds
}

/// On a thread of its own: a reading from a broken disk cannot be ended, only left behind.
async fn read(path: String, size: u64) -> Speed {
    let (send, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = send.send(measure(&path, size));
    });
    match tokio::time::timeout(MAX_TIME + ANSWER, answer).await {
        Ok(Ok(Ok(rate))) => Speed::Reads(rate),
        Ok(Ok(Err(error))) => Speed::Fails(error.to_string()),
        Ok(Err(_)) | Err(_) => Speed::Fails(format!("no answer within {} s", (MAX_TIME + ANSWER).as_secs())),
    }
}

fn measure(path: &str, size: u64) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    // Not from its beginning, which was read already and is in memory.
    let middle = size / 2 / CHUNK as u64 * CHUNK as u64;
    file.seek(SeekFrom::Start(middle))?;
    let mut buffer = vec![0_u8; CHUNK];
    let (begun, mut bytes) = (Instant::now(), 0_u64);
    while bytes < MAX_BYTES && begun.elapsed() < MAX_TIME {
        match file.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    let micros = begun.elapsed().as_micros().max(1);
    Ok(u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_is_read_and_one_that_is_not_there_says_why() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("disk");
        std::fs::write(&path, vec![1_u8; 4 << 20]).expect("written");
        let disk = |path: String| Device { path, size: 4 << 20, ..Device::default() };
        let speeds = of(&[disk(path.display().to_string()), disk("/nonexistent".into())]).await;
        assert!(matches!(speeds[0].1, Speed::Reads(rate) if rate > 0), "{speeds:?}");
        assert!(matches!(&speeds[1].1, Speed::Fails(reason) if reason.contains("No such file")), "{speeds:?}");
    }

    #[tokio::test]
    async fn many_disks_are_not_all_tested() {
        let disks = vec![Device { path: "/nonexistent".into(), ..Device::default() }; MAX_DISKS + 1];
        assert_eq!(of(&disks).await.last().map(|(_, speed)| speed.clone()), Some(Speed::NotTested));
    }
}
