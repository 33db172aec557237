//! The control registers as the hypervisor wants them, the same on every CPU.

use arch::msr::{IA32_EFER, IA32_PAT};
use arch::{Cr0, Cr4, Dr7, Efer};
use core::arch::asm;
use raw_cpuid::{CpuId, CpuIdReaderNative};

use super::msr::{read_msr, write_msr};

/// The page attribute table: the usual one of the PC, except that entry 1 (PWT alone) is write-combining,
/// for frame buffers (SDM vol. 3, Page Attribute Table). `memory/space.rs` chooses entries by number.
pub(crate) const PAT: u64 = {
    const UC: u64 = 0x00;
    const WC: u64 = 0x01;
    const WT: u64 = 0x04;
    const WP: u64 = 0x05;
    const WB: u64 = 0x06;
    const UC_MINUS: u64 = 0x07;
    let entries = [WB, WC, UC_MINUS, UC, WB, WP, UC_MINUS, WT];
    let mut value = 0;
    let mut index = 0;
    while index < entries.len() {
        value |= entries[index] << (index * 8);
        index += 1;
    }
    value
};

/// CR0 of the running CPU.
#[inline]
pub(crate) fn read_cr0() -> Cr0 {
    let value: u64;
    // SAFETY: reading a control register changes nothing.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nostack, nomem, preserves_flags)) };
    Cr0::from_bits_retain(value)
}

/// CR3 of the running CPU.
#[inline]
pub(crate) fn read_cr3() -> u64 {
    let value: u64;
    // SAFETY: reading a control register changes nothing.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nostack, nomem, preserves_flags)) };
    value
}

/// CR4 of the running CPU.
#[inline]
pub(crate) fn read_cr4() -> Cr4 {
    let value: u64;
    // SAFETY: reading a control register changes nothing.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nostack, nomem, preserves_flags)) };
    Cr4::from_bits_retain(value)
}

/// Sets CR0.
///
/// # Safety
/// The value must keep everything that running code relies on.
pub(crate) unsafe fn write_cr0(value: Cr0) {
    // SAFETY: the caller's promise. Memory is a clobber: caching and write protection change how it is
    // seen.
    unsafe { asm!("mov cr0, {}", in(reg) value.bits(), options(nostack, preserves_flags)) };
}

/// Sets CR4.
///
/// # Safety
/// The value must keep everything that running code relies on, and the CPU must know each bit.
pub(crate) unsafe fn write_cr4(value: Cr4) {
    // SAFETY: the caller's promise. Memory is a clobber: paging changes how it is seen.
    unsafe { asm!("mov cr4, {}", in(reg) value.bits(), options(nostack, preserves_flags)) };
}

/// Sets CR3 and with it drops all translations that are not global.
///
/// # Safety
/// `root` is a PML4 table that maps all that is in use where it is in use.
pub(crate) unsafe fn write_cr3(root: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Brings the running CPU's control registers, EFER and PAT into the state that the hypervisor runs with.
///
/// # Safety
/// Called on each CPU once, before its page tables use a PAT entry other than those that are the same in
/// every table (0: write-back, 3: uncacheable), with no page mapped for user mode.
pub(crate) unsafe fn init_this_cpu() {
    let cpuid = CpuId::with_cpuid_reader(CpuIdReaderNative);
    let extended = cpuid.get_extended_feature_info();
    let basic = cpuid.get_feature_info();

    let mut offered = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT;
    let mut offer = |bit, is_there: bool| offered.set(bit, is_there);
    if let Some(features) = &basic {
        offer(Cr4::MCE, features.has_mce());
        offer(Cr4::PGE, features.has_pge());
        offer(Cr4::OSXSAVE, features.has_xsave());
    }
    if let Some(features) = &extended {
        offer(Cr4::SMEP, features.has_smep());
        offer(Cr4::SMAP, features.has_smap());
        offer(Cr4::PKE, features.has_pku());
    }
    let cr4 = Cr4::of_host(read_cr4(), offered);

    let mut cr0 = read_cr0() | Cr0::PE | Cr0::PG | Cr0::WP | Cr0::NE | Cr0::MP | Cr0::ET;
    cr0.remove(Cr0::CD | Cr0::NW | Cr0::TS | Cr0::EM | Cr0::AM);

    // SAFETY: all bits set are ones that CPUID offers; none takes away what running code uses, and none that are cleared
    // are about it. NX is on already, or these page tables could not be in use. PAT as the caller promises.
    unsafe {
        let efer = Efer::from_bits_retain(read_msr(IA32_EFER)) | Efer::NXE;
        write_msr(IA32_EFER, efer.bits());
        write_msr(IA32_PAT, PAT);
        write_cr0(cr0);
        // A change of PGE drops all translations: the boot loader's, global ones too, and those with the memory types of
        // another PAT.
        write_cr4(cr4 - Cr4::PGE);
        write_cr4(cr4);
        // No breakpoint of whoever was here before.
        asm!("mov dr7, {}", in(reg) Dr7::ONES, options(nostack, nomem, preserves_flags));
    }
}
