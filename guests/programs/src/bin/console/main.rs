//! `console PROGRAM ARGUMENTS...`: gives a program a terminal whose size follows that of the window at the other end of a
//! serial line.
//!
//! The program gets a pseudo-terminal; what is typed at the serial line goes there, and what the program says comes back.
//! The reports of the window's size that come between the keys ([`Input`]) do not: they become the size of the
//! pseudo-terminal, of which the kernel then tells whatever runs in it (SIGWINCH). Where there are no pseudo-terminals,
//! the program gets the serial line itself.
//!
//! [`system`] has the calls that all that needs.

#![no_std]
#![no_main]

mod system;

use core::arch::global_asm;
use core::ffi::c_char;
use plinth_programs::window::{ASK, ASK_NO_MORE, Input, PATIENCE_MS};
use system::{Descriptor, Got, Program, Pty, Ready, Terminal};

#[cfg(target_os = "none")]
global_asm!(
    ".globl program_entry",
    "program_entry:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call console_main",
    "ud2",
);

/// How much is passed on at a time. Between two pieces of what a program says, keys are looked at: Ctrl-C is not to wait.
const PIECE: usize = 1024;

#[unsafe(no_mangle)]
extern "C" fn console_main(stack: *const u64) -> ! {
    // SAFETY: the kernel's layout of a new stack: count, arguments, 0, environment, 0.
    let (count, arguments) = unsafe { (*stack as usize, stack.add(1).cast::<*const c_char>()) };
    if count < 2 {
        Descriptor::ERROR.write(b"console: PROGRAM ARGUMENTS...\n");
        system::exit(1);
    }
    // SAFETY: all of that lives as long as this program.
    let program = unsafe { Program::new(arguments.add(1), arguments.add(count + 1)) };
    let Some(pty) = Pty::open() else {
        program.become_it();
    };
    pty.resize_like(Descriptor::INPUT);
    let before = Terminal::of(Descriptor::INPUT);
    if let Some(before) = &before {
        before.raw().set(Descriptor::INPUT);
    }
    let Some(child) = system::fork() else {
        program.become_it();
    };
    if child == 0 {
        if pty.enter() {
            program.become_it();
        }
        system::exit(1);
    }
    pty.leave_to_other();
    Descriptor::OUTPUT.write(ASK);
    pass_on(&pty);
    Descriptor::OUTPUT.write(ASK_NO_MORE);
    if let Some(before) = &before {
        before.set(Descriptor::INPUT);
    }
    system::wait(child);
    system::exit(0)
}

/// Passes everything on until nobody has the pseudo-terminal any more, or nobody types.
fn pass_on(pty: &Pty) {
    let mut input = Input::new();
    let mut keys = Keys::new();
    let mut piece = [0; PIECE];
    loop {
        let patience = input.holds_back().then_some(PATIENCE_MS);
        let wants_keys = keys.is_empty();
        let Some(ready) = Ready::wait(pty, wants_keys, patience) else {
            input.give_up(|typed| keys.add(typed));
            keys.pass_on(pty);
            continue;
        };
        // What waits goes first: there is no room for more.
        keys.pass_on(pty);
        if ready.keys && wants_keys {
            match Descriptor::INPUT.read(&mut piece[..PIECE / 2]) {
                Got::Bytes(count) => {
                    for byte in &piece[..count] {
                        if let Some(size) = input.push(*byte, |typed| keys.add(typed)) {
                            pty.resize(size);
                        }
                    }
                    keys.pass_on(pty);
                }
                Got::Nothing => {}
                Got::End => return,
            }
        }
        if ready.output {
            match pty.master().read(&mut piece) {
                Got::Bytes(count) => Descriptor::OUTPUT.write(&piece[..count]),
                Got::Nothing => {}
                Got::End => return,
            }
        }
    }
}

/// Keys that the pseudo-terminal has not taken yet: nothing reads there, and its buffer is full.
struct Keys {
    bytes: [u8; PIECE],
    begin: usize,
    end: usize,
}

impl Keys {
    const fn new() -> Self {
        Self {
            bytes: [0; PIECE],
            begin: 0,
            end: 0,
        }
    }

    const fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// They fit: only half of the room is read at a time, and only where there are none.
    fn add(&mut self, typed: &[u8]) {
        for (place, byte) in self.bytes[self.end..].iter_mut().zip(typed) {
            *place = *byte;
            self.end += 1;
        }
    }

    fn pass_on(&mut self, pty: &Pty) {
        self.begin += pty.master().write_some(&self.bytes[self.begin..self.end]);
        if self.is_empty() {
            (self.begin, self.end) = (0, 0);
        }
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    Descriptor::ERROR.write(b"console: a panic\n");
    system::exit(1)
}
