//! Loading segment registers in protected mode, with the checks and faults that belong to an instruction (SDM vol. 2,
//! MOV; JMP) or to a task switch (SDM vol. 3, Exception Conditions Checked During a Task Switch).

use arch::decode::SelectorQuery;
use arch::descriptor::{SystemType, TableIndicator};
use arch::walk::Privilege;
use arch::{AccessRights, Descriptor, Efer, Segment, SegmentName, Selector};
use memory::GuestVirt;

use crate::cpu::Cpu;
use crate::fault::{Event, GuestFault};
use crate::linear::{AccessError, Linear};
use crate::machine::Machine;

/// Whether a task switch is on behalf of an event that the program did not ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum External {
    Yes,
    No,
}

impl External {
    pub(crate) const fn of(event: Option<Event>) -> Self {
        match event {
            Some(Event::Interrupt(_) | Event::Nmi | Event::Exception { .. }) => Self::Yes,
            Some(
                Event::SoftwareInterrupt { .. }
                | Event::SoftwareException { .. }
                | Event::PrivilegedSoftwareException { .. },
            )
            | None => Self::No,
        }
    }

    /// The error code of a fault that names a selector: its EXT bit says yes.
    pub(crate) const fn error_code(self, selector: Selector) -> u32 {
        selector.error_code() | matches!(self, Self::Yes) as u32
    }
}

/// On whose behalf segments are loaded, which decides about faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A task switch: what does not fit is an invalid TSS.
    TaskSwitch(External),
    /// An instruction: what does not fit is a #GP.
    Instruction,
}

impl Purpose {
    pub(crate) const fn error_code(self, selector: Selector) -> u32 {
        match self {
            Self::TaskSwitch(external) => external.error_code(selector),
            Self::Instruction => selector.error_code(),
        }
    }

    const fn refusal(self, selector: Selector) -> GuestFault {
        match self {
            Self::TaskSwitch(external) => GuestFault::InvalidTss(external.error_code(selector)),
            Self::Instruction => GuestFault::GeneralProtection(selector.error_code()),
        }
    }
}

/// Where a far jump leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FarTarget {
    /// To code of the same privilege level: what CS will hold.
    Code(Segment),
    /// Through a gate, or to another task.
    Other,
}

/// The descriptor tables, and memory to find them in.
pub(crate) struct Loader<'a, M> {
    pub(crate) linear: Linear,
    pub(crate) machine: &'a mut M,
    pub(crate) purpose: Purpose,
}

impl<M: Machine> Loader<'_, M> {
    const fn refusal(&self, selector: Selector) -> GuestFault {
        self.purpose.refusal(selector)
    }

    /// The linear address of a selector's descriptor, or `None` outside its table.
    pub(crate) fn descriptor_address<C: Cpu>(
        &self,
        cpu: &C,
        selector: Selector,
    ) -> Option<GuestVirt> {
        let (base, limit) = match selector.table() {
            TableIndicator::Gdt => {
                let gdtr = cpu.gdtr();
                (gdtr.base, u32::from(gdtr.limit))
            }
            TableIndicator::Ldt => {
                let ldt = cpu.segment(SegmentName::Ldtr);
                if !ldt.is_usable() {
                    return None;
                }
                (ldt.base, ldt.limit)
            }
        };
        let offset = selector.table_offset();
        let inside = u32::from(offset) + 7 <= limit;
        inside.then(|| address(cpu, base.wrapping_add(offset.into())))
    }

    /// Reads a descriptor.
    pub(crate) fn read(&mut self, at: GuestVirt) -> Result<Descriptor, AccessError> {
        let mut bytes = [0; 8];
        self.linear
            .read(self.machine, at, &mut bytes, Privilege::ImplicitSupervisor)?;
        Ok(Descriptor(u64::from_le_bytes(bytes)))
    }

    /// Writes the half of a descriptor that holds its type.
    pub(crate) fn write_type<C: Cpu>(
        &mut self,
        cpu: &C,
        at: GuestVirt,
        descriptor: Descriptor,
    ) -> Result<(), AccessError> {
        let upper = ((descriptor.0 >> 32) as u32).to_le_bytes();
        let at = address(cpu, at.as_u64().wrapping_add(4));
        self.linear
            .write(self.machine, at, &upper, Privilege::ImplicitSupervisor)
    }

    /// LDTR.
    pub(crate) fn load_ldt<C: Cpu>(
        &mut self,
        cpu: &mut C,
        selector: Selector,
    ) -> Result<(), AccessError> {
        cpu.set_segment(
            SegmentName::Ldtr,
            Segment {
                selector: selector.0,
                ..Segment::UNUSABLE
            },
        );
        if selector.is_null() {
            return Ok(());
        }
        let fault = self.refusal(selector);
        if selector.table() != TableIndicator::Gdt {
            return Err(fault.into());
        }
        let at = self.descriptor_address(cpu, selector).ok_or(fault)?;
        let descriptor = self.read(at)?;
        let present = descriptor.access().contains(AccessRights::PRESENT);
        if descriptor.system_type() != Some(SystemType::Ldt) || !present {
            return Err(fault.into());
        }
        cpu.set_segment(SegmentName::Ldtr, descriptor.load(selector));
        Ok(())
    }

    /// CS, whose RPL is the new privilege level.
    pub(crate) fn load_code<C: Cpu>(
        &mut self,
        cpu: &mut C,
        selector: Selector,
    ) -> Result<(), AccessError> {
        let fault = self.refusal(selector);
        let (at, descriptor) = self.find(cpu, selector)?;
        let access = descriptor.access();
        if !access.contains(AccessRights::CODE_OR_DATA | AccessRights::CODE) {
            return Err(fault.into());
        }
        let conforming = access.contains(AccessRights::CONFORMING);
        let (dpl, rpl) = (access.dpl(), selector.rpl());
        if if conforming { dpl > rpl } else { dpl != rpl } {
            return Err(fault.into());
        }
        if !access.contains(AccessRights::PRESENT) {
            let code = self.purpose.error_code(selector);
            return Err(GuestFault::SegmentNotPresent(code).into());
        }
        self.finish(cpu, SegmentName::Cs, selector, at, descriptor)
    }

    /// SS, for this privilege level.
    pub(crate) fn load_stack<C: Cpu>(
        &mut self,
        cpu: &mut C,
        selector: Selector,
        cpl: u8,
    ) -> Result<(), AccessError> {
        let fault = self.refusal(selector);
        let (at, descriptor) = self.find(cpu, selector)?;
        let access = descriptor.access();
        let writable = access.contains(AccessRights::CODE_OR_DATA | AccessRights::WRITABLE)
            && !access.contains(AccessRights::CODE);
        if !writable || access.dpl() != cpl || selector.rpl() != cpl {
            return Err(fault.into());
        }
        if !access.contains(AccessRights::PRESENT) {
            return Err(GuestFault::StackFault(self.purpose.error_code(selector)).into());
        }
        self.finish(cpu, SegmentName::Ss, selector, at, descriptor)
    }

    /// DS, ES, FS or GS, for this privilege level.
    pub(crate) fn load_data<C: Cpu>(
        &mut self,
        cpu: &mut C,
        name: SegmentName,
        selector: Selector,
        cpl: u8,
    ) -> Result<(), AccessError> {
        if selector.is_null() {
            cpu.set_segment(
                name,
                Segment {
                    selector: selector.0,
                    ..Segment::UNUSABLE
                },
            );
            return Ok(());
        }
        let fault = self.refusal(selector);
        let (at, descriptor) = self.find(cpu, selector)?;
        let access = descriptor.access();
        let code = access.contains(AccessRights::CODE);
        let readable = !code || access.contains(AccessRights::WRITABLE);
        let conforming = code && access.contains(AccessRights::CONFORMING);
        let privileged = access.dpl() < cpl.max(selector.rpl());
        if !access.contains(AccessRights::CODE_OR_DATA) || !readable || privileged && !conforming {
            return Err(fault.into());
        }
        if !access.contains(AccessRights::PRESENT) {
            let code = self.purpose.error_code(selector);
            return Err(GuestFault::SegmentNotPresent(code).into());
        }
        self.finish(cpu, name, selector, at, descriptor)
    }

    /// The target of a far JMP or CALL by this selector (SDM vol. 2, JMP: far jumps). What it leads to is marked as
    /// accessed.
    pub(crate) fn far_target<C: Cpu>(
        &mut self,
        cpu: &C,
        selector: Selector,
    ) -> Result<FarTarget, AccessError> {
        if selector.is_null() {
            return Err(GuestFault::GP0.into());
        }
        let fault = self.refusal(selector);
        let (at, descriptor) = self.find(cpu, selector)?;
        let access = descriptor.access();
        if !access.contains(AccessRights::CODE_OR_DATA) {
            return match descriptor.system_type() {
                Some(
                    SystemType::CallGate
                    | SystemType::CallGate16
                    | SystemType::TaskGate
                    | SystemType::TssAvailable
                    | SystemType::Tss16Available,
                ) => Ok(FarTarget::Other),
                _ => Err(fault.into()),
            };
        }
        let cpl = cpu.cpl();
        let allowed = if access.contains(AccessRights::CONFORMING) {
            access.dpl() <= cpl
        } else {
            selector.rpl() <= cpl && access.dpl() == cpl
        };
        let both_sizes = AccessRights::LONG | AccessRights::DEFAULT_BIG;
        let contradicts = cpu.efer().contains(Efer::LMA) && access.contains(both_sizes);
        if !access.contains(AccessRights::CODE) || !allowed || contradicts {
            return Err(fault.into());
        }
        if !access.contains(AccessRights::PRESENT) {
            return Err(GuestFault::SegmentNotPresent(selector.error_code()).into());
        }
        if !access.contains(AccessRights::ACCESSED) {
            self.write_type(cpu, at, descriptor.accessed())?;
        }
        let selector = Selector(selector.0 & !3 | u16::from(cpl));
        Ok(FarTarget::Code(descriptor.accessed().load(selector)))
    }

    /// What LAR and LSL tell about a selector, and whether VERR and VERW say yes: `None` where they clear ZF (SDM vol. 2,
    /// LAR, LSL, VERR/VERW). Only memory faults.
    pub(crate) fn query<C: Cpu>(
        &mut self,
        cpu: &C,
        selector: Selector,
        query: SelectorQuery,
    ) -> Result<Option<u64>, AccessError> {
        /// What LAR takes of the upper doubleword; the limit's bits there are not defined.
        const RIGHTS: u64 = 0x00f0_ff00;
        let Some(at) = self
            .descriptor_address(cpu, selector)
            .filter(|_| !selector.is_null())
        else {
            return Ok(None);
        };
        let descriptor = self.read(at)?;
        let access = descriptor.access();
        let is_segment = access.contains(AccessRights::CODE_OR_DATA);
        let is_code = access.contains(AccessRights::CODE);
        // The bit is "readable" in code segments.
        let writable = access.contains(AccessRights::WRITABLE);
        let conforming = is_segment && is_code && access.contains(AccessRights::CONFORMING);
        let ia32e = cpu.efer().contains(Efer::LMA);
        let fits = match query {
            SelectorQuery::Rights => descriptor.has_rights(ia32e),
            SelectorQuery::Limit => descriptor.has_limit(ia32e),
            SelectorQuery::Readable => is_segment && (!is_code || writable),
            SelectorQuery::Writable => is_segment && !is_code && writable,
        };
        if !fits || !conforming && access.dpl() < cpu.cpl().max(selector.rpl()) {
            return Ok(None);
        }
        Ok(Some(match query {
            SelectorQuery::Rights => descriptor.0 >> 32 & RIGHTS,
            SelectorQuery::Limit => descriptor.limit().into(),
            SelectorQuery::Readable | SelectorQuery::Writable => 0,
        }))
    }

    fn find<C: Cpu>(
        &mut self,
        cpu: &C,
        selector: Selector,
    ) -> Result<(GuestVirt, Descriptor), AccessError> {
        let fault = self.refusal(selector);
        if selector.is_null() {
            return Err(fault.into());
        }
        let at = self.descriptor_address(cpu, selector).ok_or(fault)?;
        Ok((at, self.read(at)?))
    }

    fn finish<C: Cpu>(
        &mut self,
        cpu: &mut C,
        name: SegmentName,
        selector: Selector,
        at: GuestVirt,
        descriptor: Descriptor,
    ) -> Result<(), AccessError> {
        if !descriptor.access().contains(AccessRights::ACCESSED) {
            self.write_type(cpu, at, descriptor.accessed())?;
        }
        cpu.set_segment(name, descriptor.accessed().load(selector));
        Ok(())
    }
}

/// A linear address: of 32 bits unless the processor is in IA-32e mode.
fn address<C: Cpu>(cpu: &C, linear: u64) -> GuestVirt {
    GuestVirt::new(if cpu.efer().contains(Efer::LMA) {
        linear
    } else {
        linear & 0xffff_ffff
    })
}
