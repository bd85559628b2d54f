//! Every golden domain document against libvirt's own schema, by `virt-xml-validate`, which checks the structure that
//! libvirtd checks and more. It is asked where libvirt is the node image's, in the build root (`image/build-root.sh`),
//! and must be there; elsewhere there is nothing to ask, or a libvirt that is older than some elements.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What `image/build-root.sh` leaves in the root that it has made.
const BUILD_ROOT_MARK: &str = "/.complete";

fn goldens() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/domain/golden");
    let entries = std::fs::read_dir(&dir).expect("the golden documents");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() > 20, "{} has only {} documents", dir.display(), paths.len());
    paths
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test of foreign tools: this crate has no host::Cmd")]
fn libvirts_schema_takes_every_golden_document() {
    let documents = goldens();
    if !Path::new(BUILD_ROOT_MARK).exists() {
        return;
    }
    for path in documents {
        let output = Command::new("virt-xml-validate").arg(&path).arg("domain").output();
        let output = output.expect("virt-xml-validate (libvirt-clients) and xmllint (libxml2-utils) in the build root");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
    }
}
