//! INT 0x15 (memory; the rest of it is in `extended`), time, and what there is nothing of.

use arch::{Gpr, SegmentName, Width};
use machine::bios::{self, data};
use memory::{GuestMemory, GuestPhys};

use super::{After, CARRY, Call, UNSUPPORTED};
use crate::cpu::Cpu;
use crate::machine::Machine;

/// "SMAP", by which caller and BIOS of E820 know each other.
const SMAP: u64 = 0x534d_4150;
const ONE_MIB: u64 = 1 << 20;
const SIXTEEN_MIB: u64 = 16 << 20;
/// Ticks of the timer in a day.
const TICKS_A_DAY: u32 = 0x18_00b0;
/// CMOS: ports, and registers of the real-time clock.
const CMOS_INDEX: u16 = 0x70;
const CMOS_DATA: u16 = 0x71;
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const CENTURY: u8 = machine::devices::CENTURY;
/// ACPI's PM1a control, SLP_EN with the type of soft off.
const PM1A_CONTROL: u16 = 0x604;
const SOFT_OFF: u32 = 1 << 13 | (machine::devices::SOFT_OFF_TYPE as u32) << 10;

/// An entry of the memory map.
struct Entry {
    start: u64,
    bytes: u64,
    is_ram: bool,
    raw: [u8; bios::E820_ENTRY_BYTES as usize],
}

impl<C: Cpu, M: Machine> Call<'_, C, M> {
    /// INT 0x15.
    pub(super) fn system(&mut self) -> After {
        match (self.ah(), self.al()) {
            (0xe8, 0x20) => self.memory_map(),
            // The latter is the former for callers that look at 32 bits.
            (0xe8, 0x01 | 0x81) => {
                let width = match self.al() {
                    0x01 => Width::Word,
                    _ => Width::Dword,
                };
                let (kib, blocks) = self.memory_above_1_mib();
                for (register, value) in [
                    (Gpr::Rax, kib),
                    (Gpr::Rbx, blocks),
                    (Gpr::Rcx, kib),
                    (Gpr::Rdx, blocks),
                ] {
                    self.cpu.write_gpr(register, width, u64::from(value));
                }
                self.set_flags(CARRY, false);
            }
            (0x88, _) => {
                let (kib, blocks) = self.memory_above_1_mib();
                // Up to 64 MiB less one KiB fits.
                let all = u32::from(kib) + 64 * u32::from(blocks);
                self.set_ax(u16::try_from(all).unwrap_or(u16::MAX));
                self.set_flags(CARRY, false);
            }
            (0x24, _) => self.a20_service(),
            (0x86, _) => return self.wait(),
            (0x87, _) => self.move_block(),
            (0xc0, _) => self.configuration(),
            (0xc1, _) => self.extended_data_area(),
            _ => self.fail(UNSUPPORTED),
        }
        After::Return
    }

    fn entry(&self, index: u64) -> Option<Entry> {
        let count = u64::from(self.word(bios::MEMORY_MAP.as_u64()));
        if index >= count {
            return None;
        }
        let at = bios::MEMORY_MAP.as_u64() + 2 + index * bios::E820_ENTRY_BYTES;
        let mut raw = [0; bios::E820_ENTRY_BYTES as usize];
        self.machine
            .memory()
            .read(GuestPhys::new(at), &mut raw)
            .ok()?;
        let memory = self.machine.memory();
        Some(Entry {
            start: memory.read_u64(GuestPhys::new(at)).ok()?,
            bytes: memory.read_u64(GuestPhys::new(at + 8)).ok()?,
            is_ram: memory.read_u32(GuestPhys::new(at + 16)).ok()? == 1,
            raw,
        })
    }

    /// EBX says which entry is wanted, 0 for the first, and is told what to ask for next, 0 for nothing.
    fn memory_map(&mut self) {
        let index = self.cpu.gpr(Gpr::Rbx) & 0xffff_ffff;
        let room = self.cpu.gpr(Gpr::Rcx) & 0xffff_ffff;
        let signature = self.cpu.gpr(Gpr::Rdx) & 0xffff_ffff;
        let entry = self.entry(index);
        let Some(entry) = entry.filter(|_| signature == SMAP && room >= bios::E820_ENTRY_BYTES)
        else {
            return self.fail(UNSUPPORTED);
        };
        let to = self.address(SegmentName::Es, self.get(Gpr::Rdi));
        self.store(to, &entry.raw);
        let next = index + 1;
        let next = if self.entry(next).is_some() { next } else { 0 };
        for (register, value) in [
            (Gpr::Rax, SMAP),
            (Gpr::Rbx, next),
            (Gpr::Rcx, bios::E820_ENTRY_BYTES),
        ] {
            self.cpu.write_gpr(register, Width::Dword, value);
        }
        self.set_flags(CARRY, false);
    }

    /// KiB between 1 and 16 MiB, and blocks of 64 KiB above that, up to the first hole.
    fn memory_above_1_mib(&self) -> (u16, u16) {
        let end = (0..)
            .map_while(|index| self.entry(index))
            .filter(|entry| entry.is_ram && entry.start == ONE_MIB)
            .map(|entry| entry.start.saturating_add(entry.bytes))
            .next()
            .unwrap_or(ONE_MIB);
        let kib = (end.min(SIXTEEN_MIB) - ONE_MIB) / 1024;
        let blocks = end.saturating_sub(SIXTEEN_MIB) / (64 << 10);
        (kib as u16, u16::try_from(blocks).unwrap_or(u16::MAX))
    }

    /// INT 0x13: there are no disks.
    pub(super) fn disk(&mut self) {
        match self.ah() {
            0x00 => self.succeed(),
            // Kind of disk: none.
            0x15 => self.succeed(),
            0x08 => {
                self.set(Gpr::Rdx, 0);
                self.fail(0x01);
            }
            _ => self.fail(0x01),
        }
    }

    /// IRQ 0: counts, and lets whoever has hooked INT 0x1c know.
    pub(super) fn timer_interrupt(&mut self) -> After {
        let mut ticks = self.ticks().wrapping_add(1);
        if ticks >= TICKS_A_DAY {
            ticks = 0;
            self.store(data::MIDNIGHT, &[1]);
        }
        self.store(data::TICKS, &ticks.to_le_bytes());
        self.end_of_interrupt(false);
        After::At(bios::CALL_TICK)
    }

    fn ticks(&self) -> u32 {
        u32::from(self.word(data::TICKS)) | u32::from(self.word(data::TICKS + 2)) << 16
    }

    fn cmos(&mut self, register: u8) -> u8 {
        self.machine
            .write_port(CMOS_INDEX, Width::Byte, u32::from(register));
        self.machine.read_port(CMOS_DATA, Width::Byte) as u8
    }

    /// INT 0x1a. The clock's registers are in BCD, as this wants them.
    pub(super) fn time(&mut self) {
        match self.ah() {
            0x00 => {
                let ticks = self.ticks();
                self.set(Gpr::Rcx, (ticks >> 16) as u16);
                self.set(Gpr::Rdx, ticks as u16);
                let midnight = self.byte(data::MIDNIGHT);
                self.store(data::MIDNIGHT, &[0]);
                self.set_al(midnight);
                self.set_flags(CARRY, false);
            }
            0x01 => {
                let ticks = [
                    self.get(Gpr::Rdx).to_le_bytes(),
                    self.get(Gpr::Rcx).to_le_bytes(),
                ];
                self.store(data::TICKS, ticks.as_flattened());
                self.store(data::MIDNIGHT, &[0]);
                self.set_flags(CARRY, false);
            }
            0x02 => {
                let [hours, minutes, seconds] = [HOURS, MINUTES, SECONDS].map(|at| self.cmos(at));
                self.set(Gpr::Rcx, u16::from_le_bytes([minutes, hours]));
                self.set(Gpr::Rdx, u16::from_le_bytes([0, seconds]));
                self.set_flags(CARRY, false);
            }
            0x04 => {
                let [century, year] = [CENTURY, YEAR].map(|at| self.cmos(at));
                let [month, day] = [MONTH, DAY].map(|at| self.cmos(at));
                self.set(Gpr::Rcx, u16::from_le_bytes([year, century]));
                self.set(Gpr::Rdx, u16::from_le_bytes([day, month]));
                self.set_flags(CARRY, false);
            }
            // PCI BIOS among others: configuration space is reached by ports 0xcf8 and 0xcfc.
            _ => self.fail(UNSUPPORTED),
        }
    }

    /// INT 0x18 and 0x19: a boot loader gives up, or wants the next disk. Says so, and switches off.
    pub(super) fn nothing_to_boot(&mut self) {
        for character in *b"\r\nThere is nothing else to boot.\r\n" {
            self.write_character(character);
        }
        self.machine.write_port(PM1A_CONTROL, Width::Word, SOFT_OFF);
    }
}
