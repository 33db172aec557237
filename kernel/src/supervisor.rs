//! The life of all guests, from the bundle to the end of the last one.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use alloc::boxed::Box;
use alloc::vec::Vec;
use ::log::LevelFilter;
use bundle::{Autostart, Bundle, LogLevel, WhenDone};

use crate::backend::Backend;
use crate::backend::vmx::Vmx;
use crate::hw::bundle::{BundleMemory, NoBundle};
use crate::hw::screen::Colour;
use crate::hw::{console, power};
use crate::vcpu::Vcpu;
use crate::vm::{End, VmId};
use crate::{launch, pcpu};

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

/// Runs the guests of the bundle and switches the machine off, or stays, as the bundle says.
pub(crate) fn run(found: &Result<BundleMemory, NoBundle>) -> ! {
    let vmx = match Vmx::detect() {
        Ok(vmx) => vmx,
        Err(error) => refuse(&error),
    };
    if let Err(error) = vmx.enable_here() {
        refuse(&error);
    }
    let memory = match found {
        Ok(memory) => memory,
        Err(none) => refuse(none),
    };
    let bundle = match Bundle::parse(memory.bytes()) {
        Ok(bundle) => bundle,
        Err(error) => refuse(&error),
    };
    let options = &bundle.config().hypervisor;
    crate::log::set_level(level(options.log_level));
    pcpu::run(&vmx, start_all(&vmx, &bundle));
    finish(options.when_done)
}

/// Makes all machines that start with the hypervisor. One that cannot start does not keep the others from it.
fn start_all<B: Backend>(backend: &B, bundle: &Bundle<'_>) -> Vec<Box<Vcpu<B>>> {
    let mut vcpus = Vec::new();
    for (number, config) in (0..).zip(&bundle.config().vms) {
        if config.autostart == Autostart::No {
            continue;
        }
        match launch::vm(backend, VmId(number), config, bundle) {
            Ok(started) => vcpus.extend(started),
            Err(error) => {
                announce_end(&config.name, Status::NotStarted, format_args!("crash: {error}"));
            }
        }
    }
    vcpus
}

/// Tells operator and test harness how a VM ended.
pub(crate) fn vm_ended(name: &str, end: End) {
    let status = match end {
        End::PowerOff | End::Exit(0) => Status::Clean,
        End::Reset | End::Exit(_) => Status::Reset,
        End::Crash(_) => Status::Crashed,
    };
    announce_end(name, status, format_args!("{end}"));
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

/// Nothing can run at all.
fn refuse(why: &dyn fmt::Display) -> ! {
    ::log::error!("{why}");
    STATUS.fetch_max(Status::NotStarted as u32, Ordering::Relaxed);
    finish(WhenDone::Halt)
}

fn finish(when_done: WhenDone) -> ! {
    let status = STATUS.load(Ordering::Relaxed);
    console::line(
        Colour::Text,
        format_args!("plinth: all guests have ended, status {status}"),
    );
    match when_done {
        WhenDone::PowerOff => power::power_off(),
        WhenDone::Halt => power::stop_and_show(),
    }
}
