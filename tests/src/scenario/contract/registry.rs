//! A registry for images: files that the test LAN's server gives out below `/v2`, which is all that pulling needs of one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::Story;
use crate::host;
use crate::layout::Layout;

/// What stands in the registry.
pub(super) struct Published {
    /// `HOST:PORT/REPOSITORY`.
    pub(super) repository: String,
    /// Of the manifest, which has the tag `1`.
    pub(super) digest: String,
    /// Of the only layer.
    pub(super) layer: String,
}

/// Lays an image out as a registry's files: one layer with a directory `folder` that has these files, each by its name in
/// the image.
pub(super) fn publish(story: &Story<'_>, name: &str, folder: &str, files: &[(&Path, &str)]) -> Result<Published> {
    let work = story.bed.layout().part("registry")?.join(name);
    let inside = work.join(folder);
    fs::create_dir_all(&inside)?;
    for (file, name) in files {
        fs::copy(file, inside.join(name)).with_context(|| format!("could not copy {}", file.display()))?;
    }
    let archive = work.join("layer.tar");
    host::run(&["tar", "-C", &shown(&work), "--owner=107", "--group=107", "-cf", &shown(&archive), folder])?;
    let root = story.bed.layout().part("http")?.join("v2").join(name);
    fs::create_dir_all(root.join("manifests"))?;
    fs::create_dir_all(root.join("blobs"))?;
    let layer = digest(&archive)?;
    fs::copy(&archive, root.join("blobs").join(&layer))?;
    let size = fs::metadata(&archive)?.len();
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": layer, "size": size},
        "layers": [{"mediaType": kind, "digest": layer, "size": size}],
    });
    let by_tag = root.join("manifests/1");
    fs::write(&by_tag, manifest.to_string())?;
    let digest = digest(&by_tag)?;
    fs::copy(&by_tag, root.join("manifests").join(&digest))?;
    Ok(Published { repository: format!("{}/{name}", Layout::http_address()), digest, layer })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn digest(file: &Path) -> Result<String> {
    let text = host::run(&["sha256sum", &shown(file)])?;
    let hex = text.split_whitespace().next().context("sha256sum said nothing")?;
    Ok(format!("sha256:{hex}"))
}

/// CDI's list of registries without TLS.
pub(super) fn allow(story: &Story<'_>) -> Result<()> {
    let config = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDIConfig", "metadata": {"name": "config"},
        "spec": {"insecureRegistries": [Layout::http_address().to_string()]},
    });
    story.cluster.apply(&config.to_string()).map(drop)
}
