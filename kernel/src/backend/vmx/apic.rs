//! What the processor does of a guest's local APIC, and how it is told of the rest.
//!
//! The registers lie in the page of the vCPU's [`Lapic`], which is the virtual-APIC page as well: the processor
//! changes it while the guest runs, software while it does not. [`vmx::apic`] says which controls go with which
//! mode of the APIC; a change of mode also changes the MSR bitmap and the EPT, as only the one for guests in xAPIC
//! mode has the APIC-access page. Each EPT keeps its translations for ever, so that nothing cached goes stale.

use alloc::sync::Arc;

use machine::devices::lapic::{ApicPage, Lapic};
use memory::{HostPhys, HostVirt};
use vmm::inject::Delivery;
use vmx::apic::ApicMode;
use vmx::{Peculiarity, PrimaryControls, SecondaryControls, fields};

use super::VmxVcpu;
use super::loaded::VmxLoaded;
use super::private;
use super::space::View;
use crate::cpu;

/// The secondary controls that [`ApicLevel::controls`](vmx::apic::ApicLevel::controls) decides on.
const APIC_CONTROLS: SecondaryControls = SecondaryControls::VIRTUALIZE_APIC_ACCESSES
    .union(SecondaryControls::VIRTUALIZE_X2APIC_MODE)
    .union(SecondaryControls::APIC_REGISTER_VIRTUALIZATION)
    .union(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY);

/// The part of a vCPU that is about its local APIC.
pub(super) struct VirtualApic {
    /// Keeps the page alive as long as a VMCS points to it.
    page: Arc<ApicPage>,
    delivery: Delivery,
    /// The TPR threshold in the VMCS.
    threshold: u8,
}

impl VirtualApic {
    pub(super) fn new(page: &Arc<ApicPage>) -> Self {
        Self {
            page: Arc::clone(page),
            delivery: Delivery::Software,
            threshold: 0,
        }
    }

    /// The virtual-APIC address.
    fn address(&self) -> HostPhys {
        let page = HostVirt::new(Arc::as_ptr(&self.page) as u64);
        match crate::memory::translate(page) {
            Some(address) => address,
            None => unreachable!("the heap is mapped"),
        }
    }
}

impl VmxLoaded<'_> {
    /// Writes the fields of a new vCPU, whose APIC is in the mode after reset.
    pub(super) fn set_up_apic(&mut self) {
        if self.vcpu.primary.contains(PrimaryControls::USE_TPR_SHADOW) {
            let address = self.vcpu.apic.address();
            self.vmcs
                .write(fields::VIRTUAL_APIC_ADDRESS, address.as_u64());
            self.vmcs.write(fields::TPR_THRESHOLD, 0);
        }
        if let Some(page) = self.vcpu.space.apic_access_page() {
            self.vmcs.write(fields::APIC_ACCESS_ADDRESS, page.as_u64());
        }
        self.set_up_posts();
        self.virtualise_apic(ApicMode::Xapic);
    }

    /// Sets what depends on the mode of the guest's local APIC.
    pub(super) fn virtualise_apic(&mut self, mode: ApicMode) {
        let vmx = self.vcpu.vmx;
        let (_, apic) = vmx.apic_level.controls(mode, &vmx.features);
        self.change_secondary(APIC_CONTROLS, apic);
        let bitmap = if apic.contains(SecondaryControls::VIRTUALIZE_X2APIC_MODE) {
            vmx.bitmaps.msr_x2apic()
        } else {
            vmx.bitmaps.msr()
        };
        self.vmcs.write(fields::MSR_BITMAPS, bitmap.as_u64());
        self.choose_view();
        self.vcpu.apic.delivery = if apic.contains(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY) {
            // Not looked at then, but the entry checks look at it once that control is clear again.
            self.set_threshold(0);
            Delivery::Hardware
        } else {
            Delivery::Software
        };
        self.virtualise_posts();
    }

    /// Sets which second-level page tables the guest runs on: one of those that its VM has, or its own where it is to
    /// see anything else.
    pub(super) fn choose_view(&mut self) {
        let VmxVcpu {
            peculiarity,
            private,
            vmx,
            ..
        } = &mut *self.vcpu;
        let (here, peculiarity) = (cpu::this().id(), *peculiarity);
        match private.take() {
            Some(view) if peculiarity == Peculiarity::NONE => private::give_back(view, here),
            Some(mut view) => {
                private::turn_into(&mut view, peculiarity, vmx.tlb);
                *private = Some(view);
            }
            None if peculiarity == Peculiarity::NONE => {}
            None => *private = Some(private::take(here, peculiarity, vmx.tlb)),
        }
        let accesses = SecondaryControls::VIRTUALIZE_APIC_ACCESSES;
        let pointer = match &self.vcpu.private {
            Some(view) => view.pointer(),
            None if self.vcpu.secondary.contains(accesses) => {
                self.vcpu.space.pointer(View::WithApic)
            }
            None => self.vcpu.space.pointer(View::Plain),
        };
        self.vmcs.write(fields::EPT_POINTER, pointer.as_u64());
        self.vcpu.may_lack_rights =
            self.vcpu.private.is_some() || self.vcpu.space.grows_executable();
    }

    #[inline]
    pub(super) fn apic_delivery(&self) -> Delivery {
        self.vcpu.apic.delivery
    }

    /// Passes on what software has changed in the local APIC, right before the entry.
    #[inline(always)]
    pub(super) fn present_apic(&mut self, lapic: &mut Lapic) {
        match self.vcpu.apic.delivery {
            Delivery::Hardware => {
                let present = || self.vmcs.read(fields::GUEST_INTERRUPT_STATUS);
                if let Some(status) = lapic.take_guest_interrupt_status(present) {
                    self.vmcs.write(fields::GUEST_INTERRUPT_STATUS, status);
                }
                if let Some(bitmap) = lapic.take_eoi_exits() {
                    self.write_eoi_exits(bitmap);
                }
            }
            Delivery::Software => {
                if self.vcpu.primary.contains(PrimaryControls::USE_TPR_SHADOW) {
                    self.set_threshold(lapic.tpr_threshold());
                }
            }
        }
    }

    #[cold]
    fn write_eoi_exits(&self, [exits0, exits1, exits2, exits3]: [u64; 4]) {
        self.vmcs.write(fields::EOI_EXIT_BITMAP_0, exits0);
        self.vmcs.write(fields::EOI_EXIT_BITMAP_1, exits1);
        self.vmcs.write(fields::EOI_EXIT_BITMAP_2, exits2);
        self.vmcs.write(fields::EOI_EXIT_BITMAP_3, exits3);
    }

    /// The class below which a fall of the task priority exits.
    #[inline]
    fn set_threshold(&mut self, class: u8) {
        if class != self.vcpu.apic.threshold {
            self.vcpu.apic.threshold = class;
            self.vmcs.write(fields::TPR_THRESHOLD, u32::from(class));
        }
    }
}
