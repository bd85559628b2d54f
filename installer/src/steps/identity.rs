//! Identities: client certificates by Kubernetes' own signing requests, and control's serving certificate by the
//! cluster's own CA. A kubeconfig holds key and certificate in one file, so that the two can never mismatch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use furrow_model::certificate::{self, CLIENT_SIGNER};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube::config::Kubeconfig;
use serde_json::json;

use super::kubernetes::{client, kubeconfig};
use super::{Node, StepError, file_error, now};
use crate::config::Role;
use crate::files::replace;
use crate::join::NAMESPACE;
use crate::kubeconfig::document;
use crate::pki::{self, Subject};

/// Where the cluster finds the CA's certificate.
const CA_MAP: &str = "furrow-ca";
/// The signer is the controller manager, which is a few seconds behind the API server at a cold start, and for whom
/// control approves, which may just be changing hands.
const SIGN_TIMEOUT: Duration = Duration::from_secs(300);

/// Whether an object is new; one of its name that is there already is no failure.
pub(crate) fn made<T>(created: kube::Result<T>) -> kube::Result<bool> {
    unless(409, created)
}

/// Whether an object was there; one that is gone already is no failure.
pub(crate) fn gone<T>(deleted: kube::Result<T>) -> kube::Result<bool> {
    unless(404, deleted)
}

fn unless<T>(code: u16, done: kube::Result<T>) -> kube::Result<bool> {
    match done {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == code => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(kube::Error) -> StepError {
    let what = what.into();
    move |source| StepError::Kubernetes { what, source: Box::new(source) }
}

/// Certificate and kubeconfig of the agent of this node.
pub(crate) async fn agent(node: &Node) -> Result<(), StepError> {
    let dir = node.state.join("pki");
    let subject = Subject::agent(&node.config.hostname);
    if issue(node, &dir, "agent", &subject).await? {
        let _ = super::systemctl(&["try-restart", "furrow-agent.service"]).await;
    }
    Ok(())
}

/// Certificates and kubeconfig of control, and the CA's certificate for the cluster.
pub(crate) async fn control(node: &Node) -> Result<(), StepError> {
    let dir = node.state.join("control/pki");
    publish_ca(node).await?;
    let mut changed = serving(node, &dir)?;
    changed |= issue(node, &dir, "control", &Subject::control()).await?;
    let owned = furrow_host::cmd::Cmd::new("/usr/bin/chown");
    owned
        .args(["-R", "furrow-control:furrow-control", &node.state.join("control").display().to_string()])
        .run()
        .await?;
    if changed {
        let _ = super::systemctl(&["try-restart", "furrow-control.service"]).await;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), StepError> {
    replace(path, content, mode).map_err(file_error("write", path))
}

/// Control's serving certificate. Key and certificate that do not belong together are made anew.
fn serving(node: &Node, dir: &Path) -> Result<bool, StepError> {
    let ca = node.state.join("ca");
    let (crt, key) = (dir.join("serving.crt"), dir.join("serving.key"));
    if pki::is_fresh(&crt, now() as i64) && pki::is_pair(&crt, &key) {
        return Ok(false);
    }
    let names = ["127.0.0.1", "localhost", "furrow-control.furrow-system.svc"].map(str::to_owned);
    let (certificate, private) = pki::serving(&ca, "furrow-control", &names)?;
    let authority = std::fs::read(ca.join("ca.crt")).map_err(file_error("read", &ca))?;
    write(&dir.join("ca.crt"), &authority, 0o644)?;
    write(&key, private.as_bytes(), 0o600)?;
    write(&crt, certificate.as_bytes(), 0o644)?;
    Ok(true)
}

/// The cluster's CA on this server's disk: made where the cluster begins, otherwise the one that came by joining.
pub(crate) fn ca(node: &Node) -> Result<(), StepError> {
    let dir = node.state.join("ca");
    let Some(joined) = node.joined()? else { return Ok(pki::ensure_ca(&dir)?) };
    let authority = joined.material.ca.ok_or_else(|| StepError::Answer("the join record", "no CA".into()))?;
    // The key first: a certificate without its key would be taken for a whole CA.
    super::update(&dir.join("ca.key"), &authority.key, 0o600)?;
    super::update(&dir.join("ca.crt"), &authority.crt, 0o644)
}

/// Makes the namespace of Furrow's own objects, which k3s may not have applied yet.
pub(crate) async fn ensure_namespace(client: &kube::Client) -> Result<(), StepError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let own =
        Namespace { metadata: ObjectMeta { name: Some(NAMESPACE.into()), ..Default::default() }, ..Default::default() };
    made(namespaces.create(&PostParams::default(), &own).await).map_err(refused("make namespace furrow-system"))?;
    Ok(())
}

/// The CA's certificate, for everyone to read. Its key stays on the servers' disks: agents may read Secrets by name.
async fn publish_ca(node: &Node) -> Result<(), StepError> {
    let client = client(Role::Server).await?;
    ensure_namespace(&client).await?;
    let ca = node.state.join("ca");
    let path = ca.join("ca.crt");
    let certificate = std::fs::read_to_string(&path).map_err(file_error("read", &path))?;
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(CA_MAP.into()), ..Default::default() },
        data: Some([("ca.crt".to_owned(), certificate)].into()),
        ..Default::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    if made(maps.create(&PostParams::default(), &map).await).map_err(refused("publish the CA"))? {
        return Ok(());
    }
    let published = maps.get(CA_MAP).await.map_err(refused("show the CA"))?;
    if published.data == map.data { Ok(()) } else { Err(StepError::ForeignCa(ca.display().to_string())) }
}

/// Requests, approves and stores a client certificate, unless the one that is there is fresh. Says whether it did.
async fn issue(node: &Node, dir: &Path, name: &str, subject: &Subject) -> Result<bool, StepError> {
    let certificate: PathBuf = dir.join(format!("{name}.crt"));
    if pki::is_fresh(&certificate, now() as i64) {
        return Ok(false);
    }
    let (pem, key) = pki::request(subject)?;
    let role = node.role()?;
    let requests: Api<CertificateSigningRequest> = Api::all(client(role).await?);
    let object = format!("furrow-{name}-{}-{}", node.config.hostname, uuid::Uuid::new_v4().simple());
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(object.clone()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.clone().into_bytes()),
            signer_name: CLIENT_SIGNER.into(),
            usages: Some(vec!["client auth".into(), "digital signature".into()]),
            ..Default::default()
        },
        status: None,
    };
    let made =
        requests.create(&PostParams::default(), &request).await.map_err(refused("take a certificate request"))?;
    // An agent's request is judged by furrow-control, on a server.
    if role == Role::Server {
        sign(&requests, made, &pem, subject).await?;
    }
    let signed = node
        .wait("a signed certificate", SIGN_TIMEOUT, async || {
            let status = requests.get(&object).await.map_err(|e| e.to_string())?.status.unwrap_or_default();
            let judged = status.conditions.is_some_and(|conditions| !conditions.is_empty());
            let pending = if judged { "approved, not signed yet" } else { "no furrow-control has approved it yet" };
            status.certificate.ok_or_else(|| pending.to_owned())
        })
        .await?;
    // A kubelet may not: Kubernetes removes what is old.
    let _ = requests.delete(&object, &DeleteParams::default()).await;
    store(dir, role, name, (&signed.0, &key))?;
    Ok(true)
}

/// Approves the request as the cluster holds it, if it is the one that this node made and nothing wider.
async fn sign(
    requests: &Api<CertificateSigningRequest>,
    mut made: CertificateSigningRequest,
    pem: &str,
    subject: &Subject,
) -> Result<(), StepError> {
    let object = made.metadata.name.clone().unwrap_or_default();
    let usages = made.spec.usages.clone().unwrap_or_default();
    let (asked, public) = pki::read_request(&made.spec.request.0, &made.spec.signer_name, &usages)?;
    let (_, own) = pki::read_request(pem.as_bytes(), CLIENT_SIGNER, &[])?;
    let refused_for = |reason: String| StepError::Refused { name: object.clone(), reason };
    if public != own {
        return Err(refused_for("its key was not made by this node".into()));
    }
    certificate::check(&asked, &subject.user, subject.group).map_err(|fault| refused_for(fault.to_string()))?;
    let approval = CertificateSigningRequestCondition {
        type_: "Approved".into(),
        status: "True".into(),
        reason: Some("FurrowBootstrap".into()),
        message: Some("made by this node for itself".into()),
        ..Default::default()
    };
    made.status = Some(CertificateSigningRequestStatus { conditions: Some(vec![approval]), ..Default::default() });
    requests
        .patch_approval(&object, &Default::default(), &kube::api::Patch::Merge(&json!({"status": made.status})))
        .await
        .map_err(refused("approve a certificate request"))?;
    Ok(())
}

/// Writes the kubeconfig, which is what counts, and then the certificate, whose presence says that all is there.
fn store(dir: &Path, role: Role, name: &str, (certificate, key): (&[u8], &str)) -> Result<(), StepError> {
    let path = kubeconfig(role);
    let unusable = |reason: String| StepError::Kubeconfig { path: path.into(), reason };
    let own = Kubeconfig::read_from(path).map_err(|e| unusable(e.to_string()))?;
    let cluster = own.clusters.first().and_then(|c| c.cluster.as_ref()).ok_or_else(|| unusable("no cluster".into()))?;
    let authority = match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(data), _) => data.clone(),
        (None, Some(file)) => BASE64_STANDARD.encode(std::fs::read(file).map_err(file_error("read", Path::new(file)))?),
        (None, None) => return Err(unusable("no CA".into())),
    };
    let cluster = json!({"server": cluster.server, "certificate-authority-data": authority});
    let credentials = json!({
        "client-certificate-data": BASE64_STANDARD.encode(certificate),
        "client-key-data": BASE64_STANDARD.encode(key),
    });
    let config = document(&cluster, name, &credentials);
    write(&dir.join(format!("{name}.kubeconfig")), config.to_string().as_bytes(), 0o600)?;
    write(&dir.join(format!("{name}.crt")), certificate, 0o644)
}
