//! The forwarder: 127.0.0.1 on the build host to an address inside a namespace of the test LAN, byte for byte.
//!
//! Runs as a process of its own (`testbed forward`), so that `make run` can return. It knows nothing of what it carries.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns;

/// Accepts on `listen` and connects each client to `target` as seen from namespace `netns`. Never returns but on error.
pub(crate) fn serve(listen: SocketAddr, netns: &str, target: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("could not listen on {listen}"))?;
    for client in listener.incoming() {
        let client = client?;
        let netns = netns.to_owned();
        std::thread::spawn(move || {
            // A node that is down refuses or times out; the client sees its connection closed.
            if let Ok(server) = netns::connect(&netns, target, Duration::from_secs(5)) {
                let _ = splice(client, server);
            }
        });
    }
    Ok(())
}

fn splice(client: TcpStream, server: TcpStream) -> Result<()> {
    let (client_in, server_out) = (client.try_clone()?, server.try_clone()?);
    let upstream = std::thread::spawn(move || copy(client_in, server_out));
    copy(server, client);
    let _ = upstream.join();
    Ok(())
}

/// Copies until either side ends, then tells the other side so.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0_u8; 16 * 1024];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
