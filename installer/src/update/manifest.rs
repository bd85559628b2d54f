//! What an update holds, by its signed list of digests: `SHA256SUMS` as sha256sum(1) writes it, and `SHA256SUMS.sig`, an RSA
//! signature (PKCS #1 v1.5, SHA-256) by the key of the certificate that this system's own root carries. Pure.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

/// Why an update is not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("the certificate of updates cannot be read: {0}")]
    Certificate(String),
    #[error("the list of digests is not signed by the key that this system trusts ({0})")]
    Signature(String),
    #[error("the list of digests has no {0}")]
    Missing(&'static str),
    #[error("the list of digests cannot be read: `{0}`")]
    Line(String),
}

/// Digests by file name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Manifest {
    digests: BTreeMap<String, String>,
    /// File of the unified kernel image.
    pub(super) image: String,
    /// Version that it brings.
    pub(super) version: String,
}

/// Checks the signature and reads the list.
pub(super) fn read(list: &[u8], signature: &[u8], certificate: &[u8]) -> Result<Manifest, ManifestError> {
    let unreadable = |reason: String| ManifestError::Certificate(reason);
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate).map_err(|e| unreadable(e.to_string()))?;
    let parsed = pem.parse_x509().map_err(|e| unreadable(e.to_string()))?;
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &parsed.public_key().subject_public_key.data);
    key.verify(list, signature).map_err(|_| ManifestError::Signature(parsed.subject().to_string()))?;
    let mut digests = BTreeMap::new();
    for line in String::from_utf8_lossy(list).lines() {
        let (digest, name) = line.split_once("  ").ok_or_else(|| ManifestError::Line(line.to_owned()))?;
        digests.insert(name.trim_start_matches('*').to_owned(), digest.to_owned());
    }
    let named = |name: &str| Some(name.strip_prefix("furrow-")?.strip_suffix(".efi")?.to_owned());
    let image = digests.keys().find_map(|name| Some((name.clone(), named(name)?)));
    let (image, version) = image.ok_or(ManifestError::Missing("furrow-VERSION.efi"))?;
    Ok(Manifest { digests, image, version })
}

impl Manifest {
    /// The digest of a file, SHA-256 in hexadecimal.
    pub(super) fn digest(&self, name: &'static str) -> Result<&str, ManifestError> {
        self.digests.get(name).map(String::as_str).ok_or(ManifestError::Missing(name))
    }

    /// The digest of the unified kernel image.
    pub(super) fn image_digest(&self) -> &str {
        self.digests.get(&self.image).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = include_bytes!("testdata/SHA256SUMS");
    const SIGNATURE: &[u8] = include_bytes!("testdata/SHA256SUMS.sig");
    const CERTIFICATE: &[u8] = include_bytes!("testdata/update.crt");

    #[test]
    fn a_signed_list_names_its_files() {
        let manifest = read(LIST, SIGNATURE, CERTIFICATE).expect("good");
        assert_eq!((manifest.version.as_str(), manifest.image.as_str()), ("0.2.0-k", "furrow-0.2.0-k.efi"));
        assert_eq!(manifest.digest("root.erofs").map(str::len), Ok(64));
        assert_eq!(manifest.digest("initrd"), Err(ManifestError::Missing("initrd")));
    }

    #[test]
    fn a_changed_list_or_signature_is_refused() {
        let changed: Vec<u8> = LIST.iter().map(|b| if *b == b'a' { b'b' } else { *b }).collect();
        let untrusted = Err(ManifestError::Signature("CN=test".into()));
        assert_eq!(read(&changed, SIGNATURE, CERTIFICATE), untrusted);
        assert_eq!(read(LIST, &SIGNATURE[1..], CERTIFICATE), untrusted);
        assert!(matches!(read(LIST, SIGNATURE, b"nonsense"), Err(ManifestError::Certificate(_))));
    }
}
