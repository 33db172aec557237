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
const PCI_DEVICES: u8 = 32;
const PCI_PINS: u8 = 4;
/// What _OSC asks for when it is about PCI host bridges (PCI Firmware Specification, "_OSC Interface for PCI Host
/// Bridge Devices").
const PCI_HOST_BRIDGE: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// _OSC: unknown UUID.
const OSC_UNKNOWN: u8 = 0x04;

/// The devices that every machine has, in AML.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CommonDevices(Vec<u8>);

impl CommonDevices {
    pub(super) fn encode() -> Self {
        let devices = [
            host_bridge(),
            board_resources(),
            device("COM1", "PNP0501", &[&port(0x3f8, 8), &irq(Board::UART_GSI)]),
            device("RTC0", "PNP0B00", &[&port(0x70, 2), &irq(Board::RTC_GSI)]),
            device("PIC0", "PNP0000", &[&port(0x20, 2), &port(0xa0, 2)]),
            device("TMR0", "PNP0100", &[&port(0x40, 4)]),
            device("SPKR", "PNP0800", &[&port(0x61, 1)]),
            panic_device(),
        ];
        Self(devices.concat())
    }
}

pub(super) fn build(common: &CommonDevices, layout: &MachineLayout, display: Display) -> Vec<u8> {
    let mut aml = Vec::with_capacity(common.0.len() + 0x100);
    let sleep_type = SOFT_OFF_TYPE;
    Name::new(
        Path::new("\\_S5_"),
        &Package::new(vec![&sleep_type, &sleep_type, &0u8, &0u8]),
    )
    .to_aml_bytes(&mut aml);

    let mut own = Vec::new();
    if display == Display::Vga {
        own.extend(device(
            "KBD0",
            "PNP0303",
            &[&port(0x60, 1), &port(0x64, 1), &irq(Board::KEYBOARD_GSI)],
        ));
    }
    for cpu in 0..layout.cpus() {
        own.extend(processor(cpu));
    }
    Scope::new(Path::new("\\_SB_"), vec![&Raw(&common.0), &Raw(&own)]).to_aml_bytes(&mut aml);
    table(*b"DSDT", REVISION, &aml)
}

/// AML that is encoded already.
struct Raw<'a>(&'a [u8]);

impl Aml for Raw<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(self.0);
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
    let control = operating_system_capabilities();
    let control = Raw(&control);
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
    let mut routing = PackageBuilder::new();
    for device in 0..PCI_DEVICES {
        for pin in 0..PCI_PINS {
            let gsi = PCI_GSIS.start + (device + pin) % (PCI_GSIS.end - PCI_GSIS.start);
            routing.add_element(&Route { device, pin, gsi });
        }
    }
    routing
}

/// One entry of _PRT ("PCI Routing Table"): a package of the device's address for all of its functions, the pin, no
/// link device, and the interrupt. There are so many that each is encoded at once, and not number by number: that would
/// be a quarter of a small machine's start.
struct Route {
    device: u8,
    pin: u8,
    gsi: u8,
}

impl Aml for Route {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        // "AML Byte Stream Byte Values".
        const PACKAGE: u8 = 0x12;
        const DWORD: u8 = 0x0c;
        const BYTE: u8 = 0x0a;
        const ZERO: u8 = 0x00;
        // What follows the first byte, and how many elements that is.
        sink.vec(&[PACKAGE, 12, 4]);
        sink.vec(&[DWORD, 0xff, 0xff, self.device, 0]);
        sink.vec(&[BYTE, self.pin, ZERO, BYTE, self.gsi]);
    }
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
