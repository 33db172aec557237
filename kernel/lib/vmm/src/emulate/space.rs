//! The memory that an emulated instruction reaches: segmentation, the guest's page walk, and then RAM or a
//! device.
//!
//! All faults come from [`Space::locate`]; reading and writing a [`Place`] cannot fail. So an instruction
//! locates every operand before it touches the first.

use arch::{AccessKind, SegmentName, Width};
use memory::{GuestPhys, GuestVirt, PageSize};

use crate::cpu::Cpu;
use crate::device::{self, read_physical, write_physical};
use crate::exit::MemoryAccess;
use crate::linear::{AccessError, Linear};
use crate::machine::Machine;
use crate::state::VcpuState;

/// A page of the guest's linear memory and where it is.
#[derive(Clone, Copy, Debug)]
struct Page {
    linear: GuestVirt,
    physical: GuestPhys,
}

/// An operand whose access is allowed: up to 8 bytes, in one page or two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Where the first byte is.
    first: GuestPhys,
    /// Bytes up to the end of the first page.
    room: usize,
    /// Where the byte behind the first page is; only where the operand gets there.
    second: GuestPhys,
}

/// An access for which a data breakpoint may have been set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    pub(super) gva: GuestVirt,
    pub(super) bytes: u64,
    pub(super) kind: AccessKind,
}

/// Memory accesses of one instruction that breakpoints can see; PUSHA has most.
const MAX_TOUCHES: usize = 8;

/// The address spaces of the vCPU during one instruction. A page is translated once, as by a TLB.
pub(super) struct Space {
    linear: Linear,
    /// The access that exited, which no RAM backs.
    stopped: Option<(GuestPhys, AccessKind)>,
    readable: Option<Page>,
    writable: Option<Page>,
    touches: [Option<Touch>; MAX_TOUCHES],
}

impl Space {
    /// The memory as the CPU sees it now. The access that exited has been translated by the hardware, after
    /// all of the guest's checks, and need not be walked again.
    #[inline]
    pub(super) fn new(linear: Linear, access: &MemoryAccess) -> Self {
        let mut space = Self {
            linear,
            stopped: None,
            readable: None,
            writable: None,
            touches: [None; MAX_TOUCHES],
        };
        if let (Some(gva), false) = (access.gva, access.during_page_walk) {
            space.stopped = Some((access.gpa, access.kind));
            let page = Page {
                linear: gva.align_down(PageSize::Size4K),
                physical: access.gpa.align_down(PageSize::Size4K),
            };
            // A write has also been checked, and marked dirty, as one.
            space.readable = Some(page);
            if access.kind == AccessKind::Write {
                space.writable = Some(page);
            }
        }
        if access.kind == AccessKind::Execute {
            space.readable = None;
        }
        space
    }

    pub(super) const fn linear(&self) -> &Linear {
        &self.linear
    }

    /// Finds the operand of this width at `offset` in a segment.
    ///
    /// # Errors
    /// Every fault that the access raises.
    #[inline]
    pub(super) fn locate<C: Cpu, M: Machine>(
        &mut self,
        cpu: &C,
        machine: &M,
        segment: SegmentName,
        offset: u64,
        width: Width,
        kind: AccessKind,
    ) -> Result<Place, AccessError> {
        let gva = self.linear.operand(cpu, segment, offset, width, kind)?;
        let bytes = width.bytes();
        let first = self.translate(machine, gva, kind)?;
        let room = (PageSize::Size4K.bytes() - gva.page_offset(PageSize::Size4K)) as usize;
        let second = if bytes > room {
            self.translate(machine, self.linear.next_page(gva), kind)?
        } else {
            first
        };
        if let Some(slot) = self.touches.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(Touch {
                gva,
                bytes: bytes as u64,
                kind,
            });
        }
        Ok(Place {
            first,
            room,
            second,
        })
    }

    /// The accesses so far that a data breakpoint may concern.
    pub(super) fn touches(&self) -> impl Iterator<Item = Touch> {
        self.touches.iter().flatten().copied()
    }

    #[inline]
    fn translate<M: Machine>(
        &mut self,
        machine: &M,
        gva: GuestVirt,
        kind: AccessKind,
    ) -> Result<GuestPhys, AccessError> {
        let linear = gva.align_down(PageSize::Size4K);
        let known = if kind == AccessKind::Write {
            &mut self.writable
        } else {
            &mut self.readable
        };
        let offset = gva.page_offset(PageSize::Size4K);
        if let Some(page) = known
            && page.linear == linear
        {
            return Ok(page.physical.wrapping_add(offset));
        }
        let gpa = self
            .linear
            .translate(machine.memory(), gva, kind, self.linear.privilege)?;
        *known = Some(Page {
            linear,
            physical: gpa.align_down(PageSize::Size4K),
        });
        Ok(gpa)
    }

    /// Reads a place.
    #[inline]
    pub(super) fn read<C: Cpu, M: Machine>(
        &self,
        cpu: &C,
        vcpu: &mut VcpuState,
        machine: &mut M,
        place: Place,
        width: Width,
    ) -> u64 {
        if self.stopped == Some((place.first, AccessKind::Read)) && place.is_simple(width) {
            return device::read_device(cpu, vcpu, machine, place.first, width);
        }
        let mut bytes = [0; 8];
        let (first, second) = place.parts(&mut bytes, width);
        read_physical(cpu, vcpu, machine, place.first, first);
        read_physical(cpu, vcpu, machine, place.second, second);
        width.truncate(u64::from_le_bytes(bytes))
    }

    /// Writes a place that was located for a write.
    #[inline]
    pub(super) fn write<C: Cpu, M: Machine>(
        &self,
        cpu: &mut C,
        vcpu: &mut VcpuState,
        machine: &mut M,
        place: Place,
        width: Width,
        value: u64,
    ) {
        let value = width.truncate(value);
        if self.stopped == Some((place.first, AccessKind::Write)) && place.is_simple(width) {
            device::write_device(cpu, vcpu, machine, place.first, width, value);
            return;
        }
        let mut bytes = value.to_le_bytes();
        let (first, second) = place.parts(&mut bytes, width);
        write_physical(cpu, vcpu, machine, place.first, first);
        write_physical(cpu, vcpu, machine, place.second, second);
    }
}

impl Place {
    /// Whether one access does it: within a page, and aligned.
    #[inline]
    fn is_simple(&self, width: Width) -> bool {
        width.bytes() <= self.room && self.first.as_u64() & (width.bytes() as u64 - 1) == 0
    }

    /// The bytes that go to either page.
    fn parts<'a>(&self, bytes: &'a mut [u8; 8], width: Width) -> (&'a mut [u8], &'a mut [u8]) {
        let bytes = bytes.get_mut(..width.bytes()).unwrap_or_default();
        let room = self.room.min(bytes.len());
        bytes.split_at_mut(room)
    }
}
