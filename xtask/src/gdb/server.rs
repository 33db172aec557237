//! Serves one gdb: translates its commands to those of Bochs's debugger. Threads of gdb are CPUs of the machine.

use super::bochs::{BochsDebugger, Registers, stopped_cpu};
use super::packet::{Incoming, framed, hex, read, unhex};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

/// How often a running machine is looked after.
const POLL: Duration = Duration::from_millis(20);

/// The largest packet, in hexadecimal as the protocol wants it.
const PACKET_SIZE: &str = "2000";

/// The most memory one answer holds: two digits for each byte.
const MAX_READ: usize = 0x800;

/// Waits for gdb on `listener`, and serves it until it leaves.
pub fn serve(listener: &TcpListener, debugger: BochsDebugger, cpus: u32) -> Result<()> {
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let (sender, incoming) = channel();
    let mut reader = stream.try_clone()?;
    std::thread::Builder::new()
        .name("gdb".into())
        .spawn(move || {
            while let Ok(Some(packet)) = read(&mut reader) {
                if sender.send(packet).is_err() {
                    return;
                }
            }
        })?;
    let mut session = Session {
        stream,
        incoming,
        debugger,
        cpus,
        cpu: 0,
        breakpoints: HashMap::new(),
    };
    session.run()
}

struct Session {
    stream: TcpStream,
    incoming: Receiver<Incoming>,
    debugger: BochsDebugger,
    cpus: u32,
    /// The CPU whose registers are shown.
    cpu: u32,
    breakpoints: HashMap<u64, u32>,
}

/// What follows a command.
enum Reply {
    Text(String),
    /// gdb leaves.
    Leave,
}

impl Session {
    fn run(&mut self) -> Result<()> {
        while let Ok(incoming) = self.incoming.recv() {
            let packet = match incoming {
                Incoming::Packet(packet) => packet,
                Incoming::Damaged => {
                    self.stream.write_all(b"-")?;
                    continue;
                }
                // The machine stands still already.
                Incoming::Interrupt => continue,
            };
            self.stream.write_all(b"+")?;
            match self.reply(&packet)? {
                Reply::Text(text) => self.stream.write_all(framed(&text).as_bytes())?,
                Reply::Leave => break,
            }
        }
        Ok(())
    }

    fn reply(&mut self, packet: &str) -> Result<Reply> {
        let (command, rest) = packet.split_at(packet.chars().next().map_or(0, char::len_utf8));
        let text = match command {
            "?" => self.stop_reply(),
            "g" => register_text(&self.debugger.registers()?),
            "m" => self.read_memory(rest)?,
            "M" => self.write_memory(rest)?,
            "Z" | "z" => self.breakpoint(command, rest)?,
            "c" => self.go("c")?,
            "s" => self.go("s")?,
            "H" => self.select(rest)?,
            "T" => "OK".into(),
            "D" | "k" => {
                self.stream.write_all(framed("OK").as_bytes())?;
                return Ok(Reply::Leave);
            }
            "q" => self.query(rest),
            // An empty answer means: not known here.
            _ => String::new(),
        };
        Ok(Reply::Text(text))
    }

    fn query(&self, query: &str) -> String {
        if query.starts_with("Supported") {
            format!("PacketSize={PACKET_SIZE}")
        } else if query == "C" {
            format!("QC{:x}", self.cpu + 1)
        } else if query == "fThreadInfo" {
            let threads: Vec<_> = (1..=self.cpus)
                .map(|thread| format!("{thread:x}"))
                .collect();
            format!("m{}", threads.join(","))
        } else if query == "sThreadInfo" {
            "l".into()
        } else if let Some(thread) = query.strip_prefix("ThreadExtraInfo,") {
            let cpu = u32::from_str_radix(thread, 16)
                .unwrap_or(1)
                .saturating_sub(1);
            hex(format!("CPU {cpu}").as_bytes())
        } else if query.starts_with("Attached") {
            "1".into()
        } else {
            String::new()
        }
    }

    fn stop_reply(&self) -> String {
        format!("T05thread:{:x};", self.cpu + 1)
    }

    /// `Hg2`: what follows concerns thread 2. Zero and -1 mean any.
    fn select(&mut self, rest: &str) -> Result<String> {
        let thread = rest
            .get(1..)
            .and_then(|text| u32::from_str_radix(text, 16).ok())
            .unwrap_or(0);
        if (1..=self.cpus).contains(&thread) && thread - 1 != self.cpu {
            self.cpu = thread - 1;
            self.debugger.command(&format!("set $cpu = {}", self.cpu))?;
        }
        Ok("OK".into())
    }

    fn read_memory(&mut self, rest: &str) -> Result<String> {
        let Some((address, bytes)) = address_and_length(rest) else {
            return Ok("E22".into());
        };
        let found = self.debugger.read(address, bytes.min(MAX_READ))?;
        Ok(if found.is_empty() {
            "E14".into()
        } else {
            hex(&found)
        })
    }

    fn write_memory(&mut self, rest: &str) -> Result<String> {
        let parsed = rest
            .split_once(':')
            .and_then(|(place, data)| Some((address_and_length(place)?, unhex(data)?)));
        let Some(((address, _), data)) = parsed else {
            return Ok("E22".into());
        };
        for (offset, byte) in (0u64..).zip(data) {
            if !self.debugger.write(address.wrapping_add(offset), byte)? {
                return Ok("E14".into());
            }
        }
        Ok("OK".into())
    }

    /// `Z0,addr,kind` and `Z1,...` alike: Bochs's breakpoints are never written into memory.
    fn breakpoint(&mut self, command: &str, rest: &str) -> Result<String> {
        let mut fields = rest.split(',');
        let (kind, address) = (fields.next(), fields.next());
        let address = address.and_then(|text| u64::from_str_radix(text, 16).ok());
        let (Some("0" | "1"), Some(address)) = (kind, address) else {
            return Ok(String::new());
        };
        if command == "Z" {
            if !self.breakpoints.contains_key(&address) {
                let number = self.debugger.set_breakpoint(address)?;
                self.breakpoints.insert(address, number);
            }
        } else if let Some(number) = self.breakpoints.remove(&address) {
            self.debugger.remove_breakpoint(number)?;
        }
        Ok("OK".into())
    }

    /// Lets the machine run until it stops by itself or gdb wants it to.
    fn go(&mut self, command: &str) -> Result<String> {
        self.debugger.send(command)?;
        loop {
            match self.debugger.poll(POLL) {
                Ok(Some(answer)) => {
                    self.cpu = stopped_cpu(&answer).unwrap_or(self.cpu);
                    return Ok(self.stop_reply());
                }
                Ok(None) => {}
                // The machine was switched off.
                Err(_) => return Ok("W00".into()),
            }
            match self.incoming.try_recv() {
                Ok(Incoming::Interrupt) => self.debugger.interrupt()?,
                Ok(_) | Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    return Err(TryRecvError::Disconnected).context("gdb is gone");
                }
            }
        }
    }
}

/// `addr,length`, both in hexadecimal.
fn address_and_length(text: &str) -> Option<(u64, usize)> {
    let (address, length) = text.split_once(',')?;
    Some((
        u64::from_str_radix(address, 16).ok()?,
        usize::from_str_radix(length, 16).ok()?,
    ))
}

/// The registers as gdb expects them of an x86-64 machine: general ones of 8 bytes, the rest of 4.
fn register_text(registers: &Registers) -> String {
    let mut text = String::new();
    for register in registers.general {
        text += &hex(&register.to_le_bytes());
    }
    text += &hex(&registers.eflags.to_le_bytes());
    for segment in registers.segments {
        text += &hex(&segment.to_le_bytes());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_the_widths_that_gdb_expects() {
        let mut general = [0; 17];
        general[16] = 0xffff_ffff_8000_1234;
        let registers = Registers {
            general,
            eflags: 2,
            segments: [8, 0, 0, 0, 0, 0],
        };
        let text = register_text(&registers);
        assert_eq!(text.len(), (17 * 8 + 7 * 4) * 2);
        assert_eq!(
            &text[16 * 16..16 * 16 + 16 + 8 + 8],
            "34120080ffffffff0200000008000000"
        );
    }

    #[test]
    fn an_address_and_a_length_are_read_in_hexadecimal() {
        assert_eq!(
            address_and_length("ffffffff80000000,1f"),
            Some((0xffff_ffff_8000_0000, 31))
        );
        assert_eq!(address_and_length("10"), None);
    }
}
