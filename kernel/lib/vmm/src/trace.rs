//! The last exits of a vCPU, for the epitaph and for the report about one that hangs.
//!
//! A ring of fixed size, written by the run loop at every exit with a handful of stores and without formatting;
//! its text is made only when somebody wants to read it.

use core::fmt;

use crate::cpu::Cpu;
use crate::exit::{
    ControlRegister, ControlRegisterAccess, Direction, PortIo, TaskSwitchCause, VmExit,
};
use crate::metrics::ExitKind;
use arch::Gpr;

/// How many exits are remembered; a power of two.
pub const REMEMBERED: usize = 32;

/// One exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// The host's TSC at the exit.
    pub tsc: u64,
    /// RIP at the exit.
    pub rip: u64,
    /// What it was about, by its kind.
    detail: u64,
    kind: ExitKind,
}

impl Record {
    const NONE: Self = Self {
        tsc: 0,
        rip: 0,
        detail: 0,
        kind: ExitKind::Fatal,
    };

    /// The kind of exit.
    pub const fn kind(&self) -> ExitKind {
        self.kind
    }
}

/// The last exits of one vCPU.
#[derive(Clone, Debug)]
pub struct Trace {
    ring: [Record; REMEMBERED],
    /// How many there have been.
    written: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    /// No exit yet.
    pub const fn new() -> Self {
        Self {
            ring: [Record::NONE; REMEMBERED],
            written: 0,
        }
    }

    /// Remembers an exit, before it is handled.
    #[inline(always)]
    pub fn record<C: Cpu>(&mut self, cpu: &C, exit: &VmExit, kind: ExitKind, tsc: u64) {
        let slot = self.written as usize & (REMEMBERED - 1);
        if let Some(slot) = self.ring.get_mut(slot) {
            *slot = Record {
                tsc,
                rip: cpu.rip(),
                detail: detail(cpu, exit),
                kind,
            };
        }
        self.written = self.written.wrapping_add(1);
    }

    /// How many exits there have been.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// What is remembered, the oldest first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let first = self.written.saturating_sub(REMEMBERED as u64);
        (first..self.written).filter_map(|n| self.ring.get(n as usize & (REMEMBERED - 1)))
    }
}

/// The one word about an exit that says most.
#[inline(always)]
fn detail<C: Cpu>(cpu: &C, exit: &VmExit) -> u64 {
    match *exit {
        VmExit::Cpuid => cpu.gpr(Gpr::Rax) << 32 | cpu.gpr(Gpr::Rcx) & 0xffff_ffff,
        VmExit::ReadMsr | VmExit::WriteMsr => cpu.gpr(Gpr::Rcx) & 0xffff_ffff,
        VmExit::Hypercall => cpu.gpr(Gpr::Rax),
        VmExit::PortIo(PortIo {
            port,
            width,
            direction,
            string,
        }) => {
            u64::from(port)
                | (width as u64) << 16
                | u64::from(direction == Direction::Out) << 24
                | u64::from(string.is_some()) << 25
        }
        VmExit::ControlRegister(access) => match access {
            ControlRegisterAccess::Write { register, source } => {
                cr_number(register) << 8 | source as u64 | 1 << 16
            }
            ControlRegisterAccess::Read { register, target } => {
                cr_number(register) << 8 | target as u64
            }
            ControlRegisterAccess::Clts => 2 << 16,
            ControlRegisterAccess::Lmsw(value) => 3 << 16 | u64::from(value),
        },
        VmExit::DebugRegister(access) => access.register.into(),
        VmExit::Invlpg(gva) => gva.as_u64(),
        VmExit::Memory(access) => access.gpa.as_u64(),
        VmExit::MemoryMisconfigured(gpa) => gpa.as_u64(),
        VmExit::Exception(info) => {
            (info.exception as u64) << 56 | info.detail & 0x00ff_ffff_ffff_ffff
        }
        VmExit::ApicAccess { offset, .. } | VmExit::ApicWrite { offset } => offset.into(),
        VmExit::ApicEoi(vector) | VmExit::HostInterrupt(Some(vector)) => vector.0.into(),
        VmExit::TaskSwitch(switch) => {
            let cause = match switch.cause {
                TaskSwitchCause::Call => 0,
                TaskSwitchCause::Iret => 1,
                TaskSwitchCause::Jump => 2,
                TaskSwitchCause::Gate => 3,
            };
            cause << 16 | u64::from(switch.selector)
        }
        VmExit::EntryRefused { code } | VmExit::Unexpected { code } => code.into(),
        VmExit::Hlt
        | VmExit::Pause
        | VmExit::Invd
        | VmExit::Wbinvd
        | VmExit::Xsetbv
        | VmExit::Rdtsc
        | VmExit::Rdtscp
        | VmExit::Rdpmc
        | VmExit::Monitor
        | VmExit::Mwait
        | VmExit::Random
        | VmExit::NoSuchInstruction
        | VmExit::DescriptorTable(_)
        | VmExit::TprBelowThreshold
        | VmExit::InterruptWindow
        | VmExit::NmiWindow
        | VmExit::SingleStep
        | VmExit::TripleFault
        | VmExit::HostInterrupt(None)
        | VmExit::HostNmi
        | VmExit::HostMachineCheck
        | VmExit::EntryMachineCheck
        | VmExit::HostTimer
        | VmExit::HostInit
        | VmExit::HostSmi
        | VmExit::DirtyLogFull
        | VmExit::MemoryMapped => 0,
    }
}

const fn cr_number(register: ControlRegister) -> u64 {
    match register {
        ControlRegister::Cr0 => 0,
        ControlRegister::Cr3 => 3,
        ControlRegister::Cr4 => 4,
        ControlRegister::Cr8 => 8,
    }
}

/// One line, without the time.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = self.detail;
        write!(f, "rip {:#018x} {:<18}", self.rip, self.kind.name())?;
        match self.kind {
            ExitKind::Cpuid => write!(f, "leaf {:#x}.{:#x}", detail >> 32, detail & 0xffff_ffff),
            ExitKind::ReadMsr | ExitKind::WriteMsr => match arch::msr::name(detail as u32) {
                Some(name) => f.write_str(name),
                None => write!(f, "{detail:#x}"),
            },
            ExitKind::PortIo => {
                let direction = if detail >> 24 & 1 != 0 { "out" } else { "in" };
                let string = if detail >> 25 & 1 != 0 { " string" } else { "" };
                let (port, bytes) = (detail & 0xffff, detail >> 16 & 0xff);
                write!(f, "{direction} {port:#06x}, {bytes} bytes{string}")
            }
            ExitKind::ControlRegister => match detail >> 16 {
                1 => write!(f, "write CR{}", detail >> 8 & 0xff),
                2 => f.write_str("clts"),
                3 => f.write_str("lmsw"),
                _ => write!(f, "read CR{}", detail >> 8 & 0xff),
            },
            ExitKind::Exception => {
                let exception = arch::Exception::from_vector(arch::Vector((detail >> 56) as u8));
                let name = exception.map_or("?", arch::Exception::mnemonic);
                write!(f, "{name} {:#x}", detail & 0x00ff_ffff_ffff_ffff)
            }
            ExitKind::Memory | ExitKind::CacheOrTlb => write!(f, "at {detail:#x}"),
            ExitKind::Apic | ExitKind::HostInterrupt => write!(f, "{detail:#x}"),
            ExitKind::Hypercall => write!(f, "number {detail:#x}"),
            ExitKind::DebugRegister => write!(f, "DR{detail}"),
            ExitKind::TaskSwitch => write!(f, "to {:#06x}", detail & 0xffff),
            ExitKind::Fatal => write!(f, "code {detail}"),
            ExitKind::Hlt
            | ExitKind::Pause
            | ExitKind::Xsetbv
            | ExitKind::Tsc
            | ExitKind::Hidden
            | ExitKind::DescriptorTable
            | ExitKind::Window
            | ExitKind::SingleStep
            | ExitKind::HostTimer
            | ExitKind::DirtyLog
            | ExitKind::Mapped => Ok(()),
        }
    }
}

/// All lines, each with the ticks since the exit before.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = None;
        for record in self.records() {
            let passed = before.map_or(0, |before| record.tsc.wrapping_sub(before));
            writeln!(f, "+{passed:<12} {record}")?;
            before = Some(record.tsc);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec::Vec;

    use arch::Width;
    use memory::GuestVirt;

    use super::*;
    use crate::testing::FakeCpu;

    fn record(trace: &mut Trace, cpu: &FakeCpu, exit: VmExit, tsc: u64) {
        trace.record(cpu, &exit, ExitKind::of(&exit), tsc);
    }

    #[test]
    fn only_the_last_exits_are_remembered_in_their_order() {
        let mut trace = Trace::new();
        let mut cpu = FakeCpu::long_mode(0);
        for n in 0..100 {
            cpu.rip = n;
            record(&mut trace, &cpu, VmExit::Hlt, n);
        }
        let rips: Vec<_> = trace.records().map(|record| record.rip).collect();
        assert_eq!(rips, (68..100).collect::<Vec<_>>());
        assert_eq!(trace.written(), 100);
    }

    #[test]
    fn a_short_trace_has_no_empty_lines() {
        let mut trace = Trace::new();
        assert_eq!(trace.to_string(), "");
        record(&mut trace, &FakeCpu::long_mode(0), VmExit::Pause, 5);
        assert_eq!(trace.to_string().lines().count(), 1);
    }

    #[test]
    fn lines_say_what_the_exit_was_about() {
        let cpu = FakeCpu::long_mode(0)
            .with(Gpr::Rcx, 0xc000_0080)
            .with(Gpr::Rax, 7);
        let out = PortIo {
            port: 0x3f8,
            width: Width::Byte,
            direction: Direction::Out,
            string: None,
        };
        let write_cr4 = ControlRegisterAccess::Write {
            register: ControlRegister::Cr4,
            source: Gpr::Rax,
        };
        for (exit, text) in [
            (VmExit::ReadMsr, "IA32_EFER"),
            (VmExit::PortIo(out), "out 0x03f8, 1 bytes"),
            (VmExit::ControlRegister(write_cr4), "write CR4"),
            (VmExit::Invlpg(GuestVirt::new(0x7000)), "at 0x7000"),
            (VmExit::Cpuid, "leaf 0x7.0xc0000080"),
            (VmExit::EntryRefused { code: 33 }, "code 33"),
        ] {
            let mut trace = Trace::new();
            record(&mut trace, &cpu, exit, 0);
            let line = trace.to_string();
            assert!(line.trim_end().ends_with(text), "{line}");
            assert!(line.contains("rip 0x0000000000001000"), "{line}");
        }
    }

    #[test]
    fn lines_say_how_long_after_the_one_before_they_came() {
        let mut trace = Trace::new();
        let cpu = FakeCpu::long_mode(0);
        record(&mut trace, &cpu, VmExit::Hlt, 1000);
        record(&mut trace, &cpu, VmExit::HostTimer, 1250);
        let text = trace.to_string();
        let starts: Vec<_> = text
            .lines()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(starts, ["+0", "+250"]);
    }
}
