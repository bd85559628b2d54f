//! Identities: client certificates by Kubernetes' own signing requests, and control's serving certificate by the
//! cluster's own CA. A kubeconfig holds key and certificate in one file, so that the two can never mismatch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube::config::Kubeconfig;
use serde_json::json;

use super::kubernetes::{KUBECONFIG, client};
use super::{Node, StepError, file_error, now};
use crate::approve::{CLIENT_SIGNER, Request, Subject, approve};
use crate::files::replace;
use crate::pki;

/// Where the CA is kept for the cluster.
const NAMESPACE: &str = "furrow-system";
const CA_SECRET: &str = "furrow-ca";
/// The signer is the controller manager, which is a few seconds behind the API server at a cold start.
const SIGN_TIMEOUT: Duration = Duration::from_secs(90);

fn refused(what: impl Into<String>) -> impl FnOnce(kube::Error) -> StepError {
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

/// Certificates and kubeconfig of control, and the CA as a Secret for the nodes that follow.
pub(crate) async fn control(node: &Node) -> Result<(), StepError> {
    let dir = node.state.join("control/pki");
    keep_ca(node).await?;
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

/// The CA with its key, for the servers that join later.
async fn keep_ca(node: &Node) -> Result<(), StepError> {
    let client = client().await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let own =
        Namespace { metadata: ObjectMeta { name: Some(NAMESPACE.into()), ..Default::default() }, ..Default::default() };
    match namespaces.create(&PostParams::default(), &own).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(refused("make namespace furrow-system")(error)),
    }
    let ca = node.state.join("ca");
    let read = |name: &str| {
        let path = ca.join(name);
        std::fs::read(&path).map(ByteString).map_err(file_error("read", &path))
    };
    let data = [("tls.crt".to_owned(), read("ca.crt")?), ("tls.key".to_owned(), read("ca.key")?)].into();
    let secret = Secret {
        metadata: ObjectMeta { name: Some(CA_SECRET.into()), ..Default::default() },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data),
        ..Default::default()
    };
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(refused("keep the CA")(error)),
    }
    let kept = secrets.get(CA_SECRET).await.map_err(refused("show the CA"))?;
    if kept.data == secret.data { Ok(()) } else { Err(StepError::ForeignCa(ca.display().to_string())) }
}

/// Requests, approves and stores a client certificate, unless the one that is there is fresh. Says whether it did.
async fn issue(node: &Node, dir: &Path, name: &str, subject: &Subject) -> Result<bool, StepError> {
    let certificate: PathBuf = dir.join(format!("{name}.crt"));
    if pki::is_fresh(&certificate, now() as i64) {
        return Ok(false);
    }
    let (pem, key) = pki::request(subject)?;
    let requests: Api<CertificateSigningRequest> = Api::all(client().await?);
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
    sign(&requests, made, &pem, subject).await?;
    let signed = node
        .wait("the controller manager to sign a certificate", SIGN_TIMEOUT, async || {
            let found = requests.get(&object).await.map_err(|e| e.to_string())?;
            let certificate = found.status.and_then(|s| s.certificate);
            certificate.ok_or_else(|| "approved, not signed yet".to_owned())
        })
        .await?;
    let _ = requests.delete(&object, &DeleteParams::default()).await;
    store(dir, name, &signed.0, &key)?;
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
    let (common_name, organizations, public) = pki::read_request(&made.spec.request.0)?;
    let own = pki::read_request(pem.as_bytes())?.2;
    let facts = Request {
        signer: made.spec.signer_name.clone(),
        usages: made.spec.usages.clone().unwrap_or_default(),
        common_name,
        organizations,
        own_key: public == own,
    };
    approve(&facts, subject).map_err(|reason| StepError::Refused { name: object.clone(), reason })?;
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
fn store(dir: &Path, name: &str, certificate: &[u8], key: &str) -> Result<(), StepError> {
    let unusable = |reason: String| StepError::Kubeconfig { path: KUBECONFIG.into(), reason };
    let admin = Kubeconfig::read_from(KUBECONFIG).map_err(|e| unusable(e.to_string()))?;
    let cluster =
        admin.clusters.first().and_then(|c| c.cluster.as_ref()).ok_or_else(|| unusable("no cluster".into()))?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "furrow", "cluster": {
            "server": cluster.server,
            "certificate-authority-data": cluster.certificate_authority_data,
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": BASE64_STANDARD.encode(certificate),
            "client-key-data": BASE64_STANDARD.encode(key),
        }}],
        "contexts": [{"name": "furrow", "context": {"cluster": "furrow", "user": name}}],
        "current-context": "furrow",
    });
    write(&dir.join(format!("{name}.kubeconfig")), config.to_string().as_bytes(), 0o600)?;
    write(&dir.join(format!("{name}.crt")), certificate, 0o644)
}
