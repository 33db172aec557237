//! `hostile`: does what a guest must not get away with, one topic of it by the command line, beside a `victim`.
//!
//! The topics in [`SWEEPS`] can be survived: they write to everything that is not their own memory, over and over
//! with other numbers, and say each time that they are through. Those in [`ENDS`] ruin their own machine, and are
//! only to take nobody with them. Those in [`storms`] go on for ever.

#![no_std]
#![no_main]

mod a20;
mod apic;
mod fuzz;
mod memory;
mod ports;
mod processor;
mod ruin;
mod segments;
mod siblings;
mod storms;

use plinth_guests::cpu::rdtsc;
use plinth_guests::exceptions::set_handler;
use plinth_guests::random::Random;
use plinth_guests::{Report, StartInfo, guest, println, serial};

guest!(main);

/// One pass through a topic.
type Sweep = fn(&mut Random);

/// What can be done again and again.
const SWEEPS: &[(&str, Sweep)] = &[
    ("ports", ports::sweep),
    ("memory", memory::sweep),
    ("apic", apic::sweep),
    ("msrs", processor::msrs),
    ("registers", processor::registers),
    ("calls", processor::calls),
    ("segments", segments::sweep),
    ("fuzz", fuzz::instructions),
];

/// What ends the machine, in one way or another.
const ENDS: &[(&str, fn())] = &[
    ("idt-in-device", ruin::idt_in_device),
    ("idt-in-nothing", ruin::idt_in_nothing),
    ("idt-of-garbage", ruin::idt_of_garbage),
    ("gdt-in-device", ruin::gdt_in_device),
    ("gdt-of-garbage", segments::gdt_of_garbage),
    ("ldt-in-device", segments::ldt_in_device),
    ("tss-in-device", ruin::tss_in_device),
    ("stack-in-device", ruin::stack_in_device),
    ("code-in-device", ruin::code_in_device),
    ("tables-in-device", ruin::tables_in_device),
    ("tables-in-nothing", ruin::tables_in_nothing),
    ("tables-of-garbage", ruin::tables_of_garbage),
    ("tables-of-themselves", ruin::tables_of_themselves),
    ("init-to-itself", ruin::init_to_itself),
    ("doors", ports::doors),
];

/// What goes on for ever.
const STORMS: &[(&str, fn())] = &[
    ("exits", storms::exits),
    ("interrupts-to-itself", storms::self_ipi),
    ("nmis-to-itself", storms::self_nmi),
    ("calls-among-siblings", storms::calls_among_siblings),
    ("timer-of-one-tick", storms::timer),
    ("line-never-acknowledged", storms::line),
    ("halts", storms::halts),
    ("console", storms::console),
    ("page-faults", storms::faults),
    ("device-strings", storms::strings),
    ("resets", storms::resets),
    ("siblings", siblings::fight),
    ("a20", a20::toggle),
];

/// Passes through a topic: the first finds what is wrong at once, the others what needs luck.
const USUAL_PASSES: u64 = 1;

fn main(_: &mut Report, start: StartInfo) {
    // An NMI is one of the things that it may have asked for.
    set_handler(2, Some(|_| ()));
    for vector in 32..=255 {
        set_handler(vector, Some(storms::acknowledge));
    }
    let topic = start.command_line().unwrap_or_default();
    let topic = topic.split_ascii_whitespace().next().unwrap_or_default();
    println!("hostile: {topic}");
    if let Some((_, sweep)) = SWEEPS.iter().find(|(name, _)| *name == topic) {
        let seed = start.number("seed").unwrap_or(1);
        for pass in 0..start.number("passes").unwrap_or(USUAL_PASSES) {
            let mut random = Random::new(seed + pass);
            sweep(&mut random);
            // The port may be in any state by now.
            serial::init();
            println!("hostile: {topic} done at {} ticks", rdtsc());
        }
        return;
    }
    if let Some((_, end)) = ENDS.iter().find(|(name, _)| *name == topic) {
        end();
        println!("hostile: {topic} has not ended the machine");
        return;
    }
    match STORMS.iter().find(|(name, _)| *name == topic) {
        Some((_, storm)) => storm(),
        None => println!("hostile: there is no such topic"),
    }
}
