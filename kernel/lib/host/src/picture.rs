//! [`Picture`]: a guest's text screen on a terminal.
//!
//! The wire is what terminals understand anyway (ECMA-48, "Control functions"; text in UTF-8), so a picture also
//! arrives at a real machine's serial line. Only cells that differ from what is there are sent. The picture has the
//! terminal's first 25 rows; everything else that is said scrolls below it ([`BEGIN`]), at a place that the
//! terminal keeps meanwhile ([`TO_LOG`], [`FROM_LOG`]). Each update is one "synchronized update"
//! ([`UPDATE`], [`UPDATED`]), by which a program can tell it from the log's text, too.

use alloc::vec;
use alloc::vec::Vec;

/// The size of a picture.
pub const COLUMNS: usize = 80;
/// The size of a picture.
pub const ROWS: usize = 25;

/// Clears the terminal and leaves what is below the picture to the log, whose place is kept.
pub const BEGIN: &[u8] = b"\x1b[0m\x1b[2J\x1b[26r\x1b[26;1H\x1b7";
/// Gives the whole terminal back, and goes to its end.
pub const END: &[u8] = b"\x1b[0m\x1b[r\x1b[999;1H\x1b[?25h";
/// Goes to the log's place.
pub const TO_LOG: &[u8] = b"\x1b8";
/// Keeps the log's place.
pub const FROM_LOG: &[u8] = b"\x1b7";
/// An update of the picture begins.
pub const UPDATE: &[u8] = b"\x1b[?2026h";
/// And ends.
pub const UPDATED: &[u8] = b"\x1b[?2026l";

/// A character and its colours, as a VGA has them in its text memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    /// In code page 437.
    pub character: u8,
    /// Foreground in bits 0 to 3, background in bits 4 to 7.
    pub attribute: u8,
}

impl Cell {
    /// A blank in the usual colours.
    pub const BLANK: Self = Self {
        character: b' ',
        attribute: 0x07,
    };
}

/// What a terminal shows at the moment.
#[derive(Debug)]
pub struct Picture {
    shown: Vec<Cell>,
    cursor: Option<(u8, u8)>,
    /// Whether the terminal shows what it is thought to.
    known: bool,
}

impl Default for Picture {
    fn default() -> Self {
        Self::new()
    }
}

impl Picture {
    /// A terminal of which nothing is known.
    pub fn new() -> Self {
        Self {
            shown: vec![Cell::BLANK; ROWS * COLUMNS],
            cursor: None,
            known: false,
        }
    }

    /// Forgets what the terminal shows: the next update draws all of it.
    pub fn forget(&mut self) {
        self.known = false;
    }

    /// Appends to `out` what makes the terminal show these rows of cells and this cursor (row and column); nothing
    /// if it does already. Cells that are missing are blank.
    pub fn update(&mut self, cells: &[Cell], cursor: Option<(u8, u8)>, out: &mut Vec<u8>) {
        let wanted = |index: usize| cells.get(index).copied().unwrap_or(Cell::BLANK);
        let is_current = self.cursor == cursor
            && (0..ROWS * COLUMNS).all(|index| self.shown.get(index) == Some(&wanted(index)));
        if self.known && is_current {
            return;
        }
        out.extend_from_slice(UPDATE);
        out.extend_from_slice(b"\x1b[?25l");
        if !self.known {
            out.extend_from_slice(BEGIN);
            self.shown.fill(Cell::BLANK);
        }
        let mut pen = Pen::default();
        for (index, shown) in self.shown.iter_mut().enumerate() {
            let cell = wanted(index);
            if *shown != cell {
                *shown = cell;
                pen.draw(index, cell, out);
            }
        }
        self.cursor = cursor;
        self.known = true;
        self.place_cursor(out);
        out.extend_from_slice(UPDATED);
    }

    /// Appends what brings the cursor back into the picture after the log has spoken.
    pub fn back(&self, out: &mut Vec<u8>) {
        if self.known {
            out.extend_from_slice(UPDATE);
            self.place_cursor(out);
            out.extend_from_slice(UPDATED);
        }
    }

    fn place_cursor(&self, out: &mut Vec<u8>) {
        match self.cursor {
            Some((row, column)) => {
                go_to(usize::from(row), usize::from(column), out);
                out.extend_from_slice(b"\x1b[0m\x1b[?25h");
            }
            None => out.extend_from_slice(b"\x1b[0m\x1b[?25l"),
        }
    }
}

fn go_to(row: usize, column: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\x1b[");
    push_number(row + 1, out);
    out.push(b';');
    push_number(column + 1, out);
    out.push(b'H');
}

/// A number of at most three digits, in decimal.
fn push_number(number: usize, out: &mut Vec<u8>) {
    for unit in [100, 10, 1] {
        if number >= unit || unit == 1 {
            out.push(b'0' + (number / unit % 10) as u8);
        }
    }
}

/// Where the terminal's cursor is and in which colours it writes, while a picture is drawn.
#[derive(Default)]
struct Pen {
    at: Option<usize>,
    attribute: Option<u8>,
}

impl Pen {
    fn draw(&mut self, index: usize, cell: Cell, out: &mut Vec<u8>) {
        if self.at != Some(index) {
            go_to(index / COLUMNS, index % COLUMNS, out);
        }
        if self.attribute != Some(cell.attribute) {
            push_colours(cell.attribute, out);
            self.attribute = Some(cell.attribute);
        }
        let mut utf8 = [0; 4];
        let character = unicode(cell.character);
        out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
        // Behind the last column a terminal's cursor is wherever it likes.
        self.at = (!(index + 1).is_multiple_of(COLUMNS)).then_some(index + 1);
    }
}

/// A VGA counts colours in the order blue, green, red; terminals the other way round.
fn push_colours(attribute: u8, out: &mut Vec<u8>) {
    const NORMAL: [u8; 2] = [30, 40];
    const BRIGHT: [u8; 2] = [90, 100];
    out.extend_from_slice(b"\x1b[");
    for (ground, colour) in [attribute & 0xf, attribute >> 4].into_iter().enumerate() {
        let first = if colour & 8 == 0 { NORMAL } else { BRIGHT };
        let turned = colour & 2 | (colour & 1) << 2 | (colour & 4) >> 2;
        let first = first.get(ground).copied().unwrap_or(0);
        push_number(usize::from(first + turned), out);
        out.push(if ground == 0 { b';' } else { b'm' });
    }
}

/// The upper half of code page 437.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                     αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
/// Its first 32 characters, which a display shows as pictures.
const LOWER: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";

/// The character of a byte in code page 437.
fn unicode(byte: u8) -> char {
    let found = match byte {
        0..0x20 => LOWER.chars().nth(usize::from(byte)),
        0x20..0x7f => Some(char::from(byte)),
        0x7f => Some('⌂'),
        0x80.. => UPPER.chars().nth(usize::from(byte - 0x80)),
    };
    found.unwrap_or(' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn cells(text: &str, attribute: u8) -> Vec<Cell> {
        let cell = |character| Cell {
            character,
            attribute,
        };
        text.bytes().map(cell).collect()
    }

    fn update(picture: &mut Picture, cells: &[Cell], cursor: Option<(u8, u8)>) -> String {
        let mut out = Vec::new();
        picture.update(cells, cursor, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_first_update_clears_the_terminal_and_draws_what_is_not_blank() {
        let mut picture = Picture::new();
        let drawn = update(&mut picture, &cells("A B", 0x07), Some((24, 79)));
        let clear = "\x1b[0m\x1b[2J\x1b[26r\x1b[26;1H\x1b7";
        let text = "\x1b[1;1H\x1b[37;40mA\x1b[1;3HB";
        let cursor = "\x1b[25;80H\x1b[0m\x1b[?25h";
        let begin = "\x1b[?2026h\x1b[?25l";
        assert_eq!(drawn, [begin, clear, text, cursor, "\x1b[?2026l"].concat());
    }

    #[test]
    fn what_is_shown_already_is_not_sent_again() {
        let mut picture = Picture::new();
        update(&mut picture, &cells("hello", 0x07), None);
        assert_eq!(update(&mut picture, &cells("hello", 0x07), None), "");
        let drawn = update(&mut picture, &cells("hallo", 0x07), None);
        assert!(drawn.contains("\x1b[1;2H\x1b[37;40ma\x1b"), "{drawn:?}");
        assert!(!drawn.contains("llo"), "{drawn:?}");
        picture.forget();
        let drawn = update(&mut picture, &cells("hallo", 0x07), None);
        assert!(drawn.contains("hallo") && drawn.contains("[2J"));
    }

    #[test]
    fn colours_are_turned_into_those_of_terminals() {
        let mut picture = Picture::new();
        // Bright yellow on blue; red on bright green.
        let two = [0x1e, 0xa4].map(|attribute| Cell {
            character: b'x',
            attribute,
        });
        let drawn = update(&mut picture, &two, None);
        assert!(drawn.contains("\x1b[93;44mx\x1b[31;102mx"), "{drawn:?}");
    }

    #[test]
    fn each_row_begins_with_a_move_of_its_own() {
        let mut picture = Picture::new();
        let drawn = update(&mut picture, &cells(&"x".repeat(81), 0x07), None);
        assert!(drawn.contains("x\x1b[2;1Hx\x1b"), "{drawn:?}");
    }

    #[test]
    fn every_byte_has_a_character_of_one_column() {
        assert_eq!((LOWER.chars().count(), UPPER.chars().count()), (32, 128));
        assert_eq!(
            [0x80, 0xb3, 0xc4, 0xdb, 0xfe].map(unicode),
            ['Ç', '│', '─', '█', '■']
        );
        assert_eq!(
            [0x00, 0x10, 0x41, 0x7f, 0xff].map(unicode),
            [' ', '►', 'A', '⌂', '\u{a0}']
        );
        let control = (0..=255).find(|byte| unicode(*byte).is_control());
        assert_eq!(control, None);
    }

    #[test]
    fn after_the_log_has_spoken_the_cursor_is_put_back() {
        let mut picture = Picture::new();
        let mut out = Vec::new();
        picture.back(&mut out);
        assert!(out.is_empty(), "nothing is shown yet");
        update(&mut picture, &[], Some((1, 2)));
        picture.back(&mut out);
        assert_eq!(out, b"\x1b[?2026h\x1b[2;3H\x1b[0m\x1b[?25h\x1b[?2026l");
    }
}
