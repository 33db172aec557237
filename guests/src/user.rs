//! Ring 3: [`run`] copies a piece of machine code to a user page and runs it there.
//!
//! The code ends with `int 0xf0`, whose RAX is the result; any other exception is the fault that is returned.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::descriptors::{USER_CODE, USER_CODE32, USER_DATA, allow_from_user};
use crate::exceptions::{Fault, probe};
use crate::paging::{self, PageSize, entry};
use crate::x86;

/// Where the code page is mapped, in the first 4 GiB's neighbour so that no identity entry is touched.
pub const CODE: u64 = 0x80_0000_0000;
/// Where the stack page is mapped.
pub const STACK: u64 = CODE + 0x1000;
/// Where the code page is mapped below 4 GiB as well, for 32-bit code: above all guests' memory.
pub const CODE32: u64 = 0xb000_0000;
/// Ends the code.
const EXIT_VECTOR: u8 = 0xf0;

static READY: AtomicBool = AtomicBool::new(false);

/// How the code is run.
#[derive(Clone, Copy)]
pub struct Start {
    /// RFLAGS.
    pub rflags: u64,
    /// 64-bit code, or 32-bit code in compatibility mode.
    pub width: Width,
    /// RCX, RDX and RAX at the start.
    pub registers: [u64; 3],
}

/// The width of ring 3 code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 64-bit mode.
    Bits64,
    /// Compatibility mode.
    Bits32,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            rflags: 2,
            width: Width::Bits64,
            registers: [0; 3],
        }
    }
}

fn prepare() {
    if READY.swap(true, Ordering::Relaxed) {
        return;
    }
    let code = paging::new_frame();
    let stack = paging::new_frame();
    let flags = entry::P | entry::RW | entry::US;
    paging::map(CODE, code, PageSize::Size4K, flags);
    paging::map(STACK, stack, PageSize::Size4K, flags);
    // The identity map has 2 MiB pages; this one becomes a table of its own, with the code and the stack.
    let table = paging::new_frame();
    let slot = paging::entry_address(CODE32, PageSize::Size2M);
    paging::poke(slot, table | flags);
    paging::poke(table, code | flags);
    paging::poke(table + 8, stack | flags);
    open_to_user(CODE32);
    paging::reload_cr3();
    allow_from_user(EXIT_VECTOR);
}

/// Sets the user bit of the upper two tables on the way to an address.
fn open_to_user(address: u64) {
    let root = paging::root() + (address >> 39 & 0x1ff) * 8;
    paging::poke(root, paging::peek(root) | entry::US);
    let slot = (paging::peek(root) & entry::ADDRESS) + (address >> 30 & 0x1ff) * 8;
    paging::poke(slot, paging::peek(slot) | entry::US);
}

/// Runs machine code in ring 3: `Ok(rax)` when it ends with `int 0xf0`, else the fault.
pub fn run(code: &[u8], start: Start) -> Result<u64, Fault> {
    prepare();
    assert!(code.len() <= paging::FRAME_BYTES);
    for (index, byte) in code.iter().enumerate() {
        x86!("mov byte ptr [{}], {}", in(reg) CODE + index as u64, in(reg_byte) *byte, options(nostack));
    }
    let (base, selector) = match start.width {
        Width::Bits64 => (CODE, USER_CODE),
        Width::Bits32 => (CODE32, USER_CODE32),
    };
    let stack = base + 0x2000 - 16;
    let [rcx, rdx, rax] = start.registers;
    let ended = probe(|| {
        x86!(
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "push {data}",
            "push {stack}",
            "push {rflags}",
            "push {selector}",
            "push {base}",
            "iretq",
            data = in(reg) u64::from(USER_DATA),
            stack = in(reg) stack,
            rflags = in(reg) start.rflags,
            selector = in(reg) u64::from(selector),
            base = in(reg) base,
            in("rcx") rcx,
            in("rdx") rdx,
            in("rax") rax,
            options(noreturn),
        )
    });
    match ended {
        Err(fault) if fault.vector() == EXIT_VECTOR => Ok(fault.frame.rax),
        Err(fault) => Err(fault),
        Ok(()) => unreachable!("ring 3 comes back by an exception only"),
    }
}

/// A piece of machine code as bytes, assembled in place: `user_code!(NAME, "instruction", …)` declares a static
/// function `NAME() -> &'static [u8]`. The code must not depend on its address.
#[macro_export]
macro_rules! user_code {
    ($name:ident, $($line:literal),+ $(,)?) => {
        ::core::arch::global_asm!(
            ".pushsection .rodata.user, \"a\"",
            concat!(".global user_", stringify!($name)),
            concat!(".global user_", stringify!($name), "_end"),
            concat!("user_", stringify!($name), ":"),
            $($line,)+
            "int 0xf0",
            concat!("user_", stringify!($name), "_end:"),
            ".code64",
            ".popsection",
        );

        fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("user_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("user_", stringify!($name), "_end")]
                static END: u8;
            }
            let start = &raw const START;
            let length = &raw const END as usize - start as usize;
            // SAFETY: both symbols bound the bytes assembled above.
            unsafe { ::core::slice::from_raw_parts(start, length) }
        }
    };
}
