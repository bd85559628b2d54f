//! What a request for a client certificate may ask for: one user of one group, and nothing wider. Who may ask for that user
//! is the approver's own rule. Refuses to parse: it is given what the request holds.

use std::fmt;

/// Signer of certificates for clients of the API server.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// The usage without which it would be no client's certificate.
const CLIENT_USAGE: &str = "client auth";
const USAGES: [&str; 3] = [CLIENT_USAGE, "digital signature", "key encipherment"];

/// What counts of a CertificateSigningRequest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `spec.signerName`.
    pub signer: String,
    /// `spec.usages`.
    pub usages: Vec<String>,
    /// Common names in the request itself; a certificate of ours has one.
    pub common_names: Vec<String>,
    /// Organisations in the request itself.
    pub organizations: Vec<String>,
    /// Whether the request itself asks for extensions, such as other names.
    pub has_extensions: bool,
}

/// The first rule that a request breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another signer.
    Signer,
    /// Another user, or none, or two.
    User,
    /// Another group, or none, or a further one.
    Group,
    /// No client's certificate, or one for more.
    Usages,
    /// Further names.
    Extensions,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Fault::Signer => "its signer is not the one of API clients",
            Fault::User => "it is for another user",
            Fault::Group => "it is not for the user's group alone",
            Fault::Usages => "it is not for client authentication alone",
            Fault::Extensions => "it asks for further names",
        })
    }
}

/// Whether a request asks for a client certificate of `user` in `group`, and for nothing wider.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(request: &Request, user: &str, group: &str) -> Result<(), Fault> {
    let usages = &request.usages;
    if request.signer != CLIENT_SIGNER {
        Err(Fault::Signer)
    } else if request.common_names != [user] {
        Err(Fault::User)
    } else if request.organizations != [group] {
        Err(Fault::Group)
    } else if !usages.iter().any(|u| u == CLIENT_USAGE) || usages.iter().any(|u| !USAGES.contains(&u.as_str())) {
        Err(Fault::Usages)
    } else if request.has_extensions {
        Err(Fault::Extensions)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_changed(change: impl FnOnce(&mut Request), expected: Result<(), Fault>) {
        let mut request = Request {
            signer: CLIENT_SIGNER.into(),
            usages: vec![CLIENT_USAGE.into(), "digital signature".into()],
            common_names: vec!["furrow:agent:n1".into()],
            organizations: vec!["furrow:agents".into()],
            has_extensions: false,
        };
        change(&mut request);
        assert_eq!(check(&request, "furrow:agent:n1", "furrow:agents"), expected, "{request:?}");
    }

    #[test]
    fn one_user_of_one_group_is_allowed() {
        check_changed(|_| {}, Ok(()));
        check_changed(|r| r.usages.truncate(1), Ok(()));
    }

    #[test]
    fn anything_wider_is_not() {
        check_changed(|r| r.signer = "kubernetes.io/kubelet-serving".into(), Err(Fault::Signer));
        check_changed(|r| r.common_names = vec!["furrow:agent:n2".into()], Err(Fault::User));
        check_changed(|r| r.common_names.push("admin".into()), Err(Fault::User));
        check_changed(|r| r.common_names.clear(), Err(Fault::User));
        check_changed(|r| r.organizations.push("system:masters".into()), Err(Fault::Group));
        check_changed(|r| r.organizations.clear(), Err(Fault::Group));
        check_changed(|r| r.usages.push("server auth".into()), Err(Fault::Usages));
        check_changed(|r| r.usages.clear(), Err(Fault::Usages));
        check_changed(|r| r.has_extensions = true, Err(Fault::Extensions));
    }
}
