//! Moves a guest's pointer by a pixel and back, so that a display that sleeps wakes up: a client of RFB (RFC 6143) that says
//! who it is, moves, and leaves. Refuses to look at pictures, and to send away whoever has the display.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// QEMU answers at once, or is busy with something that matters more.
const LIMIT: Duration = Duration::from_secs(2);

const VERSION: &[u8; 12] = b"RFB 003.008\n";
const NO_SECURITY: u8 = 1;
/// Others keep the display.
const SHARED: u8 = 1;
/// Message type, and no button pressed.
const POINTER_EVENT: [u8; 2] = [5, 0];
/// A name is not worth reading beyond it.
const NAME_MAX_BYTES: u32 = 4096;

/// Moves the pointer of the display behind a socket.
pub(super) async fn nudge(socket: &Path) -> io::Result<()> {
    // Dropping it at the deadline closes the connection, and QEMU forgets the client.
    tokio::time::timeout(LIMIT, moved(socket)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn moved(socket: &Path) -> io::Result<()> {
    let mut display = UnixStream::connect(socket).await?;
    let mut version = [0; VERSION.len()];
    display.read_exact(&mut version).await?;
    if !version.starts_with(b"RFB ") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    display.write_all(VERSION).await?;
    let mut kinds = vec![0; usize::from(display.read_u8().await?)];
    display.read_exact(&mut kinds).await?;
    if !kinds.contains(&NO_SECURITY) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    display.write_u8(NO_SECURITY).await?;
    if display.read_u32().await? != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    display.write_u8(SHARED).await?;
    let (width, height) = (display.read_u16().await?, display.read_u16().await?);
    let mut format = [0; 16];
    display.read_exact(&mut format).await?;
    let name = display.read_u32().await?.min(NAME_MAX_BYTES);
    tokio::io::copy(&mut (&mut display).take(name.into()), &mut tokio::io::sink()).await?;
    for (x, y) in [(width / 2, height / 2), (width / 2 + 1, height / 2), (width / 2, height / 2)] {
        let event = [&POINTER_EVENT[..], &x.to_be_bytes(), &y.to_be_bytes()].concat();
        display.write_all(&event).await?;
    }
    display.shutdown().await
}
