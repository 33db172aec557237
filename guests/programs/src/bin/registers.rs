//! `registers`: several processes, each with its own values in all vector registers, in the x87 stack and in the
//! general-purpose registers, take the processor from each other, and signals come in between whose handler wipes the
//! vector registers. Whatever happens, each must find its own values again.
//!
//! Linux's system calls are made as they are; there is no library. The program says `registers: ...` and ends with
//! status 0 if every process has found its values and has had signals.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm, naked_asm};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use plinth_programs::system::{self, call, exit, number};

/// Processes that run side by side.
const PROCESSES: u8 = 6;
/// How often each fills its registers and looks at them again, and the signals that must have come by then. On a fast
/// processor it goes on until they have.
const ROUNDS: u32 = 8;
const ENOUGH_SIGNALS: u32 = 4;
const MOST_ROUNDS: u32 = 10_000;
/// How long it then waits, in loops of two instructions, four times between calls of `sched_yield`.
const SPIN: u64 = 25_000;
/// Between two signals.
const SIGNAL_INTERVAL_US: u64 = 1_500;

const SIGALRM: u64 = 14;
const SA_RESTORER: u64 = 0x0400_0000;

/// 32 registers of 64 bytes.
const VECTORS: usize = 32;

/// The registers of one process, to be loaded or as they were found.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Registers {
    vectors: [[u8; 64]; VECTORS],
    x87: u64,
    general: u64,
}

/// What the processor has, and the kernel has switched on.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    /// XMM0 to XMM15.
    Sse = 0,
    /// YMM0 to YMM15.
    Avx = 1,
    /// ZMM0 to ZMM31.
    Avx512 = 2,
}

impl Kind {
    /// How many registers, and of how many bytes.
    const fn size(self) -> (usize, usize) {
        match self {
            Self::Sse => (16, 16),
            Self::Avx => (16, 32),
            Self::Avx512 => (32, 64),
        }
    }
}

/// Signals that the process has had.
static SIGNALS: AtomicU32 = AtomicU32::new(0);
/// The [`Kind`], for the signal handler.
static KIND: AtomicU32 = AtomicU32::new(0);

global_asm!(
    ".globl program_entry",
    "program_entry:",
    "xor ebp, ebp",
    "and rsp, -64",
    "call {main}",
    "ud2",
    main = sym main,
);

fn say(text: &str) {
    system::write(1, text.as_bytes());
}

extern "C" fn main() -> ! {
    let kind = kind();
    KIND.store(kind as u32, Ordering::Relaxed);
    for process in 0..PROCESSES {
        match system::fork() {
            Some(0) => exit(child(process, kind)),
            Some(_) => {}
            None => {
                say("registers: fork failed\n");
                exit(1);
            }
        }
    }
    let mut failed = 0;
    for _ in 0..PROCESSES {
        let mut status = 0u32;
        // SAFETY: the kernel writes the status of whichever child has ended.
        let waited = unsafe { call(number::WAIT4, [u64::MAX, (&raw mut status) as u64]) };
        if waited < 0 || status != 0 {
            failed += 1;
        }
    }
    say(match kind {
        Kind::Sse => "registers: 16 of 16 bytes",
        Kind::Avx => "registers: 16 of 32 bytes",
        Kind::Avx512 => "registers: 32 of 64 bytes",
    });
    say(if failed == 0 {
        ", all found again\n"
    } else {
        ", and some were not found again\n"
    });
    exit(failed)
}

/// CPUID leaf 1 ECX bits OSXSAVE and AVX, leaf 7 EBX bit AVX512F, and what XCR0 has switched on.
fn kind() -> Kind {
    const OSXSAVE_AND_AVX: u32 = 1 << 27 | 1 << 28;
    const AVX512F: u32 = 1 << 16;
    let leaf_1 = core::arch::x86_64::__cpuid(1);
    if leaf_1.ecx & OSXSAVE_AND_AVX != OSXSAVE_AND_AVX {
        return Kind::Sse;
    }
    let xcr0: u32;
    // SAFETY: OSXSAVE says that there is XGETBV.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") xcr0, out("edx") _) };
    let leaf_7 = core::arch::x86_64::__cpuid_count(7, 0);
    match xcr0 {
        _ if xcr0 & 0xe6 == 0xe6 && leaf_7.ebx & AVX512F != 0 => Kind::Avx512,
        _ if xcr0 & 6 == 6 => Kind::Avx,
        _ => Kind::Sse,
    }
}

/// One process. Its status: 0 if all is well, else 1.
fn child(process: u8, kind: Kind) -> u64 {
    let (count, bytes) = kind.size();
    let mut mine = Registers {
        vectors: [[0; 64]; VECTORS],
        x87: 0x0123_4567_89ab_cdef ^ u64::from(process) << 40,
        general: 0xfeed_0000_0000_0000 | u64::from(process),
    };
    for (number, vector) in mine.vectors.iter_mut().take(count).enumerate() {
        for (place, byte) in vector.iter_mut().take(bytes).enumerate() {
            *byte = (process + 1).wrapping_mul(37) ^ (number as u8).wrapping_mul(5) ^ place as u8;
        }
    }
    take_signals();
    for round in 0..MOST_ROUNDS {
        if round >= ROUNDS && SIGNALS.load(Ordering::Relaxed) >= ENOUGH_SIGNALS {
            return 0;
        }
        let mut found = Registers {
            vectors: [[0; 64]; VECTORS],
            x87: 0,
            general: 0,
        };
        live(kind, &mine, &mut found);
        if found != mine {
            say("registers: a process has lost its values\n");
            return 1;
        }
    }
    say("registers: too few signals came\n");
    1
}

/// Has SIGALRM come again and again.
fn take_signals() {
    #[repr(C)]
    struct SignalAction {
        handler: extern "C" fn(),
        flags: u64,
        restorer: extern "C" fn(),
        mask: u64,
    }
    let action = SignalAction {
        handler: on_signal,
        flags: SA_RESTORER,
        restorer: return_from_signal,
        mask: 0,
    };
    let arguments = [SIGALRM, (&raw const action) as u64, 0, 8];
    // SAFETY: the kernel's own structure for a signal, whose mask has 8 bytes; the handler keeps what it must.
    unsafe { call(number::RT_SIGACTION, arguments) };
    // Interval and first time, each in seconds and microseconds.
    let times = [0, SIGNAL_INTERVAL_US, 0, SIGNAL_INTERVAL_US];
    // SAFETY: the kernel reads four numbers.
    unsafe { call(number::SETITIMER, [0, times.as_ptr() as u64]) };
}

extern "C" fn on_signal() {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the kernel has saved the vector registers and restores them; the compiler uses none of them.
    unsafe {
        match KIND.load(Ordering::Relaxed) {
            0 => asm!(
                "xorps xmm0, xmm0",
                "movaps xmm7, xmm0",
                "movaps xmm15, xmm0"
            ),
            1 => asm!("vzeroall"),
            _ => asm!(
                "vzeroall",
                "vpxord zmm16, zmm16, zmm16",
                "vmovdqa64 zmm31, zmm16"
            ),
        }
        asm!("fninit");
    }
}

/// What the kernel has the handler return to.
#[unsafe(naked)]
extern "C" fn return_from_signal() {
    naked_asm!("mov eax, {number}", "syscall", number = const number::RT_SIGRETURN)
}

/// For each register of a kind its load and, in the other macro, its store.
macro_rules! each {
    ($instruction:literal, $prefix:literal, $size:literal, $base:literal, load: $($number:literal)*) => {
        concat!($($instruction, " ", $prefix, $number, ", [", $base, " + ", $number, " * 64]\n"),*)
    };
    ($instruction:literal, $prefix:literal, $size:literal, $base:literal, store: $($number:literal)*) => {
        concat!($($instruction, " [", $base, " + ", $number, " * 64], ", $prefix, $number, "\n"),*)
    };
}

/// The registers are loaded, live through interrupts, signals and other processes, and are stored.
macro_rules! live_with {
    ($instruction:literal, $prefix:literal, $mine:expr, $found:expr, $($number:literal)*) => {
        // SAFETY: loads from and stores to the two structures, whose vectors lie 64 bytes apart at their start; the
        // compiler uses no vector and no x87 register.
        unsafe {
            asm!(
                each!($instruction, $prefix, "", "{mine}", load: $($number)*),
                "fninit",
                "fild qword ptr [{mine} + 2048]",
                "mov {general}, [{mine} + 2056]",
                "mov {rounds:e}, 4",
                "2:",
                "mov {count}, {spin}",
                "3:",
                "dec {count}",
                "jnz 3b",
                "mov eax, {sched_yield}",
                "syscall",
                "dec {rounds:e}",
                "jnz 2b",
                "mov [{found} + 2056], {general}",
                "fistp qword ptr [{found} + 2048]",
                each!($instruction, $prefix, "", "{found}", store: $($number)*),
                mine = in(reg) $mine,
                found = in(reg) $found,
                general = out(reg) _,
                rounds = out(reg) _,
                count = out(reg) _,
                spin = const SPIN,
                sched_yield = const number::SCHED_YIELD,
                out("rax") _,
                out("rcx") _,
                out("r11") _,
            )
        }
    };
}

fn live(kind: Kind, mine: &Registers, found: &mut Registers) {
    const {
        assert!(core::mem::offset_of!(Registers, x87) == 2048);
        assert!(core::mem::offset_of!(Registers, general) == 2056);
    }
    let (mine, found): (*const Registers, *mut Registers) = (mine, found);
    match kind {
        Kind::Sse => live_with!("movups", "xmm", mine, found,
            "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11" "12" "13" "14" "15"),
        Kind::Avx => live_with!("vmovdqu", "ymm", mine, found,
            "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11" "12" "13" "14" "15"),
        Kind::Avx512 => live_with!("vmovdqu64", "zmm", mine, found,
            "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11" "12" "13" "14" "15"
            "16" "17" "18" "19" "20" "21" "22" "23" "24" "25" "26" "27" "28" "29" "30" "31"),
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    say("registers: a panic\n");
    exit(1)
}
