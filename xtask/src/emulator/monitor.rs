//! QEMU's monitor: commands go in, text up to the next prompt comes out. It shows what is on a machine's screen.

use super::Running;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long QEMU may take to connect, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the monitor says when it waits for a command.
const PROMPT: &str = "(qemu) ";

/// The file of a picture, in the run's folder.
const PICTURE: &str = "screen.ppm";

/// The monitor of a running QEMU.
#[derive(Debug)]
pub struct Monitor {
    stream: TcpStream,
}

impl Monitor {
    /// Waits for the QEMU that was told this listener's port.
    pub fn accept(listener: &TcpListener) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error).context("QEMU's monitor did not connect"),
            }
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self { stream };
        monitor.answer()?;
        Ok(monitor)
    }

    /// Gives a command, and returns what it says.
    pub fn command(&mut self, command: &str) -> Result<String> {
        writeln!(self.stream, "{command}").context("QEMU is gone")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String> {
        let mut said = Vec::new();
        let mut buffer = [0; 4096];
        while !said.ends_with(PROMPT.as_bytes()) {
            let count = self.stream.read(&mut buffer);
            match count.context("QEMU's monitor does not answer")? {
                0 => bail!("QEMU has ended"),
                count => said.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// Waits until the machine has switched itself off.
    pub fn wait_for_power_off(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !is_off(&self.command("info status")?) {
            if Instant::now() > deadline {
                bail!("the machine did not switch itself off");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What the machine's screen shows, as a PPM file.
    pub fn picture(&mut self, running: &Running) -> Result<Vec<u8>> {
        let file = running.folder().join(PICTURE);
        let said = self.command(&format!("screendump {PICTURE}"))?;
        fs::read(&file).with_context(|| format!("QEMU made no picture: {said}"))
    }

    /// Ends QEMU.
    pub fn quit(mut self) -> Result<()> {
        writeln!(self.stream, "quit").context("QEMU is gone")
    }
}

/// By the answer to `info status`.
fn is_off(status: &str) -> bool {
    status.contains("VM status: paused (shutdown)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_machine_that_is_off_is_told_from_one_that_stands_still() {
        assert!(is_off(
            "info status\r\nVM status: paused (shutdown)\r\n(qemu) "
        ));
        assert!(!is_off("VM status: paused\r\n(qemu) "));
        assert!(!is_off("VM status: running\r\n(qemu) "));
    }

    #[test]
    fn an_answer_ends_with_the_prompt_however_it_is_cut() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let qemu = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"QEMU 7.2 monitor\r\n(qe").unwrap();
            stream.write_all(b"mu) ").unwrap();
            let mut command = [0; 5];
            stream.read_exact(&mut command).unwrap();
            stream
                .write_all(b"(qemu) is no prompt here\r\n(qemu) ")
                .unwrap();
            command
        });
        let mut monitor = Monitor::accept(&listener).unwrap();
        assert!(monitor.command("help").unwrap().contains("no prompt here"));
        assert_eq!(&qemu.join().unwrap(), b"help\n");
    }
}
