//! `kubectl proxy`: the way in for clients that speak plain HTTP on the loopback, as the field report's do. It brings the
//! administrator's certificate; whom else a request is for, its headers say (`Impersonate-User`).

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::http::{self, Answer, Request};
use crate::websocket::{self, Opened};

/// It says where it serves within this.
const START: Duration = Duration::from_secs(20);

/// The API server gives a request 60 s.
const CALL: Duration = Duration::from_secs(70);

/// A running `kubectl proxy`.
pub(crate) struct Proxy {
    kubectl: Child,
    address: SocketAddr,
}

impl Proxy {
    /// Starts one on a port that is free.
    pub(crate) fn start(cluster: &Cluster) -> Result<Proxy> {
        let words = cluster.command();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["proxy", "--port=0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut kubectl = command.spawn().context("kubectl proxy")?;
        let lines = BufReader::new(kubectl.stdout.take().context("stdout")?).lines();
        let (told, tell) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            // Reads on, so that it never writes into a closed pipe.
            for line in lines.map_while(std::result::Result::ok) {
                let address = line.strip_prefix("Starting to serve on ").and_then(|text| text.trim().parse().ok());
                if let Some(address) = address {
                    let _ = told.try_send(address);
                }
            }
        });
        match tell.recv_timeout(START) {
            Ok(address) => Ok(Proxy { kubectl, address }),
            Err(error) => {
                let _ = kubectl.kill();
                let _ = kubectl.wait();
                Err(error).context("kubectl proxy did not say where it serves")
            }
        }
    }

    /// Where it serves.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request.
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        self.send(&Request { method, path, body: body.as_bytes(), ..Request::default() })
    }

    /// Sends a request with headers of its own.
    pub(crate) fn send(&self, request: &Request<'_>) -> Result<Answer> {
        http::call(self.address, request, CALL)
    }

    /// Opens a WebSocket, offering a subprotocol or none.
    pub(crate) fn open(&self, path: &str, protocol: Option<&str>) -> Result<Opened> {
        websocket::open(self.address, path, protocol)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
