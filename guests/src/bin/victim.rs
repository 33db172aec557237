//! `victim`: minds its own business, and looks all the time whether anybody else meddles with it.
//!
//! Round after round it works through a part of its memory and of its devices' registers, with a pattern of its own
//! in every register of the processor that a neighbour could have left something in, and a timer ticking. Then it
//! counts how much work it gets done for a while. `ticks=N` on the command line is how long it goes on, in ticks of
//! its TSC; `share=N` the thousandths of a CPU that it must have got at least; `work=N` how many batches of work it does
//! in each round: what it loses of its turns to others is only seen in these.

#![no_std]
#![no_main]

use core::hint::black_box;

use plinth_guests::apic::{self, PERIODIC, register};
use plinth_guests::cpu::{self, cpuid, inb, msr, outb, outl, rdtsc};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::paging::{peek_32, poke, poke_32};
use plinth_guests::places::IO_APIC;
use plinth_guests::share::Share;
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, StartInfo, guest, println, x86};

guest!(main);

/// How long it goes on if nobody says otherwise: long enough for some turns.
const USUAL_TICKS: u64 = 5_000_000;
/// Batches of work between two looks at everything.
const USUAL_BATCHES: u64 = 20;

const TIMER_VECTOR: u8 = 0x60;
const TASK_PRIORITY: u32 = 0x20;
/// What is left in DR6, as if by a debug exception: breakpoints 0 and 2, and a single step.
const DR6: u64 = 0xffff_4ff5;
/// Ticks of the timer in a second.
const TIMER_HZ: u64 = 50;

/// Memory that is looked after.
const MEMORY_BYTES: usize = 2 << 20;
/// So much of it in each round.
const CHUNK_WORDS: usize = 512;
const WORDS: usize = MEMORY_BYTES / 8;

#[repr(C, align(4096))]
struct Words([u64; WORDS]);

static MEMORY: Single<Words> = Single::new(Words([0; WORDS]));

/// The largest area that XSAVE may want here.
const AREA_BYTES: usize = 4096;

#[repr(C, align(64))]
struct Area([u8; AREA_BYTES]);

/// Where FCW and FSW are in that area, MXCSR, and the registers of x87 and SSE.
const X87_CONTROL: (usize, usize) = (0, 4);
const MXCSR: (usize, usize) = (24, 28);
const X87_AND_SSE: (usize, usize) = (32, 416);
/// The states behind them that there may be: AVX, and three of AVX-512.
const STATES: [u32; 4] = [2, 5, 6, 7];

/// Other MSRs, with values that are not those after reset.
const OTHER_MSRS: [(u32, u64); 6] = [
    (msr::IA32_SYSENTER_CS, 0x1238),
    (0xc000_0081, 0x0023_0010_dead_beef),
    (0xc000_0084, 0x0004_7700),
    (0xc000_0103, 0x00c0_ffee),
    (msr::IA32_PAT, 0x0001_0406_0007_0406),
    (msr::IA32_MTRR_PHYSBASE0, 0x1234_5000),
];

static TIMER_TICKS: Single<u64> = Single::new(0);
static STRANGERS: Single<u64> = Single::new(0);

fn count(cell: &Single<u64>) {
    // SAFETY: one CPU, and handlers do not nest.
    unsafe { cell.get().write_volatile(value(cell) + 1) };
}

fn value(cell: &Single<u64>) -> u64 {
    // SAFETY: one CPU; volatile, since handlers write it.
    unsafe { cell.get().read_volatile() }
}

fn on_timer(_: &mut Frame) {
    count(&TIMER_TICKS);
    apic::write(register::EOI, 0);
}

fn main(report: &mut Report, start: StartInfo) {
    let ticks = start.number("ticks").unwrap_or(USUAL_TICKS);
    let least = start.number("share").unwrap_or(1);
    let batches = start.number("work").unwrap_or(USUAL_BATCHES);
    for vector in 32..=255 {
        set_handler(vector, Some(|_| count(&STRANGERS)));
    }
    set_handler(TIMER_VECTOR, Some(on_timer));
    let mut share = Share::default();
    let mut watch = Watch::begin();
    let began = rdtsc();
    let mut rounds = 0u64;
    report.case("nobody-meddles", |case| {
        x86!("sti");
        while rdtsc() - began < ticks {
            watch.round(case, rounds);
            share.work(batches);
            rounds += 1;
        }
        x86!("cli");
    });
    let elapsed = rdtsc() - began;
    println!(
        "victim: {rounds} rounds, {} timer ticks, {share}",
        value(&TIMER_TICKS)
    );
    report.case("its-timer-is-its-own", |case| watch.timer(case, elapsed));
    report.case("it-gets-its-share", |case| {
        case.ensure(
            share.thousandths() >= least,
            "others have taken more than theirs",
        );
    });
}

/// What was put where.
struct Watch {
    expected: Area,
    found: Area,
    /// Where the states of [`STATES`] begin and end; empty where there is none.
    parts: [(usize, usize); 4],
    address_msrs: u32,
    other_msrs: u32,
    tsc: u64,
    has_cmos_memory: bool,
}

impl Watch {
    /// Puts a pattern wherever it can be kept.
    fn begin() -> Self {
        // SAFETY: one CPU, and nobody else has this memory.
        let memory = unsafe { &mut *MEMORY.get() };
        for (index, word) in memory.0.iter_mut().enumerate() {
            *word = pattern(index, 0);
        }
        let mut watch = Self {
            expected: Area([0; AREA_BYTES]),
            found: Area([0; AREA_BYTES]),
            parts: STATES.map(|state| {
                let leaf = cpuid(0xd, state);
                if cpu::xcr0() & 1 << state == 0 {
                    return (0, 0);
                }
                (leaf.ebx as usize, (leaf.ebx + leaf.eax) as usize)
            }),
            address_msrs: 0,
            other_msrs: 0,
            tsc: rdtsc(),
            has_cmos_memory: false,
        };
        for (index, msr) in msr::OF_ADDRESSES.into_iter().enumerate() {
            let kept = cpu::try_wrmsr(msr, address_pattern(msr)).is_ok();
            watch.address_msrs |= u32::from(kept) << index;
        }
        for (index, (msr, value)) in OTHER_MSRS.into_iter().enumerate() {
            let kept = cpu::try_wrmsr(msr, value).is_ok()
                && cpu::try_rdmsr(msr).is_ok_and(|is| is == value);
            watch.other_msrs |= u32::from(kept) << index;
        }
        // Breakpoints where this guest has no code and others do, and none of them on.
        cpu::write_dr0(0x10_0000);
        cpu::write_dr1(0x1234_5678_9abc);
        cpu::write_dr2(0xffff_8000_0000_1000);
        cpu::write_dr3(0x55);
        let _ = cpu::try_write_dr6(DR6);
        cpu::write_dr7(0x400);
        devices();
        outb(0x70, 0x5d);
        outb(0x71, 0xa6);
        watch.has_cmos_memory = inb(0x71) == 0xa6;
        watch.extended_state();
        start_timer();
        watch
    }

    /// Fills all registers that XSAVE knows.
    fn extended_state(&mut self) {
        assert!(cpuid(0xd, 0).ebx as usize <= AREA_BYTES);
        let area = &mut self.expected.0;
        for (index, byte) in area.iter_mut().enumerate() {
            *byte = (index as u8).wrapping_mul(29) ^ 0x5c;
        }
        // FCW, FSW, FTW, FOP and the pointers; MXCSR and its mask; nothing reserved in the x87 registers.
        area[..32].fill(0);
        area[..2].copy_from_slice(&0x037fu16.to_le_bytes());
        area[4] = 0xff;
        area[24..28].copy_from_slice(&0x1fa0u32.to_le_bytes());
        for register in 0..8 {
            area[32 + register * 16 + 10..48 + register * 16].fill(0);
        }
        area[416..576].fill(0);
        area[512..520].copy_from_slice(&cpu::xcr0().to_le_bytes());
        let address = area.as_ptr();
        x86!("xrstor [{}]", in(reg) address, in("eax") !0, in("edx") !0);
    }

    /// Looks at everything once, and at one part of the memory.
    fn round(&mut self, case: &mut Case, round: u64) {
        self.memory(case, round);
        self.registers(case);
        self.msrs(case);
        if round.is_multiple_of(8) {
            self.devices(case);
        }
        let now = rdtsc();
        case.ensure(now > self.tsc, "the TSC went backwards");
        self.tsc = now;
        case.equal("interrupts from nowhere", value(&STRANGERS), 0);
    }

    fn memory(&mut self, case: &mut Case, round: u64) {
        // SAFETY: one CPU, and nobody else has this memory.
        let memory = unsafe { &mut *MEMORY.get() };
        let chunks = (WORDS / CHUNK_WORDS) as u64;
        let first = (round % chunks) as usize * CHUNK_WORDS;
        let pass = round / chunks;
        for (index, word) in memory
            .0
            .iter_mut()
            .enumerate()
            .skip(first)
            .take(CHUNK_WORDS)
        {
            case.equal("a word of memory", *black_box(&*word), pattern(index, pass));
            *word = pattern(index, pass + 1);
        }
    }

    fn registers(&mut self, case: &mut Case) {
        let found = self.found.0.as_mut_ptr();
        x86!("xsave [{}]", in(reg) found, in("eax") !0, in("edx") !0);
        for (from, to) in self
            .parts
            .into_iter()
            .chain([X87_CONTROL, MXCSR, X87_AND_SSE])
        {
            let differs = (from..to).find(|&index| self.expected.0[index] != self.found.0[index]);
            if let Some(index) = differs {
                case.fail(format_args!(
                    "byte {index:#x} of the extended state is {:#x}, not {:#x}",
                    self.found.0[index], self.expected.0[index]
                ));
            }
        }
        case.equal("DR0", cpu::read_dr0(), 0x10_0000);
        case.equal("DR1", cpu::read_dr1(), 0x1234_5678_9abc);
        case.equal("DR2", cpu::read_dr2(), 0xffff_8000_0000_1000);
        case.equal("DR3", cpu::read_dr3(), 0x55);
        case.equal("DR6", cpu::read_dr6(), DR6);
        case.equal("DR7", cpu::read_dr7(), 0x400);
        case.equal(
            "XCR0",
            cpu::xcr0(),
            u64::from(self.expected.0[512]) | u64::from(self.expected.0[513]) << 8,
        );
        cpu::write_cr2(0x7654_3210);
        let kept = general_registers();
        case.equal("the general registers' sum of differences", kept, 0);
        case.equal("CR2", cpu::read_cr2(), 0x7654_3210);
        case.equal("CR8", cpu::read_cr8(), u64::from(TASK_PRIORITY >> 4));
    }

    fn msrs(&mut self, case: &mut Case) {
        for (index, msr) in msr::OF_ADDRESSES.into_iter().enumerate() {
            if self.address_msrs & 1 << index != 0 {
                case.equal(
                    "an MSR with an address",
                    cpu::rdmsr(msr),
                    address_pattern(msr),
                );
            }
        }
        for (index, (msr, value)) in OTHER_MSRS.into_iter().enumerate() {
            if self.other_msrs & 1 << index != 0 {
                case.equal("an MSR", cpu::rdmsr(msr), value);
            }
        }
    }

    fn devices(&mut self, case: &mut Case) {
        case.equal("the UART's scratch register", inb(0x3ff), 0x5b);
        case.equal("what was typed", inb(0x3fd) & 1, 0);
        case.equal("the first PIC's mask", inb(0x21), 0xfb);
        case.equal("the second PIC's mask", inb(0xa1), 0xff);
        case.equal("PCI's address port", cpu::inl(0xcf8), 0x8000_1234);
        if self.has_cmos_memory {
            outb(0x70, 0x5d);
            case.equal("a byte of the CMOS memory", inb(0x71), 0xa6);
        }
        poke(IO_APIC, 0x2a);
        case.equal(
            "an entry of the I/O APIC",
            peek_32(IO_APIC + 0x10),
            0x1_0077,
        );
        case.equal(
            "the local APIC's task priority",
            apic::read(register::TASK_PRIORITY),
            TASK_PRIORITY,
        );
        case.equal(
            "the local APIC's error entry",
            apic::read(register::LVT_ERROR),
            0x1_0033,
        );
        case.equal(
            "the local APIC's logical name",
            apic::read(register::LOGICAL_DESTINATION),
            0x4200_0000,
        );
    }

    /// Neither early nor lost for longer than somebody's turn.
    fn timer(&self, case: &mut Case, elapsed: u64) {
        let due = elapsed / (tsc_hz() / TIMER_HZ);
        let came = value(&TIMER_TICKS);
        case.ensure(came <= due + 1, "more ticks came than were due");
        case.ensure(came >= due / 2, "less than half of the ticks came");
    }
}

/// The TSC's frequency.
fn tsc_hz() -> u64 {
    let leaf = cpuid(0x15, 0);
    u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax)
}

fn start_timer() {
    apic::write(register::SPURIOUS, 0x1ff);
    apic::write(register::TASK_PRIORITY, TASK_PRIORITY);
    apic::write(register::LVT_ERROR, 0x1_0033);
    apic::write(register::LOGICAL_DESTINATION, 0x4200_0000);
    apic::write(register::DIVIDE, 0b1011);
    apic::write(register::LVT_TIMER, PERIODIC | u32::from(TIMER_VECTOR));
    apic::write(
        register::INITIAL_COUNT,
        cpuid(0x15, 0).ecx / TIMER_HZ as u32,
    );
}

/// Patterns in registers of devices that keep what is written there.
fn devices() {
    outb(0x3ff, 0x5b);
    outb(0x21, 0xfb);
    outb(0xa1, 0xff);
    outl(0xcf8, 0x8000_1234);
    poke(IO_APIC, 0x2a);
    poke_32(IO_APIC + 0x10, 0x1_0077);
}

fn pattern(index: usize, pass: u64) -> u64 {
    (index as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(pass as u32)
        ^ pass
}

fn address_pattern(msr: u32) -> u64 {
    0x0000_5000_0000_0000 | u64::from(msr) << 4
}

/// Fills all general registers, lets some turns go by with interrupts on, and compares. Returns 0 if all are kept.
fn general_registers() -> u64 {
    let difference: u64;
    x86!(
        "push rbx", "push rbp",
        "mov rax, 0x1010101010101010", "lea rbx, [rax + 1]", "lea rdx, [rax + 2]", "lea rsi, [rax + 3]",
        "lea rdi, [rax + 4]", "lea rbp, [rax + 5]", "lea r8, [rax + 6]", "lea r9, [rax + 7]", "lea r10, [rax + 8]",
        "lea r11, [rax + 9]", "lea r12, [rax + 10]", "lea r13, [rax + 11]", "lea r14, [rax + 12]", "lea r15, [rax + 13]",
        "mov ecx, 2000",
        "2: dec ecx",
        "jnz 2b",
        // What each has more than the first; together 91.
        "sub rbx, rax", "sub rdx, rax", "sub rsi, rax", "sub rdi, rax", "sub rbp, rax", "sub r8, rax", "sub r9, rax",
        "sub r10, rax", "sub r11, rax", "sub r12, rax", "sub r13, rax", "sub r14, rax", "sub r15, rax",
        "mov rcx, 0x1010101010101010", "sub rax, rcx", "add rax, rbx", "add rax, rdx", "add rax, rsi", "add rax, rdi",
        "add rax, rbp", "add rax, r8", "add rax, r9", "add rax, r10", "add rax, r11", "add rax, r12", "add rax, r13",
        "add rax, r14", "add rax, r15", "sub rax, 91",
        "pop rbp", "pop rbx",
        out("rax") difference, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _,
        out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
    );
    difference
}
