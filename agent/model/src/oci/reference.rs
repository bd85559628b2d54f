//! References to images as container tools write them: `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`, with Docker Hub where no
//! host stands (github.com/distribution/reference). A digest beats a tag.

use std::fmt;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

/// Where references without a host point.
const DOCKER_HUB: &str = "docker.io";
/// Docker Hub's registry answers there.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// The specification of the distribution API.
const REPOSITORY_MAX_BYTES: usize = 255;
const TAG_MAX_BYTES: usize = 128;

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The scheme of a URL.
    #[error("{0:?} does not begin with docker://")]
    Scheme(String),
    /// The host.
    #[error("{text:?} is no image reference: {host:?} is no host of a registry")]
    Host {
        /// The reference.
        text: String,
        /// Its host.
        host: String,
    },
    /// The repository.
    #[error("{text:?} is no image reference: {repository:?} is no repository (lower case letters, digits, . _ - /)")]
    Repository {
        /// The reference.
        text: String,
        /// Its repository.
        repository: String,
    },
    /// The tag.
    #[error("{text:?} is no image reference: {tag:?} is no tag")]
    Tag {
        /// The reference.
        text: String,
        /// Its tag.
        tag: String,
    },
    /// The digest.
    #[error("{0:?} is no digest: sha256: and 64 hexadecimal digits were expected")]
    Digest(String),
}

/// The SHA-256 digest of a document or a blob, which names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// Reads `sha256:HEX`.
    ///
    /// # Errors
    /// For anything else.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let hex = text.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        });
        hex.map(|hex| Self(hex.to_owned())).ok_or_else(|| ReferenceError::Digest(text.to_owned()))
    }

    /// The digest of bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(&Sha256::digest(bytes))
    }

    /// From the bytes of a SHA-256 hash.
    #[must_use]
    pub fn from_hash(hash: &[u8]) -> Self {
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Its hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Whatever this name points to now.
    Tag(String),
    /// Exactly this.
    Digest(Digest),
}

/// A reference to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

impl Reference {
    /// Reads a reference; without a tag it is `latest`.
    ///
    /// # Errors
    /// The part that is malformed.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
            Some(_) => (DOCKER_HUB, name.to_owned()),
            None => (DOCKER_HUB, format!("library/{name}")),
        };
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        if !is_host(registry) {
            return Err(ReferenceError::Host { text: text.to_owned(), host: registry.to_owned() });
        }
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path.as_str(), None),
        };
        if !is_repository(repository) {
            return Err(ReferenceError::Repository { text: text.to_owned(), repository: repository.to_owned() });
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag { text: text.to_owned(), tag: tag.to_owned() });
        }
        let version = digest.map_or_else(|| Version::Tag(tag.unwrap_or("latest").to_owned()), Version::Digest);
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), version })
    }

    /// Reads the URL of a DataVolume: a reference after `docker://`.
    ///
    /// # Errors
    /// As [`Self::parse`]; another scheme.
    pub fn from_url(url: &str) -> Result<Self, ReferenceError> {
        let text = url.strip_prefix("docker://").ok_or_else(|| ReferenceError::Scheme(url.to_owned()))?;
        Self::parse(text)
    }

    /// The same repository, at a digest.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> Self {
        Self { version: Version::Digest(digest.clone()), ..self.clone() }
    }

    /// Name of the registry, with its port if it has one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Which image of it.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The last part of a manifest's path.
    #[must_use]
    pub fn version_text(&self) -> String {
        match &self.version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        }
    }

    /// Host and port that answer for the registry.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        if self.registry == DOCKER_HUB { DOCKER_HUB_HOST } else { &self.registry }
    }

    /// Whether the registry is on the machine that asks, so that nobody listens in between.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = host_of(&self.registry);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// With host, and tag or digest.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.version {
            Version::Tag(_) => ':',
            Version::Digest(_) => '@',
        };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.version_text())
    }
}

fn host_of(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    }
}

fn is_host(registry: &str) -> bool {
    let host = host_of(registry);
    let port = registry.strip_prefix(host).unwrap_or_default().trim_start_matches(':');
    let port = host.len() == registry.len() || port.parse::<u16>().is_ok_and(|port| port > 0);
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return port && address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    port && host.split('.').all(label)
}

fn is_repository(repository: &str) -> bool {
    repository.len() <= REPOSITORY_MAX_BYTES && repository.split('/').all(is_component)
}

/// Letters and digits in lower case, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(component: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = component.bytes().next().zip(component.bytes().next_back());
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends.is_some_and(|(first, last)| word(&first) && word(&last))
        && separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_MAX_BYTES
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn check(text: &str, expected: &str) {
        assert_eq!(Reference::parse(text).map(|found| found.to_string()), Ok(expected.to_owned()), "{text}");
    }

    #[test]
    fn a_reference_has_a_host_a_repository_and_a_version() {
        check("cirros", "docker.io/library/cirros:latest");
        check("kubevirt/cirros:1.0", "docker.io/kubevirt/cirros:1.0");
        check("index.docker.io/a/b", "docker.io/a/b:latest");
        check("quay.io/containerdisks/fedora:41", "quay.io/containerdisks/fedora:41");
        check("localhost/x", "localhost/x:latest");
        check("10.0.0.9:5000/a/b_c/d__e-f.g:V1.0-rc_1", "10.0.0.9:5000/a/b_c/d__e-f.g:V1.0-rc_1");
        check("[fd00::1]:5000/x", "[fd00::1]:5000/x:latest");
        check(&format!("r.example/x:tag@sha256:{HEX}"), &format!("r.example/x@sha256:{HEX}"));
        assert_eq!(Reference::from_url("docker://a.b/c").unwrap().to_string(), "a.b/c:latest");
        assert_eq!(Reference::parse("x").unwrap().endpoint(), DOCKER_HUB_HOST);
    }

    #[test]
    fn what_is_malformed_is_named() {
        let check = |text: &str, part: &str| {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("", "\"library/\" is no repository");
        check("A/b", "is no repository");
        check("a//b", "is no repository");
        check("a/../b", "is no repository");
        check("a/b--c-", "is no repository");
        check("a.b:x/c", "is no host");
        check("a.b:70000/c", "is no host");
        check("-a.b/c", "is no host");
        check("user:secret@a.b/c", "is no digest");
        check("a.b/c:-x", "is no tag");
        check("a.b/c@sha256:12", "is no digest");
        check("a.b/c@sha512:12", "is no digest");
        assert_eq!(Reference::from_url("oci-archive://x"), Err(ReferenceError::Scheme("oci-archive://x".into())));
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (text, expected) in [
            ("localhost:5000/x", true),
            ("127.0.0.1:5000/x", true),
            ("127.8.0.1/x", true),
            ("[::1]:80/x", true),
            ("localhost.example/x", false),
            ("10.0.0.1:5000/x", false),
        ] {
            assert_eq!(Reference::parse(text).unwrap().is_loopback(), expected, "{text}");
        }
    }
}
