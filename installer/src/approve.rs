//! Which certificate requests bootstrap approves: those that it made itself for this very node, and nothing wider. Pure.

/// What counts of a CertificateSigningRequest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// `spec.signerName`.
    pub(crate) signer: String,
    /// `spec.usages`.
    pub(crate) usages: Vec<String>,
    /// Common name in the request itself.
    pub(crate) common_name: String,
    /// Organisations in the request itself.
    pub(crate) organizations: Vec<String>,
    /// Whether the request's public key is the one that this node made.
    pub(crate) own_key: bool,
}

/// Who may get a certificate here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subject {
    /// Common name: the Kubernetes user.
    pub(crate) user: String,
    /// Organisation: the Kubernetes group.
    pub(crate) group: &'static str,
}

impl Subject {
    /// The agent of a node.
    pub(crate) fn agent(node: &str) -> Subject {
        Subject { user: format!("furrow:agent:{node}"), group: "furrow:agents" }
    }

    /// Control.
    pub(crate) fn control() -> Subject {
        Subject { user: "furrow:control".into(), group: "furrow:controls" }
    }
}

/// Signer of certificates for clients of the API server.
pub(crate) const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Whether a request may be approved for `subject`.
///
/// # Errors
/// The first rule that it breaks.
pub(crate) fn approve(request: &Request, subject: &Subject) -> Result<(), String> {
    let rule = |holds: bool, text: &str| if holds { Ok(()) } else { Err(text.to_owned()) };
    rule(request.signer == CLIENT_SIGNER, "its signer is not the one of API clients")?;
    rule(request.own_key, "its key was not made by this node")?;
    rule(request.usages.iter().any(|u| u == "client auth"), "it is not for client authentication")?;
    let allowed = ["client auth", "digital signature", "key encipherment"];
    rule(request.usages.iter().all(|u| allowed.contains(&u.as_str())), "it asks for more than client authentication")?;
    rule(
        request.common_name == subject.user,
        &format!("it is for user `{}`, not `{}`", request.common_name, subject.user),
    )?;
    rule(request.organizations == [subject.group], &format!("it is not for group `{}` alone", subject.group))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Request {
        Request {
            signer: CLIENT_SIGNER.into(),
            usages: vec!["client auth".into(), "digital signature".into()],
            common_name: "furrow:agent:n1".into(),
            organizations: vec!["furrow:agents".into()],
            own_key: true,
        }
    }

    fn check(change: impl FnOnce(&mut Request), expected: &str) {
        let mut request = good();
        change(&mut request);
        let refusal = approve(&request, &Subject::agent("n1")).expect_err("it was approved");
        assert!(refusal.contains(expected), "`{refusal}` does not contain `{expected}`");
    }

    #[test]
    fn the_nodes_own_request_is_approved() {
        assert_eq!(approve(&good(), &Subject::agent("n1")), Ok(()));
    }

    #[test]
    fn anything_wider_is_refused() {
        check(|r| r.common_name = "furrow:agent:n2".into(), "not `furrow:agent:n1`");
        check(|r| r.organizations.push("system:masters".into()), "group `furrow:agents` alone");
        check(|r| r.usages.push("server auth".into()), "more than client authentication");
        check(|r| r.usages.clear(), "not for client authentication");
        check(|r| r.own_key = false, "not made by this node");
        check(|r| r.signer = "kubernetes.io/kubelet-serving".into(), "signer");
    }
}
