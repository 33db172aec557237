//! Leaks through speculation at the border between guests and hypervisor: which of them this processor has, and what
//! is done about each ([`Mitigations::choose`]). Plain decisions over CPUID and IA32_ARCH_CAPABILITIES; the backend
//! carries them out.
//!
//! After Intel's guidance for software developers on L1 terminal fault, microarchitectural data sampling, TSX
//! asynchronous abort, register file data sampling, branch target injection, branch history injection, and
//! post-barrier return stack buffer predictions. What concerns a guest's own processes is the guest's business:
//! it is shown the same controls.

use core::fmt;

use bitflags::bitflags;

use crate::cpuid::Leaf7Edx;

bitflags! {
    /// IA32_ARCH_CAPABILITIES.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ArchCapabilities: u64 {
        /// Not susceptible to rogue data cache loads, nor to L1 terminal faults.
        const RDCL_NO = 1 << 0;
        /// IBRS, once set, holds for every privilege level above the guest's (enhanced IBRS).
        const IBRS_ALL = 1 << 1;
        /// The L1 data cache need not be flushed at VM entry.
        const SKIP_L1DFL_VMENTRY = 1 << 3;
        /// Not susceptible to microarchitectural data sampling.
        const MDS_NO = 1 << 5;
        /// A page whose size changes causes no machine check.
        const PSCHANGE_MC_NO = 1 << 6;
        /// Not susceptible to TSX asynchronous aborts.
        const TAA_NO = 1 << 8;
        /// Not susceptible to branch history injection.
        const BHI_NO = 1 << 20;
        /// Return predictions keep to barriers.
        const PBRSB_NO = 1 << 24;
        /// Not susceptible to register file data sampling.
        const RFDS_NO = 1 << 27;
        /// VERW clears the register files as well.
        const RFDS_CLEAR = 1 << 28;
        /// Not susceptible to indirect target selection.
        const ITS_NO = 1 << 62;
        const _ = !0;
    }

    /// IA32_SPEC_CTRL.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SpecCtrl: u64 {
        /// Indirect branch restricted speculation.
        const IBRS = 1 << 0;
        /// Single-thread indirect branch predictors.
        const STIBP = 1 << 1;
        /// Speculative store bypass disable.
        const SSBD = 1 << 2;
        /// No prediction of supervisor branches by the history of user or guest branches.
        const BHI_DIS_S = 1 << 10;
        const _ = !0;
    }
}

impl ArchCapabilities {
    /// What a guest may be told of the processor that it runs on: that it does not have a leak, or has a command
    /// against it that works in the guest as well. Beside those named above RSBA, SSB_NO, SBDR_SSDP_NO, FBSDP_NO,
    /// PSDP_NO, FB_CLEAR, RRSBA and GDS_NO.
    const TELLABLE: u64 = 0x4000_0000_1d1a_e177;
}

/// What the processor says about itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// CPUID.1:EAX.
    pub signature: u32,
    /// CPUID.7.0:EDX.
    pub leaf_7_edx: Leaf7Edx,
    /// CPUID.7.2:EDX, 0 where there is no such subleaf.
    pub leaf_7_2_edx: u32,
    /// CPUID.7.0:EBX says that there are transactions (RTM).
    pub transactions: bool,
    /// CPUID.1:ECX says that this is a virtual machine itself, whose signature need not be that of the processor.
    pub hypervisor: bool,
    /// The MSR, or nothing where CPUID does not show it.
    pub capabilities: ArchCapabilities,
}

impl Facts {
    /// IA32_ARCH_CAPABILITIES of a guest, which has this MSR whether the processor has it or not. It is told not to
    /// flush the L1 data cache for guests of its own.
    ///
    /// PSCHANGE_MC_NO may be ours: what keeps a guest from stopping the machine by the sizes of its pages keeps a guest's
    /// guest from it, too. ITS_NO may be ours as well: a system that finds itself in a virtual machine looks at that bit
    /// only, and not at the model, since it might move to another one. Guests of ours do not, and without need Linux
    /// makes every return a jump to a thunk.
    pub fn guest_capabilities(&self, chosen: &Mitigations) -> ArchCapabilities {
        let tellable = self.capabilities.bits() & ArchCapabilities::TELLABLE;
        let mut told = ArchCapabilities::from_bits_retain(tellable);
        told.insert(ArchCapabilities::SKIP_L1DFL_VMENTRY);
        if self.selects_targets_well() {
            told.insert(ArchCapabilities::ITS_NO);
        }
        if chosen.page_sizes == Answer::Do(PageSizes::SmallCode) {
            told.insert(ArchCapabilities::PSCHANGE_MC_NO);
        }
        told
    }

    /// Whether the processor is one without indirect target selection, by Intel's list of affected ones.
    fn selects_targets_well(&self) -> bool {
        if self.leaf_7_2_edx & BHI_CTRL != 0 {
            return true;
        }
        let stepping = (self.signature & 0xf) as u8;
        let is_affected = |model: u8| {
            TARGET_SELECTION
                .iter()
                .any(|&(affected, since)| affected == model && stepping >= since)
        };
        !self.hypervisor && model(self.signature).is_some_and(|model| !is_affected(model))
    }
}

/// CPUID.7.2:EDX: IA32_SPEC_CTRL.BHI_DIS_S is there.
const BHI_CTRL: u32 = 1 << 4;

/// Models of family 6 without the L1 terminal fault that are too old to say so: Atoms of the Silvermont, Airmont,
/// Goldmont and Goldmont Plus kinds, and Xeon Phi.
const NO_TERMINAL_FAULT: [u8; 12] = [
    0x37, 0x4a, 0x4c, 0x4d, 0x57, 0x5a, 0x5c, 0x5d, 0x5f, 0x75, 0x7a, 0x85,
];
/// Of these, the ones that do not leak through their buffers either (Goldmont and Goldmont Plus).
const NO_DATA_SAMPLING: [u8; 3] = [0x5c, 0x5f, 0x7a];

/// A model of family 6 that has the terminal fault's cure in hardware, and does not stop at pages that change their size,
/// but is too old to say the latter (Tremont in servers).
const NO_MULTIPLE_HITS: u8 = 0x86;

/// Models of family 6 that take others' targets for those of their own indirect branches (indirect target selection),
/// and the first stepping of each that does. Later models have BHI_CTRL, or say that they do not.
const TARGET_SELECTION: [(u8, u8); 11] = [
    // Cascade Lake and Cooper Lake, which are Skylake servers by their model.
    (0x55, 6),
    // Ice Lake.
    (0x6a, 0),
    (0x6c, 0),
    (0x7e, 0),
    // Tiger Lake.
    (0x8c, 0),
    (0x8d, 0),
    // Whiskey, Amber and Coffee Lake of the later kinds.
    (0x8e, 0xc),
    (0x9e, 0xd),
    // Comet Lake.
    (0xa5, 0),
    (0xa6, 0),
    // Rocket Lake.
    (0xa7, 0),
];

/// What is done about one kind of leak.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer<A> {
    /// The processor does not have it.
    NotNeeded,
    /// This.
    Do(A),
    /// It has it, and neither processor nor microcode offer anything: newer microcode may.
    Nothing,
}

impl<A> Answer<A> {
    /// `action` if it is there, else nothing can be done.
    fn if_there(action: A, there: bool) -> Self {
        if there {
            Self::Do(action)
        } else {
            Self::Nothing
        }
    }
}

/// How secrets of others are kept from a guest that reads the L1 data cache by terminal faults. Empty EPT entries
/// lead to page 0 at most; it is the guest's own page tables that do it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum L1Cache {
    /// IA32_FLUSH_CMD before each entry.
    Flush,
}

/// How fill buffers, store buffers, load ports and register files are emptied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Buffers {
    /// VERW before each entry.
    Verw,
    /// The flush of the L1 data cache empties them, too.
    WithL1Flush,
}

/// How a guest is kept from steering the hypervisor's indirect branches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Branches {
    /// IBRS, set all the while in the hypervisor.
    EnhancedIbrs,
    /// IBRS, written anew after each exit.
    Ibrs,
}

/// How a guest is kept from steering the hypervisor's returns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Returns {
    /// All entries of the return stack buffer are overwritten after each exit.
    Fill,
    /// One is, and its call is waited for.
    FillOne,
}

/// How the hypervisor's branches are kept from following a guest's branch history.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum History {
    /// BHI_DIS_S.
    Disable,
}

/// How one VM is kept from steering the branches of another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OtherVms {
    /// IBPB when a vCPU of another VM comes to a CPU.
    Barrier,
}

/// How a guest is kept from a machine check that it could cause by changing the size of a page that it executes (iTLB
/// multihit): that stops the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageSizes {
    /// All code lies in pages of 4 KiB of the second level, whatever pages the guest has.
    SmallCode,
}

/// What is done at the border.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is told by its type")]
pub struct Mitigations {
    pub l1_cache: Answer<L1Cache>,
    pub buffers: Answer<Buffers>,
    pub branches: Answer<Branches>,
    pub returns: Answer<Returns>,
    pub history: Answer<History>,
    pub other_vms: Answer<OtherVms>,
    pub page_sizes: Answer<PageSizes>,
}

impl Mitigations {
    /// By what the processor says about itself.
    pub fn choose(facts: &Facts) -> Self {
        let says = facts.capabilities;
        let has = |bit| says.contains(bit);
        let edx = facts.leaf_7_edx;
        let is_one_of = |models: &[u8]| model(facts.signature).is_some_and(|m| models.contains(&m));

        let no_terminal_fault = is_one_of(&NO_TERMINAL_FAULT);
        let l1_cache = if has(ArchCapabilities::RDCL_NO)
            || has(ArchCapabilities::SKIP_L1DFL_VMENTRY)
            || no_terminal_fault
        {
            Answer::NotNeeded
        } else {
            Answer::if_there(L1Cache::Flush, edx.contains(Leaf7Edx::FLUSH_CMD))
        };

        let samples = !has(ArchCapabilities::MDS_NO) && !is_one_of(&NO_DATA_SAMPLING);
        let aborts = facts.transactions && !has(ArchCapabilities::TAA_NO);
        let registers = has(ArchCapabilities::RFDS_CLEAR) && !has(ArchCapabilities::RFDS_NO);
        let buffers = if !samples && !aborts && !registers {
            Answer::NotNeeded
        } else if l1_cache == Answer::Do(L1Cache::Flush) && !registers {
            Answer::Do(Buffers::WithL1Flush)
        } else {
            Answer::if_there(Buffers::Verw, edx.contains(Leaf7Edx::MD_CLEAR) || registers)
        };

        let controls = edx.contains(Leaf7Edx::SPEC_CTRL);
        let enhanced = controls && has(ArchCapabilities::IBRS_ALL);
        let branches = if enhanced {
            Answer::Do(Branches::EnhancedIbrs)
        } else {
            Answer::if_there(Branches::Ibrs, controls)
        };
        let returns = match (enhanced, has(ArchCapabilities::PBRSB_NO)) {
            (true, true) => Answer::NotNeeded,
            (true, false) => Answer::Do(Returns::FillOne),
            // Without IBRS this alone would be a fence without a gate.
            (false, _) => Answer::if_there(Returns::Fill, controls),
        };
        let history = if has(ArchCapabilities::BHI_NO) || !enhanced {
            // Without the enhanced kind, IBRS after each exit covers it.
            Answer::NotNeeded
        } else {
            Answer::if_there(History::Disable, facts.leaf_7_2_edx & BHI_CTRL != 0)
        };
        Self {
            l1_cache,
            buffers,
            branches,
            returns,
            history,
            other_vms: Answer::if_there(OtherVms::Barrier, controls),
            page_sizes: if has(ArchCapabilities::PSCHANGE_MC_NO)
                || no_terminal_fault
                || is_one_of(&[NO_MULTIPLE_HITS])
            {
                Answer::NotNeeded
            } else {
                Answer::Do(PageSizes::SmallCode)
            },
        }
    }

    /// The same, with code in small pages whether or not the processor wants that.
    #[must_use]
    pub fn with_small_code_pages(self) -> Self {
        Self {
            page_sizes: Answer::Do(PageSizes::SmallCode),
            ..self
        }
    }

    /// The same, with code in pages of any size: where the processor is one that stops then, that stays open.
    #[must_use]
    pub fn with_any_code_pages(self) -> Self {
        Self {
            page_sizes: match self.page_sizes {
                Answer::NotNeeded => Answer::NotNeeded,
                Answer::Do(_) | Answer::Nothing => Answer::Nothing,
            },
            ..self
        }
    }

    /// IA32_SPEC_CTRL while the hypervisor runs.
    pub fn host_spec_ctrl(&self) -> SpecCtrl {
        let mut value = SpecCtrl::empty();
        value.set(SpecCtrl::IBRS, matches!(self.branches, Answer::Do(_)));
        value.set(SpecCtrl::BHI_DIS_S, matches!(self.history, Answer::Do(_)));
        value
    }

    /// Whether anything has to be done between an exit and the first return or indirect branch behind it. It has
    /// wherever there is an IA32_SPEC_CTRL, which is the guest's until then.
    pub fn guard_exits(&self) -> bool {
        matches!(self.branches, Answer::Do(_))
    }
}

/// The model number of a processor of family 6.
const fn model(signature: u32) -> Option<u8> {
    if signature >> 8 & 0xf != 6 {
        return None;
    }
    Some((signature >> 4 & 0xf | signature >> 12 & 0xf0) as u8)
}

/// One line for each kind of leak.
impl fmt::Display for Mitigations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |leak: &str, answer: &str| writeln!(f, "{leak:<36} {answer}");
        line(
            "L1 data cache (L1TF)",
            say(self.l1_cache, |L1Cache::Flush| "flushed at each entry"),
        )?;
        line(
            "buffers (MDS, TAA, RFDS)",
            say(self.buffers, |how| match how {
                Buffers::Verw => "cleared by VERW at each entry",
                Buffers::WithL1Flush => "cleared with the L1 data cache",
            }),
        )?;
        line(
            "indirect branches",
            say(self.branches, |how| match how {
                Branches::EnhancedIbrs => "enhanced IBRS",
                Branches::Ibrs => "IBRS after each exit",
            }),
        )?;
        line(
            "returns",
            say(self.returns, |how| match how {
                Returns::Fill => "return predictions filled after each exit",
                Returns::FillOne => "one return prediction filled after each exit",
            }),
        )?;
        line(
            "branch history",
            say(self.history, |History::Disable| "BHI_DIS_S"),
        )?;
        line(
            "branches of other VMs",
            say(self.other_vms, |OtherVms::Barrier| "IBPB between VMs"),
        )?;
        let small = |PageSizes::SmallCode| "split into pages of 4 KiB";
        let answer = match self.page_sizes {
            Answer::Nothing => "open, as asked for: a guest that means harm can stop this machine",
            answer => say(answer, small),
        };
        write!(f, "{:<36} {answer}", "code in large pages (iTLB multihit)")
    }
}

fn say<A>(answer: Answer<A>, how: impl FnOnce(A) -> &'static str) -> &'static str {
    match answer {
        Answer::NotNeeded => "not in this processor",
        Answer::Do(action) => how(action),
        Answer::Nothing => "open: neither processor nor microcode offer anything",
    }
}

#[cfg(test)]
mod tests;
