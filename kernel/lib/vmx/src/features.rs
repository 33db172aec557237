//! The table of VMX features: what Plinth requires, what it uses when there, and what for.
//!
//! [`Features`] is made once at boot, printed, and asked ever after. To add a feature, add a row.

use core::fmt;

use crate::capability::{Basic, Capabilities, ControlWord, EptVpid, Misc};
use crate::controls::{
    EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls, TertiaryControls,
};

/// Whether Plinth can do without.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Need {
    /// It cannot.
    Required,
    /// It can, at a cost; where it is there, it is used.
    Used,
    /// Plinth knows it and makes no use of it yet.
    Unused,
}

/// Something that may count as the proof of a feature.
trait Evidence {
    fn shows_in(self, caps: &Capabilities) -> bool;
}

impl<W: ControlWord> Evidence for W {
    fn shows_in(self, caps: &Capabilities) -> bool {
        caps.allows(self)
    }
}

/// The bits of an MSR that is no control word.
struct Bits<T>(T);

impl Evidence for Bits<EptVpid> {
    fn shows_in(self, caps: &Capabilities) -> bool {
        caps.ept_vpid().contains(self.0)
    }
}

impl Evidence for Bits<Basic> {
    fn shows_in(self, caps: &Capabilities) -> bool {
        caps.basic().contains(self.0)
    }
}

impl Evidence for Bits<Misc> {
    fn shows_in(self, caps: &Capabilities) -> bool {
        caps.misc().contains(self.0)
    }
}

macro_rules! features {
    ($($feature:ident, $need:ident, $name:literal, $purpose:literal, [$($evidence:expr),+];)*) => {
        /// A feature of VMX that matters to Plinth.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Feature {
            $(#[doc = concat!($name, ": ", $purpose, ".")] $feature,)*
        }

        impl Feature {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$feature,)*];

            /// Its name, as in the manual.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$feature => $name,)* }
            }

            /// Whether Plinth can do without.
            pub const fn need(self) -> Need {
                match self { $(Self::$feature => Need::$need,)* }
            }

            /// What it is for.
            pub const fn purpose(self) -> &'static str {
                match self { $(Self::$feature => $purpose,)* }
            }

            fn shows_in(self, caps: &Capabilities) -> bool {
                match self { $(Self::$feature => $($evidence.shows_in(caps))&&+,)* }
            }
        }
    };
}

features! {
    SecondaryControls, Required, "secondary controls", "all that follows hangs on them",
        [PrimaryControls::ACTIVATE_SECONDARY_CONTROLS];
    InterruptExiting, Required, "external-interrupt and NMI exiting", "the host keeps its interrupts",
        [PinControls::EXTERNAL_INTERRUPT_EXITING | PinControls::NMI_EXITING];
    VirtualNmis, Required, "virtual NMIs", "a guest's NMIs are blocked until its IRET",
        [PinControls::VIRTUAL_NMIS, PrimaryControls::NMI_WINDOW_EXITING];
    HltExiting, Required, "HLT exiting", "an idle guest gives up its CPU",
        [PrimaryControls::HLT_EXITING];
    Ept, Required, "EPT", "guest memory without shadow page tables", [SecondaryControls::ENABLE_EPT];
    EptFourLevels, Required, "EPT of 4 levels", "256 TiB of guest-physical addresses",
        [Bits(EptVpid::WALK_4)];
    EptWriteBack, Required, "EPT tables in write-back memory", "second-level walks from the cache",
        [Bits(EptVpid::WRITE_BACK)];
    Ept2M, Required, "EPT pages of 2 MiB", "shorter walks, fewer TLB entries", [Bits(EptVpid::PAGE_2M)];
    InveptSingle, Required, "INVEPT of one EPT", "unmapping guest memory",
        [Bits(EptVpid::INVEPT | EptVpid::INVEPT_SINGLE)];
    InveptAll, Required, "INVEPT of all", "a clean TLB at bring-up",
        [Bits(EptVpid::INVEPT | EptVpid::INVEPT_ALL)];
    UnrestrictedGuest, Required, "unrestricted guest", "real mode and unpaged code run natively",
        [SecondaryControls::UNRESTRICTED_GUEST];
    HostLongMode, Required, "host address-space size", "exits arrive in 64-bit mode",
        [ExitControls::HOST_ADDRESS_SPACE_SIZE];
    Ia32eGuest, Required, "IA-32e mode guest", "64-bit guests", [EntryControls::IA32E_MODE_GUEST];
    SwitchEfer, Required, "IA32_EFER switching", "each side has its own IA32_EFER",
        [ExitControls::SAVE_EFER | ExitControls::LOAD_EFER, EntryControls::LOAD_EFER];
    SwitchPat, Required, "IA32_PAT switching", "each side has its own memory types",
        [ExitControls::SAVE_PAT | ExitControls::LOAD_PAT, EntryControls::LOAD_PAT];
    InsOutsInformation, Required, "INS/OUTS information", "string I/O without decoding",
        [Bits(Basic::INS_OUTS_INFORMATION)];
    TrueControls, Used, "true controls", "CR3 moves and debug state need no exit",
        [Bits(Basic::TRUE_CONTROLS)];
    Ept1G, Used, "EPT pages of 1 GiB", "still shorter walks", [Bits(EptVpid::PAGE_1G)];
    EptAccessedDirty, Used, "EPT accessed and dirty flags", "a restart zeroes only what was written",
        [Bits(EptVpid::ACCESSED_DIRTY)];
    EptExecuteOnly, Unused, "EPT execute-only pages", "code that cannot be read",
        [Bits(EptVpid::EXECUTE_ONLY)];
    EptAdvancedInformation, Unused, "advanced EPT-violation information",
        "the guest's own page rights at a violation", [Bits(EptVpid::ADVANCED_EXIT_INFORMATION)];
    ModeBasedExecute, Unused, "mode-based execute control", "EPT execute rights by privilege",
        [SecondaryControls::MODE_BASED_EXECUTE_CONTROL];
    SubPageWrite, Unused, "sub-page write permissions", "write protection of 128 bytes",
        [SecondaryControls::SUB_PAGE_WRITE_PERMISSIONS];
    PageModificationLog, Used, "page-modification logging", "written pages are known without a search",
        [SecondaryControls::ENABLE_PML, Bits(EptVpid::ACCESSED_DIRTY)];
    Vpid, Used, "VPID", "the TLB survives a world switch",
        [SecondaryControls::ENABLE_VPID, Bits(EptVpid::INVVPID)];
    InvvpidAddress, Used, "INVVPID of one address", "emulated INVLPG", [Bits(EptVpid::INVVPID_ADDRESS)];
    InvvpidSingle, Used, "INVVPID of one VPID", "emulated CR3 and CR4 loads",
        [Bits(EptVpid::INVVPID_SINGLE)];
    InvvpidSingleNonGlobal, Unused, "INVVPID but for globals", "emulated CR3 loads that keep globals",
        [Bits(EptVpid::INVVPID_SINGLE_NON_GLOBAL)];
    InvvpidAll, Used, "INVVPID of all", "reusing VPIDs", [Bits(EptVpid::INVVPID_ALL)];
    PreemptionTimer, Used, "VMX-preemption timer", "an exact end of every time slice",
        [PinControls::ACTIVATE_PREEMPTION_TIMER];
    SavePreemptionTimer, Unused, "preemption timer saved at exit", "re-entry without a TSC read",
        [ExitControls::SAVE_PREEMPTION_TIMER];
    AcknowledgeInterrupt, Used, "acknowledge interrupt on exit", "the vector comes with the exit",
        [ExitControls::ACKNOWLEDGE_INTERRUPT_ON_EXIT];
    MsrBitmaps, Required, "MSR bitmaps", "harmless MSRs without an exit",
        [PrimaryControls::USE_MSR_BITMAPS];
    IoBitmaps, Required, "I/O bitmaps", "harmless ports without an exit", [PrimaryControls::USE_IO_BITMAPS];
    TprShadow, Used, "TPR shadow", "CR8 without an exit", [PrimaryControls::USE_TPR_SHADOW];
    VirtualizeApicAccesses, Used, "APIC-access page", "xAPIC accesses without decoding",
        [SecondaryControls::VIRTUALIZE_APIC_ACCESSES];
    ApicRegisterVirtualization, Used, "APIC-register virtualization", "APIC reads without an exit",
        [SecondaryControls::APIC_REGISTER_VIRTUALIZATION];
    VirtualX2apic, Used, "x2APIC mode", "x2APIC MSRs without an exit",
        [SecondaryControls::VIRTUALIZE_X2APIC_MODE];
    VirtualInterruptDelivery, Used, "virtual-interrupt delivery", "EOI and injection without an exit",
        [SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY];
    PostedInterrupts, Used, "posted interrupts", "interrupts reach a running guest without a kick, which is an exit",
        [PinControls::PROCESS_POSTED_INTERRUPTS];
    IpiVirtualization, Unused, "IPI virtualization", "guest IPIs without an exit",
        [PrimaryControls::ACTIVATE_TERTIARY_CONTROLS, TertiaryControls::IPI_VIRTUALIZATION];
    TscOffset, Required, "TSC offsetting", "a guest's TSC starts at zero", [PrimaryControls::USE_TSC_OFFSETTING];
    TscScaling, Used, "TSC scaling", "a guest's TSC at the frequency that its VM asks for",
        [SecondaryControls::USE_TSC_SCALING];
    Rdtscp, Used, "RDTSCP", "guests may use RDTSCP and RDPID", [SecondaryControls::ENABLE_RDTSCP];
    Invpcid, Used, "INVPCID", "guests may use INVPCID", [SecondaryControls::ENABLE_INVPCID];
    Xsaves, Used, "XSAVES", "guests may use XSAVES and XRSTORS", [SecondaryControls::ENABLE_XSAVES];
    UserWait, Unused, "user wait and pause", "guests may use TPAUSE, UMONITOR and UMWAIT",
        [SecondaryControls::ENABLE_USER_WAIT_AND_PAUSE];
    PauseLoopExiting, Used, "PAUSE-loop exiting", "a spinning vCPU gives up its CPU",
        [SecondaryControls::PAUSE_LOOP_EXITING];
    WbinvdExiting, Used, "WBINVD exiting", "no guest flushes everybody's caches",
        [SecondaryControls::WBINVD_EXITING];
    EnclsExiting, Used, "ENCLS exiting", "SGX is not there for guests, as CPUID says",
        [SecondaryControls::ENABLE_ENCLS_EXITING];
    DescriptorTableExiting, Unused, "descriptor-table exiting", "watching SGDT and its like; no UMIP, which is SMSW, too",
        [SecondaryControls::DESCRIPTOR_TABLE_EXITING];
    MonitorTrapFlag, Unused, "monitor trap flag", "single steps for the debugger",
        [PrimaryControls::MONITOR_TRAP_FLAG];
    VirtualSpecCtrl, Unused, "IA32_SPEC_CTRL virtualization", "mitigations that guests cannot undo: theirs are their own",
        [PrimaryControls::ACTIVATE_TERTIARY_CONTROLS, TertiaryControls::VIRTUALIZE_SPEC_CTRL];
    BusLockDetection, Unused, "bus-lock detection", "guests that stall the bus are seen",
        [SecondaryControls::BUS_LOCK_DETECTION];
    NotificationExits, Unused, "notification VM exits", "guests that never open a window are stopped",
        [SecondaryControls::INSTRUCTION_TIMEOUT];
    SwitchCet, Unused, "CET state switching", "each side has its own shadow stack",
        [ExitControls::LOAD_CET_STATE, EntryControls::LOAD_CET_STATE];
    SwitchPkrs, Unused, "IA32_PKRS switching", "each side has its own protection keys",
        [ExitControls::LOAD_PKRS, EntryControls::LOAD_PKRS];
    SwitchPerfGlobal, Unused, "IA32_PERF_GLOBAL_CTRL switching", "counters stop at the border",
        [ExitControls::LOAD_PERF_GLOBAL_CTRL, EntryControls::LOAD_PERF_GLOBAL_CTRL];
    HltState, Unused, "HLT activity state", "entering a guest that sleeps", [Bits(Misc::HLT_STATE)];
}

const _: () = assert!(Feature::ALL.len() <= 64, "the set below is one u64");

/// Which features this processor has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    present: u64,
    preemption_timer_shift: u32,
}

impl Features {
    /// Of a processor with these capabilities.
    pub fn new(caps: &Capabilities) -> Self {
        let mut present = 0;
        for &feature in Feature::ALL {
            if feature.shows_in(caps) {
                present |= 1 << feature as u32;
            }
        }
        Self {
            present,
            preemption_timer_shift: caps.preemption_timer_shift(),
        }
    }

    /// Whether the processor has it.
    #[inline]
    pub const fn has(&self, feature: Feature) -> bool {
        self.present & (1 << feature as u32) != 0
    }

    /// Checks that all required ones are there.
    ///
    /// # Errors
    /// [`MissingFeatures`] names those that are not.
    pub fn check(&self) -> Result<(), MissingFeatures> {
        let missing = MissingFeatures(*self);
        if missing.iter().next().is_some() {
            Err(missing)
        } else {
            Ok(())
        }
    }
}

/// The table: one line for each feature.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut newline = "";
        for &feature in Feature::ALL {
            let need = match feature.need() {
                Need::Required => "required",
                Need::Used => "used",
                Need::Unused => "unused",
            };
            let there = if self.has(feature) {
                "there"
            } else {
                "missing"
            };
            write!(
                f,
                "{newline}{:<36} {need:<8} {there:<7} {}",
                feature.name(),
                feature.purpose()
            )?;
            if feature == Feature::PreemptionTimer && self.has(feature) {
                write!(
                    f,
                    " (one count is 2^{} TSC ticks)",
                    self.preemption_timer_shift
                )?;
            }
            newline = "\n";
        }
        Ok(())
    }
}

/// This processor cannot run Plinth: it lacks required features.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MissingFeatures(Features);

impl MissingFeatures {
    /// Those that are missing.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        Feature::ALL
            .iter()
            .copied()
            .filter(|&feature| feature.need() == Need::Required && !self.0.has(feature))
    }
}

impl fmt::Display for MissingFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this processor's VT-x is too old for Plinth, which needs: ")?;
        let mut comma = "";
        for feature in self.iter() {
            write!(f, "{comma}{} ({})", feature.name(), feature.purpose())?;
            comma = ", ";
        }
        Ok(())
    }
}

impl core::error::Error for MissingFeatures {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::RawCapabilities;
    use crate::testing::skylake;
    use std::string::{String, ToString};

    fn features(raw: RawCapabilities) -> Features {
        Features::new(&Capabilities::new(raw))
    }

    fn line(features: &Features, name: &str) -> String {
        let table = features.to_string();
        table
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .to_string()
    }

    #[test]
    fn a_skylake_has_all_that_is_required() {
        let features = features(skylake());
        assert_eq!(features.check(), Ok(()));
        assert!(features.has(Feature::Ept1G));
        assert!(features.has(Feature::Vpid));
        assert!(!features.has(Feature::BusLockDetection));
        assert!(!features.has(Feature::IpiVirtualization));
    }

    #[test]
    fn the_table_has_a_line_for_each_feature_with_what_it_is_for() {
        let features = features(skylake());
        assert_eq!(features.to_string().lines().count(), Feature::ALL.len());
        assert_eq!(
            line(&features, "unrestricted guest"),
            "unrestricted guest                   required there   real mode and unpaged code run natively"
        );
        assert_eq!(
            line(&features, "bus-lock detection"),
            "bus-lock detection                   unused   missing guests that stall the bus are seen"
        );
        assert!(line(&features, "VMX-preemption timer").ends_with("(one count is 2^5 TSC ticks)"));
    }

    #[test]
    fn missing_required_features_are_one_clear_error() {
        let mut raw = skylake();
        raw.ept_vpid &= !(1 << 14);
        raw.secondary &= !(1 << (32 + 7));
        assert_eq!(
            features(raw).check().unwrap_err().to_string(),
            "this processor's VT-x is too old for Plinth, which needs: EPT tables in write-back memory \
             (second-level walks from the cache), unrestricted guest (real mode and unpaged code run natively)"
        );
    }

    #[test]
    fn a_processor_without_any_capability_has_no_feature() {
        let features = features(RawCapabilities::default());
        assert!(Feature::ALL.iter().all(|&feature| !features.has(feature)));
    }
}
