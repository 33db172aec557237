//! `spin`: one line, then a jump to itself with interrupts off. Only the hypervisor gets the CPU back.
//!
//! With `cpus=N` on the command line, so many CPUs do that. What stands behind `say ` there is sent before, byte for byte.

#![no_std]
#![no_main]

use plinth_guests::siblings::Waits;
use plinth_guests::{Report, StartInfo, guest, println, serial, siblings, x86};

guest!(main);

fn spin() -> ! {
    x86!("cli", "2: jmp 2b", options(noreturn));
}

fn main(_: &mut Report, start: StartInfo) {
    let words = start.command_line().unwrap_or_default();
    if let Some((_, words)) = words.split_once("say ") {
        serial::send(words.as_bytes());
    }
    match start.number("cpus") {
        None | Some(0 | 1) => println!("spin: entering a tight loop"),
        Some(cpus) => {
            let others = siblings::start_with(Waits::NONE, cpus as u32 - 1, |_| spin());
            println!("spin: {} CPUs", others + 1);
        }
    }
    spin();
}
