//! `timer`: interrupts from the PIT through the PIC, from the local APIC's timer, and the TSC's own march.
//!
//! A machine without one of them skips its cases.

#![no_std]
#![no_main]

use plinth_guests::apic::{
    self, DEADLINE_MODE, MASKED, PERIODIC, SOFTWARE_ENABLE, SPURIOUS_VECTOR, register,
};
use plinth_guests::cpu::{self, cpuid, inb, leaf1_ecx, leaf1_edx, msr, outb, rdtsc};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, StartInfo, guest, println, x86};

guest!(main);

const PIT_HZ: u64 = 1_193_182;
const TICK_HZ: u64 = 100;
const PIC_VECTOR: u8 = 0x20;
const APIC_VECTOR: u8 = 0x41;

/// Ticks that have arrived.
static TICKS: Single<u64> = Single::new(0);

fn ticks() -> u64 {
    // SAFETY: one CPU; volatile, since a handler writes it.
    unsafe { TICKS.get().read_volatile() }
}

fn count_tick() {
    // SAFETY: one CPU, and handlers do not nest.
    unsafe { TICKS.get().write_volatile(ticks() + 1) };
}

fn on_pic(_: &mut Frame) {
    count_tick();
    outb(0x20, 0x20);
}

fn on_apic(_: &mut Frame) {
    count_tick();
    apic::write(register::EOI, 0);
}

fn main(report: &mut Report, _: StartInfo) {
    set_handler(SPURIOUS_VECTOR, Some(|_| ()));
    tsc(report);
    pit(report);
    apic(report);
}

fn tsc(report: &mut Report) {
    report.case("tsc-never-goes-back", |case| {
        let mut last = rdtsc();
        for round in 0..20_000u32 {
            if round % 100 == 0 {
                let _ = cpuid(0, 0);
            }
            let now = rdtsc();
            case.ensure(now >= last, "the TSC went backwards");
            last = now;
        }
    });
    report.case("tsc-moves", |case| {
        let before = rdtsc();
        for _ in 0..1000 {
            x86!("pause");
        }
        case.ensure(rdtsc() > before, "the TSC stands still");
    });
}

/// True if a PIC answers at 0x21.
fn has_pic() -> bool {
    [0x55, 0xaa, 0xff].into_iter().all(|mask| {
        outb(0x21, mask);
        inb(0x21) == mask
    })
}

/// Waits for ticks in HLT; gives up after a number of wake-ups.
fn wait_halted(count: u64) {
    let target = ticks() + count;
    while ticks() < target {
        x86!("sti", "hlt", "cli");
    }
}

/// Waits for ticks in a loop with interrupts on, for at most this many rounds.
fn wait_spinning(count: u64, rounds: u64) -> bool {
    let target = ticks() + count;
    x86!("sti");
    let mut left = rounds;
    while ticks() < target && left > 0 {
        left -= 1;
    }
    x86!("cli");
    ticks() >= target
}

/// Whether the tick that was held back has come: one, and a second where the machine has waited for another's turn
/// meanwhile, since what it misses then follows at once.
fn held_tick_came(before: u64) -> bool {
    matches!(ticks() - before, 1 | 2)
}

fn pit(report: &mut Report) {
    let present = has_pic();
    if present {
        for (port, value) in [
            (0x20, 0x11),
            (0x21, PIC_VECTOR),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, PIC_VECTOR + 8),
            (0xa1, 2),
            (0xa1, 1),
            (0x21, 0xfe),
            (0xa1, 0xff),
        ] {
            outb(port, value);
        }
        let divisor = (PIT_HZ / TICK_HZ) as u16;
        outb(0x43, 0x34);
        outb(0x40, divisor as u8);
        outb(0x40, (divisor >> 8) as u8);
        set_handler(PIC_VECTOR, Some(on_pic));
    }
    let mut pit_case = |name: &str, body: fn(&mut Case)| {
        report.case(name, |case| {
            if present {
                body(case)
            } else {
                case.skip("no PIC answers at 0x20")
            }
        });
    };
    pit_case("pit-ticks-wake-hlt", |case| {
        wait_halted(1);
        let start = rdtsc();
        wait_halted(20);
        let ticks_tsc = (rdtsc() - start) / 20;
        println!("timer: {ticks_tsc} TSC ticks in each of {TICK_HZ} Hz");
        case.ensure(ticks_tsc > 1000, "twenty ticks took no time");
    });
    pit_case("pit-ticks-are-even", |case| {
        wait_halted(2);
        let mut intervals = [0u64; 20];
        let mut last = rdtsc();
        for interval in &mut intervals {
            wait_halted(1);
            let now = rdtsc();
            *interval = now - last;
            last = now;
        }
        // Not the mean, which one long wait for another machine's turn would spoil.
        intervals.sort_unstable();
        let median = intervals[10];
        let even = intervals
            .iter()
            .filter(|interval| interval.abs_diff(median) < median / 2)
            .count();
        // On an emulator that shares its host a few may be late.
        case.ensure(even >= 14, "most of twenty ticks are off by half a period");
    });
    pit_case("pit-ticks-interrupt-a-loop", |case| {
        case.ensure(wait_spinning(3, 2_000_000_000), "no tick in a busy loop");
    });
    pit_case("cli-holds-a-tick-until-sti", |case| {
        wait_halted(1);
        let before = ticks();
        // Long enough for at least one tick by the PIT's own counter.
        wait_pit_wraps(2);
        case.equal("the ticks while interrupts are off", ticks(), before);
        x86!("sti", "nop", "nop", "cli");
        case.ensure(held_tick_came(before), "not the one tick that was held");
    });
    pit_case("sti-delays-by-one-instruction", |case| {
        wait_halted(1);
        let before = ticks();
        wait_pit_wraps(2);
        // Interrupts are on for the one instruction in the shadow of STI only.
        x86!("sti", "cli");
        case.equal("the ticks after STI and CLI", ticks(), before);
        x86!("sti", "nop", "nop", "cli");
        case.ensure(held_tick_came(before), "not the one tick that was held");
    });
    pit_case("masked-line-stays-silent", |case| {
        wait_halted(1);
        outb(0x21, 0xff);
        let before = ticks();
        x86!("sti");
        wait_pit_wraps(3);
        x86!("cli");
        outb(0x21, 0xfe);
        case.equal("the ticks", ticks(), before);
        wait_halted(2);
    });
    pit_case("exits-do-not-lose-ticks", |case| {
        // By the TSC, since a guest that shares its CPU may be away while the PIT's own counter starts over.
        const PERIODS: u64 = 20;
        wait_halted(1);
        let start = rdtsc();
        wait_halted(PERIODS);
        let length = rdtsc() - start;
        let before = ticks();
        let until = rdtsc() + length;
        x86!("sti");
        while rdtsc() < until {
            let _ = cpuid(1, 0);
        }
        x86!("cli");
        let arrived = ticks() - before;
        println!("timer: {arrived} ticks in {PERIODS} periods");
        case.ensure(
            (PERIODS - 3..=PERIODS + 3).contains(&arrived),
            "twenty periods of the PIT gave other than about twenty ticks",
        );
    });
    if present {
        outb(0x21, 0xff);
        set_handler(PIC_VECTOR, None);
    }
}

/// The current count of PIT channel 0.
fn pit_count() -> u16 {
    outb(0x43, 0x00);
    let low = inb(0x40);
    u16::from(inb(0x40)) << 8 | u16::from(low)
}

/// Waits until channel 0 has started over this many times.
fn wait_pit_wraps(count: u32) {
    let mut last = pit_count();
    let mut wraps = 0;
    while wraps < count {
        let now = pit_count();
        if now > last {
            wraps += 1;
        }
        last = now;
    }
}

fn apic(report: &mut Report) {
    let shown = cpuid(1, 0).edx & leaf1_edx::APIC != 0;
    let present = shown && apic::read(register::VERSION) != !0;
    if present {
        apic::write(
            register::SPURIOUS,
            SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR),
        );
        apic::write(register::DIVIDE, 0xb);
        apic::write(register::TASK_PRIORITY, 0);
        set_handler(APIC_VECTOR, Some(on_apic));
    }
    let mut apic_case = |name: &str, body: fn(&mut Case)| {
        report.case(name, |case| {
            if present {
                body(case)
            } else {
                case.skip("no local APIC")
            }
        });
    };
    apic_case("apic-one-shot", |case| {
        let before = ticks();
        apic::write(register::LVT_TIMER, u32::from(APIC_VECTOR));
        apic::write(register::INITIAL_COUNT, 100_000);
        case.ensure(
            apic::read(register::CURRENT_COUNT) <= 100_000,
            "the count starts above its initial value",
        );
        wait_halted(1);
        case.equal(
            "the count after the shot",
            apic::read(register::CURRENT_COUNT),
            0,
        );
        for _ in 0..10_000 {
            x86!("sti", "pause", "cli");
        }
        case.equal("the ticks", ticks(), before + 1);
    });
    apic_case("apic-count-goes-down", |case| {
        apic::write(register::LVT_TIMER, MASKED);
        apic::write(register::INITIAL_COUNT, u32::MAX);
        let first = apic::read(register::CURRENT_COUNT);
        for _ in 0..1000 {
            x86!("pause");
        }
        let second = apic::read(register::CURRENT_COUNT);
        apic::write(register::INITIAL_COUNT, 0);
        case.ensure(second < first, "the count stands still");
        case.equal(
            "the count after it was stopped",
            apic::read(register::CURRENT_COUNT),
            0,
        );
    });
    apic_case("apic-periodic", |case| {
        let before = ticks();
        apic::write(register::LVT_TIMER, PERIODIC | u32::from(APIC_VECTOR));
        apic::write(register::INITIAL_COUNT, 50_000);
        wait_halted(10);
        apic::write(register::LVT_TIMER, MASKED);
        apic::write(register::INITIAL_COUNT, 0);
        case.ensure(ticks() >= before + 10, "fewer than ten ticks");
    });
    apic_case("apic-masked-timer-stays-silent", |case| {
        let before = ticks();
        apic::write(register::LVT_TIMER, MASKED | u32::from(APIC_VECTOR));
        apic::write(register::INITIAL_COUNT, 1000);
        while apic::read(register::CURRENT_COUNT) != 0 {
            x86!("sti", "pause", "cli");
        }
        case.equal("the ticks", ticks(), before);
    });
    apic_case("apic-priority-holds-the-timer-back", |case| {
        let before = ticks();
        cpu::write_cr8(u64::from(APIC_VECTOR >> 4));
        apic::write(register::LVT_TIMER, u32::from(APIC_VECTOR));
        apic::write(register::INITIAL_COUNT, 1000);
        while apic::read(register::CURRENT_COUNT) != 0 {
            x86!("sti", "pause", "cli");
        }
        x86!("sti", "nop", "nop", "cli");
        case.equal("the ticks with the priority raised", ticks(), before);
        case.equal(
            "the task priority register",
            apic::read(register::TASK_PRIORITY),
            u32::from(APIC_VECTOR & 0xf0),
        );
        cpu::write_cr8(0);
        x86!("sti", "nop", "nop", "cli");
        case.equal("the ticks with the priority lowered", ticks(), before + 1);
    });
    apic_case("apic-tsc-deadline", |case| {
        if cpuid(1, 0).ecx & leaf1_ecx::TSC_DEADLINE == 0 {
            return case.skip("no TSC deadline mode");
        }
        const DEADLINE: u32 = 0x6e0;
        apic::write(register::LVT_TIMER, DEADLINE_MODE | u32::from(APIC_VECTOR));
        for distance in [10_000u64, 200_000, 1_000_000] {
            let before = ticks();
            let target = rdtsc() + distance;
            cpu::wrmsr(DEADLINE, target);
            wait_halted(1);
            case.ensure(rdtsc() >= target, "the deadline came early");
            case.equal("the ticks", ticks(), before + 1);
            // Bochs 2.7 keeps the old deadline in the register.
            if cpu::hypervisor().is_some() {
                case.equal("the deadline afterwards", cpu::rdmsr(DEADLINE), 0);
            }
        }
        let before = ticks();
        cpu::wrmsr(DEADLINE, 1);
        x86!("sti", "nop", "nop", "nop", "nop", "cli");
        case.equal("the ticks of a deadline in the past", ticks(), before + 1);
        cpu::wrmsr(DEADLINE, rdtsc() + 50_000);
        cpu::wrmsr(DEADLINE, 0);
        let until = rdtsc() + 200_000;
        while rdtsc() < until {
            x86!("sti", "pause", "cli");
        }
        case.equal("the ticks of a cancelled deadline", ticks(), before + 1);
        apic::write(register::LVT_TIMER, MASKED);
    });
    apic_case("apic-self-interrupt", |case| {
        let before = ticks();
        apic::write(register::COMMAND, 0x4_0000 | u32::from(APIC_VECTOR));
        x86!("sti", "nop", "nop", "cli");
        case.equal("the ticks", ticks(), before + 1);
    });
    apic_case("apic-id-agrees-with-cpuid", |case| {
        case.equal(
            "the APIC id",
            apic::read(register::ID) >> 24,
            cpuid(1, 0).ebx >> 24,
        );
        case.equal(
            "the base",
            cpu::rdmsr(msr::IA32_APIC_BASE) & 0xffff_f000,
            apic::BASE,
        );
    });
}
