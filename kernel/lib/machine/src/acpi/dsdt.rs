//! The DSDT: the devices that cannot be found by looking, in AML.
//!
//! In ASL it would read
//!
//! ```text
//! Name (\_S5, Package () { 0, 0, 0, 0 })
//! Scope (\_SB) {
//!     Device (PCI0) { PNP0A08: host bridge with its bus numbers, windows, interrupt routing and _OSC }
//!     Device (RES0) { PNP0C02: ECAM, ACPI ports, ELCR }
//!     Device (COM1) { PNP0501 }   Device (RTC0) { PNP0B00 }
//!     Device (PIC0) { PNP0000 }   Device (TMR0) { PNP0100 }   Device (SPKR) { PNP0800 }
//!     Device (KBD0) { PNP0303, where there is a keyboard }
//!     Device (PEVT) { QEMU0001: the port that tells of a panic }
//!     Device (C000) { ACPI0007 }  ...one for each CPU
//! }
//! ```

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, CreateDWordField, Device, EISAName, IO, If,
    Interrupt, Memory32Fixed, Method, Name, NotEqual, Or, Package, PackageBuilder, Path,
    ResourceTemplate, Return, Scope, Uuid,
};
use memory::{GuestPhys, Range};

use super::tables::table;
use crate::devices::{PanicDevice, SOFT_OFF_TYPE};
use crate::layout::{ECAM, MachineLayout, PCI_WINDOW_HIGH, PCI_WINDOW_LOW};
use crate::{Board, Display, Gsi};

/// With this revision or a later one, AML integers have 64 bits.
const REVISION: u8 = 2;
/// The PCI interrupt pins INTA to INTD of all devices share these pins of the I/O APIC.
const PCI_GSIS: Range<u8> = Range { start: 16, end: 24 };
const PCI_DEVICES: u32 = 32;
const PCI_PINS: u32 = 4;
/// What _OSC asks for when it is about PCI host bridges (PCI Firmware Specification, "_OSC Interface for PCI Host
/// Bridge Devices").
const PCI_HOST_BRIDGE: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// _OSC: unknown UUID.
const OSC_UNKNOWN: u8 = 0x04;

pub(super) fn build(layout: &MachineLayout, display: Display) -> Vec<u8> {
    let mut aml = Vec::new();
    let sleep_type = SOFT_OFF_TYPE;
    Name::new(
        Path::new("\\_S5_"),
        &Package::new(vec![&sleep_type, &sleep_type, &0u8, &0u8]),
    )
    .to_aml_bytes(&mut aml);

    let mut devices: Vec<Box<dyn Aml>> = Vec::new();
    let mut add = |bytes: Vec<u8>| devices.push(Box::new(Raw(bytes)));
    add(host_bridge());
    add(board_resources());
    add(device(
        "COM1",
        "PNP0501",
        &[&port(0x3f8, 8), &irq(Board::UART_GSI)],
    ));
    add(device(
        "RTC0",
        "PNP0B00",
        &[&port(0x70, 2), &irq(Board::RTC_GSI)],
    ));
    add(device("PIC0", "PNP0000", &[&port(0x20, 2), &port(0xa0, 2)]));
    add(device("TMR0", "PNP0100", &[&port(0x40, 4)]));
    add(device("SPKR", "PNP0800", &[&port(0x61, 1)]));
    if display == Display::Vga {
        add(device(
            "KBD0",
            "PNP0303",
            &[&port(0x60, 1), &port(0x64, 1), &irq(Board::KEYBOARD_GSI)],
        ));
    }
    add(panic_device());
    for cpu in 0..layout.cpus() {
        add(processor(cpu));
    }
    let children = devices.iter().map(Box::as_ref).collect();
    Scope::new(Path::new("\\_SB_"), children).to_aml_bytes(&mut aml);
    table(*b"DSDT", REVISION, &aml)
}

/// AML that is encoded already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn port(first: u16, count: u8) -> IO {
    IO::new(first, first, 1, count)
}

/// An ISA interrupt: edge-triggered, active high, not shared.
fn irq(gsi: Gsi) -> Interrupt {
    Interrupt::new(true, true, false, false, u32::from(gsi.0))
}

/// A device that is its name, its ID and its resources.
fn device(name: &str, id: &str, resources: &[&dyn Aml]) -> Vec<u8> {
    let id = Name::new(Path::new("_HID"), &EISAName::new(id));
    let unique = Name::new(Path::new("_UID"), &0u8);
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(resources.to_vec()),
    );
    encode(&Device::new(
        Path::new(name),
        vec![&id, &unique, &resources],
    ))
}

/// Its ID is no EISA ID, so that it is a string.
fn panic_device() -> Vec<u8> {
    let id = Name::new(Path::new("_HID"), &"QEMU0001");
    let unique = Name::new(Path::new("_UID"), &0u8);
    let port = port(PanicDevice::PORT, 1);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&port]));
    encode(&Device::new(
        Path::new("PEVT"),
        vec![&id, &unique, &resources],
    ))
}

fn encode(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

fn processor(cpu: u32) -> Vec<u8> {
    let id = Name::new(Path::new("_HID"), &"ACPI0007");
    let unique = Name::new(Path::new("_UID"), &cpu);
    encode(&Device::new(
        Path::new(&format!("C{cpu:03X}")),
        vec![&id, &unique],
    ))
}

fn window(range: Range<GuestPhys>) -> AddressSpace<u32> {
    let first = range.start.as_u64() as u32;
    let last = (range.end.as_u64() - 1) as u32;
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
}

fn host_bridge() -> Vec<u8> {
    let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0A08"));
    let compatible = Name::new(Path::new("_CID"), &EISAName::new("PNP0A03"));
    let unique = Name::new(Path::new("_UID"), &0u8);
    let segment = Name::new(Path::new("_SEG"), &0u8);
    let bus = Name::new(Path::new("_BBN"), &0u8);
    let buses = AddressSpace::<u16>::new_bus_number(0, 0xff);
    let config = IO::new(0xcf8, 0xcf8, 1, 8);
    let ports_low = AddressSpace::<u16>::new_io(0, 0xcf7, None);
    let ports_high = AddressSpace::<u16>::new_io(0xd00, 0xffff, None);
    let low = window(PCI_WINDOW_LOW);
    let high = window(PCI_WINDOW_HIGH);
    let resources =
        ResourceTemplate::new(vec![&buses, &config, &ports_low, &ports_high, &low, &high]);
    let resources = Name::new(Path::new("_CRS"), &resources);
    let routing = Name::new(Path::new("_PRT"), &interrupt_routing());
    let control = Raw(operating_system_capabilities());
    encode(&Device::new(
        Path::new("PCI0"),
        vec![
            &id,
            &compatible,
            &unique,
            &segment,
            &bus,
            &resources,
            &routing,
            &control,
        ],
    ))
}

/// _PRT: pin `p` of device `d` is on interrupt 16 + (d + p) mod 8.
fn interrupt_routing() -> PackageBuilder {
    let count = u32::from(PCI_GSIS.end - PCI_GSIS.start);
    let mut routing = PackageBuilder::new();
    for device in 0..PCI_DEVICES {
        for pin in 0..PCI_PINS {
            let gsi = u32::from(PCI_GSIS.start) + (device + pin) % count;
            let every_function = device << 16 | 0xffff;
            routing.add_element(&Package::new(vec![&every_function, &pin, &0u8, &gsi]));
        }
    }
    routing
}

/// _OSC: the operating system controls whatever it asks for (hot plug, PME, AER …), since no device here has it.
fn operating_system_capabilities() -> Vec<u8> {
    let status = Path::new("CDW1");
    let status_field = CreateDWordField::new(&status, &Arg(3), &0u8);
    let refuse = Or::new(&status, &status, &OSC_UNKNOWN);
    let known = Uuid::new(PCI_HOST_BRIDGE);
    let unknown = NotEqual::new(&Arg(0), &known);
    let refused = If::new(&unknown, vec![&status_field, &refuse]);
    let answer = Return::new(&Arg(3));
    encode(&Method::new(
        Path::new("_OSC"),
        4,
        true,
        vec![&refused, &answer],
    ))
}

/// What belongs to the board itself, so that nobody else takes it: ECAM above all.
fn board_resources() -> Vec<u8> {
    let ecam = Memory32Fixed::new(true, ECAM.start.as_u64() as u32, ECAM.len() as u32);
    let (system, elcr, power) = (port(0x92, 1), port(0x4d0, 2), port(0x600, 12));
    device("RES0", "PNP0C02", &[&ecam, &system, &elcr, &power])
}
