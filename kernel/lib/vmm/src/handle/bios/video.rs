//! INT 0x10: text on the display, or without one, on the serial port.

use arch::{Gpr, SegmentName, Width};
use machine::bios::{self, data};
use machine::layout::EBDA;
use memory::{GuestMemory, GuestPhys};

use super::{After, Call};
use crate::cpu::Cpu;
use crate::machine::Machine;

const TEXT: u64 = 0xb_8000;
const ROWS: u8 = 25;
const COLUMNS: u8 = 80;
const BLANK: u8 = b' ';
const USUAL_COLOURS: u8 = 0x07;
const SERIAL: u16 = 0x3f8;

/// The most characters of a string that are written in one exit.
const PIECE: u16 = 256;
/// Without a display: what the serial port takes even if it is full then.
const SERIAL_PIECE: u16 = 16;
/// The serial port's line status, and its bit for an empty transmitter.
const LINE_STATUS: u16 = SERIAL + 5;
const HOLDING_EMPTY: u32 = 1 << 5;
/// In the extended data area: how many are written, and row and column of the cursor before.
const PROGRESS: u64 = EBDA.start.as_u64() + 0x10;
const CURSOR_BEFORE: u64 = PROGRESS + 2;
/// In the extended data area: the character that was written to the cursor's place and has gone to the serial port; 0 for
/// none. Whoever writes it once more and moves on only sets its colours by that.
const SAID: u64 = PROGRESS + 4;

/// Registers of the CRT controller.
const CURSOR_START: u8 = 0x0a;
const START_HIGH: u8 = 0x0c;
const CURSOR_HIGH: u8 = 0x0e;

/// A place on the screen.
#[derive(Clone, Copy)]
struct Place {
    row: u8,
    column: u8,
}

/// A rectangle, corners included.
struct Window {
    top: u8,
    left: u8,
    bottom: u8,
    right: u8,
}

impl<C: Cpu, M: Machine> Call<'_, C, M> {
    pub(super) fn video(&mut self) -> After {
        if matches!(self.ah(), 0x09 | 0x0a | 0x0e | 0x13) && self.has_to_wait() {
            return After::At(bios::stub(0x10));
        }
        let [bl, bh] = self.halves(Gpr::Rbx);
        let [cl, ch] = self.halves(Gpr::Rcx);
        let [dl, dh] = self.halves(Gpr::Rdx);
        match self.ah() {
            0x00 => self.set_mode(),
            0x01 => {
                self.store_word(data::CURSOR_SHAPE, u16::from_le_bytes([cl, ch]));
                self.set_crtc_word(CURSOR_START, u16::from_le_bytes([cl, ch]));
            }
            0x02 => {
                self.store(SAID, &[0]);
                self.set_cursor(
                    bh,
                    Place {
                        row: dh,
                        column: dl,
                    },
                );
            }
            0x03 => {
                let shape = self.word(data::CURSOR_SHAPE);
                self.set(Gpr::Rcx, shape);
                let Place { row, column } = self.cursor(bh);
                self.set(Gpr::Rdx, u16::from_le_bytes([column, row]));
            }
            0x05 => {
                let page = self.al() & 7;
                self.store(data::PAGE, &[page]);
                let start = u16::from(page) * self.word(data::PAGE_BYTES);
                self.store_word(data::PAGE_START, start);
                self.set_crtc_word(START_HIGH, start / 2);
                let cursor = self.cursor(page);
                self.set_cursor(page, cursor);
            }
            up @ (0x06 | 0x07) => {
                let window = Window {
                    top: ch,
                    left: cl,
                    bottom: dh.min(ROWS - 1),
                    right: dl.min(COLUMNS - 1),
                };
                let lines = self.al();
                self.scroll(&window, lines, bh, up == 0x06);
            }
            0x08 => {
                let at = self.cell(bh, self.cursor(bh));
                let cell = self.word(at);
                self.set_ax(cell);
            }
            with @ (0x09 | 0x0a) => {
                let character = self.al();
                let attribute = (with == 0x09).then_some(bl);
                self.say(character);
                self.store(SAID, &[character]);
                self.repeat(bh, character, attribute, self.get(Gpr::Rcx));
            }
            0x0e => {
                let character = self.al();
                self.write_character(character);
            }
            0x0f => {
                let mode = self.byte(data::VIDEO_MODE);
                self.set_ax(u16::from_le_bytes([mode, COLUMNS]));
                let page = self.byte(data::PAGE);
                self.set(Gpr::Rbx, u16::from_le_bytes([bl, page]));
            }
            // Lines of a character, and the last row; there are no characters to point to.
            0x11 if self.al() == 0x30 => {
                self.set(Gpr::Rcx, 16);
                self.set(Gpr::Rdx, u16::from_le_bytes([ROWS - 1, dh]));
            }
            // A VGA in colour with all of its memory.
            0x12 if bl == 0x10 => {
                self.set(Gpr::Rbx, 0x0003);
                self.set(Gpr::Rcx, 0);
            }
            0x13 => {
                return self.write_string(
                    bh,
                    bl,
                    Place {
                        row: dh,
                        column: dl,
                    },
                );
            }
            0x1a if self.al() == 0 => {
                self.set(Gpr::Rbx, 0x0008);
                self.set_al(0x1a);
            }
            // Palettes and fonts are as they are; VESA is not there, which AL says by not being 0x4f.
            _ => {}
        }
        After::Return
    }

    /// Mode 3 is the only one; what asks for another text mode gets it, too, and all others nothing.
    fn set_mode(&mut self) {
        const KEEP: u8 = 0x80;
        let mode = self.al();
        if !matches!(mode & !KEEP, 0..=3 | 7) {
            return;
        }
        self.store(data::VIDEO_MODE, &[3]);
        self.store(data::PAGE, &[0]);
        self.store_word(data::PAGE_START, 0);
        self.set_crtc_word(START_HIGH, 0);
        self.store(data::CURSORS, &[0; 16]);
        if mode & KEEP == 0 {
            self.store(TEXT, &[BLANK, USUAL_COLOURS].repeat(0x4000));
        }
        self.store_word(data::CURSOR_SHAPE, 0x0d0e);
        self.set_crtc_word(CURSOR_START, 0x0d0e);
        self.set_cursor(0, Place { row: 0, column: 0 });
    }

    /// A register pair of the CRT controller, high byte first.
    fn set_crtc_word(&mut self, register: u8, word: u16) {
        let port = self.word(data::CRTC_PORT);
        let [low, high] = word.to_le_bytes();
        for (register, value) in [(register, high), (register + 1, low)] {
            let pair = u16::from_le_bytes([register, value]);
            self.machine.write_port(port, Width::Word, u32::from(pair));
        }
    }

    fn cursor(&self, page: u8) -> Place {
        let [column, row] = self
            .word(data::CURSORS + 2 * u64::from(page & 7))
            .to_le_bytes();
        Place { row, column }
    }

    fn set_cursor(&mut self, page: u8, place: Place) {
        let page = page & 7;
        let position = u16::from_le_bytes([place.column, place.row]);
        self.store_word(data::CURSORS + 2 * u64::from(page), position);
        if page == self.byte(data::PAGE) {
            let at = (self.cell(page, place) - TEXT) / 2;
            self.set_crtc_word(CURSOR_HIGH, at as u16);
        }
    }

    /// The address of a character in text memory, which has 32 KiB.
    fn cell(&self, page: u8, place: Place) -> u64 {
        let in_page = u64::from(place.row) * u64::from(COLUMNS) + u64::from(place.column);
        let start = u64::from(page & 7) * u64::from(self.word(data::PAGE_BYTES));
        TEXT + (start + 2 * in_page) % 0x8000
    }

    fn put(&mut self, page: u8, place: Place, character: u8, attribute: Option<u8>) {
        let at = self.cell(page, place);
        match attribute {
            Some(attribute) => self.store(at, &[character, attribute]),
            None => self.store(at, &[character]),
        }
    }

    /// Writes a character so many times from the cursor on, which stays; not beyond the end of the screen.
    fn repeat(&mut self, page: u8, character: u8, attribute: Option<u8>, count: u16) {
        let Place { row, column } = self.cursor(page);
        let first = u16::from(row) * u16::from(COLUMNS) + u16::from(column);
        let end = (u16::from(ROWS) * u16::from(COLUMNS)).min(first.saturating_add(count));
        for at in first..end {
            let place = Place {
                row: (at / u16::from(COLUMNS)) as u8,
                column: (at % u16::from(COLUMNS)) as u8,
            };
            self.put(page, place, character, attribute);
        }
    }

    /// Writes a character as a terminal does, and moves on.
    fn teletype(&mut self, page: u8, character: u8, attribute: Option<u8>) {
        if self.byte(SAID) != character {
            self.say(character);
        }
        self.store(SAID, &[0]);
        let mut place = self.cursor(page);
        match character {
            0x07 => return,
            0x08 => place.column = place.column.saturating_sub(1),
            b'\n' => place.row = place.row.saturating_add(1),
            b'\r' => place.column = 0,
            _ => {
                self.put(page, place, character, attribute);
                place.column = place.column.saturating_add(1);
            }
        }
        if place.column >= COLUMNS {
            place = Place {
                row: place.row.saturating_add(1),
                column: 0,
            };
        }
        if place.row >= ROWS {
            place.row = ROWS - 1;
            let all = Window {
                top: 0,
                left: 0,
                bottom: ROWS - 1,
                right: COLUMNS - 1,
            };
            self.scroll(&all, 1, USUAL_COLOURS, true);
        }
        self.set_cursor(page, place);
    }

    /// Moves the lines of a window of the active page up or down, and blanks those that become free; 0 lines blank all.
    fn scroll(&mut self, window: &Window, lines: u8, attribute: u8, up: bool) {
        if window.top > window.bottom || window.left > window.right {
            return;
        }
        let page = self.byte(data::PAGE);
        let height = window.bottom - window.top + 1;
        let lines = if lines == 0 {
            height
        } else {
            lines.min(height)
        };
        let width = usize::from(window.right - window.left) + 1;
        let row_at = |call: &Self, row: u8| {
            let column = window.left;
            call.cell(page, Place { row, column })
        };
        for step in 0..height {
            let row = if up {
                window.top + step
            } else {
                window.bottom - step
            };
            let to = row_at(self, row);
            let from = if up {
                row.checked_add(lines)
            } else {
                row.checked_sub(lines)
            };
            let from = from.filter(|from| (window.top..=window.bottom).contains(from));
            let mut cells = [BLANK, attribute].repeat(width);
            if let Some(from) = from {
                let from = GuestPhys::new(row_at(self, from));
                // Text memory is RAM.
                let _ = self.machine.memory().read(from, &mut cells);
            }
            self.store(to, &cells);
        }
    }

    /// Bit 0 of AL: the cursor moves. Bit 1: each character has its attribute behind it. A long string is written in
    /// pieces, an exit each: how far it has come, and where the cursor was before, are kept in the extended data area.
    fn write_string(&mut self, page: u8, attribute: u8, place: Place) -> After {
        let done = self.word(PROGRESS);
        if done == 0 {
            let before = self.cursor(page);
            self.store(CURSOR_BEFORE, &[before.row, before.column]);
            self.set_cursor(page, place);
        }
        let how = self.al();
        let stride = if how & 2 != 0 { 2 } else { 1 };
        let count = self.get(Gpr::Rcx);
        let piece = if self.has_display() {
            PIECE
        } else {
            SERIAL_PIECE
        };
        let end = count.min(done.saturating_add(piece));
        for index in done..end {
            let offset = self.get(Gpr::Rbp).wrapping_add(index.wrapping_mul(stride));
            let at = self.address(SegmentName::Es, offset);
            let [character, behind] = self.word(at).to_le_bytes();
            let attribute = if stride == 2 { behind } else { attribute };
            self.teletype(page, character, Some(attribute));
        }
        if end < count {
            self.store_word(PROGRESS, end);
            return After::At(bios::stub(0x10));
        }
        self.store_word(PROGRESS, 0);
        if how & 1 == 0 {
            let [row, column] = self.word(CURSOR_BEFORE).to_le_bytes();
            self.set_cursor(page, Place { row, column });
        }
        After::Return
    }

    /// Writes a character to the active page as a terminal does.
    pub(super) fn write_character(&mut self, character: u8) {
        let page = self.byte(data::PAGE);
        self.teletype(page, character, None);
    }

    /// Whether the serial port, where that has the text, is to send something first.
    fn has_to_wait(&mut self) -> bool {
        !self.has_display() && self.machine.read_port(LINE_STATUS, Width::Byte) & HOLDING_EMPTY == 0
    }

    /// Without a display, the serial port has the text.
    fn say(&mut self, character: u8) {
        if !self.has_display() {
            self.machine
                .write_port(SERIAL, Width::Byte, u32::from(character));
        }
    }
}
