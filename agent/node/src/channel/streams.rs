//! Streams of bytes between control and a guest's sockets, which QEMU keeps in the guest's directory: its console, its
//! display, and USB devices that clients lend it. QEMU serves one client a socket at a time. So a console or a display
//! takes over from the one before; a USB device gets a socket that has no stream, or is refused: whoever uses one must not
//! lose it to somebody else's. Refuses to look into what it carries.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::Extensions;
use furrow_api::channel::{GuestAddress, GuestStream};
use furrow_model::domain::{CONSOLE_SOCKET, DISPLAY_SOCKET, USB_REDIRECTIONS, usb_redirection_socket};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::guests::RunningGuests;
use super::operations::{OperationError, here};
use furrow_model::reasons::chain;

/// Streams at once: consoles of a full node, with room.
const MAX_STREAMS: usize = 1024;

/// What a stream is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Of {
    /// UID of the guest.
    uid: String,
    stream: GuestStream,
    /// Which of several sockets; 0 where there is one.
    slot: u8,
}

impl Of {
    /// The socket, in the guest's directory.
    fn file(&self) -> String {
        match self.stream {
            GuestStream::Console => CONSOLE_SOCKET.to_owned(),
            GuestStream::Vnc => DISPLAY_SOCKET.to_owned(),
            GuestStream::UsbRedirection => usb_redirection_socket(self.slot),
        }
    }
}

/// The streams there are.
pub(super) struct Streams {
    guests: Arc<dyn RunningGuests>,
    guests_dir: PathBuf,
    stop: CancellationToken,
    open: Mutex<HashMap<Of, CancellationToken>>,
}

/// The place of a stream among those there are. It is given back when this is dropped: also when whoever asked for the
/// stream leaves before it begins, or a USB port would be taken for as long as the agent runs.
struct Place {
    streams: Arc<Streams>,
    of: Of,
    token: CancellationToken,
}

impl Drop for Place {
    /// Forgets the stream, unless another took over; taking over has cancelled it.
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.token.is_cancelled() {
            open.remove(&self.of);
        }
    }
}

/// A stream that can begin. QEMU sees its client leave before the place is free, hence the order.
pub(super) struct Begun {
    socket: UnixStream,
    place: Place,
}

impl Streams {
    pub(super) fn new(guests: Arc<dyn RunningGuests>, guests_dir: PathBuf, stop: CancellationToken) -> Self {
        Self { guests, guests_dir, stop, open: Mutex::default() }
    }

    /// Connects to the guest. Ends the stream there is, or with `preserve` refuses; one of a USB device ends none, and is
    /// refused when there is no socket left for it.
    pub(super) async fn begin(
        self: &Arc<Self>,
        guest: &GuestAddress,
        stream: GuestStream,
        preserve: bool,
    ) -> Result<Begun, OperationError> {
        let key = here(self.guests.as_ref(), guest).await?;
        let place = self.register(&guest.uid, stream, preserve)?;
        // The UID is that of a running domain, which this node has made.
        let path = self.guests_dir.join(&guest.uid).join(place.of.file());
        let socket = UnixStream::connect(path).await.map_err(OperationError::Socket)?;
        tracing::info!(vm = %key, stream = stream.name(), slot = place.of.slot, "stream begins");
        Ok(Begun { socket, place })
    }

    /// Takes a place: the first that is free, or the only one there is.
    fn register(self: &Arc<Self>, uid: &str, stream: GuestStream, preserve: bool) -> Result<Place, OperationError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |slot| Of { uid: uid.to_owned(), stream, slot };
        let of = if stream == GuestStream::UsbRedirection {
            let free = (0..USB_REDIRECTIONS).map(of).find(|of| !open.contains_key(of));
            free.ok_or(OperationError::NoUsbPort(USB_REDIRECTIONS))?
        } else {
            of(0)
        };
        if preserve && open.contains_key(&of) {
            return Err(OperationError::Busy);
        }
        if open.len() >= MAX_STREAMS {
            return Err(OperationError::TooMany);
        }
        let token = self.stop.child_token();
        if let Some(old) = open.insert(of.clone(), token.clone()) {
            old.cancel();
        }
        Ok(Place { streams: Arc::clone(self), of, token })
    }

    /// Carries bytes until one side ends, or another stream takes over. `extensions`: those of the request.
    pub(super) fn carry(begun: Begun, extensions: &mut Extensions) -> Result<(), OperationError> {
        let upgrade = extensions.remove::<OnUpgrade>().ok_or(OperationError::NoUpgrade)?;
        tokio::spawn(async move {
            let Begun { mut socket, place } = begun;
            let carried = async {
                let control = upgrade.await.map_err(std::io::Error::other)?;
                let (mut from_control, mut to_control) = tokio::io::split(TokioIo::new(control));
                let (mut from_guest, mut to_guest) = socket.split();
                // Safe to cancel: when one direction has ended the other has nobody to speak to.
                tokio::select! {
                    copied = tokio::io::copy(&mut from_control, &mut to_guest) => copied,
                    copied = tokio::io::copy(&mut from_guest, &mut to_control) => copied,
                }
            };
            // Safe to cancel: whoever cancels wants the stream to end.
            let result = tokio::select! {
                () = place.token.cancelled() => Ok(0),
                result = carried => result,
            };
            if let Err(error) = result {
                let (uid, stream) = (&place.of.uid, place.of.stream.name());
                tracing::debug!(uid, stream, error = chain(&error), "stream broke");
            }
            drop(socket);
            drop(place);
        });
        Ok(())
    }
}
