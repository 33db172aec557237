//! INT 0x15 beyond the memory map: address line 20, waiting, moving blocks above 1 MiB, and what the machine is.

use arch::{Gpr, SegmentName, Width};
use machine::A20Gate;
use machine::bios::{self, data};
use memory::{GuestMemory, GuestPhys};

use super::{After, CARRY, Call, UNSUPPORTED, ZERO};
use crate::cpu::Cpu;
use crate::machine::Machine;

/// Port 0x92, and its bit for address line 20.
const SYSTEM_CONTROL: u16 = 0x92;
const A20_OPEN: u32 = 1 << 1;
/// A wait is going on already, in AH.
const WAITS_ALREADY: u8 = 0x83;
/// Codes of AH=0x87: done, another exception, and no such line.
const MOVED: u8 = 0x00;
const MOVE_FAULTED: u8 = 0x02;
/// Words that one call may move.
const MOST_WORDS: u16 = 0x8000;
/// In which unit the end of a wait is kept: the longest, 71 minutes, is a small part of what the field has room for.
const WAIT_UNIT_NS: u64 = 16_000;
/// Bytes that are moved at once.
const CHUNK: usize = 512;

impl<C: Cpu, M: Machine> Call<'_, C, M> {
    pub(super) fn succeed(&mut self) {
        self.set_ah(0);
        self.set_flags(CARRY, false);
    }

    fn a20(&mut self) -> A20Gate {
        let value = self.machine.read_port(SYSTEM_CONTROL, Width::Byte);
        A20Gate::open_if(value & A20_OPEN != 0)
    }

    fn set_a20(&mut self, gate: A20Gate) {
        let value = self.machine.read_port(SYSTEM_CONTROL, Width::Byte) & !A20_OPEN;
        let value = if gate.is_open() {
            value | A20_OPEN
        } else {
            value
        };
        // Bit 0 resets when it rises, and so stays as it is.
        self.machine.write_port(SYSTEM_CONTROL, Width::Byte, value);
    }

    /// AH=0x24.
    pub(super) fn a20_service(&mut self) {
        match self.al() {
            0x00 => self.set_a20(A20Gate::Closed),
            0x01 => self.set_a20(A20Gate::Open),
            0x02 => {
                let is_open = self.a20().is_open();
                self.set_al(u8::from(is_open));
            }
            // By the keyboard controller and by port 0x92.
            0x03 => self.set(Gpr::Rbx, 0x0003),
            _ => return self.fail(UNSUPPORTED),
        }
        self.succeed();
    }

    /// AH=0x86: waits for CX:DX microseconds. The guest does so itself, in a loop of the BIOS that asks
    /// [`is_over`](Self::is_over) again and again, so that its interrupts come meanwhile.
    pub(super) fn wait(&mut self) -> After {
        if self.byte(data::WAITS) & 1 != 0 {
            self.fail(WAITS_ALREADY);
            return After::Return;
        }
        let microseconds = u64::from(self.get(Gpr::Rcx)) << 16 | u64::from(self.get(Gpr::Rdx));
        let until = (self.machine.now_ns() + microseconds * 1000).div_ceil(WAIT_UNIT_NS) as u32;
        self.store(data::WAIT_UNTIL, &until.to_le_bytes());
        self.store(data::WAITS, &[1]);
        self.set_flags(CARRY, false);
        After::At(bios::WAIT)
    }

    /// What the loop asks.
    pub(super) fn is_over(&mut self) -> After {
        let until = u32::from(self.word(data::WAIT_UNTIL))
            | u32::from(self.word(data::WAIT_UNTIL + 2)) << 16;
        let now = (self.machine.now_ns() / WAIT_UNIT_NS) as u32;
        let is_over = now.wrapping_sub(until) < u32::MAX / 2;
        if !is_over && self.byte(data::WAITS) != 0 {
            return After::At(bios::WAIT);
        }
        self.store(data::WAITS, &[0]);
        After::Return
    }

    /// AH=0x87: moves CX words between what two descriptors at ES:SI name, above 1 MiB or below.
    pub(super) fn move_block(&mut self) {
        const SOURCE: u64 = 0x10;
        const DESTINATION: u64 = 0x18;
        let words = self.get(Gpr::Rcx);
        let table = self.address(SegmentName::Es, self.get(Gpr::Rsi));
        let bytes = usize::from(words.min(MOST_WORDS)) * 2;
        let [from, to] =
            [SOURCE, DESTINATION].map(|at| self.described(table.wrapping_add(at), bytes));
        let (Some(from), Some(to), true) = (from, to, words <= MOST_WORDS) else {
            self.set_flags(ZERO, false);
            return self.fail(MOVE_FAULTED);
        };
        let gate = self.a20();
        if !gate.is_open() {
            self.set_a20(A20Gate::Open);
        }
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while done < bytes {
            let length = CHUNK.min(bytes - done);
            let Some(piece) = chunk.get_mut(..length) else {
                break;
            };
            let at = |base: u64| GuestPhys::new(base.wrapping_add(done as u64));
            // What is no RAM reads as all ones, and takes no writes.
            if self.machine.memory().read(at(from), piece).is_err() {
                piece.fill(0xff);
            }
            let _ = self.machine.memory().write(at(to), piece);
            done += length;
        }
        if !gate.is_open() {
            self.set_a20(gate);
        }
        self.set_ah(MOVED);
        self.set_flags(CARRY, false);
        self.set_flags(ZERO, true);
    }

    /// The base of a descriptor, if its limit has room for so many bytes.
    fn described(&self, at: u64, bytes: usize) -> Option<u64> {
        let mut raw = [0; 8];
        self.machine
            .memory()
            .read(GuestPhys::new(at), &mut raw)
            .ok()?;
        let [limit_0, limit_1, base_0, base_1, base_2, _, _, base_3] = raw;
        let limit = usize::from(u16::from_le_bytes([limit_0, limit_1]));
        let base = u32::from_le_bytes([base_0, base_1, base_2, base_3]);
        (bytes <= limit + 1).then_some(u64::from(base))
    }

    /// AH=0xc0: where the table is that says what the machine is.
    pub(super) fn configuration(&mut self) {
        self.set_es(bios::SEGMENT);
        self.set(Gpr::Rbx, bios::CONFIGURATION);
        self.succeed();
    }

    /// AH=0xc1: the segment of the extended data area.
    pub(super) fn extended_data_area(&mut self) {
        let segment = self.word(data::EBDA_SEGMENT);
        self.set_es(segment);
        self.set_flags(CARRY, false);
    }

    /// Loads ES, as real mode does.
    fn set_es(&mut self, selector: u16) {
        let mut segment = self.cpu.segment(SegmentName::Es);
        segment.selector = selector;
        segment.base = u64::from(selector) << 4;
        self.cpu.set_segment(SegmentName::Es, segment);
    }
}
