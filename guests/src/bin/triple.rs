//! `triple`: a deliberate triple fault. Its line must appear, its `DONE` must not.

#![no_std]
#![no_main]

use plinth_guests::descriptors::TablePointer;
use plinth_guests::{Report, StartInfo, guest, println, x86};

guest!(main);

fn main(_: &mut Report, _: StartInfo) {
    println!("triple: about to triple fault");
    // No gate is inside this IDT: #UD finds none, nor does #GP, nor #DF.
    let nothing = TablePointer { limit: 0, base: 0 };
    x86!("lidt [{}]", "ud2", in(reg) &nothing);
    println!("FAIL triple-fault-stops-the-machine: the guest is still here");
}
