//! Checks on guest non-register state: activity, interruptibility, pending debug exceptions, link pointer.

use arch::{Exception, Rflags, Vector};
use bitflags::bitflags;

use super::{Checker, Rule};
use crate::capability::Misc;
use crate::controls::PinControls;
use crate::event::{InterruptionInfo, InterruptionType};
use crate::fields::{self, VmcsReader};

bitflags! {
    /// The guest interruptibility-state field (SDM vol. 3, Guest Non-Register State).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Interruptibility: u32 {
        const STI = 1 << 0;
        const MOV_SS = 1 << 1;
        const SMI = 1 << 2;
        const NMI = 1 << 3;
        const ENCLAVE = 1 << 4;
        const _ = !0;
    }
}

const ACTIVE: u32 = 0;
const HLT: u32 = 1;
const SHUTDOWN: u32 = 2;
const WAIT_FOR_SIPI: u32 = 3;

const BRANCH_SINGLE_STEP: u64 = 1 << 1;
const PENDING_ENABLED_BREAKPOINT: u64 = 1 << 12;
const PENDING_SINGLE_STEP: u64 = 1 << 14;
const PENDING_RTM: u64 = 1 << 16;
/// Bits 10:4, 13, 15 and from 17 on.
const PENDING_RESERVED: u64 = !0x1_ffff | 0xa7f0;

/// Whether a guest that waits in this activity state takes the event.
fn is_let_in(activity: u32, event: InterruptionInfo) -> bool {
    const MACHINE_CHECK: Vector = Exception::MachineCheck.vector();
    const DEBUG: Vector = Exception::Debug.vector();
    match (activity, event.kind()) {
        (ACTIVE, _) => true,
        (HLT, InterruptionType::ExternalInterrupt | InterruptionType::Nmi) => true,
        (HLT, InterruptionType::HardwareException) => {
            matches!(event.vector(), MACHINE_CHECK | DEBUG)
        }
        (HLT, InterruptionType::Other) => event.vector() == Vector(0),
        (SHUTDOWN, InterruptionType::Nmi) => true,
        (SHUTDOWN, InterruptionType::HardwareException) => event.vector() == MACHINE_CHECK,
        _ => false,
    }
}

impl<V: VmcsReader> Checker<'_, V> {
    fn interruptibility(&self) -> Interruptibility {
        Interruptibility::from_bits_retain(self.get(fields::GUEST_INTERRUPTIBILITY))
    }

    pub(super) fn guest_activity(&mut self) {
        let field = fields::GUEST_ACTIVITY;
        let misc = self.caps.misc();
        self.require(
            Rule::ActivityUnsupported,
            field,
            |activity| match activity {
                ACTIVE => true,
                HLT => misc.contains(Misc::HLT_STATE),
                SHUTDOWN => misc.contains(Misc::SHUTDOWN_STATE),
                WAIT_FOR_SIPI => misc.contains(Misc::WAIT_FOR_SIPI_STATE),
                _ => false,
            },
        );
        let cpl = self.cpl();
        self.require(Rule::ActivityHltDpl, field, |activity| {
            activity != HLT || cpl == 0
        });
        let blocked = self
            .interruptibility()
            .intersects(Interruptibility::STI | Interruptibility::MOV_SS);
        self.require(Rule::ActivityBlocked, field, |activity| {
            activity == ACTIVE || !blocked
        });
        if let Some(event) = self.injected() {
            self.require(Rule::ActivityEvent, field, |activity| {
                is_let_in(activity, event)
            });
        }
    }

    pub(super) fn guest_blocking(&mut self) {
        let field = fields::GUEST_INTERRUPTIBILITY;
        let blocking = self.interruptibility();
        let sti = blocking.contains(Interruptibility::STI);
        let mov_ss = blocking.contains(Interruptibility::MOV_SS);
        self.require(Rule::BlockingReserved, field, |bits| bits & !0x1f == 0);
        self.require(Rule::BlockingBoth, field, |_| !(sti && mov_ss));
        let interrupts = self.guest_rflags().contains(Rflags::IF);
        self.require(Rule::BlockingStiWithoutIf, field, |_| interrupts || !sti);
        let interrupt = self.injects(InterruptionType::ExternalInterrupt);
        self.require(Rule::BlockingInterrupt, field, |_| {
            !interrupt || !(sti || mov_ss)
        });
        let nmi = self.injects(InterruptionType::Nmi);
        self.require(Rule::BlockingNmiByMovSs, field, |_| !nmi || !mov_ss);
        self.require(Rule::BlockingNmiBySti, field, |_| !nmi || !sti);
        self.require(Rule::BlockingSmi, field, |_| {
            !blocking.contains(Interruptibility::SMI)
        });
        let virtual_nmis = self.pin.contains(PinControls::VIRTUAL_NMIS);
        self.require(Rule::BlockingNmi, field, |_| {
            !(virtual_nmis && nmi && blocking.contains(Interruptibility::NMI))
        });
        self.require(Rule::BlockingEnclave, field, |_| {
            !(blocking.contains(Interruptibility::ENCLAVE) && mov_ss)
        });
    }

    pub(super) fn guest_pending_debug(&mut self) {
        let field = fields::GUEST_PENDING_DEBUG_EXCEPTIONS;
        self.require(Rule::PendingReserved, field, |bits| {
            bits & PENDING_RESERVED == 0
        });

        let blocking = self.interruptibility();
        let held = blocking.intersects(Interruptibility::STI | Interruptibility::MOV_SS)
            || self.get(fields::GUEST_ACTIVITY) == HLT;
        if held {
            let steps = self.guest_rflags().contains(Rflags::TF)
                && self.get(fields::GUEST_DEBUGCTL) & BRANCH_SINGLE_STEP == 0;
            self.require(Rule::PendingStepMissing, field, |bits| {
                !steps || bits & PENDING_SINGLE_STEP != 0
            });
            self.require(Rule::PendingStepExtra, field, |bits| {
                steps || bits & PENDING_SINGLE_STEP == 0
            });
        }
        let mov_ss = blocking.contains(Interruptibility::MOV_SS);
        self.require(Rule::PendingRtm, field, |bits| {
            let others = bits & !PENDING_RESERVED & !PENDING_RTM;
            bits & PENDING_RTM == 0 || (others == PENDING_ENABLED_BREAKPOINT && !mov_ss)
        });
    }

    pub(super) fn guest_link_pointer(&mut self) {
        let field = fields::VMCS_LINK_POINTER;
        let pointer = self.get(field);
        if pointer == u64::MAX {
            return;
        }
        self.require(Rule::LinkPointerAlignment, field, |_| {
            pointer.is_multiple_of(4096)
        });
        let fits = self.in_physical_width(pointer);
        self.require(Rule::LinkPointerWidth, field, |_| fits);
    }
}
