//! Streams between control, or a probe of this node, and ports of guests. Owns the conversations, their numbers and bounds; what a frame means is
//! `furrow_model::reach`'s affair. Refuses guests of other nodes and every address that is not the guest's own.
//!
//! ```text
//!  control ═(stream: bytes, or datagrams with their length)═> carry ─> Conversation ─(frames)─> tap ─> guest
//! ```

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::Extensions;
use furrow_api::channel::{Forward, ForwardProtocol, GuestAddress};
use furrow_api::datagrams::{self, Datagrams};
use furrow_model::reach::{Conversation, DATAGRAM_MAX_BYTES, FRAME_MAX_BYTES, NODE_PORTS, Peer, Stage, Transport};
use furrow_model::reasons::chain;
use futures::future::BoxFuture;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::guests::RunningGuests;
use super::links::{Frames, GuestLinks};
use super::operations::{OperationError, here};
use crate::guest::ports::Dial;

/// Conversations at once with one guest, and on this node; each keeps up to 128 KiB.
const MAX_OF_GUEST: usize = 64;
const MAX_CONVERSATIONS: usize = 256;
/// Those of the node's own probes, beyond that.
const MAX_PROBES: usize = 64;
/// A guest answers within this time or is not there; control waits 5 s for the stream.
const CONNECT: Duration = Duration::from_secs(4);
/// What control has sent reaches the guest in this time after control has gone.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes that are moved at once.
const CHUNK: usize = 16 << 10;
/// A conversation in which nothing is due is looked at this often.
const IDLE: Duration = Duration::from_secs(60);

/// Numbers of the node's side in use, by UID of the guest.
type InUse = Arc<Mutex<HashMap<String, BTreeSet<u16>>>>;

/// The conversations of this node.
pub(crate) struct Forwards {
    guests: Arc<dyn RunningGuests>,
    links: Arc<dyn GuestLinks>,
    stop: CancellationToken,
    in_use: InUse,
    /// Makes what no guest can guess.
    secret: RandomState,
}

/// A number in use; dropping it gives it back.
struct NodePort {
    in_use: InUse,
    uid: String,
    number: u16,
}

impl Drop for NodePort {
    fn drop(&mut self) {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(numbers) = in_use.get_mut(&self.uid) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                in_use.remove(&self.uid);
            }
        }
    }
}

/// A conversation that has begun.
pub(super) struct Begun {
    speaker: Speaker,
    protocol: ForwardProtocol,
    _port: NodePort,
}

impl Forwards {
    pub(crate) fn new(guests: Arc<dyn RunningGuests>, links: Arc<dyn GuestLinks>, stop: CancellationToken) -> Self {
        Self { guests, links, stop, in_use: InUse::default(), secret: RandomState::new() }
    }

    /// Reaches the guest's port.
    pub(super) async fn begin(&self, guest: &GuestAddress, forward: &Forward) -> Result<Begun, OperationError> {
        let key = here(self.guests.as_ref(), guest).await?;
        let port = self.number(&guest.uid, 0)?;
        let begun = Box::pin(self.reach(&guest.uid, forward, (port, CONNECT))).await?;
        tracing::info!(vm = %key, port = forward.port, protocol = forward.protocol.name(), "port forwarded");
        Ok(begun)
    }

    /// Reaches a port of a guest that is known to run here, within this time.
    async fn reach(
        &self,
        uid: &str,
        forward: &Forward,
        (port, limit): (NodePort, Duration),
    ) -> Result<Begun, OperationError> {
        let transport = match forward.protocol {
            ForwardProtocol::Tcp => Transport::Tcp,
            ForwardProtocol::Udp => Transport::Udp,
        };
        let link = self.links.open(uid, &forward.nic, (transport, port.number)).await;
        let link = link.map_err(OperationError::Link)?.ok_or_else(|| OperationError::NoNic(forward.nic.clone()))?;
        let address = address_of(forward.address, link.address)?;
        let peer = Peer { mac: link.mac, address, port: forward.port, mtu: link.mtu };
        let seed = self.secret.hash_one((uid, port.number, Instant::now()));
        let conversation = Conversation::begin(peer, transport, port.number, seed).map_err(OperationError::Reach)?;
        let mut speaker = Speaker::new(conversation, link.frames);
        let unanswered = |source| OperationError::Unanswered { address, port: forward.port, source };
        // Dropping it at the deadline leaves a guest with a half-open connection that it forgets.
        let connected = tokio::time::timeout(limit, speaker.connect()).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unanswered)?;
        Ok(Begun { speaker, protocol: forward.protocol, _port: port })
    }

    /// `more`: conversations beyond the usual bounds, for what must not fail since people have many.
    fn number(&self, uid: &str, more: usize) -> Result<NodePort, OperationError> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = in_use.values().map(BTreeSet::len).sum();
        let of_guest = in_use.get(uid).map_or(0, BTreeSet::len);
        if all >= MAX_CONVERSATIONS + more || of_guest >= MAX_OF_GUEST + more {
            return Err(OperationError::TooMany);
        }
        let numbers = in_use.entry(uid.to_owned()).or_default();
        // Anywhere, so that an agent that starts anew does not take up a conversation that the guest still remembers.
        let span = u64::from(NODE_PORTS.end() - NODE_PORTS.start()) + 1;
        let first = self.secret.hash_one(Instant::now()) % span;
        let free = (0..span).map(|step| *NODE_PORTS.start() + ((first + step) % span) as u16);
        let mut free = free.filter(|number| !numbers.contains(number));
        let number = free.next().ok_or(OperationError::TooMany)?;
        numbers.insert(number);
        Ok(NodePort { in_use: Arc::clone(&self.in_use), uid: uid.to_owned(), number })
    }

    /// Carries until one side ends. `extensions`: those of the request.
    pub(super) fn carry(&self, begun: Begun, extensions: &mut Extensions) -> Result<(), OperationError> {
        let upgrade = extensions.remove::<OnUpgrade>().ok_or(OperationError::NoUpgrade)?;
        let stop = self.stop.child_token();
        tokio::spawn(async move {
            let Begun { mut speaker, protocol, _port } = begun;
            let result = match upgrade.await {
                Ok(control) => speaker.carry(TokioIo::new(control), protocol, &stop).await,
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = result {
                tracing::debug!(error = chain(&error), "a forwarded port's stream broke");
            }
            speaker.end();
        });
        Ok(())
    }
}

impl Dial for Forwards {
    fn dial<'a>(
        &'a self,
        vmi_uid: &'a str,
        to: &'a Forward,
        limit: Duration,
    ) -> BoxFuture<'a, Result<DuplexStream, String>> {
        Box::pin(async move {
            let port = self.number(vmi_uid, MAX_PROBES).map_err(|error| chain(&error))?;
            let begun = self.reach(vmi_uid, to, (port, limit)).await.map_err(|error| chain(&error))?;
            let (near, far) = tokio::io::duplex(CHUNK);
            let stop = self.stop.child_token();
            tokio::spawn(async move {
                let Begun { mut speaker, protocol, _port } = begun;
                if let Err(error) = speaker.carry(far, protocol, &stop).await {
                    tracing::debug!(error = chain(&error), "the stream of a probe broke");
                }
                speaker.end();
            });
            Ok(near)
        })
    }
}

/// A managed address is the guest's, whatever its agent says.
fn address_of(asked: IpAddr, managed: Option<Ipv4Addr>) -> Result<Ipv4Addr, OperationError> {
    match (managed, asked) {
        (Some(managed), _) => Ok(managed),
        (None, IpAddr::V4(asked)) => Ok(asked),
        (None, IpAddr::V6(asked)) => Err(OperationError::NotIpv4(asked)),
    }
}

/// A conversation with its way to the guest.
struct Speaker {
    conversation: Conversation,
    frames: Box<dyn Frames>,
    begun: Instant,
    buffer: Vec<u8>,
}

impl Speaker {
    fn new(conversation: Conversation, frames: Box<dyn Frames>) -> Self {
        Self { conversation, frames, begun: Instant::now(), buffer: vec![0; FRAME_MAX_BYTES] }
    }

    /// Works through what there is and says when to come back.
    fn turn(&mut self) -> io::Result<Duration> {
        let wait = self.conversation.poll(self.begun.elapsed());
        while let Some(frame) = self.conversation.frame() {
            match self.frames.send(&frame) {
                // No room on the wire: it is sent again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                sent => sent?,
            }
        }
        Ok(wait.unwrap_or(IDLE).min(IDLE))
    }

    async fn connect(&mut self) -> io::Result<()> {
        loop {
            let wait = self.turn()?;
            match self.conversation.stage() {
                Stage::Open => return Ok(()),
                Stage::Connecting => {}
                Stage::Ended | Stage::Broken => return Err(io::ErrorKind::ConnectionRefused.into()),
            }
            if let Ok(received) = tokio::time::timeout(wait, self.frames.receive(&mut self.buffer)).await {
                self.conversation.take(&self.buffer[..received?]);
            }
        }
    }

    async fn carry(
        &mut self,
        control: impl AsyncRead + AsyncWrite,
        protocol: ForwardProtocol,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let (mut from_control, mut to_control) = tokio::io::split(control);
        let mut chunk = vec![0; CHUNK];
        let mut inward = Inward::new(protocol);
        let mut outward = Vec::new();
        let mut gone: Option<Instant> = None;
        loop {
            inward.give(&mut self.conversation);
            let mut wait = self.turn()?;
            if outward.is_empty() && self.fetch(protocol, &mut chunk, &mut outward) {
                // The guest learns that there is room again.
                wait = self.turn()?;
            }
            let over = outward.is_empty() && matches!(self.conversation.stage(), Stage::Ended | Stage::Broken);
            let said = gone.is_some_and(|at| self.conversation.is_flushed() || at.elapsed() > LINGER);
            if over || said {
                break;
            }
            let listens = gone.is_none() && inward.is_empty();
            // Every arm is safe to drop: a frame leaves the socket only when it is returned, and so do bytes read; what
            // was not written is written again.
            tokio::select! {
                () = stop.cancelled() => break,
                received = self.frames.receive(&mut self.buffer) => self.conversation.take(&self.buffer[..received?]),
                read = from_control.read(&mut chunk), if listens => match read? {
                    0 => {
                        self.conversation.finish();
                        gone = Some(Instant::now());
                        outward.clear();
                    }
                    read => inward.push(&chunk[..read]),
                },
                written = to_control.write(&outward), if !outward.is_empty() => drop(outward.drain(..written?)),
                () = tokio::time::sleep(wait.min(LINGER)) => {}
            }
        }
        // The bytes are out; the end of the stream need not be waited for long.
        tokio::time::timeout(LINGER, to_control.shutdown()).await.unwrap_or(Ok(()))
    }

    /// Takes what the guest has sent; whether there was any.
    fn fetch(&mut self, protocol: ForwardProtocol, chunk: &mut [u8], outward: &mut Vec<u8>) -> bool {
        match protocol {
            ForwardProtocol::Tcp => {
                if let Some(read) = self.conversation.read(chunk) {
                    outward.extend_from_slice(&chunk[..read]);
                }
            }
            ForwardProtocol::Udp => {
                // The frame in this buffer has been taken.
                while outward.len() < DATAGRAM_MAX_BYTES
                    && let Some(read) = self.conversation.read(&mut self.buffer)
                {
                    datagrams::put(&self.buffer[..read], outward);
                }
            }
        }
        !outward.is_empty()
    }

    /// The guest is told that it is over.
    fn end(&mut self) {
        self.conversation.finish();
        if !self.conversation.is_flushed() && self.conversation.stage() == Stage::Open {
            self.conversation.reset();
        }
        if let Err(error) = self.turn() {
            tracing::debug!(error = chain(&error), "the guest is not told that its port's stream ended");
        }
    }
}

/// What control has sent and the guest has not been given yet.
enum Inward {
    Bytes(Vec<u8>),
    Datagrams(Datagrams),
}

impl Inward {
    fn new(protocol: ForwardProtocol) -> Self {
        match protocol {
            ForwardProtocol::Tcp => Self::Bytes(Vec::new()),
            ForwardProtocol::Udp => Self::Datagrams(Datagrams::default()),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_empty(),
            // All whole ones are given at once.
            Self::Datagrams(_) => true,
        }
    }

    fn push(&mut self, read: &[u8]) {
        match self {
            Self::Bytes(bytes) => bytes.extend_from_slice(read),
            Self::Datagrams(datagrams) => datagrams.push(read),
        }
    }

    fn give(&mut self, conversation: &mut Conversation) {
        match self {
            Self::Bytes(bytes) => {
                if !bytes.is_empty() && conversation.is_writable() {
                    let taken = conversation.write(bytes);
                    bytes.drain(..taken);
                }
            }
            Self::Datagrams(datagrams) => {
                while let Some(datagram) = datagrams.take() {
                    conversation.write(datagram);
                }
            }
        }
    }
}
