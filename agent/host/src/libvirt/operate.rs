//! Operations on a running guest that leave its life as it is: pause, reboot, freeze, and questions to its agent. Refuses to
//! start or end one: that is `super::domain`.

use std::collections::HashMap;
use std::time::Duration;

use virt::domain::Domain;
use virt::stream::Stream;
use virt::sys;

use super::domain::{AGENT, QUERY, lookup};
use super::{Libvirt, LibvirtError, raw};

/// Seconds that the guest's agent has for a command; libvirt's own limit for a question.
const COMMAND_S: i32 = 5;

/// Bytes of a picture that are read at once.
const PICTURE_CHUNK: usize = 256 << 10;

/// What to ask a guest's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestQuestion {
    /// Operating system, host name and interfaces, as a status shows them.
    Status,
    /// Everything that it knows.
    Everything,
    /// Who is logged in.
    Users,
    /// The file systems.
    Filesystems,
}

impl GuestQuestion {
    fn types(self) -> sys::virDomainGuestInfoTypes {
        match self {
            Self::Status => {
                sys::VIR_DOMAIN_GUEST_INFO_OS
                    | sys::VIR_DOMAIN_GUEST_INFO_HOSTNAME
                    | sys::VIR_DOMAIN_GUEST_INFO_INTERFACES
            }
            Self::Everything => 0,
            Self::Users => sys::VIR_DOMAIN_GUEST_INFO_USERS,
            Self::Filesystems => sys::VIR_DOMAIN_GUEST_INFO_FILESYSTEM,
        }
    }
}

impl Libvirt {
    /// Stops the vCPUs.
    ///
    /// # Errors
    /// When the domain does not exist or does not run.
    pub async fn pause_domain(&self, name: &str) -> Result<(), LibvirtError> {
        self.on_domain(name, "pause the domain", QUERY, Domain::suspend).await
    }

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    /// When the domain does not exist or is not paused.
    pub async fn resume_domain(&self, name: &str) -> Result<(), LibvirtError> {
        self.on_domain(name, "resume the domain", QUERY, Domain::resume).await
    }

    /// Has the guest's agent set its clock to this time since 1970.
    ///
    /// # Errors
    /// When the domain does not exist or its agent does not do it.
    pub async fn set_guest_time(&self, name: &str, since_1970: Duration) -> Result<(), LibvirtError> {
        let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
        let nanoseconds = i32::try_from(since_1970.subsec_nanos()).unwrap_or_default();
        let set = move |domain: &Domain| domain.set_time(seconds, nanoseconds, 0);
        self.on_domain(name, "set the guest's time", AGENT, set).await
    }

    /// Plugs vCPUs in or out until the running domain has so many. The guest sees each as it comes.
    ///
    /// # Errors
    /// When the domain does not exist, does not run, or has no room for them.
    pub async fn plug_vcpus(&self, name: &str, count: u32) -> Result<(), LibvirtError> {
        let plug = move |domain: &Domain| domain.set_vcpus_flags(count, sys::VIR_DOMAIN_VCPU_LIVE);
        self.on_domain(name, "plug vCPUs into the domain", AGENT, plug).await
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When the domain does not exist or does not run.
    pub async fn reset_domain(&self, name: &str) -> Result<(), LibvirtError> {
        self.on_domain(name, "reset the domain", QUERY, Domain::reset).await
    }

    /// Plugs a device into the running domain. Its definition stays as it is: it goes when the domain ends.
    ///
    /// # Errors
    /// When the domain does not run, or libvirt or QEMU refuse the device.
    pub async fn attach_device(&self, name: &str, xml: String) -> Result<(), LibvirtError> {
        let attach = move |domain: &Domain| domain.attach_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_LIVE);
        self.on_domain(name, "plug a device into the domain", AGENT, attach).await
    }

    /// Asks the guest to let go of a device, by its alias. The device is gone when it is no longer observed.
    ///
    /// # Errors
    /// When the domain does not run or has no such device.
    pub async fn detach_device(&self, name: &str, alias: String) -> Result<(), LibvirtError> {
        let detach = move |domain: &Domain| raw::detach_alias(domain, &alias);
        self.on_domain(name, "plug a device out of the domain", AGENT, detach).await
    }

    /// Asks the guest to reboot: through its agent if that is connected, by ACPI otherwise. Returns once it was asked.
    ///
    /// # Errors
    /// When the domain does not exist, does not run, or cannot be asked.
    pub async fn reboot_domain(&self, name: &str) -> Result<(), LibvirtError> {
        let reboot = |domain: &Domain| domain.reboot(sys::VIR_DOMAIN_REBOOT_DEFAULT);
        self.on_domain(name, "reboot the domain", AGENT, reboot).await
    }

    /// Freezes all file systems of the guest.
    ///
    /// # Errors
    /// When there is no such domain or its agent does not do it.
    pub async fn freeze_domain(&self, name: &str) -> Result<(), LibvirtError> {
        self.on_domain(name, "freeze the file systems", AGENT, raw::freeze).await
    }

    /// Thaws all file systems of the guest; those that are not frozen stay as they are.
    ///
    /// # Errors
    /// When there is no such domain or its agent does not do it.
    pub async fn thaw_domain(&self, name: &str) -> Result<(), LibvirtError> {
        self.on_domain(name, "thaw the file systems", AGENT, raw::thaw).await
    }

    /// A picture of the first display, as QEMU makes it, which is a PNG; a larger one than `limit_bytes` is refused.
    ///
    /// # Errors
    /// When there is no such domain, or it has no display.
    pub async fn screenshot(&self, name: &str, limit_bytes: usize) -> Result<Vec<u8>, LibvirtError> {
        const OPERATION: &str = "take a picture of the display";
        let name = name.to_owned();
        self.call(OPERATION, AGENT, move |connection| {
            let failed = |error: virt::error::Error| LibvirtError::from_virt(OPERATION, &error);
            let domain = lookup(connection, &name)?.ok_or(LibvirtError::NoDomain { operation: OPERATION })?;
            let stream = Stream::new(connection, 0).map_err(failed)?;
            domain.screenshot(&stream, 0, 0).map_err(failed)?;
            let mut picture = Vec::new();
            let mut chunk = vec![0; PICTURE_CHUNK];
            loop {
                let read = usize::try_from(stream.recv(&mut chunk).map_err(failed)?).unwrap_or(0);
                if read == 0 {
                    break;
                }
                if picture.len() + read > limit_bytes {
                    // The refusal says enough; what libvirt says to the end of the stream does not matter.
                    let _ = stream.abort();
                    let message = format!("it is larger than {limit_bytes} bytes");
                    return Err(LibvirtError::Refused { operation: OPERATION, message });
                }
                picture.extend_from_slice(&chunk[..read]);
            }
            stream.finish().map_err(failed)?;
            Ok(picture)
        })
        .await
    }

    /// What the guest agent says: libvirt's names (`os.pretty-name`, `if.0.addr.1.addr`), each with its value as text.
    ///
    /// # Errors
    /// When there is no such domain or its agent does not answer.
    pub async fn guest_info(
        &self,
        name: &str,
        question: GuestQuestion,
    ) -> Result<HashMap<String, String>, LibvirtError> {
        let ask = move |domain: &Domain| raw::guest_info(domain, question.types());
        self.on_domain(name, "ask the guest agent", AGENT, ask).await
    }

    /// The guest agent's own answer to a command that takes no arguments, as JSON.
    ///
    /// # Errors
    /// As [`Libvirt::guest_info`].
    pub async fn guest_command(&self, name: &str, command: &'static str) -> Result<String, LibvirtError> {
        self.guest_request(name, format!("{{\"execute\":\"{command}\"}}")).await
    }

    /// The guest agent's own answer to a request, both as JSON (<https://qemu.readthedocs.io/en/latest/interop/qemu-ga-ref.html>).
    ///
    /// # Errors
    /// As [`Libvirt::guest_info`]; also when the agent refuses the request.
    pub async fn guest_request(&self, name: &str, request: String) -> Result<String, LibvirtError> {
        let ask = move |domain: &Domain| domain.qemu_agent_command(&request, COMMAND_S, 0);
        self.on_domain(name, "ask the guest agent", AGENT, ask).await
    }

    /// Statistics of every active domain, by its name: processor, memory, vCPUs, interfaces and disks, in libvirt's names
    /// (`cpu.time`, `net.0.rx.bytes`), each with its value as text. One call, whatever their number.
    ///
    /// # Errors
    /// When libvirtd does not answer.
    pub async fn all_stats(&self) -> Result<HashMap<String, HashMap<String, String>>, LibvirtError> {
        let types = sys::VIR_DOMAIN_STATS_CPU_TOTAL
            | sys::VIR_DOMAIN_STATS_BALLOON
            | sys::VIR_DOMAIN_STATS_VCPU
            | sys::VIR_DOMAIN_STATS_INTERFACE
            | sys::VIR_DOMAIN_STATS_BLOCK;
        self.call("read the domains' statistics", QUERY, move |connection| {
            let stats = raw::all_stats(connection, types);
            stats.map_err(|error| LibvirtError::from_virt("read the domains' statistics", &error))
        })
        .await
    }
}
