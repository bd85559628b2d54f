//! A preference in a template: it fills in what the template does not say. Rules are KubeVirt's
//! (`pkg/instancetype/preference/apply`).

use serde_json::{Value, json};

use super::json::{at, elements, object, put, put_absent, says, text};

/// Devices that are there by default: to be settled before defaults are. Below `devices` of both.
const ATTACHED: [(&str, &str); 5] = [
    ("preferredAutoattachGraphicsDevice", "autoattachGraphicsDevice"),
    ("preferredAutoattachMemBalloon", "autoattachMemBalloon"),
    ("preferredAutoattachPodInterface", "autoattachPodInterface"),
    ("preferredAutoattachSerialConsole", "autoattachSerialConsole"),
    ("preferredAutoattachInputDevice", "autoattachInputDevice"),
];

/// What is taken as it is: below the preference's spec, below the template's.
const PLAIN: [(&str, &str); 13] = [
    ("devices.preferredUseVirtioTransitional", "domain.devices.useVirtioTransitional"),
    ("devices.preferredBlockMultiQueue", "domain.devices.blockMultiQueue"),
    ("devices.preferredNetworkInterfaceMultiQueue", "domain.devices.networkInterfaceMultiqueue"),
    ("devices.preferredRng", "domain.devices.rng"),
    ("devices.preferredTPM", "domain.devices.tpm"),
    ("devices.preferredVideoType", "domain.devices.video.type"),
    ("features.preferredApic", "domain.features.apic"),
    ("features.preferredKvm", "domain.features.kvm"),
    ("features.preferredPvspinlock", "domain.features.pvspinlock"),
    ("features.preferredSmm", "domain.features.smm"),
    ("machine.preferredMachineType", "domain.machine.type"),
    ("preferredSubdomain", "subdomain"),
    ("preferredTerminationGracePeriodSeconds", "terminationGracePeriodSeconds"),
];

/// See [`ATTACHED`].
pub(super) fn attach(spec: &mut Value, preference: &Value) {
    for (own, path) in ATTACHED {
        if let Some(value) = at(preference, &format!("devices.{own}")) {
            put_absent(spec, &format!("domain.devices.{path}"), value);
        }
    }
}

/// Fills in a template.
pub(super) fn apply(template: &mut Value, preference: &Value) {
    let annotations = preference.get("annotations").and_then(Value::as_object);
    if let Some(annotations) = annotations.filter(|annotations| !annotations.is_empty()) {
        let there = object(template, "metadata.annotations");
        for (key, value) in annotations {
            there.entry(key).or_insert_with(|| value.clone());
        }
    }
    let Some(spec) = template.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    attach(spec, preference);
    for (own, path) in PLAIN {
        if let Some(value) = at(preference, own) {
            put_absent(spec, path, value);
        }
    }
    architecture(spec, preference);
    cpu_features(spec, preference);
    if let Some(devices) = at(preference, "devices") {
        // The field has no third state: KubeVirt lets the preference decide.
        if let Some(value) = at(devices, "preferredDisableHotplug") {
            put(spec, "domain.devices.disableHotplug", value.clone());
        }
        elements(spec, "domain.devices.disks").for_each(|disk| self::disk(disk, devices));
        interfaces(spec, devices);
        small_devices(spec, devices);
    }
    features(spec, preference);
    firmware(spec, preference);
    clock(spec, preference);
}

fn architecture(spec: &mut Value, preference: &Value) {
    if let Some(value) = at(preference, "preferredArchitecture") {
        put_absent(spec, "architecture", value);
    }
}

/// Features that the template does not name.
fn cpu_features(spec: &mut Value, preference: &Value) {
    let preferred = at(preference, "cpu.preferredCPUFeatures").and_then(Value::as_array).cloned().unwrap_or_default();
    if preferred.is_empty() {
        return;
    }
    let mut features = at(spec, "domain.cpu.features").and_then(Value::as_array).cloned().unwrap_or_default();
    let said: Vec<_> = features.iter().map(|feature| text(feature, "name").to_owned()).collect();
    features.extend(preferred.into_iter().filter(|feature| !said.iter().any(|name| name == text(feature, "name"))));
    put(spec, "domain.cpu.features", Value::Array(features));
}

fn prefer(target: &mut Value, path: &str, devices: &Value, own: &str) {
    if let Some(value) = at(devices, own).filter(|value| value.as_str() != Some("")) {
        put_absent(target, path, value);
    }
}

fn disk(disk: &mut Value, devices: &Value) {
    if at(disk, "cdrom").is_some() {
        return prefer(disk, "cdrom.bus", devices, "preferredCdromBus");
    }
    if at(disk, "lun").is_some() {
        return prefer(disk, "lun.bus", devices, "preferredLunBus");
    }
    object(disk, "disk");
    prefer(disk, "disk.bus", devices, "preferredDiskBus");
    prefer(disk, "blockSize", devices, "preferredDiskBlockSize");
    prefer(disk, "cache", devices, "preferredDiskCache");
    prefer(disk, "io", devices, "preferredDiskIO");
    if text(disk, "disk.bus") == "virtio" {
        prefer(disk, "dedicatedIOThread", devices, "preferredDiskDedicatedIoThread");
    }
}

/// Every way in which an interface can be bound.
const BINDINGS: [&str; 8] = ["binding", "bridge", "macvtap", "masquerade", "passt", "passtBinding", "slirp", "sriov"];

fn interfaces(spec: &mut Value, devices: &Value) {
    let networks = spec.get("networks").and_then(Value::as_array).into_iter().flatten();
    let of_pods: Vec<String> = networks
        .filter(|network| at(network, "pod").is_some())
        .map(|network| text(network, "name").to_owned())
        .collect();
    for interface in elements(spec, "domain.devices.interfaces") {
        prefer(interface, "model", devices, "preferredInterfaceModel");
        let bound = BINDINGS.iter().any(|binding| at(interface, binding).is_some());
        if !bound && of_pods.iter().any(|name| name == text(interface, "name")) {
            prefer(interface, "masquerade", devices, "preferredInterfaceMasquerade");
        }
    }
}

fn small_devices(spec: &mut Value, devices: &Value) {
    for input in elements(spec, "domain.devices.inputs") {
        prefer(input, "bus", devices, "preferredInputBus");
        prefer(input, "type", devices, "preferredInputType");
    }
    for gpu in elements(spec, "domain.devices.gpus") {
        prefer(gpu, "virtualGPUOptions", devices, "preferredVirtualGPUOptions");
    }
    if at(spec, "domain.devices.sound").is_some() {
        prefer(spec, "domain.devices.sound.model", devices, "preferredSoundModel");
    }
    let Some(model) = at(devices, "preferredPanicDeviceModel") else { return };
    if !says(spec, "domain.devices.panicDevices") {
        put(spec, "domain.devices.panicDevices", json!([{"model": model}]));
    }
    elements(spec, "domain.devices.panicDevices").for_each(|device| put_absent(device, "model", model));
}

fn features(spec: &mut Value, preference: &Value) {
    // Go's clients write an empty object here whenever they write any feature.
    let silent = at(spec, "domain.features.acpi").is_none_or(|acpi| *acpi == json!({}));
    if let Some(acpi) = at(preference, "features.preferredAcpi").filter(|_| silent) {
        put(spec, "domain.features.acpi", acpi.clone());
    }
    let all = at(spec, "domain.features.hypervPassthrough.enabled") == Some(&Value::Bool(true));
    let hyperv = at(preference, "features.preferredHyperv").and_then(Value::as_object).filter(|_| !all);
    for (name, value) in hyperv.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        put_absent(spec, &format!("domain.features.hyperv.{name}"), value);
    }
}

/// BIOS or UEFI where the template names neither; options where it names the same.
fn firmware(spec: &mut Value, preference: &Value) {
    let Some(preferred) = at(preference, "firmware") else { return };
    let wants = |field: &str| at(preferred, field) == Some(&Value::Bool(true));
    let bootloader = "domain.firmware.bootloader";
    let named = |spec: &Value, which: &str| at(spec, &format!("{bootloader}.{which}")).is_some();
    let none = |spec: &Value| !named(spec, "bios") && !named(spec, "efi");
    if wants("preferredUseBios") && none(spec) {
        put(spec, &format!("{bootloader}.bios"), json!({}));
    }
    if let Some(serial) = at(preferred, "preferredUseBiosSerial").filter(|_| named(spec, "bios")) {
        put_absent(spec, &format!("{bootloader}.bios.useSerial"), serial);
    }
    if let Some(efi) = at(preferred, "preferredEfi").filter(|_| none(spec)) {
        return put(spec, &format!("{bootloader}.efi"), efi.clone());
    }
    if wants("preferredUseEfi") && none(spec) {
        put(spec, &format!("{bootloader}.efi"), json!({}));
    }
    if let Some(secure) = at(preferred, "preferredUseSecureBoot").filter(|_| named(spec, "efi")) {
        put_absent(spec, &format!("{bootloader}.efi.secureBoot"), secure);
    }
}

/// An offset is taken whole: half of one and half of another would be neither.
fn clock(spec: &mut Value, preference: &Value) {
    let said = at(spec, "domain.clock.utc").is_some() || at(spec, "domain.clock.timezone").is_some();
    let offset = at(preference, "clock.preferredClockOffset").and_then(Value::as_object).filter(|_| !said);
    for (name, value) in offset.into_iter().flatten() {
        put(spec, &format!("domain.clock.{name}"), value.clone());
    }
    if let Some(timer) = at(preference, "clock.preferredTimer") {
        put_absent(spec, "domain.clock.timer", timer);
    }
}

/// Gives the DataVolume templates of a virtual machine the preferred storage class where they name none.
pub fn storage_class(vm: &mut Value, preference: &Value) {
    let Some(class) = at(preference, "volumes.preferredStorageClassName").filter(|class| class.as_str() != Some(""))
    else {
        return;
    };
    for template in elements(vm, "spec.dataVolumeTemplates") {
        for target in ["spec.pvc", "spec.storage"] {
            if at(template, target).is_some() {
                put_absent(template, &format!("{target}.storageClassName"), class);
            }
        }
    }
}
