//! What a PC's firmware leaves in memory for an operating system: the ACPI and SMBIOS tables.

use memory::{GuestMemory, GuestPhys};

use crate::acpi::{self, AcpiError};
use crate::layout::MachineLayout;
use crate::smbios;

/// Writes all tables to a machine's memory and returns the address of the ACPI RSDP, which the boot protocols
/// pass on.
///
/// # Errors
/// The machine has too many CPUs, or less than 1 MiB of memory.
pub fn install(layout: &MachineLayout, memory: &impl GuestMemory) -> Result<GuestPhys, AcpiError> {
    smbios::install(memory)?;
    acpi::install(layout, memory)
}
