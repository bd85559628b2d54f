//! A person at a machine's serial console, or at a program in a box: a terminal of 80 columns and 24 lines (tmux), whose screen is read and whose
//! keys are pressed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::host::run;

/// The terminal, on a tmux server of its own.
pub(crate) struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Opens the console behind a Unix socket. `dir` takes tmux's own socket.
    pub(crate) fn open(console: &Path, dir: &Path) -> Result<Terminal> {
        Terminal::run(&format!("socat -,raw,echo=0 UNIX-CONNECT:{}", console.display()), dir)
    }

    /// Runs a command, as a shell line, on a terminal of its own.
    pub(crate) fn run(command: &str, dir: &Path) -> Result<Terminal> {
        // A terminal may be opened before the one that it follows is closed.
        static OPENED: AtomicU32 = AtomicU32::new(0);
        let name = format!("tmux-{}.sock", OPENED.fetch_add(1, Ordering::Relaxed));
        let terminal = Terminal { socket: dir.join(name) };
        // Without tmux's own line the program has all 24.
        let plain = ["-f", "/dev/null", "set-option", "-g", "status", "off", ";"];
        terminal.tmux(&[&plain, ["new-session", "-d", "-x", "80", "-y", "24", command].as_slice()].concat())?;
        Ok(terminal)
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let socket = self.socket.display().to_string();
        run(&[&["tmux", "-S", &socket], args].concat())
    }

    /// What is on the screen.
    pub(crate) fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Presses keys by tmux's names, such as `Enter`, `Down`, `Escape`, `BSpace`.
    pub(crate) fn press(&self, keys: &[&str]) -> Result<()> {
        for key in keys {
            self.tmux(&["send-keys", key])?;
            // A serial line tells Escape from an arrow key by time.
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Types a text.
    pub(crate) fn type_text(&self, text: &str) -> Result<()> {
        // In pieces: the console's input holds a few hundred bytes.
        let letters: Vec<char> = text.chars().collect();
        for piece in letters.chunks(16) {
            let mut piece = String::from_iter(piece);
            if piece.ends_with(';') {
                // tmux would take it for the end of its own command.
                piece.insert(piece.len() - 1, '\\');
            }
            self.tmux(&["send-keys", "-l", "--", &piece])?;
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits until the screen shows a text.
    pub(crate) fn expect(&self, text: &str, seconds: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let screen = self.screen()?;
            if screen.contains(text) {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(seconds) {
                bail!("the screen does not show `{text}` after {seconds} s, but:\n{}", screen.trim_end());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}
