//! GDT and TSS of each CPU, and the IDT that all share.
//!
//! NMI, #DF and #MC run on stacks of their own (IST): they may strike at any instruction, with a stack
//! pointer that is not to be trusted. Everything else runs on the stack that is in use.

use core::cell::UnsafeCell;
use core::mem::size_of;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

use super::exceptions::vector_stub;

/// Selector of the hypervisor's code segment.
pub(crate) const CODE_SELECTOR: u16 = 1 << 3;
/// Selector of the hypervisor's data segment, in SS and the data segment registers.
pub(crate) const DATA_SELECTOR: u16 = 2 << 3;
/// Selector of each CPU's TSS.
pub(crate) const TSS_SELECTOR: u16 = 3 << 3;

/// The exceptions that have a stack of their own; the discriminant is the slot in the TSS, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum InterruptStack {
    /// Non-maskable interrupt.
    Nmi = 0,
    /// Double fault.
    DoubleFault = 1,
    /// Machine check.
    MachineCheck = 2,
}

impl InterruptStack {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Nmi, Self::DoubleFault, Self::MachineCheck];

    /// The stack that the gate of this vector switches to, if it does.
    const fn of_vector(vector: u8) -> Option<Self> {
        match vector {
            2 => Some(Self::Nmi),
            8 => Some(Self::DoubleFault),
            18 => Some(Self::MachineCheck),
            _ => None,
        }
    }
}

/// GDT and TSS of one CPU.
pub(super) struct Descriptors {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
}

impl Descriptors {
    pub(super) const fn new() -> Self {
        Self {
            gdt: GlobalDescriptorTable::new(),
            tss: TaskStateSegment::new(),
        }
    }

    /// Fills the tables and loads them into this CPU.
    ///
    /// # Safety
    /// `self` stays where it is for ever, and only the CPU that runs this uses it.
    pub(super) unsafe fn load(&mut self) {
        self.gdt = GlobalDescriptorTable::new();
        let code = self.gdt.append(Descriptor::kernel_code_segment());
        let data = self.gdt.append(Descriptor::kernel_data_segment());
        // SAFETY: the TSS stays where it is, as the caller promises.
        let tss = self
            .gdt
            .append(unsafe { Descriptor::tss_segment_unchecked(&raw const self.tss) });
        debug_assert_eq!(
            (code.0, data.0, tss.0),
            (CODE_SELECTOR, DATA_SELECTOR, TSS_SELECTOR)
        );
        // SAFETY: the table lives for ever; the selectors are the ones just made, and code and data
        // segments are flat, so what runs now goes on running. The IDT leads to handlers that never end.
        unsafe {
            self.gdt.load_unsafe();
            CS::set_reg(code);
            SS::set_reg(data);
            DS::set_reg(data);
            ES::set_reg(data);
            FS::set_reg(SegmentSelector::NULL);
            GS::set_reg(SegmentSelector::NULL);
            load_tss(tss);
            lidt(&IDT.pointer());
        }
    }

    /// Names the top of the stack that an exception with its own stack uses.
    pub(super) fn set_stack(&mut self, stack: InterruptStack, top: u64) {
        self.tss.interrupt_stack_table[stack as usize] = VirtAddr::new(top);
    }
}

/// A 64-bit interrupt gate (SDM vol. 3, 64-Bit Mode IDT).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate([u64; 2]);

impl Gate {
    /// An interrupt gate: present, privilege level 0, interrupts off on entry.
    const PRESENT_INTERRUPT: u64 = 0x8e << 40;

    const EMPTY: Self = Self([0; 2]);

    fn new(vector: u8) -> Self {
        let handler = vector_stub(vector);
        // Slot 0 means "no switch", so the TSS's slots count from 1 here.
        let stack = InterruptStack::of_vector(vector).map_or(0, |stack| stack as u64 + 1);
        Self([
            (handler & 0xffff)
                | u64::from(CODE_SELECTOR) << 16
                | stack << 32
                | Self::PRESENT_INTERRUPT
                | (handler >> 16 & 0xffff) << 48,
            handler >> 32,
        ])
    }
}

/// The interrupt descriptor table.
#[repr(C, align(4096))]
struct Idt(UnsafeCell<[Gate; 256]>);

// SAFETY: written once, by `fill_idt` on the boot CPU before any CPU loads it.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([Gate::EMPTY; 256]));

impl Idt {
    fn pointer(&self) -> DescriptorTablePointer {
        DescriptorTablePointer {
            limit: (size_of::<Self>() - 1) as u16,
            base: VirtAddr::from_ptr(self.0.get()),
        }
    }
}

/// Points every vector to its stub.
///
/// # Safety
/// Called once, by the boot CPU, before any CPU loads its tables.
pub(super) unsafe fn fill_idt() {
    // SAFETY: nobody else reads or writes the table yet, as the caller promises.
    let gates = unsafe { &mut *IDT.0.get() };
    for (vector, gate) in (0u8..=255).zip(gates) {
        *gate = Gate::new(vector);
    }
}
