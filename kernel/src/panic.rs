//! The end of the hypervisor by a bug of its own, or an error of the hardware: stop the other CPUs, say what is known, switch off.
//!
//! No guest input may lead here. The epitaph goes to serial port and screen, without any allocation and
//! without waiting for anybody's lock for longer than a moment.

use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ::memory::HostVirt;
use spin::Once;
use x86_64::instructions::interrupts;
use x86_64::registers::control::Cr2;

use crate::cpu::exceptions::TrapFrame;
use crate::cpu::machine_check;
use crate::cpu::{self, apic, this};
use crate::hw::console::{self, Seized};
use crate::hw::{clock, power};
use crate::memory;

/// Return addresses shown at most.
const BACKTRACE_LINES: usize = 16;
/// Stack words looked through for them.
const BACKTRACE_WORDS: u64 = 1024;
const NOBODY: u32 = u32::MAX;

/// The CPU that panicked first; the others stop.
static PANICKING: AtomicU32 = AtomicU32::new(NOBODY);
/// Whether the epitaph is being written: a second panic on the same CPU meanwhile ends at once.
static WRITING: AtomicBool = AtomicBool::new(false);
/// Writes down the last exits of this CPU.
static LAST_EXITS: Once<fn(&mut dyn Write) -> fmt::Result> = Once::new();

/// Names the function that writes down the last exits of the CPU that it runs on. It must not wait for any
/// lock.
pub(crate) fn set_last_exits(write: fn(&mut dyn Write) -> fmt::Result) {
    LAST_EXITS.call_once(|| write);
}

/// Called for each NMI: stops this CPU if another one is panicking.
pub(crate) fn stop_if_panicking() {
    let panicking = PANICKING.load(Ordering::Acquire);
    if panicking != NOBODY && panicking != this().id().0 {
        cpu::halt_forever();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let stack: u64;
    // SAFETY: only reads the stack pointer.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nostack, nomem, preserves_flags)) };
    epitaph(Cause::Bug, stack, |out| {
        if let Some(location) = info.location() {
            writeln!(
                out,
                "{} at {}:{}",
                info.message(),
                location.file(),
                location.line()
            )
        } else {
            writeln!(out, "{}", info.message())
        }
    })
}

/// Ends everything because of an exception in the hypervisor.
#[cold]
pub(crate) fn by_exception(name: &str, error_code: u64, frame: &TrapFrame) -> ! {
    epitaph(Cause::Bug, frame.rsp, |out| {
        writeln!(
            out,
            "exception {name}, error code {error_code:#x}, at {:#x}",
            frame.rip
        )?;
        let address = HostVirt::new(Cr2::read_raw());
        if this()
            .stacks()
            .is_some_and(|stacks| stacks.overflowed_to(address))
        {
            writeln!(out, "  a stack of this CPU has overflowed")?;
        }
        writeln!(out, "{frame}")
    })
}

/// Ends everything because of a machine check: in the hypervisor, which has this state, or in a guest.
#[cold]
pub(crate) fn by_machine_check(
    registers: &machine_check::Registers,
    frame: Option<&TrapFrame>,
) -> ! {
    let stack = frame.map_or(0, |frame| frame.rsp);
    epitaph(Cause::Hardware, stack, |out| match frame {
        Some(frame) => writeln!(
            out,
            "exception #MC at {:#x}\n{registers}\n{frame}",
            frame.rip
        ),
        None => writeln!(out, "exception #MC in a guest\n{registers}"),
    })
}

/// Whose fault it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Bug,
    Hardware,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bug => "this is a bug in Plinth",
            Self::Hardware => "the processor reports an error of the hardware",
        })
    }
}

/// Writes the epitaph and ends the machine. `what` writes the first lines, `stack` is where the backtrace
/// begins.
fn epitaph(cause: Cause, stack: u64, what: impl FnOnce(&mut Seized) -> fmt::Result) -> ! {
    interrupts::disable();
    let here = this().id();
    if let Err(first) =
        PANICKING.compare_exchange(NOBODY, here.0, Ordering::AcqRel, Ordering::Acquire)
        && first != here.0
    {
        // Another CPU has the word.
        cpu::halt_forever();
    }
    if WRITING.swap(true, Ordering::Relaxed) {
        // A panic while the epitaph was written. Nothing that is shown could be relied on.
        power::stop_and_show();
    }
    apic::send_nmi_to_others();
    // SAFETY: the other CPUs stop, and this one never returns.
    let mut out = unsafe { console::seize() };
    // The console takes everything; there is nobody to tell if it does not.
    let _ = write_epitaph(&mut out, cause, stack, what);
    out.drain();
    drop(out);
    power::stop_and_show()
}

fn write_epitaph(
    out: &mut Seized,
    cause: Cause,
    stack: u64,
    what: impl FnOnce(&mut Seized) -> fmt::Result,
) -> fmt::Result {
    let now_us = clock::now_ns() / 1000;
    let (seconds, fraction) = (now_us / 1_000_000, now_us % 1_000_000);
    // The test harness waits for the first two words.
    writeln!(
        out,
        "plinth: panic on CPU {} after {seconds}.{fraction:06} s: {cause}",
        this().id()
    )?;
    what(out)?;
    write_backtrace(out, stack)?;
    if let Some(write) = LAST_EXITS.get() {
        writeln!(out, "last exits on this CPU:")?;
        write(out)?;
    }
    writeln!(out, "plinth: panic ends")
}

/// Writes everything on the stack that looks like a return address. Stale ones may be among them: the code
/// is compiled without frame pointers.
fn write_backtrace(out: &mut Seized, from: u64) -> fmt::Result {
    let stacks = this().stacks();
    let Some((from, end)) = stacks.and_then(|stacks| stacks.words_from(HostVirt::new(from))) else {
        return writeln!(out, "  no backtrace: {from:#x} is on no stack of this CPU");
    };
    writeln!(
        out,
        "code addresses on the stack, innermost first (addr2line -f -i -e plinth-kernel):"
    )?;
    let (from, end) = (
        from.as_u64(),
        end.as_u64().min(from.as_u64() + BACKTRACE_WORDS * 8),
    );
    let mut lines = 0;
    for at in (from..end).step_by(8) {
        // SAFETY: the address is a multiple of 8 on a mapped stack.
        let value = unsafe { (at as *const u64).read_volatile() };
        if memory::is_text(value) {
            write!(out, " {value:#x}")?;
            lines += 1;
            if lines == BACKTRACE_LINES {
                break;
            }
        }
    }
    writeln!(out)
}
