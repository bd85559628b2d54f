//! A kernel that a guest is booted with directly: which image it is in, and where. Refuses an initrd without a kernel, which
//! QEMU does not take.

use furrow_api::vmi::KernelBoot;
use furrow_model::oci::{self, Reference};

use crate::admission::causes::Causes;

/// Longest command line that x86 kernels take, in bytes (`COMMAND_LINE_SIZE`).
const ARGUMENTS_MAX_BYTES: usize = 2048;

pub(super) fn check(field: &str, boot: &KernelBoot, causes: &mut Causes) {
    let arguments = boot.kernel_args.as_deref().unwrap_or_default();
    let Some(container) = &boot.container else {
        if !arguments.is_empty() {
            causes.invalid(format!("{field}.kernelArgs"), "must not be set without container, which has the kernel");
        }
        return;
    };
    if arguments.len() >= ARGUMENTS_MAX_BYTES || arguments.chars().any(char::is_control) {
        let text = format!("must be one line of fewer than {ARGUMENTS_MAX_BYTES} bytes");
        causes.invalid(format!("{field}.kernelArgs"), text);
    }
    let field = format!("{field}.container");
    if container.image.is_empty() {
        causes.required(format!("{field}.image"), "must not be empty");
    } else if let Err(error) = Reference::parse(&container.image) {
        causes.invalid(format!("{field}.image"), error);
    }
    let given = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    match given(&container.kernel_path) {
        None => causes.required(format!("{field}.kernelPath"), "must be the path of the kernel in the image"),
        Some(path) => check_path(&format!("{field}.kernelPath"), &path, causes),
    }
    if let Some(path) = given(&container.initrd_path) {
        check_path(&format!("{field}.initrdPath"), &path, causes);
    }
}

fn check_path(field: &str, path: &str, causes: &mut Causes) {
    if let Some(problem) = oci::path_problem(path) {
        causes.invalid(field, problem);
    }
}
