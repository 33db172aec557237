//! `halted`: prints a line and halts with interrupts off, for ever; no `DONE` line.

#![no_std]
#![no_main]

use plinth_guests::{Report, StartInfo, guest, println, x86};

guest!(main);

fn main(_: &mut Report, _: StartInfo) {
    println!("halted: nothing wakes this machine");
    loop {
        x86!("cli", "hlt");
    }
}
