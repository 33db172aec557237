//! The registers of a vCPU as text, for the report about one that was stopped.

use core::fmt;

use arch::linear::CpuMode;
use arch::{AccessRights, Gpr, SegmentName};

use crate::cpu::Cpu;

/// All registers of a vCPU, over about fifteen lines.
#[derive(Debug)]
pub struct Registers<'a, C>(pub &'a C);

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8 ", "r9 ", "r10", "r11", "r12",
    "r13", "r14", "r15",
];

impl<C: Cpu> fmt::Display for Registers<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.0;
        let cs = cpu.segment(SegmentName::Cs);
        let mode = match CpuMode::new(cpu.cr0(), cpu.efer(), cpu.rflags(), cs.access) {
            CpuMode::Real => "real",
            CpuMode::Virtual8086 => "virtual-8086",
            CpuMode::Protected => "protected",
            CpuMode::Compatibility => "compatibility",
            CpuMode::Long => "64-bit",
        };
        let (rip, rflags, cpl) = (cpu.rip(), cpu.rflags().bits(), cpu.cpl());
        writeln!(
            f,
            "rip {rip:016x} rflags {rflags:08x} cpl {cpl} {mode} mode"
        )?;
        for (registers, names) in Gpr::ALL
            .as_chunks::<4>()
            .0
            .iter()
            .zip(NAMES.as_chunks::<4>().0)
        {
            for (register, name) in registers.iter().zip(names) {
                write!(f, "{name} {:016x} ", cpu.gpr(*register))?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "cr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:08x} efer {:04x} xcr0 {:x}",
            cpu.cr0().bits(),
            cpu.cr2(),
            cpu.cr3(),
            cpu.cr4().bits(),
            cpu.efer().bits(),
            cpu.xcr0().bits()
        )?;
        for name in SegmentName::ALL {
            let segment = cpu.segment(name);
            write!(
                f,
                "{name:<4?} {:04x} base {:016x} limit {:08x} access {:04x}",
                segment.selector,
                segment.base,
                segment.limit,
                (segment.access - AccessRights::UNUSABLE).bits()
            )?;
            writeln!(f, "{}", if segment.is_usable() { "" } else { " unusable" })?;
        }
        for (name, table) in [("gdtr", cpu.gdtr()), ("idtr", cpu.idtr())] {
            write!(
                f,
                "{name} base {:016x} limit {:04x} ",
                table.base, table.limit
            )?;
        }
        writeln!(f)?;
        for register in [0, 1, 2, 3, 6, 7] {
            write!(f, "dr{register} {:x} ", cpu.debug_register(register))?;
        }
        writeln!(f, "blocking {:x}", cpu.blocking().bits())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::testing::FakeCpu;

    #[test]
    fn a_dump_names_every_register_with_its_value() {
        let mut cpu = FakeCpu::long_mode(0x1234_5000).with(Gpr::R15, 0xfeed_f00d);
        cpu.cr2 = 0xdead_beef;
        let text = Registers(&cpu).to_string();
        for part in [
            "rip 0000000000001000",
            "64-bit mode",
            "r15 00000000feedf00d",
            "cr2 00000000deadbeef",
            "cr3 0000000012345000",
            "Ldtr 0000",
            "unusable",
            "dr7 400",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() < 110), "{text}");
        assert!(
            text.ends_with('\n'),
            "what follows begins a line of its own"
        );
    }

    #[test]
    fn the_mode_is_named() {
        assert!(
            Registers(&FakeCpu::real_mode())
                .to_string()
                .contains("real mode")
        );
        assert!(
            Registers(&FakeCpu::protected_mode())
                .to_string()
                .contains("protected mode")
        );
    }
}
