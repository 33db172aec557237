//! The register file after power-on, INIT and a start-up IPI (SDM vol. 3, Processor State After Reset).

use arch::mtrr::PAT_AT_RESET;
use arch::{
    AccessRights, Cr0, Cr4, DescriptorTable, Dr6, Dr7, Efer, Gpr, Rflags, Segment, SegmentName,
    Vector, Xcr0, msr,
};

use crate::cpu::{Blocking, Cpu};
use crate::state::VcpuState;

const DATA: AccessRights = AccessRights::PRESENT
    .union(AccessRights::CODE_OR_DATA)
    .union(AccessRights::WRITABLE)
    .union(AccessRights::ACCESSED);
const LDT: AccessRights = AccessRights::PRESENT.union(AccessRights::from_bits_retain(2));
const BUSY_TSS: AccessRights = AccessRights::PRESENT.union(AccessRights::from_bits_retain(11));

/// Power-on: what INIT does, and the state that INIT leaves alone.
pub fn power_on<C: Cpu>(cpu: &mut C) {
    cpu.set_cr0(Cr0::CD | Cr0::NW | Cr0::ET);
    registers(cpu);
    cpu.set_xcr0(Xcr0::X87);
    for (index, value) in [
        (msr::IA32_PAT, PAT_AT_RESET),
        (msr::IA32_SYSENTER_CS, 0),
        (msr::IA32_SYSENTER_ESP, 0),
        (msr::IA32_SYSENTER_EIP, 0),
        (msr::IA32_DEBUGCTL, 0),
    ] {
        // An MSR that this processor lacks needs no value.
        cpu.set_hardware_msr(index, value);
    }
}

/// INIT: the registers, and the local APIC but for its ID and place. x87 and SSE state, the TSC and most MSRs
/// stay as they are.
pub fn init<C: Cpu>(cpu: &mut C, vcpu: &mut VcpuState) {
    cpu.set_cr0((cpu.cr0() & (Cr0::CD | Cr0::NW)) | Cr0::ET);
    registers(cpu);
    cpu.set_gpr(Gpr::Rdx, u64::from(vcpu.cpuid.leaf_1_eax()));
    vcpu.lapic.init();
    vcpu.paravirt.reset();
    cpu.apic_mode_changed(&vcpu.lapic);
}

/// A start-up IPI to a CPU that waits for one: real mode, at the first byte of the page with this number.
pub fn start_up<C: Cpu>(cpu: &mut C, page: Vector) {
    let selector = u16::from(page.0) << 8;
    let base = u64::from(selector) << 4;
    cpu.set_segment(
        SegmentName::Cs,
        Segment {
            selector,
            base,
            limit: 0xffff,
            access: DATA | AccessRights::CODE,
        },
    );
    cpu.set_rip(0);
}

/// What INIT and power-on have in common.
fn registers<C: Cpu>(cpu: &mut C) {
    for register in Gpr::ALL {
        cpu.set_gpr(register, 0);
    }
    cpu.set_rip(0xfff0);
    cpu.set_rflags(Rflags::ONE);
    cpu.set_efer(Efer::empty());
    cpu.set_cr2(0);
    cpu.set_cr3(0);
    cpu.set_cr4(Cr4::empty());
    cpu.set_pdptes([0; 4]);
    for name in SegmentName::ALL {
        cpu.set_segment(name, segment(name));
    }
    let table = DescriptorTable {
        base: 0,
        limit: 0xffff,
    };
    cpu.set_gdtr(table);
    cpu.set_idtr(table);
    for register in 0..4 {
        cpu.set_debug_register(register, 0);
    }
    cpu.set_debug_register(6, Dr6::ONES);
    cpu.set_debug_register(7, Dr7::ONES);
    cpu.set_blocking(Blocking::empty());
    cpu.flush_all();
}

fn segment(name: SegmentName) -> Segment {
    let flat = |access| Segment {
        selector: 0,
        base: 0,
        limit: 0xffff,
        access,
    };
    match name {
        SegmentName::Cs => Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            ..flat(DATA | AccessRights::CODE)
        },
        SegmentName::Ldtr => flat(LDT),
        SegmentName::Tr => flat(BUSY_TSS),
        _ => flat(DATA),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCpu;

    #[test]
    fn after_power_on_the_first_fetch_is_16_bytes_below_4_gib() {
        let mut cpu = FakeCpu::long_mode(0);
        power_on(&mut cpu);
        let cs = cpu.segment(SegmentName::Cs);
        assert_eq!(cs.base + cpu.rip(), 0xffff_fff0);
        assert_eq!(cpu.cr0().bits(), 0x6000_0010);
        assert_eq!(cpu.efer(), Efer::empty());
    }

    #[test]
    fn an_nmi_handler_that_init_ends_blocks_nmis_no_longer() {
        let mut cpu = FakeCpu::long_mode(0);
        let mut vcpu = crate::testing::vcpu();
        cpu.set_blocking(Blocking::NMI | Blocking::MOV_SS);
        init(&mut cpu, &mut vcpu);
        assert_eq!(cpu.blocking(), Blocking::empty());
    }

    #[test]
    fn a_start_up_ipi_starts_at_its_page() {
        let mut cpu = FakeCpu::long_mode(0);
        power_on(&mut cpu);
        start_up(&mut cpu, Vector(0x9a));
        let cs = cpu.segment(SegmentName::Cs);
        assert_eq!((cs.selector, cs.base, cpu.rip()), (0x9a00, 0x9_a000, 0));
    }
}
