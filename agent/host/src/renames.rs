//! Watches a directory for a file that is given a name: how programs that write a whole new file and rename it over the old
//! one say that it is there. The kernel's word (inotify). Refuses to read files, and to poll.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::Path;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// nix shows its descriptor in another form than tokio asks for.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Tells each time that a file of the directory was given this name, from now on; several times in a row may be told of as
/// one. It ends when the directory is gone.
///
/// # Errors
/// The kernel's: no such directory, too many watches.
pub fn renamed_to(dir: &Path, name: &'static str) -> io::Result<BoxStream<'static, ()>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(dir, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR)?;
    // SAFETY: the descriptor is owned by the AsyncFd from here on, so it stays open and the same while registered.
    let watch = unsafe { AsyncFd::register_with_interest(Watch(inotify), Interest::READABLE) };
    let watch = watch.map_err(io::Error::from)?;
    let told = futures::stream::unfold(watch, move |watch| async move {
        loop {
            // Dropping it while it waits is safe: events stay with the kernel until they are read.
            match next(&watch, name).await {
                Ok(true) => return Some(((), watch)),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(name, error = %error, "a directory is not watched any more");
                    return None;
                }
            }
        }
    });
    Ok(told.boxed())
}

/// Waits for events; whether one of them means a file of this name.
async fn next(watch: &AsyncFd<Watch>, name: &str) -> io::Result<bool> {
    let mut ready = watch.readable().await?;
    let Ok(events) = ready.try_io(|watch| watch.get_ref().0.read_events().map_err(io::Error::from)) else {
        return Ok(false);
    };
    let events = events?;
    let is = |event: &InotifyEvent, flag| event.mask.contains(flag);
    if events.iter().any(|event| is(event, AddWatchFlags::IN_IGNORED)) {
        return Err(io::Error::other("it is gone"));
    }
    let named = |event: &InotifyEvent| event.name.as_ref().is_some_and(|found| found == name);
    // Where the kernel has dropped some, one of them may have been it.
    Ok(events.iter().any(|event| named(event) || is(event, AddWatchFlags::IN_Q_OVERFLOW)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_file_of_that_name_is_told_of_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut told = renamed_to(dir.path(), "state").expect("a watch");
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("state.new"), "whole").expect("written");
        std::fs::write(path("lock"), "").expect("written");
        assert!(tokio::time::timeout(SOON, told.next()).await.is_err(), "half a file is none");
        std::fs::rename(path("state.new"), path("state")).expect("renamed");
        assert_eq!(tokio::time::timeout(SOON, told.next()).await, Ok(Some(())));
        std::fs::write(path("other.new"), "other").expect("written");
        std::fs::rename(path("other.new"), path("other")).expect("renamed");
        assert!(tokio::time::timeout(SOON, told.next()).await.is_err(), "only that name counts");
        std::fs::remove_dir_all(dir.path()).expect("removed");
        assert_eq!(tokio::time::timeout(SOON, told.next()).await, Ok(None));
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_cannot_be_watched() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(renamed_to(&dir.path().join("nowhere"), "state").is_err());
    }
}
