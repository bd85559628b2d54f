//! A listener on a host of the test LAN: which IPv4 source addresses arrive in its namespace.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::AsRawFd;

use crate::netns;

/// IPv4 source addresses of the frames (ARP included) that arrive in the namespace while `during` runs and for
/// `linger` after it.
pub(crate) fn sources<T>(
    namespace: &str,
    linger: Duration,
    during: impl FnOnce() -> Result<T>,
) -> Result<BTreeSet<Ipv4Addr>> {
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, wait_ready) = std::sync::mpsc::sync_channel::<()>(1);
    let listener = {
        let (stop, namespace) = (stop.clone(), namespace.to_owned());
        std::thread::spawn(move || listen(&namespace, &stop, &ready))
    };
    let _ = wait_ready.recv_timeout(Duration::from_secs(5));
    let result = during();
    let until = Instant::now() + linger;
    while Instant::now() < until && !listener.is_finished() {
        std::thread::sleep(Duration::from_millis(100));
    }
    stop.store(true, Ordering::Relaxed);
    let seen = listener.join().map_err(|_| anyhow!("the listener panicked"))??;
    // A ping that gets no answer exits with an error; what counts is what arrived.
    drop(result);
    Ok(seen)
}

fn listen(namespace: &str, stop: &AtomicBool, ready: &std::sync::mpsc::SyncSender<()>) -> Result<BTreeSet<Ipv4Addr>> {
    netns::enter(namespace)?;
    let protocol = nix::sys::socket::SockProtocol::EthAll;
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), protocol).context("packet socket")?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(200))?;
    let _ = ready.send(());
    let mut seen = BTreeSet::new();
    let mut frame = [0_u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok(n) = recv(fd.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
        if let Some(source) = source_of(&frame[..n]) {
            seen.insert(source);
        }
    }
    Ok(seen)
}

/// Sender of an IPv4 packet (RFC 791) or an ARP message (RFC 826) in an untagged Ethernet frame.
fn source_of(frame: &[u8]) -> Option<Ipv4Addr> {
    let at = match frame.get(12..14)? {
        [0x08, 0x00] => 26,
        [0x08, 0x06] => 28,
        _ => return None,
    };
    let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes))
}
