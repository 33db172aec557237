//! A text console on the boot loader's frame buffer, for machines without a serial port.
//!
//! [`Screen::write`] only changes cells in memory. [`Screen::draw`] compares them with what is on the
//! screen and draws the difference, or a part of it, so that a burst of lines costs one drawing, nothing scrolls
//! pixel by pixel, and no guest waits for a whole screen. The frame buffer itself is never read: that is very slow on real graphics cards.

use core::arch::asm;
use core::{array, mem};

use bootloader_api::info::{FrameBufferInfo, PixelFormat};
use host::EscapeFilter;
use noto_sans_mono_bitmap::{
    FontWeight, RasterHeight, RasterizedChar, get_raster, get_raster_width,
};

/// The most columns and rows that are used of a large screen.
const COLUMNS: usize = 280;
const ROWS: usize = 68;
/// The font's size, before it is enlarged for screens of many pixels.
const CELL_HEIGHT: usize = 16;
const CELL_WIDTH: usize = get_raster_width(FontWeight::Regular, RasterHeight::Size16);
/// From this many lines on, each pixel of the font becomes four.
const LARGE_SCREEN_HEIGHT: usize = 2000;
const TAB_STOP: usize = 8;
/// Characters that are drawn at a time while guests may be waiting: about 6,000 instructions.
const SLICE_CELLS: usize = 12;

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
    /// All of them, in the order of their numbers.
    const ALL: [Self; Self::COUNT] = [Self::Text, Self::Dim, Self::Warning, Self::Error];

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
    /// For each row of the screen, the first column from which on it may show something else than it should.
    stale_from: [usize; ROWS],
    /// Whether there is such a row.
    is_stale: bool,
    /// Each colour's pixels by intensity.
    palette: [[u32; 256]; Colour::COUNT],
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
        let pixel = Pixel {
            bytes: info.bytes_per_pixel,
            shifts,
        };
        Some(Self {
            frame_buffer,
            bytes_per_line,
            scale,
            pixel,
            columns,
            rows,
            column: 0,
            row: 0,
            colour: Colour::Text,
            escape: EscapeFilter::new(),
            cells: [[Cell::BLANK; COLUMNS]; ROWS],
            top: 0,
            shown: [[Cell::BLANK; COLUMNS]; ROWS],
            stale_from: [COLUMNS; ROWS],
            is_stale: false,
            palette: Colour::ALL.map(|colour| {
                array::from_fn(|intensity| pixel.encode(colour.rgb(), intensity as u32))
            }),
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
        let stale_from = &mut self.stale_from[self.row];
        *stale_from = self.column.min(*stale_from);
        self.is_stale = true;
        self.column += 1;
    }

    fn new_line(&mut self) {
        self.column = 0;
        if self.row + 1 < self.rows {
            self.row += 1;
        } else {
            self.cells[self.top] = [Cell::BLANK; COLUMNS];
            self.top = (self.top + 1) % self.rows;
            self.stale_from = [0; ROWS];
            self.is_stale = true;
        }
    }

    /// Whether the screen may show something else than it should.
    pub(crate) const fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Draws the cells that differ from what the screen shows.
    pub(crate) fn draw(&mut self, amount: Amount) {
        let mut left = match amount {
            Amount::All => usize::MAX,
            Amount::Slice => SLICE_CELLS,
        };
        for row in 0..self.rows {
            let stale_from = mem::replace(&mut self.stale_from[row], COLUMNS);
            for column in stale_from..self.columns {
                let cell = self.cells[(self.top + row) % self.rows][column];
                let shown = self.shown[row][column];
                // Blanks of any colour look the same.
                if cell == shown || cell.byte == b' ' && shown.byte == b' ' {
                    continue;
                }
                if left == 0 {
                    self.stale_from[row] = column;
                    return;
                }
                left -= 1;
                self.draw_cell(row, column, cell);
                self.shown[row][column] = cell;
            }
        }
        self.is_stale = false;
    }

    fn draw_cell(&self, row: usize, column: usize, cell: Cell) {
        // What the font does not have is shown as a question mark.
        let glyph = |byte: u8| get_raster(byte.into(), FontWeight::Regular, RasterHeight::Size16);
        let Some(glyph) = glyph(cell.byte).or_else(|| glyph(b'?')) else {
            return;
        };
        let pixels = &self.palette[cell.colour as usize];
        let x = column * CELL_WIDTH * self.scale;
        let y = row * CELL_HEIGHT * self.scale;
        let to = self
            .frame_buffer
            .wrapping_add(y * self.bytes_per_line + x * self.pixel.bytes);
        let draw = match (self.pixel.bytes, self.scale) {
            (4, 1) => draw_glyph::<4, 1>,
            (4, _) => draw_glyph::<4, 2>,
            (3, 1) => draw_glyph::<3, 1>,
            (3, _) => draw_glyph::<3, 2>,
            (2, 1) => draw_glyph::<2, 1>,
            (2, _) => draw_glyph::<2, 2>,
            (_, 1) => draw_glyph::<1, 1>,
            _ => draw_glyph::<1, 2>,
        };
        // SAFETY: the whole grid lies in the frame buffer: that is how `new` chooses rows and columns.
        unsafe { draw(to, self.bytes_per_line, &glyph, pixels) };
    }
}

/// Draws a character whose pixels have `BYTES` bytes each and become squares of `SCALE` by `SCALE`.
///
/// # Safety
/// `to` is where its upper left corner lies in a frame buffer that has room for it.
unsafe fn draw_glyph<const BYTES: usize, const SCALE: usize>(
    mut to: *mut u8,
    bytes_per_line: usize,
    glyph: &RasterizedChar,
    pixels: &[u32; 256],
) {
    for line in glyph.rows() {
        // Put together here, since a frame buffer takes few large stores better than many small ones. Each pixel is
        // stored with four bytes, of which the next one overwrites what is too much.
        let mut drawn = [0; CELL_WIDTH * 2 * 4 + 4];
        for (column, &level) in line.iter().enumerate().take(CELL_WIDTH) {
            let pixel = pixels[usize::from(level)].to_le_bytes();
            for place in column * SCALE..(column + 1) * SCALE {
                drawn[place * BYTES..place * BYTES + 4].copy_from_slice(&pixel);
            }
        }
        for _ in 0..SCALE {
            // SAFETY: as the caller promises; the array holds that many bytes at least.
            unsafe { to.copy_from_nonoverlapping(drawn.as_ptr(), CELL_WIDTH * SCALE * BYTES) };
            to = to.wrapping_add(bytes_per_line);
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
