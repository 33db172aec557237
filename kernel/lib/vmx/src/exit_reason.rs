//! The exit-reason field: all basic exit reasons by name.
//!
//! SDM vol. 3, VMX Basic Exit Reasons.

use core::fmt;

macro_rules! exit_reasons {
    ($($reason:ident = $number:literal, $name:literal;)*) => {
        /// A basic exit reason; the discriminant is the manual's number.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum ExitReason {
            $(#[doc = concat!($name, ".")] $reason = $number,)*
        }

        impl ExitReason {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            /// The reason with this number.
            #[inline]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$reason),)*
                    _ => None,
                }
            }

            /// A short name for logs and counters.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => $name,)* }
            }
        }
    };
}

exit_reasons! {
    ExceptionOrNmi = 0, "exception or NMI";
    ExternalInterrupt = 1, "external interrupt";
    TripleFault = 2, "triple fault";
    Init = 3, "INIT signal";
    StartUp = 4, "start-up IPI";
    IoSmi = 5, "I/O SMI";
    OtherSmi = 6, "other SMI";
    InterruptWindow = 7, "interrupt window";
    NmiWindow = 8, "NMI window";
    TaskSwitch = 9, "task switch";
    Cpuid = 10, "CPUID";
    Getsec = 11, "GETSEC";
    Hlt = 12, "HLT";
    Invd = 13, "INVD";
    Invlpg = 14, "INVLPG";
    Rdpmc = 15, "RDPMC";
    Rdtsc = 16, "RDTSC";
    Rsm = 17, "RSM";
    Vmcall = 18, "VMCALL";
    Vmclear = 19, "VMCLEAR";
    Vmlaunch = 20, "VMLAUNCH";
    Vmptrld = 21, "VMPTRLD";
    Vmptrst = 22, "VMPTRST";
    Vmread = 23, "VMREAD";
    Vmresume = 24, "VMRESUME";
    Vmwrite = 25, "VMWRITE";
    Vmxoff = 26, "VMXOFF";
    Vmxon = 27, "VMXON";
    ControlRegister = 28, "control-register access";
    DebugRegister = 29, "MOV DR";
    Io = 30, "I/O instruction";
    Rdmsr = 31, "RDMSR";
    Wrmsr = 32, "WRMSR";
    InvalidGuestState = 33, "entry failure due to invalid guest state";
    MsrLoading = 34, "entry failure due to MSR loading";
    Mwait = 36, "MWAIT";
    MonitorTrapFlag = 37, "monitor trap flag";
    Monitor = 39, "MONITOR";
    Pause = 40, "PAUSE";
    EntryMachineCheck = 41, "entry failure due to machine-check event";
    TprBelowThreshold = 43, "TPR below threshold";
    ApicAccess = 44, "APIC access";
    VirtualizedEoi = 45, "virtualized EOI";
    GdtrOrIdtr = 46, "access to GDTR or IDTR";
    LdtrOrTr = 47, "access to LDTR or TR";
    EptViolation = 48, "EPT violation";
    EptMisconfiguration = 49, "EPT misconfiguration";
    Invept = 50, "INVEPT";
    Rdtscp = 51, "RDTSCP";
    PreemptionTimer = 52, "VMX-preemption timer expired";
    Invvpid = 53, "INVVPID";
    Wbinvd = 54, "WBINVD or WBNOINVD";
    Xsetbv = 55, "XSETBV";
    ApicWrite = 56, "APIC write";
    Rdrand = 57, "RDRAND";
    Invpcid = 58, "INVPCID";
    Vmfunc = 59, "VMFUNC";
    Encls = 60, "ENCLS";
    Rdseed = 61, "RDSEED";
    PageModificationLogFull = 62, "page-modification log full";
    Xsaves = 63, "XSAVES";
    Xrstors = 64, "XRSTORS";
    Pconfig = 65, "PCONFIG";
    SubPagePermission = 66, "SPP-related event";
    Umwait = 67, "UMWAIT";
    Tpause = 68, "TPAUSE";
    Loadiwkey = 69, "LOADIWKEY";
    Enclv = 70, "ENCLV";
    EnqcmdPasid = 72, "ENQCMD PASID translation failure";
    EnqcmdsPasid = 73, "ENQCMDS PASID translation failure";
    BusLock = 74, "bus lock";
    InstructionTimeout = 75, "instruction timeout";
    Seamcall = 76, "SEAMCALL";
    Tdcall = 77, "TDCALL";
    Rdmsrlist = 78, "RDMSRLIST";
    Wrmsrlist = 79, "WRMSRLIST";
    Urdmsr = 80, "URDMSR";
    Uwrmsr = 81, "UWRMSR";
    RdmsrImmediate = 84, "RDMSR with an immediate";
    WrmsrImmediate = 85, "WRMSR with an immediate";
}

/// The whole exit-reason field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct RawExitReason(pub u32);

impl RawExitReason {
    /// The number of the basic exit reason.
    #[inline]
    pub const fn number(self) -> u16 {
        self.0 as u16
    }

    /// The basic exit reason, or `None` where the manual's table has no such number.
    #[inline]
    pub const fn basic(self) -> Option<ExitReason> {
        ExitReason::from_number(self.number())
    }
}

impl fmt::Display for RawExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.basic() {
            Some(reason) => write!(f, "{} ({:#x})", reason.name(), self.0),
            None => write!(f, "unknown exit reason ({:#x})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn the_numbers_are_the_manuals() {
        for (number, name) in [
            (0, "exception or NMI"),
            (10, "CPUID"),
            (28, "control-register access"),
            (37, "monitor trap flag"),
            (48, "EPT violation"),
            (55, "XSETBV"),
            (62, "page-modification log full"),
            (75, "instruction timeout"),
        ] {
            assert_eq!(ExitReason::from_number(number).unwrap().name(), name);
        }
        for gap in [35, 38, 42, 71, 82, 83, 86, 0xffff] {
            assert_eq!(ExitReason::from_number(gap), None);
        }
    }

    #[test]
    fn a_reason_survives_the_way_to_its_number_and_back() {
        for &reason in ExitReason::ALL {
            assert_eq!(ExitReason::from_number(reason as u16), Some(reason));
        }
    }

    #[test]
    fn the_field_is_named_with_its_number() {
        let reason = RawExitReason(0x8000_0021);
        assert_eq!(reason.basic(), Some(ExitReason::InvalidGuestState));
        assert_eq!(
            reason.to_string(),
            "entry failure due to invalid guest state (0x80000021)"
        );
        assert_eq!(
            RawExitReason(0x23).to_string(),
            "unknown exit reason (0x23)"
        );
    }
}
