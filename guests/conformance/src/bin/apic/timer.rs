//! The local APIC's timer in its three modes, in either mode of the registers. No case measures how long something
//! takes but by the timer's own counts and the TSC.

use plinth_guests::apic::{self, MASKED, TSC_DEADLINE, register as reg};
use plinth_guests::cpu::{self, cpuid, leaf1_ecx, leaf7, leaf7_ebx, msr, rdtsc};
use plinth_guests::recorder;
use plinth_guests::{Case, Report, x86};

use crate::{HIGH, LOW, MIDDLE, came, case_in, taken};

const PERIODIC: u32 = 1 << 17;
const DEADLINE_MODE: u32 = 2 << 17;
/// The divider's encoding of 1, 2 and 128.
const BY_1: u32 = 0xb;
const BY_2: u32 = 0;
const BY_128: u32 = 0xa;

/// Looks at the log until this many interrupts have come, or for so many rounds.
fn wait_for(count: usize) {
    for _ in 0..1_000_000 {
        x86!("sti", "nop", "cli");
        if recorder::log().count() >= count {
            return;
        }
    }
}

/// Waits until the count is down.
fn wait_for_zero() {
    while apic::get(reg::CURRENT_COUNT) != 0 {
        core::hint::spin_loop();
    }
}

fn shows_deadline_mode() -> bool {
    cpuid(1, 0).ecx & leaf1_ecx::TSC_DEADLINE != 0
}

/// Lets the TSC go on by at least this much, with interrupts let in.
fn pass(ticks: u64) {
    let until = rdtsc() + ticks;
    while rdtsc() < until {
        x86!("sti", "pause", "cli");
    }
}

pub(super) fn in_mode(report: &mut Report, mode: &str) {
    let mut case = |name: &str, body: fn(&mut Case)| {
        case_in(report, mode, name, |case| {
            apic::set(reg::DIVIDE, BY_1);
            body(case);
            apic::set(reg::LVT_TIMER, MASKED);
            apic::set(reg::INITIAL_COUNT, 0);
        });
    };
    case("timer-one-shot-fires-once", |case| {
        apic::set(reg::LVT_TIMER, u32::from(LOW));
        apic::set(reg::INITIAL_COUNT, 2000);
        wait_for(1);
        case.equal("the initial count", apic::get(reg::INITIAL_COUNT), 2000);
        case.equal("the current count", apic::get(reg::CURRENT_COUNT), 0);
        pass(20_000);
        came(case, "one shot", recorder::log(), &[LOW]);
    });
    case("timer-count-is-at-most-the-initial-one", |case| {
        apic::set(reg::LVT_TIMER, MASKED);
        apic::set(reg::INITIAL_COUNT, 1_000_000);
        let first = apic::get(reg::CURRENT_COUNT);
        pass(100);
        let second = apic::get(reg::CURRENT_COUNT);
        case.ensure(first <= 1_000_000, "the count is above its start");
        case.ensure(second < first, "the count does not go down");
    });
    case("timer-initial-count-of-zero-stops-it", |case| {
        apic::set(reg::LVT_TIMER, u32::from(LOW));
        apic::set(reg::INITIAL_COUNT, 100_000);
        apic::set(reg::INITIAL_COUNT, 0);
        case.equal("the current count", apic::get(reg::CURRENT_COUNT), 0);
        pass(300_000);
        came(case, "stopped", recorder::log(), &[]);
    });
    case("timer-starts-anew-with-each-initial-count", |case| {
        apic::set(reg::LVT_TIMER, u32::from(LOW));
        for _ in 0..20 {
            apic::set(reg::INITIAL_COUNT, 1_000_000);
            pass(1000);
        }
        came(case, "never run down", recorder::log(), &[]);
        apic::set(reg::INITIAL_COUNT, 100);
        wait_for(1);
        came(case, "run down", recorder::log(), &[LOW]);
    });
    case("timer-periodic-fires-again-and-again", |case| {
        apic::set(reg::LVT_TIMER, PERIODIC | u32::from(LOW));
        apic::set(reg::INITIAL_COUNT, 20_000);
        wait_for(4);
        case.ensure(apic::get(reg::CURRENT_COUNT) != 0, "the count stays at 0");
        case.ensure(recorder::log().count() >= 4, "fewer than four ticks");
        apic::set(reg::INITIAL_COUNT, 0);
        apic::open_window();
        recorder::clear();
        pass(60_000);
        came(case, "stopped", recorder::log(), &[]);
    });
    case("timer-masked-counts-and-stays-silent", |case| {
        apic::set(reg::LVT_TIMER, MASKED | u32::from(LOW));
        apic::set(reg::INITIAL_COUNT, 1000);
        wait_for_zero();
        came(case, "masked", taken(), &[]);
        // What it has missed does not come later.
        apic::set(reg::LVT_TIMER, u32::from(LOW));
        came(case, "opened afterwards", taken(), &[]);
    });
    case("timer-uses-the-entry-at-the-time-it-fires", |case| {
        apic::set(reg::LVT_TIMER, u32::from(LOW));
        apic::set(reg::INITIAL_COUNT, 50_000);
        apic::set(reg::LVT_TIMER, u32::from(MIDDLE));
        wait_for(1);
        came(case, "the vector was changed", recorder::log(), &[MIDDLE]);
    });
    case("timer-fired-keeps-its-vector", |case| {
        apic::set(reg::LVT_TIMER, u32::from(LOW));
        apic::set(reg::INITIAL_COUNT, 100);
        wait_for_zero();
        apic::settle();
        apic::set(reg::LVT_TIMER, MASKED | u32::from(HIGH));
        came(case, "changed and masked afterwards", taken(), &[LOW]);
    });
    case("timer-divider-slows-it-down", |case| {
        let mut counted = [0u64; 2];
        for (ticks, divider) in counted.iter_mut().zip([BY_2, BY_128]) {
            apic::set(reg::DIVIDE, divider);
            apic::set(reg::LVT_TIMER, MASKED);
            apic::set(reg::INITIAL_COUNT, u32::MAX);
            let start = rdtsc();
            while rdtsc() - start < 400_000 {
                core::hint::spin_loop();
            }
            *ticks = u64::from(u32::MAX - apic::get(reg::CURRENT_COUNT));
        }
        let [fast, slow] = counted;
        // 64 times, give or take what lies between the accesses.
        case.ensure(
            fast > slow * 32 && fast < slow * 128,
            "a divider of 128 is not 64 times as slow as one of 2",
        );
    });
    case("deadline-fires-not-before-its-time", |case| {
        if !shows_deadline_mode() {
            return case.skip("no TSC deadline mode");
        }
        apic::set(reg::LVT_TIMER, DEADLINE_MODE | u32::from(LOW));
        let target = rdtsc() + 30_000;
        cpu::wrmsr(TSC_DEADLINE, target);
        case.equal("the deadline", cpu::rdmsr(TSC_DEADLINE), target);
        wait_for(1);
        case.ensure(rdtsc() >= target, "it fired early");
        case.equal("the deadline afterwards", cpu::rdmsr(TSC_DEADLINE), 0);
        pass(60_000);
        came(case, "one deadline", recorder::log(), &[LOW]);
    });
    case("deadline-in-the-past-fires-at-once", |case| {
        if !shows_deadline_mode() {
            return case.skip("no TSC deadline mode");
        }
        apic::set(reg::LVT_TIMER, DEADLINE_MODE | u32::from(LOW));
        cpu::wrmsr(TSC_DEADLINE, rdtsc().saturating_sub(1));
        apic::settle();
        came(case, "a moment ago", taken(), &[LOW]);
        cpu::wrmsr(TSC_DEADLINE, 1);
        apic::settle();
        came(case, "long ago", taken(), &[LOW, LOW]);
    });
    case("deadline-of-zero-disarms", |case| {
        if !shows_deadline_mode() {
            return case.skip("no TSC deadline mode");
        }
        apic::set(reg::LVT_TIMER, DEADLINE_MODE | u32::from(LOW));
        cpu::wrmsr(TSC_DEADLINE, rdtsc() + 100_000);
        cpu::wrmsr(TSC_DEADLINE, 0);
        case.equal("the deadline", cpu::rdmsr(TSC_DEADLINE), 0);
        pass(300_000);
        came(case, "disarmed", recorder::log(), &[]);
    });
    case("deadline-is-ignored-in-the-other-modes", |case| {
        if !shows_deadline_mode() {
            return case.skip("no TSC deadline mode");
        }
        apic::set(reg::LVT_TIMER, u32::from(LOW));
        cpu::wrmsr(TSC_DEADLINE, rdtsc() + 1000);
        case.equal("the deadline", cpu::rdmsr(TSC_DEADLINE), 0);
        pass(30_000);
        came(case, "one-shot mode", recorder::log(), &[]);
    });
    case("initial-count-is-ignored-in-deadline-mode", |case| {
        if !shows_deadline_mode() {
            return case.skip("no TSC deadline mode");
        }
        apic::set(reg::LVT_TIMER, DEADLINE_MODE | u32::from(LOW));
        apic::set(reg::INITIAL_COUNT, 100);
        case.equal("the current count", apic::get(reg::CURRENT_COUNT), 0);
        pass(30_000);
        came(case, "deadline mode", recorder::log(), &[]);
    });
    case("leaving-deadline-mode-disarms", |case| {
        if !shows_deadline_mode() {
            return case.skip("no TSC deadline mode");
        }
        apic::set(reg::LVT_TIMER, DEADLINE_MODE | u32::from(LOW));
        cpu::wrmsr(TSC_DEADLINE, rdtsc() + 100_000);
        apic::set(reg::LVT_TIMER, u32::from(LOW));
        apic::set(reg::LVT_TIMER, DEADLINE_MODE | u32::from(LOW));
        case.equal("the deadline", cpu::rdmsr(TSC_DEADLINE), 0);
        pass(300_000);
        came(case, "the mode was left and entered", recorder::log(), &[]);
    });
    case("entering-deadline-mode-stops-the-count", |case| {
        if !shows_deadline_mode() {
            return case.skip("no TSC deadline mode");
        }
        apic::set(reg::LVT_TIMER, u32::from(LOW));
        apic::set(reg::INITIAL_COUNT, 100_000);
        apic::set(reg::LVT_TIMER, DEADLINE_MODE | u32::from(LOW));
        case.equal("the current count", apic::get(reg::CURRENT_COUNT), 0);
        pass(300_000);
        came(case, "the mode was entered", recorder::log(), &[]);
    });
    case("deadline-follows-writes-of-the-tsc", |case| {
        if !shows_deadline_mode() || leaf7().ebx & leaf7_ebx::TSC_ADJUST == 0 {
            return case.skip("no TSC deadline mode, or no way to put the TSC back");
        }
        let adjust = cpu::rdmsr(msr::IA32_TSC_ADJUST);
        apic::set(reg::LVT_TIMER, DEADLINE_MODE | u32::from(LOW));
        let target = rdtsc() + 4_000_000_000;
        cpu::wrmsr(TSC_DEADLINE, target);
        pass(10_000);
        came(case, "far from the deadline", recorder::log(), &[]);
        cpu::wrmsr(msr::IA32_TIME_STAMP_COUNTER, target + 1);
        pass(10_000);
        let log = recorder::log();
        cpu::wrmsr(msr::IA32_TSC_ADJUST, adjust);
        came(case, "behind it", log, &[LOW]);
    });
    case("masked-deadline-stays-silent", |case| {
        if !shows_deadline_mode() {
            return case.skip("no TSC deadline mode");
        }
        apic::set(reg::LVT_TIMER, MASKED | DEADLINE_MODE | u32::from(LOW));
        cpu::wrmsr(TSC_DEADLINE, rdtsc() + 1000);
        pass(30_000);
        came(case, "masked", recorder::log(), &[]);
        apic::set(reg::LVT_TIMER, DEADLINE_MODE | u32::from(LOW));
        came(case, "opened afterwards", taken(), &[]);
    });
}
