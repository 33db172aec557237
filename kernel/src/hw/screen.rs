//! A text console on the boot loader's frame buffer, for machines without a serial port.
//!
//! [`Screen::write`] only changes cells in memory. [`Screen::draw`] compares them with what is on the
//! screen and draws the difference, or a part of it, so that a burst of lines costs one drawing, nothing scrolls
//! pixel by pixel, and no guest waits for a whole screen. The frame buffer itself is never read: that is very slow on real graphics cards.

use core::arch::asm;
use core::mem;

use bootloader_api::info::{FrameBufferInfo, PixelFormat};
use host::EscapeFilter;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// The most columns and rows that are used of a large screen.
const COLUMNS: usize = 280;
const ROWS: usize = 68;
/// The font's size, before it is enlarged for screens of many pixels.
const CELL_HEIGHT: usize = 16;
const CELL_WIDTH: usize = get_raster_width(FontWeight::Regular, RasterHeight::Size16);
/// From this many lines on, each pixel of the font becomes four.
const LARGE_SCREEN_HEIGHT: usize = 2000;
const TAB_STOP: usize = 8;
/// Characters that are drawn at a time while guests may be waiting: about 8,000 instructions.
const SLICE_CELLS: usize = 4;

/// How much is to be drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Amount {
    /// All that differs.
    All,
    /// As much as nobody minds waiting for.
    Slice,
}

/// The colour of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Colour {
    /// Usual text.
    Text = 0,
    /// Details.
    Dim = 1,
    /// What looks wrong.
    Warning = 2,
    /// What is wrong.
    Error = 3,
}

impl Colour {
    const COUNT: usize = 4;

    /// Red, green and blue at full intensity.
    const fn rgb(self) -> [u32; 3] {
        match self {
            Self::Text => [230, 230, 230],
            Self::Dim => [140, 140, 140],
            Self::Warning => [255, 210, 80],
            Self::Error => [255, 110, 100],
        }
    }
}

/// One character on the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cell {
    byte: u8,
    colour: Colour,
}

impl Cell {
    const BLANK: Self = Self {
        byte: b' ',
        colour: Colour::Text,
    };
}

/// How a pixel is stored.
#[derive(Clone, Copy, Debug)]
struct Pixel {
    bytes: usize,
    /// Bit positions of red, green and blue.
    shifts: [u32; 3],
}

/// The screen as a grid of characters.
pub(crate) struct Screen {
    frame_buffer: *mut u8,
    bytes_per_line: usize,
    scale: usize,
    pixel: Pixel,
    columns: usize,
    rows: usize,
    column: usize,
    row: usize,
    colour: Colour,
    escape: EscapeFilter,
    /// What the screen should show. Row 0 is `top` in this array, which is a ring.
    cells: [[Cell; COLUMNS]; ROWS],
    top: usize,
    /// What it shows.
    shown: [[Cell; COLUMNS]; ROWS],
    /// Rows of the screen that may show something else than they should.
    stale: [bool; ROWS],
}

// SAFETY: the frame buffer belongs to this value alone, whichever CPU uses it.
unsafe impl Send for Screen {}

impl Screen {
    /// A blank screen, or `None` where the frame buffer is too small for text or has a format nobody knows.
    ///
    /// # Safety
    /// `frame_buffer` is the address of the frame buffer that `info` describes; it stays mapped for ever,
    /// and nobody else draws on it.
    pub(crate) unsafe fn new(frame_buffer: *mut u8, info: &FrameBufferInfo) -> Option<Self> {
        let shifts = match info.pixel_format {
            PixelFormat::Rgb => [0, 8, 16],
            PixelFormat::Bgr => [16, 8, 0],
            PixelFormat::U8 => [0; 3],
            PixelFormat::Unknown {
                red_position,
                green_position,
                blue_position,
            } => [
                red_position.into(),
                green_position.into(),
                blue_position.into(),
            ],
            _ => return None,
        };
        if !(1..=4).contains(&info.bytes_per_pixel) || shifts.iter().any(|&shift| shift > 24) {
            return None;
        }
        let scale = if info.height >= LARGE_SCREEN_HEIGHT {
            2
        } else {
            1
        };
        let bytes_per_line = info.stride * info.bytes_per_pixel;
        let lines = info.height.min(info.byte_len.checked_div(bytes_per_line)?);
        let columns = (info.width / (CELL_WIDTH * scale)).min(COLUMNS);
        let rows = (lines / (CELL_HEIGHT * scale)).min(ROWS);
        if columns == 0 || rows == 0 {
            return None;
        }
        // SAFETY: the buffer has `byte_len` bytes, as the caller promises.
        unsafe { clear(frame_buffer, info.byte_len) };
        Some(Self {
            frame_buffer,
            bytes_per_line,
            scale,
            pixel: Pixel {
                bytes: info.bytes_per_pixel,
                shifts,
            },
            columns,
            rows,
            column: 0,
            row: 0,
            colour: Colour::Text,
            escape: EscapeFilter::new(),
            cells: [[Cell::BLANK; COLUMNS]; ROWS],
            top: 0,
            shown: [[Cell::BLANK; COLUMNS]; ROWS],
            stale: [false; ROWS],
        })
    }

    /// The colour of what is written from now on.
    pub(crate) fn set_colour(&mut self, colour: Colour) {
        self.colour = colour;
    }

    /// Adds text at the end. Nothing is drawn yet.
    pub(crate) fn write(&mut self, text: &[u8]) {
        for &byte in text {
            // Escape sequences are for terminals, which this is not.
            if byte == b'\r' {
                self.column = 0;
            } else if self.escape.passes(byte) {
                match byte {
                    b'\n' => self.new_line(),
                    b'\t' => self.column = (self.column / TAB_STOP + 1) * TAB_STOP,
                    _ => self.put(byte),
                }
            }
        }
    }

    fn put(&mut self, byte: u8) {
        if self.column >= self.columns {
            self.new_line();
        }
        let cell = Cell {
            byte,
            colour: self.colour,
        };
        self.cells[(self.top + self.row) % self.rows][self.column] = cell;
        self.column += 1;
        self.stale[self.row] = true;
    }

    fn new_line(&mut self) {
        self.column = 0;
        if self.row + 1 < self.rows {
            self.row += 1;
        } else {
            self.cells[self.top] = [Cell::BLANK; COLUMNS];
            self.top = (self.top + 1) % self.rows;
            self.stale = [true; ROWS];
        }
    }

    /// Whether the screen may show something else than it should.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale[..self.rows].contains(&true)
    }

    /// Draws the cells that differ from what the screen shows.
    pub(crate) fn draw(&mut self, amount: Amount) {
        let mut left = match amount {
            Amount::All => usize::MAX,
            Amount::Slice => SLICE_CELLS,
        };
        // Each colour's pixels by intensity, made when the first character of the colour is drawn.
        let mut palette = [None; Colour::COUNT];
        for row in 0..self.rows {
            if !mem::take(&mut self.stale[row]) {
                continue;
            }
            for column in 0..self.columns {
                let cell = self.cells[(self.top + row) % self.rows][column];
                let shown = self.shown[row][column];
                // Blanks of any colour look the same.
                if cell == shown || cell.byte == b' ' && shown.byte == b' ' {
                    continue;
                }
                if left == 0 {
                    self.stale[row] = true;
                    return;
                }
                left -= 1;
                let pixels = palette[cell.colour as usize].get_or_insert_with(|| {
                    core::array::from_fn(|level| self.pixel.encode(cell.colour.rgb(), level as u32))
                });
                self.draw_cell(row, column, cell.byte, pixels);
                self.shown[row][column] = cell;
            }
        }
    }

    fn draw_cell(&self, row: usize, column: usize, byte: u8, pixels: &[u32; 256]) {
        // What the font does not have is shown as a question mark.
        let glyph = |byte: u8| get_raster(byte.into(), FontWeight::Regular, RasterHeight::Size16);
        let Some(glyph) = glyph(byte).or_else(|| glyph(b'?')) else {
            return;
        };
        let x = column * CELL_WIDTH * self.scale;
        let mut y = row * CELL_HEIGHT * self.scale;
        for line in glyph.rows() {
            for _ in 0..self.scale {
                // The whole grid lies in the frame buffer: that is how `new` chooses rows and columns.
                let mut at = self
                    .frame_buffer
                    .wrapping_add(y * self.bytes_per_line + x * self.pixel.bytes);
                for &level in line {
                    for _ in 0..self.scale {
                        // SAFETY: inside the frame buffer, as just said.
                        unsafe { self.pixel.store(at, pixels[usize::from(level)]) };
                        at = at.wrapping_add(self.pixel.bytes);
                    }
                }
                y += 1;
            }
        }
    }
}

/// Makes it black. Eight bytes at a time: until the hypervisor's own page tables are in use this memory is not cached, and
/// each store takes its way to the graphics card.
///
/// # Safety
/// There are so many bytes, and they are a frame buffer's.
unsafe fn clear(frame_buffer: *mut u8, bytes: usize) {
    // SAFETY: as the caller promises; the direction flag is clear in Rust code. The compiler's own way is by bytes.
    unsafe {
        asm!(
            "rep stosq",
            "mov ecx, {rest:e}",
            "rep stosb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rdi") frame_buffer => _,
            in("rax") 0u64,
            options(nostack, preserves_flags),
        );
    }
}

impl Pixel {
    /// Writes one pixel.
    ///
    /// # Safety
    /// `at` is the address of a pixel in the frame buffer.
    #[inline]
    unsafe fn store(self, at: *mut u8, pixel: u32) {
        // SAFETY: the pixel's bytes are in the frame buffer, as the caller promises; x86 needs no
        // alignment, but Rust does.
        unsafe {
            if self.bytes == 4 {
                at.cast::<u32>().write_unaligned(pixel);
            } else {
                for (index, byte) in pixel.to_le_bytes().into_iter().take(self.bytes).enumerate() {
                    at.add(index).write_volatile(byte);
                }
            }
        }
    }

    #[inline]
    fn encode(self, rgb: [u32; 3], intensity: u32) -> u32 {
        if self.bytes == 1 {
            return rgb[1] * intensity / 255;
        }
        let mut pixel = 0;
        for (channel, shift) in rgb.into_iter().zip(self.shifts) {
            // Close enough to a division by 255.
            pixel |= ((channel * intensity) >> 8) << shift;
        }
        pixel
    }
}
