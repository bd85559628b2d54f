//! The kernel that a guest is booted with directly, out of an image of a registry. Its files stand in the guest's directory
//! with the rest of its media and go with it; a note beside them, written last, says what they are, so that an agent that
//! ended in between fetches them again. Refuses an image that control has not reserved: the reservation has the digest that
//! the reference of the spec meant when the guest was made.

use std::path::Path;
use std::time::Duration;

use furrow_api::VirtualMachineInstance;
use furrow_api::import::PullSecret;
use furrow_api::reservation::{Reservation, ReservedImage};
use furrow_api::vmi::{Firmware, KernelBootContainer};
use furrow_model::domain::KernelSpec;
use furrow_model::reasons::chain;
use futures::future::BoxFuture;
use kube::ResourceExt as _;

use super::convert::ConvertError;
use super::ports::HostError;
use crate::storage::{Images, WantedFile};

/// Names of the files in the guest's directory.
const KERNEL: &str = "kernel";
const INITRD: &str = "initrd";
const NOTE: &str = "kernel.image";
/// An image takes longer than a volume or a port: it comes from far away. A guest that is deleted waits as long.
const LIMIT: Duration = Duration::from_secs(180);

/// Files of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelFiles {
    /// The image, by its digest.
    pub(crate) image: ReservedImage,
    /// The login for its registry.
    pub(crate) secret: Option<PullSecret>,
    /// Path in the image, and name in the guest's directory.
    pub(crate) files: Vec<WantedFile>,
}

/// The registries.
pub(crate) trait FetchesFiles: Send + Sync {
    /// Puts files of an image into a directory, whole or not at all.
    fn fetch<'a>(&'a self, wanted: &'a KernelFiles, into: &'a Path) -> BoxFuture<'a, Result<(), HostError>>;
}

impl FetchesFiles for Images {
    fn fetch<'a>(&'a self, wanted: &'a KernelFiles, into: &'a Path) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let taken = self.take(&wanted.image, wanted.secret.as_ref(), &wanted.files, into).await;
            taken.map_err(|error| failed(chain(&error)))
        })
    }
}

fn failed(message: String) -> HostError {
    HostError { reason: "ErrImagePull", message, permanent: false }
}

fn container(firmware: Option<&Firmware>) -> Option<&KernelBootContainer> {
    firmware?.kernel_boot.as_ref()?.container.as_ref()
}

/// What a guest needs of an image; `None` for one that boots by itself.
pub(crate) fn wanted(
    vmi: &VirtualMachineInstance,
    reservation: &Reservation,
) -> Result<Option<KernelFiles>, ConvertError> {
    let Some(container) = container(vmi.spec.domain.firmware.as_ref()) else { return Ok(None) };
    let image = reservation.kernel.clone();
    let image = image.ok_or_else(|| ConvertError::NotReserved { kind: "kernel", name: container.image.clone() })?;
    let name = container.image_pull_secret.clone().filter(|name| !name.is_empty());
    let named = name.map(|name| PullSecret::named(&vmi.namespace().unwrap_or_default(), &name));
    let secret = named.or_else(|| image.pull_secret.clone());
    let file = |path: &Option<String>, name| {
        let path = path.clone().filter(|path| !path.is_empty());
        path.map(|path| WantedFile { path, name })
    };
    let files = file(&container.kernel_path, KERNEL).into_iter().chain(file(&container.initrd_path, INITRD)).collect();
    Ok(Some(KernelFiles { image, secret, files }))
}

/// What the domain is told of them.
pub(crate) fn spec(firmware: &Firmware, guest_dir: &Path) -> Option<KernelSpec> {
    let container = container(Some(firmware))?;
    let boot = firmware.kernel_boot.as_ref()?;
    let initrd = container.initrd_path.as_ref().filter(|path| !path.is_empty());
    Some(KernelSpec {
        kernel: guest_dir.join(KERNEL),
        initrd: initrd.map(|_| guest_dir.join(INITRD)),
        arguments: boot.kernel_args.clone().filter(|arguments| !arguments.is_empty()),
    })
}

/// Puts the files into the guest's directory, which is there, unless they are there already.
pub(crate) async fn ensure(
    fetches: &dyn FetchesFiles,
    wanted: Option<&KernelFiles>,
    guest_dir: &Path,
) -> Result<(), HostError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let note = guest_dir.join(NOTE);
    let text = described(wanted);
    // One that cannot be read is as good as none.
    if tokio::fs::read_to_string(&note).await.is_ok_and(|found| found == text) {
        return Ok(());
    }
    // Dropping it ends the child; what it left is overwritten by the next.
    let fetched = tokio::time::timeout(LIMIT, fetches.fetch(wanted, guest_dir)).await;
    fetched.map_err(|_| {
        failed(format!("could not fetch the kernel from {} within {} s", wanted.image.image, LIMIT.as_secs()))
    })??;
    let written = tokio::fs::write(&note, text).await;
    written.map_err(|error| HostError {
        reason: "KernelFailed",
        message: format!("could not write {}: {error}", note.display()),
        permanent: false,
    })
}

fn described(wanted: &KernelFiles) -> String {
    let files = wanted.files.iter().map(|file| format!("{} {}\n", file.name, file.path)).collect::<String>();
    format!("{}\n{files}", wanted.image.image)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;

    /// Counts, and fails when it is told to.
    #[derive(Default)]
    struct Registry {
        fetched: Mutex<Vec<KernelFiles>>,
        failing: Mutex<bool>,
    }

    impl FetchesFiles for Registry {
        fn fetch<'a>(&'a self, wanted: &'a KernelFiles, into: &'a Path) -> BoxFuture<'a, Result<(), HostError>> {
            Box::pin(async move {
                std::fs::write(into.join(KERNEL), "half").expect("a directory");
                if *self.failing.lock().expect("no panic") {
                    return Err(failed("the registry hung up".to_owned()));
                }
                self.fetched.lock().expect("no panic").push(wanted.clone());
                Ok(())
            })
        }
    }

    fn guest(container: serde_json::Value) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "vm", "namespace": "shop"},
            "spec": {"domain": {"devices": {}, "firmware": {"kernelBoot": {"kernelArgs": "quiet", "container": container}}}},
        }))
        .expect("a guest")
    }

    fn reserved(image: &str) -> Reservation {
        Reservation {
            kernel: Some(ReservedImage { image: image.to_owned(), ..ReservedImage::default() }),
            ..Reservation::default()
        }
    }

    fn file(path: &str, name: &'static str) -> WantedFile {
        WantedFile { path: path.to_owned(), name }
    }

    #[test]
    fn files_are_those_of_the_reserved_image() {
        let vmi =
            guest(json!({"image": "r/x:1", "kernelPath": "/boot/k", "initrdPath": "", "imagePullSecret": "login"}));
        let files = wanted(&vmi, &reserved("r/x@sha256:1")).expect("reserved").expect("a kernel");
        assert_eq!(
            (files.image.image.as_str(), files.files.as_slice()),
            ("r/x@sha256:1", &[file("/boot/k", KERNEL)][..])
        );
        assert_eq!(files.secret, Some(PullSecret::named("shop", "login")));
        let silent = guest(json!({"image": "r/x:1", "kernelPath": "/boot/k"}));
        let usual = PullSecret::of_account("shop", vec!["a".into(), "b".into()]);
        let mut reservation = reserved("r/x@sha256:1");
        reservation.kernel.as_mut().expect("a kernel").pull_secret.clone_from(&usual);
        assert_eq!(wanted(&silent, &reservation).expect("reserved").expect("a kernel").secret, usual);
        assert_eq!(wanted(&vmi, &reservation).expect("reserved").expect("a kernel").secret, files.secret);
        assert!(wanted(&vmi, &Reservation::default()).is_err(), "a tag is nothing that could be verified");
        let firmware = vmi.spec.domain.firmware.expect("firmware");
        let spec = spec(&firmware, Path::new("/g")).expect("a kernel");
        assert_eq!((spec.kernel, spec.initrd, spec.arguments.as_deref()), ("/g/kernel".into(), None, Some("quiet")));
    }

    #[tokio::test]
    async fn what_is_there_is_not_fetched_again_and_what_is_half_there_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let registry = Registry::default();
        let vmi = guest(json!({"image": "r/x:1", "kernelPath": "/boot/k", "initrdPath": "/boot/i"}));
        let first = wanted(&vmi, &reserved("r/x@sha256:1")).expect("reserved");
        *registry.failing.lock().expect("no panic") = true;
        let error = ensure(&registry, first.as_ref(), dir.path()).await.expect_err("told to fail");
        assert_eq!((error.reason, error.permanent), ("ErrImagePull", false));
        *registry.failing.lock().expect("no panic") = false;
        for _ in 0..2 {
            ensure(&registry, first.as_ref(), dir.path()).await.expect("fetched");
        }
        assert_eq!(registry.fetched.lock().expect("no panic").len(), 1);
        let second = wanted(&vmi, &reserved("r/x@sha256:2")).expect("reserved");
        ensure(&registry, second.as_ref(), dir.path()).await.expect("fetched");
        assert_eq!(registry.fetched.lock().expect("no panic").len(), 2, "another image has other files");
        ensure(&registry, None, dir.path()).await.expect("nothing to do");
    }
}
