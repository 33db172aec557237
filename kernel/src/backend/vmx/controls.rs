//! Which exits this hypervisor asks for: the control words of every vCPU, chosen once at boot.

use arch::{Cr0, Cr4, Exception};
use vmx::capability::{Capabilities, MissingControls};
use vmx::{EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls};

/// The CR0 bits that a guest changes without an exit: those that concern only what it sees itself. PE, PG, NW
/// and CD have rules and consequences, NE is fixed by VMX, and the reserved ones are to fault.
pub(super) const CR0_GUEST_OWNED: Cr0 = Cr0::MP
    .union(Cr0::EM)
    .union(Cr0::TS)
    .union(Cr0::WP)
    .union(Cr0::AM);

/// The CR4 bits that a guest may change without an exit, where CPUID shows it the feature: the others have rules
/// or consequences (paging mode, what CPUID shows, VMX itself).
pub(super) const CR4_GUEST_OWNED: Cr4 = Cr4::PVI
    .union(Cr4::VME)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT)
    .union(Cr4::FSGSBASE);

/// Exceptions that exit. #DB and #AC because a guest whose handlers raise them again keeps the processor in
/// microcode for ever, where no timer and no NMI stops it (CVE-2015-8104, CVE-2015-5307); #MC because it is the
/// host's.
pub(super) const EXCEPTION_BITMAP: u32 = 1 << Exception::Debug as u32
    | 1 << Exception::AlignmentCheck as u32
    | 1 << Exception::MachineCheck as u32;

/// The control words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Controls {
    pub(super) pin: PinControls,
    pub(super) primary: PrimaryControls,
    /// What has each PAUSE exit, for who wants that now and then; empty where the processor cannot, as none does.
    pub(super) pauses: PrimaryControls,
    pub(super) secondary: SecondaryControls,
    pub(super) exit: ExitControls,
    pub(super) entry: EntryControls,
}

impl Controls {
    /// What is wanted, as far as the capability MSRs allow it.
    ///
    /// # Errors
    /// [`MissingControls`] where something required is not there; `Features::check` says it better before.
    pub(super) fn choose(capabilities: &Capabilities) -> Result<Self, MissingControls> {
        let primary = capabilities.adjust(
            PrimaryControls::HLT_EXITING
                | PrimaryControls::MWAIT_EXITING
                | PrimaryControls::MONITOR_EXITING
                | PrimaryControls::RDPMC_EXITING
                | PrimaryControls::USE_TSC_OFFSETTING
                | PrimaryControls::USE_IO_BITMAPS
                | PrimaryControls::USE_MSR_BITMAPS
                | PrimaryControls::ACTIVATE_SECONDARY_CONTROLS,
            PrimaryControls::PAUSE_EXITING,
        )?;
        Ok(Self {
            pin: capabilities.adjust(
                PinControls::EXTERNAL_INTERRUPT_EXITING
                    | PinControls::NMI_EXITING
                    | PinControls::VIRTUAL_NMIS,
                PinControls::ACTIVATE_PREEMPTION_TIMER,
            )?,
            primary: primary.difference(PrimaryControls::PAUSE_EXITING),
            pauses: primary.intersection(PrimaryControls::PAUSE_EXITING),
            secondary: capabilities.adjust(
                SecondaryControls::ENABLE_EPT | SecondaryControls::UNRESTRICTED_GUEST,
                SecondaryControls::ENABLE_VPID
                    | SecondaryControls::ENABLE_RDTSCP
                    | SecondaryControls::ENABLE_INVPCID
                    | SecondaryControls::ENABLE_XSAVES
                    | SecondaryControls::ENABLE_PML
                    | SecondaryControls::WBINVD_EXITING
                    | SecondaryControls::ENABLE_ENCLS_EXITING
                    | SecondaryControls::PAUSE_LOOP_EXITING,
            )?,
            exit: capabilities.adjust(
                ExitControls::HOST_ADDRESS_SPACE_SIZE
                    | ExitControls::SAVE_DEBUG_CONTROLS
                    | ExitControls::SAVE_EFER
                    | ExitControls::LOAD_EFER
                    | ExitControls::SAVE_PAT
                    | ExitControls::LOAD_PAT,
                ExitControls::ACKNOWLEDGE_INTERRUPT_ON_EXIT,
            )?,
            entry: capabilities.adjust(
                EntryControls::LOAD_DEBUG_CONTROLS
                    | EntryControls::LOAD_EFER
                    | EntryControls::LOAD_PAT,
                EntryControls::empty(),
            )?,
        })
    }
}

/// The bits that are to be one in a guest's CR0 and CR4 whatever the guest thinks.
#[derive(Clone, Copy, Debug)]
pub(super) struct FixedBits {
    pub(super) cr0_ones: Cr0,
    pub(super) cr4_ones: Cr4,
}

impl FixedBits {
    /// By the capability MSRs and the host's CR4, for an unrestricted guest.
    pub(super) fn of(capabilities: &Capabilities, host_cr4: Cr4) -> Self {
        Self {
            cr0_ones: Cr0::from_bits_retain(capabilities.unrestricted_cr0().must_be_one),
            cr4_ones: capabilities.guest_cr4_ones(host_cr4),
        }
    }
}
