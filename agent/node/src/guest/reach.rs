//! One attempt of a probe by TCP or HTTP, through the guest's own tap. Owns the bytes of the exchange and their bounds; what
//! is asked and what an answer means is `furrow_model::guest`'s affair. Refuses to verify certificates, as a kubelet does:
//! a probe asks whether somebody answers, not who.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use furrow_api::VirtualMachineInstance;
use furrow_api::channel::{Forward, ForwardProtocol};
use furrow_api::vmi::Probe;
use furrow_model::guest::{AskedPort, HttpAsked, HttpProbe, HttpVerdict, probe_port};
use furrow_model::reasons::chain;
use futures::future::{Either, select};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::ports::Dial;

/// Of an answer's body so much is read; a kubelet reads as much (10 KiB), and the rest changes nothing.
const BODY_MAX_BYTES: usize = 10 << 10;
/// Longest head of an answer that is taken.
const HEAD_MAX_BYTES: usize = 64 << 10;
/// How the asker calls itself; applications look for the word before the slash.
const AGENT: &str = concat!("kube-probe/furrow-", env!("CARGO_PKG_VERSION"));

/// What is asked of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// Whether somebody takes the connection.
    Tcp(u16),
    /// What an HTTP server says.
    Http(HttpProbe),
}

/// Where a guest is reached: its first NIC, as with a forwarded port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    nic: String,
    address: Ipv4Addr,
}

impl Place {
    /// As the guest's status says it; `None` before it does.
    pub(super) fn of(vmi: &VirtualMachineInstance) -> Option<Self> {
        let first = vmi.status.as_ref()?.interfaces.first()?;
        let address = first.ip_address.as_deref()?.parse().ok()?;
        Some(Self { nic: first.name.clone()?, address })
    }
}

impl Ask {
    /// What a probe asks; `None` when it asks the guest's agent.
    pub(super) fn of(vmi: &VirtualMachineInstance, probe: &Probe) -> Option<Result<Self, String>> {
        let ports = vmi.spec.domain.devices.interfaces.iter().flat_map(|interface| &interface.ports);
        let named = ports.filter_map(|port| Some((port.name.as_deref()?, port.port)));
        let port = |asked: &IntOrString| {
            let asked = match asked {
                IntOrString::Int(number) => AskedPort::Number(i64::from(*number)),
                IntOrString::String(name) => AskedPort::Name(name),
            };
            probe_port(asked, named.clone())
        };
        let ask = match (&probe.http_get, &probe.tcp_socket) {
            (Some(get), _) => {
                let headers = get.http_headers.iter().flatten();
                let asked = HttpAsked {
                    path: get.path.as_deref(),
                    scheme: get.scheme.as_deref(),
                    headers: headers.map(|header| (header.name.as_str(), header.value.as_str())).collect(),
                };
                port(&get.port).and_then(|port| HttpProbe::parse(&asked, port)).map(Self::Http)
            }
            (None, Some(socket)) => port(&socket.port).map(Self::Tcp),
            (None, None) => return None,
        };
        Some(ask.map_err(|error| error.to_string()))
    }
}

/// The guest that is asked, and the way to it.
pub(super) struct Way<'a> {
    pub(super) dial: &'a Arc<dyn Dial>,
    /// UID of the VMI.
    pub(super) uid: &'a str,
    pub(super) place: &'a Place,
    /// The longest that it may take to connect; the caller bounds the whole.
    pub(super) limit: Duration,
}

/// One attempt; the error is why it failed.
pub(super) async fn attempt(way: &Way<'_>, ask: &Ask) -> Result<(), String> {
    match ask {
        Ask::Tcp(port) => way.dial(*port).await.map(drop),
        Ask::Http(probe) => {
            let mut next = probe.clone();
            loop {
                match way.get(&next).await? {
                    HttpVerdict::Passed => return Ok(()),
                    HttpVerdict::Failed(why) => return Err(why),
                    HttpVerdict::Follow(follow) => next = follow,
                }
            }
        }
    }
}

impl Way<'_> {
    async fn dial(&self, port: u16) -> Result<tokio::io::DuplexStream, String> {
        let address = IpAddr::V4(self.place.address);
        let to = Forward { protocol: ForwardProtocol::Tcp, port, nic: self.place.nic.clone(), address };
        self.dial.dial(self.uid, &to, self.limit).await
    }

    async fn get(&self, probe: &HttpProbe) -> Result<HttpVerdict, String> {
        let stream = self.dial(probe.port).await?;
        if !probe.secure {
            return self.exchange(stream, probe).await;
        }
        let name = ServerName::from(IpAddr::V4(self.place.address));
        let config = tls().map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        self.exchange(stream.map_err(|error| chain(&error))?, probe).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        probe: &HttpProbe,
    ) -> Result<HttpVerdict, String> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_MAX_BYTES);
        let (mut sender, connection) =
            builder.handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
        let request = self.request(probe).map_err(|error| chain(&error))?;
        let exchange = async {
            let mut response = sender.send_request(request).await.map_err(|error| chain(&error))?;
            read(&mut response).await?;
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            Ok(probe.judge(self.place.address, response.status().as_u16(), location))
        };
        // Dropping both ends the stream: nobody is left who waits for a guest that does not answer.
        match select(std::pin::pin!(exchange), std::pin::pin!(connection)).await {
            Either::Left((verdict, _)) => verdict,
            Either::Right((_, exchange)) => exchange.await,
        }
    }

    fn request(&self, probe: &HttpProbe) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let mut request = Request::get(&probe.target).header(CONNECTION, "close");
        let usual = [
            (HOST, format!("{}:{}", self.place.address, probe.port)),
            (USER_AGENT, AGENT.to_owned()),
            (ACCEPT, "*/*".to_owned()),
        ];
        for (name, value) in usual {
            if probe.header(name.as_str()).is_none() {
                request = request.header(name, value);
            }
        }
        // One that is there and empty is left out, as a kubelet's client does it.
        for (name, value) in probe.headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(name, value);
        }
        request.body(Empty::new())
    }
}

/// Reads the beginning of the body. A server that breaks off in it has not answered.
async fn read(response: &mut Response<Incoming>) -> Result<(), String> {
    let mut read = 0;
    while read < BODY_MAX_BYTES
        && let Some(frame) = response.body_mut().frame().await
    {
        read += frame.map_err(|error| chain(&error))?.data_ref().map_or(0, Bytes::len);
    }
    Ok(())
}

fn tls() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth())
}

/// Takes every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
