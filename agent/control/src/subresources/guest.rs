//! Whether an operation on a guest may go to its node's agent: the state of the VirtualMachineInstance decides, by
//! KubeVirt's rules and in its words. Pure. The agent looks at the domain itself once more.

use std::net::IpAddr;

use furrow_api::channel::{GuestOperation, GuestStream};
use furrow_api::meta::Condition;
use furrow_api::vmi::VmiPhase;
use furrow_api::{VirtualMachine, VirtualMachineInstance};
use kube::ResourceExt;

use super::failure::Failure;
use super::route::Resource;

const VM_NOT_RUNNING: &str = "VM is not running";
const VMI_NOT_RUNNING: &str = "VMI is not running";

/// Judges an operation. `vm`: the virtual machine of the guest, if it has one and the operation is to look at it.
///
/// # Errors
/// Why it is not carried out.
pub(super) fn check(
    operation: GuestOperation,
    vmi: &VirtualMachineInstance,
    vm: Option<&VirtualMachine>,
) -> Result<(), Failure> {
    match operation {
        GuestOperation::Pause => pause(vmi),
        GuestOperation::Unpause => unpause(vmi, vm),
        GuestOperation::SoftReboot => soft_reboot(vmi),
        GuestOperation::Reset => reset(vmi),
        GuestOperation::Freeze => run(vmi, VM_NOT_RUNNING),
        GuestOperation::Screenshot => check_stream(GuestStream::Vnc, vmi),
        GuestOperation::Unfreeze => run(vmi, VMI_NOT_RUNNING),
        GuestOperation::GuestOsInfo | GuestOperation::UserList | GuestOperation::FilesystemList => {
            run(vmi, VMI_NOT_RUNNING)?;
            unless(!has(vmi, "AgentConnected"), vmi, "VMI does not have guest agent connected")
        }
    }
}

/// Judges a stream.
///
/// # Errors
/// Why it does not begin.
pub(super) fn check_stream(stream: GuestStream, vmi: &VirtualMachineInstance) -> Result<(), Failure> {
    let devices = &vmi.spec.domain.devices;
    let phase = phase(vmi);
    match stream {
        GuestStream::Console if devices.autoattach_serial_console == Some(false) => {
            Err(Failure::bad_request("No serial consoles are present."))
        }
        GuestStream::Console if phase == VmiPhase::Failed => Err(conflict(vmi, "Unable to connect to failed VMI")),
        GuestStream::Console if phase != VmiPhase::Running => Err(Failure::bad_request(unreachable(&phase))),
        GuestStream::Vnc if devices.autoattach_graphics_device == Some(false) => {
            Err(Failure::bad_request("No graphics devices are present."))
        }
        GuestStream::Vnc if phase != VmiPhase::Running => Err(Failure::bad_request(VMI_NOT_RUNNING)),
        GuestStream::UsbRedirection if devices.client_passthrough.is_none() => {
            Err(conflict(vmi, "Not configured with USB Redirection"))
        }
        GuestStream::UsbRedirection if phase != VmiPhase::Running => Err(Failure::bad_request(VMI_NOT_RUNNING)),
        GuestStream::Console | GuestStream::Vnc | GuestStream::UsbRedirection => Ok(()),
    }
}

/// Where a port of a guest is reached: the first interface of its status, by name and address.
///
/// # Errors
/// Why it is not.
pub(super) fn check_forward(vmi: &VirtualMachineInstance) -> Result<(String, IpAddr), Failure> {
    unless(has(vmi, "Paused"), vmi, "VMI is paused")?;
    let interfaces = vmi.status.as_ref().map(|status| status.interfaces.as_slice()).unwrap_or_default();
    let first = interfaces.first().ok_or_else(|| Failure::bad_request("no network interfaces are present"))?;
    let address = first.ip_address.as_deref().and_then(|text| text.parse().ok());
    match (&first.name, address) {
        (Some(name), Some(address)) if fits_a_path(name) => Ok((name.clone(), address)),
        _ => Err(Failure::bad_request("the first network interface has no address yet")),
    }
}

/// Names of interfaces have no other characters; whatever a status says, it does not get into another path.
fn fits_a_path(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// KubeVirt's words when there is no node to ask.
fn unreachable(phase: &VmiPhase) -> String {
    let phase = phase.as_str();
    format!("Unable to connect to VirtualMachineInstance because phase is {phase} instead of Running or Scheduled")
}

fn conflict(vmi: &VirtualMachineInstance, why: &str) -> Failure {
    Failure::conflict(Resource::VirtualMachineInstances, &vmi.name_any(), why)
}

fn unless(refused: bool, vmi: &VirtualMachineInstance, why: &str) -> Result<(), Failure> {
    if refused { Err(conflict(vmi, why)) } else { Ok(()) }
}

fn run(vmi: &VirtualMachineInstance, why: &str) -> Result<(), Failure> {
    unless(phase(vmi) != VmiPhase::Running, vmi, why)
}

fn phase(vmi: &VirtualMachineInstance) -> VmiPhase {
    vmi.status.as_ref().map(|status| status.phase.clone()).unwrap_or_default()
}

fn has(vmi: &VirtualMachineInstance, condition: &str) -> bool {
    let conditions = vmi.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    Condition::find(conditions, condition).is_some_and(Condition::is_true)
}

fn pause(vmi: &VirtualMachineInstance) -> Result<(), Failure> {
    run(vmi, VM_NOT_RUNNING)?;
    // A paused guest would answer no probe and be killed for it; the guest agent's own ping is left out while paused.
    if vmi.spec.liveness_probe.as_ref().is_some_and(|probe| probe.guest_agent_ping.is_none()) {
        let why = "Pausing VMIs with LivenessProbe is currently not supported";
        return Err(Failure::forbidden(Resource::VirtualMachineInstances, &vmi.name_any(), why));
    }
    unless(has(vmi, "Paused"), vmi, "VMI is already paused")?;
    let migration = vmi.status.as_ref().and_then(|status| status.migration_state.as_ref());
    let migrating = migration.is_some_and(|state| state.end_timestamp.is_none() && !state.completed);
    let why = format!("Cannot pause VM '{}' because it is currently being migrated", vmi.name_any());
    unless(migrating, vmi, &why)
}

fn unpause(vmi: &VirtualMachineInstance, vm: Option<&VirtualMachine>) -> Result<(), Failure> {
    let status = vm.and_then(|vm| vm.status.as_ref());
    if status.is_some_and(|status| status.snapshot_in_progress.is_some()) {
        let why = "VM snapshot is in progress";
        return Err(Failure::conflict(Resource::VirtualMachines, &vmi.name_any(), why));
    }
    run(vmi, VMI_NOT_RUNNING)?;
    unless(!has(vmi, "Paused"), vmi, "VMI is not paused")
}

fn soft_reboot(vmi: &VirtualMachineInstance) -> Result<(), Failure> {
    run(vmi, VM_NOT_RUNNING)?;
    unless(has(vmi, "Paused"), vmi, "VMI is paused")?;
    let features = vmi.spec.domain.features.as_ref();
    let no_acpi = features.and_then(|features| features.acpi.as_ref()).is_some_and(|acpi| acpi.enabled == Some(false));
    let deaf = no_acpi && !has(vmi, "AgentConnected");
    unless(deaf, vmi, "VMI neither have the agent connected nor the ACPI feature enabled")
}

fn reset(vmi: &VirtualMachineInstance) -> Result<(), Failure> {
    let phase = phase(vmi);
    if phase == VmiPhase::Running {
        return Ok(());
    }
    let why = format!("Failed to reset non-running VMI with phase {}: {}", phase.as_str(), unreachable(&phase));
    Err(Failure::bad_request(why))
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
