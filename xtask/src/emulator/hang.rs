//! What is asked and shown of a machine that hangs: the same for tests, measurements and `cargo xtask run`.
//!
//! [`tell`] asks Plinth on the serial port for its guests' registers and last exits, [`report`] puts all together. On a
//! bare machine nobody answers; its registers are there in any case, as far as the emulator knows them
//! ([`Running::registers`]).

use super::Running;
use super::console::{LineReader, Next};
use std::io::Write;
use std::time::{Duration, Instant};

/// What Plinth takes as "tell about your guests", on the serial port.
pub const TELL: &[u8] = b"\x1dd";

/// How long the answer may take in all; a guest may print for ever.
pub const ANSWER: Duration = Duration::from_secs(6);

/// How long nothing comes where the answer is complete. A hypervisor that is not there yet, or not any more, says
/// nothing at all for as long.
pub const SILENCE: Duration = Duration::from_secs(2);

/// Asks Plinth about its guests; what comes is added to what was heard.
pub fn tell(serial: &mut impl Write, lines: &LineReader, heard: &mut Vec<String>) {
    if serial.write_all(TELL).is_err() {
        return;
    }
    let end = Instant::now() + ANSWER;
    while let Next::Line(line) = lines.next(end.min(Instant::now() + SILENCE)) {
        heard.push(line);
    }
}

/// Asks, and puts everything together that helps to understand what went wrong. The machine is at its end after that.
pub fn report(
    what: &str,
    running: &mut Running,
    lines: &LineReader,
    heard: &mut Vec<String>,
) -> anyhow::Error {
    if let Ok(mut serial) = running.serial() {
        tell(&mut serial, lines, heard);
    }
    let registers = running.registers();
    anyhow::anyhow!(
        "{what}\n--- serial port\n{}\n--- emulator\n{}\n--- registers of the machine\n{registers}",
        heard.join("\n"),
        running.last_words(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::connection;
    use super::*;
    use std::io::Read;

    #[test]
    fn a_machine_that_hangs_is_asked_about_its_guests_and_what_it_answers_is_kept() {
        let (mut machine, mut serial) = connection();
        let lines = LineReader::start(serial.try_clone().unwrap()).unwrap();
        let answers = std::thread::spawn(move || {
            let mut asked = [0; TELL.len()];
            machine.read_exact(&mut asked).unwrap();
            machine.write_all(b"spin vCPU 0\nhost timer 3\n").unwrap();
            asked
        });
        let mut heard = vec!["before".to_owned()];
        tell(&mut serial, &lines, &mut heard);
        assert_eq!(answers.join().unwrap(), TELL);
        assert_eq!(heard, ["before", "spin vCPU 0", "host timer 3"]);
    }
}
