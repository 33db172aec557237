//! The rules themselves: a name and a sentence for each, under the manual's sections.

macro_rules! rules {
    ($($section:literal { $($rule:ident, $sentence:literal;)* })*) => {
        /// One rule that the processor checks at VM entry.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Rule {
            $($(#[doc = concat!($section, ": ", $sentence, ".")] $rule,)*)*
        }

        impl Rule {
            /// All of them, section by section.
            pub const ALL: &[Self] = &[$($(Self::$rule,)*)*];

            /// What the rule wants, in one sentence about the field that breaks it.
            pub const fn sentence(self) -> &'static str {
                match self { $($(Self::$rule => $sentence,)*)* }
            }

            /// The section of SDM vol. 3 that states it.
            pub const fn section(self) -> &'static str {
                match self { $($(Self::$rule => $section,)*)* }
            }
        }
    };
}

rules! {
    "VM-Execution Control Fields" {
        ControlBits, "it must keep the bits that the capability MSR fixes";
        Cr3TargetCount, "it must not exceed the CR3-target values that the processor has";
        PageAddress, "it must be the address of a page: bits 11:0 clear";
        PhysicalWidth, "it must not exceed the physical-address width";
        TprThresholdReserved, "bits 31:4 must be 0 without virtual-interrupt delivery";
        VirtualNmisNeedExiting, "virtual NMIs need NMI exiting";
        NmiWindowNeedsVirtualNmis, "NMI-window exiting needs virtual NMIs";
        ApicControlsNeedTprShadow, "APIC virtualisation needs the TPR shadow";
        X2apicExcludesAccesses, "virtualize x2APIC mode excludes virtualize APIC accesses";
        DeliveryNeedsInterruptExiting, "virtual-interrupt delivery needs external-interrupt exiting";
        PostedNeedsDelivery, "posted interrupts need virtual-interrupt delivery";
        PostedNeedsAcknowledge, "posted interrupts need acknowledge interrupt on exit";
        PostedVector, "it must be a vector: bits 15:8 clear";
        PostedDescriptorAlignment, "it must be a multiple of 64";
        VpidZero, "it must not be 0 with VPIDs enabled";
        EptMemoryType, "the memory type must be one that the processor supports for EPT";
        EptWalkLength, "the page-walk length must be one that the processor supports";
        EptAccessedDirty, "bit 6 needs a processor with EPT accessed and dirty flags";
        EptShadowStack, "bit 7 needs a processor with supervisor shadow-stack control";
        EptReserved, "bits 11:8 must be 0";
        ControlNeedsEpt, "PML, unrestricted guest and the other controls over EPT need EPT";
        IpiVirtualizationTable, "it must be a multiple of 8";
        VmFunctionBits, "only VM functions that the processor has may be enabled";
        EptpSwitchingNeedsEpt, "EPTP switching needs EPT";
        PtNeedsRtit, "PT with guest-physical addresses needs IA32_RTIT_CTL loaded at entry and cleared at exit";
        TscMultiplierZero, "it must not be 0 with TSC scaling";
        HlatPointerReserved, "bits 2:0 and 11:5 must be 0";
    }
    "VM-Exit Control Fields" {
        TimerSavedWithoutTimer, "saving the preemption timer needs the timer";
        MsrAreaAlignment, "an MSR area must be a multiple of 16";
        MsrAreaEnd, "an MSR area must end within the physical-address width";
    }
    "VM-Entry Control Fields" {
        EventType, "bits 10:8 must be a type of event that can be injected";
        EventVector, "the vector must suit the type: NMI 2, hardware exceptions up to 31, other events 0";
        EventErrorCode, "bit 11 must be set for just those exceptions that have an error code in this mode";
        EventReserved, "bits 30:12 must be 0";
        EventErrorCodeReserved, "bits 31:16 must be 0";
        EventInstructionLength, "it must be 1 to 15 for software events (0 too, where the processor says so)";
        SmmOutsideSmm, "entry to SMM and deactivate dual-monitor treatment must be 0 outside SMM";
    }
    "Checks on Host Control Registers, MSRs, and SSP" {
        HostCr0Fixed, "the bits that VMX operation fixes must have their values";
        HostCr4Fixed, "the bits that VMX operation fixes must have their values";
        HostCetNeedsWp, "CR0.WP must be 1 with CR4.CET";
        HostCr3Width, "no bit beyond the physical-address width may be set";
        HostSysenterCanonical, "it must be canonical";
        HostPat, "each byte must be a memory type (0, 1, 4, 5, 6 or 7)";
        HostEferReserved, "reserved bits must be 0";
        HostEferLma, "LMA and LME must equal host address-space size";
        HostCetReserved, "reserved bits must be 0, bits 11:10 not both 1, and the bitmap base canonical";
        HostSspAlignment, "bits 1:0 must be 0";
        HostShadowStackCanonical, "it must be canonical";
        HostPkrsReserved, "bits 63:32 must be 0";
    }
    "Checks on Host Segment and Descriptor-Table Registers" {
        HostSelectorRpl, "RPL and TI must be 0";
        HostSelectorNull, "it must not be 0";
        HostBaseCanonical, "it must be canonical";
    }
    "Checks Related to Address-Space Size" {
        HostAddressSpaceSize, "host address-space size must be 1: the host is in 64-bit mode";
        HostPae, "CR4.PAE must be 1 for a 64-bit host";
        HostRipCanonical, "it must be canonical";
    }
    "Checks on Guest Control Registers, Debug Registers, and MSRs" {
        GuestCr0Fixed, "the bits that VMX operation fixes must have their values";
        GuestPagingNeedsProtection, "PG needs PE";
        GuestCr4Fixed, "the bits that VMX operation fixes must have their values";
        GuestCetNeedsWp, "CR0.WP must be 1 with CR4.CET";
        GuestDebugctlReserved, "reserved bits must be 0";
        GuestLongModeNeedsPaging, "an IA-32e mode guest needs CR0.PG";
        GuestLongModeNeedsPae, "an IA-32e mode guest needs CR4.PAE";
        GuestPcideNeedsLongMode, "CR4.PCIDE needs an IA-32e mode guest";
        GuestCr3Width, "no bit beyond the physical-address width may be set";
        GuestDr7High, "bits 63:32 must be 0";
        GuestSysenterCanonical, "it must be canonical";
        GuestCetReserved, "reserved bits must be 0, bits 11:10 not both 1, and the bitmap base canonical";
        GuestShadowStackCanonical, "it must be canonical";
        GuestPat, "each byte must be a memory type (0, 1, 4, 5, 6 or 7)";
        GuestEferReserved, "reserved bits must be 0";
        GuestEferLma, "LMA must equal the IA-32e mode guest control";
        GuestEferLme, "LME must equal LMA with CR0.PG";
        GuestBndcfgs, "bits 11:2 must be 0 and the address canonical";
        GuestPkrsReserved, "bits 63:32 must be 0";
        GuestUinv, "it must be a vector: bits 15:8 clear";
        GuestLbrCtlReserved, "reserved bits must be 0";
    }
    "Checks on Guest Segment Registers" {
        TableSelectorTi, "TI must be 0";
        SsRpl, "its RPL must be that of CS";
        V86Base, "in virtual-8086 mode it must be 16 times the selector";
        SegmentBaseCanonical, "it must be canonical";
        SegmentBaseHigh, "bits 63:32 must be 0";
        V86Limit, "in virtual-8086 mode it must be 0xffff";
        V86AccessRights, "in virtual-8086 mode it must be 0xf3";
        CsType, "it must be accessed code (9, 11, 13 or 15), or 3 for an unrestricted guest";
        SsType, "it must be accessed writable data (3 or 7)";
        DataAccessed, "the segment must be accessed";
        DataReadable, "a code segment here must be readable";
        SegmentS, "S must be 1";
        CsDplData, "with type 3 the DPL must be 0";
        CsDplNonconforming, "for nonconforming code the DPL must be that of SS";
        CsDplConforming, "for conforming code the DPL must not exceed that of SS";
        SsDplRpl, "the DPL must be the RPL of the selector";
        SsDplZero, "the DPL must be 0 where CS has type 3 or CR0.PE is 0";
        DataDpl, "the DPL must not be below the RPL of the selector";
        SegmentPresent, "P must be 1";
        SegmentReserved, "bits 11:8 and 31:17 must be 0";
        CsLongDefault, "D must be 0 with L in an IA-32e mode guest";
        GranularityClear, "G must be 0 where bits 11:0 of the limit are not all 1";
        GranularitySet, "G must be 1 where the limit exceeds 20 bits";
        TrType, "it must be a busy TSS (11; 3 too outside IA-32e mode)";
        TrUsable, "it must be usable";
        LdtrType, "it must be an LDT (2)";
        SystemS, "S must be 0";
    }
    "Checks on Guest Descriptor-Table Registers" {
        TableBaseCanonical, "it must be canonical";
        TableLimit, "bits 31:16 must be 0";
    }
    "Checks on Guest RIP, RFLAGS, and SSP" {
        RipHigh, "bits 63:32 must be 0 outside 64-bit mode";
        RipUpper, "the bits above the linear-address width must be all equal";
        RflagsReserved, "bits 63:22, 15, 5 and 3 must be 0 and bit 1 must be 1";
        RflagsVm, "VM must be 0 in IA-32e mode and without CR0.PE";
        RflagsIf, "IF must be 1 to inject an external interrupt";
        SspAlignment, "bits 1:0 must be 0";
        SspUpper, "the bits above the address width of the mode must be all equal";
    }
    "Checks on Guest Non-Register State" {
        ActivityUnsupported, "it must be a state that the processor supports";
        ActivityHltDpl, "HLT needs a CPL of 0 (the DPL of SS)";
        ActivityBlocked, "it must be active while STI or MOV SS block interrupts";
        ActivityEvent, "the event to be injected must be one that this state lets in";
        BlockingReserved, "bits 31:5 must be 0";
        BlockingBoth, "STI and MOV SS cannot both block";
        BlockingStiWithoutIf, "STI blocks nothing while RFLAGS.IF is 0";
        BlockingInterrupt, "STI and MOV SS must not block an external interrupt that is injected";
        BlockingNmiByMovSs, "MOV SS must not block an NMI that is injected";
        BlockingNmiBySti, "some processors want that STI does not block an NMI that is injected";
        BlockingSmi, "SMIs are not blocked outside SMM";
        BlockingNmi, "with virtual NMIs, NMIs must not be blocked when one is injected";
        BlockingEnclave, "an enclave interruption excludes blocking by MOV SS";
        PendingReserved, "bits 10:4, 13, 15 and 63:17 must be 0";
        PendingStepMissing, "BS must be 1 with RFLAGS.TF and without BTF, while interrupts are blocked or in HLT";
        PendingStepExtra, "BS must be 0 without RFLAGS.TF or with BTF, while interrupts are blocked or in HLT";
        PendingRtm, "RTM goes with bit 12 alone, and not with blocking by MOV SS";
        LinkPointerAlignment, "it must be all ones or a multiple of 4096";
        LinkPointerWidth, "it must be all ones or within the physical-address width";
    }
    "Checks on Guest Page-Directory-Pointer-Table Entries" {
        PdpteReserved, "a present entry must have its reserved bits 0";
    }
}
