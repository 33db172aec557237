//! What the hypervisor needs from the processor's virtualisation extension, whoever makes the processor.
//!
//! A backend is chosen once at boot and the run loop is compiled for it, so nothing here is called through a
//! pointer. Its vCPU is plain data that may move between CPUs; only the handle that [`Backend::load`] gives, and
//! that stays on this CPU, can read registers and enter the guest.

pub(crate) mod vmx;

use alloc::sync::Arc;

use arch::speculation::ArchCapabilities;
use arch::{Cr4, Vector, Xcr0};
use machine::A20Gate;
use machine::devices::lapic::{ApicPage, Lapic};
use memory::{GuestPhys, Range};
use vmm::cpuid::Backing;
use vmm::inject::Delivery;
use vmm::monitor::command::EntryPart;
use vmm::tsc::{GuestTsc, Scaling};
use vmm::{Cpu, Event, VmExit};

use crate::memory::GuestRam;

/// A virtualisation extension.
pub(crate) trait Backend: Sized + 'static {
    /// One vCPU while it does not run.
    type Vcpu: Send;
    /// The second-level page tables of one VM.
    type AddressSpace: AddressSpace;
    /// One vCPU on this CPU.
    type Loaded<'a>: LoadedVcpu;
    /// The way to a running vCPU past the hypervisor.
    type Posts: DirectPosts;

    /// That way for a new vCPU, where the hardware has one.
    fn posts(&self) -> Option<Arc<Self::Posts>>;

    /// What it lets guests use of the processor.
    fn guest_features(&self) -> GuestFeatures;

    /// The most memory that a vCPU takes: frames, and of the heap.
    fn vcpu_bytes(&self) -> u64;

    /// The memory that the second-level page tables of this RAM take.
    fn address_space_bytes(&self, pieces: impl Iterator<Item = Range<GuestPhys>> + Clone) -> u64;

    /// Maps all of a VM's RAM at the largest page size that the pieces allow.
    ///
    /// # Errors
    /// [`OutOfFrames`] where no frame is left for a page table; nothing stays allocated then.
    fn address_space(&self, ram: &GuestRam) -> Result<Self::AddressSpace, OutOfFrames>;

    /// Makes a vCPU in the architectural reset state.
    ///
    /// # Errors
    /// [`OutOfFrames`] where no frame is left for what the hardware wants to own.
    fn vcpu(
        &self,
        space: &Self::AddressSpace,
        start: &VcpuSetup,
        posts: Option<&Arc<Self::Posts>>,
    ) -> Result<Self::Vcpu, OutOfFrames>;

    /// Brings a vCPU onto this CPU; cheap where it was the last one here.
    fn load<'a>(&self, vcpu: &'a mut Self::Vcpu) -> Self::Loaded<'a>;

    /// Whether a vCPU is on a CPU with some of its state.
    fn is_loaded(&self, vcpu: &Self::Vcpu) -> bool;

    /// Takes a vCPU off this CPU with all of its state, so that another one, or another CPU, may go on.
    fn unload(&self, vcpu: &mut Self::Vcpu);
}

/// The second-level page tables of one VM, which know what its guest has written.
pub(crate) trait AddressSpace: Send + Sync {
    /// Brings the account of the VM's written memory ([`memory::Written`]) up to date but for the last turn of each
    /// vCPU.
    fn note_written(&self);

    /// The same for good: no vCPU uses these tables any more.
    fn finish(&self);

    /// The pages that map its RAM.
    fn page_counts(&self) -> PageCounts;
}

/// How many pages of each size map something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PageCounts {
    pub(crate) of_4k: u64,
    pub(crate) of_2m: u64,
    pub(crate) of_1g: u64,
}

impl core::fmt::Display for PageCounts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "pages: {} of 1 GiB, {} of 2 MiB, {} of 4 KiB",
            self.of_1g, self.of_2m, self.of_4k
        )
    }
}

/// What a backend lets guests use of the processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestFeatures {
    /// The extended state that is switched with a guest.
    pub(crate) xcr0: Xcr0,
    /// Features that hang on the backend's controls.
    pub(crate) backing: Backing,
    /// Who delivers the interrupts of a local APIC in one of its usual modes.
    pub(crate) delivery: Delivery,
    /// Whether a guest's TSC may run at another frequency than the host's.
    pub(crate) tsc_scaling: Scaling,
    /// IA32_ARCH_CAPABILITIES.
    pub(crate) capabilities: ArchCapabilities,
    /// Where PKRU lies in an XSAVE area, if the processor has it there and CPUID does not say so.
    pub(crate) pkru_offset: Option<u32>,
}

/// What a new vCPU is told about the machine that it sits in.
#[derive(Clone, Debug)]
pub(crate) struct VcpuSetup {
    /// Its TSC, at first that of the VM's other vCPUs.
    pub(crate) tsc: GuestTsc,
    /// The registers of its local APIC, which the hardware may work on as well.
    pub(crate) apic_page: Arc<ApicPage>,
    /// The bits of CR4 that CPUID allows it to set.
    pub(crate) cr4_allowed: Cr4,
    /// What a loop of PAUSEs does.
    pub(crate) pause_loops: PauseLoops,
}

/// What becomes of a vCPU that spins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PauseLoops {
    /// It exits, where the processor can notice: others need the CPU.
    Exit,
    /// It goes on: the CPU is its own.
    GoOn,
}

/// A vCPU that is loaded on this CPU.
pub(crate) trait LoadedVcpu: Cpu {
    /// The host's TSC, which is `now_tsc`, when the guest's reads this: as far back or ahead as a `u64` goes.
    fn host_tsc_at(&self, guest_tsc: u64, now_tsc: u64) -> u64;

    /// The guest's TSC when the host's reads this.
    fn guest_tsc_at(&self, host_tsc: u64) -> u64;

    /// The VM's time began at another moment of the host's TSC: what the guest's read at `from_tsc`, it reads at
    /// `to_tsc`.
    fn move_tsc_origin(&mut self, from_tsc: u64, to_tsc: u64);

    /// Runs the guest until it exits, at the latest when the host's TSC, which is `now_tsc`, reaches
    /// `deadline_tsc`, and shows the exit to `visitor`. With a deadline of `u64::MAX` no timer ends its run.
    ///
    /// Does not run it where an NMI has come since the last look at what others have left: the visitor is told to look
    /// again.
    fn enter<V: ExitVisitor<Self>>(
        &mut self,
        now_tsc: u64,
        deadline_tsc: u64,
        visitor: V,
    ) -> V::Outcome
    where
        Self: Sized;

    /// The next entry, and it alone, waits until the host's TSC reads this: at the last moment before the guest runs.
    fn hold_until(&mut self, tsc: u64);

    /// The host's TSC when the last entry that was held was ready to happen.
    fn ready_tsc(&self) -> u64;

    /// The event whose delivery the last exit interrupted, if it did.
    fn interrupted_event(&self) -> Option<Event>;

    /// The event that the last exit, one by an exception, kept from the guest.
    fn exiting_event(&self) -> Option<Event>;

    /// Delivers `event` at the next entry.
    fn inject(&mut self, event: Event);

    /// The gate of address line 20 has been moved.
    fn set_a20(&mut self, gate: A20Gate);

    /// Who brings the local APIC's interrupts to the guest, as its APIC is now.
    fn delivery(&self) -> Delivery;

    /// Tells the hardware what software has changed in the local APIC; to be called after all such changes, before
    /// the entry.
    fn present(&mut self, lapic: &mut Lapic);

    /// A turn begins: from now on interrupts may come past the hypervisor. Those that have come before are drained
    /// before the entry.
    fn open_posts(&mut self);

    /// The turn is over, and what comes from now on waits for the next.
    fn close_posts(&mut self);

    /// Asks for exits as soon as the guest can take an interrupt, an NMI.
    fn request_windows(&mut self, windows: Windows);

    /// Has each PAUSE exit, or no longer. Every processor with VMX can do that.
    fn watch_pauses(&mut self, pauses: Pauses);

    /// Breaks a rule of the hardware's checks of this part, so that the next entry fails.
    fn spoil(&mut self, part: EntryPart);

    /// Writes down what the hardware says about a failed entry or an exit that nobody expected.
    fn explain(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
}

/// How other CPUs send an interrupt to a vCPU that runs, without an exit of its guest.
pub(crate) trait DirectPosts: Send + Sync {
    /// Whether the vCPU runs, and takes interrupts this way.
    fn is_open(&self) -> bool;

    /// Sends a fixed, edge-triggered interrupt.
    fn post(&self, vector: Vector) -> Posted;

    /// Whether something has come that nobody has taken.
    fn is_pending(&self) -> bool;

    /// Hands that to the local APIC.
    fn drain(&self, lapic: &mut Lapic);
}

/// What has become of an interrupt that was sent directly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Posted {
    /// The guest takes it, or somebody else has seen to that.
    Delivered,
    /// It waits, and the vCPU has to be told.
    Left,
}

/// What is done about an exit. It is called where the exit is decoded, so that the compiler makes one straight line
/// of both for each of the frequent reasons.
pub(crate) trait ExitVisitor<C> {
    /// What the run loop is to know.
    type Outcome;

    /// Does it.
    fn visit(self, cpu: &mut C, exit: VmExit) -> Self::Outcome;

    /// There was no exit, since there was no entry: it has turned back to look at what others have left. It would have
    /// injected this event, which it will not now.
    fn turned_back(self, event: Option<Event>) -> Self::Outcome;
}

/// What a guest's PAUSE is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pauses {
    /// An exit each time.
    Exit,
    /// An exit, if at all, only in a loop of them.
    Run,
}

bitflags::bitflags! {
    /// Moments that the guest is to be stopped at.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Windows: u8 {
        /// It can take an external interrupt.
        const INTERRUPT = 1 << 0;
        /// It can take an NMI.
        const NMI = 1 << 1;
    }
}

/// The machine has no free frame left for this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutOfFrames;
