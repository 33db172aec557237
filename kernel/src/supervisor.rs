//! The life of all guests, from the bundle to the end of the last one.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ::log::LevelFilter;
use bundle::{Bundle, BundleError, HypervisorOptions, LogLevel, WhenDone};
use spin::Once;
use vmm::cpuid::{CpuidTable, GuestCpuConfig};
use vmm::paravirt;

use crate::backend::Backend;
use crate::backend::vmx::{Vmx, VmxBackend};
use crate::cpu::{self, PcpuId, PerCpu};
use crate::crew::Crew;
use crate::desk::Desk;
use crate::hw::bundle::{BundleMemory, NoBundle};
use crate::hw::screen::Colour;
use crate::hw::{clock, console, power};
use crate::keeper::Keeper;
use crate::pcpu;
use crate::startup::{self, Phase};
use crate::vm::End;

/// What `cargo xtask run` ends with, by the worst end of any guest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
enum Status {
    /// All switched themselves off.
    Clean = 0,
    /// One asked for a reset.
    Reset = 1,
    /// One crashed.
    Crashed = 2,
    /// One, or the whole bundle, could not start.
    NotStarted = 3,
}

static STATUS: AtomicU32 = AtomicU32::new(Status::Clean as u32);

/// The largest status with which a guest has ended itself by the debug-exit port, as a process's exit status has it;
/// 0 for none, since such a status is odd.
static EXIT_STATUS: AtomicU32 = AtomicU32::new(0);

/// The CPUs at work. Made by the boot CPU once it knows which of them can run guests.
static CREW: Once<Crew<VmxBackend>> = Once::new();
/// What the other CPUs enable VT-x with.
static VMX: Once<VmxBackend> = Once::new();
/// What guests are told of the boot CPU.
static TOLD: Once<CpuidTable> = Once::new();
/// CPUs that have said whether they can run guests.
static ANSWERS: AtomicU32 = AtomicU32::new(0);
/// How long the boot CPU waits for these answers.
const ANSWER_US: u64 = 1_000_000;

/// The bundle as it was found, and as it is read.
pub(crate) type Opened<'a> = Result<Result<Bundle<'a>, BundleError>, &'a NoBundle>;

/// Reads the bundle, and has the log say as much from here on as the bundle wants. What is wrong with it is told later,
/// by [`run`], for a machine without VT-x is the greater problem.
pub(crate) fn open(found: &Result<BundleMemory, NoBundle>) -> Opened<'_> {
    let opened = found.as_ref().map(|memory| Bundle::parse(memory.bytes()));
    if let Ok(Ok(bundle)) = &opened {
        crate::log::set_level(level(bundle.config().hypervisor.log_level));
    }
    opened
}

/// Runs the guests of the bundle and switches the machine off, or stays, as the bundle says.
pub(crate) fn run(bundle: Opened<'_>) -> ! {
    let usual = HypervisorOptions::default();
    let options = match &bundle {
        Ok(Ok(bundle)) => &bundle.config().hypervisor,
        _ => &usual,
    };
    let vmx = match Vmx::detect(options) {
        Ok(vmx) => vmx,
        Err(error) => refuse(&error),
    };
    if let Err(error) = vmx.enable_here() {
        refuse(&error);
    }
    let bundle = match bundle {
        Ok(Ok(bundle)) => bundle,
        Ok(Err(error)) => refuse(&error),
        Err(none) => refuse(none),
    };
    let options = &bundle.config().hypervisor;
    let crew = CREW.call_once(|| Crew::new(vmx, &usable_cpus(vmx)));
    startup::end(Phase::Vtx);
    let mut keeper = Keeper::new(crew, &bundle);
    keeper.start_all();
    startup::end(Phase::Guests);
    pcpu::work(crew, Some(Desk::new(crew, keeper)));
    finish(options.when_done)
}

/// The CPUs that can run guests: this one, and the others as far as they say so in time.
fn usable_cpus(vmx: VmxBackend) -> Vec<PcpuId> {
    VMX.call_once(|| vmx);
    TOLD.call_once(|| told(&vmx));
    cpu::smp::release(work);
    let others = cpu::smp::cpus().count() as u32 - 1;
    let mut waited_us = 0;
    while ANSWERS.load(Ordering::Acquire) < others && waited_us < ANSWER_US {
        clock::delay_us(100);
        waited_us += 100;
    }
    cpu::smp::cpus()
        .map(PerCpu::id)
        .filter(|id| *id == PcpuId::BOOT || can_run(*id))
        .collect()
}

/// CPUs, one bit each, that have entered VMX root operation.
static CAN_RUN: [AtomicU64; cpu::smp::MAX_CPUS / 64] =
    [const { AtomicU64::new(0) }; cpu::smp::MAX_CPUS / 64];

fn can_run(id: PcpuId) -> bool {
    CAN_RUN[id.index() / 64].load(Ordering::Acquire) & 1 << (id.index() % 64) != 0
}

/// What every CPU but the first does.
fn work() -> ! {
    let id = cpu::this().id();
    if let (Some(vmx), Some(boot)) = (VMX.get(), TOLD.get()) {
        if let Err(lacking) = boot.check_against(&told(vmx)) {
            ::log::error!("CPU {id} is left out: {lacking}");
        } else if let Err(error) = vmx.enable_here() {
            ::log::error!("CPU {id} is left out: {error}");
        } else {
            CAN_RUN[id.index() / 64].fetch_or(1 << (id.index() % 64), Ordering::Release);
        }
    }
    ANSWERS.fetch_add(1, Ordering::AcqRel);
    while CREW.get().is_none() && can_run(id) {
        core::hint::spin_loop();
    }
    if let Some(crew) = CREW.get() {
        pcpu::work(crew, None);
    }
    cpu::halt_forever()
}

/// What guests are told of the CPU that this runs on; what is not about the processor does not matter.
fn told(vmx: &VmxBackend) -> CpuidTable {
    const CRYSTAL_HZ: u32 = 1_000_000_000;
    let offered = vmx.guest_features();
    CpuidTable::build(
        &|leaf, subleaf| cpu::features::cpuid(leaf, subleaf, offered.pkru_offset),
        &GuestCpuConfig {
            vcpus: 1,
            apic_id: 0,
            tsc_hz: clock::tsc_hz(),
            crystal_hz: CRYSTAL_HZ,
            xcr0: offered.xcr0,
            backing: offered.backing,
            paravirt: paravirt::Features::empty(),
        },
    )
}

/// Tells operator and test harness how a VM ended.
pub(crate) fn vm_ended(name: &str, end: End) {
    let status = match end {
        End::PowerOff | End::Stopped => Status::Clean,
        End::Exit(status) => {
            EXIT_STATUS.fetch_max(status & 0xff, Ordering::Relaxed);
            Status::Clean
        }
        End::Reset => Status::Reset,
        End::Crash(_) => Status::Crashed,
    };
    announce_end(name, status, format_args!("{end}"));
}

/// A VM could not start.
pub(crate) fn not_started(name: &str, why: &dyn fmt::Display) {
    announce_end(name, Status::NotStarted, format_args!("crash: {why}"));
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}

fn announce_end(name: &str, status: Status, how: fmt::Arguments<'_>) {
    STATUS.fetch_max(status as u32, Ordering::Relaxed);
    console::line(Colour::Text, format_args!("plinth: end {name} {how}"));
}

/// Nothing can run at all: says why, and ends.
pub(crate) fn refuse(why: &dyn fmt::Display) -> ! {
    ::log::error!("{why}");
    STATUS.fetch_max(Status::NotStarted as u32, Ordering::Relaxed);
    finish(WhenDone::Halt)
}

fn finish(when_done: WhenDone) -> ! {
    // A guest's own word counts where every guest has had one.
    let status = match STATUS.load(Ordering::Relaxed) {
        0 => EXIT_STATUS.load(Ordering::Relaxed),
        status => status,
    };
    console::line(
        Colour::Text,
        format_args!("plinth: all guests have ended, status {status}"),
    );
    match when_done {
        WhenDone::PowerOff => power::power_off(),
        WhenDone::Halt => power::stop_and_show(),
    }
}
