//! Executes an installation's plan: partitions, root, configuration, boot files, then the ESP's name, which says that all is
//! there, and last the firmware's entry. A kill or power cut leaves a disk that boots nothing of ours and that the next
//! installation takes over, or, in the very last moment, one that boots the whole system.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use furrow_host::block::{self, Contents, Device};
use furrow_host::cmd::Cmd;
use furrow_model::reasons::chain;

use super::InstallPlan;
use super::layout::{ESP_LABEL, ROOT_LABEL, STATE_LABEL, UNFINISHED_LABEL, VERITY_LABEL, is_root};
use crate::boot_entry::{BootEntry, ENTRIES};
use crate::config::{Secret, SecretKey};
use crate::device::{DeviceError, copy_blocks, file, mounted, set_partition};
use crate::events::{Event, Events};
use crate::files::replace;
use crate::firmware_entry::{self, Esp};
use crate::{network, settings};

/// Where partitions are mounted meanwhile.
const WORK: &str = "/run/furrow/install";
/// The kernel and udev see new partitions at once, but for a slow disk.
const UDEV_TIMEOUT: Duration = Duration::from_secs(60);
/// Formatting, on the slowest disk.
const FORMAT_TIMEOUT: Duration = Duration::from_secs(300);

/// Why an installation ended.
#[derive(Debug, thiserror::Error)]
#[error("could not {step}")]
pub(crate) struct WriteError {
    step: &'static str,
    #[source]
    reason: DeviceError,
}

impl WriteError {
    /// What could not be done.
    pub(super) fn step(&self) -> &'static str {
        self.step
    }
}

/// Who hears of it.
pub(super) struct Report<'a> {
    pub(super) say: &'a dyn Fn(&str),
    pub(super) events: &'a Events,
}

impl Report<'_> {
    fn step(&self, number: u32, name: &str) {
        (self.say)(&format!("step {number} of 5: {name}"));
        self.events.send(Event::Step(name));
    }
}

/// All steps in their order.
pub(super) async fn all(plan: &InstallPlan, report: &Report<'_>) -> Result<(), WriteError> {
    let at = |step: &'static str| move |reason| WriteError { step, reason };
    let say = report.say;
    report.step(1, "partitions");
    partitions(plan).await.map_err(at("make the partitions"))?;
    report.step(2, "system");
    for (from, to) in [(&plan.medium.root, ROOT_LABEL), (&plan.medium.verity, VERITY_LABEL)] {
        copy_blocks(from, &of_disk(plan, to).await.map_err(at("find a partition"))?, say)
            .map_err(at("copy the system"))?;
    }
    report.step(3, "configuration");
    let state = of_disk(plan, STATE_LABEL).await.map_err(at("find the state partition"))?;
    configuration(plan, &state).await.map_err(at("write the configuration"))?;
    report.step(4, "boot files");
    let esp = of_disk(plan, UNFINISHED_LABEL).await.map_err(at("find the ESP"))?;
    boot_files(plan, &esp).await.map_err(at("write the boot files"))?;
    report.step(5, "finishing");
    finish(plan).await.map_err(at("finish"))?;
    // Firmware that keeps no entry starts the disk by its fallback path.
    match enter(plan).await {
        Ok(name) => say(&format!("the firmware starts this disk first ({name})")),
        Err(error) => say(&format!("the firmware has no entry for this disk: {error}")),
    }
    say("installed");
    Ok(())
}

async fn partitions(plan: &InstallPlan) -> Result<(), DeviceError> {
    let disk = plan.disk();
    // What lsblk knew may be old; this looks at the disk itself.
    if block::contents(disk).await? == Contents::InUse {
        return Err(DeviceError::InUse(plan.target.path.clone()));
    }
    block::erase(disk).await?;
    let dir = Path::new(WORK).join("repart.d");
    let _ = std::fs::remove_dir_all(&dir);
    for (number, partition) in plan.layout.partitions.iter().enumerate() {
        let path = dir.join(format!("{number}0-{}.conf", partition.label));
        replace(&path, partition.definition().as_bytes(), 0o644).map_err(file(&path))?;
    }
    let repart = Cmd::new("/usr/bin/systemd-repart").args(["--dry-run=no", "--empty=force", "--seed=random"]);
    let definitions = format!("--definitions={}", dir.display());
    repart.args(["--no-pager", &definitions]).arg(disk).timeout(FORMAT_TIMEOUT).run().await?;
    Ok(())
}

/// A partition of the target, as it is now.
async fn partition(plan: &InstallPlan, which: impl Fn(&Device) -> bool) -> Result<Option<Device>, block::BlockError> {
    let disk = block::list().await?.into_iter().find(|d| d.path == plan.target.path);
    Ok(disk.and_then(|d| d.children.into_iter().find(which)))
}

/// A partition of the target by its name: by the disk, because another disk may have a partition of that name. Waits for
/// udev, which names new partitions a moment after the kernel has them.
async fn of_disk(plan: &InstallPlan, label: &'static str) -> Result<PathBuf, DeviceError> {
    let begun = Instant::now();
    loop {
        if let Some(found) = partition(plan, |p| p.partlabel.as_deref() == Some(label)).await? {
            return Ok(PathBuf::from(found.path));
        }
        if begun.elapsed() > UDEV_TIMEOUT {
            let missing = io::Error::new(io::ErrorKind::NotFound, format!("no partition {label}"));
            return Err(file(plan.disk())(missing));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The boot loader and the unified kernel image, as they are on the medium, with their signatures.
async fn boot_files(plan: &InstallPlan, esp: &Path) -> Result<(), DeviceError> {
    mounted(esp, &Path::new(WORK).join("esp"), "umask=0077", async |to| {
        mounted(&plan.medium.esp, &Path::new(WORK).join("medium"), "ro", async |from| {
            let copy = |source: &Path, name: &str| {
                let content = std::fs::read(source).map_err(file(source))?;
                let path = to.join(name);
                replace(&path, &content, 0o644).map_err(file(&path))
            };
            let entry = BootEntry { version: plan.medium.version.clone(), sequence: 1, tries: None };
            copy(&from.join(format!("EFI/Linux/furrow-{}.efi", entry.version)), &entry.image())?;
            for (name, text) in [
                (format!("{ENTRIES}/{}", entry.file_name()), entry.text()),
                ("loader/loader.conf".to_owned(), "timeout 3\neditor no\n".to_owned()),
            ] {
                let path = to.join(name);
                replace(&path, text.as_bytes(), 0o644).map_err(file(&path))?;
            }
            // Last what firmware starts, by an entry for this disk or without one: the rest is there by now.
            let loader = from.join("EFI/BOOT/BOOTX64.EFI");
            copy(&loader, "EFI/systemd/systemd-bootx64.efi")?;
            copy(&loader, "EFI/BOOT/BOOTX64.EFI")
        })
        .await
    })
    .await
}

/// What the node is told: node.yaml and its network, on the layer over /etc.
async fn configuration(plan: &InstallPlan, state: &Path) -> Result<(), DeviceError> {
    mounted(state, &Path::new(WORK).join("state"), "noatime", async |root| {
        let upper = root.join("etc/upper");
        let put = |name: &str, text: &str, mode| {
            let path = upper.join(name.trim_start_matches('/').trim_start_matches("etc/"));
            replace(&path, text.as_bytes(), mode).map_err(file(&path))
        };
        put("etc/furrow/node.yaml", &plan.node_yaml, 0o600)?;
        put("etc/hostname", &format!("{}\n", plan.config.hostname), 0o644)?;
        for (name, unit) in network::files(&plan.config.management) {
            put(&format!("{}/{name}", network::DIR), &unit, 0o644)?;
        }
        if !plan.config.ntp.is_empty() {
            put(settings::TIME_SOURCES, &settings::time_sources(&plan.config), 0o644)?;
        }
        let proxies = settings::proxies(&plan.config);
        if !proxies.is_none() {
            put(furrow_model::proxy::FILE, &proxies.environment(), 0o600)?;
        }
        if let Some(hash) = plan.config.secret(SecretKey::PasswordHash).and_then(Secret::value) {
            // The medium's own, which is the installed system's.
            let from = Path::new("/etc/shadow");
            let shadow = std::fs::read_to_string(from).map_err(file(from))?;
            put("etc/shadow", &settings::shadow_with(&shadow, hash), 0o600)?;
        }
        if !plan.config.admin.ssh_keys.is_empty() {
            let home = root.join("root");
            std::fs::create_dir_all(&home).map_err(file(&home))?;
            std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .map_err(file(&home))?;
            let path = home.join(".ssh/authorized_keys");
            let text = plan.config.admin.ssh_keys.join("\n") + "\n";
            replace(&path, text.as_bytes(), 0o600).map_err(file(&path))?;
        }
        Ok(())
    })
    .await
}

/// Names the ESP as that of a whole system.
async fn finish(plan: &InstallPlan) -> Result<(), DeviceError> {
    nix::unistd::sync();
    set_partition(plan.disk(), (1, "--part-label", ESP_LABEL), false).await?;
    Cmd::new("/usr/bin/udevadm").args(["settle", "--timeout=30"]).timeout(UDEV_TIMEOUT).run().await?;
    Ok(())
}

/// Makes the firmware's entry for this disk. Returns its name.
async fn enter(plan: &InstallPlan) -> Result<String, String> {
    let esp =
        partition(plan, |p| p.partn == Some(1)).await.map_err(|e| e.to_string())?.ok_or("the ESP is not there")?;
    let uuid = esp.partuuid.as_deref().and_then(|u| u.parse().ok()).ok_or("the ESP has no UUID")?;
    let place = Esp::observe(&esp.path, uuid).map_err(|e| chain(&e))?;
    let number = firmware_entry::ensure(Path::new(firmware_entry::VARIABLES), &place).map_err(|e| chain(&e))?;
    Ok(firmware_entry::name(number))
}

/// The state partition, once it is there.
pub(super) async fn state_partition(plan: &InstallPlan) -> Option<PathBuf> {
    let state = partition(plan, |p| p.partlabel.as_deref() == Some(STATE_LABEL)).await.ok()??;
    Some(PathBuf::from(state.path))
}

/// See [`super::end_interrupted`]. `hash`: the running root's.
pub(super) async fn end_interrupted(hash: &str) -> Result<(), WriteError> {
    let failed = |reason| WriteError { step: "end an interrupted installation", reason };
    let devices = block::list().await.map_err(|e| failed(e.into()))?;
    let Some(disk) = devices.iter().find(|d| d.children.iter().any(|c| is_root(c, hash))) else { return Ok(()) };
    let unfinished = disk.children.iter().find(|d| d.partlabel.as_deref() == Some(UNFINISHED_LABEL));
    let Some(number) = unfinished.and_then(|d| d.partn) else { return Ok(()) };
    set_partition(Path::new(&disk.path), (number, "--part-label", ESP_LABEL), true).await.map_err(failed)
}
