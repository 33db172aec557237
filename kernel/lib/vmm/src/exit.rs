//! Why a guest stopped running, in no vendor's words.
//!
//! A backend decodes its hardware's report into a [`VmExit`]; this is the last form that knows nothing of
//! VMX and all that the handlers need.

pub use arch::AccessKind;
pub use arch::decode::{DescriptorTableInstruction, MemoryOperand};
use arch::{Exception, Gpr, SegmentName, Vector, Width};
use memory::{GuestPhys, GuestVirt};

/// The reason for one exit, with what the hardware says about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmExit {
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// PAUSE, or too many of them in a row.
    Pause,
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// INVLPG of this linear address.
    Invlpg(GuestVirt),
    /// XSETBV.
    Xsetbv,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDPMC.
    Rdpmc,
    /// MONITOR.
    Monitor,
    /// MWAIT.
    Mwait,
    /// RDRAND or RDSEED, where it is made to exit.
    Random,
    /// A hypercall by this vendor's instruction.
    Hypercall,
    /// An instruction of the virtualisation extension that guests do not have (VMXON, INVEPT, ENCLS, GETSEC …).
    NoSuchInstruction,
    /// IN, OUT, INS or OUTS.
    PortIo(PortIo),
    /// RDMSR of the MSR in ECX.
    ReadMsr,
    /// WRMSR of the MSR in ECX.
    WriteMsr,
    /// A move to or from a control register, CLTS or LMSW.
    ControlRegister(ControlRegisterAccess),
    /// A move to or from a debug register.
    DebugRegister(DebugRegisterAccess),
    /// LGDT, SGDT, LIDT, SIDT, LLDT, SLDT, LTR or STR.
    DescriptorTable(DescriptorTableAccess),
    /// A guest-physical access that the second-level page tables do not allow.
    Memory(MemoryAccess),
    /// A second-level page-table entry that the hardware rejects: a bug of ours.
    MemoryMisconfigured(GuestPhys),
    /// A guest exception that was made to exit.
    Exception(ExceptionInfo),
    /// An access to the virtual-APIC page that the hardware did not virtualise.
    ApicAccess {
        /// Byte offset within the page.
        offset: u16,
        /// What was tried.
        kind: AccessKind,
    },
    /// The hardware has done a write to the virtual-APIC page that software must now act upon.
    ApicWrite {
        /// Byte offset of the register within the page.
        offset: u16,
    },
    /// The hardware has done an EOI for this vector, whose I/O APIC wants to know.
    ApicEoi(Vector),
    /// The guest lowered its task priority below the threshold.
    TprBelowThreshold,
    /// A task switch in 32-bit mode.
    TaskSwitch(TaskSwitch),
    /// The guest can now take an interrupt.
    InterruptWindow,
    /// The guest can now take an NMI.
    NmiWindow,
    /// One instruction was executed (monitor trap flag).
    SingleStep,
    /// The guest's shutdown state after a triple fault.
    TripleFault,
    /// An interrupt for the host; `None` where the host takes it through its own IDT.
    HostInterrupt(Option<Vector>),
    /// A non-maskable interrupt for the host.
    HostNmi,
    /// A machine check while the guest ran.
    HostMachineCheck,
    /// A machine check at entry, which has failed.
    EntryMachineCheck,
    /// The preemption timer ran out.
    HostTimer,
    /// An INIT signal for the host.
    HostInit,
    /// A system-management interrupt.
    HostSmi,
    /// The log of written pages is full.
    DirtyLogFull,
    /// The backend has mapped memory that was missing in the second-level page tables: the guest goes on.
    MemoryMapped,
    /// The hardware refused to enter the guest: the state that we gave it breaks a rule.
    EntryRefused {
        /// The hardware's own number for the rule's group.
        code: u32,
    },
    /// Something that this hypervisor never asked for.
    Unexpected {
        /// The hardware's number for it.
        code: u32,
    },
}

/// Into the CPU or out of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// IN and INS.
    In,
    /// OUT and OUTS.
    Out,
}

/// A port access as the hardware reports it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortIo {
    /// The port.
    pub port: u16,
    /// Byte, word or doubleword.
    pub width: Width,
    /// Into the CPU or out of it.
    pub direction: Direction,
    /// For INS and OUTS, the string form.
    pub string: Option<StringIo>,
}

/// INS or OUTS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StringIo {
    /// REP or REPNE stands before it.
    pub repeat: Repeat,
    /// Width of rSI, rDI and rCX in address computation.
    pub address_width: Width,
    /// The segment of the memory operand; always ES for INS.
    pub segment: SegmentName,
}

/// Whether a string instruction is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Repeat {
    /// Once.
    Once,
    /// rCX times.
    ByCount,
}

/// A control register that has a number in MOV.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the manuals' register names")]
pub enum ControlRegister {
    Cr0,
    Cr3,
    Cr4,
    Cr8,
}

/// What was done with a control register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ControlRegisterAccess {
    /// MOV to the control register.
    Write {
        /// The control register.
        register: ControlRegister,
        /// Where the value comes from.
        source: Gpr,
    },
    /// MOV from the control register.
    Read {
        /// The control register.
        register: ControlRegister,
        /// Where the value goes.
        target: Gpr,
    },
    /// CLTS.
    Clts,
    /// LMSW with this source operand.
    Lmsw(u16),
}

/// What was done with a debug register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DebugRegisterAccess {
    /// 0 to 7.
    pub register: u8,
    /// Into or out of the debug register: `Out` is MOV to DR.
    pub direction: Direction,
    /// The other operand.
    pub gpr: Gpr,
}

/// An instruction that stores or loads a descriptor-table register or a system-segment register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DescriptorTableAccess {
    /// Which.
    pub instruction: DescriptorTableInstruction,
    /// What it stores to or loads from.
    pub operand: DescriptorOperand,
    /// The operand size of LGDT and LIDT outside 64-bit mode: word or doubleword.
    pub operand_width: Width,
}

/// The operand of such an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DescriptorOperand {
    /// A register, for selectors only.
    Register(Gpr),
    /// Memory.
    Memory(MemoryOperand),
}

/// An access to guest-physical memory that was stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryAccess {
    /// Where.
    pub gpa: GuestPhys,
    /// The linear address behind it, where the hardware gives one.
    pub gva: Option<GuestVirt>,
    /// What was tried; a read-modify-write counts as a write.
    pub kind: AccessKind,
    /// The access was one by the guest's page walk, rather than by the instruction itself.
    pub during_page_walk: bool,
}

/// A guest exception as the hardware reports it, before delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExceptionInfo {
    /// Which.
    pub exception: Exception,
    /// Its error code, where it has one.
    pub error_code: Option<u32>,
    /// For #PF the faulting linear address, for #DB the new bits of DR6.
    pub detail: u64,
}

/// What asked for a task switch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TaskSwitchCause {
    /// CALL to a TSS or task gate.
    Call,
    /// IRET with NT set.
    Iret,
    /// JMP to a TSS or task gate.
    Jump,
    /// An interrupt or exception through a task gate in the IDT.
    Gate,
}

/// A task switch in 32-bit mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaskSwitch {
    /// The selector of the new TSS.
    pub selector: u16,
    /// What asked for it.
    pub cause: TaskSwitchCause,
}
