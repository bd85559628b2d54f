//! Whoever reaches the ports of a server without the API server in between: forged front-proxy headers with no certificate, a
//! foreign one, an expired one, another client's. The last rows show that the same requests work with the right certificate,
//! so that the others were refused for the certificate alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::hostile::{NAME, PORT};
use super::{Of, Story, path};
use crate::host;
use crate::scenario::Checks;

/// Port on which every node's agent answers control.
const AGENT_PORT: u16 = 8445;

/// Directory of k3s's certificates on a server.
const TLS: &str = "/var/lib/rancher/k3s/server/tls";

/// Who comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// No certificate.
    Nobody,
    /// One by a CA of its own.
    Foreign,
    /// The API server's as a proxy, but of yesterday.
    Expired,
    /// The administrator's, as a client of the cluster.
    Administrator,
    /// The API server's as a proxy, made for this.
    Made,
    /// The API server's own as a proxy.
    ApiServer,
}

/// Headers as the API server would send them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Nothing,
    Administrator,
    Somebody,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// There is not even a connection.
    NoConnection,
    /// This code.
    Code(u16),
}

use Then::{Code, NoConnection};

const CASES: &[(Who, Says, u16, &str, Then)] = &[
    (Who::Nobody, Says::Nothing, PORT, "version", Code(200)),
    (Who::Nobody, Says::Nothing, PORT, "stop", Code(401)),
    (Who::Nobody, Says::Administrator, PORT, "stop", Code(401)),
    (Who::Foreign, Says::Administrator, PORT, "stop", NoConnection),
    (Who::Foreign, Says::Nothing, PORT, "version", NoConnection),
    (Who::Expired, Says::Administrator, PORT, "stop", NoConnection),
    (Who::Administrator, Says::Administrator, PORT, "stop", NoConnection),
    (Who::Nobody, Says::Administrator, AGENT_PORT, "pause", NoConnection),
    (Who::Foreign, Says::Administrator, AGENT_PORT, "pause", NoConnection),
    (Who::ApiServer, Says::Administrator, AGENT_PORT, "pause", NoConnection),
    (Who::ApiServer, Says::Nothing, PORT, "stop", Code(401)),
    (Who::ApiServer, Says::Somebody, PORT, "stop", Code(401)),
    (Who::Made, Says::Administrator, PORT, "stop", Code(202)),
    (Who::ApiServer, Says::Administrator, PORT, "stop", Code(202)),
];

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let mut made = None;
    story.check(checks, "intruder: certificates are made", || {
        made = Some(Certificates::make(story)?);
        Ok(())
    });
    let Some(certificates) = made else { return };
    for (who, says, port, tail, then) in CASES {
        let what = format!("intruder: {who:?} with headers of {says:?} to {tail} on port {port}: {then:?}");
        story.check(checks, &what, || {
            let (code, said) = curl(story, &certificates, (*who, *says), (*port, tail))?;
            let found = if code == 0 { NoConnection } else { Code(code) };
            // An agent that lets a client in as far as its handshake refuses it then.
            let refused = *port == AGENT_PORT && matches!(code, 401 | 403);
            ensure!(found == *then || refused, "{found:?}: {said}");
            Ok(())
        });
    }
}

/// Pairs of files: a certificate and its key.
struct Certificates {
    dir: PathBuf,
    tls: PathBuf,
}

impl Certificates {
    fn make(story: &Story<'_>) -> Result<Certificates> {
        let dir = story.bed.layout().part("certificates")?;
        let tls = story.bed.node().path(TLS);
        let file = |name: &str| dir.join(name).display().to_string();
        let common = ["-newkey", "rsa:2048", "-nodes"];
        let ca = ["openssl", "req", "-x509", "-days", "2", "-subj", "/CN=foreign-ca"];
        host::run(&[&ca[..], &common, &["-keyout", &file("ca.key"), "-out", &file("ca.crt")]].concat())?;
        std::fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth\n")?;
        let front = |name: &str| tls.join(name).display().to_string();
        let own = (file("ca.crt"), file("ca.key"));
        let front = (front("request-header-ca.crt"), front("request-header-ca.key"));
        for (name, (ca, key), days) in [("foreign", &own, "2"), ("expired", &front, "-1"), ("made", &front, "2")] {
            let (key_file, request) = (file(&format!("{name}.key")), file(&format!("{name}.csr")));
            let ask = ["openssl", "req", "-new", "-subj", "/CN=system:auth-proxy"];
            host::run(&[&ask[..], &common, &["-keyout", &key_file, "-out", &request]].concat())?;
            let sign = ["openssl", "x509", "-req", "-in", &request, "-CA", ca, "-CAkey", key, "-days", days];
            // The serial number's file belongs here, and not beside the node's CA.
            let serial = ["-set_serial", "4711", "-extfile", &file("client.ext")];
            host::run(&[&sign[..], &serial, &["-out", &file(&format!("{name}.crt"))]].concat())
                .with_context(|| format!("the certificate {name}"))?;
        }
        Ok(Certificates { dir, tls })
    }

    /// Certificate and key.
    fn of(&self, who: Who) -> Option<(PathBuf, PathBuf)> {
        let pair = |dir: &Path, name: &str| (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        match who {
            Who::Nobody => None,
            Who::Foreign => Some(pair(&self.dir, "foreign")),
            Who::Expired => Some(pair(&self.dir, "expired")),
            Who::Made => Some(pair(&self.dir, "made")),
            Who::Administrator => Some(pair(&self.tls, "client-admin")),
            Who::ApiServer => Some(pair(&self.tls, "client-auth-proxy")),
        }
    }
}

/// Code, 0 without a connection, and what was said.
fn curl(
    story: &Story<'_>,
    certificates: &Certificates,
    (who, says): (Who, Says),
    (port, tail): (u16, &str),
) -> Result<(u16, String)> {
    let address = story.bed.node().address();
    let (method, body, target) = match (port, tail) {
        (AGENT_PORT, _) => ("PUT", "", agent_path(story, tail)?),
        (_, "version") => ("GET", "", "/apis/subresources.kubevirt.io/v1/version".to_owned()),
        _ => ("PUT", r#"{"dryRun":["All"]}"#, path("v1", Of::Vm, NAME, tail)),
    };
    let url = format!("https://{address}:{port}{target}");
    let net = format!("--net=/run/netns/{}", story.bed.lan().netns());
    let mut argv: Vec<String> = [
        "nsenter",
        &net,
        "curl",
        "--silent",
        "--show-error",
        "--http1.1",
        "--insecure",
        "--max-time",
        "20",
        "--request",
        method,
    ]
    .map(str::to_owned)
    .to_vec();
    let names: &[&str] = match says {
        Says::Nothing => &[],
        Says::Administrator => &["X-Remote-User: system:admin", "X-Remote-Group: system:masters"],
        Says::Somebody => &["X-Remote-User: somebody", "X-Remote-Group: system:authenticated"],
    };
    for header in names.iter().chain(&["Content-Type: application/json"]) {
        argv.extend(["--header".to_owned(), (*header).to_owned()]);
    }
    if method == "PUT" {
        argv.extend(["--data".to_owned(), body.to_owned()]);
    }
    if let Some((certificate, key)) = certificates.of(who) {
        let files = [certificate, key].map(|file| file.display().to_string());
        argv.extend(["--cert".to_owned(), files[0].clone(), "--key".to_owned(), files[1].clone()]);
    }
    argv.extend(["--write-out".to_owned(), "\n%{http_code}".to_owned(), url]);
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let out = host::run_with(&words, "", Duration::from_secs(30))?;
    let (said, code) = out.stdout.rsplit_once('\n').with_context(|| format!("curl said {:?}", out.stderr))?;
    let code = code.trim().parse().with_context(|| format!("curl's code {code:?}"))?;
    // Without a connection curl says why; that nobody listens would be the wrong reason.
    ensure!(!out.stderr.contains("Connection refused") && !out.stderr.contains("timed out"), "{}", out.stderr.trim());
    Ok((code, format!("{} {}", said.trim(), out.stderr.trim())))
}

/// The path of an operation on an agent.
fn agent_path(story: &Story<'_>, tail: &str) -> Result<String> {
    let uid = story.uid(NAME)?.context("there is no guest")?;
    Ok(format!("/v1/guests/default/{NAME}/{uid}/{tail}"))
}
