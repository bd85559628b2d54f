//! Servers on the build host's loopback that a whole machine reaches: files by HTTPS, with a CA of their own, and a
//! collector of events.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::host::{self, run, spawn_detached};
use crate::httpd;
use crate::machine::{SERVER, free_port};

/// Files by HTTPS.
pub(crate) struct Server {
    pub(crate) directory: PathBuf,
    /// The CA's certificate, PEM.
    pub(crate) ca: PathBuf,
    pub(crate) tls_port: u16,
    socat: i32,
}

impl Server {
    /// Serves `dir/files` under the name that machines know it by.
    pub(crate) fn start(dir: &Path) -> Result<Server> {
        let directory = dir.join("files");
        std::fs::create_dir_all(&directory)?;
        let (ca, pair) = certificates(dir)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (plain_port, tls_port) = (listener.local_addr()?.port(), free_port()?);
        let served = directory.clone();
        std::thread::spawn(move || httpd::accept(&listener, &served));
        let listen =
            format!("OPENSSL-LISTEN:{tls_port},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={}", pair.display());
        let socat =
            spawn_detached(&["socat", &listen, &format!("TCP4:127.0.0.1:{plain_port}")], &[], &dir.join("socat.log"))?;
        let server = Server { directory, ca, tls_port, socat };
        host::until("the HTTPS server", Duration::from_secs(10), || {
            TcpStream::connect(("127.0.0.1", tls_port)).map(|_| ()).context("it does not listen")
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        host::kill(self.socat, libc::SIGTERM);
    }
}

/// A CA, and one file with the server's certificate and key.
fn certificates(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let path = |name: &str| dir.join(name).display().to_string();
    let new =
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let (ca, ca_key, leaf, leaf_key) = (path("ca.pem"), path("ca.key"), path("leaf.pem"), path("leaf.key"));
    run(&[&new[..], &["-subj", "/CN=ca", "-keyout", &ca_key, "-out", &ca]].concat())?;
    let name = format!("subjectAltName=IP:{SERVER}");
    let of_ca = ["-CA", &ca, "-CAkey", &ca_key, "-addext", &name, "-addext", "basicConstraints=critical,CA:FALSE"];
    run(&[&new[..], &of_ca, &["-subj", "/CN=server", "-keyout", &leaf_key, "-out", &leaf]].concat())?;
    let pair = dir.join("pair.pem");
    std::fs::write(&pair, std::fs::read_to_string(leaf)? + &std::fs::read_to_string(leaf_key)?)?;
    Ok((PathBuf::from(ca), pair))
}

/// Takes the events of an installation.
pub(crate) struct Collector {
    pub(crate) port: u16,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    /// Listens on the loopback.
    pub(crate) fn start() -> Result<Collector> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let collector = Collector { port: listener.local_addr()?.port(), bodies: Arc::default() };
        let bodies = Arc::clone(&collector.bodies);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let bodies = Arc::clone(&bodies);
                std::thread::spawn(move || {
                    // A connection that ends is of no interest.
                    let _ = collect(&client, &bodies);
                });
            }
        });
        Ok(collector)
    }

    /// What has come: `started`, `step system`, ...
    pub(crate) fn told(&self) -> Result<Vec<String>> {
        let bodies = self.bodies.lock().map_err(|_| anyhow!("the collector panicked"))?;
        let told = bodies.iter().map(|body| {
            let event: serde_json::Value = serde_json::from_str(body).with_context(|| format!("`{body}`"))?;
            let step = event["step"].as_str().map(|step| format!(" {step}")).unwrap_or_default();
            Ok(event["event"].as_str().unwrap_or("").to_owned() + &step)
        });
        told.collect()
    }
}

fn collect(client: &TcpStream, bodies: &Mutex<Vec<String>>) -> Result<()> {
    let mut reader = BufReader::new(client);
    loop {
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && !line.trim().is_empty() {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            line.clear();
        }
        if length == 0 {
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        bodies.lock().map_err(|_| anyhow!("poisoned"))?.push(String::from_utf8_lossy(&body).into_owned());
        let mut answer = client;
        answer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
}
