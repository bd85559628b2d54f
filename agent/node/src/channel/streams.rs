//! Streams of bytes between control and a guest's sockets: its console and its display, which QEMU keeps in the guest's
//! directory. A stream of a kind takes over from the one before, since QEMU serves one at a time. Refuses to look into what
//! it carries.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::Extensions;
use furrow_api::channel::{GuestAddress, GuestStream};
use furrow_model::domain::{CONSOLE_SOCKET, DISPLAY_SOCKET};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::guests::RunningGuests;
use super::operations::{OperationError, here};
use furrow_model::reasons::chain;

/// Streams at once: consoles of a full node, with room.
const MAX_STREAMS: usize = 1024;

/// A guest, by UID, and what of it.
type Of = (String, GuestStream);

/// The streams there are.
pub(super) struct Streams {
    guests: Arc<dyn RunningGuests>,
    guests_dir: PathBuf,
    stop: CancellationToken,
    open: Mutex<HashMap<Of, CancellationToken>>,
}

/// A stream that can begin.
pub(super) struct Begun {
    of: Of,
    socket: UnixStream,
    token: CancellationToken,
}

impl Streams {
    pub(super) fn new(guests: Arc<dyn RunningGuests>, guests_dir: PathBuf, stop: CancellationToken) -> Self {
        Self { guests, guests_dir, stop, open: Mutex::default() }
    }

    /// Connects to the guest; ends the stream there is, or with `preserve` refuses.
    pub(super) async fn begin(
        &self,
        guest: &GuestAddress,
        stream: GuestStream,
        preserve: bool,
    ) -> Result<Begun, OperationError> {
        let key = here(self.guests.as_ref(), guest).await?;
        let of = (guest.uid.clone(), stream);
        let token = self.register(&of, preserve)?;
        let file = match stream {
            GuestStream::Console => CONSOLE_SOCKET,
            GuestStream::Vnc => DISPLAY_SOCKET,
        };
        // The UID is that of a running domain, which this node has made.
        match UnixStream::connect(self.guests_dir.join(&guest.uid).join(file)).await {
            Ok(socket) => {
                tracing::info!(vm = %key, stream = stream.name(), "stream begins");
                Ok(Begun { of, socket, token })
            }
            Err(error) => {
                self.ended(&of, &token);
                Err(OperationError::Socket(error))
            }
        }
    }

    fn register(&self, of: &Of, preserve: bool) -> Result<CancellationToken, OperationError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if preserve && open.contains_key(of) {
            return Err(OperationError::Busy);
        }
        if open.len() >= MAX_STREAMS {
            return Err(OperationError::TooMany);
        }
        let token = self.stop.child_token();
        if let Some(old) = open.insert(of.clone(), token.clone()) {
            old.cancel();
        }
        Ok(token)
    }

    /// Forgets a stream, unless another took over; taking over has cancelled it.
    fn ended(&self, of: &Of, token: &CancellationToken) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !token.is_cancelled() {
            open.remove(of);
        }
    }

    /// Carries bytes until one side ends, or another stream takes over. `extensions`: those of the request.
    pub(super) fn carry(self: &Arc<Self>, begun: Begun, extensions: &mut Extensions) -> Result<(), OperationError> {
        let Some(upgrade) = extensions.remove::<OnUpgrade>() else {
            self.ended(&begun.of, &begun.token);
            return Err(OperationError::NoUpgrade);
        };
        let Begun { of, mut socket, token } = begun;
        let streams = Arc::clone(self);
        tokio::spawn(async move {
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
                () = token.cancelled() => Ok(0),
                result = carried => result,
            };
            if let Err(error) = result {
                tracing::debug!(uid = of.0, stream = of.1.name(), error = chain(&error), "stream broke");
            }
            streams.ended(&of, &token);
        });
        Ok(())
    }
}
