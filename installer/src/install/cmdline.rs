//! What the kernel's command line says of the installation: `furrow.unattended`, where node.yaml is fetched from
//! (`furrow.config=`), and single keys of it (`furrow.hostname=n1`, `furrow.install.disk.id=S1`), which are laid over the
//! document. Strict: a word that begins with `furrow.` and means nothing is refused by name. Pure.

use serde_json::{Map, Value};

use crate::config::{API_VERSION, Proxy};

/// Words without a value.
const FLAGS: [&str; 3] = ["medium", "unattended", "by-hand"];
/// Top-level keys of node.yaml.
const KEYS: [&str; 12] = [
    "apiVersion",
    "kind",
    "hostname",
    "management",
    "role",
    "join",
    "kubernetes",
    "ceph",
    "admin",
    "ntp",
    "proxy",
    "install",
];
/// Entries of a list that a word may make.
const MAX_INDEX: usize = 64;

/// Why the command line or the document is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum WordError {
    #[error("the kernel's command line: `furrow.{0}` is unknown, expected a key of node.yaml, config or unattended")]
    Unknown(String),
    #[error("the kernel's command line: `furrow.{0}` needs a value")]
    NoValue(String),
    #[error("the kernel's command line: `furrow.{0}` is of use beside furrow.config only")]
    Alone(&'static str),
    #[error("the kernel's command line: `furrow.{key}` cannot be laid over node.yaml, where {place} is {found}")]
    Place { key: String, place: String, found: &'static str },
    #[error("the kernel's command line: `furrow.{key}`: entry {index} does not follow the {there} that are there")]
    Index { key: String, index: usize, there: usize },
    #[error("node.yaml is not valid: {0}")]
    Document(String),
}

/// Where node.yaml is fetched from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Remote {
    pub(crate) url: String,
    /// Absolute path of certificates in PEM, or one certificate as DER in base64.
    pub(crate) ca: Option<String>,
    /// SHA-256, hexadecimal.
    pub(crate) sha256: Option<String>,
}

/// What the words say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Words {
    pub(crate) unattended: bool,
    pub(crate) remote: Option<Remote>,
    /// Keys of node.yaml, as dotted paths, in their order.
    pub(crate) keys: Vec<(String, String)>,
}

/// Reads the words that begin with `furrow.`. The last of several with one name counts.
///
/// # Errors
/// The first word that means nothing.
pub(crate) fn parse(line: &str) -> Result<Words, WordError> {
    let mut words = Words::default();
    let (mut url, mut ca, mut sha256) = (None, None, None);
    for word in split(line) {
        let Some(word) = word.strip_prefix("furrow.") else { continue };
        let Some((name, value)) = word.split_once('=') else {
            match word {
                "unattended" => words.unattended = true,
                _ if FLAGS.contains(&word) => {}
                _ if is_key(word) || word.starts_with("config") => return Err(WordError::NoValue(word.to_owned())),
                _ => return Err(WordError::Unknown(word.to_owned())),
            }
            continue;
        };
        let value = unquoted(value).to_owned();
        match name {
            "config" => url = Some(value),
            "config-ca" => ca = Some(value),
            "config-sha256" => sha256 = Some(value),
            _ if is_key(name) => {
                words.keys.retain(|(key, _)| key != name);
                words.keys.push((name.to_owned(), value));
            }
            _ => return Err(WordError::Unknown(name.to_owned())),
        }
    }
    words.remote = match (url, ca, sha256) {
        (Some(url), ca, sha256) => Some(Remote { url, ca, sha256 }),
        (None, Some(_), _) => return Err(WordError::Alone("config-ca")),
        (None, None, Some(_)) => return Err(WordError::Alone("config-sha256")),
        (None, None, None) => None,
    };
    Ok(words)
}

fn is_key(name: &str) -> bool {
    KEYS.contains(&name.split('.').next().unwrap_or_default()) && !name.split('.').any(str::is_empty)
}

/// Words as the kernel separates them: by blanks that are not between double quotes.
fn split(line: &str) -> Vec<&str> {
    let mut quoted = false;
    let separates = |c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    };
    line.split(separates).filter(|word| !word.is_empty()).collect()
}

/// The kernel takes quotes off a value only where they enclose it.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

/// The document with the keys laid over it; `text` as it is where there are none. Without a document the keys make one.
///
/// # Errors
/// When a key does not fit into the document. What its value means is left to the document's own checks.
pub(crate) fn overlay(text: Option<&str>, keys: &[(String, String)]) -> Result<String, WordError> {
    let (text, keys) = match (text, keys) {
        (Some(text), []) => return Ok(text.to_owned()),
        (text, keys) => (text, keys),
    };
    let mut document = match text {
        Some(text) => tree(text)?,
        None => serde_json::json!({"apiVersion": API_VERSION, "kind": "Node"}),
    };
    for (key, value) in keys {
        set(&mut document, key, value_of(value))?;
    }
    printed(&document)
}

/// The document with these texts at these keys.
///
/// # Errors
/// When a key does not fit into the document.
pub(crate) fn with_values(text: &str, values: &[(&str, String)]) -> Result<String, WordError> {
    let mut document = tree(text)?;
    for (key, value) in values {
        set(&mut document, key, Value::String(value.clone()))?;
    }
    printed(&document)
}

/// The section `proxy` of the keys alone: the document itself may have to be fetched through it.
///
/// # Errors
/// When the keys make no such section.
pub(super) fn proxy(keys: &[(String, String)]) -> Result<Option<Proxy>, WordError> {
    let mut document = Value::Null;
    for (key, value) in keys.iter().filter(|(key, _)| key.split('.').next() == Some("proxy")) {
        set(&mut document, key, value_of(value))?;
    }
    let section = document.get("proxy").cloned().map(serde_json::from_value);
    section.transpose().map_err(|e| WordError::Document(format!("proxy: {e}")))
}

fn tree(text: &str) -> Result<Value, WordError> {
    serde_saphyr::from_str(text).map_err(|e| WordError::Document(e.without_snippet().to_string()))
}

/// A word's value as YAML reads it: a number, a list; and otherwise the text itself.
fn value_of(text: &str) -> Value {
    serde_saphyr::from_str::<Value>(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// JSON is YAML too.
fn printed(document: &Value) -> Result<String, WordError> {
    serde_json::to_string_pretty(document).map(|text| text + "\n").map_err(|e| WordError::Document(e.to_string()))
}

fn set(document: &mut Value, key: &str, value: Value) -> Result<(), WordError> {
    let mut place = document;
    let mut path = "the document".to_owned();
    for part in key.split('.') {
        let index = part.parse::<usize>().ok();
        if place.is_null() {
            *place = if index.is_some() { Value::Array(Vec::new()) } else { Value::Object(Map::new()) };
        }
        place = match (place, index) {
            (Value::Object(keys), _) => keys.entry(part).or_insert(Value::Null),
            (Value::Array(items), Some(index)) => {
                let there = items.len();
                if index > there || index >= MAX_INDEX {
                    return Err(WordError::Index { key: key.to_owned(), index, there });
                }
                if index == there {
                    items.push(Value::Null);
                }
                &mut items[index]
            }
            (other, _) => {
                let found = if other.is_array() { "a list" } else { "a single value" };
                return Err(WordError::Place { key: key.to_owned(), place: path, found });
            }
        };
        path = format!("`{part}`");
    }
    *place = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(words: &[(&str, &str)]) -> Vec<(String, String)> {
        words.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn words_are_read() {
        let line = "quiet roothash=ab furrow.medium furrow.unattended furrow.hostname=n1 furrow.hostname=n2 \
                    furrow.config=https://server/n.yaml furrow.config-sha256=ab furrow.admin.sshKeys.0=\"ssh-ed25519 AAAA me\"";
        let words = parse(line).expect("good");
        assert!(words.unattended);
        let remote = Remote { url: "https://server/n.yaml".into(), ca: None, sha256: Some("ab".into()) };
        assert_eq!(words.remote, Some(remote));
        assert_eq!(words.keys, keys(&[("hostname", "n2"), ("admin.sshKeys.0", "ssh-ed25519 AAAA me")]));
        assert_eq!(parse("ro console=tty0"), Ok(Words::default()));
    }

    #[test]
    fn every_key_of_the_document_is_known() {
        let source = include_str!("../config.rs").split("pub(crate) struct NodeConfig {").nth(1).expect("the document");
        let fields = source.split("\n}").next().unwrap_or_default().lines();
        let fields: Vec<&str> =
            fields.filter_map(|line| Some(line.trim().strip_prefix("pub(crate) ")?.split_once(':')?.0)).collect();
        assert_eq!(fields.iter().map(|field| field.replace("api_version", "apiVersion")).collect::<Vec<_>>(), KEYS);
    }

    #[test]
    fn words_that_mean_nothing_are_refused_by_name() {
        let check = |line: &str, expected: &str| {
            let error = parse(line).expect_err("it was accepted").to_string();
            assert!(error.contains(expected), "`{error}` does not contain `{expected}`");
        };
        check("furrow.hostnam=n1", "`furrow.hostnam` is unknown");
        check("furrow.unatended", "`furrow.unatended` is unknown");
        check("furrow.hostname", "`furrow.hostname` needs a value");
        check("furrow.management..address=1", "`furrow.management..address` is unknown");
        check("furrow.config-ca=/a", "`furrow.config-ca` is of use beside furrow.config only");
    }

    #[test]
    fn keys_are_laid_over_the_document() {
        let text = "hostname: n1 # the first\nmanagement: {interface: eth0, address: 10.0.0.1}\nceph:\n  disks:\n    - id: A\n";
        let over = keys(&[
            ("hostname", "n2"),
            ("management.prefixLength", "24"),
            ("ceph.disks.1.id", "B"),
            ("install.disk", r#"{"id":"C","wipe":true}"#),
        ]);
        let laid: Value = serde_json::from_str(&overlay(Some(text), &over).expect("fits")).expect("JSON");
        let expected = serde_json::json!({
            "hostname": "n2",
            "management": {"interface": "eth0", "address": "10.0.0.1", "prefixLength": 24},
            "ceph": {"disks": [{"id": "A"}, {"id": "B"}]},
            "install": {"disk": {"id": "C", "wipe": true}},
        });
        assert_eq!(laid, expected);
        assert_eq!(overlay(Some(text), &[]).as_deref(), Ok(text));
    }

    #[test]
    fn keys_alone_make_a_document() {
        let over = keys(&[
            ("hostname", "n1"),
            ("management.interface", "eth0"),
            ("management.address", "10.0.0.1"),
            ("ceph.disks.0.id", "B"),
            ("install.disk.id", "A"),
        ]);
        let config = crate::config::parse(&overlay(None, &over).expect("fits")).expect("valid");
        assert_eq!(config.hostname, "n1");
        let wrong = keys(&[("hostname", "n1"), ("management.adress", "10.0.0.1")]);
        let error = crate::config::parse(&overlay(None, &wrong).expect("fits")).expect_err("accepted").to_string();
        assert!(error.contains("adress"), "{error}");
    }

    #[test]
    fn texts_take_the_places_of_references() {
        let text = "admin: {passwordHash: {file: hash}}\nhostname: n1\n";
        let with = with_values(text, &[("admin.passwordHash", "$6$a: b".to_owned())]).expect("fits");
        let expected = serde_json::json!({"admin": {"passwordHash": "$6$a: b"}, "hostname": "n1"});
        assert_eq!(serde_json::from_str::<Value>(&with).expect("JSON"), expected);
    }

    #[test]
    fn a_proxy_is_known_before_the_document() {
        assert_eq!(proxy(&keys(&[("hostname", "n1")])), Ok(None));
        let words = keys(&[("proxy.https", "http://proxy:3128"), ("proxy.noProxy", "[a, b]"), ("hostname", "n1")]);
        let found = proxy(&words).expect("good").expect("there");
        assert_eq!(found.https.as_ref().and_then(crate::config::Secret::value), Some("http://proxy:3128"));
        assert_eq!((found.http, found.no_proxy), (None, vec!["a".to_owned(), "b".to_owned()]));
        let wrong = proxy(&keys(&[("proxy.htps", "http://user:word@proxy")])).expect_err("accepted").to_string();
        assert!(wrong.contains("htps") && !wrong.contains("word"), "{wrong}");
    }

    #[test]
    fn keys_that_do_not_fit_are_refused_by_name() {
        let check = |key: &str, expected: &str| {
            let error = overlay(Some("hostname: n1\nceph: {disks: []}\n"), &keys(&[(key, "x")]));
            let error = error.expect_err("it was accepted").to_string();
            assert!(error.contains(expected), "`{error}` does not contain `{expected}`");
        };
        check(
            "hostname.first",
            "`furrow.hostname.first` cannot be laid over node.yaml, where `hostname` is a single value",
        );
        check("ceph.disks.id", "where `disks` is a list");
        check("ceph.disks.1.id", "entry 1 does not follow the 0 that are there");
    }
}
