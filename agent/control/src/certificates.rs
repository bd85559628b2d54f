//! Certificates of agents on nodes without a server: such a node asks with its kubelet's identity, and here it is judged
//! whether the request is for that very node's agent and for nothing wider. Servers approve their own agents' requests.
//! Refuses to deny: what is not of this form is left to whoever knows it.

use std::collections::BTreeSet;

use furrow_api::names::{AGENT_GROUP, AGENT_USER_PREFIX};
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

/// Signer of certificates for clients of the API server.
pub(crate) const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

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
        if error.is_conflict() || error.is_gone() { Disposition::Stale } else { Disposition::Retry }
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

/// What counts of a request.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    signer: String,
    usages: BTreeSet<String>,
    /// Who asks, as the API server knows him.
    requester: String,
    groups: Vec<String>,
    /// Common name in the request itself.
    common_name: String,
    /// Organisations in the request itself.
    organizations: Vec<String>,
    /// Whether the request asks for extensions, such as other names.
    has_extensions: bool,
}

impl Asked {
    /// None when it holds no certificate request.
    fn read(request: &CertificateSigningRequest) -> Option<Asked> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&request.spec.request.0).ok()?;
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &parsed.certification_request_info.subject;
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or_default().to_owned();
        // Two names, or one that is no text, match no user.
        let names: Vec<String> = subject.iter_common_name().map(text).collect();
        let organizations = subject.iter_organization().map(text).collect();
        let spec = &request.spec;
        Some(Asked {
            signer: spec.signer_name.clone(),
            usages: spec.usages.iter().flatten().cloned().collect(),
            requester: spec.username.clone().unwrap_or_default(),
            groups: spec.groups.clone().unwrap_or_default(),
            common_name: names.join(","),
            organizations,
            has_extensions: parsed.requested_extensions().is_some_and(|mut extensions| extensions.next().is_some()),
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
    Wrong(&'static str),
}

fn judge(asked: &Asked) -> Verdict {
    let Some(node) = asked.common_name.strip_prefix(AGENT_USER_PREFIX) else { return Verdict::NotOurs };
    // A server's bootstrap asks as an administrator and approves by itself.
    let Some(asks) = asked.requester.strip_prefix(KUBELET) else { return Verdict::NotOurs };
    let allowed = ["client auth", "digital signature", "key encipherment"];
    let usages = &asked.usages;
    if asked.signer != CLIENT_SIGNER {
        Verdict::Wrong("its signer is not the one of API clients")
    } else if node.is_empty() || asks != node {
        Verdict::Wrong("it is for the agent of another node")
    } else if !asked.groups.iter().any(|group| group == KUBELETS) {
        Verdict::Wrong("the requester is not in the group of nodes")
    } else if asked.organizations != [AGENT_GROUP] {
        Verdict::Wrong("it is not for the group of agents alone")
    } else if !usages.contains("client auth") || usages.iter().any(|usage| !allowed.contains(&usage.as_str())) {
        Verdict::Wrong("it is not for client authentication alone")
    } else if asked.has_extensions {
        Verdict::Wrong("it asks for further names")
    } else {
        Verdict::Approve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Asked {
        Asked {
            signer: CLIENT_SIGNER.into(),
            usages: ["client auth", "digital signature"].map(str::to_owned).into(),
            requester: "system:node:n4".into(),
            groups: vec!["system:nodes".into(), "system:authenticated".into()],
            common_name: "furrow:agent:n4".into(),
            organizations: vec!["furrow:agents".into()],
            has_extensions: false,
        }
    }

    fn check(change: impl FnOnce(&mut Asked), expected: Verdict) {
        let mut asked = good();
        change(&mut asked);
        assert_eq!(judge(&asked), expected, "{asked:?}");
    }

    #[test]
    fn a_nodes_own_agent_is_approved() {
        check(|_| {}, Verdict::Approve);
        check(|a| a.usages = ["client auth"].map(str::to_owned).into(), Verdict::Approve);
    }

    #[test]
    fn anything_wider_is_not() {
        check(|a| a.requester = "system:node:n5".into(), Verdict::Wrong("it is for the agent of another node"));
        check(|a| a.common_name = "furrow:agent:".into(), Verdict::Wrong("it is for the agent of another node"));
        check(
            |a| a.common_name = "furrow:agent:n4,admin".into(),
            Verdict::Wrong("it is for the agent of another node"),
        );
        check(|a| a.groups.clear(), Verdict::Wrong("the requester is not in the group of nodes"));
        check(
            |a| a.organizations.push("system:masters".into()),
            Verdict::Wrong("it is not for the group of agents alone"),
        );
        check(|a| a.organizations.clear(), Verdict::Wrong("it is not for the group of agents alone"));
        let usages = Verdict::Wrong("it is not for client authentication alone");
        check(|a| a.usages.clear(), usages);
        let usages = Verdict::Wrong("it is not for client authentication alone");
        check(|a| a.usages.extend(["server auth".to_owned()]), usages);
        check(|a| a.has_extensions = true, Verdict::Wrong("it asks for further names"));
        let signer = Verdict::Wrong("its signer is not the one of API clients");
        check(|a| a.signer = "kubernetes.io/kubelet-serving".into(), signer);
    }

    #[test]
    fn what_others_ask_for_is_left_to_others() {
        check(|a| a.common_name = "jane".into(), Verdict::NotOurs);
        check(|a| a.common_name = "furrow:control".into(), Verdict::NotOurs);
        check(|a| a.requester = "system:admin".into(), Verdict::NotOurs);
    }
}
