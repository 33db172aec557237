//! From the VM-exit information fields to [`VmExit`]: the last place that knows VMX.
//!
//! [`decode`] reads lazily, through [`ExitFields`], what the reason at hand needs and nothing else: CPUID
//! costs no VMREAD here, a port access one. Layouts: SDM vol. 3, Basic VM-Exit Information and Information
//! for VM Exits Due to Instruction Execution.

use arch::{Exception, Gpr, SegmentName, Vector, Width};
use bitflags::bitflags;
use memory::{GuestPhys, GuestVirt};
use vmm::exit::{
    AccessKind, ControlRegister, ControlRegisterAccess, DebugRegisterAccess, DescriptorOperand,
    DescriptorTableAccess, DescriptorTableInstruction, Direction, ExceptionInfo, MemoryAccess,
    MemoryOperand, PortIo, Repeat, StringIo, TaskSwitch, TaskSwitchCause,
};
use vmm::{Event, VmExit};

use crate::event::{InterruptionInfo, InterruptionType};
use crate::exit_reason::{ExitReason, RawExitReason};

/// The VM-exit information fields of the current VMCS; each is read when it is asked for.
pub trait ExitFields {
    /// Exit qualification.
    fn qualification(&self) -> u64;
    /// Guest-linear address.
    fn guest_linear(&self) -> u64;
    /// Guest-physical address.
    fn guest_physical(&self) -> u64;
    /// VM-exit interruption information.
    fn interruption_info(&self) -> u32;
    /// VM-exit interruption error code.
    fn interruption_error_code(&self) -> u32;
    /// IDT-vectoring information.
    fn idt_vectoring_info(&self) -> u32;
    /// IDT-vectoring error code.
    fn idt_vectoring_error_code(&self) -> u32;
    /// VM-exit instruction length.
    fn instruction_length(&self) -> u32;
    /// VM-exit instruction information.
    fn instruction_info(&self) -> u32;
}

bitflags! {
    /// The exit qualification of an EPT violation.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct EptViolation: u64 {
        /// A read was tried.
        const READ = 1 << 0;
        /// A write was tried.
        const WRITE = 1 << 1;
        /// A fetch was tried.
        const FETCH = 1 << 2;
        /// The page could be read.
        const READABLE = 1 << 3;
        /// The page could be written.
        const WRITABLE = 1 << 4;
        /// The page could be executed (by supervisor code, under mode-based execute control).
        const EXECUTABLE = 1 << 5;
        /// The page could be executed by user code, under mode-based execute control.
        const USER_EXECUTABLE = 1 << 6;
        /// The guest-linear address is valid.
        const LINEAR_VALID = 1 << 7;
        /// The access was to the translation of the linear address, not to a paging structure on the way.
        const TRANSLATED = 1 << 8;
        /// An IRET had ended the blocking of NMIs.
        const NMI_UNBLOCKED = 1 << 12;
        const _ = !0;
    }
}

/// Decodes one exit. `reason` is the whole exit-reason field.
#[inline]
pub fn decode(reason: u32, fields: &impl ExitFields) -> VmExit {
    let raw = RawExitReason(reason);
    let Some(basic) = raw.basic() else {
        return VmExit::Unexpected { code: reason };
    };
    match basic {
        ExitReason::ExceptionOrNmi => exception_or_nmi(reason, fields),
        ExitReason::ExternalInterrupt => {
            let info = InterruptionInfo(fields.interruption_info());
            VmExit::HostInterrupt(info.is_valid().then(|| info.vector()))
        }
        ExitReason::TripleFault => VmExit::TripleFault,
        ExitReason::Init => VmExit::HostInit,
        ExitReason::IoSmi | ExitReason::OtherSmi => VmExit::HostSmi,
        ExitReason::InterruptWindow => VmExit::InterruptWindow,
        ExitReason::NmiWindow => VmExit::NmiWindow,
        ExitReason::TaskSwitch => task_switch(fields.qualification()),
        ExitReason::Cpuid => VmExit::Cpuid,
        ExitReason::Hlt => VmExit::Hlt,
        ExitReason::Invd => VmExit::Invd,
        ExitReason::Invlpg => VmExit::Invlpg(GuestVirt::new(fields.qualification())),
        ExitReason::Rdpmc => VmExit::Rdpmc,
        ExitReason::Rdtsc => VmExit::Rdtsc,
        ExitReason::Rdtscp => VmExit::Rdtscp,
        ExitReason::Vmcall => VmExit::Hypercall,
        ExitReason::ControlRegister => control_register(reason, fields.qualification()),
        ExitReason::DebugRegister => debug_register(fields.qualification()),
        ExitReason::Io => io(reason, fields),
        ExitReason::Rdmsr => VmExit::ReadMsr,
        ExitReason::Wrmsr => VmExit::WriteMsr,
        ExitReason::InvalidGuestState | ExitReason::MsrLoading => VmExit::EntryRefused {
            code: raw.number().into(),
        },
        ExitReason::EntryMachineCheck => VmExit::EntryMachineCheck,
        ExitReason::Mwait => VmExit::Mwait,
        ExitReason::Monitor => VmExit::Monitor,
        ExitReason::MonitorTrapFlag => VmExit::SingleStep,
        ExitReason::Pause => VmExit::Pause,
        ExitReason::TprBelowThreshold => VmExit::TprBelowThreshold,
        ExitReason::ApicAccess => apic_access(fields.qualification()),
        ExitReason::ApicWrite => VmExit::ApicWrite {
            offset: (fields.qualification() & 0xfff) as u16,
        },
        ExitReason::VirtualizedEoi => VmExit::ApicEoi(Vector(fields.qualification() as u8)),
        ExitReason::GdtrOrIdtr => descriptor_table(fields, GDTR_OR_IDTR),
        ExitReason::LdtrOrTr => descriptor_table(fields, LDTR_OR_TR),
        ExitReason::EptViolation => VmExit::Memory(ept_violation(fields)),
        ExitReason::EptMisconfiguration => {
            VmExit::MemoryMisconfigured(GuestPhys::new(fields.guest_physical()))
        }
        ExitReason::PreemptionTimer => VmExit::HostTimer,
        // The lock has been and gone, and the guest goes on as it is: all there is to do is what the end of a
        // time slice does, let others run.
        ExitReason::BusLock => VmExit::HostTimer,
        ExitReason::InstructionTimeout => instruction_timeout(reason, fields.qualification()),
        ExitReason::Wbinvd => VmExit::Wbinvd,
        ExitReason::Xsetbv => VmExit::Xsetbv,
        ExitReason::Rdrand | ExitReason::Rdseed => VmExit::Random,
        ExitReason::PageModificationLogFull => VmExit::DirtyLogFull,
        // What no control of ours enables for guests is, to them, not there.
        ExitReason::Getsec
        | ExitReason::Vmclear
        | ExitReason::Vmlaunch
        | ExitReason::Vmptrld
        | ExitReason::Vmptrst
        | ExitReason::Vmread
        | ExitReason::Vmresume
        | ExitReason::Vmwrite
        | ExitReason::Vmxoff
        | ExitReason::Vmxon
        | ExitReason::Invept
        | ExitReason::Invvpid
        | ExitReason::Vmfunc
        | ExitReason::Encls
        | ExitReason::Enclv
        | ExitReason::Pconfig
        | ExitReason::Umwait
        | ExitReason::Tpause
        | ExitReason::Loadiwkey
        | ExitReason::Seamcall
        | ExitReason::Tdcall
        | ExitReason::Rdmsrlist
        | ExitReason::Wrmsrlist
        | ExitReason::Urdmsr
        | ExitReason::Uwrmsr
        | ExitReason::RdmsrImmediate
        | ExitReason::WrmsrImmediate => VmExit::NoSuchInstruction,
        // These need a control that is never set, or a state that is never entered.
        ExitReason::StartUp
        | ExitReason::Rsm
        | ExitReason::Invpcid
        | ExitReason::Xsaves
        | ExitReason::Xrstors
        | ExitReason::SubPagePermission
        | ExitReason::EnqcmdPasid
        | ExitReason::EnqcmdsPasid => VmExit::Unexpected { code: reason },
    }
}

/// The event whose delivery this exit cut short, to be injected again unless the handler decides otherwise.
#[inline]
pub fn interrupted_event(fields: &impl ExitFields) -> Option<Event> {
    InterruptionInfo(fields.idt_vectoring_info()).event(
        || fields.idt_vectoring_error_code(),
        || fields.instruction_length(),
    )
}

/// The event that an [`ExceptionOrNmi`](ExitReason::ExceptionOrNmi) exit kept from the guest, for passing it on
/// unchanged; INT1, INT3 and INTO keep their instruction length, which [`VmExit::Exception`] has no place for.
#[inline]
pub fn exiting_event(fields: &impl ExitFields) -> Option<Event> {
    InterruptionInfo(fields.interruption_info()).event(
        || fields.interruption_error_code(),
        || fields.instruction_length(),
    )
}

/// Whether the exit hit an IRET that had already ended the blocking of NMIs, so that it must be set again
/// before the IRET is repeated (SDM vol. 3, Information About NMI Unblocking Due to IRET).
#[inline]
pub fn iret_unblocked_nmis(reason: u32, fields: &impl ExitFields) -> bool {
    let unblocked = match RawExitReason(reason).basic() {
        Some(ExitReason::ExceptionOrNmi) => {
            let info = InterruptionInfo(fields.interruption_info());
            info.is_valid()
                && info.nmi_unblocked_by_iret()
                && info.vector() != Exception::DoubleFault.vector()
        }
        Some(
            ExitReason::EptViolation
            | ExitReason::PageModificationLogFull
            | ExitReason::SubPagePermission,
        ) => EptViolation::from_bits_retain(fields.qualification())
            .contains(EptViolation::NMI_UNBLOCKED),
        _ => false,
    };
    unblocked && !InterruptionInfo(fields.idt_vectoring_info()).is_valid()
}

fn exception_or_nmi(reason: u32, fields: &impl ExitFields) -> VmExit {
    let info = InterruptionInfo(fields.interruption_info());
    if info.kind() == InterruptionType::Nmi {
        return VmExit::HostNmi;
    }
    let Some(exception) = Exception::from_vector(info.vector()) else {
        return VmExit::Unexpected { code: reason };
    };
    if exception == Exception::MachineCheck {
        return VmExit::HostMachineCheck;
    }
    VmExit::Exception(ExceptionInfo {
        exception,
        error_code: info
            .has_error_code()
            .then(|| fields.interruption_error_code()),
        detail: match exception {
            Exception::PageFault | Exception::Debug => fields.qualification(),
            _ => 0,
        },
    })
}

fn task_switch(qualification: u64) -> VmExit {
    VmExit::TaskSwitch(TaskSwitch {
        selector: qualification as u16,
        cause: match (qualification >> 30) & 3 {
            0 => TaskSwitchCause::Call,
            1 => TaskSwitchCause::Iret,
            2 => TaskSwitchCause::Jump,
            _ => TaskSwitchCause::Gate,
        },
    })
}

#[inline]
fn control_register(reason: u32, qualification: u64) -> VmExit {
    let register = match qualification & 0xf {
        0 => ControlRegister::Cr0,
        3 => ControlRegister::Cr3,
        4 => ControlRegister::Cr4,
        8 => ControlRegister::Cr8,
        _ => return VmExit::Unexpected { code: reason },
    };
    let gpr = Gpr::from_number((qualification >> 8) as u8);
    VmExit::ControlRegister(match (qualification >> 4) & 3 {
        0 => ControlRegisterAccess::Write {
            register,
            source: gpr,
        },
        1 => ControlRegisterAccess::Read {
            register,
            target: gpr,
        },
        2 => ControlRegisterAccess::Clts,
        // The source data is here for a register and for a memory operand alike (bit 6).
        _ => ControlRegisterAccess::Lmsw((qualification >> 16) as u16),
    })
}

fn debug_register(qualification: u64) -> VmExit {
    VmExit::DebugRegister(DebugRegisterAccess {
        register: (qualification & 7) as u8,
        direction: if qualification & (1 << 4) == 0 {
            Direction::Out
        } else {
            Direction::In
        },
        gpr: Gpr::from_number((qualification >> 8) as u8),
    })
}

/// Decodes an exit by [`Io`](ExitReason::Io).
#[inline(always)]
pub fn io(reason: u32, fields: &impl ExitFields) -> VmExit {
    let qualification = fields.qualification();
    let width = match qualification & 7 {
        0 => Width::Byte,
        1 => Width::Word,
        3 => Width::Dword,
        _ => return VmExit::Unexpected { code: reason },
    };
    let direction = if qualification & (1 << 3) == 0 {
        Direction::Out
    } else {
        Direction::In
    };
    let string = if qualification & (1 << 4) == 0 {
        None
    } else {
        Some(string_io(
            qualification,
            direction,
            fields.instruction_info(),
        ))
    };
    VmExit::PortIo(PortIo {
        port: (qualification >> 16) as u16,
        width,
        direction,
        string,
    })
}

fn string_io(qualification: u64, direction: Direction, instruction_info: u32) -> StringIo {
    StringIo {
        repeat: if qualification & (1 << 5) == 0 {
            Repeat::Once
        } else {
            Repeat::ByCount
        },
        address_width: match (instruction_info >> 7) & 7 {
            0 => Width::Word,
            1 => Width::Dword,
            _ => Width::Qword,
        },
        segment: match direction {
            Direction::In => SegmentName::Es,
            Direction::Out => segment(instruction_info),
        },
    }
}

/// The segment in bits 17:15 of the VM-exit instruction information.
const fn segment(instruction_info: u32) -> SegmentName {
    match (instruction_info >> 15) & 7 {
        0 => SegmentName::Es,
        1 => SegmentName::Cs,
        2 => SegmentName::Ss,
        4 => SegmentName::Fs,
        5 => SegmentName::Gs,
        _ => SegmentName::Ds,
    }
}

/// The instructions by bits 29:28 of the VM-exit instruction information.
const GDTR_OR_IDTR: [DescriptorTableInstruction; 4] = [
    DescriptorTableInstruction::Sgdt,
    DescriptorTableInstruction::Sidt,
    DescriptorTableInstruction::Lgdt,
    DescriptorTableInstruction::Lidt,
];
const LDTR_OR_TR: [DescriptorTableInstruction; 4] = [
    DescriptorTableInstruction::Sldt,
    DescriptorTableInstruction::Str,
    DescriptorTableInstruction::Lldt,
    DescriptorTableInstruction::Ltr,
];

/// SDM vol. 3, Information for VM Exits Due to Instruction Execution: LIDT, LGDT, SIDT, SGDT; LLDT, LTR, SLDT, STR.
#[cold]
fn descriptor_table(
    fields: &impl ExitFields,
    instructions: [DescriptorTableInstruction; 4],
) -> VmExit {
    let info = fields.instruction_info();
    let [first, second, third, fourth] = instructions;
    let instruction = match (info >> 28) & 3 {
        0 => first,
        1 => second,
        2 => third,
        _ => fourth,
    };
    let gpr = |shift: u32| Gpr::from_number((info >> shift) as u8 & 0xf);
    let operand = if info & 1 << 10 != 0 {
        DescriptorOperand::Register(gpr(3))
    } else {
        DescriptorOperand::Memory(MemoryOperand {
            segment: segment(info),
            base: (info & 1 << 27 == 0).then(|| gpr(23)),
            index: (info & 1 << 22 == 0).then(|| gpr(18)),
            scale: (info & 3) as u8,
            displacement: fields.qualification(),
            address_width: match (info >> 7) & 7 {
                0 => Width::Word,
                1 => Width::Dword,
                _ => Width::Qword,
            },
        })
    };
    VmExit::DescriptorTable(DescriptorTableAccess {
        instruction,
        operand,
        operand_width: if info & 1 << 11 == 0 {
            Width::Word
        } else {
            Width::Dword
        },
    })
}

fn apic_access(qualification: u64) -> VmExit {
    VmExit::ApicAccess {
        offset: (qualification & 0xfff) as u16,
        kind: match (qualification >> 12) & 0xf {
            2 => AccessKind::Execute,
            // Event delivery pushes onto a stack that lies on the APIC page.
            1 | 3 | 10 => AccessKind::Write,
            _ => AccessKind::Read,
        },
    }
}

/// The access that an [`EptViolation`](ExitReason::EptViolation) is about.
#[inline(always)]
pub fn ept_violation(fields: &impl ExitFields) -> MemoryAccess {
    let qualification = EptViolation::from_bits_retain(fields.qualification());
    let linear = qualification.contains(EptViolation::LINEAR_VALID);
    MemoryAccess {
        gpa: GuestPhys::new(fields.guest_physical()),
        gva: linear.then(|| GuestVirt::new(fields.guest_linear())),
        // An update of an accessed or dirty flag sets both READ and WRITE.
        kind: if qualification.contains(EptViolation::WRITE) {
            AccessKind::Write
        } else if qualification.contains(EptViolation::FETCH) {
            AccessKind::Execute
        } else {
            AccessKind::Read
        },
        during_page_walk: linear && !qualification.contains(EptViolation::TRANSLATED),
    }
}

/// A notification VM exit; bit 0 says that the guest's state is lost (SDM vol. 3, Notification VM Exits).
fn instruction_timeout(reason: u32, qualification: u64) -> VmExit {
    if qualification & 1 == 0 {
        VmExit::HostTimer
    } else {
        VmExit::Unexpected { code: reason }
    }
}

#[cfg(test)]
mod tests;
