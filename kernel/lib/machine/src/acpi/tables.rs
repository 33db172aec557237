//! The static tables: FADT, FACS, MADT, MCFG and SPCR. Section titles are those of the ACPI specification 6.5.

use alloc::vec::Vec;

use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::{GenericAddress, Sdt};
use memory::GuestPhys;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes};
use crate::devices::CENTURY;
use crate::layout::{ECAM, IOAPIC, LOCAL_APIC, MachineLayout};
use crate::{Board, Display, Gsi};

/// The header that every table but RSDP and FACS begins with.
const HEADER_BYTES: u32 = 36;

/// "Fixed ACPI Description Table Fields", IA-PC boot architecture flags: there are ISA devices that a driver may
/// look for; there is a keyboard controller; there is no VGA.
const LEGACY_DEVICES: u16 = 1 << 0;
const KEYBOARD_CONTROLLER: u16 = 1 << 1;
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// Latencies that say that there are no C2 and C3 states.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// What resets the machine when written to port 0xcf9.
const RESET_VALUE: u8 = 0x06;
/// The ports of the power-management block.
const PM1_EVENT: u16 = 0x600;
const PM1_CONTROL: u16 = 0x604;
const PM_TIMER: u16 = 0x608;
const RESET: u16 = 0xcf9;
const UART: u16 = 0x3f8;

pub(super) fn facs() -> Vec<u8> {
    bytes(&FACS::new())
}

pub(super) fn fadt(dsdt: GuestPhys, facs: GuestPhys, display: Display) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    for flag in [
        Flags::Wbinvd,
        Flags::ProcC1,
        // The power button is fixed hardware; a sleep button does not exist.
        Flags::SlpButton,
        Flags::FixRtc,
        Flags::TmrValExt,
        Flags::ResetRegSup,
    ] {
        fadt = fadt.flag(flag);
    }
    // Below 1 MiB both; the old pointer serves old parsers, the new one must agree with it.
    fadt.firmware_ctrl = (facs.as_u64() as u32).into();
    fadt.dsdt = (dsdt.as_u64() as u32).into();
    fadt.x_dsdt = dsdt.as_u64().into();
    // No SMI command port: the machine is always in ACPI mode.
    fadt.sci_int = u16::from(Board::SCI_GSI.0).into();
    fadt.pm1a_evt_blk = u32::from(PM1_EVENT).into();
    fadt.pm1a_cnt_blk = u32::from(PM1_CONTROL).into();
    fadt.pm_tmr_blk = u32::from(PM_TIMER).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_len = 4;
    fadt.x_pm1a_evt_blk = io(PM1_EVENT, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = io(PM1_CONTROL, 16, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = io(PM_TIMER, 32, AccessSize::DwordAccess);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    // Without a keyboard its controller is there all the same, for those that reset by it; nobody need look.
    let boot_architecture = match display {
        Display::Absent => LEGACY_DEVICES | VGA_NOT_PRESENT,
        Display::Vga => LEGACY_DEVICES | KEYBOARD_CONTROLLER,
    };
    fadt.iapc_boot_arch = boot_architecture.into();
    fadt.reset_reg = io(RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"Plinth\0\0").into();
    bytes(&fadt.finalize())
}

fn io(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(port))
}

/// "Multiple APIC Description Table": local APICs, the I/O APIC, and what of the ISA interrupts is not as usual.
pub(super) fn madt(layout: &MachineLayout) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    const REVISION: u8 = 4;
    let mut body = Vec::new();
    body.extend_from_slice(&(LOCAL_APIC.start.as_u64() as u32).to_le_bytes());
    body.extend_from_slice(&PCAT_COMPAT.to_le_bytes());
    for cpu in 0..layout.cpus() {
        local_apic(cpu, &mut body);
    }
    // I/O APIC with ID 0 at its address, first interrupt 0.
    body.extend_from_slice(&[1, 12, 0, 0]);
    body.extend_from_slice(&(IOAPIC.start.as_u64() as u32).to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    // The timer is on another pin; SCI is level-triggered, active high.
    interrupt_override(0, Board::PIT_GSI, AS_THE_BUS_HAS_IT, &mut body);
    interrupt_override(
        Board::SCI_GSI.0,
        Board::SCI_GSI,
        ACTIVE_HIGH | LEVEL,
        &mut body,
    );
    // LINT1 of every local APIC is the NMI.
    body.extend_from_slice(&[4, 6, 0xff, 0, 0, 1]);
    if layout.cpus() > FIRST_X2APIC_ONLY {
        body.extend_from_slice(&[10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    table(*b"APIC", REVISION, &body)
}

/// "MPS INTI Flags".
const AS_THE_BUS_HAS_IT: u16 = 0;
const ACTIVE_HIGH: u16 = 1;
const LEVEL: u16 = 3 << 2;
/// The first APIC ID that does not fit into a local APIC structure.
const FIRST_X2APIC_ONLY: u32 = 255;
const ENABLED: u32 = 1;

/// One CPU: a local APIC structure, or from APIC ID 255 on a local x2APIC structure.
fn local_apic(cpu: u32, body: &mut Vec<u8>) {
    match u8::try_from(cpu) {
        Ok(id) if cpu < FIRST_X2APIC_ONLY => {
            body.extend_from_slice(&[0, 8, id, id]);
            body.extend_from_slice(&ENABLED.to_le_bytes());
        }
        _ => {
            body.extend_from_slice(&[9, 16, 0, 0]);
            for word in [cpu, ENABLED, cpu] {
                body.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
}

fn interrupt_override(irq: u8, gsi: Gsi, flags: u16, body: &mut Vec<u8>) {
    body.extend_from_slice(&[2, 10, 0, irq]);
    body.extend_from_slice(&u32::from(gsi.0).to_le_bytes());
    body.extend_from_slice(&flags.to_le_bytes());
}

/// PCI Firmware Specification, "MCFG Table": where ECAM is.
pub(super) fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM.start.as_u64(), 0, 0, 0xff);
    bytes(&mcfg)
}

/// Microsoft's "Serial Port Console Redirection Table", revision 2: the console is the 16550 at 0x3f8.
pub(super) fn spcr() -> Vec<u8> {
    const FULL_16550: u8 = 0;
    const BY_8259_AND_IO_APIC: u8 = 3;
    const BAUD_115200: u8 = 7;
    const NO_PARITY: u8 = 0;
    const ONE_STOP_BIT: u8 = 1;
    const NO_FLOW_CONTROL: u8 = 0;
    const VT100: u8 = 0;
    let mut body = Vec::new();
    body.extend_from_slice(&[FULL_16550, 0, 0, 0]);
    let address = GenericAddress::io_port_address::<u8>(UART);
    body.extend_from_slice(&[
        address.address_space_id,
        address.register_bit_width,
        address.register_bit_offset,
        address.access_size,
    ]);
    body.extend_from_slice(&u64::from(UART).to_le_bytes());
    let irq = Board::UART_GSI.0;
    body.extend_from_slice(&[BY_8259_AND_IO_APIC, irq]);
    body.extend_from_slice(&u32::from(irq).to_le_bytes());
    body.extend_from_slice(&[
        BAUD_115200,
        NO_PARITY,
        ONE_STOP_BIT,
        NO_FLOW_CONTROL,
        VT100,
        0,
    ]);
    // It is no PCI device: the IDs are 0xffff; then bus, device, function, flags, segment and a reserved word.
    body.extend_from_slice(&[0xff; 4]);
    body.extend_from_slice(&[0; 12]);
    table(*b"SPCR", 2, &body)
}

/// A table of this signature, checksum included.
pub(super) fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(
        signature,
        HEADER_BYTES,
        revision,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(body);
    table.as_slice().to_vec()
}
