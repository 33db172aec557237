//! Loading segment registers for the new task, with the checks and faults that belong to a task switch (SDM
//! vol. 3, Exception Conditions Checked During a Task Switch).

use arch::descriptor::{SystemType, TableIndicator};
use arch::walk::Privilege;
use arch::{AccessRights, Descriptor, Segment, SegmentName, Selector};
use memory::GuestVirt;

use super::External;
use crate::cpu::Cpu;
use crate::fault::GuestFault;
use crate::linear::{AccessError, Linear};
use crate::machine::Machine;

/// The descriptor tables of the task, and memory to find them in.
pub(super) struct Loader<'a, M> {
    pub(super) linear: Linear,
    pub(super) machine: &'a mut M,
    /// Whether faults are on behalf of an event from outside the program.
    pub(super) external: External,
}

impl<M: Machine> Loader<'_, M> {
    fn invalid_tss(&self, selector: Selector) -> GuestFault {
        GuestFault::InvalidTss(self.external.error_code(selector))
    }

    /// The linear address of a selector's descriptor, or `None` outside its table.
    pub(super) fn descriptor_address<C: Cpu>(
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
        inside.then(|| GuestVirt::new(base.wrapping_add(offset.into()) & 0xffff_ffff))
    }

    /// Reads a descriptor.
    pub(super) fn read(&mut self, at: GuestVirt) -> Result<Descriptor, AccessError> {
        let mut bytes = [0; 8];
        self.linear
            .read(self.machine, at, &mut bytes, Privilege::ImplicitSupervisor)?;
        Ok(Descriptor(u64::from_le_bytes(bytes)))
    }

    /// Writes the half of a descriptor that holds its type.
    pub(super) fn write_type(
        &mut self,
        at: GuestVirt,
        descriptor: Descriptor,
    ) -> Result<(), AccessError> {
        let upper = ((descriptor.0 >> 32) as u32).to_le_bytes();
        let at = GuestVirt::new(at.as_u64().wrapping_add(4) & 0xffff_ffff);
        self.linear
            .write(self.machine, at, &upper, Privilege::ImplicitSupervisor)
    }

    /// LDTR.
    pub(super) fn load_ldt<C: Cpu>(
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
        let fault = self.invalid_tss(selector);
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
    pub(super) fn load_code<C: Cpu>(
        &mut self,
        cpu: &mut C,
        selector: Selector,
    ) -> Result<(), AccessError> {
        let fault = self.invalid_tss(selector);
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
            let code = self.external.error_code(selector);
            return Err(GuestFault::SegmentNotPresent(code).into());
        }
        self.finish(cpu, SegmentName::Cs, selector, at, descriptor)
    }

    /// SS, for this privilege level.
    pub(super) fn load_stack<C: Cpu>(
        &mut self,
        cpu: &mut C,
        selector: Selector,
        cpl: u8,
    ) -> Result<(), AccessError> {
        let fault = self.invalid_tss(selector);
        let (at, descriptor) = self.find(cpu, selector)?;
        let access = descriptor.access();
        let writable = access.contains(AccessRights::CODE_OR_DATA | AccessRights::WRITABLE)
            && !access.contains(AccessRights::CODE);
        if !writable || access.dpl() != cpl || selector.rpl() != cpl {
            return Err(fault.into());
        }
        if !access.contains(AccessRights::PRESENT) {
            return Err(GuestFault::StackFault(self.external.error_code(selector)).into());
        }
        self.finish(cpu, SegmentName::Ss, selector, at, descriptor)
    }

    /// DS, ES, FS or GS, for this privilege level.
    pub(super) fn load_data<C: Cpu>(
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
        let fault = self.invalid_tss(selector);
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
            let code = self.external.error_code(selector);
            return Err(GuestFault::SegmentNotPresent(code).into());
        }
        self.finish(cpu, name, selector, at, descriptor)
    }

    fn find<C: Cpu>(
        &mut self,
        cpu: &C,
        selector: Selector,
    ) -> Result<(GuestVirt, Descriptor), AccessError> {
        let fault = self.invalid_tss(selector);
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
            self.write_type(at, descriptor.accessed())?;
        }
        cpu.set_segment(name, descriptor.accessed().load(selector));
        Ok(())
    }
}
