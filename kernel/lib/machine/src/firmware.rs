//! What a PC's firmware leaves in memory for an operating system: the ACPI and SMBIOS tables, and a BIOS to call.

use memory::{GuestMemory, GuestPhys};

use crate::acpi::{self, AcpiError};
use crate::layout::MachineLayout;
use crate::smbios;
use crate::{Display, bios};

/// Writes all of it to a machine's memory and returns the address of the ACPI RSDP, which the boot protocols
/// pass on.
///
/// # Errors
/// The machine has too many CPUs, or less than 1 MiB of memory.
pub fn install(
    layout: &MachineLayout,
    display: Display,
    memory: &impl GuestMemory,
) -> Result<GuestPhys, AcpiError> {
    bios::install(layout, display, memory)?;
    smbios::install(memory)?;
    acpi::install(layout, display, memory)
}
