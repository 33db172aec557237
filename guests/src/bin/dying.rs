//! `dying`: says what a Linux kernel says that has panicked, and then turns in a circle for ever, as that does.
//!
//! With the words `but-halts`, `but-talks` or `but-runs` on its command line it has only shown somebody's old log: it
//! waits for interrupts, says something, or runs a program for longer than a dead kernel is waited for, and ends well.

#![no_std]
#![no_main]

use plinth_guests::apic::{self, register};
use plinth_guests::cpu::{cpuid, rdtsc};
use plinth_guests::exceptions::set_handler;
use plinth_guests::{Report, StartInfo, guest, println, user, x86};

guest!(main);

const TIMER_VECTOR: u8 = 0x41;
/// What is far longer than the silence of a dead kernel.
const WHILE_S: u64 = 6;

fn main(_: &mut Report, start: StartInfo) {
    println!(
        "[    0.500000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"
    );
    println!("[    0.510000] Kernel Offset: disabled");
    println!(
        "[    0.520000] ---[ end Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100 ]---"
    );
    let word = start.command_line().unwrap_or("");
    if word.contains("but-talks") {
        println!("dying: that was the old log");
    }
    // The APIC's timer goes on, as the kernel's does.
    let leaf = cpuid(0x15, 0);
    let hz = u64::from(leaf.ecx);
    let tsc_hz = hz * u64::from(leaf.ebx) / u64::from(leaf.eax.max(1));
    apic::enable();
    set_handler(TIMER_VECTOR, Some(|_| apic::end_of_interrupt()));
    apic::set(register::DIVIDE, 0b1011);
    apic::set(
        register::LVT_TIMER,
        apic::PERIODIC | u32::from(TIMER_VECTOR),
    );
    apic::set(register::INITIAL_COUNT, (hz / 250) as u32);
    let until = match word {
        "" => u64::MAX,
        _ => rdtsc() + WHILE_S * tsc_hz,
    };
    while rdtsc() < until {
        if word.contains("but-halts") {
            x86!("sti", "hlt", "cli");
        } else if word.contains("but-runs") {
            // It counts RCX down.
            let start = user::Start {
                registers: [100_000, 0, 0],
                ..user::Start::default()
            };
            let _ = user::run(&[0xff, 0xc9, 0x75, 0xfc, 0xcd, 0xf0], start);
        } else {
            x86!("sti", "pause", "pause", "cli");
        }
    }
    println!("dying: it was somebody's old log");
}
