//! What is done at the border against leaks through speculation, on processors that have them. What it is says
//! [`arch::speculation`]; `entry` does the part that may not wait.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use arch::cpuid::Leaf7Edx;
use arch::msr;
use arch::speculation::{
    Answer, ArchCapabilities, Buffers, Facts, L1Cache, Mitigations, OtherVms, PageSizes, Returns,
};
use bundle::CodePages;
use vmx::LargePages;
use vmx::bitmap::MsrAccess;
use vmx::space_id::{LastSpace, SpaceId};

use super::entry::{Entry, Exit};
use crate::cpu::PcpuId;
use crate::cpu::msr::{try_read_msr, write_msr};
use crate::cpu::smp::MAX_CPUS;

/// CPUID.7.0:EBX: transactions.
const RTM: u32 = 1 << 11;
/// CPUID.1:ECX: a hypervisor is below.
const HYPERVISOR: u32 = 1 << 31;

/// The decisions, made once at boot.
pub(super) struct Guard {
    mitigations: Mitigations,
    /// IA32_ARCH_CAPABILITIES of guests.
    guest_capabilities: ArchCapabilities,
    /// What every entry takes beside VMRESUME or VMLAUNCH.
    entry: Entry,
    data_selector: u16,
    /// For each CPU the address space of the VM that ran there last.
    last_vm: [LastSpace; MAX_CPUS],
}

impl Guard {
    /// Looks at this CPU; all others are of its kind.
    pub(super) fn choose(code_pages: CodePages) -> Self {
        let facts = facts();
        let mitigations = Mitigations::choose(&facts);
        let mitigations = match code_pages {
            CodePages::AsNeeded => mitigations,
            CodePages::Small => mitigations.with_small_code_pages(),
            CodePages::Any => mitigations.with_any_code_pages(),
        };
        let mut entry = Entry::empty();
        entry.set(Entry::SPEC_CTRL, mitigations.guard_exits());
        let flush = mitigations.l1_cache == Answer::Do(L1Cache::Flush);
        entry.set(Entry::FLUSH_L1, flush);
        let verw = mitigations.buffers == Answer::Do(Buffers::Verw);
        entry.set(Entry::VERW, verw);
        let data_selector: u16;
        // SAFETY: reads a register.
        unsafe { asm!("mov {0:x}, ss", out(reg) data_selector, options(nomem, nostack)) };
        Self {
            mitigations,
            guest_capabilities: facts.guest_capabilities(&mitigations),
            entry,
            data_selector,
            last_vm: [const { LastSpace::new() }; MAX_CPUS],
        }
    }

    /// For the operator.
    pub(super) const fn mitigations(&self) -> &Mitigations {
        &self.mitigations
    }

    /// What large pages of guests' RAM are for.
    pub(super) fn large_pages(&self) -> LargePages {
        match self.mitigations.page_sizes {
            Answer::Do(PageSizes::SmallCode) => LargePages::DataOnly,
            Answer::NotNeeded | Answer::Nothing => LargePages::ForAll,
        }
    }

    /// IA32_ARCH_CAPABILITIES of guests.
    pub(super) const fn guest_capabilities(&self) -> ArchCapabilities {
        self.guest_capabilities
    }

    /// What an entry takes; VMLAUNCH or VMRESUME is to be added.
    pub(super) const fn entry(&self) -> Entry {
        self.entry
    }

    pub(super) fn exit(&self) -> Exit {
        if self.mitigations.guard_exits() {
            Exit::Guarded
        } else {
            Exit::Plain
        }
    }

    pub(super) fn host_spec_ctrl(&self) -> u64 {
        self.mitigations.host_spec_ctrl().bits()
    }

    /// Pairs of return predictions to overwrite after each exit.
    pub(super) const fn return_fills(&self) -> u16 {
        /// Half of what the return stack buffers with the most entries hold.
        const ALL: u16 = 16;
        match self.mitigations.returns {
            Answer::Do(Returns::Fill) => ALL,
            Answer::Do(Returns::FillOne) => 1,
            Answer::NotNeeded | Answer::Nothing => 0,
        }
    }

    pub(super) const fn data_selector(&self) -> u16 {
        self.data_selector
    }

    /// Whether IA32_SPEC_CTRL is the guest's own while it runs.
    pub(super) fn switches_spec_ctrl(&self) -> bool {
        self.mitigations.guard_exits()
    }

    /// The MSRs that a guest uses at will: they are switched, or tell the processor to forget something.
    pub(super) fn guest_msrs(&self) -> impl Iterator<Item = (u32, MsrAccess)> {
        let switched = [
            (msr::IA32_SPEC_CTRL, MsrAccess::Read),
            (msr::IA32_SPEC_CTRL, MsrAccess::Write),
            (msr::IA32_PRED_CMD, MsrAccess::Write),
        ];
        let count = if self.switches_spec_ctrl() {
            switched.len()
        } else {
            0
        };
        switched.into_iter().take(count)
    }

    /// The value of IA32_SPEC_CTRL that the hypervisor runs with, on this CPU, if it has one.
    pub(super) fn enable_here(&self) {
        if self.mitigations.guard_exits() {
            // SAFETY: the MSR is there, and the bits are those that CPUID and IA32_ARCH_CAPABILITIES offer.
            unsafe { write_msr(msr::IA32_SPEC_CTRL, self.host_spec_ctrl()) };
        }
    }

    /// To be called where a vCPU of this VM, named by its address space, comes to this CPU.
    pub(super) fn change_vm(&self, here: PcpuId, vm: SpaceId) {
        let is_other = self.last_vm[here.index()].comes(vm);
        if is_other && self.mitigations.other_vms == Answer::Do(OtherVms::Barrier) {
            const IBPB: u64 = 1;
            // SAFETY: the MSR is there with IA32_SPEC_CTRL; the command forgets branch predictions.
            unsafe { write_msr(msr::IA32_PRED_CMD, IBPB) };
        }
    }
}

fn facts() -> Facts {
    let leaves = __cpuid(0).eax;
    let (leaf_7, leaf_7_2_edx) = if leaves >= 7 {
        let main = __cpuid_count(7, 0);
        let edx = if main.eax >= 2 {
            __cpuid_count(7, 2).edx
        } else {
            0
        };
        ((main.ebx, main.edx), edx)
    } else {
        ((0, 0), 0)
    };
    let leaf_7_edx = Leaf7Edx::from_bits_retain(leaf_7.1);
    let capabilities = if leaf_7_edx.contains(Leaf7Edx::ARCH_CAPABILITIES) {
        try_read_msr(msr::IA32_ARCH_CAPABILITIES).unwrap_or(0)
    } else {
        0
    };
    let main = __cpuid(1);
    Facts {
        signature: main.eax,
        leaf_7_edx,
        leaf_7_2_edx,
        transactions: leaf_7.0 & RTM != 0,
        hypervisor: main.ecx & HYPERVISOR != 0,
        capabilities: ArchCapabilities::from_bits_retain(capabilities),
    }
}
