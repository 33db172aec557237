//! 32-bit protected mode without paging: [`run`] leaves long mode for a piece of code and comes back.
//!
//! Exceptions there go through an IDT of 32-bit gates, [`set_gate`], and end the code with a [`Fault32`].

use core::arch::global_asm;

use crate::compat::Registers32;
use crate::descriptors::{self, KERNEL_CODE32, gate_descriptor, kind};
use crate::single::Single;

global_asm!(include_str!("protected.S"));

/// The vectors that the 32-bit IDT has.
pub const VECTORS: usize = 64;

/// The exception that ended the code.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault32 {
    /// The vector.
    pub vector: u32,
    /// The error code; 0 for vectors without one.
    pub error_code: u32,
    /// The instruction pointer pushed.
    pub eip: u32,
    /// The code segment pushed.
    pub cs: u32,
    /// The flags pushed.
    pub eflags: u32,
    /// CR2, of meaning for page faults only.
    pub cr2: u32,
    /// The stack pointer before the exception.
    pub esp: u32,
}

static IDT32: Single<[u64; VECTORS]> = Single::new([0; VECTORS]);

/// The memory image of IDTR in 32-bit code.
#[repr(C, packed)]
struct Pointer32 {
    limit: u16,
    base: u32,
}

unsafe extern "C" {
    static protected_stubs: u8;
    static protected_fault: Fault32;
    fn protected_call(body: u32, registers: u32, idt: u64) -> u64;
}

/// Fills the 32-bit IDT with gates to the stubs that end the code.
pub fn reset_gates() {
    for vector in 0..VECTORS {
        let handler = &raw const protected_stubs as u64 + vector as u64 * 16;
        set_gate(
            vector,
            gate_descriptor(kind::INTERRUPT_GATE, KERNEL_CODE32, handler),
        );
    }
}

/// Replaces a gate of the 32-bit IDT.
pub fn set_gate(vector: usize, gate: u64) {
    assert!(vector < VECTORS);
    // SAFETY: the table has this entry, and is in use only during `run`.
    unsafe { (*IDT32.get())[vector] = gate };
}

/// Runs 32-bit code in protected mode without paging: its registers when it returns, or the exception that ended it.
///
/// The registers and the code must be below 4 GiB, as everything in a guest is.
pub fn run(code: unsafe extern "C" fn(), registers: Registers32) -> Result<Registers32, Fault32> {
    let mut registers = registers;
    let idt = Pointer32 {
        limit: (VECTORS * 8 - 1) as u16,
        base: IDT32.get() as u32,
    };
    // SAFETY: the assembly restores paging and the registers that Rust relies on; the rest is restored below. It
    // writes `registers` and `protected_fault`.
    unsafe {
        let faulted = protected_call(
            code as usize as u32,
            &raw mut registers as u32,
            &raw const idt as u64,
        );
        descriptors::restore();
        if faulted == 0 {
            Ok((&raw const registers).read_volatile())
        } else {
            Err((&raw const protected_fault).read_volatile())
        }
    }
}

/// Declares 32-bit code for [`run`]: `protected_code!(NAME, "instruction", …)`; the near return is added.
#[macro_export]
macro_rules! protected_code {
    ($visible:vis $name:ident, $($line:literal),+ $(,)?) => {
        ::core::arch::global_asm!(
            ".pushsection .text.protected, \"ax\"",
            ".code32",
            concat!(".global protected_", stringify!($name)),
            concat!("protected_", stringify!($name), ":"),
            $($line,)+
            "ret",
            ".code64",
            ".popsection",
        );
        unsafe extern "C" {
            #[link_name = concat!("protected_", stringify!($name))]
            $visible fn $name();
        }
    };
}
