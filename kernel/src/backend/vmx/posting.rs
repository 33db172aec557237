//! [`Posting`]: interrupts for a running guest that the processor takes by itself, where it can.

use alloc::sync::Arc;

use arch::Vector;
use machine::devices::lapic::Lapic;
use memory::{HostPhys, HostVirt};
use vmm::inject::Delivery;
use vmx::posted::{Notify, PostedInterruptDescriptor};
use vmx::{PinControls, fields};

use super::loaded::VmxLoaded;
use crate::backend::{DirectPosts, Posted};
use crate::cpu::interrupts::HostVector;
use crate::cpu::{self, apic};

/// The posted-interrupt descriptor of one vCPU, which all that send to it share.
pub(crate) struct Posting(PostedInterruptDescriptor);

impl Posting {
    pub(super) fn new() -> Self {
        Self(PostedInterruptDescriptor::new())
    }

    /// The posted-interrupt descriptor address.
    fn address(self: &Arc<Self>) -> HostPhys {
        match crate::memory::translate(HostVirt::new(&raw const self.0 as u64)) {
            Some(address) => address,
            None => unreachable!("the heap is mapped"),
        }
    }
}

impl DirectPosts for Posting {
    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    fn post(&self, vector: Vector) -> Posted {
        match self.0.post(vector) {
            Notify::Send { destination } => {
                let apic_id = apic::mode().notified_apic_id(destination);
                // To this CPU as well, where a vCPU sends to itself: it is pending at the next entry.
                apic::send(apic_id, HostVector::Posted);
                Posted::Delivered
            }
            Notify::Told => Posted::Delivered,
            Notify::Suppressed => Posted::Left,
        }
    }

    fn is_pending(&self) -> bool {
        self.0.is_pending()
    }

    #[inline]
    fn drain(&self, lapic: &mut Lapic) {
        if self.0.is_pending() {
            lapic.accept_edges(self.0.take());
        }
    }
}

impl VmxLoaded<'_> {
    /// Writes the fields of a new vCPU.
    pub(super) fn set_up_posts(&mut self) {
        let Some(posting) = &self.vcpu.posting else {
            return;
        };
        let address = posting.address();
        self.vmcs
            .write(fields::POSTED_INTERRUPT_DESCRIPTOR, address.as_u64());
        self.vmcs.write(
            fields::POSTED_INTERRUPT_NOTIFICATION_VECTOR,
            HostVector::Posted as u16,
        );
    }

    /// Sets the control as far as the local APIC's mode allows: the entry checks want virtual-interrupt delivery with it.
    pub(super) fn virtualise_posts(&mut self) {
        if self.vcpu.posting.is_some() {
            let posts = PinControls::PROCESS_POSTED_INTERRUPTS;
            let now = match self.apic_delivery() {
                Delivery::Hardware => posts,
                Delivery::Software => PinControls::empty(),
            };
            self.change_pin(posts, now);
        }
    }

    /// From now on interrupts may come past the hypervisor; those that have come before are to be taken first.
    #[inline]
    pub(super) fn open_posts_here(&self) {
        let Some(posting) = &self.vcpu.posting else {
            return;
        };
        if self.apic_delivery() != Delivery::Hardware {
            return posting.0.suspend();
        }
        let destination = apic::mode().notification_destination(cpu::this().apic_id());
        posting
            .0
            .run_on(destination, arch::Vector(HostVector::Posted as u8));
    }

    /// From now on they wait until somebody looks.
    #[inline]
    pub(super) fn close_posts_here(&self) {
        if let Some(posting) = &self.vcpu.posting {
            posting.0.suspend();
        }
    }
}
