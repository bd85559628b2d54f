//! The log of an installation that failed: kept in memory for the shell below it, and on what outlives a restart: the file
//! system labelled `FURROW-CONFIG` where it takes it, otherwise the disk's new state partition where that was reached.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::medium;
use crate::device::{DeviceError, file, mounted};
use crate::files::replace;

/// Its name, wherever it lies.
const NAME: &str = "furrow-install.log";
const WORK: &str = "/run/furrow/install-log";

/// What was said, with times.
pub(super) struct Log<'a> {
    begun: Instant,
    lines: RefCell<Vec<String>>,
    say: &'a dyn Fn(&str),
}

impl<'a> Log<'a> {
    /// An empty one, which passes on what it is told.
    pub(super) fn new(say: &'a dyn Fn(&str)) -> Log<'a> {
        Log { begun: Instant::now(), lines: RefCell::new(Vec::new()), say }
    }

    /// Notes and passes on a line.
    pub(super) fn say(&self, line: &str) {
        self.lines.borrow_mut().push(format!("[{:6.1} s] {line}", self.begun.elapsed().as_secs_f64()));
        (self.say)(line);
    }

    /// Keeps it wherever that is possible, and says where. `state`: the disk's state partition.
    pub(super) async fn keep(&self, state: Option<&Path>) {
        let text = self.lines.borrow().join("\n") + "\n";
        let here = Path::new("/var/log").join(NAME);
        let mut places: Vec<String> = Vec::new();
        if replace(&here, text.as_bytes(), 0o600).is_ok() {
            places.push(format!("{} of this shell", here.display()));
        }
        let devices: [Option<(PathBuf, &str)>; 2] = [
            medium::config_device().map(|device| (device, medium::CONFIG_LABEL)),
            state.map(|device| (device.to_owned(), super::layout::STATE_LABEL)),
        ];
        for (device, name) in devices.into_iter().flatten() {
            if put(&device, &text).await.is_ok() {
                places.push(format!("{NAME} on {name}"));
                break;
            }
        }
        if !places.is_empty() {
            self.say(&format!("the log is kept: {}", places.join(", ")));
        }
    }
}

async fn put(device: &Path, text: &str) -> Result<(), DeviceError> {
    mounted(device, Path::new(WORK), "rw,nodev,noexec,nosuid", async |dir| {
        let path = dir.join(NAME);
        replace(&path, text.as_bytes(), 0o600).map_err(file(&path))
    })
    .await
}
