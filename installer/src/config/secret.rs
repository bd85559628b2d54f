//! A secret of node.yaml: the text itself, or where it is: `{file: PATH}`, `{sealed: BASE64}`. Owns which keys may be
//! written so, and what each of them must be. Refuses to open anything, which is [`crate::secrets`]' affair, and to show
//! what it was given. Pure.

use std::fmt;
use std::path::{Component, Path};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::{Hidden, NodeConfig, Refusal, is_password_hash, network, refuse};
use crate::join::Token;

/// What may stand in the document.
const FORMS: &str = "a text, {file: PATH} or {sealed: BASE64}";
const KEYS: [&str; 2] = ["file", "sealed"];
/// A credential of systemd has a head of more bytes than these.
const MIN_SEALED_BYTES: usize = 16;
/// A secret of some kilobytes, and what its sealing adds.
const MAX_SEALED_BYTES: usize = 16 << 10;

/// A secret, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Secret {
    /// The secret itself.
    Value(Hidden),
    /// A file that holds it: an absolute path, or one beside node.yaml.
    File(String),
    /// A credential that this machine's TPM has sealed, in base64.
    Sealed(Hidden),
}

impl Secret {
    /// The secret, where the document gives it itself.
    pub(crate) fn value(&self) -> Option<&str> {
        match self {
            Secret::Value(text) => Some(&text.0),
            Secret::File(_) | Secret::Sealed(_) => None,
        }
    }
}

/// A key of node.yaml that holds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SecretKey {
    /// One-time token of a cluster.
    #[value(name = "join.token")]
    JoinToken,
    /// Root's password; `seal` makes the hash of it.
    #[value(name = "admin.passwordHash")]
    PasswordHash,
    /// The proxy's URL for http, with its login.
    #[value(name = "proxy.http")]
    ProxyHttp,
    /// The same for https.
    #[value(name = "proxy.https")]
    ProxyHttps,
}

impl SecretKey {
    /// All of them.
    pub(crate) const ALL: [SecretKey; 4] =
        [SecretKey::JoinToken, SecretKey::PasswordHash, SecretKey::ProxyHttp, SecretKey::ProxyHttps];

    /// As in the document.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SecretKey::JoinToken => "join.token",
            SecretKey::PasswordHash => "admin.passwordHash",
            SecretKey::ProxyHttp => "proxy.http",
            SecretKey::ProxyHttps => "proxy.https",
        }
    }

    /// Name of the sealed credential: one that was sealed for another key does not open here.
    pub(crate) fn credential(self) -> String {
        format!("furrow.{}", self.name())
    }

    /// Whether a text can be this secret.
    pub(crate) fn accepts(self, text: &str) -> bool {
        match self {
            SecretKey::JoinToken => Token::parse(text).is_ok(),
            SecretKey::PasswordHash => is_password_hash(text),
            SecretKey::ProxyHttp | SecretKey::ProxyHttps => network::is_proxy_url(text),
        }
    }

    /// What it must be, for people.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            SecretKey::JoinToken => "a token as `furrow-install token create` prints it on a server",
            SecretKey::PasswordHash => "a hash by yescrypt, SHA-512 or SHA-256: `openssl passwd -6`",
            SecretKey::ProxyHttp | SecretKey::ProxyHttps => "a URL such as http://proxy.example.com:3128",
        }
    }
}

impl NodeConfig {
    /// The secret of a key, if the document gives one.
    pub(crate) fn secret(&self, key: SecretKey) -> Option<&Secret> {
        match key {
            SecretKey::JoinToken => self.join.as_ref()?.token.as_ref(),
            SecretKey::PasswordHash => self.admin.password_hash.as_ref(),
            SecretKey::ProxyHttp => self.proxy.as_ref()?.http.as_ref(),
            SecretKey::ProxyHttps => self.proxy.as_ref()?.https.as_ref(),
        }
    }

    /// Puts what a reference leads to in its place. Without effect where the document has no such key.
    pub(crate) fn set_secret(&mut self, key: SecretKey, value: Hidden) {
        let place = match key {
            SecretKey::JoinToken => self.join.as_mut().and_then(|join| join.token.as_mut()),
            SecretKey::PasswordHash => self.admin.password_hash.as_mut(),
            SecretKey::ProxyHttp => self.proxy.as_mut().and_then(|proxy| proxy.http.as_mut()),
            SecretKey::ProxyHttps => self.proxy.as_mut().and_then(|proxy| proxy.https.as_mut()),
        };
        if let Some(place) = place {
            *place = Secret::Value(value);
        }
    }

    /// The keys whose secrets the document only refers to.
    pub(crate) fn references(&self) -> Vec<SecretKey> {
        let refers = |key: &SecretKey| self.secret(*key).is_some_and(|secret| secret.value().is_none());
        SecretKey::ALL.into_iter().filter(refers).collect()
    }
}

/// Checks every secret of the document, or how it is referred to.
pub(super) fn check_secrets(config: &NodeConfig) -> Result<(), Refusal> {
    for key in SecretKey::ALL {
        let name = key.name();
        match config.secret(key) {
            Some(Secret::Value(text)) if !key.accepts(&text.0) => refuse(name, "(hidden)", key.expected())?,
            Some(Secret::File(path)) if !is_path(path) => {
                refuse(format!("{name}.file"), path, "an absolute path, or one beside node.yaml")?;
            }
            Some(Secret::Sealed(text)) if !is_sealed(&text.0) => {
                refuse(format!("{name}.sealed"), "(hidden)", &format!("what `furrow-install seal {name}` prints"))?;
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// Whether a path is absolute, or stays beside node.yaml.
fn is_path(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    inside && !path.is_empty() && !path.contains('\0')
}

/// A text without the blanks that YAML or a wrapped line leaves in it.
pub(crate) fn unwrapped(text: &str) -> String {
    text.split_ascii_whitespace().collect()
}

fn is_sealed(text: &str) -> bool {
    let bytes = BASE64_STANDARD.decode(unwrapped(text)).map_or(0, |bytes| bytes.len());
    (MIN_SEALED_BYTES..=MAX_SEALED_BYTES).contains(&bytes)
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

/// Refuses what is no text; serde's own words would show it.
macro_rules! no_texts {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: Error>(self, _: $type) -> Result<Secret, E> { Err(E::custom(format_args!("expected {FORMS}"))) })*
    };
}

impl<'de> Visitor<'de> for Reader {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMS)
    }

    no_texts!(visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64);

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::Value(Hidden(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            let secret = match key.as_str() {
                "file" => Secret::File(map.next_value()?),
                "sealed" => Secret::Sealed(map.next_value()?),
                other => return Err(A::Error::unknown_field(other, &KEYS)),
            };
            if found.replace(secret).is_some() {
                return Err(A::Error::custom("expected one of file and sealed, found both"));
            }
        }
        found.ok_or_else(|| A::Error::custom(format_args!("expected {FORMS}")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const TOKEN: &str = "K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::abcdef.0123456789abcdef";
    const SEALED: &str = "WhQZht+JQJax1aZemmGLxmiAAAAAAAAAAAAAAAAA";

    fn document(more: &str) -> String {
        format!(
            "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {{interface: e, address: 10.0.0.1}}\nceph: {{disks: [{{path: /dev/b}}]}}\n{more}"
        )
    }

    fn read(more: &str) -> NodeConfig {
        parse(&document(more)).unwrap_or_else(|error| panic!("{more}: {error}"))
    }

    #[test]
    fn a_secret_is_a_text_or_a_reference() {
        let file = |path: &str| Secret::File(path.into());
        let sealed = |text: &str| Secret::Sealed(Hidden(text.into()));
        let join = |token: &str| format!("join: {{server: 'https://a:6443', token: {token}}}");
        for (more, key, expected) in [
            (join(&format!("'{TOKEN}'")), SecretKey::JoinToken, Secret::Value(Hidden(TOKEN.into()))),
            (join("{file: token}"), SecretKey::JoinToken, file("token")),
            (join("{file: /root/token}"), SecretKey::JoinToken, file("/root/token")),
            (join("{file: secrets/token}"), SecretKey::JoinToken, file("secrets/token")),
            ("admin:\n  passwordHash:\n    file: hash".into(), SecretKey::PasswordHash, file("hash")),
            (format!("admin: {{passwordHash: {{sealed: {SEALED}}}}}"), SecretKey::PasswordHash, sealed(SEALED)),
            ("proxy: {http: {file: url}}".into(), SecretKey::ProxyHttp, file("url")),
            (format!("proxy: {{https: {{sealed: {SEALED}}}}}"), SecretKey::ProxyHttps, sealed(SEALED)),
        ] {
            let config = read(&more);
            assert_eq!(config.secret(key), Some(&expected), "{more}");
            let refers = if expected.value().is_none() { vec![key] } else { Vec::new() };
            assert_eq!(config.references(), refers, "{more}");
        }
    }

    #[test]
    fn a_sealed_text_may_be_folded() {
        let (first, second) = SEALED.split_at(20);
        let config = read(&format!("admin:\n  passwordHash:\n    sealed: >\n      {first}\n      {second}\n"));
        let Some(Secret::Sealed(text)) = config.secret(SecretKey::PasswordHash) else { panic!("{config:?}") };
        assert_eq!(unwrapped(&text.0), SEALED);
    }

    #[test]
    fn other_forms_are_refused_by_key_and_what_was_expected() {
        for (form, expected) in [
            (
                "{file: ../token}",
                "join.token.file: `../token` is not allowed, expected an absolute path, or one beside",
            ),
            ("{file: /}", "join.token.file: `/` is not allowed"),
            ("{file: /a/../b}", "join.token.file: `/a/../b` is not allowed"),
            ("{file: ''}", "join.token.file: `` is not allowed"),
            ("{sealed: abc}", "join.token.sealed: `(hidden)` is not allowed, expected what `furrow-install seal join."),
            ("{sealed: '-'}", "join.token.sealed: `(hidden)`"),
            ("{}", "expected a text, {file: PATH} or {sealed: BASE64}"),
            ("{path: token}", "path"),
            ("{file: a, sealed: b}", "expected one of file and sealed, found both"),
            ("[a]", "a text, {file: PATH} or {sealed: BASE64}"),
            ("plain", "join.token: `(hidden)` is not allowed, expected a token"),
        ] {
            let text = document(&format!("join: {{server: 'https://a:6443', token: {form}}}"));
            let error = parse(&text).expect_err(form).to_string();
            assert!(error.contains(expected), "`{error}` does not contain `{expected}`");
        }
    }

    #[test]
    fn what_is_no_text_is_refused_and_not_shown() {
        for wrong in ["8723645", "-8723645", "87236.45", "true"] {
            let error = parse(&document(&format!("admin: {{passwordHash: {wrong}}}"))).expect_err(wrong).to_string();
            assert!(!error.contains("87236"), "{error}");
        }
    }

    #[test]
    fn what_a_reference_leads_to_takes_its_place() {
        let mut config = read("join: {server: 'https://a:6443', token: {file: token}}");
        config.set_secret(SecretKey::JoinToken, Hidden(TOKEN.into()));
        config.set_secret(SecretKey::ProxyHttp, Hidden("http://p".into()));
        assert_eq!(config.secret(SecretKey::JoinToken).and_then(Secret::value), Some(TOKEN));
        assert!(config.references().is_empty() && config.proxy.is_none());
        assert!(!format!("{config:?}").contains("0123456789"));
    }

    #[test]
    fn names_of_credentials_tell_keys_apart() {
        use clap::ValueEnum as _;
        for key in SecretKey::ALL {
            assert_eq!(key.to_possible_value().map(|v| v.get_name().to_owned()).as_deref(), Some(key.name()));
            assert!(key.credential().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'), "{}", key.credential());
        }
    }
}
