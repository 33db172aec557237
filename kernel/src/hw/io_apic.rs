//! The I/O APICs, which bring devices' interrupts to the CPUs. The hypervisor itself wants only that of its
//! serial port.

use host::destination::RedirectionEntry;
use host::madt::IoApicInfo;
use memory::{HostPhys, Range};

use super::acpi::Platform;
use crate::cpu::interrupts::HostVector;
use crate::memory::map_device;

/// Registers in memory: the index of the register, and the window to it (82093AA data sheet).
const WINDOW_OFFSET: u64 = 0x10;
const REGISTER_BYTES: u64 = 0x20;
/// Register 1 says how many pins there are; the pins' entries have two registers each.
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;

struct IoApic {
    index: *mut u32,
    window: *mut u32,
    first_gsi: u32,
}

impl IoApic {
    fn new(info: &IoApicInfo) -> Option<Self> {
        let address = HostPhys::new(info.address.into());
        let registers = Range::<HostPhys>::from_len(address, REGISTER_BYTES)?;
        let address = map_device(registers).ok()?.as_u64();
        Some(Self {
            index: address as *mut u32,
            window: (address + WINDOW_OFFSET) as *mut u32,
            first_gsi: info.first_gsi,
        })
    }

    fn read(&mut self, register: u32) -> u32 {
        // SAFETY: the MADT says that the registers are here, and they are mapped uncached.
        unsafe {
            self.index.write_volatile(register);
            self.window.read_volatile()
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        // SAFETY: as in `read`.
        unsafe {
            self.index.write_volatile(register);
            self.window.write_volatile(value);
        }
    }

    fn pins(&mut self) -> u32 {
        (self.read(VERSION) >> 16 & 0xff) + 1
    }

    fn set_entry(&mut self, pin: u32, value: RedirectionEntry) {
        let entry = FIRST_ENTRY + pin * 2;
        // Masked while the halves do not fit together.
        self.write(entry, RedirectionEntry::MASKED.low);
        self.write(entry + 1, value.high);
        self.write(entry, value.low);
    }
}

/// Masks all pins: the firmware may have left some open.
pub(crate) fn mask_all(platform: &Platform) {
    for mut io_apic in platform.madt.io_apics.iter().filter_map(IoApic::new) {
        for pin in 0..io_apic.pins() {
            io_apic.set_entry(pin, RedirectionEntry::MASKED);
        }
    }
}

/// Sends an ISA interrupt to the CPU with this APIC ID; false where no I/O APIC has it, or reaches that CPU.
pub(crate) fn route_isa(platform: &Platform, irq: u8, vector: HostVector, apic_id: u32) -> bool {
    let found = platform
        .madt
        .overrides
        .iter()
        .find(|found| found.irq == irq);
    let (gsi, flags) = found.map_or((irq.into(), 0), |found| (found.gsi, found.flags));
    let Some(entry) = RedirectionEntry::of_isa(vector as u8, flags, apic_id) else {
        return false;
    };
    for mut io_apic in platform.madt.io_apics.iter().filter_map(IoApic::new) {
        if let Some(pin) = gsi.checked_sub(io_apic.first_gsi)
            && pin < io_apic.pins()
        {
            io_apic.set_entry(pin, entry);
            return true;
        }
    }
    false
}
