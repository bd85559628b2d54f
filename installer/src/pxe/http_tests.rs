//! The way of a machine through the server, as iPXE would ask.

use std::sync::Mutex;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use tower::ServiceExt;

use super::super::source::BootImage;
use super::*;

struct Lab {
    _dir: tempfile::TempDir,
    server: Arc<Server>,
    said: Arc<Mutex<Vec<String>>>,
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().expect("a directory");
    let medium = dir.path().join("medium.iso");
    std::fs::write(&medium, b"the medium, and more").expect("written");
    let said = Arc::new(Mutex::new(Vec::new()));
    let log = said.clone();
    let image = BootImage {
        version: "0.1.0-test".into(),
        kernel: Bytes::from_static(b"kernel"),
        initrd: Bytes::from_static(b"initrd"),
        unattended: "roothash=1 furrow.unattended".into(),
        attended: "roothash=1 furrow.medium".into(),
    };
    let server = Server {
        hosts: Hosts::open(&dir.path().join("hosts")).expect("made"),
        source: Source { path: medium, bytes: 10, image },
        base: "http://10.0.0.1:8067".into(),
        words: "console=ttyS1".into(),
        loaders: dir.path().to_owned(),
        say: Arc::new(move |line: &str| log.lock().expect("said").push(line.to_owned())),
    };
    Lab { _dir: dir, server: Arc::new(server), said }
}

impl Lab {
    async fn get(&self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = routes(self.server.clone()).oneshot(request).await.expect("an answer");
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    fn only_host(&self) -> Host {
        self.server.hosts.list().expect("read").pop().expect("a machine")
    }

    fn approve(&self, subject: &str, config: Option<&str>) {
        let subject = subject.parse().expect("a subject");
        self.server.hosts.approve(&subject, config.map(str::to_owned), now()).expect("approved");
    }
}

const ASK: &str = "/boot?mac=52:54:00:00:00:01&uuid=4C4C&serial=S%201";

#[tokio::test]
async fn an_unknown_machine_gets_nothing_before_it_is_approved() {
    let lab = lab();
    let (status, script) = lab.get(ASK).await;
    let host = lab.only_host();
    assert_eq!(status, StatusCode::OK);
    assert!(script.contains(&format!("fingerprint {}\n", host.name)) && script.contains("serial S_1"), "{script}");
    for file in ["vmlinuz", "initrd", "medium", "node.yaml"] {
        assert_eq!(lab.get(&format!("/h/{}/{file}", host.token)).await.0, StatusCode::FORBIDDEN, "{file}");
    }
    let (_, script) = lab.get(&format!("/h/{}/wait?try=2", host.token)).await;
    assert!(script.contains("try 2 of"), "{script}");
    assert!(lab.said.lock().expect("said").iter().any(|line| line.contains(&host.name)));
}

#[tokio::test]
async fn an_approved_machine_gets_everything_and_its_configuration_once() {
    let lab = lab();
    lab.get(ASK).await;
    let host = lab.only_host();
    lab.approve(&host.name, Some("secret"));
    let (_, script) = lab.get(&format!("/h/{}/wait?try=2", host.token)).await;
    assert!(script.contains("vmlinuz roothash=1 furrow.unattended console=ttyS1 ||"), "{script}");
    for (file, content) in
        [("vmlinuz", "kernel"), ("initrd", "initrd"), ("medium", "the medium"), ("node.yaml", "secret")]
    {
        assert_eq!(lab.get(&format!("/h/{}/{file}", host.token)).await, (StatusCode::OK, content.to_owned()));
    }
    assert_eq!(lab.get(&format!("/h/{}/node.yaml", host.token)).await.0, StatusCode::FORBIDDEN);
    let (_, script) = lab.get(ASK).await;
    assert!(script.contains("exit 1"), "{script}");
    let said = lab.said.lock().expect("said").join("\n");
    assert!(said.contains("configuration sent") && !said.contains("secret") && !said.contains(&host.token), "{said}");
}

#[tokio::test]
async fn without_a_configuration_the_installer_asks_at_the_console() {
    let lab = lab();
    lab.approve("mac=52:54:00:00:00:01", None);
    let (_, script) = lab.get(ASK).await;
    assert!(script.contains("furrow.medium") && !script.contains("node.yaml"), "{script}");
    let token = lab.only_host().token;
    assert_eq!(lab.get(&format!("/h/{token}/node.yaml")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(lab.get(&format!("/h/{token}/medium")).await.1, "the medium");
    assert!(lab.get(ASK).await.1.contains("exit 1"));
}

#[tokio::test]
async fn nothing_else_is_served() {
    let lab = lab();
    for path in ["/", "/medium.iso", "/hosts", "/h/../hosts", "/h/unknown/medium", "/ipxe.efi/../medium.iso"] {
        assert_eq!(lab.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let (_, script) = lab.get("/h/unknown/wait").await;
    assert!(script.contains("/boot?mac="), "{script}");
}
