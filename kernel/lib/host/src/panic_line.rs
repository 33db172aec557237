//! [`PanicLine`]: notices the lines with which Linux begins to die, and has died, in what a guest says on its console.
//!
//! A kernel with the driver of pvpanic tells of it properly. One that panics before it has loaded drivers only says so,
//! and then turns in a circle for ever. What it says can be said by any program, too, so that nothing follows from it
//! alone but a word to the operator.

use arrayvec::ArrayVec;

/// What the line begins with, behind the time that the kernel puts there.
const BEGINNING: &[u8] = b"Kernel panic - not syncing";

/// What the last line of its report begins with, where it does not restart by itself.
const END: &[u8] = b"---[ end Kernel panic";

/// As much of a line as is looked at.
const KEPT: usize = 120;

/// Lines that are noticed; a guest must not fill the operator's log.
const NOTICED: u8 = 3;

/// The beginning of the line that is being said.
#[derive(Clone, Debug, Default)]
pub struct PanicLine {
    line: ArrayVec<u8, KEPT>,
    noticed: u8,
    /// The last line was the end of the report, and nothing came behind it.
    is_last: bool,
}

impl PanicLine {
    /// Nothing was said yet.
    pub const fn new() -> Self {
        Self {
            line: ArrayVec::new_const(),
            noticed: 0,
            is_last: false,
        }
    }

    /// Whether the last that was said is the last that a kernel says which has panicked.
    #[inline]
    pub const fn is_last_word(&self) -> bool {
        self.is_last
    }

    /// Takes what is said; calls `notice` with the first few lines that tell of a panic.
    #[inline]
    pub fn push(&mut self, bytes: &[u8], mut notice: impl FnMut(&[u8])) {
        for &byte in bytes {
            if byte == b'\n' {
                self.is_last = without_time(&self.line).is_some_and(|text| text.starts_with(END));
                if self.noticed < NOTICED
                    && let Some(text) = panic_in(&self.line)
                {
                    self.noticed += 1;
                    notice(text);
                }
                self.line.clear();
            } else {
                self.is_last = false;
                // The rest of a longer line does not matter.
                let _ = self.line.try_push(byte);
            }
        }
    }
}

/// The message of a line that tells of a panic.
fn panic_in(line: &[u8]) -> Option<&[u8]> {
    let text = without_time(line)?;
    text.starts_with(BEGINNING).then(|| text.trim_ascii_end())
}

/// A line without what the kernel puts before it: `[   12.345678]`, and the task where it is told to, `[    T1]`. `None`
/// where such a thing has no end.
fn without_time(mut line: &[u8]) -> Option<&[u8]> {
    while let Some(timed) = line.strip_prefix(b"[") {
        let end = timed.iter().position(|byte| *byte == b']')?;
        line = timed.get(end + 1..)?.trim_ascii_start();
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::*;

    fn noticed(said: &[&str]) -> Vec<String> {
        let mut watch = PanicLine::new();
        let mut lines = Vec::new();
        for part in said {
            watch.push(part.as_bytes(), |line| {
                lines.push(String::from_utf8_lossy(line).into_owned());
            });
        }
        lines
    }

    #[test]
    fn a_panic_is_noticed_with_and_without_its_time_and_in_pieces() {
        let panic = "Kernel panic - not syncing: VFS: Unable to mount root fs";
        assert_eq!(
            noticed(&[
                "Kernel panic - not syn",
                "cing: VFS: Unable to mount root fs\r\n"
            ]),
            [panic]
        );
        assert_eq!(
            noticed(&["all is well\n[    1.234567] Kernel panic - not syncing: Fatal exception\n"]),
            ["Kernel panic - not syncing: Fatal exception"]
        );
    }

    #[test]
    fn the_end_of_the_report_is_the_last_word_until_something_else_is_said() {
        let end = "[    1.25][    T1] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n";
        let mut watch = PanicLine::new();
        let mut said = |text: &str| {
            watch.push(text.as_bytes(), |_| ());
            watch.is_last_word()
        };
        assert!(!said(
            "[    1.00] Kernel panic - not syncing: Attempted to kill init!\r\n"
        ));
        assert!(!said("[    1.20] Kernel Offset: disabled\r\n"));
        let (first, rest) = end.split_at(30);
        assert!(!said(first));
        assert!(said(rest));
        assert!(!said("#"));
        assert!(!said(" cat log\r\n"));
        assert!(said(end));
        assert!(!said("\r\n"), "an empty line is something else");
        assert!(!said("he said: ---[ end Kernel panic ]---\r\n"));
    }

    #[test]
    fn talk_of_panics_is_none() {
        assert!(
            noticed(&[
                "what does Kernel panic - not syncing mean?\n",
                "[    1.0] ---[ end Kernel panic - not syncing ]---\n",
                "[ never closed\n",
                "Kernel panic - not syncing",
            ])
            .is_empty()
        );
    }

    #[test]
    fn a_guest_that_says_it_all_the_time_is_noticed_a_few_times() {
        let lines = ["Kernel panic - not syncing: again\n"; 50];
        assert_eq!(noticed(&lines).len(), 3);
    }

    #[test]
    fn a_line_longer_than_any_is_cut_off() {
        let long = "x".repeat(10_000);
        let line =
            alloc::format!("Kernel panic - not syncing: {long}\nKernel panic - not syncing: y\n");
        let lines = noticed(&[&line]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), KEPT);
    }
}
