//! Compatibility mode in ring 0: [`run`] far-calls 32-bit (or 16-bit) code and comes back to 64-bit mode.
//!
//! The code is assembled with `.code32`, lies below 4 GiB like everything in a guest, and ends with `retf`.

use core::arch::global_asm;

use crate::exceptions::{Fault, probe};

/// The general registers that the code gets and leaves.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the registers' own names")]
pub struct Registers32 {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
    pub esi: u32,
    pub edi: u32,
}

#[repr(C)]
struct FarPointer {
    offset: u32,
    selector: u16,
}

// fn compat_call(target: *const FarPointer, registers: *mut Registers32)
// Loads the registers, makes a far call with a 32-bit offset (which pushes what a 32-bit RETF pops), and
// stores the registers. The code may change EBP as well.
global_asm!(
    ".global compat_call",
    "compat_call:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rsi",
    "mov r8, rdi",
    "mov r9, rsi",
    "mov eax, [r9]",
    "mov ebx, [r9 + 4]",
    "mov ecx, [r9 + 8]",
    "mov edx, [r9 + 12]",
    "mov esi, [r9 + 16]",
    "mov edi, [r9 + 20]",
    "call fword ptr [r8]",
    "pop r9",
    "mov [r9], eax",
    "mov [r9 + 4], ebx",
    "mov [r9 + 8], ecx",
    "mov [r9 + 12], edx",
    "mov [r9 + 16], esi",
    "mov [r9 + 20], edi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    fn compat_call(target: *const FarPointer, registers: *mut Registers32);
}

/// Runs code through a code segment's selector: its registers at the end, or the fault that ended it.
///
/// The stack pointer must come back as it was, and DS, ES and SS as they were.
pub fn run(
    selector: u16,
    code: unsafe extern "C" fn(),
    registers: Registers32,
) -> Result<Registers32, Fault> {
    run_at(selector, code as usize as u32, registers)
}

/// The same for code that is named by its offset in a segment with a base of its own.
pub fn run_at(selector: u16, offset: u32, registers: Registers32) -> Result<Registers32, Fault> {
    let target = FarPointer { offset, selector };
    let mut registers = registers;
    // SAFETY: the code keeps to what this function says; a fault is caught by the probe.
    probe(|| unsafe { compat_call(&target, &mut registers) })?;
    Ok(registers)
}

/// Declares 32-bit code as a function for [`run`]: `compat_code!(NAME, "instruction", …)`; the `retf` is added.
#[macro_export]
macro_rules! compat_code {
    ($name:ident, $($line:literal),+ $(,)?) => {
        ::core::arch::global_asm!(
            ".pushsection .text.compat, \"ax\"",
            ".code32",
            concat!(".global compat_", stringify!($name)),
            concat!("compat_", stringify!($name), ":"),
            $($line,)+
            "retf",
            ".code64",
            ".popsection",
        );
        unsafe extern "C" {
            #[link_name = concat!("compat_", stringify!($name))]
            fn $name();
        }
    };
}
