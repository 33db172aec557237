//! Takes samples of a machine through Bochs's debugger.

use super::stack::Unwinder;
use crate::emulator::{Debugger, Machine};
use crate::gdb::bochs::BochsDebugger;
use crate::paths::Paths;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::time::Duration;

/// One look at the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Where it was.
    pub rip: u64,
    /// RSP, and the words from there on; nothing outside of the hypervisor.
    pub rsp: u64,
    /// The words of the stack.
    pub stack: Vec<u64>,
}

/// Words of the stack that are looked at.
const STACK_WORDS: u32 = 256;

/// The longest time that the ticks between two samples may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far apart samples are, and how many there are at most.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Ticks between two samples.
    pub every_ticks: u64,
    /// Ticks from the hypervisor's first instruction to the first sample.
    pub skip_ticks: u64,
    /// No more than this.
    pub samples: u32,
}

/// Runs the machine from the hypervisor's first instruction to its end, or until there are enough samples.
pub fn take(
    paths: &Paths,
    machine: Machine,
    rate: Rate,
    hypervisor: &Unwinder,
) -> Result<Vec<Sample>> {
    let machine = Machine {
        // The port is nobody's: the debugger is ours.
        debugger: Debugger::Gdb { port: 0 },
        ..machine
    };
    let mut running = machine.spawn(paths)?;
    // What the guests say does not matter, but somebody has to take it.
    let mut serial = running.serial()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while serial.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    let (input, output) = running
        .take_debugger()
        .context("profiles are taken by Bochs's debugger: use --engine bochs")?;
    let mut debugger = BochsDebugger::start(running.pid(), input, output)?;
    let entry = debugger.set_breakpoint(hypervisor.entry())?;
    debugger.send("c")?;
    if !matches!(debugger.poll(PATIENCE)?, Some(answer) if place(&answer) == Some(hypervisor.entry()))
    {
        bail!("the machine did not come to the hypervisor's first instruction");
    }
    debugger.remove_breakpoint(entry)?;
    let mut samples = Vec::new();
    let mut ticks = rate.every_ticks + rate.skip_ticks;
    for _ in 0..rate.samples {
        // A machine that is off has no debugger any more: that ends the profile.
        if debugger.command(&format!("sb {ticks}")).is_err() || debugger.send("c").is_err() {
            break;
        }
        ticks = rate.every_ticks;
        let Ok(Some(answer)) = debugger.poll(PATIENCE) else {
            break;
        };
        let Some(rip) = place(&answer) else {
            continue;
        };
        let mut sample = Sample {
            rip,
            rsp: 0,
            stack: Vec::new(),
        };
        if hypervisor.is_code(rip) {
            let answer = debugger.command(&format!("print-stack {STACK_WORDS}"))?;
            (sample.rsp, sample.stack) = stack(&answer);
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// Where the machine is, by the line with its next instruction: `(0) [0x...] 0008:ffffffff80001000 (...): ...`.
fn place(answer: &str) -> Option<u64> {
    answer.lines().rev().find_map(|line| {
        let (_, rest) = line.strip_prefix('(')?.split_once("] ")?;
        let (selector_and_offset, _) = rest.split_once(' ')?;
        let (_, offset) = selector_and_offset.split_once(':')?;
        u64::from_str_radix(offset, 16).ok()
    })
}

/// The stack pointer and the words there, by lines like ` | STACK 0xffffe00000001000 [0x00000000:0x80001234] (...)`.
fn stack(answer: &str) -> (u64, Vec<u64>) {
    let mut at = None;
    let mut words = Vec::new();
    for line in answer.lines() {
        let Some((_, rest)) = line.split_once("STACK 0x") else {
            continue;
        };
        let Some((address, rest)) = rest.split_once(" [0x") else {
            continue;
        };
        let Some((word, _)) = rest.split_once(']') else {
            continue;
        };
        let word = word.replace(":0x", "");
        let (Ok(address), Ok(word)) = (
            u64::from_str_radix(address, 16),
            u64::from_str_radix(&word, 16),
        ) else {
            break;
        };
        at.get_or_insert(address);
        words.push(word);
    }
    (at.unwrap_or(0), words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_read_from_the_next_instruction() {
        let answer = "(0) Caught time breakpoint\nNext at t=1000\n\
                      (0) [0x00000840def8] 0010:ffffffffb9c0def8 (unk. ctxt): jmp .+6 ; eb06\n<bochs:3> ";
        assert_eq!(place(answer), Some(0xffff_ffff_b9c0_def8));
        assert_eq!(
            place("(0) [0x0000000f1b4f] f000:1b4f (unk. ctxt): push bx ; 53"),
            Some(0x1b4f)
        );
        assert_eq!(place("Next at t=1000"), None);
    }

    #[test]
    fn the_stack_is_read_word_by_word() {
        let answer = "Stack address size 8\n \
                      | STACK 0xffffe00000001000 [0xffffffff:0x80001234] (<unknown>)\n \
                      | STACK 0xffffe00000001008 [0x00000000:0x00000007] (<unknown>)\n";
        assert_eq!(
            stack(answer),
            (0xffff_e000_0000_1000, vec![0xffff_ffff_8000_1234, 7])
        );
    }
}
