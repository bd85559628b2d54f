//! Memory, CPU, firmware, machine and clock of a guest.

use std::collections::BTreeMap;

use furrow_api::quantity;
use furrow_api::vmi::{DomainSpec, VirtualMachineInstanceSpec};
use furrow_model::vm::memory;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::kernel;
use crate::admission::causes::Causes;
use crate::room;

/// QEMU's q35 takes no more.
pub(in crate::admission) const VCPUS_MAX: i64 = 255;

/// Sizes of huge pages on x86-64, bytes.
const HUGE_PAGES: [i64; 2] = [2 << 20, 1 << 30];

/// Keys of `resources` that mean something.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

pub(super) fn check(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    let base = format!("{base}.domain");
    resources(&base, &spec.domain, causes);
    amounts(&base, &spec.domain, causes);
    topology(&base, &spec.domain, causes);
    firmware(&base, &spec.domain, causes);
    machine(&base, &spec.domain, causes);
    if spec.domain.clock.as_ref().is_some_and(|clock| clock.utc.is_some() && clock.timezone.is_some()) {
        causes.invalid(format!("{base}.clock"), "utc and timezone exclude each other");
    }
}

fn resources(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let (requests, limits) = (&domain.resources.requests, &domain.resources.limits);
    for (list, which) in [(requests, "requests"), (limits, "limits")] {
        for (key, value) in list {
            let field = format!("{base}.resources.{which}.{key}");
            if !RESOURCES.contains(&key.as_str()) {
                causes.unsupported(field, "only cpu and memory are known");
                continue;
            }
            match quantity::millis(value) {
                Err(error) => causes.invalid(field, error),
                Ok(amount) if amount <= 0 => causes.invalid(field, format!("must be above 0, is {}", value.0)),
                Ok(_) => {}
            }
        }
    }
    for key in RESOURCES {
        let (Some(request), Some(limit)) = (amount(requests, key), amount(limits, key)) else { continue };
        if request > limit {
            let field = format!("{base}.resources.requests.{key}");
            let (request, limit) = (&requests[key].0, &limits[key].0);
            causes.invalid(
                &field,
                format!("{field} '{request}' is greater than {base}.resources.limits.{key} '{limit}'"),
            );
        }
    }
}

fn amount(list: &BTreeMap<String, Quantity>, key: &str) -> Option<i64> {
    list.get(key).and_then(|value| quantity::millis(value).ok())
}

fn amounts(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let guest = domain.memory.as_ref().and_then(|memory| memory.guest.as_ref());
    let resources = &domain.resources;
    if guest.is_none() && !resources.requests.contains_key("memory") && !resources.limits.contains_key("memory") {
        let text = "no memory requested, at least one of memory.guest or resources.requests.memory must be set";
        causes.required(format!("{base}.memory.guest"), text);
    }
    if let Some(guest) = guest {
        let field = format!("{base}.memory.guest");
        match quantity::units(guest) {
            Err(error) => causes.invalid(field, error),
            Ok(bytes) if bytes < 1 << 20 => causes.invalid(field, format!("must be at least 1Mi, is {}", guest.0)),
            Ok(bytes) => {
                let limit = resources.limits.get("memory").and_then(|limit| quantity::units(limit).ok());
                if limit.is_some_and(|limit| bytes > limit) {
                    let limit = &resources.limits["memory"].0;
                    let other = format!("{base}.resources.limits.memory");
                    causes.invalid(
                        &field,
                        format!("{field} '{}' must be equal to or less than {other} '{limit}'", guest.0),
                    );
                }
            }
        }
    }
    if let Some(most) = domain.memory.as_ref().and_then(|memory| memory.max_guest.as_ref()) {
        let field = format!("{base}.memory.maxGuest");
        match (quantity::units(most), memory::check(room::of(domain))) {
            (Err(error), _) => causes.invalid(field, error),
            (Ok(_), Err(reason)) => causes.invalid(field, reason),
            (Ok(_), Ok(())) => {}
        }
    }
    let pages = domain.memory.as_ref().and_then(|memory| memory.hugepages.as_ref());
    if let Some(pages) = pages {
        let size = pages.page_size.clone().unwrap_or_default();
        if !quantity::units(&Quantity(size.clone())).is_ok_and(|bytes| HUGE_PAGES.contains(&bytes)) {
            causes.invalid(format!("{base}.memory.hugepages.pageSize"), format!("must be 2Mi or 1Gi, is {size:?}"));
        }
    }
    let overhead = domain.memory.as_ref().and_then(|memory| memory.reserved_overhead.as_ref()?.added_overhead.as_ref());
    if let Some(Err(error)) = overhead.map(quantity::units) {
        causes.invalid(format!("{base}.memory.reservedOverhead.addedOverhead"), error);
    }
}

fn topology(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let Some(cpu) = &domain.cpu else { return };
    let count = |part: Option<i32>| i64::from(part.unwrap_or(1).max(1));
    let vcpus = cpu.vcpus().unwrap_or(1);
    if vcpus > VCPUS_MAX {
        let text = format!("sockets, cores and threads make {vcpus} vCPUs, more than {VCPUS_MAX}");
        causes.invalid(format!("{base}.cpu"), text);
    }
    if cpu.max_sockets.is_some_and(|most| count(cpu.sockets) > i64::from(most)) {
        let text = "Number of sockets in CPU topology is greater than the maximum sockets allowed";
        causes.invalid(format!("{base}.cpu.sockets"), text);
    }
    let most = count(cpu.max_sockets).saturating_mul(count(cpu.cores)).saturating_mul(count(cpu.threads));
    if most > VCPUS_MAX {
        let text = format!("maxSockets, cores and threads make {most} vCPUs, more than {VCPUS_MAX}");
        causes.invalid(format!("{base}.cpu.maxSockets"), text);
    }
    for (index, feature) in cpu.features.iter().enumerate() {
        if feature.name.is_empty() {
            causes.required(format!("{base}.cpu.features[{index}].name"), "a CPU feature needs a name");
        }
    }
}

fn firmware(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let Some(firmware) = &domain.firmware else { return };
    if let Some(text) = firmware.uuid.as_deref().filter(|text| !text.is_empty())
        && uuid::Uuid::parse_str(text).is_err()
    {
        causes.invalid(format!("{base}.firmware.uuid"), format!("{text:?} is not a UUID"));
    }
    if let Some(boot) = &firmware.kernel_boot {
        kernel::check(&format!("{base}.firmware.kernelBoot"), boot, causes);
    }
    let Some(bootloader) = &firmware.bootloader else { return };
    let field = format!("{base}.firmware.bootloader");
    if bootloader.bios.is_some() && bootloader.efi.is_some() {
        causes.invalid(&field, format!("{field} has both EFI and BIOS configured, but they are mutually exclusive."));
    }
    let smm = domain.features.as_ref().and_then(|features| features.smm.as_ref());
    let smm = smm.is_some_and(|smm| smm.enabled != Some(false));
    if bootloader.efi.as_ref().is_some_and(|efi| efi.secure_boot != Some(false)) && !smm {
        let field = format!("{field}.efi.secureBoot");
        let text = format!("{field} has EFI SecureBoot enabled. SecureBoot requires SMM, which is currently disabled.");
        causes.invalid(field, text);
    }
}

fn machine(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let Some(machine) = &domain.machine else { return };
    let kind = machine.type_.as_str();
    if !(kind.is_empty() || kind == "q35" || kind.starts_with("pc-q35-")) {
        let field = format!("{base}.machine.type");
        causes.unsupported(&field, format!("{field} is not supported: {kind} (allowed values: [q35* pc-q35*])"));
    }
}
