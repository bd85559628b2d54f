//! Network namespaces that the testbed made: run code in one, on a thread of its own.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

/// Runs `work` on a new thread that has entered the namespace; the calling thread stays where it is.
pub(crate) fn inside<T: Send + 'static>(name: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let name = name.to_owned();
    std::thread::spawn(move || {
        enter(&name)?;
        work()
    })
    .join()
    .map_err(|_| anyhow!("the thread in the namespace panicked"))?
}

/// Moves the calling thread into the namespace for good.
pub(crate) fn enter(name: &str) -> Result<()> {
    let path = format!("/run/netns/{name}");
    let file = File::open(&path).with_context(|| format!("no network namespace {path}"))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("could not enter {path}"))
}

/// Opens a TCP connection from within the namespace. A socket stays in the namespace it was made in.
pub(crate) fn connect(name: &str, address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    inside(name, move || {
        TcpStream::connect_timeout(&address, timeout).with_context(|| format!("could not connect to {address}"))
    })
}
