//! [`Vga`]: the registers of a VGA in text mode.
//!
//! The text itself is ordinary RAM at 0xb8000: writing it costs a guest no exit, and whoever shows the screen
//! reads it there, at the place and in the shape that [`Vga::view`] tells. So there are no planes: what a guest writes
//! to the character generator goes to the RAM at 0xa0000 and has no effect. Registers read back; those that matter
//! to the view are the CRT controller's start address, offset and cursor, and the sequencer's screen-off bit.
//!
//! By IBM's Personal System/2 technical reference, "Video Subsystem", and the register names there.

use memory::GuestPhys;

/// Where the text of a colour display is.
const TEXT: u64 = 0xb_8000;
/// The text memory has 32 KiB, and addresses wrap around in it.
const TEXT_BYTES: u64 = 0x8000;

/// Ports, as distances from 0x3c0.
mod port {
    pub(super) const ATTRIBUTE: u16 = 0x3c0;
    pub(super) const ATTRIBUTE_READ: u16 = 0x3c1;
    /// Written it is the miscellaneous output, read the input status 0.
    pub(super) const MISC_WRITE: u16 = 0x3c2;
    pub(super) const SEQUENCER_INDEX: u16 = 0x3c4;
    pub(super) const SEQUENCER: u16 = 0x3c5;
    pub(super) const PEL_MASK: u16 = 0x3c6;
    /// Written it is the index for reads, read the state.
    pub(super) const DAC_READ_INDEX: u16 = 0x3c7;
    pub(super) const DAC_WRITE_INDEX: u16 = 0x3c8;
    pub(super) const DAC: u16 = 0x3c9;
    pub(super) const FEATURE_READ: u16 = 0x3ca;
    pub(super) const MISC_READ: u16 = 0x3cc;
    pub(super) const GRAPHICS_INDEX: u16 = 0x3ce;
    pub(super) const GRAPHICS: u16 = 0x3cf;
    pub(super) const CRTC_INDEX: u16 = 0x3d4;
    pub(super) const CRTC: u16 = 0x3d5;
    /// Read it is the input status 1, written the feature control.
    pub(super) const STATUS: u16 = 0x3da;
}

/// Registers of the CRT controller.
mod crtc {
    pub(super) const HORIZONTAL_DISPLAY_END: usize = 0x01;
    pub(super) const CURSOR_START: usize = 0x0a;
    pub(super) const START_HIGH: usize = 0x0c;
    pub(super) const CURSOR_HIGH: usize = 0x0e;
    pub(super) const VERTICAL_RETRACE_END: usize = 0x11;
    pub(super) const OFFSET: usize = 0x13;
}

/// Cursor start: no cursor is shown.
const CURSOR_OFF: u8 = 1 << 5;
/// Vertical retrace end: registers 0 to 7 are protected.
const PROTECTED: u8 = 1 << 7;
/// Sequencer register 1: the screen is off.
const SCREEN_OFF: u8 = 1 << 5;
/// Graphics register 6: graphics rather than text.
const GRAPHICS_MODE: u8 = 1 << 0;
/// Attribute index: the palette is the display's, and there is a picture.
const PALETTE_SOURCE: u8 = 1 << 5;
/// Attribute mode: bit 7 of an attribute blinks rather than brightens the background.
const BLINK: u8 = 1 << 3;

/// Registers as the video BIOS sets them for mode 3 (80 by 25, 16 colours, 9 by 16 pixels each).
mod mode3 {
    pub(super) const MISC: u8 = 0x67;
    pub(super) const SEQUENCER: [u8; 5] = [0x03, 0x00, 0x03, 0x00, 0x02];
    pub(super) const CRTC: [u8; 25] = [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00,
        0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    ];
    pub(super) const GRAPHICS: [u8; 9] = [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x00, 0xff];
    pub(super) const ATTRIBUTE: [u8; 21] = [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e,
        0x3f, 0x0c, 0x00, 0x0f, 0x08, 0x00,
    ];
}

/// A frame and, at its end, the vertical retrace; a line and, at its end, the horizontal one.
const FRAME_NS: u64 = 14_268_000;
const VERTICAL_RETRACE_NS: u64 = 1_560_000;
const LINE_NS: u64 = 31_778;
const HORIZONTAL_RETRACE_NS: u64 = 6_356;

/// What is on the screen, by where its text is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextView {
    /// Columns, 80 or 40.
    pub columns: u8,
    /// The first character, in characters from the start of text memory.
    start: u16,
    /// Characters from one row to the next.
    pitch: u16,
    /// The cursor, in characters from the start of text memory, if it is shown.
    cursor: Option<u16>,
    /// Whether a background has eight colours and blinking, or sixteen colours.
    pub blink: bool,
}

impl TextView {
    /// Rows on the screen.
    pub const ROWS: u8 = 25;
    /// The most columns.
    pub const COLUMNS: u8 = 80;

    /// Where a row's text is: the part up to the end of text memory, and the rest at its start.
    pub fn row(&self, row: u8) -> (GuestPhys, u64) {
        let characters = u64::from(self.start) + u64::from(self.pitch) * u64::from(row);
        let offset = characters * 2 % TEXT_BYTES;
        let before_end = TEXT_BYTES - offset;
        (GuestPhys::new(TEXT + offset), before_end)
    }

    /// The start of text memory, where a row goes on that reaches its end.
    pub const fn wrapped(&self) -> GuestPhys {
        GuestPhys::new(TEXT)
    }

    /// Row and column of the cursor, if it is on the screen.
    pub fn cursor(&self) -> Option<(u8, u8)> {
        let from_start = self.cursor?.checked_sub(self.start)?;
        let row = from_start.checked_div(self.pitch)?;
        let column = from_start % self.pitch;
        (row < u16::from(Self::ROWS) && column < u16::from(self.columns))
            .then_some((row as u8, column as u8))
    }
}

/// The registers.
#[derive(Debug)]
pub struct Vga {
    misc: u8,
    feature: u8,
    sequencer: Bank<5>,
    graphics: Bank<9>,
    crtc: Bank<25>,
    attribute: Bank<21>,
    /// Whether the next write to the attribute port is data.
    attribute_data: bool,
    dac: Dac,
}

/// Registers behind an index.
#[derive(Debug)]
struct Bank<const COUNT: usize> {
    index: u8,
    registers: [u8; COUNT],
}

impl<const COUNT: usize> Bank<COUNT> {
    const fn new(registers: [u8; COUNT]) -> Self {
        Self {
            index: 0,
            registers,
        }
    }

    fn get(&self, register: usize) -> u8 {
        self.registers.get(register).copied().unwrap_or(0)
    }

    fn read(&self, index_mask: u8) -> u8 {
        self.get(usize::from(self.index & index_mask))
    }

    fn write(&mut self, index_mask: u8, value: u8) {
        let index = usize::from(self.index & index_mask);
        if let Some(register) = self.registers.get_mut(index) {
            *register = value;
        }
    }
}

/// The colours: kept for whoever reads them back.
#[derive(Debug)]
struct Dac {
    mask: u8,
    /// Which of the 768 values comes next, for reads and for writes.
    read_at: u16,
    write_at: u16,
    /// What was set last: 0 to write, 3 to read.
    state: u8,
    values: [u8; 768],
}

impl Dac {
    const fn new() -> Self {
        Self {
            mask: 0xff,
            read_at: 0,
            write_at: 0,
            state: 0,
            values: [0; 768],
        }
    }

    fn read(&mut self) -> u8 {
        let value = self.values.get(usize::from(self.read_at)).copied();
        self.read_at = (self.read_at + 1) % 768;
        value.unwrap_or(0)
    }

    fn write(&mut self, value: u8) {
        if let Some(place) = self.values.get_mut(usize::from(self.write_at)) {
            *place = value & 0x3f;
        }
        self.write_at = (self.write_at + 1) % 768;
    }
}

impl Default for Vga {
    fn default() -> Self {
        Self::new()
    }
}

impl Vga {
    /// A display as the video BIOS leaves it, in mode 3.
    pub const fn new() -> Self {
        let mut attribute = Bank::new(mode3::ATTRIBUTE);
        attribute.index = PALETTE_SOURCE;
        Self {
            misc: mode3::MISC,
            feature: 0,
            sequencer: Bank::new(mode3::SEQUENCER),
            graphics: Bank::new(mode3::GRAPHICS),
            crtc: Bank::new(mode3::CRTC),
            attribute,
            attribute_data: false,
            dac: Dac::new(),
        }
    }

    /// What is on the screen; `None` while it is off or shows graphics.
    pub fn view(&self) -> Option<TextView> {
        let is_off = self.sequencer.get(1) & SCREEN_OFF != 0
            || self.graphics.get(6) & GRAPHICS_MODE != 0
            || self.attribute.index & PALETTE_SOURCE == 0;
        if is_off {
            return None;
        }
        let word = |high| u16::from_be_bytes([self.crtc.get(high), self.crtc.get(high + 1)]);
        let columns = self
            .crtc
            .get(crtc::HORIZONTAL_DISPLAY_END)
            .saturating_add(1);
        let shows_cursor = self.crtc.get(crtc::CURSOR_START) & CURSOR_OFF == 0;
        Some(TextView {
            columns: columns.min(TextView::COLUMNS),
            start: word(crtc::START_HIGH),
            pitch: u16::from(self.crtc.get(crtc::OFFSET)) * 2,
            cursor: shows_cursor.then(|| word(crtc::CURSOR_HIGH)),
            blink: self.attribute.get(0x10) & BLINK != 0,
        })
    }

    /// Reads a port.
    pub fn read(&mut self, port: u16, now_ns: u64) -> u8 {
        match port {
            port::ATTRIBUTE => self.attribute.index,
            port::ATTRIBUTE_READ => self.attribute.read(0x1f),
            // Input status 0: no interrupt, and a colour display senses.
            port::MISC_WRITE => 0x10,
            port::SEQUENCER_INDEX => self.sequencer.index,
            port::SEQUENCER => self.sequencer.read(0x07),
            port::PEL_MASK => self.dac.mask,
            port::DAC_READ_INDEX => self.dac.state,
            port::DAC_WRITE_INDEX => (self.dac.write_at / 3) as u8,
            port::DAC => self.dac.read(),
            port::FEATURE_READ => self.feature,
            port::MISC_READ => self.misc,
            port::GRAPHICS_INDEX => self.graphics.index,
            port::GRAPHICS => self.graphics.read(0x0f),
            port::CRTC_INDEX => self.crtc.index,
            port::CRTC => self.crtc.read(0x3f),
            port::STATUS => {
                self.attribute_data = false;
                input_status(now_ns)
            }
            _ => 0xff,
        }
    }

    /// Writes a port.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            port::ATTRIBUTE if self.attribute_data => {
                self.attribute.write(0x1f, value);
                self.attribute_data = false;
            }
            port::ATTRIBUTE => {
                self.attribute.index = value & 0x3f;
                self.attribute_data = true;
            }
            port::MISC_WRITE => self.misc = value,
            port::SEQUENCER_INDEX => self.sequencer.index = value & 0x07,
            port::SEQUENCER => self.sequencer.write(0x07, value),
            port::PEL_MASK => self.dac.mask = value,
            port::DAC_READ_INDEX => {
                self.dac.read_at = u16::from(value) * 3;
                self.dac.state = 3;
            }
            port::DAC_WRITE_INDEX => {
                self.dac.write_at = u16::from(value) * 3;
                self.dac.state = 0;
            }
            port::DAC => self.dac.write(value),
            port::GRAPHICS_INDEX => self.graphics.index = value & 0x0f,
            port::GRAPHICS => self.graphics.write(0x0f, value),
            port::CRTC_INDEX => self.crtc.index = value & 0x3f,
            port::CRTC => self.write_crtc(value),
            port::STATUS => self.feature = value,
            _ => {}
        }
    }

    fn write_crtc(&mut self, value: u8) {
        let protected = self.crtc.get(crtc::VERTICAL_RETRACE_END) & PROTECTED != 0;
        match self.crtc.index {
            0..7 if protected => {}
            // Of register 7, only the line compare bit can be changed.
            7 if protected => {
                let kept = self.crtc.get(7) & !0x10;
                self.crtc.write(0x3f, kept | (value & 0x10));
            }
            _ => self.crtc.write(0x3f, value),
        }
    }
}

/// Input status 1 at a moment: bit 0 between lines, bits 0 and 3 between frames.
const fn input_status(now_ns: u64) -> u8 {
    let in_frame = now_ns % FRAME_NS;
    if in_frame >= FRAME_NS - VERTICAL_RETRACE_NS {
        0x09
    } else if in_frame % LINE_NS >= LINE_NS - HORIZONTAL_RETRACE_NS {
        0x01
    } else {
        0x00
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_crtc(vga: &mut Vga, register: u8, value: u8) {
        vga.write(0x3d4, register);
        vga.write(0x3d5, value);
    }

    #[test]
    fn after_power_on_there_are_80_by_25_characters_and_a_cursor_at_home() {
        let view = Vga::new().view().unwrap();
        assert_eq!((view.columns, view.cursor()), (80, Some((0, 0))));
        assert_eq!(view.row(0), (GuestPhys::new(0xb_8000), 0x8000));
        assert_eq!(view.row(24).0, GuestPhys::new(0xb_8000 + 24 * 160));
        assert!(view.blink);
    }

    #[test]
    fn the_cursor_follows_its_registers_and_can_be_hidden() {
        let mut vga = Vga::new();
        let at = 24 * 80 + 79u16;
        set_crtc(&mut vga, 0x0e, (at >> 8) as u8);
        set_crtc(&mut vga, 0x0f, at as u8);
        assert_eq!(vga.view().unwrap().cursor(), Some((24, 79)));
        set_crtc(&mut vga, 0x0f, at as u8 + 1);
        assert_eq!(vga.view().unwrap().cursor(), None, "below the screen");
        set_crtc(&mut vga, 0x0f, 0);
        set_crtc(&mut vga, 0x0a, 0x20);
        assert_eq!(vga.view().unwrap().cursor(), None);
    }

    #[test]
    fn the_start_address_moves_the_screen_and_wraps_at_the_end_of_text_memory() {
        let mut vga = Vga::new();
        set_crtc(&mut vga, 0x0c, 0x3f);
        set_crtc(&mut vga, 0x0d, 0xf0);
        let view = vga.view().unwrap();
        assert_eq!(view.row(0), (GuestPhys::new(0xb_ffe0), 0x20));
        assert_eq!(view.wrapped(), GuestPhys::new(0xb_8000));
        assert_eq!(view.row(1).0, GuestPhys::new(0xb_8000 + 0x80));
    }

    #[test]
    fn a_screen_that_is_off_or_shows_graphics_has_no_text() {
        let mut vga = Vga::new();
        vga.write(0x3c4, 1);
        vga.write(0x3c5, 0x20);
        assert_eq!(vga.view(), None);
        vga.write(0x3c5, 0x00);
        vga.write(0x3ce, 6);
        vga.write(0x3cf, 0x05);
        assert_eq!(vga.view(), None);
    }

    #[test]
    fn the_attribute_port_takes_index_and_data_in_turn() {
        let mut vga = Vga::new();
        vga.read(0x3da, 0);
        vga.write(0x3c0, 0x30);
        vga.write(0x3c0, 0x04);
        assert_eq!(vga.read(0x3c1, 0), 0x04);
        assert!(!vga.view().unwrap().blink);
        vga.write(0x3c0, 0x00);
        vga.read(0x3da, 0);
        vga.write(0x3c0, 0x20);
        assert_eq!(vga.read(0x3c0, 0), 0x20);
    }

    #[test]
    fn protected_registers_keep_their_values() {
        let mut vga = Vga::new();
        set_crtc(&mut vga, 0x01, 0x27);
        assert_eq!(vga.view().unwrap().columns, 80);
        set_crtc(&mut vga, 0x11, 0x0e);
        set_crtc(&mut vga, 0x01, 0x27);
        assert_eq!(vga.view().unwrap().columns, 40);
        vga.write(0x3d4, 0x3f);
        assert_eq!(vga.read(0x3d5, 0), 0, "no register");
    }

    #[test]
    fn the_retrace_comes_and_goes() {
        let mut vga = Vga::new();
        let seen: alloc::vec::Vec<u8> = (0..200u64)
            .map(|step| vga.read(0x3da, step * 100_000 + 7))
            .collect();
        assert!(seen.contains(&0x09) && seen.contains(&0x00) && seen.contains(&0x01));
    }

    #[test]
    fn the_palette_reads_back_with_six_bits() {
        let mut vga = Vga::new();
        vga.write(0x3c8, 255);
        for value in [1, 2, 0xff, 4] {
            vga.write(0x3c9, value);
        }
        assert_eq!(vga.read(0x3c8, 0), 0);
        vga.write(0x3c7, 255);
        assert_eq!([(); 4].map(|()| vga.read(0x3c9, 0)), [1, 2, 0x3f, 4]);
        assert_eq!(vga.read(0x3c7, 0), 3);
    }
}
