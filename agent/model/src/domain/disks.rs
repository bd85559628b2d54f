//! Disks of a domain: their XML and the configurator that names their targets. Owns KubeVirt's conventions: `vda`,
//! `vdb` on virtio, `sda` elsewhere, counted for each prefix in the order of the spec; alias `ua-<name>`.

use std::collections::HashMap;

use serde::Serialize;

use super::document::{Address, Alias, Boot, Controller, Domain, Empty};
use super::io_threads::{self, DiskThreads};
use super::spec::{DiskBus, DiskDevice, DiskSource, DiskSpec, DomainError, DomainSpec, RbdSource};

#[derive(Debug, Serialize)]
pub(super) struct Disk {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@device")]
    device: &'static str,
    driver: Driver,
    source: Source,
    target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    readonly: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shareable: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blockio: Option<BlockIo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<Boot>,
    alias: Alias,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
}

#[derive(Debug, Serialize)]
struct BlockIo {
    #[serde(rename = "@logical_block_size")]
    logical: u32,
    #[serde(rename = "@physical_block_size")]
    physical: u32,
}

#[derive(Debug, Serialize)]
struct Threads {
    #[serde(rename = "iothread")]
    threads: Vec<Thread>,
}

#[derive(Debug, Serialize)]
struct Thread {
    #[serde(rename = "@id")]
    id: u32,
}

#[derive(Debug, Serialize)]
struct Driver {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@cache")]
    cache: String,
    #[serde(rename = "@error_policy")]
    error_policy: String,
    #[serde(rename = "@io", skip_serializing_if = "Option::is_none")]
    io: Option<String>,
    #[serde(rename = "@discard", skip_serializing_if = "Option::is_none")]
    discard: Option<&'static str>,
    #[serde(rename = "@queues", skip_serializing_if = "Option::is_none")]
    queues: Option<u32>,
    #[serde(rename = "@iothread", skip_serializing_if = "Option::is_none")]
    thread: Option<u32>,
    #[serde(rename = "iothreads", skip_serializing_if = "Option::is_none")]
    threads: Option<Threads>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Source {
    #[serde(rename = "@file", skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(rename = "@protocol", skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(rename = "@name", skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "host")]
    hosts: Vec<Host>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<Auth>,
}

#[derive(Debug, Serialize)]
struct Host {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "@port")]
    port: u16,
}

#[derive(Debug, Serialize)]
struct Auth {
    #[serde(rename = "@username")]
    username: String,
    secret: Secret,
}

#[derive(Debug, Serialize)]
struct Secret {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@uuid")]
    uuid: String,
}

#[derive(Debug, Serialize)]
struct Target {
    #[serde(rename = "@dev")]
    dev: String,
    #[serde(rename = "@bus")]
    bus: &'static str,
    #[serde(rename = "@tray", skip_serializing_if = "Option::is_none")]
    tray: Option<&'static str>,
}

pub(super) fn configure(spec: &DomainSpec, domain: &mut Domain) {
    let targets = target_names(&spec.disks);
    let (count, threads) = io_threads::assign(spec.io_threads, &spec.disks, spec.cpu.count());
    domain.iothreads = Some(count).filter(|count| *count > 0);
    let disks = spec.disks.iter().zip(targets).zip(threads);
    domain.devices.disks = disks.map(|((disk, dev), threads)| render(disk, dev, threads)).collect();
    // A disk can be plugged into a running guest where this is, and a controller cannot.
    if spec.extras.plug_disks || spec.disks.iter().any(|disk| disk.bus == DiskBus::Scsi) {
        let model = Some("virtio-non-transitional");
        domain.devices.controllers.push(Controller { kind: "scsi", index: 0, model });
    }
}

/// The document of one disk, to be plugged into a running guest under a name of [`free_target`].
///
/// # Errors
/// When it has no XML form: a defect.
pub fn render_disk(disk: &DiskSpec, target: String) -> Result<String, DomainError> {
    // A SCSI disk has no I/O thread of its own: its controller's requests are the main loop's.
    let document = render(disk, target, DiskThreads::None);
    quick_xml::se::to_string_with_root("disk", &document)
        .map_err(|error| DomainError::Serialise { message: error.to_string() })
}

/// A device name that no disk of a running guest has.
pub fn free_target(bus: DiskBus, used: &[String]) -> String {
    let prefix = prefix(bus);
    let mut names = (0..).map(|index| format!("{prefix}{}", letters(index)));
    names.find(|name| !used.contains(name)).unwrap_or_default()
}

fn prefix(bus: DiskBus) -> &'static str {
    if bus == DiskBus::Virtio { "vd" } else { "sd" }
}

/// What stands before a disk's name in its alias; libvirt keeps such aliases as they are given.
pub const ALIAS_PREFIX: &str = "ua-";

/// Device names of disks, in their order: what the guest will most likely see them as, and what
/// `status.volumeStatus[].target` says.
pub fn target_names(disks: &[DiskSpec]) -> Vec<String> {
    let mut used: HashMap<&'static str, u32> = HashMap::new();
    disks
        .iter()
        .map(|disk| {
            let prefix = prefix(disk.bus);
            let index = used.entry(prefix).or_default();
            let name = format!("{prefix}{}", letters(*index));
            *index += 1;
            name
        })
        .collect()
}

/// 0 is `a`, 25 `z`, 26 `aa`.
fn letters(index: u32) -> String {
    let mut rest = index + 1;
    let mut reversed = Vec::new();
    while rest > 0 {
        let digit = (rest - 1) % 26;
        reversed.push(char::from(b'a' + u8::try_from(digit).unwrap_or(0)));
        rest = (rest - 1) / 26;
    }
    reversed.iter().rev().collect()
}

fn render(disk: &DiskSpec, dev: String, threads: DiskThreads) -> Disk {
    let is_rbd = matches!(disk.source, DiskSource::Rbd(_));
    let is_cdrom = disk.device == DiskDevice::Cdrom;
    // QEMU has no read-only disks on the SATA bus; the image itself then stays unwritten only by the guest's manners.
    let can_be_read_only = is_cdrom || disk.bus != DiskBus::Sata;
    Disk {
        kind: if is_rbd { "network" } else { "file" },
        device: if is_cdrom { "cdrom" } else { "disk" },
        driver: Driver {
            name: "qemu",
            kind: "raw",
            cache: disk.cache.clone().unwrap_or_else(|| "none".to_owned()),
            error_policy: disk.error_policy.clone().unwrap_or_else(|| "stop".to_owned()),
            io: disk.io.clone(),
            // So that a guest's fstrim gives space back to the pool.
            discard: is_rbd.then_some("unmap"),
            // Only virtio has queues; libvirt refuses the attribute elsewhere.
            queues: disk.queues.filter(|_| disk.bus == DiskBus::Virtio),
            thread: if let DiskThreads::One(id) = threads { Some(id) } else { None },
            threads: match threads {
                DiskThreads::All(count) => Some(Threads { threads: (1..=count).map(|id| Thread { id }).collect() }),
                DiskThreads::None | DiskThreads::One(_) => None,
            },
        },
        source: source(&disk.source),
        target: Target { dev, bus: bus_name(disk.bus), tray: (is_cdrom && disk.tuning.tray_open).then_some("open") },
        readonly: ((disk.read_only || is_cdrom) && can_be_read_only).then_some(Empty {}),
        shareable: disk.shareable.then_some(Empty {}),
        blockio: disk.tuning.block_size.map(|size| BlockIo { logical: size.logical, physical: size.physical }),
        serial: disk.serial.clone(),
        boot: disk.boot_order.map(|order| Boot { order }),
        alias: Alias { name: format!("{ALIAS_PREFIX}{}", disk.name) },
        address: disk.tuning.pci_address.map(super::devices::PciAddress::element),
    }
}

fn source(source: &DiskSource) -> Source {
    match source {
        DiskSource::File(path) => Source { file: Some(path.display().to_string()), ..Source::default() },
        DiskSource::Rbd(rbd) => rbd_source(rbd),
    }
}

/// An image, of a disk or of a flash chip.
pub(super) fn rbd_source(RbdSource { pool, image, monitors, user, secret }: &RbdSource) -> Source {
    Source {
        protocol: Some("rbd"),
        name: Some(format!("{pool}/{image}")),
        hosts: monitors.iter().map(|(name, port)| Host { name: name.clone(), port: *port }).collect(),
        auth: Some(Auth { username: user.clone(), secret: Secret { kind: "ceph", uuid: secret.to_string() } }),
        ..Source::default()
    }
}

fn bus_name(bus: DiskBus) -> &'static str {
    match bus {
        DiskBus::Virtio => "virtio",
        DiskBus::Sata => "sata",
        DiskBus::Scsi => "scsi",
        DiskBus::Usb => "usb",
    }
}
