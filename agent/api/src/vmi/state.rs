//! Which parts of a guest's machine are kept over its stops: what a spec asks for, said once for control, which makes the
//! claims, and the agent, which fills them.

use super::DomainSpec;

impl DomainSpec {
    /// Whether the variables of its UEFI firmware are kept.
    #[must_use]
    pub fn keeps_nvram(&self) -> bool {
        let bootloader = self.firmware.as_ref().and_then(|firmware| firmware.bootloader.as_ref());
        bootloader.and_then(|bootloader| bootloader.efi.as_ref()).is_some_and(|efi| efi.persistent == Some(true))
    }

    /// Whether it has a TPM: one that is turned off is none.
    #[must_use]
    pub fn has_tpm(&self) -> bool {
        self.devices.tpm.as_ref().is_some_and(|tpm| tpm.enabled != Some(false))
    }

    /// Whether the state of its TPM is kept.
    #[must_use]
    pub fn keeps_tpm(&self) -> bool {
        self.has_tpm() && self.devices.tpm.as_ref().is_some_and(|tpm| tpm.persistent == Some(true))
    }
}
