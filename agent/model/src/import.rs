//! What an import decides: what a stream of bytes is, whether a failed import is tried again and
//! when, and how progress reads. Refuses to trust names: only content tells a format.

use std::time::Duration;

/// So many bytes of a stream's beginning tell every format apart (tar's mark is the furthest).
pub const SNIFF_BYTES: usize = 512;
/// A failed import is tried again so many times.
pub const MAX_RESTARTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const IN_USE_WAIT: Duration = Duration::from_secs(3);
/// Four times what a cluster takes to forget a dead client.
const LONGEST_IN_USE: Duration = Duration::from_secs(120);

/// A compression around an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// The .xz format.
    Xz,
    /// RFC 8878.
    Zstd,
}

/// What a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Something that must be decompressed first.
    Compressed(Compression),
    /// A qcow2 image of version 2 or later.
    Qcow2,
    /// A disk image, byte by byte: whatever is nothing else.
    Raw,
    /// Something that is no image, or one that is not read; what it is.
    Refused(&'static str),
}

/// Tells what a stream is by its first bytes (up to [`SNIFF_BYTES`]; fewer if it is shorter).
pub fn content(head: &[u8]) -> Content {
    const MARKS: [(usize, &[u8], Content); 12] = [
        (0, &[0x1f, 0x8b], Content::Compressed(Compression::Gzip)),
        (0, &[0xfd, b'7', b'z', b'X', b'Z', 0], Content::Compressed(Compression::Xz)),
        (0, &[0x28, 0xb5, 0x2f, 0xfd], Content::Compressed(Compression::Zstd)),
        (0, b"QFI\xfb", Content::Qcow2),
        (0, b"KDMV", Content::Refused("a vmdk image")),
        (0, b"# Disk DescriptorFile", Content::Refused("a vmdk descriptor")),
        (64, &[0x7f, 0x10, 0xda, 0xbe], Content::Refused("a vdi image")),
        (0, b"vhdxfile", Content::Refused("a vhdx image")),
        (0, b"conectix", Content::Refused("a vhd image")),
        (0, b"LUKS\xba\xbe", Content::Refused("a LUKS encrypted container")),
        (0, b"BZh", Content::Refused("a bzip2 archive")),
        (257, b"ustar", Content::Refused("a tar archive")),
    ];
    let found = MARKS.iter().find(|(at, mark, _)| head.get(*at..at + mark.len()) == Some(*mark));
    match found {
        Some((_, _, content)) => *content,
        None if is_html(head) => Content::Refused("a web page"),
        None => Content::Raw,
    }
}

fn is_html(head: &[u8]) -> bool {
    let start: Vec<u8> =
        head.iter().copied().skip_while(u8::is_ascii_whitespace).take(14).map(|b| b.to_ascii_lowercase()).collect();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

/// What kind of failure ended an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Trying again cannot help.
    Permanent,
    /// It may pass.
    Passing,
    /// The volume is open elsewhere. After a killed import or agent that is its own dead client,
    /// which the cluster forgets after half a minute: it is waited for and counts as no restart.
    InUse,
}

/// What follows a failed import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It starts again after this time, and that counts as a restart.
    Retry(Duration),
    /// It starts again after this time.
    Wait(Duration),
    /// It is given up.
    GiveUp,
}

/// Decides what follows when an import failed that had been restarted `restarts` times before
/// and has waited for `waited` because of others.
pub fn after_failure(severity: Severity, restarts: u32, waited: Duration) -> Next {
    if severity == Severity::InUse && waited < LONGEST_IN_USE {
        return Next::Wait(IN_USE_WAIT);
    }
    if severity == Severity::Permanent || restarts >= MAX_RESTARTS {
        return Next::GiveUp;
    }
    Next::Retry(FIRST_WAIT.saturating_mul(1 << restarts.min(16)).min(LONGEST_WAIT))
}

/// Progress as CDI writes it: `12.34%`; below 100 % until the import is over. `N/A` when the
/// source does not say how long it is.
pub fn progress(done: u64, total: Option<u64>) -> String {
    let Some(total) = total.filter(|total| *total > 0) else { return "N/A".to_owned() };
    let hundredths = (u128::from(done) * 10_000 / u128::from(total)).min(9_999);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_told_by_its_marks_alone() {
        let check = |head: &[u8], expected: Content| assert_eq!(content(head), expected);
        check(b"", Content::Raw);
        check(b"\x1f\x8b\x08", Content::Compressed(Compression::Gzip));
        check(b"\xfd7zXZ\0", Content::Compressed(Compression::Xz));
        check(b"\x28\xb5\x2f\xfd1", Content::Compressed(Compression::Zstd));
        check(b"QFI\xfb\0\0\0\x03", Content::Qcow2);
        check(b"KDMV", Content::Refused("a vmdk image"));
        check(b"\n <!DOCTYPE HTML>", Content::Refused("a web page"));
        check(b"QFI", Content::Raw);
        let mut tar = vec![0u8; 512];
        tar[257..262].copy_from_slice(b"ustar");
        check(&tar, Content::Refused("a tar archive"));
    }

    #[test]
    fn waits_double_and_end() {
        let waits: Vec<_> = (0..7).map(|restarts| after_failure(Severity::Passing, restarts, Duration::ZERO)).collect();
        let seconds = |n| Next::Retry(Duration::from_secs(n));
        assert_eq!(waits[..5], [seconds(2), seconds(4), seconds(8), seconds(16), seconds(32)]);
        assert_eq!(waits[5..], [Next::GiveUp, Next::GiveUp]);
        assert_eq!(after_failure(Severity::Permanent, 0, Duration::ZERO), Next::GiveUp);
        let in_use = |waited| after_failure(Severity::InUse, MAX_RESTARTS, Duration::from_secs(waited));
        assert_eq!(in_use(119), Next::Wait(IN_USE_WAIT));
        assert_eq!(in_use(120), Next::GiveUp);
    }

    #[test]
    fn progress_is_never_complete_before_the_end() {
        assert_eq!(progress(0, Some(10)), "0.00%");
        assert_eq!(progress(1234, Some(10_000)), "12.34%");
        assert_eq!(progress(10, Some(10)), "99.99%");
        assert_eq!(progress(u64::MAX, Some(1)), "99.99%");
        assert_eq!(progress(5, None), "N/A");
        assert_eq!(progress(5, Some(0)), "N/A");
    }
}
