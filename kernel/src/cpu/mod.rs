//! This machine's processors: their tables, exceptions, per-CPU data, local APICs, and how they are
//! started.

pub(crate) mod apic;
pub(crate) mod control;
pub(crate) mod descriptors;
pub(crate) mod exceptions;
pub(crate) mod features;
pub(crate) mod gate;
pub(crate) mod interrupts;
pub(crate) mod machine_check;
pub(crate) mod msr;
pub(crate) mod nmi;
pub(crate) mod percpu;
pub(crate) mod smp;
pub(crate) mod stack;

pub(crate) use percpu::{PcpuId, PerCpu, this};

use memory::HostVirt;
use spin::Once;

use self::stack::CpuStacks;

static BOOT_CPU: PerCpu = PerCpu::new(PcpuId::BOOT);
/// The boot CPU's stacks between their making and their use.
static BOOT_STACKS: Once<CpuStacks> = Once::new();

/// Gives the boot CPU its data and descriptor tables, so that exceptions are reported.
///
/// # Safety
/// Called once, by the boot CPU, before anything else of this module.
pub(crate) unsafe fn init_boot_cpu() {
    // SAFETY: nothing else runs yet, and nothing has been set up.
    unsafe {
        descriptors::fill_idt();
        BOOT_CPU.install();
    }
}

/// Makes the boot CPU's stacks in the new address space; returns the top of the one to run on.
pub(crate) fn prepare_boot_stacks() -> Option<HostVirt> {
    let stacks = CpuStacks::new()?;
    Some(BOOT_STACKS.call_once(|| stacks).main.top())
}

/// Gives the boot CPU its final control registers and stacks.
///
/// # Safety
/// Called once, by the boot CPU, on the stack from [`prepare_boot_stacks`] in the hypervisor's address
/// space.
pub(crate) unsafe fn settle_boot_cpu() {
    // SAFETY: the caller's promise; the page tables use the PAT as `control` sets it, and nothing of user
    // mode.
    unsafe {
        control::init_this_cpu();
        if let Some(stacks) = BOOT_STACKS.get() {
            this().set_stacks(*stacks);
        }
    }
}

/// Tells what handlers on this CPU have found since the last call.
#[inline]
pub(crate) fn report_news() {
    if this().take_news() {
        machine_check::tell();
        nmi::tell();
    }
}

/// Stops this CPU for good: no interrupt wakes it, an NMI only for a moment.
pub(crate) fn halt_forever() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}
