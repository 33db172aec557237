//! Random instructions with registers that point to where there is no RAM.
//!
//! Each is put between breakpoints and run in ring 0 inside a probe, so that whatever it does, an exception brings
//! the guest back. Left out is only what would end this guest in ways that `ruin` looks at: loading descriptor
//! tables and control registers, HLT with interrupts off, and the ports of the way out.

use core::arch::global_asm;

use plinth_guests::descriptors::{gate, set_gate};
use plinth_guests::paging::{self, FRAME_BYTES};
use plinth_guests::random::Random;
use plinth_guests::{cpu, probe};

use crate::memory::PLACES;
use crate::ports::is_door;

const ROUNDS: u64 = 20_000;
/// Where in the page an instruction begins.
const START: u64 = 0x800;
/// The longest instruction, and something behind it for its displacement.
const BYTES: usize = 16;
const INT3: u8 = 0xcc;
/// The interrupt stack that every exception is taken on, since the instruction may have changed RSP.
const IST: u64 = 4;

// fn fuzz_run(registers: *const u64, code: u64) -> !
// Loads all general registers but RSP (rax, rcx, rdx, rbx, rbp, rsi, rdi, r8 to r15) and calls the code. Ends in an
// exception, which the probe around it takes; the probe keeps what the C calling convention wants kept.
global_asm!(
    ".global fuzz_run",
    "fuzz_run:",
    "push rsi",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rbp, [rdi + 32]",
    "mov rsi, [rdi + 40]",
    "mov r8, [rdi + 56]",
    "mov r9, [rdi + 64]",
    "mov r10, [rdi + 72]",
    "mov r11, [rdi + 80]",
    "mov r12, [rdi + 88]",
    "mov r13, [rdi + 96]",
    "mov r14, [rdi + 104]",
    "mov r15, [rdi + 112]",
    "mov rdi, [rdi + 48]",
    "call [rsp]",
    "int3",
);

unsafe extern "C" {
    fn fuzz_run(registers: *const u64, code: u64);
}

pub(crate) fn instructions(random: &mut Random) {
    for vector in 0..32 {
        set_gate(vector, gate(vector) & !(7 << 32) | IST << 32);
    }
    let page = paging::new_frame();
    for _ in 0..ROUNDS {
        // SAFETY: the frame is the guest's own, and nothing else uses it.
        let code = unsafe { core::slice::from_raw_parts_mut(page as *mut u8, FRAME_BYTES) };
        code.fill(INT3);
        let start = START as usize;
        instruction(random, &mut code[start..start + BYTES]);
        let registers = registers(random);
        let _ = probe(|| {
            // SAFETY: the code page ends in breakpoints all around; the probe takes what comes.
            unsafe { fuzz_run(registers.as_ptr(), page + START) };
        });
        // A breakpoint that was set must not meet this code.
        cpu::write_dr7(0x400);
    }
}

/// Mostly addresses of devices; a small count in RCX, and a port in RDX from which no way leads out.
fn registers(random: &mut Random) -> [u64; 15] {
    let mut registers = [0; 15];
    for register in &mut registers {
        *register = match random.below(4) {
            0 => random.value(),
            _ => (random.one_of(&PLACES) + random.below(64)).wrapping_sub(random.below(8)),
        };
    }
    registers[1] = random.below(8);
    registers[2] = loop {
        let port = random.below(0x1_0000) as u16;
        if !is_door(port, 4) {
            break u64::from(port);
        }
    };
    registers
}

/// Bytes that the processor takes for an instruction more often than not.
fn instruction(random: &mut Random, code: &mut [u8]) {
    loop {
        for byte in code.iter_mut() {
            *byte = random.bits() as u8;
        }
        let mut at = 0;
        while random.below(3) == 0 && at < 3 {
            code[at] = random.one_of(&[0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x64, 0x65, 0x2e]);
            at += 1;
        }
        if random.below(2) == 0 {
            code[at] = 0x40 | random.below(16) as u8;
            at += 1;
        }
        match random.below(8) {
            0 => {
                code[at] = 0x0f;
                at += 1;
            }
            1 => {
                code[at] = 0x0f;
                code[at + 1] = random.one_of(&[0x38, 0x3a]);
                at += 2;
            }
            _ => {}
        }
        let opcode = at;
        // An operand in memory, three times out of four.
        if random.below(4) != 0 {
            code[opcode + 1] &= 0x3f | random.one_of(&[0, 0x40, 0x80]);
        }
        if is_allowed(&code[..opcode], code[opcode], code[opcode + 1]) {
            return;
        }
    }
}

fn is_allowed(before: &[u8], opcode: u8, next: u8) -> bool {
    let register = next >> 3 & 7;
    if before.contains(&0x0f) {
        return !(before.last() == Some(&0x0f)
            && (matches!(opcode, 0x22 | 0x23) || opcode == 0x01 && matches!(register, 2 | 3)));
    }
    match opcode {
        // Two bytes to come, or a VEX or EVEX prefix: they were random, and are none of what is left out below.
        0x0f => !matches!(next, 0x01 | 0x22 | 0x23),
        0xf4 | 0xcd => false,
        0xe4..=0xe7 => !is_door(u16::from(next), 4),
        _ => true,
    }
}
