//! [`Keyboard`]: an AT keyboard whose keys are pressed by whoever types at the guest's screen.
//!
//! It speaks scan code set 2, as after power-on; the controller ([`super::I8042`]) makes set 1 of that where the
//! guest wants it. Each typed key is pressed and released at once, so nothing repeats.
//!
//! By IBM's Personal System/2 technical reference, "Keyboards".

mod keys;

use arrayvec::ArrayVec;

use keys::{Stroke, Typist};

/// Bytes on their way to the controller.
const QUEUE_BYTES: usize = 64;
/// The most bytes of a stroke: Ctrl and Shift, a key with prefix, and all of them released.
const STROKE_BYTES: usize = 12;
/// How long ESC waits for the rest of a sequence.
const PATIENCE_NS: u64 = 50_000_000;

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const TEST_PASSED: u8 = 0xaa;
const RELEASED: u8 = 0xf0;
const EXTENDED: u8 = 0xe0;
const LEFT_SHIFT: u8 = 0x12;
const LEFT_CONTROL: u8 = 0x14;

/// A command that wants a parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    Nothing,
    /// Lights, or the typematic rate: taken and of no consequence.
    Any,
    /// The number of a scan code set; 0 asks for it.
    CodeSet,
}

/// The keyboard.
#[derive(Debug)]
pub struct Keyboard {
    queue: ArrayVec<u8, QUEUE_BYTES>,
    typist: Typist,
    /// When ESC counts as a key by itself.
    escape_due_ns: Option<u64>,
    awaited: Awaited,
    /// Whether keys are reported.
    scans: bool,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self::new()
    }
}

impl Keyboard {
    /// A keyboard that firmware has tested and switched on.
    pub const fn new() -> Self {
        Self {
            queue: ArrayVec::new_const(),
            typist: Typist::new(),
            escape_due_ns: None,
            awaited: Awaited::Nothing,
            scans: true,
        }
    }

    /// How many typed bytes are taken for sure.
    pub fn room(&self) -> usize {
        self.queue.remaining_capacity() / STROKE_BYTES
    }

    /// Takes bytes that somebody types; returns how many.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64) -> usize {
        let mut taken = 0;
        for &byte in bytes {
            if self.room() == 0 {
                break;
            }
            taken += 1;
            if let Some(stroke) = self.typist.push(byte) {
                self.press(stroke);
            }
        }
        self.escape_due_ns = self
            .typist
            .waits()
            .then(|| now_ns.saturating_add(PATIENCE_NS));
        taken
    }

    /// When [`expire`](Self::expire) is due.
    pub const fn next_deadline_ns(&self) -> Option<u64> {
        self.escape_due_ns
    }

    /// Nothing has come behind an ESC.
    pub fn expire(&mut self, now_ns: u64) {
        if self.escape_due_ns.is_some_and(|due| due <= now_ns) {
            self.escape_due_ns = None;
            if let Some(stroke) = self.typist.give_up() {
                self.press(stroke);
            }
        }
    }

    fn press(&mut self, stroke: Stroke) {
        if !self.scans || self.queue.remaining_capacity() < STROKE_BYTES {
            return;
        }
        let mut send = |bytes: &[u8]| {
            for &byte in bytes {
                // There is room for a whole stroke.
                let _ = self.queue.try_push(byte);
            }
        };
        if stroke.control {
            send(&[LEFT_CONTROL]);
        }
        if stroke.shift {
            send(&[LEFT_SHIFT]);
        }
        let prefix: &[u8] = if stroke.extended { &[EXTENDED] } else { &[] };
        send(prefix);
        send(&[stroke.code]);
        send(prefix);
        send(&[RELEASED, stroke.code]);
        if stroke.shift {
            send(&[RELEASED, LEFT_SHIFT]);
        }
        if stroke.control {
            send(&[RELEASED, LEFT_CONTROL]);
        }
    }

    /// The next byte for the controller.
    pub fn send(&mut self) -> Option<u8> {
        (!self.queue.is_empty()).then(|| self.queue.remove(0))
    }

    /// A byte from the controller.
    pub fn command(&mut self, byte: u8) {
        // A command ends whatever was being sent.
        self.queue.clear();
        let awaited = core::mem::replace(&mut self.awaited, Awaited::Nothing);
        match (awaited, byte) {
            (Awaited::Any, 0..0xed) => self.answer(&[ACKNOWLEDGE]),
            (Awaited::CodeSet, 0) => self.answer(&[ACKNOWLEDGE, 2]),
            (Awaited::CodeSet, 2) => self.answer(&[ACKNOWLEDGE]),
            (_, 0xed | 0xf3) => {
                self.awaited = Awaited::Any;
                self.answer(&[ACKNOWLEDGE]);
            }
            (_, 0xf0) => {
                self.awaited = Awaited::CodeSet;
                self.answer(&[ACKNOWLEDGE]);
            }
            (_, 0xee) => self.answer(&[0xee]),
            (_, 0xf2) => self.answer(&[ACKNOWLEDGE, 0xab, 0x83]),
            (_, 0xf4) => self.switch(true),
            (_, 0xf5) => self.switch(false),
            (_, 0xf6) => self.switch(true),
            (_, 0xff) => {
                self.switch(true);
                self.answer(&[TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn switch(&mut self, scans: bool) {
        self.scans = scans;
        self.answer(&[ACKNOWLEDGE]);
    }

    fn answer(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let _ = self.queue.try_push(byte);
        }
    }
}

/// The characters of a key, without and with Shift, by its code in set 1.
pub fn characters_of(code: u8) -> Option<(u8, u8)> {
    let keys = keys::CHARACTERS.iter();
    let mut keys = keys.filter(|key| to_set_1(key.0) == code);
    keys.next().map(|&(_, plain, shifted)| (plain, shifted))
}

/// What the controller makes of set 2: each byte of set 2 in set 1. The release prefix becomes bit 7 of what follows.
pub(crate) const fn to_set_1(byte: u8) -> u8 {
    const TABLE: [u8; 0x85] = [
        0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
        0x59, 0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11,
        0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14,
        0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24,
        0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35,
        0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36,
        0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c,
        0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
        0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, 0x80, 0x81, 0x82, 0x41, 0x54,
    ];
    if (byte as usize) < TABLE.len() {
        #[allow(clippy::indexing_slicing, reason = "checked in the line above")]
        TABLE[byte as usize]
    } else {
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn sent(keyboard: &mut Keyboard) -> Vec<u8> {
        core::iter::from_fn(|| keyboard.send()).collect()
    }

    #[test]
    fn a_key_is_pressed_and_released_within_its_modifiers() {
        let mut keyboard = Keyboard::new();
        assert_eq!(keyboard.receive(b"aB", 0), 2);
        let wanted = [0x1c, 0xf0, 0x1c, 0x12, 0x32, 0xf0, 0x32, 0xf0, 0x12];
        assert_eq!(sent(&mut keyboard), wanted);
        keyboard.receive(b"\x1b[A", 0);
        assert_eq!(sent(&mut keyboard), [0xe0, 0x75, 0xe0, 0xf0, 0x75]);
    }

    #[test]
    fn escape_is_a_key_after_a_while() {
        let mut keyboard = Keyboard::new();
        keyboard.receive(b"\x1b", 1000);
        let due = keyboard.next_deadline_ns().unwrap();
        keyboard.expire(due - 1);
        assert_eq!(sent(&mut keyboard), []);
        keyboard.expire(due);
        assert_eq!(sent(&mut keyboard), [0x76, 0xf0, 0x76]);
        assert_eq!(keyboard.next_deadline_ns(), None);
    }

    #[test]
    fn what_is_typed_too_fast_is_left_to_be_offered_again() {
        let mut keyboard = Keyboard::new();
        let taken = keyboard.receive(&[b'x'; 100], 0);
        assert!((1..100).contains(&taken));
        assert_eq!(sent(&mut keyboard).len(), 3 * taken);
        assert!(keyboard.receive(b"x", 0) == 1);
    }

    #[test]
    fn commands_are_acknowledged_and_answered() {
        let mut keyboard = Keyboard::new();
        let mut ask = |bytes: &[u8]| {
            bytes.iter().for_each(|&byte| keyboard.command(byte));
            sent(&mut keyboard)
        };
        assert_eq!(ask(&[0xff]), [0xfa, 0xaa]);
        assert_eq!(ask(&[0xf2]), [0xfa, 0xab, 0x83]);
        assert_eq!(ask(&[0xee]), [0xee]);
        assert_eq!(ask(&[0xed]), [0xfa]);
        assert_eq!(ask(&[0x07]), [0xfa]);
        assert_eq!(ask(&[0xf0]), [0xfa]);
        assert_eq!(ask(&[0x00]), [0xfa, 0x02]);
        assert_eq!(ask(&[0x77]), [0xfe]);
        assert_eq!(ask(&[0xf5]), [0xfa]);
    }

    #[test]
    fn a_keyboard_that_is_switched_off_reports_no_keys() {
        let mut keyboard = Keyboard::new();
        keyboard.command(0xf5);
        sent(&mut keyboard);
        keyboard.receive(b"a", 0);
        assert_eq!(sent(&mut keyboard), []);
        keyboard.command(0xf4);
        sent(&mut keyboard);
        keyboard.receive(b"a", 0);
        assert_eq!(sent(&mut keyboard).len(), 3);
    }

    #[test]
    fn set_1_is_what_programs_expect() {
        for (set_2, set_1) in [
            (0x76, 0x01),
            (0x1c, 0x1e),
            (0x5a, 0x1c),
            (0x29, 0x39),
            (0x12, 0x2a),
            (0x14, 0x1d),
            (0x05, 0x3b),
            (0x75, 0x48),
            (0x83, 0x41),
            (0xe0, 0xe0),
            (0xfa, 0xfa),
        ] {
            assert_eq!(to_set_1(set_2), set_1, "{set_2:#x}");
        }
    }
}
