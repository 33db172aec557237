//! `clocks`: every clock of the machine tells the same time, always, and timers are never early.
//!
//! With `tsc=MHZ` on its command line the TSC has to run at that frequency. With the word `shared` other guests are on
//! the same CPU, and the clocks are looked at across their turns. `ms=N` says for how long. A clock that a machine
//! lacks is passed over.

#![no_std]
#![no_main]

use plinth_guests::apic::{self, register};
use plinth_guests::cpu::{self, cpuid, inb, inl, leaf1_ecx, msr, outb, rdtsc};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::kvm;
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, StartInfo, guest, println, x86};

guest!(main);

/// The ACPI PM timer of Plinth's board. A machine that has it elsewhere reads as all ones here.
const PM_TIMER: u16 = 0x608;
const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;
const NS_PER_S: u64 = 1_000_000_000;
const DAY_S: u64 = 24 * 60 * 60;
const TIMER_VECTOR: u8 = 0x41;
/// How long clocks are compared, where nobody says otherwise.
const USUAL_MS: u64 = 400;

/// A clock that counts up.
struct Clock {
    name: &'static str,
    hz: u64,
    /// It wraps after so many counts.
    modulus: u128,
    read: fn() -> u64,
}

/// A clock, and what it read at the start.
struct Watched {
    clock: Clock,
    /// The TSC shortly before and shortly after the first reading.
    start_tsc: [u64; 2],
    start: u64,
    last: u64,
    last_tsc: u64,
    samples: u32,
}

/// What CPUID tells about the TSC: its frequency, and that of the local APIC's timer.
#[derive(Clone, Copy)]
struct Told {
    tsc_hz: u64,
    apic_hz: u64,
}

fn told() -> Option<Told> {
    let leaf = cpuid(0x15, 0);
    let (denominator, numerator, crystal) = (leaf.eax, leaf.ebx, leaf.ecx);
    if cpuid(0, 0).eax < 0x16 || denominator == 0 || numerator == 0 || crystal == 0 {
        return None;
    }
    let product = u128::from(crystal) * u128::from(numerator);
    Some(Told {
        tsc_hz: (product / u128::from(denominator)) as u64,
        apic_hz: u64::from(crystal),
    })
}

/// `ticks` of a clock with this frequency, in those of another.
fn converted(ticks: u64, hz: u64, other_hz: u64) -> u128 {
    u128::from(ticks) * u128::from(other_hz) / u128::from(hz)
}

fn main(report: &mut Report, start: StartInfo) {
    let Some(told) = told() else {
        report.case("clocks-agree", |case| {
            case.skip("CPUID does not tell the frequency of the TSC");
        });
        return;
    };
    apic::enable();
    println!(
        "clocks: the TSC runs at {} Hz, the APIC timer at {} Hz",
        told.tsc_hz, told.apic_hz
    );
    if let Some(wanted) = start.number("tsc") {
        report.case("the-tsc-has-the-frequency-that-was-asked-for", |case| {
            let mhz = u64::from(cpuid(0x16, 0).eax);
            case.equal("the MHz of CPUID leaf 16H", mhz, wanted);
            let hz = wanted * 1_000_000;
            case.ensure(
                hz.abs_diff(told.tsc_hz) <= hz / 50_000,
                "CPUID leaf 15H tells another one",
            );
        });
    }
    let ms = start.number("ms").unwrap_or(USUAL_MS);
    let shared = start
        .command_line()
        .is_some_and(|line| line.split(' ').any(|word| word == "shared"));
    agreement(report, told, ms, shared);
    never_early(report, told);
}

fn agreement(report: &mut Report, told: Told, ms: u64, shared: bool) {
    start_pit();
    start_apic_timer();
    let pm_timer = (inl(PM_TIMER) != u32::MAX || inl(PM_TIMER) != u32::MAX).then_some(Clock {
        name: "pm-timer",
        hz: PM_TIMER_HZ,
        modulus: 1 << 24,
        read: || u64::from(inl(PM_TIMER) & 0xff_ffff),
    });
    let kvm = start_kvm_clock().then_some(Clock {
        name: "kvm-clock",
        hz: NS_PER_S,
        modulus: 1 << 64,
        read: kvm_clock_ns,
    });
    let clocks = [
        Some(Clock {
            name: "pit",
            hz: PIT_HZ,
            modulus: 1 << 16,
            read: pit_count,
        }),
        Some(Clock {
            name: "apic-timer",
            hz: told.apic_hz,
            modulus: u128::from(u32::MAX),
            read: || u64::from(u32::MAX - apic::get(register::CURRENT_COUNT)),
        }),
        Some(Clock {
            name: "rtc",
            hz: 1,
            modulus: u128::from(DAY_S),
            read: rtc_second,
        }),
        pm_timer,
        kvm,
    ];
    let mut watched = clocks.map(|clock| clock.map(Watched::new));
    let began = rdtsc();
    let ticks = ms * told.tsc_hz / 1000;
    let mut backwards = false;
    // A gap this long between two looks at the TSC is somebody else's turn.
    let turn = told.tsc_hz / 1000;
    let (mut last, mut lost) = (began, 0);
    let mut wrong: [Option<Disagreement>; 5] = [None; 5];
    while last - began < ticks {
        for (watched, wrong) in watched.iter_mut().zip(&mut wrong) {
            if let Some(watched) = watched {
                let found = watched.look(told.tsc_hz);
                *wrong = wrong.or(found);
            }
            let now = rdtsc();
            backwards |= now < last;
            let gap = now.saturating_sub(last);
            if gap > turn {
                lost += gap;
            }
            last = now;
        }
    }
    let lost_ms = converted(lost, told.tsc_hz, 1000);
    println!("clocks: {lost_ms} ms of {ms} were others'");
    report.case("the-tsc-never-goes-back", |case| {
        case.ensure(!backwards, "it has");
        if shared {
            case.ensure(
                lost_ms > u128::from(ms / 3),
                "hardly anybody else had a turn meanwhile",
            );
        }
    });
    for (watched, wrong) in watched.iter().zip(wrong) {
        let Some(watched) = watched else { continue };
        let name = watched.clock.name;
        report.case(name, |case| {
            println!("clocks: {name} was compared {} times", watched.samples);
            case.ensure(watched.samples > 10, "it could hardly be compared");
            if let Some(Disagreement { is, low, high, ms }) = wrong {
                case.fail(format_args!(
                    "after {ms} ms it has counted {is}, and not {low} to {high}"
                ));
            }
        });
    }
}

/// A clock that is elsewhere than the TSC says.
#[derive(Clone, Copy)]
struct Disagreement {
    is: u64,
    low: i128,
    high: i128,
    ms: u64,
}

impl Watched {
    fn new(clock: Clock) -> Self {
        let before = rdtsc();
        let start = (clock.read)();
        let after = rdtsc();
        Self {
            clock,
            start_tsc: [before, after],
            start,
            last: start,
            last_tsc: before,
            samples: 0,
        }
    }

    /// Compares it with the TSC, which is read before and after: in between it has been read. What it has counted
    /// is known but for whole turns of its counter.
    fn look(&mut self, tsc_hz: u64) -> Option<Disagreement> {
        let Clock { hz, modulus, .. } = self.clock;
        let before = rdtsc();
        let now = (self.clock.read)();
        let after = rdtsc();
        let least = converted(before - self.start_tsc[1], tsc_hz, hz);
        let most = converted(after - self.start_tsc[0], tsc_hz, hz);
        // Both are counts, begun at some moment between two of them; and CPUID rounds frequencies.
        let slack = 2 + most / 20_000;
        let low = least.cast_signed() - slack.cast_signed();
        let high = (most + slack).cast_signed();
        let modulus_signed = modulus.cast_signed();
        if high - low >= modulus_signed {
            // Somebody else's turn was in between.
            return None;
        }
        self.samples += 1;
        let since = |value: u64, start: u64| {
            (i128::from(value) - i128::from(start)).rem_euclid(modulus_signed)
        };
        let is = since(now, self.start);
        let is_between = (is - low).rem_euclid(modulus_signed) <= high - low;
        // By little it would still be between.
        let passed = converted(after - self.last_tsc, tsc_hz, hz);
        let is_back = passed < modulus / 2 && since(now, self.last) >= modulus.cast_signed() / 2;
        self.last = now;
        self.last_tsc = before;
        (!is_between || is_back).then_some(Disagreement {
            is: is as u64,
            low: low.rem_euclid(modulus_signed),
            high: high.rem_euclid(modulus_signed),
            ms: converted(after - self.start_tsc[0], tsc_hz, 1000) as u64,
        })
    }
}

/// Channel 2 counts down from 65536 again and again.
fn start_pit() {
    outb(0x61, inb(0x61) & !2 | 1);
    outb(0x43, 0b1011_0100);
    outb(0x42, 0);
    outb(0x42, 0);
    // The count is loaded with the next pulse.
    while pit_count() > 0x8000 {}
}

fn pit_count() -> u64 {
    outb(0x43, 0b1000_0000);
    let low = inb(0x42);
    let high = inb(0x42);
    u64::from(u16::from_le_bytes([low, high]).wrapping_neg())
}

/// The local APIC's timer counts at full speed, masked, again and again.
fn start_apic_timer() {
    apic::set(register::DIVIDE, 0b1011);
    apic::set(
        register::LVT_TIMER,
        apic::PERIODIC | apic::MASKED | u32::from(TIMER_VECTOR),
    );
    apic::set(register::INITIAL_COUNT, u32::MAX);
}

/// The second of the day.
fn rtc_second() -> u64 {
    let field = |index: u8| {
        outb(0x70, index);
        let value = inb(0x71);
        u64::from(value >> 4) * 10 + u64::from(value & 15)
    };
    let all = || [4, 2, 0].map(field);
    let mut time = all();
    loop {
        let again = all();
        if time == again {
            return (time[0] * 60 + time[1]) * 60 + time[2];
        }
        time = again;
    }
}

#[repr(C, align(32))]
struct Page([u64; 4]);

static PAGE: Single<Page> = Single::new(Page([0; 4]));

fn word(index: usize) -> u64 {
    // SAFETY: one CPU, and the hypervisor writes only while this one does not run.
    unsafe { (&raw const (*PAGE.get()).0[index]).read_volatile() }
}

fn start_kvm_clock() -> bool {
    let offered = kvm::has_clock();
    if offered {
        cpu::wrmsr(kvm::SYSTEM_TIME, PAGE.get() as u64 | 1);
    }
    offered
}

fn kvm_clock_ns() -> u64 {
    kvm::clock_ns(word)
}

/// The TSC at the last timer interrupt; 0 for none.
static FIRED: Single<u64> = Single::new(0);

fn on_timer(_: &mut Frame) {
    // SAFETY: one CPU, and handlers do not nest.
    unsafe { FIRED.get().write_volatile(rdtsc()) };
    apic::end_of_interrupt();
}

/// Waits for the timer's interrupt, halted or spinning, and returns the TSC that its handler read.
fn fired(halted: bool) -> u64 {
    loop {
        // SAFETY: one CPU; volatile, since a handler writes it.
        let fired = unsafe { FIRED.get().read_volatile() };
        if fired != 0 {
            return fired;
        }
        if halted {
            x86!("sti", "hlt", "cli");
        } else {
            x86!("sti", "nop", "nop", "cli");
        }
    }
}

fn expect_none() {
    // SAFETY: one CPU, and interrupts are off.
    unsafe { FIRED.get().write_volatile(0) };
}

/// Deadlines from some microseconds to some milliseconds.
const ROUNDS: u64 = 24;

fn never_early(report: &mut Report, told: Told) {
    set_handler(TIMER_VECTOR, Some(on_timer));
    report.case("deadlines-are-never-early", |case| {
        if cpuid(1, 0).ecx & leaf1_ecx::TSC_DEADLINE == 0 {
            return case.skip("there is no TSC-deadline mode");
        }
        apic::set(
            register::LVT_TIMER,
            apic::DEADLINE_MODE | u32::from(TIMER_VECTOR),
        );
        for round in 1..=ROUNDS {
            expect_none();
            let deadline = rdtsc() + round * told.tsc_hz / 7000;
            cpu::wrmsr(apic::TSC_DEADLINE, deadline);
            let at = fired(round % 2 == 0);
            early(case, at, deadline);
        }
        // The counter is moved while a deadline waits, which stays where it is.
        expect_none();
        let now = rdtsc();
        cpu::wrmsr(apic::TSC_DEADLINE, now + told.tsc_hz);
        cpu::wrmsr(msr::IA32_TIME_STAMP_COUNTER, now + told.tsc_hz / 1000 * 999);
        early(case, fired(false), now + told.tsc_hz);
    });
    report.case("counts-are-never-early", |case| {
        apic::set(register::DIVIDE, 0b1011);
        apic::set(register::LVT_TIMER, u32::from(TIMER_VECTOR));
        for round in 1..=ROUNDS {
            expect_none();
            let count = round * told.apic_hz / 7000;
            let armed = rdtsc();
            apic::set(register::INITIAL_COUNT, count as u32);
            let at = fired(round % 2 == 0);
            // Frequencies are rounded, to less than this.
            let ticks = converted(count, told.apic_hz, told.tsc_hz) as u64;
            early(case, at, armed + ticks - ticks / 50_000 - 1);
        }
    });
}

fn early(case: &mut Case, at: u64, deadline: u64) {
    if at < deadline {
        case.fail(format_args!("{} ticks early", deadline - at));
    }
}
