//! Metadata of a guest as files: what a `downwardAPI` volume shows, in the form that Kubernetes gives pods. Owns which
//! fields there are. Refuses resources: a guest sees its own hardware.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What can be shown.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    /// Name.
    pub name: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// UID.
    pub uid: &'a str,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Annotations.
    pub annotations: &'a BTreeMap<String, String>,
}

/// Why a file cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownwardError {
    /// Not a field of the metadata.
    #[error(
        "field path {0:?} is none of metadata.name, metadata.namespace, metadata.uid, metadata.labels, metadata.annotations"
    )]
    Field(String),
    /// A path that leads elsewhere.
    #[error("path {0:?} is not the name of a file: directories are not made")]
    Path(String),
}

/// The text of a field. Maps are a `key="value"` a line, sorted; one entry of a map is its value, or nothing.
///
/// # Errors
/// When there is no such field.
pub fn value(metadata: &Metadata<'_>, path: &str) -> Result<String, DownwardError> {
    let maps = [("metadata.labels", metadata.labels), ("metadata.annotations", metadata.annotations)];
    for (name, map) in maps {
        if path == name {
            return Ok(lines(map));
        }
        let key = path.strip_prefix(name).and_then(|rest| rest.strip_prefix("['")?.strip_suffix("']"));
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            return Ok(map.get(key).cloned().unwrap_or_default());
        }
    }
    match path {
        "metadata.name" => Ok(metadata.name.to_owned()),
        "metadata.namespace" => Ok(metadata.namespace.to_owned()),
        "metadata.uid" => Ok(metadata.uid.to_owned()),
        other => Err(DownwardError::Field(other.to_owned())),
    }
}

/// Whether a field path can be shown.
///
/// # Errors
/// When there is no such field.
pub fn check(path: &str) -> Result<(), DownwardError> {
    let none = BTreeMap::new();
    let metadata = Metadata { name: "", namespace: "", uid: "", labels: &none, annotations: &none };
    value(&metadata, path).map(drop)
}

/// The name of a file in the volume's only directory.
///
/// # Errors
/// When it is a path.
pub fn file_name(path: &str) -> Result<&str, DownwardError> {
    if path.is_empty() || path.contains('/') || path == "." || path == ".." {
        return Err(DownwardError::Path(path.to_owned()));
    }
    Ok(path)
}

/// Kubernetes' form of a map in a file, with the escapes of a Go string.
fn lines(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = write!(text, "{key}=\"");
        for letter in value.chars() {
            match letter {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_value(path: &str, expected: Result<&str, DownwardError>) {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("a.b/c".to_owned(), "x".to_owned())]);
        let annotations = BTreeMap::from([("note".to_owned(), "say \"hi\"\nC:\\".to_owned())]);
        let metadata =
            Metadata { name: "vm", namespace: "shop", uid: "u-1", labels: &labels, annotations: &annotations };
        assert_eq!(value(&metadata, path), expected.map(str::to_owned), "{path}");
    }

    #[test]
    fn fields_are_shown_as_kubernetes_shows_them() {
        check_value("metadata.name", Ok("vm"));
        check_value("metadata.namespace", Ok("shop"));
        check_value("metadata.uid", Ok("u-1"));
        check_value("metadata.labels", Ok("a.b/c=\"x\"\napp=\"web\""));
        check_value("metadata.labels['a.b/c']", Ok("x"));
        check_value("metadata.labels['none']", Ok(""));
        check_value("metadata.annotations", Ok("note=\"say \\\"hi\\\"\\nC:\\\\\""));
        for path in ["", "spec.nodeName", "metadata.labels['']", "metadata.labels[app]"] {
            check_value(path, Err(DownwardError::Field(path.to_owned())));
        }
    }

    #[test]
    fn files_have_names_and_no_paths() {
        assert_eq!(file_name("labels"), Ok("labels"));
        for path in ["", "a/b", "..", "/etc/passwd"] {
            assert_eq!(file_name(path), Err(DownwardError::Path(path.to_owned())));
        }
    }
}
