//! The keyboard: its interrupt, which turns scan codes into characters, and INT 0x16, which hands them out.

use arch::{Gpr, Width};
use machine::bios::{self, data};
use machine::devices::characters_of;

use super::{After, Call, ZERO};
use crate::cpu::Cpu;
use crate::machine::Machine;

const DATA_PORT: u16 = 0x60;
/// The keyboard controller's status, and its bit for a byte that waits.
const STATUS_PORT: u16 = 0x64;
const OUTPUT_FULL: u32 = 1;
/// Codes that are read in one go; what comes then comes with the next interrupt.
const CODES_AT_A_TIME: usize = 64;
/// The serial port's line status, and its bit for a byte that has arrived.
const LINE_STATUS: u16 = 0x3fd;
const DATA_READY: u32 = 1;
const SERIAL: u16 = 0x3f8;
/// What may have arrived there.
const FIFO_BYTES: usize = 16;
/// Where the data area starts: places for keys are told from there.
const DATA_AREA: u64 = 0x400;

/// Shift flags of the data area.
const RIGHT_SHIFT: u8 = 1 << 0;
const LEFT_SHIFT: u8 = 1 << 1;
const CONTROL: u8 = 1 << 2;
const ALT: u8 = 1 << 3;
const CAPS_LOCK: u8 = 1 << 6;
/// Bit 7 of a scan code: the key was released.
const RELEASED: u8 = 0x80;
const EXTENDED: u8 = 0xe0;
/// The keyboard state's bit for that prefix.
const AFTER_PREFIX: u8 = 1 << 1;

/// Scan code and character of keys that have the same with any modifier.
const FIXED: [(u8, u8); 4] = [(0x01, 0x1b), (0x0e, 0x08), (0x0f, b'\t'), (0x1c, b'\r')];

impl<C: Cpu, M: Machine> Call<'_, C, M> {
    /// IRQ 1.
    pub(super) fn keyboard_interrupt(&mut self) {
        self.read_keyboard();
        self.end_of_interrupt(false);
    }

    /// Takes from the controller what the keyboard has sent, as long as there is room: what was typed too fast waits in the
    /// keyboard, and is fetched once somebody has taken a key.
    fn read_keyboard(&mut self) {
        for _ in 0..CODES_AT_A_TIME {
            let is_full = self.behind(self.word(data::KEYS_TAIL)) == self.word(data::KEYS_HEAD);
            let status = self.machine.read_port(STATUS_PORT, Width::Byte);
            if is_full || status & OUTPUT_FULL == 0 {
                return;
            }
            let code = self.machine.read_port(DATA_PORT, Width::Byte) as u8;
            let state = self.byte(data::KEYBOARD_STATE);
            if code == EXTENDED {
                self.store(data::KEYBOARD_STATE, &[state | AFTER_PREFIX]);
            } else {
                self.store(data::KEYBOARD_STATE, &[state & !AFTER_PREFIX]);
                self.key(code, state & AFTER_PREFIX != 0);
            }
        }
    }

    fn key(&mut self, code: u8, extended: bool) {
        let flags = self.byte(data::SHIFT_FLAGS);
        let held = match code & !RELEASED {
            0x2a if !extended => LEFT_SHIFT,
            0x36 if !extended => RIGHT_SHIFT,
            0x1d => CONTROL,
            0x38 => ALT,
            _ => 0,
        };
        if held != 0 {
            let flags = if code & RELEASED == 0 {
                flags | held
            } else {
                flags & !held
            };
            self.store(data::SHIFT_FLAGS, &[flags]);
        } else if code == 0x3a {
            self.store(data::SHIFT_FLAGS, &[flags ^ CAPS_LOCK]);
        } else if code & RELEASED == 0 {
            let character = if extended { 0 } else { character(code, flags) };
            self.remember(u16::from_le_bytes([character, code]));
        }
    }

    /// Puts a key where INT 0x16 takes it from, unless that is full.
    fn remember(&mut self, key: u16) {
        let tail = self.word(data::KEYS_TAIL);
        let next = self.behind(tail);
        if next != self.word(data::KEYS_HEAD) {
            self.store_word(DATA_AREA + u64::from(tail), key);
            self.store_word(data::KEYS_TAIL, next);
        }
    }

    fn behind(&self, place: u16) -> u16 {
        let next = place.wrapping_add(2);
        if next >= self.word(data::KEYS_END) {
            return self.word(data::KEYS_START);
        }
        next
    }

    /// The next key: character in the lower half, scan code in the upper one.
    fn next_key(&mut self) -> Option<u16> {
        if self.has_display() {
            self.read_keyboard();
        } else {
            self.read_serial();
        }
        let head = self.word(data::KEYS_HEAD);
        (head != self.word(data::KEYS_TAIL)).then(|| self.word(DATA_AREA + u64::from(head)))
    }

    /// Without a display, what arrives at the serial port counts as typed.
    fn read_serial(&mut self) {
        for _ in 0..FIFO_BYTES {
            if self.machine.read_port(LINE_STATUS, Width::Byte) & DATA_READY == 0 {
                return;
            }
            let byte = self.machine.read_port(SERIAL, Width::Byte) as u8;
            let code = (1..0x59).find(|&code| {
                let found = characters_of(code);
                found.is_some_and(|(plain, shifted)| byte == plain || byte == shifted)
                    || FIXED.contains(&(code, byte))
            });
            let key = match (byte, code) {
                (0x7f, _) => u16::from_le_bytes([0x08, 0x0e]),
                (_, code) => u16::from_le_bytes([byte, code.unwrap_or(0)]),
            };
            self.remember(key);
        }
    }

    /// INT 0x16.
    pub(super) fn keyboard(&mut self) -> After {
        match self.ah() {
            0x00 | 0x10 => match self.next_key() {
                Some(key) => {
                    let head = self.word(data::KEYS_HEAD);
                    let next = self.behind(head);
                    self.store_word(data::KEYS_HEAD, next);
                    self.set_ax(key);
                }
                // The stub comes back here after the next interrupt: of the keyboard, or of the timer.
                None => return After::At(bios::WAIT_FOR_KEY),
            },
            0x01 | 0x11 => {
                let key = self.next_key();
                self.set_flags(ZERO, key.is_none());
                if let Some(key) = key {
                    self.set_ax(key);
                }
            }
            0x02 | 0x12 => {
                let flags = self.byte(data::SHIFT_FLAGS);
                self.set_al(flags);
            }
            0x05 => {
                let key = self.get(Gpr::Rcx);
                self.remember(key);
                self.set_al(0);
            }
            _ => {}
        }
        After::Return
    }
}

/// What a key means with these modifiers; 0 where it is no character.
fn character(code: u8, flags: u8) -> u8 {
    if let Some(&(_, character)) = FIXED.iter().find(|key| key.0 == code) {
        return character;
    }
    let Some((plain, shifted)) = characters_of(code) else {
        return 0;
    };
    let caps = flags & CAPS_LOCK != 0 && plain.is_ascii_lowercase();
    let shift = (flags & (LEFT_SHIFT | RIGHT_SHIFT) != 0) != caps;
    match flags {
        _ if flags & ALT != 0 => 0,
        _ if flags & CONTROL != 0 && shifted >= b'@' => shifted & 0x1f,
        _ if shift => shifted,
        _ => plain,
    }
}
