//! What the two hello guests say and check: the machine as its own kernel sees it.

use crate::cpu::{self, cpuid, cr0, cr4, efer, msr};
use crate::report::Report;
use crate::start_info::StartInfo;
use crate::{print, println, x86};

/// Prints a short report of the machine.
pub fn describe(start: StartInfo) {
    println!(
        "Hello from ring {} of a virtual or a real machine.",
        code_segment() & 3
    );
    print!("  processor    ");
    print_text(&vendor());
    print!(" ");
    print_brand();
    println!();
    match cpu::hypervisor() {
        Some(signature) => {
            print!("  hypervisor   ");
            print_text(&signature);
            println!();
        }
        None => println!("  hypervisor   none"),
    }
    println!(
        "  mode         64-bit, CR0 {:#x}, CR3 {:#x}, CR4 {:#x}, EFER {:#x}",
        cpu::read_cr0(),
        cpu::read_cr3(),
        cpu::read_cr4(),
        cpu::rdmsr(msr::IA32_EFER),
    );
    match start.version() {
        Some(version) => println!(
            "  start info   PVH version {version}, RSDP at {:#x}",
            start.rsdp()
        ),
        None => println!("  start info   none"),
    }
    if let Some(line) = start.command_line() {
        println!("  command line {line}");
    }
    for range in start.memory_map() {
        let kind = match range.kind {
            1 => "RAM",
            2 => "reserved",
            3 => "ACPI tables",
            4 => "ACPI NVS",
            _ => "other",
        };
        println!(
            "  memory       {:#012x} - {:#012x}  {kind}",
            range.start,
            range.end().wrapping_sub(1)
        );
    }
}

/// The cases that hold for any kernel in long mode.
pub fn check_long_mode(report: &mut Report) {
    report.case("long-mode-is-active", |case| {
        let wanted = efer::LME | efer::LMA;
        case.equal(
            "EFER.LME and LMA",
            cpu::rdmsr(msr::IA32_EFER) & wanted,
            wanted,
        );
        case.equal(
            "CR0.PE and PG",
            cpu::read_cr0() & (cr0::PE | cr0::PG),
            cr0::PE | cr0::PG,
        );
        case.equal("CR4.PAE", cpu::read_cr4() & cr4::PAE, cr4::PAE);
        case.equal("CS", code_segment(), crate::descriptors::KERNEL_CODE);
    });
    report.case("registers-are-64-bits-wide", |case| {
        let product: u64;
        x86!("imul {0}, {1}", inout(reg) 0x1_0000_0001u64 => product, in(reg) 0xdead_beefu64, options(nomem, nostack));
        case.equal("the product", product, 0xdead_beef_dead_beef);
    });
    report.case("a-fault-reaches-its-handler", |case| {
        let probed = crate::fault_of!("ud2");
        case.faults("UD2", probed, crate::Vector::InvalidOpcode, 0);
    });
}

fn code_segment() -> u16 {
    let selector: u16;
    x86!("mov {:x}, cs", out(reg) selector, options(nomem, nostack));
    selector
}

fn vendor() -> [u8; 12] {
    let leaf = cpuid(0, 0);
    let mut text = [0; 12];
    for (bytes, register) in text.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    text
}

fn print_brand() {
    if cpuid(0x8000_0000, 0).eax < 0x8000_0004 {
        return;
    }
    for leaf in 0x8000_0002u32..=0x8000_0004 {
        let part = cpuid(leaf, 0);
        for register in [part.eax, part.ebx, part.ecx, part.edx] {
            print_text(&register.to_le_bytes());
        }
    }
}

/// Prints bytes that should be ASCII; what is not printable is left out.
fn print_text(bytes: &[u8]) {
    for &byte in bytes.iter().filter(|byte| (0x20..0x7f).contains(*byte)) {
        print!("{}", char::from(byte));
    }
}
