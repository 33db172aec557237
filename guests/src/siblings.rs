//! The other CPUs of a guest: [`start`] brings all of them into 64-bit mode, each on a stack of its own.
//!
//! They share the first one's page tables, descriptors and interrupt handlers. The rest of the runtime (probes,
//! reports, the serial port) is the first CPU's: what the others have to say, they leave in atomics.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::apic::{self, ASSERT};
use crate::cpu::{self, rdtsc};
use crate::descriptors::{self, TablePointer};
use crate::single::Single;

/// So many there can be.
pub const MOST: u32 = 7;

/// The page where they begin, in real mode: RAM that neither loaders nor the runtime use.
const PAGE: u64 = 0x8;
/// Where in it CR3 is, and the pointer to the IDT.
const CR3_OFFSET: usize = 8;
const IDT_OFFSET: usize = 0x30;
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;
/// ICR shorthand: all but the sender.
const ALL_OTHERS: u32 = 3 << 18;
const STACK_BYTES: usize = 8192;

// From real mode to long mode in one step, a number and with it a stack for each, and then Rust.
#[cfg(target_os = "none")]
global_asm!(
    ".section .text.siblings, \"ax\"",
    ".code16",
    ".global sibling_start",
    "sibling_start:",
    "jmp 5f",
    ".balign 8",
    ".quad 0", // 0x8008: CR3
    ".quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff", // 0x8010: the descriptor table
    ".short 23", // 0x8028: where that is
    ".long 0x8010",
    ".short 0",
    ".quad 0, 0", // 0x8030: where the IDT is
    "5: cli",
    "xor ax, ax",
    "mov ds, ax",
    "lgdt [0x8028]",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, [0x8008]",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, 0x80010033",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long sibling_long",
    ".short 8",
    ".global sibling_end",
    "sibling_end:",
    ".code64",
    "sibling_long:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "lidt [0x8030]",
    "mov edi, 1",
    "lock xadd [{started}], edi",
    "lea eax, [rdi + 1]",
    "shl rax, 13",
    "lea rsp, [{stacks}]",
    "add rsp, rax",
    "call {main}",
    "2: hlt",
    "jmp 2b",
    ".text",
    started = sym STARTED,
    stacks = sym STACKS,
    main = sym sibling_main,
);

#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);

static STACKS: Single<[Stack; MOST as usize]> =
    Single::new([const { Stack([0; STACK_BYTES]) }; MOST as usize]);
static STARTED: AtomicU32 = AtomicU32::new(0);
/// What they are to run.
static MAIN: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static sibling_start: u8;
    static sibling_end: u8;
}

/// What each of them runs, with its number from 0 on. After it returns the CPU halts.
pub type Main = fn(u32);

extern "C" fn sibling_main(number: u32) {
    let main = MAIN.load(Ordering::SeqCst) as *const ();
    // SAFETY: `start` has put a `Main` there before this CPU was started.
    let main: Main = unsafe { core::mem::transmute(main) };
    main(number);
}

/// What the start of CPUs waits for, in ticks.
#[derive(Clone, Copy)]
pub struct Waits {
    /// After INIT.
    pub init: u64,
    /// After each start-up IPI.
    pub start_up: u64,
    /// Until all have come up: there may be many more of them than CPUs below, and other machines beside them.
    pub all: u64,
}

impl Waits {
    /// Those that the manual asks for at the frequencies of emulators.
    pub const USUAL: Self = Self {
        init: 100_000,
        start_up: 20_000,
        all: 100_000_000,
    };
    /// None but the last: a virtual CPU is there at once.
    pub const NONE: Self = Self {
        init: 0,
        start_up: 0,
        ..Self::USUAL
    };
}

/// Starts all other CPUs, of which there are `count`, as SDM vol. 3, MP Initialization Protocol has it. Returns how
/// many have come up.
pub fn start(count: u32, main: Main) -> u32 {
    start_with(Waits::USUAL, count, main)
}

/// The same with other waits.
pub fn start_with(waits: Waits, count: u32, main: Main) -> u32 {
    let count = count.min(MOST);
    let code = (PAGE << 12) as *mut u8;
    MAIN.store(main as *const () as u64, Ordering::SeqCst);
    STARTED.store(0, Ordering::SeqCst);
    // SAFETY: the page is nobody else's, the identity map has it, and no other CPU runs yet.
    unsafe {
        let from = &raw const sibling_start;
        let bytes = &raw const sibling_end as usize - from as usize;
        core::ptr::copy_nonoverlapping(from, code, bytes);
        code.add(CR3_OFFSET)
            .cast::<u32>()
            .write_unaligned(cpu::read_cr3() as u32);
        code.add(IDT_OFFSET)
            .cast::<TablePointer>()
            .write_unaligned(descriptors::idt_pointer());
    }
    apic::send(ALL_OTHERS | ASSERT | INIT, 0);
    pass(waits.init);
    for _ in 0..2 {
        apic::send(ALL_OTHERS | ASSERT | START_UP | PAGE as u32, 0);
        pass(waits.start_up);
    }
    let until = rdtsc() + waits.all;
    while STARTED.load(Ordering::SeqCst) < count && rdtsc() < until {
        core::hint::spin_loop();
    }
    STARTED.load(Ordering::SeqCst)
}

/// Sends a vector to all other CPUs.
pub fn call(vector: u8) {
    apic::send(ALL_OTHERS | ASSERT | u32::from(vector), 0);
}

/// Lets some ticks of the TSC go by.
pub fn pass(ticks: u64) {
    let until = rdtsc() + ticks;
    while rdtsc() < until {
        core::hint::spin_loop();
    }
}
