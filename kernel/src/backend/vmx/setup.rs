//! A new vCPU: its VMCS with the controls of every vCPU and the guest state after a reset.

use alloc::sync::Arc;

use vmx::apic::ApicMode;
use vmx::{
    HostTimer, Peculiarity, PinControls, Residence, SecondaryControls, WriteTracking, fields, pml,
};

use super::apic::VirtualApic;
use super::controls::{CR0_GUEST_OWNED, CR4_GUEST_OWNED, EXCEPTION_BITMAP};
use super::entry::Frame as EntryFrame;
use super::pml::WriteLog;
use super::posting::Posting;
use super::space::EptSpace;
use super::switch::SwitchedState;
use super::vmcs::{CurrentVmcs, Vmcs};
use super::{Backend, OutOfFrames, VcpuSetup, Vmx, VmxVcpu};
use crate::backend::{PauseLoops, Windows};
use crate::memory::Frame;

/// PAUSE-loop exiting: the most ticks between two PAUSEs of one spin loop, and how long such a loop may spin
/// before it exits. Both are in TSC ticks; a spinning lock holder is off its CPU for far longer than 4096.
const PLE_GAP: u32 = 128;
const PLE_WINDOW: u32 = 4096;

/// Makes a vCPU in the architectural reset state.
pub(super) fn vcpu(
    vmx: &'static Vmx,
    space: &Arc<EptSpace>,
    setup: &VcpuSetup,
    posting: Option<&Arc<Posting>>,
) -> Result<VmxVcpu, OutOfFrames> {
    let region = Frame::zeroed().ok_or(OutOfFrames)?;
    let vmcs = Vmcs::new(region, vmx.capabilities.revision());
    // A fresh region is in no defined state: VMCLEAR makes it a clear VMCS.
    if let Err(failure) = vmcs.clear() {
        panic!("VMCLEAR of a new VMCS: {failure}");
    }
    // Before the VPID: that is given back by the vCPU only.
    let write_log = match vmx.tracking {
        WriteTracking::Log => Some(WriteLog::new()?),
        WriteTracking::DirtyFlags | WriteTracking::Nothing => None,
    };
    let (apic, _) = vmx.apic_level.controls(ApicMode::Xapic, &vmx.features);
    let mut vcpu = VmxVcpu {
        vmx,
        vmcs,
        frame: EntryFrame::new(&vmx.guard),
        switched: SwitchedState::new(vmx.extended_state)?,
        space: Arc::clone(space),
        vpid: vmx.vpids.lock().allocate().ok_or(OutOfFrames)?,
        residence: Residence::NOWHERE,
        cr4_guest_owned: CR4_GUEST_OWNED & setup.cr4_allowed,
        tsc: setup.tsc,
        windows: Windows::empty(),
        host_timer: HostTimer::default(),
        pin: vmx.controls.pin,
        primary: vmx.controls.primary | apic,
        secondary: secondary_controls(vmx, setup),
        apic: VirtualApic::new(&setup.apic_page),
        posting: posting.map(Arc::clone),
        write_log,
        peculiarity: Peculiarity::NONE,
        private: None,
        may_lack_rights: false,
    };
    let mut loaded = (&vmx).load(&mut vcpu);
    write_controls(&loaded.vmcs, vmx, loaded.vcpu);
    let secondary = loaded.vcpu.secondary;
    loaded
        .vmcs
        .write(fields::SECONDARY_CONTROLS, secondary.bits());
    loaded.set_up_apic();
    loaded.vmcs.write(fields::GUEST_ACTIVITY, 0);
    loaded.vmcs.write(fields::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    vmm::reset::power_on(&mut loaded);
    (&vmx).unload(&mut vcpu);
    Ok(vcpu)
}

/// Those of every vCPU, and what its VM asks for.
fn secondary_controls(vmx: &Vmx, setup: &VcpuSetup) -> SecondaryControls {
    let mut secondary = vmx.controls.secondary;
    secondary.set(
        SecondaryControls::USE_TSC_SCALING,
        setup.tsc.multiplier().is_some(),
    );
    if setup.pause_loops == PauseLoops::GoOn {
        secondary.remove(SecondaryControls::PAUSE_LOOP_EXITING);
    }
    secondary
}

fn write_controls(vmcs: &CurrentVmcs, vmx: &Vmx, vcpu: &VmxVcpu) {
    let controls = &vmx.controls;
    let secondary = vcpu.secondary;

    vmcs.write(fields::PIN_BASED_CONTROLS, vcpu.pin.bits());
    vmcs.write(fields::PRIMARY_CONTROLS, vcpu.primary.bits());
    vmcs.write(fields::EXIT_CONTROLS, controls.exit.bits());
    vmcs.write(fields::ENTRY_CONTROLS, controls.entry.bits());
    vmcs.write(fields::EXCEPTION_BITMAP, EXCEPTION_BITMAP);
    vmcs.write(fields::PAGE_FAULT_ERROR_CODE_MASK, 0);
    vmcs.write(fields::PAGE_FAULT_ERROR_CODE_MATCH, 0);
    vmcs.write(fields::CR3_TARGET_COUNT, 0);
    vmcs.write(fields::EXIT_MSR_STORE_COUNT, 0);
    vmcs.write(fields::EXIT_MSR_LOAD_COUNT, 0);
    vmcs.write(fields::ENTRY_MSR_LOAD_COUNT, 0);
    vmcs.write(fields::ENTRY_INTERRUPTION_INFO, 0);
    vmcs.write(fields::IO_BITMAP_A, vmx.bitmaps.io_a().as_u64());
    vmcs.write(fields::IO_BITMAP_B, vmx.bitmaps.io_b().as_u64());
    vmcs.write(fields::TSC_OFFSET, vcpu.tsc.offset());
    if let Some(multiplier) = vcpu.tsc.multiplier() {
        vmcs.write(fields::TSC_MULTIPLIER, multiplier.bits());
    }
    if secondary.contains(SecondaryControls::ENABLE_VPID) {
        vmcs.write(fields::VPID, vcpu.vpid.as_u16());
    }
    if let Some(log) = &vcpu.write_log {
        vmcs.write(fields::PML_ADDRESS, log.address().as_u64());
        vmcs.write(fields::PML_INDEX, pml::EMPTY);
    }
    if secondary.contains(SecondaryControls::PAUSE_LOOP_EXITING) {
        vmcs.write(fields::PLE_GAP, PLE_GAP);
        vmcs.write(fields::PLE_WINDOW, PLE_WINDOW);
    }
    if secondary.contains(SecondaryControls::ENABLE_ENCLS_EXITING) {
        // CPUID shows no SGX: all of ENCLS is an invalid opcode.
        vmcs.write(fields::ENCLS_EXITING_BITMAP, u64::MAX);
    }
    if secondary.contains(SecondaryControls::ENABLE_XSAVES) {
        // No supervisor component is shown to guests, so nothing is left for XSAVES to exit on.
        vmcs.write(fields::XSS_EXITING_BITMAP, 0);
    }
    if controls
        .pin
        .contains(PinControls::ACTIVATE_PREEMPTION_TIMER)
    {
        vmcs.write(fields::PREEMPTION_TIMER_VALUE, 0);
    }
    vmcs.write(fields::CR0_GUEST_HOST_MASK, !CR0_GUEST_OWNED.bits());
    vmcs.write(fields::CR4_GUEST_HOST_MASK, !vcpu.cr4_guest_owned.bits());
    vmcs.write(fields::VMCS_LINK_POINTER, u64::MAX);
}
