//! Reads a machine's serial port: line by line with a deadline for tests, and for the lines by which the
//! hypervisor says how its guests have ended.

use anyhow::Result;
use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

/// How one guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestEnd {
    /// The guest's name.
    pub name: String,
    /// What happened.
    pub how: End,
    /// More about it.
    pub detail: String,
}

/// What ended a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    PowerOff,
    /// It asked for a reset.
    Reset,
    /// It ended itself with a status, by the debug-exit port.
    Exit,
    /// It could not go on, or could not start.
    Crash,
    /// Somebody ended it.
    Killed,
}

/// A line of the hypervisor that is meant for programs. Guests cannot make one: each line of theirs has their
/// name before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// `plinth: end NAME HOW: DETAIL`
    GuestEnded(GuestEnd),
    /// `plinth: all guests have ended, status N`
    AllEnded {
        /// 0 where all switched themselves off.
        status: u8,
    },
    /// `plinth: the operator switches the machine off`
    SwitchedOff,
}

impl Announcement {
    /// Recognises an announcement.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.trim_end().strip_prefix("plinth: ")?;
        if rest == "the operator switches the machine off" {
            return Some(Self::SwitchedOff);
        }
        if let Some(status) = rest.strip_prefix("all guests have ended, status ") {
            return Some(Self::AllEnded {
                status: status.parse().ok()?,
            });
        }
        let (head, detail) = match rest.strip_prefix("end ")?.split_once(':') {
            Some((head, detail)) => (head, detail.trim()),
            None => (rest.strip_prefix("end ")?, ""),
        };
        let (name, how) = head.rsplit_once(' ')?;
        let how = match how {
            "poweroff" => End::PowerOff,
            "reset" => End::Reset,
            "exit" => End::Exit,
            "crash" => End::Crash,
            "killed" => End::Killed,
            _ => return None,
        };
        Some(Self::GuestEnded(GuestEnd {
            name: name.to_owned(),
            how,
            detail: detail.to_owned(),
        }))
    }
}

/// Cuts a stream of bytes into lines, without line ends and without what terminals are told by escape sequences. The
/// picture of a guest's screen, which the hypervisor marks as one, is no part of any line.
#[derive(Debug, Default)]
pub struct Lines {
    unfinished: Vec<u8>,
    in_picture: bool,
}

/// How an update of the picture begins and ends: a terminal's "synchronized update".
const PICTURE: &[u8] = b"\x1b[?2026h";
const PICTURE_END: &[u8] = b"\x1b[?2026l";

impl Lines {
    /// Takes more bytes, gives the lines that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                lines.push(self.take());
                continue;
            }
            self.unfinished.push(byte);
            if self.unfinished.ends_with(PICTURE_END) && self.in_picture {
                self.in_picture = false;
                let start = rposition(&self.unfinished, PICTURE).unwrap_or(0);
                self.unfinished.truncate(start);
            } else if self.unfinished.ends_with(PICTURE) {
                self.in_picture = true;
            }
        }
        lines
    }

    /// What came after the last line end.
    pub fn take(&mut self) -> String {
        let bytes = std::mem::take(&mut self.unfinished);
        let text = String::from_utf8_lossy(&bytes);
        without_escapes(text.trim_end_matches('\r'))
    }
}

/// Where `part` is found last.
fn rposition(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).rposition(|window| window == part)
}

/// Removes control sequences (ESC [ ... letter) and ESC 7 and 8, which only concern a terminal.
fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\x1b' && matches!(characters.peek(), Some('7' | '8')) {
            characters.next();
        } else if character == '\x1b' && characters.peek() == Some(&'[') {
            characters.next();
            for parameter in characters.by_ref() {
                if ('@'..='~').contains(&parameter) {
                    break;
                }
            }
        } else {
            out.push(character);
        }
    }
    out
}

/// What comes next from the serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A line.
    Line(String),
    /// Nothing did in time; what stands there without a line end so far.
    Timeout,
    /// Nothing will: the emulator has ended.
    Closed,
}

/// Lines of a serial port, with a deadline for each wait.
#[derive(Debug)]
pub struct LineReader {
    lines: Receiver<String>,
}

impl LineReader {
    /// Reads `serial` in a thread of its own until it is closed.
    pub fn start(serial: TcpStream) -> Result<Self> {
        Self::start_with_tap(serial, |_| ())
    }

    /// The same; `tap` sees all of it, byte for byte.
    pub fn start_with_tap(
        mut serial: TcpStream,
        mut tap: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Self> {
        let (sender, lines) = channel();
        std::thread::Builder::new()
            .name("serial".into())
            .spawn(move || {
                let mut cutter = Lines::default();
                let mut buffer = [0; 4096];
                while let Ok(count) = serial.read(&mut buffer) {
                    if count == 0 {
                        break;
                    }
                    tap(&buffer[..count]);
                    for line in cutter.push(&buffer[..count]) {
                        if sender.send(line).is_err() {
                            return;
                        }
                    }
                }
                let rest = cutter.take();
                if !rest.is_empty() {
                    let _ = sender.send(rest);
                }
            })?;
        Ok(Self { lines })
    }

    /// The next line, if it comes before `deadline`. After that there is none, however many lines wait: a machine that
    /// prints for ever is to be cut off, too.
    #[must_use]
    pub fn next(&self, deadline: Instant) -> Next {
        let patience = deadline.saturating_duration_since(Instant::now());
        if patience.is_zero() {
            return Next::Timeout;
        }
        match self.lines.recv_timeout(patience) {
            Ok(line) => Next::Line(line),
            Err(RecvTimeoutError::Timeout) => Next::Timeout,
            Err(RecvTimeoutError::Disconnected) => Next::Closed,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    /// A machine's side of a serial port, and ours.
    pub(crate) fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let machine = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (machine, listener.accept().unwrap().0)
    }

    #[test]
    fn the_last_line_of_a_run_is_recognised() {
        assert_eq!(
            Announcement::parse("plinth: all guests have ended, status 2\r"),
            Some(Announcement::AllEnded { status: 2 })
        );
    }

    #[test]
    fn the_end_of_a_guest_is_recognised_with_its_reason() {
        assert_eq!(
            Announcement::parse("plinth: end my guest crash: triple fault at 0x1000: no IDT"),
            Some(Announcement::GuestEnded(GuestEnd {
                name: "my guest".into(),
                how: End::Crash,
                detail: "triple fault at 0x1000: no IDT".into(),
            }))
        );
    }

    #[test]
    fn a_machine_that_the_operator_switches_off_is_told_from_one_that_dies() {
        assert_eq!(
            Announcement::parse("plinth: the operator switches the machine off\r"),
            Some(Announcement::SwitchedOff)
        );
    }

    #[test]
    fn a_guest_cannot_announce_anything() {
        for line in [
            "hello| plinth: all guests have ended, status 0",
            " plinth: all guests have ended, status 0",
            "plinth: all guests have ended, status many",
            "plinth: end hello exploded: loudly",
            "plinth: ready",
        ] {
            assert_eq!(Announcement::parse(line), None, "{line}");
        }
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut lines = Lines::default();
        assert!(lines.push(b"one").is_empty());
        assert_eq!(
            lines.push(b" line\r\nand \x1b[1;31manother\x1b[0m\nrest"),
            ["one line", "and another"]
        );
        assert_eq!(lines.take(), "rest");
    }

    #[test]
    fn a_machine_that_prints_for_ever_does_not_outlast_a_deadline() {
        let (mut machine, serial) = connection();
        std::thread::spawn(move || while machine.write_all(b"again\n").is_ok() {});
        let lines = LineReader::start(serial).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let mut heard = 0_u32;
        while let Next::Line(_) = lines.next(deadline) {
            heard += 1;
        }
        assert!(heard > 0);
        assert_eq!(lines.next(deadline), Next::Timeout);
    }

    #[test]
    fn a_picture_is_no_part_of_a_line() {
        let mut lines = Lines::default();
        let heard = lines.push(
            b"\x1b[?2026h\x1b[1;1Hscreen\x1b[?2026l\x1b8plinth: end x\x1b7\x1b[?2026h\x1b[2;3H\x1b[?2026l\x1b8 reset\r\n",
        );
        assert_eq!(heard, ["plinth: end x reset"]);
    }
}
