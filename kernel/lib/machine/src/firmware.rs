//! What a PC's firmware leaves in memory for an operating system: the ACPI and SMBIOS tables, and a BIOS to call.

use memory::{GuestMemory, GuestPhys};

use crate::acpi::{Acpi, AcpiError};
use crate::layout::MachineLayout;
use crate::smbios;
use crate::{Display, bios};

/// Firmware for any machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Firmware {
    acpi: Acpi,
}

impl Firmware {
    /// Writes all of it to a machine's memory and returns the address of the ACPI RSDP, which the boot protocols
    /// pass on.
    ///
    /// # Errors
    /// The machine has too many CPUs, or less than 1 MiB of memory.
    pub fn install(
        &self,
        layout: &MachineLayout,
        display: Display,
        memory: &impl GuestMemory,
    ) -> Result<GuestPhys, AcpiError> {
        bios::install(layout, display, memory)?;
        smbios::install(memory)?;
        self.acpi.install(layout, display, memory)
    }
}
