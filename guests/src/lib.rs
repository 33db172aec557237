//! The runtime that Plinth's tiny guest kernels share: entry, exceptions, probes, reports, power-off.
//!
//! A guest is one file or folder in `src/bin`; it names its main function with [`guest!`], runs cases, and prints
//! `PASS name`, `FAIL name: why` or `SKIP name: why` for each on the UART at 0x3f8, and at the end
//! `DONE n passed, m failed`. Guests know nothing of Plinth: they check what the manuals promise, so the
//! same binary runs on bare hardware. What holds under a hypervisor only is asked of [`cpu::hypervisor`] and
//! [`cpu::is_plinth`].
//!
//! | guest        | form    | behaviour                                                                |
//! |--------------|---------|--------------------------------------------------------------------------|
//! | `hello`      | PVH     | long mode, and a short report of the machine it finds                    |
//! | `hello64`    | ELF64   | the same from a plain ELF64 with a 64-bit entry                          |
//! | `hypercall`  | PVH     | VMCALL answers; VMX and SVM instructions are not there                   |
//! | `paravirt`   | PVH     | KVM's clock, stolen time, ends of interrupts and wakes by hypercall      |
//! | `clocks`     | PVH     | all clocks tell the same time, always, and timers are never early        |
//! | `vapic`      | PVH     | the local APIC with a processor's help and without, in all its modes     |
//! | `outside`    | PVH     | memory that is not there reads all ones and takes no writes              |
//! | `multiboot`  | Multiboot 1, 2 | command line, memory map and modules as the loader tells them     |
//! | `testboard`  | PVH     | test devices: exit port, debug console, interrupt lines, fw_cfg          |
//! | `victim`     | PVH     | looks whether anybody meddles with its memory, registers and devices     |
//! | `hostile`    | PVH     | does what must not touch a `victim`, by topic; no `DONE` line for some   |
//! | `share`      | PVH     | tells how much of a CPU it got                                           |
//! | `gang`       | PVH     | CPUs that spin for each other: who works, who waits, who answers         |
//! | `shootdown`  | PVH     | CPUs that take pages from each other: no old translation is used         |
//! | `code`       | PVH     | runs code in every page, while pages change their size                   |
//! | `deaf`       | PVH     | a CPU that spins with interrupts off is reached by NMI, INIT and start-up |
//! | `sleeper`    | PVH     | tells how late its timer wakes it up                                     |
//! | `blurt`      | PVH     | says more at a time than a serial line takes: no `DONE` line             |
//! | `screen`     | PVH     | a text display and a keyboard; waits for `k` and Escape                  |
//! | `triple`     | PVH     | prints a line and triple-faults: no `DONE` line                          |
//! | `bench`      | PVH     | what single events cost in ticks, in `BENCH` lines                       |
//! | `dying`      | PVH     | says that it has panicked and spins, or was not serious: no `DONE` line  |
//! | `halted`     | PVH     | halts with interrupts off, for ever: no `DONE` line                      |
//! | `reboot`     | PVH     | finds its memory empty, fills it and asks for a reset: no `DONE` line    |
//! | `spin`       | PVH     | prints a line and never exits again: no `DONE` line                      |
//! | `starter`    | flat    | no guest: starts one of these, or any other, on the bare machine         |
//! | `phantom`    | flat    | no guest: a boot sector that lists a CPU which never answers             |
//!
//! The guests in `conformance` check, area by area, what the manuals promise (`conformance/README.md` has the list).
//!
//! PVH: ELF64 with a `XEN_ELFNOTE_PHYS32_ENTRY` note. ELF64: no note, entered in 64-bit mode. Flat: raw bytes,
//! loaded and started at 0x7c00 in real mode.

#![no_std]
#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "`x86!` is the one statement about safety for all assembly"
)]

pub mod apic;
pub mod compat;
pub mod cpu;
pub mod descriptors;
pub mod exceptions;
pub mod kvm;
pub mod machine;
pub mod paging;
pub mod pic;
pub mod places;
pub mod power;
pub mod protected;
pub mod random;
pub mod recorder;
pub mod report;
pub mod serial;
pub mod share;
pub mod siblings;
pub mod single;
pub mod start_info;
pub mod tss32;
pub mod user;

use core::arch::global_asm;
use core::panic::PanicInfo;

pub use exceptions::{Fault, Vector, probe};
pub use report::{Case, Report};
pub use start_info::StartInfo;

global_asm!(include_str!("boot.S"));

/// Runs inline assembly with the operands of `core::arch::asm!`.
///
/// A guest kernel owns its whole machine, and what an instruction breaks is what the case is there to
/// observe; so the one statement about safety is here and not at each instruction.
#[macro_export]
macro_rules! x86 {
    ($($asm:tt)*) => {{
        // SAFETY: the guest has the machine to itself, and each use names what its assembly clobbers. A
        // fault lands in `exceptions`, which abandons the instruction and everything up to the probe.
        #[allow(unused_unsafe)]
        unsafe {
            ::core::arch::asm!($($asm)*)
        }
    }};
}

/// Runs inline assembly inside a [`probe`]: `Ok(())`, or the [`Fault`] that it raised.
#[macro_export]
macro_rules! fault_of {
    ($($asm:tt)*) => { $crate::probe(|| $crate::x86!($($asm)*)) };
}

/// Names the main function of a guest: `fn(&mut Report, StartInfo)`.
#[macro_export]
macro_rules! guest {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn guest_main(start_info: u32) -> ! {
            $crate::run(start_info, $main)
        }
    };
}

/// Brings up the runtime, runs the guest's `main`, prints the totals and powers the machine off.
pub fn run(start_info: u32, main: fn(&mut Report, StartInfo)) -> ! {
    serial::init();
    descriptors::init();
    cpu::enable_extended_state();
    let mut report = Report::default();
    main(&mut report, StartInfo::at(start_info));
    report.done();
    power::off()
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("FAIL guest: {info}");
    power::off()
}
