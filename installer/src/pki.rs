//! Keys and certificates: the cluster's own CA, what it signs, and requests to Kubernetes. Files are private to root (or
//! to control), written whole or not at all. Never prints a key.

use std::path::Path;

use furrow_api::names::{AGENT_GROUP, AGENT_USER_PREFIX, CONTROL_GROUP, CONTROL_USER};
use furrow_model::certificate::Request;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::files::replace;

/// Life of the CA.
const CA_DAYS: i64 = 3650;
/// Life of a serving certificate.
const SERVING_DAYS: i64 = 365;
/// A certificate with less than this part of its life left is made anew.
const RENEW_BELOW: f64 = 1.0 / 3.0;

/// Whom a client certificate is for.
pub(crate) struct Subject {
    /// Common name: the Kubernetes user.
    pub(crate) user: String,
    /// Organisation: the Kubernetes group.
    pub(crate) group: &'static str,
}

impl Subject {
    /// The agent of a node.
    pub(crate) fn agent(node: &str) -> Subject {
        Subject { user: format!("{AGENT_USER_PREFIX}{node}"), group: AGENT_GROUP }
    }

    /// Control.
    pub(crate) fn control() -> Subject {
        Subject { user: CONTROL_USER.into(), group: CONTROL_GROUP }
    }
}

/// Why a key or certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    #[error("could not make {what}")]
    Make {
        what: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("could not write {path}")]
    Write {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is no certificate: {reason}")]
    Read { path: String, reason: String },
}

fn making(what: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { what, source }
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    replace(path, content.as_bytes(), mode)
        .map_err(|source| PkiError::Write { path: path.display().to_string(), source })
}

fn name(user: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}

/// Makes `ca.key` and `ca.crt` in `dir`, unless both are there.
pub(crate) fn ensure_ca(dir: &Path) -> Result<(), PkiError> {
    if dir.join("ca.key").exists() && dir.join("ca.crt").exists() {
        return Ok(());
    }
    let key = KeyPair::generate().map_err(making("the CA's key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name("furrow-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_DAYS);
    let certificate = params.self_signed(&key).map_err(making("the CA"))?;
    // The key first: a certificate without its key would be taken for a whole CA.
    write(&dir.join("ca.key"), &key.serialize_pem(), 0o600)?;
    write(&dir.join("ca.crt"), &certificate.pem(), 0o644)
}

fn validity(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(days);
}

/// Makes a serving key and certificate for `names`, signed by the CA in `ca`. Returns (certificate, key) as PEM.
pub(crate) fn serving(ca: &Path, user: &str, names: &[String]) -> Result<(String, String), PkiError> {
    let read = |file: &str| {
        let path = ca.join(file);
        std::fs::read_to_string(&path)
            .map_err(|e| PkiError::Read { path: path.display().to_string(), reason: e.to_string() })
    };
    let ca_key = KeyPair::from_pem(&read("ca.key")?).map_err(making("the CA's key"))?;
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt")?, ca_key).map_err(making("the issuer"))?;
    let key = KeyPair::generate().map_err(making("a serving key"))?;
    let mut params = CertificateParams::new(names.to_vec()).map_err(making("the names of a certificate"))?;
    params.distinguished_name = name(user, None);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    validity(&mut params, SERVING_DAYS);
    let certificate = params.signed_by(&key, &issuer).map_err(making("a serving certificate"))?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A new key and a request for `subject`. Returns (request, key) as PEM.
pub(crate) fn request(subject: &Subject) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate().map_err(making("a client key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&subject.user, Some(subject.group));
    let request = params.serialize_request(&key).map_err(making("a certificate request"))?;
    let pem = request.pem().map_err(making("a certificate request"))?;
    Ok((pem, key.serialize_pem()))
}

/// Whether a certificate file is there and has enough of its life left at `now` (seconds since 1970).
pub(crate) fn is_fresh(path: &Path, now: i64) -> bool {
    life(path).is_some_and(|(from, to)| (to - now) as f64 > (to - from) as f64 * RENEW_BELOW)
}

/// Whether a certificate file is there and is valid for at least `time` after `now` (seconds since 1970).
pub(crate) fn lives_for(path: &Path, now: i64, time: std::time::Duration) -> bool {
    life(path).is_some_and(|(_, to)| to - now > time.as_secs() as i64)
}

/// Begin and end of a certificate file's validity, seconds since 1970; of the first where it holds a chain.
fn life(path: &Path) -> Option<(i64, i64)> {
    let text = std::fs::read(path).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).ok()?;
    let validity = pem.parse_x509().ok()?.validity().clone();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Whether a certificate file and a key file belong together.
pub(crate) fn is_pair(certificate: &Path, key: &Path) -> bool {
    let Ok(text) = std::fs::read(certificate) else { return false };
    let Ok(key) = std::fs::read_to_string(key) else { return false };
    let Ok(key) = KeyPair::from_pem(&key) else { return false };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&text) else { return false };
    pem.parse_x509().is_ok_and(|c| c.public_key().subject_public_key.data.as_ref() == key.public_key_raw())
}

/// What counts of a PEM certificate request with this signer and these usages, and its public key.
pub(crate) fn read_request(pem: &[u8], signer: &str, usages: &[String]) -> Result<(Request, Vec<u8>), PkiError> {
    use x509_parser::prelude::FromDer;
    let failed = |reason: String| PkiError::Read { path: "a certificate request".into(), reason };
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| failed(e.to_string()))?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents)
        .map_err(|e| failed(e.to_string()))?;
    let info = &request.certification_request_info;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or_default().to_owned();
    let asked = Request {
        signer: signer.to_owned(),
        usages: usages.to_vec(),
        common_names: info.subject.iter_common_name().map(text).collect(),
        organizations: info.subject.iter_organization().map(text).collect(),
        has_extensions: request.requested_extensions().is_some_and(|mut extensions| extensions.next().is_some()),
    };
    Ok((asked, info.subject_pki.raw.to_vec()))
}

#[cfg(test)]
mod tests {
    use furrow_model::certificate::CLIENT_SIGNER;

    use super::*;

    #[test]
    fn a_ca_is_made_once_and_signs() {
        let dir = tempfile::tempdir().expect("a directory");
        ensure_ca(dir.path()).expect("made");
        let before = std::fs::read(dir.path().join("ca.crt")).expect("there");
        ensure_ca(dir.path()).expect("kept");
        assert_eq!(before, std::fs::read(dir.path().join("ca.crt")).expect("there"));
        let (certificate, _) =
            serving(dir.path(), "furrow-control", &["localhost".into(), "127.0.0.1".into()]).expect("signed");
        let path = dir.path().join("serving.crt");
        std::fs::write(&path, certificate).expect("written");
        let now = OffsetDateTime::now_utc().unix_timestamp();
        assert!(is_fresh(&path, now));
        assert!(!is_fresh(&path, now + 86400 * 300), "two thirds of its life are over");
        let day = std::time::Duration::from_secs(86400);
        assert!(lives_for(&path, now, 364 * day) && !lives_for(&path, now, 366 * day));
    }

    #[test]
    fn a_request_carries_user_and_group() {
        let (pem, _) = request(&Subject::agent("n1")).expect("made");
        let usages = ["client auth".to_owned()];
        let (asked, key) = read_request(pem.as_bytes(), CLIENT_SIGNER, &usages).expect("read");
        assert_eq!(furrow_model::certificate::check(&asked, "furrow:agent:n1", "furrow:agents"), Ok(()));
        assert!(!key.is_empty());
    }
}
