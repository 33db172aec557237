//! The host's state in the VMCS: what an exit loads into this CPU.

use core::arch::asm;

use arch::msr;
use vmx::fields;

use super::entry;
use super::vmcs::CurrentVmcs;
use crate::cpu::msr::read_msr;

/// Writes this CPU's state into the current VMCS. Needed when a VMCS becomes current on another CPU than before;
/// nothing of it changes while the hypervisor runs.
pub(super) fn write_state(vmcs: &CurrentVmcs, exit: entry::Exit) {
    let (cr0, cr3, cr4): (u64, u64, u64);
    let (cs, ss, tr): (u16, u16, u16);
    let mut gdtr = TableRegister::default();
    let mut idtr = TableRegister::default();
    // SAFETY: reads registers, and stores the table registers into ten bytes each.
    unsafe {
        asm!("mov {0}, cr0", "mov {1}, cr3", "mov {2}, cr4", out(reg) cr0, out(reg) cr3, out(reg) cr4,
            options(nomem, nostack, preserves_flags));
        asm!("mov {0:x}, cs", "mov {1:x}, ss", "str {2:x}", out(reg) cs, out(reg) ss, out(reg) tr,
            options(nomem, nostack, preserves_flags));
        asm!("sgdt [{0}]", "sidt [{1}]", in(reg) &raw mut gdtr, in(reg) &raw mut idtr,
            options(nostack, preserves_flags));
    }
    vmcs.write(fields::HOST_CR0, cr0);
    vmcs.write(fields::HOST_CR3, cr3);
    vmcs.write(fields::HOST_CR4, cr4);
    vmcs.write(fields::HOST_CS_SELECTOR, cs);
    vmcs.write(fields::HOST_SS_SELECTOR, ss);
    vmcs.write(fields::HOST_TR_SELECTOR, tr);
    // The data segments are not used in 64-bit mode; null selectors save the hardware a look at the GDT.
    vmcs.write(fields::HOST_DS_SELECTOR, 0);
    vmcs.write(fields::HOST_ES_SELECTOR, 0);
    vmcs.write(fields::HOST_FS_SELECTOR, 0);
    vmcs.write(fields::HOST_GS_SELECTOR, 0);
    vmcs.write(fields::HOST_FS_BASE, 0);
    vmcs.write(fields::HOST_GS_BASE, read_msr(msr::IA32_GS_BASE));
    vmcs.write(fields::HOST_GDTR_BASE, gdtr.base);
    vmcs.write(fields::HOST_IDTR_BASE, idtr.base);
    vmcs.write(fields::HOST_TR_BASE, tss_base(&gdtr, tr));
    // SYSENTER is not used in the host.
    vmcs.write(fields::HOST_SYSENTER_CS, 0);
    vmcs.write(fields::HOST_SYSENTER_ESP, 0);
    vmcs.write(fields::HOST_SYSENTER_EIP, 0);
    vmcs.write(fields::HOST_EFER, read_msr(msr::IA32_EFER));
    vmcs.write(fields::HOST_PAT, read_msr(msr::IA32_PAT));
    vmcs.write(fields::HOST_RIP, entry::exit_address(exit));
}

/// GDTR or IDTR as SGDT and SIDT store it.
#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
struct TableRegister {
    limit: u16,
    base: u64,
}

/// The base in the 16-byte TSS descriptor that TR selects (SDM vol. 3, TSS Descriptor in 64-bit Mode).
fn tss_base(gdtr: &TableRegister, tr: u16) -> u64 {
    let descriptor = (gdtr.base + u64::from(tr & !7)) as *const [u64; 2];
    // SAFETY: TR is loaded, so the GDT of this CPU has a 16-byte descriptor there; it is never freed.
    let [low, high] = unsafe { descriptor.read_unaligned() };
    (low >> 16 & 0xff_ffff) | (low >> 56 & 0xff) << 24 | high << 32
}
