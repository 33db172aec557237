//! [`GuestConsole`]: what one guest says, on its way into the stream.

use alloc::string::String;
use alloc::sync::Arc;
use arrayvec::ArrayVec;
use host::on_its_way::{Congestion, OnItsWay};
use host::{EscapeFilter, PanicLine, SizeReports, Tail};
use spin::Mutex;
use x86_64::instructions::interrupts::without_interrupts;

use super::{CONSOLE, Owner};
use crate::hw::serial;

/// How a guest's console appears in the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GuestStyle {
    /// The guest's name stands before each line, and nothing but text and tabs gets through.
    Named,
    /// Byte for byte: for the one guest that somebody is working with.
    Raw,
    /// Not at all.
    Silent,
}

/// The console of one guest, on its way into the stream. Owned by the VM; needs no lock of its own.
pub(crate) struct GuestConsole {
    owner: Owner,
    name: String,
    style: GuestStyle,
    line: ArrayVec<u8, { GuestConsole::LINE_BYTES }>,
    escape: EscapeFilter,
    /// The last of it, for the operator. Locked by whoever has this console, and by the operator for a moment.
    tail: Arc<Mutex<Tail>>,
    panic: PanicLine,
    on_its_way: OnItsWay,
    size_reports: SizeReports,
}

impl GuestConsole {
    /// A longer line is passed on in pieces; others may then speak in between.
    const LINE_BYTES: usize = 256;

    /// The console of the guest of this number and name.
    pub(crate) fn new(
        number: u32,
        name: String,
        style: GuestStyle,
        tail: Arc<Mutex<Tail>>,
    ) -> Self {
        Self {
            owner: Owner::guest(number),
            name,
            style,
            line: ArrayVec::new(),
            escape: EscapeFilter::new(),
            tail,
            panic: PanicLine::new(),
            on_its_way: OnItsWay::new(),
            size_reports: SizeReports::new(),
        }
    }

    /// Whether the guest wants to be told of the terminal's size.
    pub(crate) fn wants_size_reports(&self) -> bool {
        self.size_reports.are_wanted()
    }

    /// Takes what the guest says. Whole lines are passed on, the rest waits for its end or for
    /// [`flush`](Self::flush).
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.tail.lock().push(bytes);
        self.pass_on(bytes);
        // Behind the line that it is about.
        let name = &self.name;
        self.panic.push(bytes, |line| {
            let line = core::str::from_utf8(line).unwrap_or("its reason is no text");
            log::warn!(target: "vm", "{name}: its kernel says that it has panicked: {line}");
        });
    }

    /// Whether the last that the guest has said is the last that a kernel says which has panicked.
    #[inline]
    pub(crate) fn is_last_word(&self) -> bool {
        self.panic.is_last_word()
    }

    fn pass_on(&mut self, bytes: &[u8]) {
        if self.style == GuestStyle::Silent {
            return;
        }
        for &byte in bytes {
            if self.style == GuestStyle::Named && !self.escape.passes(byte) {
                continue;
            }
            if self.line.try_push(byte).is_err() {
                self.flush();
                self.line.push(byte);
            }
            if byte == b'\n' {
                self.flush();
            }
        }
    }

    /// Whether so much of what the guest has said may wait to be sent that it had better wait, too.
    #[inline]
    pub(crate) fn may_have_had_its_share(&self) -> bool {
        self.on_its_way.may_be_too_much(serial::is_crowded())
    }

    /// Whether it had. Who asks has the serial port send what it can: its interrupt may be held back by what another
    /// guest does.
    #[cold]
    pub(crate) fn congestion(&mut self) -> Congestion {
        let queue = without_interrupts(|| CONSOLE.lock().serial.look());
        self.on_its_way.look(&queue)
    }

    /// Whether the guest has begun a line that nobody sees yet.
    pub(crate) fn has_unseen_text(&self) -> bool {
        !self.line.is_empty()
    }

    /// Passes on what there is, although the line has not ended.
    #[cold]
    pub(crate) fn flush(&mut self) {
        if self.line.is_empty() {
            return;
        }
        without_interrupts(|| {
            let mut console = CONSOLE.lock();
            let before = console.serial.queued();
            console.leave_picture();
            console.take_line(Some(self.owner));
            if console.open_line.is_none() && self.style == GuestStyle::Named {
                console.write(b"[");
                console.write(self.name.as_bytes());
                console.write(b"] ");
            }
            if self.style == GuestStyle::Raw {
                console.pass_on(&self.line);
                if self.size_reports.push(&self.line) {
                    let are_wanted = self.size_reports.are_wanted();
                    let request = console.reporting.said(self.owner, are_wanted);
                    console.pass_on(request);
                }
            } else {
                console.write(&self.line);
            }
            console.open_line = (self.line.last() != Some(&b'\n')).then_some(self.owner);
            console.return_to_picture();
            let end = console.serial.queued();
            self.on_its_way.push(before..end);
        });
        self.line.clear();
    }
}

impl Drop for GuestConsole {
    fn drop(&mut self) {
        if self.size_reports.are_wanted() {
            without_interrupts(|| {
                let mut console = CONSOLE.lock();
                let request = console.reporting.gone(self.owner);
                console.pass_on(request);
            });
        }
    }
}
