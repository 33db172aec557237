//! The local APIC of each CPU: interrupts between CPUs, end of interrupt, and the timer.
//!
//! x2APIC mode (MSRs) where the CPU has it, else the registers in memory (SDM vol. 3, Advanced Programmable
//! Interrupt Controller). All CPUs are in the same mode.

use core::hint;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arch::Vector;
use arch::msr::{IA32_APIC_BASE, IA32_TSC_DEADLINE, IA32_X2APIC_FIRST};
use host::destination::{ApicMode, IpiCommand};
use memory::HostPhys;
use raw_cpuid::{CpuId, CpuIdReaderNative};
use x86_64::instructions::interrupts::without_interrupts;

use super::interrupts::HostVector;
use super::msr::{read_msr, write_msr};
use super::this;
use crate::hw::clock;
use crate::memory::direct_map;

/// A register, by its offset in the APIC's page. In x2APIC mode, a sixteenth of it counts from
/// [`IA32_X2APIC_FIRST`].
#[derive(Clone, Copy)]
#[repr(u32)]
enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    InService = 0x100,
    ErrorStatus = 0x280,
    InterruptCommand = 0x300,
    InterruptCommandHigh = 0x310,
    LvtTimer = 0x320,
    LvtLint0 = 0x350,
    LvtError = 0x370,
    TimerInitial = 0x380,
    TimerCurrent = 0x390,
    TimerDivide = 0x3e0,
}

/// IA32_APIC_BASE: global enable, and x2APIC mode.
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
/// Spurious-interrupt vector register: software enable.
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Local vector table: mask, and the timer's TSC-deadline mode.
const LVT_MASKED: u32 = 1 << 16;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
/// Timer divide configuration: by one.
const DIVIDE_BY_1: u32 = 0b1011;
/// Interrupt command register: delivery modes, level, delivery status.
const ICR_NMI: u32 = 4 << 8;
const ICR_INIT: u32 = 5 << 8;
const ICR_STARTUP: u32 = 6 << 8;
const ICR_ASSERT: u32 = 1 << 14;
const ICR_PENDING: u32 = 1 << 12;
const ICR_ALL_BUT_SELF: u32 = 3 << 18;
/// Polls of the delivery status before an interrupt counts as stuck.
const SEND_POLLS: u32 = 100_000;

/// How the registers are reached: one of the constants below, or the address of their page. Written by the
/// boot CPU before any other starts.
static ACCESS: AtomicU64 = AtomicU64::new(NOT_READY);
const NOT_READY: u64 = 0;
const BY_MSR: u64 = 1;

/// Ticks of the APIC's timer in a millisecond; 0 where the timer counts in TSC ticks.
static TIMER_PER_MS: AtomicU32 = AtomicU32::new(0);

/// What this CPU's APIC, and its timer, can do.
#[derive(Clone, Copy)]
struct Abilities {
    x2apic: bool,
    tsc_deadline: bool,
}

impl Abilities {
    fn detect() -> Self {
        let features = CpuId::with_cpuid_reader(CpuIdReaderNative).get_feature_info();
        Self {
            x2apic: features
                .as_ref()
                .is_some_and(|features| features.has_x2apic()),
            tsc_deadline: features
                .as_ref()
                .is_some_and(|features| features.has_tsc_deadline()),
        }
    }
}

fn read(register: Register) -> u32 {
    match ACCESS.load(Ordering::Relaxed) {
        NOT_READY => 0,
        BY_MSR => read_msr(IA32_X2APIC_FIRST + register as u32 / 16) as u32,
        page => {
            // SAFETY: `ACCESS` holds the address of the APIC's page, which is mapped uncached for ever.
            unsafe { ((page + register as u64) as *const u32).read_volatile() }
        }
    }
}

#[inline]
fn write(register: Register, value: u32) {
    match ACCESS.load(Ordering::Relaxed) {
        NOT_READY => {}
        // SAFETY: the register exists, and this module writes only values that it takes.
        BY_MSR => unsafe { write_msr(IA32_X2APIC_FIRST + register as u32 / 16, value.into()) },
        // SAFETY: as in `read`.
        page => unsafe { ((page + register as u64) as *mut u32).write_volatile(value) },
    }
}

/// Finds out how to reach the APICs. To be called by the boot CPU, before [`init_this_cpu`].
///
/// # Safety
/// The direct map is in place, and covers the APIC's page.
pub(crate) unsafe fn init() {
    let base = read_msr(IA32_APIC_BASE);
    let access = if Abilities::detect().x2apic {
        BY_MSR
    } else {
        // Bits 12 and up; those above the physical address width are zero.
        direct_map(HostPhys::new(base & !0xfff)).as_u64()
    };
    ACCESS.store(access, Ordering::Relaxed);
}

/// Switches on the APIC of the CPU that runs this.
///
/// # Safety
/// After [`init`]; the IDT is loaded and interrupts are off.
pub(crate) unsafe fn init_this_cpu() {
    let abilities = Abilities::detect();
    let mut base = read_msr(IA32_APIC_BASE) | BASE_ENABLE;
    // SAFETY: enabling changes nothing that Rust knows of. x2APIC mode can only be entered from the enabled
    // state, so in two steps (SDM vol. 3, x2APIC State Transitions).
    unsafe {
        write_msr(IA32_APIC_BASE, base);
        if ACCESS.load(Ordering::Relaxed) == BY_MSR {
            base |= BASE_X2APIC;
            write_msr(IA32_APIC_BASE, base);
        }
    }
    let id = read(Register::Id);
    this().set_apic_id(if base & BASE_X2APIC != 0 {
        id
    } else {
        id >> 24
    });

    write(Register::TaskPriority, 0);
    // The 8259s' output hangs here on the boot CPU. LINT1, the NMI, stays as the firmware has set it.
    write(Register::LvtLint0, LVT_MASKED);
    write(Register::LvtError, HostVector::ApicError as u32);
    write(
        Register::SpuriousVector,
        SOFTWARE_ENABLE | HostVector::Spurious as u32,
    );
    write(Register::ErrorStatus, 0);
    if abilities.tsc_deadline {
        write(
            Register::LvtTimer,
            LVT_TSC_DEADLINE | HostVector::Timer as u32,
        );
        // In xAPIC mode the write above is to memory and must be done before the first deadline is set (SDM
        // vol. 3, TSC-Deadline Mode).
        core::sync::atomic::fence(Ordering::SeqCst);
    } else {
        write(Register::TimerDivide, DIVIDE_BY_1);
        write(Register::LvtTimer, HostVector::Timer as u32);
        if TIMER_PER_MS.load(Ordering::Relaxed) == 0 {
            TIMER_PER_MS.store(measure_timer(), Ordering::Relaxed);
        }
    }
}

/// The mode that the CPUs' APICs are in.
pub(crate) fn mode() -> ApicMode {
    match ACCESS.load(Ordering::Relaxed) {
        BY_MSR => ApicMode::X2apic,
        _ => ApicMode::Xapic,
    }
}

/// Counts the timer's ticks in a millisecond.
fn measure_timer() -> u32 {
    const US: u64 = 2000;
    write(Register::LvtTimer, LVT_MASKED | HostVector::Timer as u32);
    write(Register::TimerInitial, u32::MAX);
    clock::delay_us(US);
    let ticks = u32::MAX - read(Register::TimerCurrent);
    write(Register::TimerInitial, 0);
    write(Register::LvtTimer, HostVector::Timer as u32);
    (ticks / (US / 1000) as u32).max(1)
}

/// Lets this CPU's timer fire once, when the TSC reaches `deadline` or a little later; earlier where that is too far off
/// for it. Replaces what was set before.
pub(crate) fn set_timer(deadline: u64) {
    let per_ms = TIMER_PER_MS.load(Ordering::Relaxed);
    if per_ms == 0 {
        // Zero would switch the timer off; a deadline in the past fires at once.
        // SAFETY: the MSR exists: a CPU without TSC deadlines has a measured timer.
        unsafe { write_msr(IA32_TSC_DEADLINE, deadline.max(1)) };
    } else {
        // As many ticks as are no more nanoseconds than a `u64` holds, at any frequency.
        const MOST_TICKS: u64 = 1 << 54;
        let left = deadline.saturating_sub(clock::tsc()).min(MOST_TICKS);
        let left_ns = clock::ticks_to_ns(left);
        let ticks = u128::from(left_ns) * u128::from(per_ms) / 1_000_000 + 1;
        write(
            Register::TimerInitial,
            u32::try_from(ticks).unwrap_or(u32::MAX),
        );
    }
}

/// Lets this CPU's timer not fire any more. An interrupt of it may be on its way all the same.
pub(crate) fn stop_timer() {
    if TIMER_PER_MS.load(Ordering::Relaxed) == 0 {
        // SAFETY: as in `set_timer`.
        unsafe { write_msr(IA32_TSC_DEADLINE, 0) };
    } else {
        write(Register::TimerInitial, 0);
    }
}

/// Ends the interrupt that this CPU handles.
#[inline]
pub(crate) fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

/// Whether this CPU has accepted an interrupt with this vector and not ended it.
pub(crate) fn is_in_service(vector: Vector) -> bool {
    let word = u32::from(vector.0) / 32;
    let bits = match ACCESS.load(Ordering::Relaxed) {
        NOT_READY => 0,
        BY_MSR => read_msr(IA32_X2APIC_FIRST + Register::InService as u32 / 16 + word) as u32,
        page => {
            let at = page + Register::InService as u64 + u64::from(word) * 16;
            // SAFETY: as in `read`; there are eight such registers, 16 bytes apart.
            unsafe { (at as *const u32).read_volatile() }
        }
    };
    bits & 1 << (vector.0 % 32) != 0
}

/// Logs the error that the APIC has reported, if it is a new one.
#[cold]
pub(crate) fn report_error() {
    // A write makes the latest errors readable (SDM vol. 3, Error Handling).
    write(Register::ErrorStatus, 0);
    let errors = read(Register::ErrorStatus);
    /// The errors that were told of: one that comes again and again must not fill the log.
    static TOLD: AtomicU32 = AtomicU32::new(0);
    if TOLD.fetch_or(errors, Ordering::Relaxed) & errors != errors {
        log::warn!("the local APIC reports error {errors:#x}; it is not told of again");
    }
}

/// Interrupts the CPU with this APIC ID.
pub(crate) fn send(apic_id: u32, vector: HostVector) {
    command_to(apic_id, vector as u32 | ICR_ASSERT);
}

/// Sends an NMI to the CPU with this APIC ID.
pub(super) fn send_nmi(apic_id: u32) {
    command_to(apic_id, ICR_NMI | ICR_ASSERT);
}

/// Sends an NMI to all CPUs but this one.
pub(crate) fn send_nmi_to_others() {
    command(IpiCommand::by_shorthand(
        mode(),
        ICR_NMI | ICR_ASSERT | ICR_ALL_BUT_SELF,
    ));
}

/// Resets the CPU with this APIC ID; it then waits for [`send_startup`].
pub(super) fn send_init(apic_id: u32) {
    command_to(apic_id, ICR_INIT | ICR_ASSERT);
}

/// Starts the CPU with this APIC ID in real mode, at the start of a page below 1 MiB.
pub(super) fn send_startup(apic_id: u32, page_number: u8) {
    command_to(apic_id, ICR_STARTUP | ICR_ASSERT | u32::from(page_number));
}

/// To the CPU with this APIC ID; [`can_reach`] tells whether there is a way.
#[inline]
fn command_to(apic_id: u32, low: u32) {
    if let Some(to_cpu) = IpiCommand::new(mode(), apic_id, low) {
        command(to_cpu);
    }
}

/// Whether an interrupt can be sent to the CPU with this APIC ID.
pub(super) fn can_reach(apic_id: u32) -> bool {
    IpiCommand::new(mode(), apic_id, 0).is_some()
}

fn command(command: IpiCommand) {
    match command {
        IpiCommand::X2apic(value) => {
            // The write is no barrier, and the receiver must see all that was stored before it (SDM vol. 3,
            // MSR Access in x2APIC Mode). SAFETY: fences only order; the command register takes any of the
            // commands above.
            unsafe {
                core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
                write_msr(
                    IA32_X2APIC_FIRST + Register::InterruptCommand as u32 / 16,
                    value,
                );
            }
        }
        // Two writes, which nothing may come between.
        IpiCommand::Xapic { high, low } => without_interrupts(|| {
            write(Register::InterruptCommandHigh, high);
            write(Register::InterruptCommand, low);
            for _ in 0..SEND_POLLS {
                if read(Register::InterruptCommand) & ICR_PENDING == 0 {
                    break;
                }
                hint::spin_loop();
            }
        }),
    }
}
