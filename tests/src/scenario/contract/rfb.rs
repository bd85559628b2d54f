//! As much of the RFB protocol (RFC 6143) as shows that there is a display: the handshake without a password, and whole
//! screens in raw pixels. Bytes come from a WebSocket whose frames mean nothing to the protocol.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::websocket::{Received, WebSocket};

/// The only version that is spoken.
const VERSION: &[u8; 12] = b"RFB 003.008\n";

/// Security type: none.
const NO_SECURITY: u8 = 1;

/// An answer of the display's server takes no longer, on two busy cores.
const ANSWER: Duration = Duration::from_secs(30);

/// A pixel on a line of the screen is told apart from others by its bytes; there are never more of interest.
const COLOURS_MAX: usize = 16;

/// A display that has been greeted.
pub(super) struct Display {
    stream: WebSocket,
    inbox: VecDeque<u8>,
    /// Width and height, pixels.
    pub(super) size: (u16, u16),
    /// Bytes of a pixel.
    pixel: usize,
    /// What the server calls it.
    pub(super) name: String,
}

impl Display {
    /// Greets the server at the other end.
    pub(super) fn greet(stream: WebSocket) -> Result<Display> {
        let mut display = Display { stream, inbox: VecDeque::new(), size: (0, 0), pixel: 0, name: String::new() };
        let version = display.take(12).context("its version")?;
        ensure!(version == VERSION, "it greets with {:?}", String::from_utf8_lossy(&version));
        display.stream.send(VERSION)?;
        let count = usize::from(display.take(1).context("its security types")?[0]);
        let kinds = display.take(count)?;
        ensure!(kinds.contains(&NO_SECURITY), "its security types are {kinds:?}");
        display.stream.send(&[NO_SECURITY])?;
        let result = display.take(4).context("its security result")?;
        ensure!(result == [0; 4], "its security result is {result:?}");
        // Others may look on.
        display.stream.send(&[1])?;
        let init = display.take(24).context("its ServerInit")?;
        let number = |at: usize| u16::from_be_bytes([init[at], init[at + 1]]);
        display.size = (number(0), number(2));
        ensure!(display.size.0 > 0 && display.size.1 > 0, "its size is {:?}", display.size);
        display.pixel = usize::from(init[4]) / 8;
        ensure!([1, 2, 4].contains(&display.pixel), "its pixels have {} bits", init[4]);
        let length = u32::from_be_bytes([init[20], init[21], init[22], init[23]]);
        ensure!(length < 4096, "its name has {length} bytes");
        let name = display.take(length as usize)?;
        display.name = String::from_utf8_lossy(&name).into_owned();
        // SetEncodings: raw alone.
        display.stream.send(&[2, 0, 0, 1, 0, 0, 0, 0])?;
        Ok(display)
    }

    /// The stream below, for its end.
    pub(super) fn stream(&mut self) -> &mut WebSocket {
        &mut self.stream
    }

    /// How many colours are on the screen now; counts no further than a few.
    pub(super) fn colours(&mut self) -> Result<usize> {
        let ((width, height), mut colours) = (self.size, BTreeSet::new());
        let request = [&[3, 0, 0, 0, 0, 0][..], &width.to_be_bytes(), &height.to_be_bytes()].concat();
        self.stream.send(&request)?;
        let mut missing = usize::from(width) * usize::from(height);
        while missing > 0 {
            match self.take(1).context("its update")?[0] {
                0 => {
                    let head = self.take(3)?;
                    for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
                        missing = missing.saturating_sub(self.rectangle(&mut colours)?);
                    }
                }
                // A bell; a text of its clipboard.
                2 => {}
                3 => {
                    let head = self.take(7)?;
                    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
                    ensure!(length < 1 << 20, "a clipboard of {length} bytes");
                    self.take(length as usize)?;
                }
                other => bail!("a message of kind {other}"),
            }
        }
        Ok(colours.len())
    }

    /// Reads a rectangle and returns its pixels' number.
    fn rectangle(&mut self, colours: &mut BTreeSet<Vec<u8>>) -> Result<usize> {
        let head = self.take(12)?;
        let number = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
        let (width, height) = (number(4), number(6));
        let encoding = i32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        ensure!(encoding == 0, "a rectangle of encoding {encoding}");
        let pixels = width * height;
        ensure!(pixels <= 1 << 24, "a rectangle of {width} x {height}");
        for pixel in self.take(pixels * self.pixel)?.chunks(self.pixel) {
            if colours.len() < COLOURS_MAX && !colours.contains(pixel) {
                colours.insert(pixel.to_vec());
            }
        }
        Ok(pixels)
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        let deadline = Instant::now() + ANSWER;
        while self.inbox.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stream.receive(left)? {
                Received::Bytes(bytes) => self.inbox.extend(bytes),
                Received::Pong(_) => {}
                other => bail!("{} of {count} bytes came, then {other:?}", self.inbox.len()),
            }
        }
        Ok(self.inbox.drain(..count).collect())
    }
}
