//! The local APIC's timer in TSC-deadline mode: arming it, how late it is, what it takes from a busy CPU.

use crate::apic::{self, LVT_TIMER, VECTOR};
use crate::measure::bench;
use crate::ticks;
use crate::vectors;
use plinth_guests::cpu::{cpuid, leaf1_ecx, rdtsc, wrmsr};
use plinth_guests::{Case, x86};

const DEADLINE: u32 = 0x6e0;
const DEADLINE_MODE: u64 = 2 << 17;
const MASKED: u64 = 1 << 16;
/// Far enough that a CPU is idle, or busy, for a while before.
const DISTANCE: u64 = 50_000;

fn is_there() -> bool {
    cpuid(1, 0).ecx & leaf1_ecx::TSC_DEADLINE != 0
}

pub(crate) fn measure_xapic(case: &mut Case) {
    if is_there() {
        measure(
            [
                "xapic-deadline-arm",
                "xapic-timer-cycle",
                "xapic-timer-latency",
                "xapic-hlt-wake",
            ],
            |value| apic::write(LVT_TIMER, value),
            case,
        );
    }
}

pub(crate) fn measure_x2apic(case: &mut Case) {
    if is_there() && apic::has_x2apic() {
        measure(
            [
                "x2apic-deadline-arm",
                "x2apic-timer-cycle",
                "x2apic-timer-latency",
                "x2apic-hlt-wake",
            ],
            |value| wrmsr(apic::x2_register(LVT_TIMER) as u32, value),
            case,
        );
    }
}

fn measure([arm, cycle, latency, halted]: [&str; 4], set_lvt: impl Fn(u64), case: &mut Case) {
    set_lvt(DEADLINE_MODE | u64::from(VECTOR));
    let far = u64::MAX >> 2;
    bench(
        arm,
        || ticks!(far, u64::from(DEADLINE); "mov ecx, esi", "mov eax, edi", "mov rdx, rdi", "shr rdx, 32", "wrmsr"),
    );
    vectors::set(VECTOR, apic::handlers().once);
    bench(latency, || late(|| x86!("pause"), case));
    bench(halted, || late(|| x86!("hlt"), case));
    vectors::set(VECTOR, apic::handlers().periodic);
    wrmsr(DEADLINE, rdtsc() + vectors::PERIOD);
    x86!("sti");
    bench(cycle, stolen);
    x86!("cli");
    wrmsr(DEADLINE, 0);
    set_lvt(MASKED);
}

/// How long after its deadline the timer's interrupt is handled, while the CPU does `wait` again and again. One that
/// comes before it fails the case.
fn late(wait: impl Fn(), case: &mut Case) -> u64 {
    let before = vectors::count();
    let deadline = rdtsc() + DISTANCE;
    wrmsr(DEADLINE, deadline);
    x86!("sti");
    while vectors::count() == before {
        wait();
    }
    x86!("cli");
    let taken = vectors::taken();
    if taken < deadline {
        case.fail(format_args!(
            "a timer fired {} ticks early",
            deadline - taken
        ));
    }
    taken.saturating_sub(deadline)
}

/// What the next interrupt takes: the longest time that a loop which only looks at the clock does not get to see it.
fn stolen() -> u64 {
    let before = vectors::count();
    let (mut last, mut longest) = (rdtsc(), 0);
    loop {
        // The handler may have run on either side of the look at the clock.
        let is_over = vectors::count() != before;
        let now = rdtsc();
        longest = longest.max(now - last);
        if is_over {
            return longest;
        }
        last = now;
    }
}
