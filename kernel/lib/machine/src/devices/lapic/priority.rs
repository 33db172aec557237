//! Which interrupt is due: IRR, ISR, TMR, TPR and PPR.
//!
//! After SDM vol. 3, Interrupt, Task, and Processor Priority; Interrupt Acceptance for Fixed Interrupts;
//! Signaling Interrupt Servicing Completion. Virtual-interrupt delivery does the same in hardware; it needs
//! RVI, SVI and the EOI-exit bitmap, which are derived here.

use core::sync::atomic::Ordering::Relaxed;

use arch::Vector;
use bitflags::bitflags;

use super::lvt::Errors;
use super::page::{Bank, Register};
use super::{ApicAction, Lapic};
use crate::TriggerMode;

/// What asks for the CPU's attention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PendingInterrupt {
    /// The 8259A, which gives its vector when it is acknowledged.
    Pic,
    /// This vector of the local APIC, above the processor priority.
    Apic(Vector),
}

/// Whether a message has asked for an interrupt whose vector the 8259A gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ExtIntRequest {
    None,
    Pending,
}

bitflags! {
    /// What software has changed behind the back of virtual-interrupt delivery.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Stale: u8 {
        /// ISR, or IRR otherwise than by a request ([`Lapic::raised`]), and with them RVI or SVI.
        const STATUS = 1 << 0;
        /// TMR, and with it the EOI-exit bitmap.
        const EOI_EXITS = 1 << 1;
    }
}

impl Lapic {
    /// The task-priority register.
    #[inline]
    pub fn task_priority(&self) -> u8 {
        self.page.get(Register::TaskPriority) as u8
    }

    /// Sets the task-priority register.
    #[inline]
    pub fn set_task_priority(&mut self, priority: u8) {
        self.page.set(Register::TaskPriority, u32::from(priority));
    }

    /// CR8.
    #[inline]
    pub fn cr8(&self) -> u8 {
        self.task_priority() >> 4
    }

    /// Sets CR8; values above 15 are the caller's #GP.
    #[inline]
    pub fn set_cr8(&mut self, class: u8) {
        self.set_task_priority(class << 4);
    }

    /// PPR.
    #[inline]
    pub fn processor_priority(&self) -> u8 {
        let task = self.task_priority();
        let in_service = class_of(self.page.highest(Bank::InService));
        if task & 0xf0 >= in_service {
            task
        } else {
            in_service
        }
    }

    /// APR.
    pub(super) fn arbitration_priority(&self) -> u8 {
        let task = self.task_priority();
        let in_service = class_of(self.page.highest(Bank::InService));
        let requested = class_of(self.page.highest(Bank::Request));
        let task_class = task & 0xf0;
        if task_class >= requested && task_class > in_service {
            task
        } else {
            (task_class & in_service).max(requested)
        }
    }

    /// What the CPU sees on its interrupt input: the 8259A first, since its wire goes past the priorities.
    #[inline]
    pub fn pending_interrupt(&self) -> Option<PendingInterrupt> {
        if self.pic_is_pending() {
            return Some(PendingInterrupt::Pic);
        }
        self.pending_vector().map(PendingInterrupt::Apic)
    }

    /// The highest requested vector, if its class is above that of the PPR.
    #[inline]
    pub fn pending_vector(&self) -> Option<Vector> {
        let vector = self.page.highest(Bank::Request)?;
        (vector.0 & 0xf0 > self.processor_priority() & 0xf0).then_some(vector)
    }

    /// The CPU takes [`pending_vector`](Self::pending_vector): from requested to in service. Not to be used
    /// with virtual-interrupt delivery, where the hardware does it.
    #[inline]
    pub fn acknowledge(&mut self) -> Option<Vector> {
        let vector = self.pending_vector()?;
        self.page.remove(Bank::Request, vector);
        self.page.insert(Bank::InService, vector);
        self.stale.insert(Stale::STATUS);
        Some(vector)
    }

    /// The CPU has done an INTA cycle for [`PendingInterrupt::Pic`].
    pub fn pic_acknowledged(&mut self) {
        self.ext_int = ExtIntRequest::None;
    }

    /// A write of the EOI register.
    #[inline]
    pub fn end_of_interrupt(&mut self) -> ApicAction {
        let Some(vector) = self.page.highest(Bank::InService) else {
            return ApicAction::None;
        };
        self.page.remove(Bank::InService, vector);
        self.stale.insert(Stale::STATUS);
        if self.page.is_set(Bank::TriggerMode, vector) {
            self.level_triggered_ended(vector);
            return ApicAction::EndOfInterrupt(vector);
        }
        ApicAction::None
    }

    /// Whether nothing depends on when the interrupt in service ends: it is edge-triggered, and no other is
    /// requested. Not for use with virtual-interrupt delivery.
    #[inline]
    pub fn may_end_silently(&self) -> bool {
        self.page
            .highest(Bank::InService)
            .is_some_and(|vector| !self.page.is_set(Bank::TriggerMode, vector))
            && self.page.highest(Bank::Request).is_none()
    }

    /// The hardware has done the EOI of a vector in the EOI-exit bitmap. The I/O APIC is to be told after this.
    pub fn hardware_ended(&mut self, vector: Vector) {
        self.level_triggered_ended(vector);
    }

    /// The TPR threshold for the hardware's TPR shadow without virtual-interrupt delivery: an exit is due when
    /// the class of the TPR falls below it. 0 unless the TPR alone holds an interrupt back.
    #[inline]
    pub fn tpr_threshold(&self) -> u8 {
        let Some(vector) = self.page.highest(Bank::Request) else {
            return 0;
        };
        let class = vector.priority_class();
        let in_service = class_of(self.page.highest(Bank::InService)) >> 4;
        if class > in_service && class <= self.cr8() {
            class
        } else {
            0
        }
    }

    /// The guest interrupt status for virtual-interrupt delivery, computed anew from IRR and ISR: RVI in the
    /// low byte, SVI in the high one (SDM vol. 3, Guest Non-Register State).
    #[inline(never)]
    pub fn guest_interrupt_status(&self) -> u16 {
        let requested = self
            .page
            .highest(Bank::Request)
            .map_or(0, |vector| vector.0);
        let in_service = self
            .page
            .highest(Bank::InService)
            .map_or(0, |vector| vector.0);
        u16::from(in_service) << 8 | u16::from(requested)
    }

    /// What the guest interrupt status is to be, if software has changed it since the last call; after power-on it
    /// has. `present` reads what it is, and is asked only where new requests are all that has changed: SVI is then the
    /// hardware's business, and RVI can only rise.
    #[inline(always)]
    pub fn take_guest_interrupt_status(&mut self, present: impl FnOnce() -> u16) -> Option<u16> {
        let raised = core::mem::take(&mut self.raised);
        if self.stale.contains(Stale::STATUS) {
            self.stale.remove(Stale::STATUS);
            return Some(self.guest_interrupt_status());
        }
        if raised == 0 {
            return None;
        }
        let present = present();
        (raised > present as u8).then_some(present & 0xff00 | u16::from(raised))
    }

    /// The EOI-exit bitmap for virtual-interrupt delivery, if it has changed since the last call; after power-on
    /// it has. In it are those vectors whose latest request was level-triggered.
    #[inline]
    pub fn take_eoi_exits(&mut self) -> Option<[u64; 4]> {
        if !self.stale.contains(Stale::EOI_EXITS) {
            return None;
        }
        self.stale.remove(Stale::EOI_EXITS);
        Some(self.page.bitmap(Bank::TriggerMode))
    }

    /// Takes a fixed or lowest-priority interrupt.
    #[inline]
    pub fn accept(&mut self, vector: Vector, trigger_mode: TriggerMode) {
        if !self.takes_vectors() {
            return;
        }
        if vector.0 < 16 {
            self.log_error(Errors::RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        let bit = 1u32 << (vector.0 & 31);
        let level = match trigger_mode {
            TriggerMode::Edge => 0,
            TriggerMode::Level => bit,
        };
        self.raised = self.raised.max(vector.0);
        self.request(usize::from(vector.0 >> 5), bit, level);
    }

    /// Takes edge-triggered interrupts, a bit for each vector.
    pub fn accept_edges(&mut self, requests: [u64; 4]) {
        for (index, vectors) in requests.into_iter().enumerate() {
            if vectors != 0 {
                self.accept_word(index, vectors, 0);
            }
        }
    }

    /// Takes up to 64 interrupts at once: those in `vectors`, from vector `64 * index` on. Those that are also
    /// in `level` are level-triggered.
    #[inline]
    pub(super) fn accept_word(&mut self, index: usize, vectors: u64, level: u64) {
        if !self.takes_vectors() {
            return;
        }
        let mut vectors = vectors;
        if index == 0 && vectors & 0xffff != 0 {
            self.log_error(Errors::RECEIVE_ILLEGAL_VECTOR);
            vectors &= !0xffff;
        }
        if let Some(highest) = vectors.checked_ilog2() {
            self.raised = self.raised.max((64 * index as u32 + highest) as u8);
        }
        self.request(2 * index, vectors as u32, level as u32);
        self.request(2 * index + 1, (vectors >> 32) as u32, (level >> 32) as u32);
    }

    /// Sets bits of one word of IRR, and their trigger modes. The caller notes the highest in `raised`.
    #[inline]
    fn request(&mut self, index: usize, vectors: u32, level: u32) {
        let requests = self.page.bank(Bank::Request, index);
        requests.store(requests.load(Relaxed) | vectors, Relaxed);
        let modes = self.page.bank(Bank::TriggerMode, index);
        let old = modes.load(Relaxed);
        let new = old & !vectors | level & vectors;
        if new != old {
            modes.store(new, Relaxed);
            self.stale.insert(Stale::EOI_EXITS);
        }
    }

    /// A message has asked for an interrupt by the 8259A.
    pub(super) fn accept_ext_int(&mut self) {
        if self.is_enabled() {
            self.ext_int = ExtIntRequest::Pending;
        }
    }

    /// Whether fixed interrupts are taken.
    #[inline]
    fn takes_vectors(&self) -> bool {
        self.is_software_enabled() && self.is_enabled()
    }

    /// Whether software has enabled the APIC in the spurious-interrupt vector register.
    #[inline]
    pub(super) fn is_software_enabled(&self) -> bool {
        self.page.get(Register::SpuriousVector) & super::access::SOFTWARE_ENABLE != 0
    }

    /// Whether the local APIC lets the 8259A's interrupts through, and there is one.
    #[inline]
    pub fn pic_is_pending(&self) -> bool {
        self.ext_int == ExtIntRequest::Pending || self.lint0_is_pic()
    }
}

/// The class of a vector as the upper half of a byte; 0 for none.
#[inline]
fn class_of(vector: Option<Vector>) -> u8 {
    vector.map_or(0, |vector| vector.0 & 0xf0)
}
