//! Manifests: OCI's and Docker's second version, which differ in the names of media types only, and indexes of them. What
//! it is, is told by its content, not by a header. Refuses the first version, which says nothing of sizes.

use serde::Deserialize;

use super::reference::{Digest, ReferenceError};

/// More layers than any builder makes: Docker allows 127.
const MAX_LAYERS: usize = 128;
const MAX_ENTRIES: usize = 256;

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON, or not of this shape.
    #[error("the manifest is malformed: {0}")]
    Malformed(String),
    /// Neither index nor manifest.
    #[error("the manifest is neither an image nor an index of images (schema version {0})")]
    Kind(i64),
    /// It holds more than is read.
    #[error("the manifest lists {count} {what}, at most {limit} are read")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// No image for this machine.
    #[error("the index has no image for linux/amd64, only for {}", if .0.is_empty() { "none" } else { .0 })]
    NoPlatform(String),
    /// A layer that is no archive.
    #[error("layer {digest} is of media type {media_type}: an archive of files was expected")]
    Layer {
        /// Its digest.
        digest: String,
        /// Its media type.
        media_type: String,
    },
    /// A name of a part is none.
    #[error(transparent)]
    Digest(#[from] ReferenceError),
}

/// What a reference points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Images for several platforms.
    Index(Vec<Entry>),
    /// An image: its layers, the lowest first.
    Image(Vec<Layer>),
}

/// An image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Operating system and architecture, if they are said.
    pub platform: Option<(String, String)>,
}

/// A layer: an archive of files, plain or compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob as it is stored.
    pub digest: Digest,
    /// Its length, bytes.
    pub size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: i64,
    #[serde(default)]
    manifests: Option<Vec<RawPart>>,
    #[serde(default)]
    layers: Option<Vec<RawPart>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPart {
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// Reads a document.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| ManifestError::Malformed(error.to_string()))?;
    match raw {
        Raw { manifests: Some(parts), .. } => {
            limited("images", &parts, MAX_ENTRIES)?;
            Ok(Document::Index(parts.into_iter().map(entry).collect::<Result<_, _>>()?))
        }
        Raw { schema_version: 2, layers: Some(parts), .. } => {
            limited("layers", &parts, MAX_LAYERS)?;
            Ok(Document::Image(parts.into_iter().map(layer).collect::<Result<_, _>>()?))
        }
        Raw { schema_version, .. } => Err(ManifestError::Kind(schema_version)),
    }
}

fn limited(what: &'static str, parts: &[RawPart], limit: usize) -> Result<(), ManifestError> {
    let count = parts.len();
    if count > limit { Err(ManifestError::TooMany { what, count, limit }) } else { Ok(()) }
}

fn entry(part: RawPart) -> Result<Entry, ManifestError> {
    let platform = part.platform.map(|platform| (platform.os, platform.architecture));
    Ok(Entry { digest: Digest::parse(&part.digest)?, platform })
}

fn layer(part: RawPart) -> Result<Layer, ManifestError> {
    const ARCHIVES: [&str; 6] = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ];
    if !ARCHIVES.contains(&part.media_type.as_str()) {
        return Err(ManifestError::Layer { digest: part.digest, media_type: part.media_type });
    }
    Ok(Layer { digest: Digest::parse(&part.digest)?, size: part.size })
}

/// The image of an index that runs here: linux on amd64, or the only one there is if nothing is said of it.
///
/// # Errors
/// When there is none.
pub fn choose_platform(entries: &[Entry]) -> Result<&Entry, ManifestError> {
    let ours = |entry: &&Entry| entry.platform.as_ref().is_some_and(|(os, arch)| os == "linux" && arch == "amd64");
    if let Some(entry) = entries.iter().find(ours) {
        return Ok(entry);
    }
    if let [Entry { platform: None, .. }] = entries {
        return Ok(&entries[0]);
    }
    let named = entries.iter().filter_map(|entry| entry.platform.as_ref());
    let named: Vec<_> = named.map(|(os, architecture)| format!("{os}/{architecture}")).collect();
    Err(ManifestError::NoPlatform(named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn digest(byte: u8) -> Digest {
        Digest::of(&[byte])
    }

    fn parsed(document: &Value) -> Result<Document, ManifestError> {
        parse(document.to_string().as_bytes())
    }

    fn platform(byte: u8, os: &str, architecture: &str) -> Value {
        json!({"digest": digest(byte).to_string(), "platform": {"os": os, "architecture": architecture}})
    }

    #[test]
    fn an_image_has_its_layers_in_order() {
        let part = |byte, kind| json!({"digest": digest(byte).to_string(), "size": byte, "mediaType": kind});
        let image = json!({"schemaVersion": 2, "config": {}, "layers": [
            part(1, "application/vnd.oci.image.layer.v1.tar+zstd"),
            part(2, "application/vnd.docker.image.rootfs.diff.tar.gzip")]});
        let layer = |byte| Layer { digest: digest(byte), size: u64::from(byte) };
        assert_eq!(parsed(&image), Ok(Document::Image(vec![layer(1), layer(2)])));
    }

    #[test]
    fn the_image_of_this_platform_is_chosen() {
        let check = |entries: Value, expected: Result<u8, &str>| {
            let Ok(Document::Index(entries)) = parsed(&json!({"schemaVersion": 2, "manifests": entries})) else {
                panic!("no index: {entries}")
            };
            let found = choose_platform(&entries).map(|entry| entry.digest.clone()).map_err(|e| e.to_string());
            match expected {
                Ok(byte) => assert_eq!(found, Ok(digest(byte))),
                Err(text) => assert!(found.clone().is_err_and(|error| error.contains(text)), "{found:?}"),
            }
        };
        check(json!([platform(1, "linux", "arm64"), platform(2, "linux", "amd64")]), Ok(2));
        check(json!([platform(1, "unknown", "unknown"), platform(2, "linux", "amd64")]), Ok(2));
        check(json!([{"digest": digest(3).to_string()}]), Ok(3));
        check(
            json!([platform(1, "linux", "arm64"), platform(2, "windows", "amd64")]),
            Err("linux/arm64, windows/amd64"),
        );
        check(json!([{"digest": digest(3).to_string()}, {"digest": digest(4).to_string()}]), Err("only for none"));
        check(json!([]), Err("only for none"));
    }

    #[test]
    fn what_is_no_image_is_refused_by_its_part() {
        let check = |document: Value, part: &str| {
            let error = parsed(&document).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(json!("x"), "malformed");
        check(json!({"schemaVersion": 1, "fsLayers": []}), "schema version 1");
        check(json!({"schemaVersion": 1, "layers": []}), "schema version 1");
        check(
            json!({"schemaVersion": 2, "layers": [{"digest": "sha256:1", "mediaType": "application/x"}]}),
            "application/x",
        );
        let archive = "application/vnd.oci.image.layer.v1.tar";
        check(json!({"schemaVersion": 2, "layers": [{"digest": "md5:1", "mediaType": archive}]}), "is no digest");
        let many = vec![json!({"digest": digest(1).to_string(), "mediaType": archive}); MAX_LAYERS + 1];
        check(json!({"schemaVersion": 2, "layers": many}), "129 layers, at most 128");
    }
}
