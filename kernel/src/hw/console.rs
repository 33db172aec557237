//! Everything that the hypervisor and its guests say: one stream of whole lines, on the serial port and on
//! the screen.
//!
//! [`line`] writes a line of the hypervisor's own. A [`GuestConsole`] collects what one guest says and
//! passes it on line by line, so lines never mix. A line that a guest has not ended yet (a prompt) is shown
//! by [`GuestConsole::flush`]; should somebody else speak then, it is ended first.
//!
//! During bring-up lines are sent before the call returns. From then on they wait in the serial port's ring, and so
//! does nobody: a guest that crashes again and again must not keep the others waiting for its last words. A panic
//! sends all that is in the ring.
//!
//! A guest's text screen, where one is shown ([`show`]), has the upper part of the terminal at the serial port for
//! itself; the stream goes on below it.
//!
//! One lock guards the stream. It is held with interrupts off and never while anything else is locked. A
//! panicking CPU waits a moment for it and then takes it by force ([`seize`]).

mod guest;

use core::fmt::{self, Write};
use core::hint;

use alloc::vec::Vec;
use bootloader_api::info::FrameBufferInfo;
use host::picture::{self, Cell};
use host::text::for_serial_line;
use host::{Picture, Reporting};
use spin::{Mutex, MutexGuard};
use x86_64::instructions::interrupts::without_interrupts;

use crate::hw::clock;
use crate::hw::screen::{Amount, Colour, Screen};
use crate::hw::serial::Serial;

pub(crate) use self::guest::{GuestConsole, GuestStyle};
pub(crate) use host::on_its_way::Congestion;

/// The least time between a whole update of the screen and the next.
const SCREEN_INTERVAL_NS: u64 = 100_000_000;
/// For each moment of drawing, so many go by without.
const SCREEN_SHARE: u64 = 20;
/// Bytes of the serial port's queue that the reports of crashed guests leave to others.
const REPORT_RESERVE_BYTES: usize = 4096;
/// What waits at most while a page is shown; more than that spoils the page.
const HELD_BYTES: usize = 64 << 10;
/// Polls of the lock before a panicking CPU takes it by force. The owner is stopped or stuck by then.
const SEIZE_POLLS: u32 = 10_000_000;

static CONSOLE: Mutex<Console> = Mutex::new(Console::new());

/// Who has begun a line and not ended it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owner(u32);

/// The operator's command line.
const MONITOR: Owner = Owner(0);

impl Owner {
    /// The guest of this number.
    const fn guest(number: u32) -> Self {
        Self(number + 1)
    }
}

struct Console {
    serial: Serial,
    screen: Option<Screen>,
    open_line: Option<Owner>,
    screen_due_ns: u64,
    shown: Option<Shown>,
    /// While the operator looks at a page: what waits for its end.
    held: Option<Vec<u8>>,
    /// Whom the terminal reports its size for.
    reporting: Reporting<Owner>,
}

/// A guest's text screen on the terminal at the serial port.
struct Shown {
    picture: Picture,
    /// What is to be sent, put together here.
    out: Vec<u8>,
}

impl Console {
    const fn new() -> Self {
        Self {
            serial: Serial::Absent,
            screen: None,
            open_line: None,
            screen_due_ns: 0,
            shown: None,
            held: None,
            reporting: Reporting::new(),
        }
    }

    /// Before the stream speaks: it goes on where it was below the picture, if there is one.
    fn leave_picture(&mut self) {
        if self.shown.is_some() && self.held.is_none() {
            self.serial.write(picture::TO_LOG);
        }
    }

    /// After the stream has spoken.
    fn return_to_picture(&mut self) {
        if self.held.is_none()
            && let Some(shown) = &mut self.shown
        {
            shown.out.clear();
            shown.out.extend_from_slice(picture::FROM_LOG);
            shown.picture.back(&mut shown.out);
            self.serial.write(&shown.out);
        }
    }

    fn end_picture(&mut self) {
        if self.shown.take().is_some() {
            self.serial.write(picture::END);
            self.serial.write(b"\r\n");
        }
    }

    /// Writes text as it is, except that the serial line gets a carriage return before each line feed.
    fn write(&mut self, text: &[u8]) {
        for_serial_line(text, |piece| self.pass_on(piece));
    }

    /// Writes bytes as they are. Where a page is shown they wait for its end, unless there are too many of them.
    fn pass_on(&mut self, bytes: &[u8]) {
        if let Some(held) = &mut self.held {
            if held.len() + bytes.len() <= HELD_BYTES {
                held.extend_from_slice(bytes);
                return;
            }
            self.let_go();
            self.held = Some(Vec::new());
        }
        self.send(bytes);
    }

    /// Writes what has waited.
    fn let_go(&mut self) {
        if let Some(held) = self.held.take() {
            self.send(&held);
        }
    }

    /// Writes text that waits for nothing.
    fn write_now(&mut self, text: &[u8]) {
        for_serial_line(text, |piece| self.send(piece));
    }

    fn send(&mut self, bytes: &[u8]) {
        self.serial.write(bytes);
        if let Some(screen) = &mut self.screen {
            screen.write(bytes);
        }
    }

    /// Ends the line that somebody else has begun.
    fn take_line(&mut self, owner: Option<Owner>) {
        if self.open_line.is_some() && self.open_line != owner {
            self.write(b"\n");
            self.open_line = None;
        }
    }

    fn colour(&mut self, colour: Colour) {
        if let Some(screen) = &mut self.screen {
            screen.set_colour(colour);
        }
    }

    /// Draws what has changed: all of it, or a part of it unless that was done a moment ago.
    fn refresh(&mut self, when: Refresh) {
        let Some(screen) = &mut self.screen else {
            return;
        };
        if !screen.is_stale() {
            return;
        }
        let start_ns = clock::now_ns();
        if when == Refresh::WhenDue && start_ns < self.screen_due_ns {
            return;
        }
        screen.draw(match when {
            Refresh::Now => Amount::All,
            Refresh::WhenDue => Amount::Slice,
        });
        let end_ns = clock::now_ns();
        let rest_ns = (end_ns - start_ns) * SCREEN_SHARE;
        self.screen_due_ns = end_ns
            + if screen.is_stale() {
                rest_ns
            } else {
                rest_ns.max(SCREEN_INTERVAL_NS)
            };
    }

    /// When there is more to be drawn.
    fn screen_due_ns(&self) -> Option<u64> {
        let is_stale = self.screen.as_ref().is_some_and(Screen::is_stale);
        is_stale.then_some(self.screen_due_ns)
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

/// Whether the screen has to show the latest text at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refresh {
    /// It has.
    Now,
    /// A part of it, and not if that was done a moment ago.
    WhenDue,
}

/// Finds the serial port. What is said before this is lost.
///
/// # Safety
/// Called once; nobody else uses the serial port.
pub(crate) unsafe fn init_serial() {
    // SAFETY: the caller's promise is the same.
    CONSOLE.lock().serial = unsafe { Serial::detect() };
}

/// Starts to show everything on the frame buffer, too.
///
/// # Safety
/// `frame_buffer` is the address of the frame buffer that `info` describes; it stays mapped for ever, and
/// nobody else draws on it.
pub(crate) unsafe fn init_screen(frame_buffer: *mut u8, info: &FrameBufferInfo) {
    // SAFETY: the caller's promise is the same.
    CONSOLE.lock().screen = unsafe { Screen::new(frame_buffer, info) };
}

/// Writes one line, in the colour on the screen.
pub(crate) fn line(colour: Colour, text: fmt::Arguments<'_>) {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        console.leave_picture();
        console.take_line(None);
        console.colour(colour);
        // Writing to the console itself never fails; a `Display` that does is no reason to lose the line's
        // end.
        let _ = console.write_fmt(text);
        console.write(b"\n");
        console.return_to_picture();
        console.colour(Colour::Text);
        console.refresh(Refresh::WhenDue);
    });
}

/// Writes what a guest was doing when it crashed, each line behind the guest's name. It waits for nobody: a guest may
/// crash as often as it likes. What the serial port has no room for is left out.
pub(crate) fn report(name: &str, text: &str) {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        console.leave_picture();
        console.take_line(None);
        console.colour(Colour::Error);
        for line in text.lines() {
            // The name, two marks, the line and its end; and something for those who have more to say.
            if console.serial.room() < name.len() + line.len() + REPORT_RESERVE_BYTES {
                console.write(b"(the rest is left out: the serial port is busy)\n");
                break;
            }
            // Writing to the console itself never fails.
            let _ = writeln!(console, "{name}: {line}");
        }
        console.return_to_picture();
        console.colour(Colour::Text);
        console.refresh(Refresh::WhenDue);
    });
}

/// Brings the screen up to date: for CPUs that are idle or between two turns, and before a long silence.
pub(crate) fn refresh(when: Refresh) {
    without_interrupts(|| CONSOLE.lock().refresh(when));
}

/// When there is more to be drawn, if there is.
pub(crate) fn screen_due_ns() -> Option<u64> {
    without_interrupts(|| CONSOLE.lock().screen_due_ns())
}

/// Shows everything and waits until the last byte has left the serial port: to be called before the machine
/// ends.
pub(crate) fn drain() {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        console.let_go();
        console.leave_picture();
        console.take_line(None);
        console.end_picture();
        console.refresh(Refresh::Now);
        console.serial.drain();
    });
}

/// Writes a part of the operator's command line, which is `whole`: only that part where the line is still as he left
/// it, and else all of it.
pub(crate) fn command_line(part: &[u8], whole: &[u8]) {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        console.leave_picture();
        if console.open_line == Some(MONITOR) {
            console.write(part);
        } else {
            console.take_line(Some(MONITOR));
            console.write(whole);
            console.open_line = Some(MONITOR);
        }
        console.return_to_picture();
        console.serial.flush();
        console.refresh(Refresh::WhenDue);
    });
}

/// The operator has ended his line.
pub(crate) fn command_line_is_over() {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        if console.open_line == Some(MONITOR) {
            console.open_line = None;
        }
    });
}

/// Whether something waits to be sent; a new picture had better wait, too.
pub(crate) fn is_sending() -> bool {
    without_interrupts(|| CONSOLE.lock().serial.backlog() != 0)
}

/// Shows a guest's text screen, its cursor at this row and column, on the terminal at the serial port. Rows and columns
/// that are missing are blank.
pub(crate) fn show(cells: &[Cell], cursor: Option<(u8, u8)>) {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        let Console { shown, serial, .. } = &mut *console;
        let shown = shown.get_or_insert_with(|| Shown {
            picture: Picture::new(),
            out: Vec::new(),
        });
        shown.out.clear();
        shown.picture.update(cells, cursor, &mut shown.out);
        serial.write(&shown.out);
    });
}

/// Nothing is shown any more, and the stream has the whole terminal; or all of the next picture is to be drawn.
pub(crate) fn forget_picture(how: Forget) {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        match (how, &mut console.shown) {
            (Forget::Redraw, Some(shown)) => shown.picture.forget(),
            (Forget::Redraw, None) => {}
            (Forget::End, _) => console.end_picture(),
        }
    });
}

/// Whether the operator's command line has to be shown again, since others have spoken.
pub(crate) fn command_line_is_gone() -> bool {
    without_interrupts(|| CONSOLE.lock().open_line != Some(MONITOR))
}

/// Shows a page in place of whatever a terminal shows. Until [`end_page`] others wait with what they have to say.
pub(crate) fn page(text: &[u8]) {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        if console.held.is_none() {
            console.take_line(None);
            console.held = Some(Vec::new());
        }
        console.write_now(text);
        console.serial.flush();
        console.refresh(Refresh::WhenDue);
    });
}

/// Ends the page, after `text`: everything goes on where it stopped.
pub(crate) fn end_page(text: &[u8]) {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        console.write_now(text);
        let held = console.held.take().unwrap_or_default();
        console.leave_picture();
        console.send(&held);
        console.return_to_picture();
        console.refresh(Refresh::WhenDue);
    });
}

/// What is typed goes to the guest of this number from now on, which wants reports of the terminal's size or does not; or
/// to the operator's own command line.
pub(crate) fn give_keys(to: Option<(u32, bool)>) {
    without_interrupts(|| {
        let mut console = CONSOLE.lock();
        let to = to.map(|(number, are_wanted)| (Owner::guest(number), are_wanted));
        let request = console.reporting.give_keys(to);
        console.serial.write(request);
    });
}

/// What becomes of a picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Forget {
    /// The next one is drawn as a whole.
    Redraw,
    /// There is none any more.
    End,
}

/// When the serial port is to be looked at because something waits to be sent, and its interrupt may be held back.
pub(crate) fn sending_due_ns() -> Option<u64> {
    without_interrupts(|| CONSOLE.lock().serial.sending_due_ns())
}

/// A byte that somebody has typed, if any.
pub(crate) fn read_byte() -> Option<u8> {
    without_interrupts(|| CONSOLE.lock().serial.try_read())
}

/// Lets the serial port work by interrupts: from now on, what guests say leaves while they go on.
pub(crate) fn enable_interrupts() {
    without_interrupts(|| CONSOLE.lock().serial.enable_interrupts());
}

/// Handles the serial port's interrupt; interrupts are off. Whether something that was typed waits to be read.
pub(crate) fn service() -> bool {
    CONSOLE.lock().serial.service()
}

/// The stream in the hands of a panicking CPU.
pub(crate) struct Seized(MutexGuard<'static, Console>);

impl Seized {
    /// Shows everything and waits until it has left the machine.
    pub(crate) fn drain(&mut self) {
        self.0.refresh(Refresh::Now);
        self.0.serial.drain();
    }
}

impl Write for Seized {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(text)
    }
}

/// Takes the stream, by force if its owner does not let go.
///
/// # Safety
/// All other CPUs are stopped or will stop soon, and this one never returns to what it did: an owner may
/// have been interrupted in the middle of a line.
pub(crate) unsafe fn seize() -> Seized {
    for _ in 0..SEIZE_POLLS {
        if let Some(console) = CONSOLE.try_lock() {
            return seized(console);
        }
        hint::spin_loop();
    }
    // SAFETY: the owner is stopped, or is what this CPU was doing before it panicked; neither goes on. The
    // console's state is valid between any two of its bytes.
    unsafe { CONSOLE.force_unlock() };
    seized(CONSOLE.lock())
}

fn seized(mut console: MutexGuard<'static, Console>) -> Seized {
    console.let_go();
    console.leave_picture();
    console.take_line(None);
    console.colour(Colour::Error);
    Seized(console)
}
