//! Intel VT-x: the one place, with `lib/vmx`, that knows its words.
//!
//! [`Vmx`] is what all CPUs share and is made once at boot; [`VmxCpu`] proves that a CPU is in VMX root operation;
//! [`VmxVcpu`] is one vCPU at rest and [`VmxLoaded`](loaded::VmxLoaded) the same on a CPU. `entry` is the world
//! switch, `run` what surrounds it, `switch` the state that only changes hands with the vCPU.

mod apic;
mod bitmaps;
mod controls;
mod entry;
mod guard;
mod host;
mod instructions;
mod loaded;
mod pml;
mod pool;
mod posting;
mod private;
mod run;
mod setup;
mod space;
mod switch;
mod tlb;
mod vector;
mod vmcs;

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use alloc::boxed::Box;
use alloc::sync::Arc;

use arch::{Cr4, Xcr0, msr};
use bundle::{ApicVirtualization, HypervisorOptions};
use memory::{GuestPhys, PageSize, Range};
use spin::Mutex;
use vmm::cpuid::Backing;
use vmm::inject::Delivery;
use vmm::tsc::{GuestTsc, Scaling};
use vmx::apic::ApicLevel;
use vmx::capability::{AddressWidths, Capabilities, MissingControls, RawCapabilities};
use vmx::feature_control::{FeatureControl, LockedOff};
use vmx::features::{Feature, Features, MissingFeatures};
use vmx::{
    Arrival, HostTimer, Peculiarity, PinControls, PreemptionTimer, Residence, SecondaryControls,
    Tlb, Vpid, VpidAllocator, WriteTracking,
};

use self::apic::VirtualApic;
use self::bitmaps::Bitmaps;
use self::controls::{Controls, FixedBits};
use self::entry::Frame as EntryFrame;
use self::guard::Guard;
use self::instructions::vmxon;
use self::loaded::VmxLoaded;
use self::pml::WriteLog;
use self::posting::Posting;
use self::private::PrivateView;
use self::space::EptSpace;
use self::switch::{HostExtendedState, SwitchedState};
use self::vmcs::{CurrentVmcs, Vmcs};
use super::{Backend, GuestFeatures, OutOfFrames, VcpuSetup};
use crate::cpu::msr::{read_msr, try_read_msr, write_msr};
use crate::cpu::smp::MAX_CPUS;
use crate::cpu::{self, PcpuId, control};
use crate::memory::{Frame, GuestRam};

/// VT-x as found on this machine, and what all of its vCPUs have in common. Never freed, never changed.
pub(crate) struct Vmx {
    capabilities: Capabilities,
    features: Features,
    controls: Controls,
    apic_level: ApicLevel,
    tracking: WriteTracking,
    fixed: FixedBits,
    bitmaps: Bitmaps,
    tlb: Tlb,
    preemption_timer: PreemptionTimer,
    extended_state: HostExtendedState,
    vpids: Mutex<VpidAllocator>,
    guard: Guard,
}

/// The backend as everybody passes it around.
pub(crate) type VmxBackend = &'static Vmx;

/// Why VT-x cannot be used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unusable {
    /// CPUID does not show it.
    Absent,
    /// The firmware has locked it off.
    LockedOff(LockedOff),
    /// It lacks something that is required.
    Features(MissingFeatures),
    /// A control that every such processor has is missing.
    Controls(MissingControls),
    /// This CPU's VT-x is not that of the boot CPU.
    Differs,
    /// This CPU's extended registers are not those of the boot CPU.
    ExtendedState,
    /// VMXON failed.
    Refused,
    /// No frame is left for the regions.
    OutOfFrames,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str(
                "VT-x is missing: this processor (or the virtual machine that Plinth was started in) does not \
                 offer VMX, so no guest can run. Use an Intel processor with VT-x; under QEMU, nested KVM with \
                 -enable-kvm -cpu host,migratable=no,+vmx,+invtsc; or the Bochs emulator (cargo xtask run --engine \
                 bochs)",
            ),
            Self::LockedOff(error) => error.fmt(f),
            Self::Features(error) => error.fmt(f),
            Self::Controls(error) => error.fmt(f),
            Self::Differs => f.write_str("its VT-x capabilities are not those of the boot CPU"),
            Self::ExtendedState => {
                f.write_str("its extended registers (XCR0) are not those of the boot CPU")
            }
            Self::Refused => f.write_str("VMXON failed, although all its conditions are met"),
            Self::OutOfFrames => f.write_str("there is no memory left for its VMX regions"),
        }
    }
}

impl From<OutOfFrames> for Unusable {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl Vmx {
    /// Looks at the boot CPU and decides what all vCPUs will use; of APIC virtualisation no more than the options say.
    ///
    /// # Errors
    /// [`Unusable`], with a text for the operator.
    pub(crate) fn detect(options: &HypervisorOptions) -> Result<&'static Self, Unusable> {
        let capabilities = capabilities_here()?;
        let features = Features::new(&capabilities);
        features.check().map_err(Unusable::Features)?;
        for line in alloc::format!("{features}").lines() {
            log::info!(target: "vmx", "{line}");
        }
        let tlb = Tlb::new(&features);
        let mut controls = Controls::choose(&capabilities).map_err(Unusable::Controls)?;
        let extended_state = HostExtendedState::detect();
        if !extended_state.compaction {
            // XSAVES, which guests are not shown then, is to fault.
            controls.secondary.remove(SecondaryControls::ENABLE_XSAVES);
        }
        if !tlb.has_vpid() {
            controls.secondary.remove(SecondaryControls::ENABLE_VPID);
        }
        if !PreemptionTimer::is_exact(core::arch::x86_64::__cpuid(1).eax) {
            controls.pin.remove(PinControls::ACTIVATE_PREEMPTION_TIMER);
            log::info!(target: "vmx", "this processor's VMX-preemption timer has an erratum: the local APIC's serves");
        }
        let tracking = WriteTracking::best(&features);
        if tracking != WriteTracking::Log {
            controls.secondary.remove(SecondaryControls::ENABLE_PML);
        }
        log::info!(target: "vmx", "memory that guests have written: {tracking}");
        let apic_level = apic_level(&features, options.apic);
        log::info!(target: "vmx", "local APICs of guests: {apic_level}");
        let guard = Guard::choose(options.code_pages);
        for line in alloc::format!("{}", guard.mitigations()).lines() {
            log::info!(target: "speculation", "{line}");
        }
        let bitmaps = Bitmaps::new(apic_level, &guard)?;
        Ok(Box::leak(Box::new(Self {
            controls,
            apic_level,
            tracking,
            guard,
            fixed: FixedBits::of(&capabilities, control::read_cr4()),
            bitmaps,
            tlb,
            preemption_timer: PreemptionTimer::new(&capabilities),
            extended_state,
            vpids: Mutex::new(VpidAllocator::new()),
            capabilities,
            features,
        })))
    }

    /// Puts this CPU into VMX root operation, for good.
    ///
    /// # Errors
    /// [`Unusable`]; this CPU cannot run guests then, others may.
    pub(crate) fn enable_here(&self) -> Result<(), Unusable> {
        if *capabilities_here()?.raw() != *self.capabilities.raw() {
            return Err(Unusable::Differs);
        }
        if !self.extended_state.fits_this_cpu() {
            return Err(Unusable::ExtendedState);
        }
        private::provide(cpu::this().id(), self.tracking.flags())?;
        let region = Frame::zeroed().ok_or(Unusable::OutOfFrames)?;
        region.write_u32(0, self.capabilities.revision());
        let cr0 = self.capabilities.host_cr0(control::read_cr0());
        let cr4 = self.capabilities.host_cr4(control::read_cr4() | Cr4::VMXE);
        // SAFETY: VMX's fixed bits are added to what the hypervisor runs with: NE and VMXE, which concern
        // neither memory nor exceptions that it may take.
        unsafe {
            control::write_cr0(cr0);
            control::write_cr4(cr4);
        }
        // SAFETY: the control registers and IA32_FEATURE_CONTROL are as VMXON wants them; the region has the
        // revision and is leaked below, as the processor owns it from here on.
        unsafe { vmxon(region.address()) }.map_err(|_| Unusable::Refused)?;
        core::mem::forget(region);
        self.guard.enable_here();
        self.tlb.everything().for_each(tlb::carry_out);
        Ok(())
    }
}

/// How much of the local APICs the processor is to do: what it can, unless somebody wants less.
fn apic_level(features: &Features, wanted: ApicVirtualization) -> ApicLevel {
    let most = match wanted {
        ApicVirtualization::Hardware => ApicLevel::Delivery,
        ApicVirtualization::TaskPriority => ApicLevel::TaskPriority,
        ApicVirtualization::Software => ApicLevel::None,
    };
    ApicLevel::best(features).min(most)
}

/// The capabilities of the CPU that this runs on, after its firmware switch was set where that was left open.
fn capabilities_here() -> Result<Capabilities, Unusable> {
    if core::arch::x86_64::__cpuid(1).ecx & (1 << 5) == 0 {
        return Err(Unusable::Absent);
    }
    let control = read_msr(msr::IA32_FEATURE_CONTROL);
    match FeatureControl::decide(control).map_err(Unusable::LockedOff)? {
        FeatureControl::Enabled => {}
        FeatureControl::Write(value) => {
            // SAFETY: the MSR is there with VMX and is not locked; the value only allows VMX and locks it.
            unsafe { write_msr(msr::IA32_FEATURE_CONTROL, value) };
        }
    }
    let raw = RawCapabilities::read(|index| try_read_msr(index).unwrap_or(0));
    let widths = core::arch::x86_64::__cpuid(0x8000_0008).eax;
    Ok(Capabilities::new(raw).with_address_widths(AddressWidths {
        physical: widths as u8,
        linear: (widths >> 8) as u8,
    }))
}

/// One vCPU: its VMCS and what the hypervisor keeps beside it.
#[repr(C)]
pub(crate) struct VmxVcpu {
    /// First, as each entry wants its address.
    frame: EntryFrame,
    vmx: &'static Vmx,
    vmcs: Vmcs,
    switched: SwitchedState,
    /// Keeps the EPT alive as long as a VMCS points to it.
    space: Arc<EptSpace>,
    vpid: Vpid,
    residence: Residence<PcpuId>,
    /// The CR4 bits that the guest changes without an exit: those of features that CPUID shows it.
    cr4_guest_owned: Cr4,
    tsc: GuestTsc,
    windows: super::Windows,
    /// Without a preemption timer: what is known of the host's.
    host_timer: HostTimer,
    pin: PinControls,
    primary: vmx::PrimaryControls,
    secondary: SecondaryControls,
    apic: VirtualApic,
    /// Keeps the descriptor alive as long as a VMCS points to it.
    posting: Option<Arc<Posting>>,
    write_log: Option<WriteLog>,
    /// What it is to see otherwise than the other vCPUs of its VM, and the tables for that while it is on a CPU.
    peculiarity: Peculiarity,
    private: Option<PrivateView>,
    /// Whether an EPT violation may just want something of the tables: otherwise it always means what is not RAM.
    may_lack_rights: bool,
}

impl Backend for VmxBackend {
    type Vcpu = VmxVcpu;
    type AddressSpace = Arc<EptSpace>;
    type Loaded<'a> = VmxLoaded<'a>;
    type Posts = Posting;

    fn guest_features(&self) -> GuestFeatures {
        let secondary = self.controls.secondary;
        let mut backing = Backing::RANDOM;
        backing.set(
            Backing::INVPCID,
            secondary.contains(SecondaryControls::ENABLE_INVPCID),
        );
        backing.set(
            Backing::RDTSCP,
            secondary.contains(SecondaryControls::ENABLE_RDTSCP) && self.extended_state.tsc_aux,
        );
        backing.set(
            Backing::XSAVES,
            secondary.contains(SecondaryControls::ENABLE_XSAVES),
        );
        backing.set(
            Backing::SPECULATION_CONTROL,
            self.guard.switches_spec_ctrl(),
        );
        backing.set(Backing::COMPACTION, self.extended_state.compaction);
        GuestFeatures {
            xcr0: self.extended_state.xcr0.unwrap_or(Xcr0::X87),
            backing,
            pkru_offset: self.extended_state.pkru_offset,
            delivery: match self.apic_level {
                ApicLevel::Delivery => Delivery::Hardware,
                ApicLevel::TaskPriority | ApicLevel::None => Delivery::Software,
            },
            tsc_scaling: if self.features.has(Feature::TscScaling) {
                Scaling::Present
            } else {
                Scaling::Absent
            },
            capabilities: self.guard.guest_capabilities(),
        }
    }

    fn vcpu_bytes(&self) -> u64 {
        // The VMCS and the log of written pages.
        let frames = 2 * PageSize::Size4K.bytes();
        let heap = SwitchedState::area_bytes(&self.extended_state) + size_of::<Posting>();
        frames + heap as u64
    }

    fn address_space_bytes(&self, pieces: impl Iterator<Item = Range<GuestPhys>> + Clone) -> u64 {
        EptSpace::most_bytes(self, pieces)
    }

    fn address_space(&self, ram: &GuestRam) -> Result<Arc<EptSpace>, OutOfFrames> {
        Ok(Arc::new(EptSpace::new(self, ram)?))
    }

    fn posts(&self) -> Option<Arc<Posting>> {
        (self.apic_level == ApicLevel::Delivery
            && self.features.has(Feature::PostedInterrupts)
            && self.features.has(Feature::AcknowledgeInterrupt))
        .then(|| Arc::new(Posting::new()))
    }

    fn vcpu(
        &self,
        space: &Arc<EptSpace>,
        setup: &VcpuSetup,
        posts: Option<&Arc<Posting>>,
    ) -> Result<VmxVcpu, OutOfFrames> {
        setup::vcpu(self, space, setup, posts)
    }

    fn load<'a>(&self, vcpu: &'a mut VmxVcpu) -> VmxLoaded<'a> {
        let here = cpu::this().id();
        let vmcs = match vcpu.residence.arrive(here) {
            Arrival::Stayed => {
                // SAFETY: it is resident, so its VMCS is current here: whoever makes another one current unloads
                // this one first.
                let vmcs = unsafe { CurrentVmcs::assume() };
                vcpu.drain_log(&vmcs);
                vmcs
            }
            arrival => vcpu.move_in(here, arrival),
        };
        // Since its last turn the CPU may have set the host's timer for something else.
        vcpu.host_timer.is_anybodys();
        let mut loaded = VmxLoaded { vcpu, vmcs };
        if loaded.vcpu.private.is_none() && loaded.vcpu.peculiarity != Peculiarity::NONE {
            // It left its view where it was before.
            loaded.choose_view();
        }
        loaded
    }

    fn is_loaded(&self, vcpu: &VmxVcpu) -> bool {
        matches!(vcpu.residence, Residence::Cpu(_))
    }

    fn unload(&self, vcpu: &mut VmxVcpu) {
        if let Some(id) = vcpu.residence.leave() {
            vcpu.switched.unload();
            // SAFETY: as in `load`.
            vcpu.drain_log(&unsafe { CurrentVmcs::assume() });
            if let Err(failure) = vcpu.vmcs.clear() {
                panic!("VMCLEAR of a VMCS of ours: {failure}");
            }
            if let Some(view) = vcpu.private.take() {
                private::give_back(view, id);
            }
            if let Some(taken) = TAKEN.get(id.index()) {
                taken.store(false, Ordering::Relaxed);
            }
        }
    }
}

/// CPUs that have a vCPU loaded. Written and read by the CPU itself only.
static TAKEN: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

impl VmxVcpu {
    /// Notes what the processor has logged.
    #[inline]
    fn drain_log(&self, vmcs: &CurrentVmcs) {
        if let Some(log) = &self.write_log {
            log.drain(vmcs, &self.space);
        }
    }

    /// From memory to this CPU.
    fn move_in(&mut self, here: PcpuId, arrival: Arrival) -> CurrentVmcs {
        if let Some(taken) = TAKEN.get(here.index()) {
            assert!(
                !taken.swap(true, Ordering::Relaxed),
                "a vCPU is loaded over another one"
            );
        }
        let vmcs = match self.vmcs.make_current() {
            Ok(vmcs) => vmcs,
            Err(failure) => panic!("VMPTRLD of a VMCS of ours: {failure}"),
        };
        if arrival == Arrival::New {
            host::write_state(&vmcs, self.vmx.guard.exit());
        }
        let (tlb, roots) = (self.vmx.tlb, self.space.roots());
        tlb.arrive(here.index(), arrival, self.vpid, roots, tlb::carry_out);
        self.vmx.guard.change_vm(here, self.space.id());
        self.switched.load();
        self.frame.come_here(&self.vmx.guard);
        vmcs
    }
}

impl Drop for VmxVcpu {
    fn drop(&mut self) {
        // The region is freed with the value: no CPU may still write to it. A vCPU is dropped in memory, or on
        // the CPU where it resides.
        let vmx = self.vmx;
        vmx.unload(self);
        self.vmx.vpids.lock().free(self.vpid);
    }
}
