//! Bochs's own debugger as a program to talk to: commands go in, text up to the next prompt comes out.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long a command other than `c` may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The debugger of a running Bochs.
#[derive(Debug)]
pub struct BochsDebugger {
    pid: Pid,
    input: ChildStdin,
    answers: Receiver<String>,
}

/// A processor's registers in the order in which gdb wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15, rip.
    pub general: [u64; 17],
    /// The flags.
    pub eflags: u32,
    /// cs, ss, ds, es, fs, gs.
    pub segments: [u32; 6],
}

const GENERAL: [&str; 17] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip",
];
const SEGMENTS: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];

impl BochsDebugger {
    /// Takes over the debugger, and waits for its first prompt.
    pub fn start(pid: u32, input: ChildStdin, output: ChildStdout) -> Result<Self> {
        let (sender, answers) = channel();
        std::thread::Builder::new()
            .name("bochs".into())
            .spawn(move || {
                let mut output = output;
                let mut text = String::new();
                let mut buffer = [0; 4096];
                while let Ok(count) = output.read(&mut buffer) {
                    if count == 0 {
                        return;
                    }
                    text.push_str(&String::from_utf8_lossy(&buffer[..count]));
                    if ends_with_prompt(&text) && sender.send(std::mem::take(&mut text)).is_err() {
                        return;
                    }
                }
            })?;
        let debugger = Self {
            pid: Pid::from_raw(i32::try_from(pid)?),
            input,
            answers,
        };
        debugger.answer()?;
        Ok(debugger)
    }

    /// Sends a command, and does not wait.
    pub fn send(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}").context("Bochs is gone")
    }

    /// Sends a command and waits for its answer.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.send(command)?;
        self.answer()
    }

    fn answer(&self) -> Result<String> {
        match self.poll(PATIENCE)? {
            Some(answer) => Ok(answer),
            None => bail!("Bochs's debugger does not answer"),
        }
    }

    /// An answer, if it comes within this time.
    pub fn poll(&self, patience: Duration) -> Result<Option<String>> {
        match self.answers.recv_timeout(patience) {
            Ok(answer) => Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("Bochs has ended"),
        }
    }

    /// Stops a machine that runs; the answer to the command that let it run follows.
    pub fn interrupt(&self) -> Result<()> {
        kill(self.pid, Signal::SIGINT).context("Bochs is gone")
    }

    /// The registers of the current CPU.
    pub fn registers(&mut self) -> Result<Registers> {
        let text = self.command("r")? + &self.command("sreg")?;
        parse_registers(&text).context("Bochs shows its registers in an unknown form")
    }

    /// Memory at a linear address, as far as it can be read.
    pub fn read(&mut self, address: u64, bytes: usize) -> Result<Vec<u8>> {
        let answer = self.command(&format!("x /{bytes}bx {address:#x}"))?;
        Ok(parse_memory(&answer))
    }

    /// Changes one byte at a linear address; false where nothing is mapped there.
    pub fn write(&mut self, address: u64, byte: u8) -> Result<bool> {
        let answer = self.command(&format!("page {address:#x}"))?;
        let Some(page) = parse_page(&answer) else {
            return Ok(false);
        };
        let physical = page | (address & 0xfff);
        self.command(&format!("setpmem {physical:#x} 1 {byte:#x}"))?;
        Ok(true)
    }

    /// Sets a breakpoint, and says under which number.
    pub fn set_breakpoint(&mut self, address: u64) -> Result<u32> {
        self.command(&format!("lb {address:#x}"))?;
        let list = self.command("blist")?;
        parse_breakpoint(&list, address).context("Bochs does not list its new breakpoint")
    }

    /// Removes a breakpoint.
    pub fn remove_breakpoint(&mut self, number: u32) -> Result<()> {
        self.command(&format!("d {number}")).map(drop)
    }
}

/// Whether the last line is a prompt, as in `<bochs:12> `.
fn ends_with_prompt(text: &str) -> bool {
    let last = text.rsplit('\n').next().unwrap_or_default();
    last.strip_prefix("<bochs:")
        .and_then(|rest| rest.strip_suffix("> "))
        .is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

/// The CPU on which the machine stopped, from the line with its next instruction: `(1) [0x...] ...`.
#[must_use]
pub fn stopped_cpu(answer: &str) -> Option<u32> {
    answer
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix('(')?.split_once(") [")?.0.parse().ok())
}

fn parse_registers(text: &str) -> Option<Registers> {
    let general = |name: &str| {
        text.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            if found.trim() != name {
                return None;
            }
            u64::from_str_radix(&value.trim().replace('_', ""), 16).ok()
        })
    };
    let segment = |name: &str| {
        text.lines().find_map(|line| {
            let value = line
                .strip_prefix(name)?
                .strip_prefix(":0x")?
                .split(',')
                .next()?;
            u32::from_str_radix(value, 16).ok()
        })
    };
    let eflags = text.lines().find_map(|line| {
        let value = line.strip_prefix("eflags 0x")?.split(':').next()?;
        u32::from_str_radix(value, 16).ok()
    })?;
    let mut registers = Registers {
        general: [0; 17],
        eflags,
        segments: [0; 6],
    };
    for (place, name) in registers.general.iter_mut().zip(GENERAL) {
        *place = general(name)?;
    }
    for (place, name) in registers.segments.iter_mut().zip(SEGMENTS) {
        *place = segment(name)?;
    }
    Some(registers)
}

/// The bytes in the answer to `x /NNbx`, up to the first that could not be read.
fn parse_memory(answer: &str) -> Vec<u8> {
    answer
        .lines()
        .filter_map(|line| line.split_once(">:").map(|(_, bytes)| bytes))
        .flat_map(str::split_whitespace)
        .map_while(|byte| u8::from_str_radix(byte.strip_prefix("0x")?, 16).ok())
        .collect()
}

/// The physical page in the answer to `page`.
fn parse_page(answer: &str) -> Option<u64> {
    let (_, address) = answer.split_once("maps to physical page 0x")?;
    let digits = address.split_whitespace().next()?;
    u64::from_str_radix(digits, 16).ok()
}

/// The number of the newest breakpoint at `address` in the answer to `blist`.
fn parse_breakpoint(answer: &str, address: u64) -> Option<u32> {
    answer.lines().rev().find_map(|line| {
        let mut words = line.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let found = words.last()?.strip_prefix("0x")?;
        (u64::from_str_radix(found, 16).ok()? == address).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_recognised_only_when_it_is_whole() {
        assert!(ends_with_prompt("text\n<bochs:12> "));
        for text in ["text\n<bochs:12", "<bochs:> ", "text\n<bochs:1> x", ""] {
            assert!(!ends_with_prompt(text), "{text}");
        }
    }

    #[test]
    fn registers_are_put_into_the_order_of_gdb() {
        let mut text = String::from("CPU0:\n");
        for (index, name) in GENERAL.iter().enumerate() {
            text += &format!("{name:3}: ffffffff_{index:08x}\n");
        }
        text += "eflags 0x00000082: id vip\n";
        text += "es:0x0010, dh=0x1, dl=0x2, valid=1\n\tData segment, base=0x0\ncs:0x0008, dh\nss:0x0018, dh\n\
                 ds:0x0020, dh\nfs:0x0000, dh\ngs:0x002b, dh\nldtr:0x0000, dh\n";
        let registers = parse_registers(&text).unwrap();
        assert_eq!(registers.general[7], 0xffff_ffff_0000_0007);
        assert_eq!(registers.general[16], 0xffff_ffff_0000_0010);
        assert_eq!(registers.eflags, 0x82);
        assert_eq!(registers.segments, [0x08, 0x18, 0x20, 0x10, 0, 0x2b]);
        assert_eq!(parse_registers("rax: 0"), None);
    }

    #[test]
    fn memory_ends_where_it_cannot_be_read() {
        let answer = "[bochs]:\n0x00000000000ffff0 <bogus+       0>:\t0xea\t0x5b\n\
                      0x0000000000100000 <bogus+       2>:bx_dbg_read_linear: physical memory read error\n<bochs:3> ";
        assert_eq!(parse_memory(answer), [0xea, 0x5b]);
    }

    #[test]
    fn the_physical_page_and_the_breakpoint_are_found() {
        let page = " PTE: 0x1\nlinear page 0xffffffff80000000 maps to physical page 0x000001001000\n<bochs:2> ";
        assert_eq!(parse_page(page), Some(0x100_1000));
        let list = "Num Type           Disp Enb Address\n  1 lbreakpoint    keep y   0xffffffff80000000 \n\
                    \x20 2 lbreakpoint    keep y   0x0000000000007c00 \n<bochs:5> ";
        assert_eq!(parse_breakpoint(list, 0x7c00), Some(2));
        assert_eq!(parse_breakpoint(list, 0x7c01), None);
    }

    #[test]
    fn the_cpu_that_stopped_is_found() {
        let answer = "(1) Breakpoint 2, 0x7c00 in ?? ()\nNext at t=5\n(1) [0x000001001000] 0008:1 (unk. ctxt): nop\n<bochs:";
        assert_eq!(stopped_cpu(answer), Some(1));
    }
}
