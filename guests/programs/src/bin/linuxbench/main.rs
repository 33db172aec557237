//! `linuxbench`: the first program of a Linux; it times what programs do.
//!
//! It notes the time at its first instruction, does everything, and only then prints: the console's interrupts would
//! be in the way. The lines are those of the guest `bench`: `BENCH name minimum median`, in ticks of the TSC, but what
//! is longer than the period of the kernel's timer tells its mean; `boot` is the TSC at the first instruction.

#![no_std]
#![no_main]

mod cases;
mod sha256;
mod system;
mod vdso;

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};

#[cfg(target_os = "none")]
global_asm!(
    ".global program_entry",
    "program_entry:",
    "rdtsc",
    "shl rdx, 32",
    "lea rdi, [rax + rdx]",
    "mov rsi, rsp",
    "and rsp, -16",
    "call linux_main",
    "ud2",
);

/// What a child is told that has only to end: the measured `execve`.
const EXIT: &core::ffi::CStr = c"--exit";

/// All that is going to be printed.
struct Text {
    bytes: [u8; 4096],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let place = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Takes the samples of a measurement, and prints its line.
struct Measure {
    text: Text,
}

/// The most samples.
const SAMPLES: usize = 303;
/// Ticks between two interrupts of the kernel's timer: 250 in a second of 20 million.
const TIMER_TICKS: u64 = 80_000;
/// By how much of that each sample begins later than the one before: the golden section, with which any number of
/// samples is spread evenly.
const PHASE_TICKS: u64 = 49_443;

impl Measure {
    fn line(&mut self, name: &str, minimum: u64, figure: u64) {
        // A full buffer would be a mistake here: the reader misses the line and says so.
        let _ = writeln!(self.text, "BENCH {name} {minimum} {figure}");
    }

    /// Takes `count` samples, after two that only warm up, of what is so short that the timer seldom interrupts it:
    /// the figure is their median.
    fn samples(&mut self, name: &str, count: usize, sample: impl FnMut() -> u64) {
        let mut taken = [0; SAMPLES];
        let taken = &mut taken[..count.min(SAMPLES)];
        take(taken, sample);
        taken.sort_unstable();
        self.line(name, taken[0], taken[taken.len() / 2]);
    }

    /// The same of what takes longer than the timer's period, and is `each` of the things: the figure is the mean.
    ///
    /// An interrupt of the timer is a part of what such things cost. A sample has a whole number of them, and one more
    /// or less is up to 1.5 % of it: the median says which number is met more often, and that is the samples' phase
    /// and not their cost. The sum has as many as its length says, since its samples begin at all phases.
    fn long_samples(&mut self, name: &str, count: usize, each: u64, sample: impl FnMut() -> u64) {
        let mut taken = [0; SAMPLES];
        let taken = &mut taken[..count.min(SAMPLES)];
        take(taken, sample);
        let minimum = taken.iter().min().map_or(0, |least| least / each);
        let all = each * taken.len() as u64;
        self.line(name, minimum, (taken.iter().sum::<u64>() + all / 2) / all);
    }
}

/// Fills `taken` with samples that begin at all phases of the timer, one after the other.
fn take(taken: &mut [u64], mut sample: impl FnMut() -> u64) {
    for _ in 0..2 {
        sample();
    }
    for (place, number) in taken.iter_mut().zip(0..) {
        let phase = number * PHASE_TICKS % TIMER_TICKS;
        let now = ticks();
        let begin = now + (TIMER_TICKS + phase - now % TIMER_TICKS) % TIMER_TICKS;
        while ticks() < begin {}
        *place = sample();
    }
}

/// The time.
fn ticks() -> u64 {
    // SAFETY: RDTSC only reads.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[unsafe(no_mangle)]
extern "C" fn linux_main(start: u64, stack: *const u64) -> ! {
    // SAFETY: the kernel's layout of a new stack: count, arguments, 0, environment, 0, auxiliary vector.
    let (count, second) = unsafe { (*stack, *stack.add(2)) };
    // SAFETY: with two arguments the second is a string.
    if count == 2 && unsafe { core::ffi::CStr::from_ptr(second as *const _) } == EXIT {
        system::exit(0);
    }
    let mut measure = Measure {
        text: Text {
            bytes: [0; 4096],
            length: 0,
        },
    };
    measure.line("boot", start, start);
    cases::all(&mut measure, vdso::clock_gettime(stack));
    let _ = writeln!(measure.text, "DONE 1 passed, 0 failed");
    system::write(1, &measure.text.bytes[..measure.text.length]);
    system::power_off();
    loop {
        // SAFETY: waits a little; the machine goes off meanwhile, or whoever runs it has seen the last line.
        unsafe { asm!("pause") };
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    system::write(1, b"linuxbench: something it needs is not there\n");
    system::exit(0)
}
