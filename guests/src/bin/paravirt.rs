//! `paravirt`: the help for guests that know that they are guests, by KVM's leaves, MSRs and hypercalls.
//!
//! With the word `shared` on its command line another guest is beside it on the same CPU, and takes time from it.
//! A machine without the signature, or without one of the features, skips the cases.

#![no_std]
#![no_main]

use plinth_guests::cpu::{self, cpuid, msr, rdmsr, rdtsc};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::kvm::{self, CLOCKSOURCE2, PV_EOI, PV_UNHALT, STEAL_TIME, SYSTEM_TIME};
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, StartInfo, Vector, guest, println, probe, x86};

guest!(main);

const WALL_CLOCK: u32 = 0x4b56_4d00;
const ASYNC_PAGE_FAULTS: u32 = 0x4b56_4d02;
const STEAL: u32 = 0x4b56_4d03;
const EOI: u32 = 0x4b56_4d04;

const KICK_CPU: u64 = 5;
/// Plinth's own hypercall that tells the nanoseconds since the start.
const NOW_NS: u64 = 0x504c_0001;

const X2APIC_EOI: u32 = 0x80b;
const X2APIC_SPURIOUS: u32 = 0x80f;
/// The word of the in-service register with vectors 0x40 to 0x5f.
const X2APIC_IN_SERVICE: u32 = 0x812;
const X2APIC_SELF_IPI: u32 = 0x83f;
const VECTOR: u8 = 0x41;
const IN_SERVICE: u64 = 1 << (VECTOR - 0x40);

/// Runs a case where these features are offered.
type With<'a> = dyn FnMut(u32, &str, &dyn Fn(&mut Case)) + 'a;

/// What the hypervisor writes, each at a multiple of 64.
#[repr(C, align(64))]
struct Area([u64; 8]);

static CLOCK: Single<Area> = Single::new(Area([0; 8]));
static DATE: Single<Area> = Single::new(Area([0; 8]));
static STOLEN: Single<Area> = Single::new(Area([!0; 8]));
static FLAG: Single<Area> = Single::new(Area([0; 8]));

/// A 64-bit word of an area. The hypervisor may have written it at any exit.
fn word(area: &Single<Area>, index: usize) -> u64 {
    // SAFETY: one CPU, and the hypervisor writes only while this one does not run.
    unsafe { (&raw const (*area.get()).0[index]).read_volatile() }
}

fn set_word(area: &Single<Area>, index: usize, value: u64) {
    // SAFETY: as for reading.
    unsafe { (&raw mut (*area.get()).0[index]).write_volatile(value) };
}

/// Where it is: the runtime maps all memory to itself.
fn address(area: &Single<Area>) -> u64 {
    area.get() as u64
}

fn hypercall(number: u64, first: u64, second: u64) -> i64 {
    let result: i64;
    x86!(
        "mov {saved}, rbx",
        "mov rbx, {first}",
        "vmcall",
        "mov rbx, {saved}",
        saved = out(reg) _,
        first = in(reg) first,
        inout("rax") number => result,
        in("rcx") second,
    );
    result
}

/// Nanoseconds since the start, by the page, as the guest computes them.
fn clock_ns() -> u64 {
    kvm::clock_ns(|index| word(&CLOCK, index))
}

fn main(report: &mut Report, start: StartInfo) {
    let shared = start
        .command_line()
        .is_some_and(|line| line.contains("shared"));
    let features = kvm::features();
    report.case("own-signature-stays-first", |case| {
        if !cpu::is_plinth() {
            return case.skip("another hypervisor, or none");
        }
        case.ensure(
            features.is_some(),
            "KVM's signature is not at leaf 0x40000100",
        );
    });
    let mut with = |feature: u32, name: &str, body: &dyn Fn(&mut Case)| {
        report.case(name, |case| {
            if features.is_none_or(|features| features & feature != feature) {
                return case.skip("not offered");
            }
            body(case);
        });
    };
    with(0, "msrs-of-what-is-not-offered-are-not-there", &|case| {
        let read = probe(|| {
            rdmsr(ASYNC_PAGE_FAULTS);
        });
        case.faults("RDMSR", read, Vector::GeneralProtection, 0);
        refuses(case, ASYNC_PAGE_FAULTS, 0);
    });
    clock(&mut with);
    with(
        CLOCKSOURCE2,
        "wall-clock-tells-the-date-at-the-start",
        &|case| {
            set_word(&DATE, 0, 0);
            cpu::wrmsr(WALL_CLOCK, address(&DATE));
            let (version, seconds) = (word(&DATE, 0) as u32, word(&DATE, 0) >> 32);
            println!("paravirt: the VM began at {seconds} s since 1970");
            case.equal("bit 0 of the version", version & 1, 0);
            case.ensure(version != 0, "nothing was written");
            case.ensure(seconds >= 946_684_800, "it began before the year 2000");
            case.ensure(word(&DATE, 1) < 1_000_000_000, "more than a second of rest");
            refuses(case, WALL_CLOCK, address(&DATE) + 2);
            refuses(case, WALL_CLOCK, 0xfec0_0000);
        },
    );
    with(STEAL_TIME, "stolen-time-is-counted", &|case| {
        steal(case, shared)
    });
    ends_of_interrupts(&mut with);
    with(
        PV_UNHALT,
        "a-wake-ends-the-next-halt-with-interrupts-off",
        &|case| {
            let own = u64::from(cpuid(0xb, 0).edx);
            case.equal("the answer", hypercall(KICK_CPU, 0, own), 0);
            x86!("cli", "hlt");
            case.equal("the answer for nobody", hypercall(KICK_CPU, 0, 0x7fff), 0);
        },
    );
}

/// A write of such a value is a #GP.
fn refuses(case: &mut Case, index: u32, value: u64) {
    let written = probe(|| cpu::wrmsr(index, value));
    case.faults("WRMSR", written, Vector::GeneralProtection, 0);
}

fn clock(with: &mut With<'_>) {
    with(
        CLOCKSOURCE2,
        "the-clock-refuses-what-is-no-aligned-memory",
        &|case| {
            refuses(case, SYSTEM_TIME, address(&CLOCK) | 3);
            refuses(case, SYSTEM_TIME, 0xfee0_0001);
            refuses(case, SYSTEM_TIME, 1 << 45 | 1);
            case.equal("the MSR", rdmsr(SYSTEM_TIME), 0);
        },
    );
    with(
        CLOCKSOURCE2,
        "the-clock-agrees-with-the-hypervisor",
        &|case| {
            cpu::wrmsr(SYSTEM_TIME, address(&CLOCK) | 1);
            case.equal("the MSR", rdmsr(SYSTEM_TIME), address(&CLOCK) | 1);
            case.equal("bit 0 of the version", word(&CLOCK, 0) & 1, 0);
            case.equal("the flags", (word(&CLOCK, 3) >> 40) as u8, 1);
            if cpu::is_plinth() {
                agrees(case);
            }
        },
    );
    with(CLOCKSOURCE2, "the-clock-never-goes-back", &|case| {
        let mut last = clock_ns();
        for round in 0..10_000u32 {
            if round % 100 == 0 {
                let _ = cpuid(0, 0);
            }
            let now = clock_ns();
            case.ensure(now >= last, "the clock went back");
            last = now;
        }
    });
    with(CLOCKSOURCE2, "the-clock-survives-a-moved-tsc", &|case| {
        let before = clock_ns();
        let adjust = rdmsr(msr::IA32_TSC_ADJUST);
        cpu::wrmsr(msr::IA32_TIME_STAMP_COUNTER, 1 << 60);
        let (moved, tsc) = (clock_ns(), rdtsc());
        if cpu::is_plinth() {
            agrees(case);
        }
        cpu::wrmsr(msr::IA32_TSC_ADJUST, adjust);
        let restored = clock_ns();
        case.ensure(tsc >= 1 << 60, "the TSC was not moved");
        case.ensure(
            before <= moved && moved <= restored,
            "the clock jumped with the TSC",
        );
        case.ensure(restored - before < 10_000_000_000, "the clock jumped ahead");
    });
}

/// The clock lies between two answers of the hypervisor; both round, each a little in its way.
fn agrees(case: &mut Case) {
    const SLACK_NS: u64 = 1000;
    let before = hypercall(NOW_NS, 0, 0) as u64;
    let now = clock_ns();
    let after = hypercall(NOW_NS, 0, 0) as u64;
    println!("paravirt: {now} ns, between {before} and {after}");
    case.ensure(
        now + SLACK_NS >= before && now <= after + SLACK_NS,
        "the clock is not the hypervisor's",
    );
}

fn steal(case: &mut Case, shared: bool) {
    refuses(case, STEAL, (address(&STOLEN) + 32) | 1);
    refuses(case, STEAL, address(&STOLEN) | 2);
    cpu::wrmsr(STEAL, address(&STOLEN) | 1);
    let stolen = || word(&STOLEN, 0);
    case.equal("bit 0 of the version", word(&STOLEN, 1) & 1, 0);
    case.equal("the byte that says preempted", word(&STOLEN, 2) as u8, 0);
    let (began_ns, before_ns) = (clock_ns(), stolen());
    // Long enough for several turns of any scheduler.
    let mut now_ns = began_ns;
    while now_ns - began_ns < 200_000_000 {
        now_ns = clock_ns();
    }
    let stolen_ns = stolen() - before_ns;
    println!("paravirt: {stolen_ns} ns of {} stolen", now_ns - began_ns);
    case.equal("bit 0 of the version afterwards", word(&STOLEN, 1) & 1, 0);
    case.ensure(
        stolen_ns <= now_ns - began_ns,
        "more was stolen than there was",
    );
    if shared {
        case.ensure(stolen_ns > 0, "nothing was stolen beside another guest");
    }
    cpu::wrmsr(STEAL, 0);
}

/// What the handler saw: the flag, and whether it was the flag that ended the interrupt.
static SEEN: Single<u64> = Single::new(0);

fn on_interrupt(_: &mut Frame) {
    let flag = word(&FLAG, 0);
    // SAFETY: one CPU, and handlers do not nest.
    unsafe { SEEN.get().write_volatile(flag | 1 << 8) };
    set_word(&FLAG, 0, flag & !1);
    if flag & 1 == 0 {
        cpu::wrmsr(X2APIC_EOI, 0);
    }
}

fn ends_of_interrupts(with: &mut With<'_>) {
    let interrupt = || {
        // SAFETY: one CPU, and interrupts are off.
        unsafe { SEEN.get().write_volatile(0) };
        cpu::wrmsr(X2APIC_SELF_IPI, u64::from(VECTOR));
        x86!("sti", "nop", "nop", "cli");
        // SAFETY: as above.
        unsafe { SEEN.get().read_volatile() }
    };
    with(PV_EOI, "an-interrupt-ends-by-clearing-a-flag", &|case| {
        const APIC_ENABLED: u64 = 1 << 11;
        const X2APIC_MODE: u64 = 1 << 10;
        let base = rdmsr(msr::IA32_APIC_BASE);
        cpu::wrmsr(msr::IA32_APIC_BASE, base | APIC_ENABLED | X2APIC_MODE);
        cpu::wrmsr(X2APIC_SPURIOUS, 0x1ff);
        set_handler(VECTOR, Some(on_interrupt));
        refuses(case, EOI, address(&FLAG) | 3);
        case.equal("without the flag", interrupt(), 1 << 8);
        cpu::wrmsr(EOI, address(&FLAG) | 1);
        for _ in 0..3 {
            case.equal("the flag in the handler", interrupt(), 1 << 8 | 1);
            case.equal(
                "in service afterwards",
                rdmsr(X2APIC_IN_SERVICE) & IN_SERVICE,
                0,
            );
        }
        cpu::wrmsr(EOI, 0);
        case.equal("without the flag again", interrupt(), 1 << 8);
        case.equal(
            "in service at last",
            rdmsr(X2APIC_IN_SERVICE) & IN_SERVICE,
            0,
        );
    });
}
