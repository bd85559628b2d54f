//! Certificates of agents on nodes without a server: such a node asks with its kubelet's identity, and here it is judged
//! whether the request is for that very node's agent and for nothing wider. Servers approve their own agents' requests.
//! Refuses to deny: what is not of this form is left to whoever knows it.

use furrow_api::names::{AGENT_GROUP, AGENT_USER_PREFIX};
use furrow_model::certificate::{self, Fault, Request};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::Patch;
use serde_json::json;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::calls::{self, CallError};
use crate::cluster::{Cluster, find_cluster, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};

/// User of a node's kubelet.
const KUBELET: &str = "system:node:";
/// Group of all kubelets.
const KUBELETS: &str = "system:nodes";

/// The controller of certificate requests.
pub(crate) struct Certificates {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

impl Reconcile for Certificates {
    type Error = CallError;

    const NAME: &'static str = "certificates";

    fn keys(&self) -> Vec<Key> {
        self.cluster.requests.state().iter().map(|request| key_of(request.as_ref())).collect()
    }

    /// Observe: the request. Validate and plan: whether it is to be approved. Execute and report: the approval.
    async fn reconcile(&self, key: &Key) -> Result<Next, CallError> {
        let Some(request) = find_cluster(&self.cluster.requests, &key.name) else { return Ok(Next::OnChange) };
        if request.status.as_ref().is_some_and(|s| s.conditions.as_ref().is_some_and(|c| !c.is_empty())) {
            return Ok(Next::OnChange);
        }
        let Some(asked) = Asked::read(&request) else { return Ok(Next::OnChange) };
        match judge(&asked) {
            Verdict::Approve => self.approve(&request).await?,
            Verdict::NotOurs => {}
            Verdict::Wrong(reason) => {
                tracing::warn!(
                    request = key.name,
                    requester = asked.requester,
                    reason,
                    "certificate request is not approved"
                );
            }
        }
        Ok(Next::OnChange)
    }

    fn disposition(error: &CallError) -> Disposition {
        Disposition::of_call(error)
    }
}

impl Certificates {
    /// Approves the request that was judged and no later one of its name.
    async fn approve(&self, request: &CertificateSigningRequest) -> Result<(), CallError> {
        let name = request.metadata.name.clone().unwrap_or_default();
        let now = Time(Timestamp::now());
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("FurrowAgent".into()),
            message: Some("a node asked for its own agent".into()),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(now),
        };
        let patch = json!({
            "metadata": {"resourceVersion": request.metadata.resource_version, "uid": request.metadata.uid},
            "status": {"conditions": [condition]},
        });
        let api = self.cluster.api_all::<CertificateSigningRequest>();
        let (parameters, patch) = (Default::default(), Patch::Merge(&patch));
        let what = || format!("approve CertificateSigningRequest {name}");
        calls::within(what, api.patch_approval(&name, &parameters, &patch)).await?;
        tracing::info!(request = name, "certificate request approved");
        Ok(())
    }
}

/// A request and who makes it.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    request: Request,
    /// As the API server knows him.
    requester: String,
    groups: Vec<String>,
}

impl Asked {
    /// None when it holds no certificate request.
    fn read(object: &CertificateSigningRequest) -> Option<Asked> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&object.spec.request.0).ok()?;
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &parsed.certification_request_info.subject;
        // A name that is no text matches no user.
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or_default().to_owned();
        let spec = &object.spec;
        Some(Asked {
            request: Request {
                signer: spec.signer_name.clone(),
                usages: spec.usages.clone().unwrap_or_default(),
                common_names: subject.iter_common_name().map(text).collect(),
                organizations: subject.iter_organization().map(text).collect(),
                has_extensions: parsed.requested_extensions().is_some_and(|mut extensions| extensions.next().is_some()),
            },
            requester: spec.username.clone().unwrap_or_default(),
            groups: spec.groups.clone().unwrap_or_default(),
        })
    }
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Approve,
    /// Not for an agent: nothing is said about it.
    NotOurs,
    /// For an agent, and not as it must be.
    Wrong(String),
}

fn judge(asked: &Asked) -> Verdict {
    if !asked.request.common_names.iter().any(|name| name.starts_with(AGENT_USER_PREFIX)) {
        return Verdict::NotOurs;
    }
    // A server's bootstrap asks as an administrator and approves by itself.
    let Some(node) = asked.requester.strip_prefix(KUBELET) else { return Verdict::NotOurs };
    if !asked.groups.iter().any(|group| group == KUBELETS) {
        return Verdict::Wrong("the requester is not in the group of nodes".into());
    }
    match certificate::check(&asked.request, &format!("{AGENT_USER_PREFIX}{node}"), AGENT_GROUP) {
        Ok(()) if node.is_empty() => Verdict::Wrong(Fault::User.to_string()),
        Ok(()) => Verdict::Approve,
        Err(fault) => Verdict::Wrong(fault.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use furrow_model::certificate::CLIENT_SIGNER;

    use super::*;

    fn check(change: impl FnOnce(&mut Asked), expected: Verdict) {
        let mut asked = Asked {
            request: Request {
                signer: CLIENT_SIGNER.into(),
                usages: vec!["client auth".into()],
                common_names: vec!["furrow:agent:n4".into()],
                organizations: vec!["furrow:agents".into()],
                has_extensions: false,
            },
            requester: "system:node:n4".into(),
            groups: vec!["system:nodes".into(), "system:authenticated".into()],
        };
        change(&mut asked);
        assert_eq!(judge(&asked), expected, "{asked:?}");
    }

    #[test]
    fn a_nodes_own_agent_is_approved() {
        check(|_| {}, Verdict::Approve);
    }

    #[test]
    fn another_nodes_and_anything_wider_is_not() {
        let wrong = |fault: Fault| Verdict::Wrong(fault.to_string());
        check(|a| a.requester = "system:node:n5".into(), wrong(Fault::User));
        let nameless = |a: &mut Asked| {
            a.request.common_names = vec!["furrow:agent:".into()];
            a.requester = "system:node:".into();
        };
        check(nameless, wrong(Fault::User));
        check(|a| a.groups.clear(), Verdict::Wrong("the requester is not in the group of nodes".into()));
        check(|a| a.request.organizations.push("system:masters".into()), wrong(Fault::Group));
        check(|a| a.request.usages.push("server auth".into()), wrong(Fault::Usages));
    }

    #[test]
    fn what_others_ask_for_is_left_to_others() {
        check(|a| a.request.common_names = vec!["jane".into()], Verdict::NotOurs);
        check(|a| a.request.common_names = vec!["furrow:control".into()], Verdict::NotOurs);
        check(|a| a.requester = "system:admin".into(), Verdict::NotOurs);
    }
}
