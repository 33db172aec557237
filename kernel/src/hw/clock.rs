//! Time: the time-stamp counter, how fast it runs, and what the date was at boot.
//!
//! The frequency is measured, against the PIT right at the start and against the ACPI PM timer once that is
//! known. What CPUID says about it (leaf 15H) is taken only where it agrees with what was measured: some
//! machines say one thing and do another, and what the machine really does is what counts.

use core::arch::x86_64::_rdtsc;
use core::hint;
use core::sync::atomic::{AtomicU64, Ordering};

use host::frequency::Evidence;
use host::{Frequency, Rate};
use raw_cpuid::{CpuId, CpuIdReaderNative};
use x86_64::instructions::port::Port;

use super::acpi::PmTimer;

/// Ticks of the PIT's input clock in a second.
const PIT_HZ: u64 = 1_193_182;
/// Ticks of the ACPI PM timer in a second (ACPI specification, Power Management Timer).
const PM_TIMER_HZ: u64 = 3_579_545;
/// How long one measurement takes.
const MEASURE_US: u64 = 10_000;
/// Polls of a timer before it counts as standing still. One port access takes about a microsecond.
const POLLS: u32 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// The boot CPU writes these once (the frequency twice); everybody reads them.
static BOOT_TSC: AtomicU64 = AtomicU64::new(0);
static TSC_HZ: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per tick and ticks per nanosecond, as fractions of 2^32.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(0);
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(0);
/// The date when the TSC was [`BOOT_TSC`], in nanoseconds since 1970.
static BOOT_DATE_NS: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter.
#[inline]
pub(crate) fn tsc() -> u64 {
    // SAFETY: every processor with long mode has RDTSC, and CR4.TSD does not concern privilege level 0.
    unsafe { _rdtsc() }
}

/// How many times the TSC ticks in a second.
pub(crate) fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Nanoseconds since the hypervisor was entered.
#[inline]
pub(crate) fn now_ns() -> u64 {
    ns_at(tsc())
}

/// What [`now_ns`] was when the TSC had this value.
#[inline]
pub(crate) fn ns_at(tsc: u64) -> u64 {
    ticks_to_ns(tsc.wrapping_sub(BOOT_TSC.load(Ordering::Relaxed)))
}

/// The value of the TSC at the moment that [`now_ns`] calls `ns`.
#[inline]
pub(crate) fn tsc_at(ns: u64) -> u64 {
    BOOT_TSC
        .load(Ordering::Relaxed)
        .wrapping_add(ticks_until(ns))
}

/// The nanoseconds that `ticks` ticks of the TSC take.
#[inline]
pub(crate) fn ticks_to_ns(ticks: u64) -> u64 {
    rate().ns(ticks)
}

/// The ticks of the TSC in `ns` nanoseconds.
#[inline]
pub(crate) fn ns_to_ticks(ns: u64) -> u64 {
    rate().ticks(ns)
}

/// The ticks after which [`ticks_to_ns`] is that much, or one or two more: who waits for them is not too early.
#[inline]
pub(crate) fn ticks_until(ns: u64) -> u64 {
    rate().ticks_until(ns)
}

#[inline]
fn rate() -> Rate {
    Rate {
        ns_per_tick: NS_PER_TICK.load(Ordering::Relaxed),
        ticks_per_ns: TICKS_PER_NS.load(Ordering::Relaxed),
    }
}

/// The date and time of day in UTC, in nanoseconds since the start of 1970.
pub(crate) fn date_ns() -> u64 {
    date_ns_at(tsc())
}

/// The date and time of day in UTC when the TSC read this, which was not before the hypervisor was entered.
pub(crate) fn date_ns_at(tsc: u64) -> u64 {
    let since_boot = tsc.wrapping_sub(BOOT_TSC.load(Ordering::Relaxed));
    BOOT_DATE_NS
        .load(Ordering::Relaxed)
        .saturating_add(ticks_to_ns(since_boot))
}

/// Spends `us` microseconds doing nothing.
pub(crate) fn delay_us(us: u64) {
    let start = tsc();
    let ticks = ns_to_ticks(us.saturating_mul(1000));
    while tsc().wrapping_sub(start) < ticks {
        hint::spin_loop();
    }
}

/// Starts the clock: time 0 is now. Returns what was measured, for [`refine`].
pub(crate) fn init() -> Evidence {
    BOOT_TSC.store(tsc(), Ordering::Relaxed);
    let evidence = Evidence {
        pit_hz: measure_by_pit(),
        pm_timer_hz: None,
        cpuid_hz: cpuid_hz(),
    };
    set_frequency(evidence.frequency().hz);
    evidence
}

/// Improves on [`init`] once the ACPI tables are known, and says what came of it.
pub(crate) fn refine(evidence: Evidence, pm_timer: Option<PmTimer>) {
    let evidence = Evidence {
        pm_timer_hz: pm_timer.and_then(measure_by_pm_timer),
        ..evidence
    };
    let Frequency { hz, source } = evidence.frequency();
    set_frequency(hz);
    log::info!(
        "TSC at {}.{:03} MHz, {source}",
        hz / 1_000_000,
        hz / 1000 % 1000
    );
}

/// Notes what the date is now.
pub(crate) fn set_date(seconds_since_1970: u64) {
    let now_ns = now_ns();
    BOOT_DATE_NS.store(
        (seconds_since_1970 * NS_PER_S).saturating_sub(now_ns),
        Ordering::Relaxed,
    );
}

/// Sets the rate, such that the time of now stays what it is to about a microsecond: nobody may see it jump
/// back.
fn set_frequency(hz: u64) {
    let before = TSC_HZ.swap(hz, Ordering::Relaxed);
    let rate = Rate::of_hz(hz);
    NS_PER_TICK.store(rate.ns_per_tick, Ordering::Relaxed);
    TICKS_PER_NS.store(rate.ticks_per_ns, Ordering::Relaxed);
    if before != 0 {
        let now = tsc();
        let elapsed = now.wrapping_sub(BOOT_TSC.load(Ordering::Relaxed));
        let rescaled = (u128::from(elapsed) * u128::from(hz) / u128::from(before)) as u64;
        BOOT_TSC.store(now.wrapping_sub(rescaled), Ordering::Relaxed);
    }
}

/// What CPUID says (leaf 15H), where it says it completely.
fn cpuid_hz() -> Option<u64> {
    CpuId::with_cpuid_reader(CpuIdReaderNative)
        .get_tsc_info()?
        .tsc_frequency()
}

/// Counts the TSC while channel 2 of the PIT, the one that no interrupt hangs on, counts down once.
fn measure_by_pit() -> Option<u64> {
    const COUNT: u64 = PIT_HZ * MEASURE_US / 1_000_000;
    const { assert!(COUNT <= u16::MAX as u64) };
    let mut control = Port::<u8>::new(0x61);
    let mut channel = Port::<u8>::new(0x42);
    let mut command = Port::<u8>::new(0x43);
    // SAFETY: the ports belong to the PIT and its gate (8254 data sheet); the hypervisor uses neither for
    // anything else, and channel 2 drives no interrupt.
    unsafe {
        let before = control.read();
        // Gate on, speaker off. Mode 0: the output goes high when the count has run out.
        control.write(before & !2 | 1);
        command.write(0b1011_0000);
        channel.write(COUNT as u8);
        channel.write((COUNT >> 8) as u8);
        let start = tsc();
        let mut measured = None;
        for _ in 0..POLLS {
            if control.read() & 1 << 5 != 0 {
                measured = Some(tsc() - start);
                break;
            }
        }
        control.write(before);
        // A PIT that ends at once is none.
        measured
            .map(|ticks| ticks * PIT_HZ / COUNT)
            .filter(|&hz| hz > 1_000_000)
    }
}

/// Counts the TSC while the PM timer runs for [`MEASURE_US`].
fn measure_by_pm_timer(timer: PmTimer) -> Option<u64> {
    const COUNT: u32 = (PM_TIMER_HZ * MEASURE_US / 1_000_000) as u32;
    // Start on an edge of the timer, so that the fraction of its tick at the start does not count.
    let before = timer.read();
    let mut polls = 0..POLLS;
    polls.find(|_| timer.read() != before)?;
    let first = timer.read();
    let start = tsc();
    loop {
        polls.next()?;
        let elapsed = timer.ticks_since(first);
        if elapsed >= COUNT {
            return Some((tsc() - start) * PM_TIMER_HZ / u64::from(elapsed));
        }
    }
}
