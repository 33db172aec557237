//! The operator at the serial port: what is typed goes to one guest, and a few keys behind an escape are for Plinth.
//!
//! The escape is Ctrl-] as in telnet. `Ctrl-] ?` lists the keys.

use alloc::collections::VecDeque;

use crate::hw::console;
use crate::hw::screen::Colour;

/// Ctrl-].
const ESCAPE: u8 = 0x1d;
/// Typed ahead at most; what comes after that is lost, as on any terminal.
const TYPED_AHEAD: usize = 4096;

/// What the operator wants of the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// The registers, last exits and figures of all vCPUs.
    Dump,
    /// The next guest gets the keys.
    NextGuest,
    /// The whole machine is to be reset.
    Reset,
    /// The whole machine is to be switched off.
    PowerOff,
}

/// What has been typed and not yet been taken.
pub(crate) struct Operator {
    escaped: bool,
    typed: VecDeque<u8>,
}

impl Operator {
    pub(crate) const fn new() -> Self {
        Self {
            escaped: false,
            typed: VecDeque::new(),
        }
    }

    /// Takes what has arrived at the serial port, as far as the next wish.
    pub(crate) fn listen(&mut self) -> Option<Wish> {
        while let Some(byte) = console::read_byte() {
            if core::mem::take(&mut self.escaped) {
                match byte {
                    b'd' => return Some(Wish::Dump),
                    b'n' => return Some(Wish::NextGuest),
                    b'r' => return Some(Wish::Reset),
                    b'q' => return Some(Wish::PowerOff),
                    ESCAPE => self.push(ESCAPE),
                    _ => help(),
                }
            } else if byte == ESCAPE {
                self.escaped = true;
            } else {
                self.push(byte);
            }
        }
        None
    }

    fn push(&mut self, byte: u8) {
        if self.typed.len() < TYPED_AHEAD {
            self.typed.push_back(byte);
        }
    }

    /// Offers what was typed to a guest, which takes some of it.
    pub(crate) fn offer(&mut self, take: impl FnOnce(&[u8]) -> usize) {
        if !self.typed.is_empty() {
            let taken = take(self.typed.make_contiguous());
            self.typed.drain(..taken.min(self.typed.len()));
        }
    }
}

fn help() {
    for line in [
        "Ctrl-] d   registers, last exits and exit figures of all guests",
        "Ctrl-] n   the next guest gets the keys",
        "Ctrl-] r   resets the whole machine",
        "Ctrl-] q   switches the whole machine off",
        "Ctrl-] Ctrl-]   sends Ctrl-] to the guest",
    ] {
        console::line(Colour::Text, format_args!("plinth: {line}"));
    }
}
