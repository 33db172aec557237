//! A second CPU: how long it takes to wake it, and to have it answer.

use core::arch::global_asm;

use crate::apic::{self, COMMAND};
use crate::measure::bench;
use crate::vectors;
use plinth_guests::cpu::{self, rdtsc};
use plinth_guests::descriptors;
use plinth_guests::single::Single;

const INIT: u64 = 0x4500;
const STARTUP: u64 = 0x4600;
/// The page where the second CPU begins, in real mode.
const PAGE: u64 = 0x8;
/// Where in it CR3 is.
const CR3_OFFSET: usize = 8;
const WAKE_VECTOR: u8 = 0x62;
const DESTINATION: u64 = 0x310;
/// APIC ID 1, as ICR has it.
const OTHER: u64 = 1 << 24;

// The second CPU's whole life: long mode with the first one's tables, then halted between interrupts. It tells that
// it is there, and after each interrupt the time.
#[cfg(target_os = "none")]
global_asm!(
    ".section .text.second, \"ax\"",
    ".code16",
    ".global second_start",
    "second_start:",
    "jmp 5f",
    ".balign 8",
    ".quad 0", // 0x8008: CR3
    ".quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff", // 0x8010: the descriptor table
    ".short 23", // 0x8028: where that is
    ".long 0x8010",
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
    "mov eax, 0x80000031",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long second_long",
    ".short 8",
    ".global second_end",
    "second_end:",
    ".code64",
    "second_long:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov rsp, offset {stack} + 4096",
    "lidt [{idt}]",
    "mov eax, 0xfee000f0",
    "mov dword ptr [rax], 0x1ff",
    "mov qword ptr [{alive}], 1",
    "4: sti",
    "hlt",
    "cli",
    "jmp 4b",
    // The interrupt that wakes it.
    ".global second_woken",
    "second_woken:",
    "push rax",
    "push rdx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [{woken}], rax",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "pop rdx",
    "pop rax",
    "iretq",
    ".text",
    stack = sym STACK,
    idt = sym IDT,
    alive = sym ALIVE,
    woken = sym WOKEN,
);

#[repr(C, align(16))]
struct Stack([u8; 4096]);

static STACK: Single<Stack> = Single::new(Stack([0; 4096]));
static IDT: Single<[u8; 10]> = Single::new([0; 10]);
static ALIVE: Single<u64> = Single::new(0);
static WOKEN: Single<u64> = Single::new(0);

unsafe extern "C" {
    static second_start: u8;
    static second_end: u8;
    fn second_woken();
}

/// Starts the second CPU, if there is one, and measures. The APIC is in xAPIC mode.
pub(crate) fn measure() {
    if !start() {
        return;
    }
    vectors::set(
        WAKE_VECTOR,
        vectors::Handler(second_woken as *const () as u64),
    );
    bench("wake-other-cpu", wake);
}

/// Starts it, as SDM vol. 3, MP Initialization Protocol has it; false if nobody answers.
fn start() -> bool {
    let (from, bytes) = (
        &raw const second_start,
        &raw const second_end as usize - &raw const second_start as usize,
    );
    let page = (PAGE << 12) as *mut u8;
    // SAFETY: the page is RAM that neither the loader nor the runtime uses, and the identity map has it. The second
    // CPU does not run yet.
    unsafe {
        core::ptr::copy_nonoverlapping(from, page, bytes);
        page.add(CR3_OFFSET)
            .cast::<u32>()
            .write_unaligned(cpu::read_cr3() as u32);
        let pointer = descriptors::idt_pointer();
        IDT.get()
            .cast::<descriptors::TablePointer>()
            .write_unaligned(pointer);
    }
    apic::write(DESTINATION, OTHER);
    apic::write(COMMAND, INIT);
    pass(100_000);
    for _ in 0..2 {
        apic::write(COMMAND, STARTUP | PAGE);
        pass(20_000);
    }
    let until = rdtsc() + 1_000_000;
    while read(&ALIVE) == 0 && rdtsc() < until {
        core::hint::spin_loop();
    }
    read(&ALIVE) != 0
}

/// Ticks from sending the interrupt until the halted CPU handles it.
fn wake() -> u64 {
    // It goes back to sleep meanwhile.
    pass(20_000);
    let start = rdtsc();
    apic::write(COMMAND, u64::from(WAKE_VECTOR));
    while read(&WOKEN) < start {
        assert!(rdtsc() - start < 1 << 30, "the second CPU does not wake up");
        core::hint::spin_loop();
    }
    read(&WOKEN) - start
}

fn pass(ticks: u64) {
    let until = rdtsc() + ticks;
    while rdtsc() < until {
        core::hint::spin_loop();
    }
}

fn read(place: &Single<u64>) -> u64 {
    // SAFETY: the second CPU writes it whole; volatile for that reason.
    unsafe { place.get().read_volatile() }
}
