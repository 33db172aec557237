//! The services of the BIOS that guests call in real mode, by INT: what its stubs ([`machine::bios`]) ask for.
//!
//! Enough for boot loaders and their kin: text on the display, keys, memory map and moves, time, and the truth about what is
//! not there (disks, VESA, APM). Without a display, text goes to the serial port, and keys come from there.
//!
//! By IBM's Personal System/2 and Personal Computer BIOS Interface technical reference; INT 0x15, AX=0xe820 by the ACPI
//! specification, "INT 15H, E820H - Query System Address Map".

mod extended;
mod keyboard;
mod system;
mod video;

use arch::{Cr0, Gpr, Rflags, SegmentName, Width};
use machine::bios::{self, data};
use memory::{GuestMemory, GuestPhys};

use crate::cpu::Cpu;
use crate::machine::Machine;

/// Where the guest goes on after a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    /// Behind the VMCALL, at the IRET.
    Return,
    /// At this offset of the BIOS's segment.
    At(u16),
}

/// If the VMCALL at hand is a stub of the BIOS, does what it stands for.
#[inline]
pub(super) fn serve<C: Cpu, M: Machine>(cpu: &mut C, machine: &mut M) -> Option<After> {
    if cpu.cr0().contains(Cr0::PE) {
        return None;
    }
    let cs = cpu.segment(SegmentName::Cs);
    if cs.base != u64::from(bios::SEGMENT) << 4 {
        return None;
    }
    let vector = bios::service_at(cpu.rip())?;
    Some(Call { cpu, machine }.serve(vector))
}

/// One call: the registers of the caller, and the machine.
struct Call<'a, C, M> {
    cpu: &'a mut C,
    machine: &'a mut M,
}

/// The flags on the caller's stack that services change.
const CARRY: u16 = Rflags::CF.bits() as u16;
const ZERO: u16 = Rflags::ZF.bits() as u16;
/// Function not supported, in AH.
const UNSUPPORTED: u8 = 0x86;

impl<C: Cpu, M: Machine> Call<'_, C, M> {
    #[cold]
    fn serve(mut self, vector: u8) -> After {
        match vector {
            0x08 => return self.timer_interrupt(),
            0x09 => self.keyboard_interrupt(),
            0x10 => return self.video(),
            0x11 => {
                let equipment = self.word(data::EQUIPMENT);
                self.set_ax(equipment);
            }
            0x12 => {
                let kib = self.word(data::MEMORY_KIB);
                self.set_ax(kib);
            }
            0x13 => self.disk(),
            // Serial port: time-out. Printer: time-out.
            0x14 => self.set_ah(0x80),
            0x17 => self.set_ah(0x01),
            0x15 => return self.system(),
            bios::IS_WAIT_OVER => return self.is_over(),
            0x16 => return self.keyboard(),
            0x18 | 0x19 => self.nothing_to_boot(),
            0x1a => self.time(),
            0x0a..=0x0f => self.end_of_interrupt(false),
            0x70..=0x77 => self.end_of_interrupt(true),
            _ => {}
        }
        After::Return
    }

    /// A hardware interrupt that nobody else handles.
    fn end_of_interrupt(&mut self, of_second: bool) {
        const PORTS: [u16; 2] = [0xa0, 0x20];
        const NONSPECIFIC_EOI: u32 = 0x20;
        for port in PORTS.into_iter().skip(usize::from(!of_second)) {
            self.machine.write_port(port, Width::Byte, NONSPECIFIC_EOI);
        }
    }

    fn ax(&self) -> u16 {
        self.cpu.gpr(Gpr::Rax) as u16
    }

    fn al(&self) -> u8 {
        self.ax() as u8
    }

    fn ah(&self) -> u8 {
        (self.ax() >> 8) as u8
    }

    fn set_ax(&mut self, value: u16) {
        self.set(Gpr::Rax, value);
    }

    fn set_al(&mut self, value: u8) {
        self.cpu.write_gpr(Gpr::Rax, Width::Byte, u64::from(value));
    }

    fn set_ah(&mut self, value: u8) {
        let ax = u16::from_le_bytes([self.al(), value]);
        self.set_ax(ax);
    }

    /// The lower 16 bits of a register.
    fn get(&self, register: Gpr) -> u16 {
        self.cpu.gpr(register) as u16
    }

    fn set(&mut self, register: Gpr, value: u16) {
        self.cpu.write_gpr(register, Width::Word, u64::from(value));
    }

    /// The two halves of a 16-bit register, low first.
    fn halves(&self, register: Gpr) -> [u8; 2] {
        self.get(register).to_le_bytes()
    }

    fn byte(&self, at: u64) -> u8 {
        let mut byte = [0];
        // The data area is RAM of every machine that has got so far.
        let _ = self.machine.memory().read(GuestPhys::new(at), &mut byte);
        let [byte] = byte;
        byte
    }

    fn word(&self, at: u64) -> u16 {
        u16::from_le_bytes([self.byte(at), self.byte(at.wrapping_add(1))])
    }

    /// Writes guest memory; what is no RAM stays as it is, as writes to a ROM do.
    fn store(&mut self, at: u64, bytes: &[u8]) {
        let _ = self.machine.memory().write(GuestPhys::new(at), bytes);
    }

    fn store_word(&mut self, at: u64, word: u16) {
        self.store(at, &word.to_le_bytes());
    }

    /// The physical address of an offset in a segment.
    fn address(&self, segment: SegmentName, offset: u16) -> u64 {
        let base = self.cpu.segment(segment).base;
        base.wrapping_add(u64::from(offset))
    }

    /// Sets or clears flags in those that IRET will load: above the return address on the stack.
    fn set_flags(&mut self, flags: u16, on: bool) {
        let offset = self.get(Gpr::Rsp).wrapping_add(4);
        let at = self.address(SegmentName::Ss, offset);
        let before = self.word(at);
        let after = if on { before | flags } else { before & !flags };
        self.store_word(at, after);
    }

    fn fail(&mut self, code: u8) {
        self.set_ah(code);
        self.set_flags(CARRY, true);
    }

    fn has_display(&self) -> bool {
        self.byte(bios::HAS_DISPLAY.as_u64()) != 0
    }
}

#[cfg(test)]
mod tests;
