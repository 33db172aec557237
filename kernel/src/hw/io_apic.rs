//! The I/O APICs, which bring devices' interrupts to the CPUs. The hypervisor itself wants only that of its
//! serial port.

use memory::{HostPhys, Range};

use super::acpi::{IoApicInfo, Platform};
use crate::cpu::interrupts::HostVector;
use crate::memory::map_device;

/// Registers in memory: the index of the register, and the window to it (82093AA data sheet).
const WINDOW_OFFSET: u64 = 0x10;
const REGISTER_BYTES: u64 = 0x20;
/// Register 1 says how many pins there are; the pins' entries have two registers each.
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;
const MASKED: u32 = 1 << 16;
const LEVEL_TRIGGERED: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;
/// MPS INTI flags: polarity and trigger mode, where they differ from the bus's usual ones.
const FLAGS_ACTIVE_LOW: u16 = 3;
const FLAGS_LEVEL: u16 = 3 << 2;

struct IoApic {
    index: *mut u32,
    window: *mut u32,
    first_gsi: u32,
}

impl IoApic {
    fn new(info: &IoApicInfo) -> Option<Self> {
        let registers = Range::<HostPhys>::from_len(info.address, REGISTER_BYTES)?;
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

    fn set_entry(&mut self, pin: u32, high: u32, low: u32) {
        let entry = FIRST_ENTRY + pin * 2;
        // Masked while the halves do not fit together.
        self.write(entry, MASKED);
        self.write(entry + 1, high);
        self.write(entry, low);
    }
}

/// Masks all pins: the firmware may have left some open.
pub(crate) fn mask_all(platform: &Platform) {
    for mut io_apic in platform.io_apics.iter().filter_map(IoApic::new) {
        for pin in 0..io_apic.pins() {
            io_apic.set_entry(pin, 0, MASKED);
        }
    }
}

/// Sends an ISA interrupt to the CPU with this APIC ID; false where no I/O APIC has it, or reaches that CPU: without
/// interrupt remapping its messages have eight bits for that, and 255 means all.
pub(crate) fn route_isa(platform: &Platform, irq: u8, vector: HostVector, apic_id: u32) -> bool {
    if apic_id >= 0xff {
        return false;
    }
    let entry = platform.overrides.iter().find(|entry| entry.irq == irq);
    let (gsi, flags) = entry.map_or((irq.into(), 0), |entry| (entry.gsi, entry.flags));
    let mut low = vector as u32;
    if flags & FLAGS_ACTIVE_LOW == FLAGS_ACTIVE_LOW {
        low |= ACTIVE_LOW;
    }
    if flags & FLAGS_LEVEL == FLAGS_LEVEL {
        low |= LEVEL_TRIGGERED;
    }
    for mut io_apic in platform.io_apics.iter().filter_map(IoApic::new) {
        if let Some(pin) = gsi.checked_sub(io_apic.first_gsi)
            && pin < io_apic.pins()
        {
            io_apic.set_entry(pin, apic_id << 24, low);
            return true;
        }
    }
    false
}
