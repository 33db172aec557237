//! `spin`: one line, then a jump to itself with interrupts off. Only the hypervisor gets the CPU back.

#![no_std]
#![no_main]

use plinth_guests::{Report, StartInfo, guest, println, x86};

guest!(main);

fn main(_: &mut Report, _: StartInfo) {
    println!("spin: entering a tight loop");
    x86!("cli", "2: jmp 2b", options(noreturn));
}
