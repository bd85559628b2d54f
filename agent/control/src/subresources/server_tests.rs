//! The whole server over TLS: an API server in memory, an agent on a socket, and clients with right, wrong and no
//! certificates. What a test asserts is what a client is told and what was written.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use kube::Client;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Settings, reach, start};
use crate::cluster::Cluster;
use crate::events::Events;
use crate::server::Server;

pub(super) const SERVER_NAME: &str = "furrow-control.furrow-system.svc";

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(super) struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap())
    }
}

/// A CA.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(), pem }
    }

    fn client(&self, name: &str, group: Option<&str>) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    fn server(&self, name: &str) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }
}

/// What the API server has been asked and told.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) reviews: Vec<Value>,
    pub(super) patches: Vec<(String, Value)>,
}

/// The API server: one virtual machine, its guest, one node; jane may do everything, others nothing.
#[derive(Clone)]
struct World {
    seen: Arc<Mutex<Seen>>,
    trust: Value,
}

fn vm() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "web", "namespace": "shop", "uid": "v-1", "resourceVersion": "7"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}})
}

fn vmi() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "lone", "namespace": "shop", "uid": "u-1", "resourceVersion": "8"},
        "spec": {"domain": {"devices": {"clientPassthrough": {}}}},
        "status": {"phase": "Running", "nodeName": "n1", "interfaces": [{"name": "lan", "ipAddress": "192.168.10.7"}],
            "conditions": [{"type": "AgentConnected", "status": "True"}]}})
}

fn json_answer(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string())).unwrap()
}

impl World {
    async fn serve(self, request: Request<kube::client::Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        if query.contains("watch=true") || query.contains("watch=1") {
            // Nothing changes.
            let nothing = futures::stream::pending::<Result<Bytes, Infallible>>();
            return Response::new(Body::from_stream(nothing));
        }
        if head.method == "PATCH" {
            self.seen.lock().unwrap().patches.push((path.to_owned(), body));
            let of_guest = path.contains("/virtualmachineinstances/");
            return json_answer(200, &if of_guest { vmi() } else { vm() });
        }
        match path {
            "/api/v1/namespaces/kube-system/configmaps" => {
                let map = json!({"metadata": {"name": "extension-apiserver-authentication"}, "data": self.trust});
                let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "1"},
                    "items": [map]});
                json_answer(200, &list)
            }
            "/apis/authorization.k8s.io/v1/subjectaccessreviews" => {
                let allowed = body["spec"]["user"] == "jane";
                self.seen.lock().unwrap().reviews.push(body["spec"].clone());
                let mut answer = body;
                answer["status"] =
                    json!({"allowed": allowed, "reason": if allowed { "" } else { "joe is nobody here" }});
                json_answer(201, &answer)
            }
            "/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstancemigrations" if head.method == "POST" => {
                self.seen.lock().unwrap().patches.push((head.uri.to_string(), body.clone()));
                json_answer(201, &body)
            }
            "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines/web" => json_answer(200, &vm()),
            "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines/lone" => {
                let mut vm = vm();
                vm["metadata"]["name"] = json!("lone");
                json_answer(200, &vm)
            }
            "/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstances/lone" => json_answer(200, &vmi()),
            "/api/v1/nodes/n1" => json_answer(
                200,
                &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
                    "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}}),
            ),
            _ => json_answer(
                404,
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                    "message": "not here", "metadata": {}}),
            ),
        }
    }
}

/// USB devices that the agent's guest is lent, ever.
const SLOTS: usize = 2;

/// An agent that answers everything, to whoever has a certificate of the clients' CA.
async fn agent(pair: &Pair, clients: &Authority, calls: Arc<Mutex<Vec<String>>>) -> (Server, SocketAddr) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = Arc::new(clients.roots());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().unwrap();
    let (chain, key) = pair.der();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let config = axum_server::tls_rustls::RustlsConfig::from_config(Arc::new(config));
    let router = axum::Router::new().fallback(move |mut request: axum::extract::Request| async move {
        let path = request.uri().path().to_owned();
        if path.contains("/portforward/23/") {
            return (StatusCode::BAD_GATEWAY, r#"{"message": "could not reach it: connection refused"}"#)
                .into_response();
        }
        let stream = ["/console", "/vnc", "/usbredir"].iter().any(|name| path.ends_with(name));
        if stream || path.contains("/portforward/") {
            calls.lock().unwrap().push(request.uri().to_string());
            if calls.lock().unwrap().iter().filter(|call| call.ends_with("/usbredir")).count() > SLOTS {
                return (StatusCode::SERVICE_UNAVAILABLE, r#"{"message": "all are taken"}"#).into_response();
            }
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                // A guest that repeats what it is told, until it is told to end.
                let mut guest = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 64 << 10];
                while let Ok(read) = guest.read(&mut buffer).await {
                    if read == 0 || buffer[..read].ends_with(b"bye") || guest.write_all(&buffer[..read]).await.is_err()
                    {
                        return;
                    }
                }
            });
            let headers = [("connection", "upgrade"), ("upgrade", "furrow-stream")];
            return (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        }
        let line = format!("{} {}", request.method(), request.uri().path());
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        calls.lock().unwrap().push(format!("{line} {}", String::from_utf8_lossy(&body)));
        if line.ends_with("/reset") {
            return (StatusCode::CONFLICT, r#"{"message": "not now"}"#).into_response();
        }
        (StatusCode::OK, r#"{"hostname": "lone"}"#).into_response()
    });
    let server = axum_server::from_tcp_rustls(listener, config).unwrap();
    let server = crate::server::run(server, router).await.unwrap();
    let address = server.address().await;
    (server, address)
}

pub(super) type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

pub(super) struct Bench {
    pub(super) server: Server,
    address: SocketAddr,
    serving: Authority,
    proxy: Authority,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) calls: Arc<Mutex<Vec<String>>>,
    _agent: Server,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// `agent_name`: the user that the agent's certificate is for.
    pub(super) async fn new(agent_name: &str) -> Self {
        let (serving, proxy, clients) = (Authority::new("serving"), Authority::new("proxy"), Authority::new("clients"));
        let dir = tempfile::tempdir().unwrap();
        let pair = serving.server(SERVER_NAME);
        std::fs::write(dir.path().join("serving.crt"), &pair.certificate).unwrap();
        std::fs::write(dir.path().join("serving.key"), &pair.key).unwrap();
        let own = clients.client("furrow:control", Some("furrow:controls"));
        let user = json!({"client-certificate-data": BASE64_STANDARD.encode(&own.certificate),
            "client-key-data": BASE64_STANDARD.encode(&own.key)});
        let kubeconfig = dir.path().join("kubeconfig");
        let document = json!({"apiVersion": "v1", "kind": "Config", "users": [{"name": "control", "user": user}]});
        std::fs::write(&kubeconfig, document.to_string()).unwrap();
        let trust = json!({
            "client-ca-file": clients.pem, "requestheader-client-ca-file": proxy.pem,
            "requestheader-allowed-names": "[\"system:auth-proxy\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        });
        let world = World { seen: Arc::default(), trust };
        let seen = Arc::clone(&world.seen);
        let service = tower::service_fn(move |request| {
            let world = world.clone();
            async move { Ok::<_, Infallible>(world.serve(request).await) }
        });
        let client = Client::new(service, "default");
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let agent_pair = clients.client(agent_name, Some("furrow:agents"));
        let (agent, agent_address) = agent(&agent_pair, &clients, Arc::clone(&calls)).await;
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            pki: dir.path(),
            kubeconfig: &kubeconfig,
            agent_port: agent_address.port(),
        };
        let reach = reach(&settings, client.clone()).unwrap();
        let cluster = Cluster::start(client.clone(), Events::start(client, "test"));
        let server = start(&settings, cluster, &reach).await.unwrap();
        let address = server.address().await;
        let bench = Self { server, address, serving, proxy, seen, calls, _agent: agent, _dir: dir };
        bench.until_trusting().await;
        bench
    }

    pub(super) fn api_server(&self) -> Pair {
        self.proxy.client("system:auth-proxy", None)
    }

    async fn until_trusting(&self) {
        for _ in 0..200 {
            if self.call(Some(&self.api_server()), "jane", ("GET", "/apis"), "").await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server knows no certificate after 4 s");
    }

    /// A connection.
    pub(super) async fn connect(
        &self,
        pair: Option<&Pair>,
    ) -> Result<Sender, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.serving.roots());
        let config = match pair.map(Pair::der) {
            Some((chain, key)) => config.with_client_auth_cert(chain, key)?,
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await?;
        let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(SERVER_NAME)?, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// One request on a connection of its own.
    async fn call(
        &self,
        pair: Option<&Pair>,
        user: &str,
        (method, path): (&str, &str),
        body: &str,
    ) -> Result<(u16, String), Box<dyn std::error::Error + Send + Sync>> {
        let mut sender = self.connect(pair).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", SERVER_NAME)
            .header("x-remote-user", user)
            .header("x-remote-group", "system:authenticated")
            .body(Full::new(Bytes::from(body.to_owned())))?;
        let answer = sender.send_request(request).await?;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }

    pub(super) async fn jane(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.call(Some(&self.api_server()), "jane", (method, path), body).await.unwrap()
    }
}

const BASE: &str = "/apis/subresources.kubevirt.io";

pub(super) fn on(resource: &str, name: &str, operation: &str) -> String {
    format!("{BASE}/v1/namespaces/shop/{resource}/{name}/{operation}")
}

pub(super) fn message(answer: &(u16, String)) -> (u16, String) {
    let status: Value = serde_json::from_str(&answer.1).unwrap_or_default();
    assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(answer.0)), "{answer:?}");
    (answer.0, status["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn everybody_sees_what_the_api_is_and_nobody_more_without_the_api_servers_certificate() {
    let bench = Bench::new("furrow:agent:n1").await;
    let start = on("virtualmachines", "web", "start");
    for path in
        ["/", "/apis", BASE, &format!("{BASE}/v1"), &format!("{BASE}/v1alpha3/version"), "/openapi/v2", "/openapi/v3"]
    {
        let (code, body) = bench.call(None, "", ("GET", path), "").await.unwrap();
        assert_eq!(code, 200, "{path}");
        assert!(serde_json::from_str::<Value>(&body).is_ok_and(|body| body.is_object()), "{path}: {body}");
    }
    let unauthenticated = (401, "request is not authenticated".to_owned());
    // Forged headers, without a certificate and with one of the right CA for another name.
    assert_eq!(bench.call(None, "jane", ("PUT", &start), "").await.unwrap(), unauthenticated);
    let other = bench.proxy.client("somebody", None);
    assert_eq!(bench.call(Some(&other), "jane", ("PUT", &start), "").await.unwrap(), unauthenticated);
    // A certificate of another CA ends the connection.
    let foreign = Authority::new("foreign").client("system:auth-proxy", None);
    assert!(bench.call(Some(&foreign), "jane", ("PUT", &start), "").await.is_err());
    assert!(bench.seen.lock().unwrap().reviews.is_empty() && bench.seen.lock().unwrap().patches.is_empty());
    bench.server.stop().await;
}

#[tokio::test]
async fn a_start_is_asked_about_once_and_written_once() {
    let bench = Bench::new("furrow:agent:n1").await;
    let start = on("virtualmachines", "web", "start");
    let joe = bench.call(Some(&bench.api_server()), "joe", ("PUT", &start), "").await.unwrap();
    assert_eq!(joe, (401, "joe is nobody here".to_owned()));
    assert!(bench.seen.lock().unwrap().patches.is_empty());
    assert_eq!(bench.jane("PUT", &start, "{}").await, (202, String::new()));
    let seen = std::mem::take(&mut *bench.seen.lock().unwrap());
    assert_eq!(seen.reviews.len(), 2);
    let asked = &seen.reviews[1]["resourceAttributes"];
    assert_eq!(
        (&asked["resource"], &asked["subresource"], &asked["verb"]),
        (&json!("virtualmachines"), &json!("start"), &json!("update"))
    );
    let patch = json!({"metadata": {"resourceVersion": "7", "uid": "v-1"}, "spec": {"runStrategy": "Always"}});
    assert_eq!(seen.patches, [("/apis/kubevirt.io/v1/namespaces/shop/virtualmachines/web".to_owned(), patch)]);

    let told = message(&bench.jane("PUT", &on("virtualmachines", "web", "stop"), "").await);
    let expected = "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"web\": VM is not running";
    assert_eq!(told, (409, expected.to_owned()));
    let told = message(&bench.jane("PUT", &on("virtualmachines", "nobody", "start"), "").await);
    assert_eq!(told, (404, "virtualmachine.kubevirt.io \"nobody\" not found".to_owned()));
    let told = message(&bench.jane("GET", &start, "").await);
    assert_eq!(told.0, 405);
    let told = message(&bench.jane("PUT", &start, "{").await);
    assert_eq!(told.0, 400);
    let told = message(&bench.jane("PUT", &start, &"x".repeat(4 << 20)).await);
    assert_eq!(told.0, 413);
    let told = message(&bench.jane("PUT", &on("virtualmachines", "web", "memorydump"), "").await);
    assert_eq!(told, (501, "virtualmachines/memorydump is not supported yet".to_owned()));
    let told = message(&bench.jane("PUT", &on("virtualmachines", "web", "fly"), "").await);
    assert_eq!(told.0, 404);
    let (code, vm) = bench.jane("GET", &on("virtualmachines", "web", "expand-spec"), "").await;
    assert_eq!((code, &serde_json::from_str::<Value>(&vm).unwrap()["spec"]["runStrategy"]), (200, &json!("Halted")));
    bench.server.stop().await;
}

#[tokio::test]
async fn what_only_a_node_can_do_is_done_by_its_agent() {
    let bench = Bench::new("furrow:agent:n1").await;
    let of = |operation: &str| on("virtualmachineinstances", "lone", operation);
    assert_eq!(bench.jane("PUT", &of("pause"), r#"{"dryRun":["All"]}"#).await, (200, String::new()));
    assert!(bench.calls.lock().unwrap().is_empty(), "a dry run asks nobody");
    assert_eq!(bench.jane("PUT", &of("pause"), "").await, (200, String::new()));
    assert_eq!(bench.jane("PUT", &of("freeze"), r#"{"unfreezeTimeout":"5m0s"}"#).await.0, 200);
    assert_eq!(bench.jane("GET", &of("guestosinfo"), "").await, (200, r#"{"hostname": "lone"}"#.to_owned()));
    let told = message(&bench.jane("PUT", &of("reset"), "").await);
    let expected = "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"lone\": not now";
    assert_eq!(told, (409, expected.to_owned()));
    let expected = [
        "PUT /v1/guests/shop/lone/u-1/pause ",
        r#"PUT /v1/guests/shop/lone/u-1/freeze {"thawAfterMs":300000}"#,
        "GET /v1/guests/shop/lone/u-1/guestosinfo ",
        "PUT /v1/guests/shop/lone/u-1/reset ",
    ];
    assert_eq!(*bench.calls.lock().unwrap(), expected);
    let told = message(&bench.jane("PUT", &of("unpause"), "").await);
    assert_eq!(told.0, 409, "it is not paused");
    bench.server.stop().await;
}

#[tokio::test]
async fn another_nodes_agent_is_not_believed() {
    let bench = Bench::new("furrow:agent:n2").await;
    let told = message(&bench.jane("PUT", &on("virtualmachineinstances", "lone", "pause"), "").await);
    assert_eq!(told.0, 500);
    assert!(told.1.contains("could not reach the agent of node n1"), "{}", told.1);
    assert!(bench.calls.lock().unwrap().is_empty());
    bench.server.stop().await;
}
