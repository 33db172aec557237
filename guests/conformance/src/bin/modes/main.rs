//! `modes`: control registers and the processor's modes. Long mode down to protected mode without paging, 32-bit
//! paging, PAE paging, and up again, with what each control register refuses on the way.

#![no_std]
#![no_main]

mod control_registers;

use plinth_guests::compat::{self, Registers32};
use plinth_guests::cpu::{self, cr0, cr4, efer, msr};
use plinth_guests::descriptors::{KERNEL_CODE32, SCRATCH, set_gdt_entry};
use plinth_guests::paging::{entry, new_frame, peek, peek_32, poke, poke_32};
use plinth_guests::protected::{self, Fault32};
use plinth_guests::{
    Case, Report, StartInfo, Vector, compat_code, fault_of, guest, protected_code,
};

guest!(main);

// What the mode is: CR0, EFER and CR4.
protected_code!(
    look,
    "mov ecx, 0xc0000080",
    "rdmsr",
    "mov ebx, eax",
    "mov eax, cr0",
    "mov ecx, cr4"
);
// ebx = page directory or PDPT, ecx = bits for CR4, edx = address to read: CR3, bits of CR4, paging, a read and a write.
protected_code!(
    paged,
    "mov cr3, ebx",
    "mov eax, cr4",
    "or eax, ecx",
    "mov cr4, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "mov eax, [edx]",
    "mov dword ptr [edx + 4], 0x5151",
    "mov esi, cr0",
    "mov edi, cr3",
);
// The same, then a call of the word at edx.
protected_code!(
    paged_call,
    "mov cr3, ebx",
    "mov eax, cr4",
    "or eax, ecx",
    "mov cr4, eax",
    "mov ecx, 0xc0000080",
    "push edx",
    "rdmsr",
    "or eax, 0x800",
    "wrmsr",
    "pop edx",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "call edx",
);
// ebx = 32-bit page directory, esi = PDPT, edx = address: through both kinds of paging in one go.
protected_code!(
    both,
    "mov cr3, ebx",
    "mov eax, cr4",
    "or eax, 0x10",
    "mov cr4, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "mov ecx, [edx]",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "mov cr3, esi",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "mov edi, [edx]",
);
// Long mode enable without PAE: the paging bit must be refused.
protected_code!(
    long_without_pae,
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
);
protected_code!(set_cr4, "mov cr4, eax", "mov ebx, cr4");
protected_code!(set_cr0, "mov cr0, eax", "mov ebx, cr0");
protected_code!(
    many_instructions,
    "xor eax, eax",
    "cpuid",
    "mov dx, 0x3fd",
    "in al, dx",
    "rdtsc",
    "mov eax, 0x600d"
);
compat_code!(rex_is_inc, "xor eax, eax", ".byte 0x40", "nop");
// Assembled for 16 bits: the far return has to pop 32-bit values.
compat_code!(
    code_16,
    ".code16",
    "mov ax, 0xffff",
    ".byte 0x40",
    ".byte 0x66, 0xcb",
    ".code32"
);

/// An address that 32-bit page tables below map to [`LARGE`].
const WINDOW: u32 = 0x4000_0000;
/// RAM that nothing else uses, aligned for 4 MiB pages.
const LARGE: u64 = 0x40_0000;

fn main(report: &mut Report, _: StartInfo) {
    protected::reset_gates();
    control_registers::check(report);
    compatibility(report);
    protected_mode(report);
    legacy_paging(report);
    round_trips(report);
}

fn compatibility(report: &mut Report) {
    report.case("compatibility-mode-runs-32-bit-code", |case| {
        if let Some(after) = case.runs(
            "the code",
            compat::run(KERNEL_CODE32, rex_is_inc, Registers32::default()),
        ) {
            case.equal("EAX", after.eax, 1);
        }
    });
    report.case("compatibility-mode-runs-16-bit-code", |case| {
        let base = code_16 as *const () as u64;
        set_gdt_entry(
            SCRATCH,
            0x0000_9b00_0000_ffff | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56,
        );
        let registers = Registers32 {
            eax: 0x1234_0000,
            ..Registers32::default()
        };
        if let Some(after) = case.runs("the code", compat::run_at(SCRATCH, 0, registers)) {
            case.equal("EAX", after.eax, 0x1234_0000);
        }
    });
}

/// Takes the registers of code that must not have faulted.
fn finished(case: &mut Case, outcome: Result<Registers32, Fault32>) -> Registers32 {
    outcome.unwrap_or_else(|fault| {
        case.fail(format_args!(
            "unexpected exception in protected mode: {fault:x?}"
        ));
        Registers32::default()
    })
}

/// Checks that code ended in an exception, and returns it.
fn faulted(
    case: &mut Case,
    what: &str,
    outcome: Result<Registers32, Fault32>,
    vector: Vector,
    code: u32,
) -> Fault32 {
    match outcome {
        Ok(_) => case.fail(format_args!("{what} raises nothing, not {vector:?}")),
        Err(fault) => {
            case.equal(what, fault.vector, vector as u32);
            case.equal(what, fault.error_code, code);
        }
    }
    outcome.err().unwrap_or_default()
}

fn protected_mode(report: &mut Report) {
    report.case("long-to-protected-and-back", |case| {
        let before = (
            cpu::read_cr0(),
            cpu::read_cr3(),
            cpu::read_cr4(),
            cpu::rdmsr(msr::IA32_EFER),
        );
        let after = finished(case, protected::run(look, Registers32::default()));
        case.equal(
            "CR0.PG and PE in protected mode",
            u64::from(after.eax) & (cr0::PG | cr0::PE),
            cr0::PE,
        );
        case.equal(
            "EFER.LMA and LME in protected mode",
            u64::from(after.ebx) & (efer::LMA | efer::LME),
            0,
        );
        case.equal(
            "CR4.PAE in protected mode",
            u64::from(after.ecx) & cr4::PAE,
            0,
        );
        let now = (
            cpu::read_cr0(),
            cpu::read_cr3(),
            cpu::read_cr4(),
            cpu::rdmsr(msr::IA32_EFER),
        );
        case.ensure(
            now == before,
            "the control registers changed by the way there and back",
        );
    });
    report.case("exits-in-protected-mode", |case| {
        let after = finished(
            case,
            protected::run(many_instructions, Registers32::default()),
        );
        case.equal("EAX", after.eax, 0x600d);
    });
    report.case("long-mode-needs-pae", |case| {
        let outcome = protected::run(long_without_pae, Registers32::default());
        faulted(
            case,
            "PG with LME without PAE",
            outcome,
            Vector::GeneralProtection,
            0,
        );
        case.equal(
            "EFER afterwards",
            cpu::rdmsr(msr::IA32_EFER) & efer::LMA,
            efer::LMA,
        );
    });
    report.case("protected-mode-cr0-and-cr4-rules", |case| {
        let with = |eax: u64| Registers32 {
            eax: eax as u32,
            ..Registers32::default()
        };
        let (zero, four) = (cpu::read_cr0() & !cr0::PG, cpu::read_cr4() & !cr4::PAE);
        faulted(
            case,
            "NW without CD",
            protected::run(set_cr0, with(zero | cr0::NW)),
            Vector::GeneralProtection,
            0,
        );
        faulted(
            case,
            "PG without PE",
            protected::run(set_cr0, with(cr0::PG)),
            Vector::GeneralProtection,
            0,
        );
        faulted(
            case,
            "CR4 bit 15",
            protected::run(set_cr4, with(four | 1 << 15)),
            Vector::GeneralProtection,
            0,
        );
        let outcome = protected::run(set_cr4, with(four | cr4::PCIDE));
        faulted(
            case,
            "PCIDE outside of long mode",
            outcome,
            Vector::GeneralProtection,
            0,
        );
        let after = finished(
            case,
            protected::run(set_cr4, with(four | cr4::PSE | cr4::PAE)),
        );
        case.equal("CR4", u64::from(after.ebx), four | cr4::PSE | cr4::PAE);
    });
}

/// A 32-bit page directory with 4 MiB pages: the first 16 MiB to themselves, WINDOW to LARGE.
fn directory_32() -> u64 {
    let directory = new_frame();
    for index in 0..4u64 {
        poke_32(directory + index * 4, (index << 22 | 0x83) as u32);
    }
    poke_32(directory + u64::from(WINDOW >> 22) * 4, LARGE as u32 | 0x83);
    directory
}

/// A PDPT of PAE paging with the same two mappings.
fn table_pae() -> u64 {
    let (pointers, low, high) = (new_frame(), new_frame(), new_frame());
    poke(pointers, low | 1);
    poke(pointers + 8, high | 1);
    for index in 0..8 {
        poke(low + index * 8, index << 21 | 0x83);
    }
    poke(high, LARGE | 0x83);
    pointers
}

fn legacy_paging(report: &mut Report) {
    let directory = directory_32();
    let pointers = table_pae();
    let pse = cr4::PSE as u32;
    let pae = cr4::PAE as u32;
    let at = |ebx: u64, ecx: u32, edx: u32| Registers32 {
        ebx: ebx as u32,
        ecx,
        edx,
        ..Registers32::default()
    };

    report.case("32-bit-paging-with-4-mib-pages", |case| {
        poke(LARGE + 0x123_450, 0xcafe);
        let after = finished(
            case,
            protected::run(paged, at(directory, pse, WINDOW + 0x12_3450)),
        );
        case.equal(
            "a read of another page",
            after.eax,
            peek_32(LARGE + 0x12_3450),
        );
        let after = finished(
            case,
            protected::run(paged, at(directory, pse, WINDOW + 0x123_450)),
        );
        case.equal("the word read", after.eax, 0xcafe);
        case.equal("the word written", peek_32(LARGE + 0x123_454), 0x5151);
        case.equal("CR3", u64::from(after.edi), directory);
        case.equal("CR0.PG", u64::from(after.esi) & cr0::PG, cr0::PG);
        let used = peek_32(directory + u64::from(WINDOW >> 22) * 4);
        case.equal("accessed and dirty", used & 0x60, 0x60);
    });
    report.case("32-bit-paging-with-4-kib-pages", |case| {
        let table = new_frame();
        let target = new_frame();
        poke_32(directory + 4 * 0x140, table as u32 | 3);
        poke_32(table + 4 * 5, target as u32 | 3);
        poke_32(target + 8, 0xbeef);
        let after = finished(case, protected::run(paged, at(directory, pse, 0x5000_5008)));
        case.equal("the word read", after.eax, 0xbeef);
        case.equal("the word written", peek_32(target + 12), 0x5151);
        case.equal("accessed and dirty", peek_32(table + 4 * 5) & 0x60, 0x60);
        case.equal(
            "the table's accessed bit",
            peek_32(directory + 4 * 0x140) & 0x60,
            0x20,
        );
        poke_32(table + 4 * 5, target as u32 | 1);
        let outcome = protected::run(paged, at(directory, pse, 0x5000_5008));
        let fault = faulted(
            case,
            "a write to a read-only page",
            outcome,
            Vector::PageFault,
            3,
        );
        case.equal("CR2", fault.cr2, 0x5000_500c);
    });
    report.case("32-bit-paging-without-pse-ignores-the-size-bit", |case| {
        // Entry 0 maps this code, so it has to be a table when PSE is off.
        let (plain, low) = (new_frame(), new_frame());
        for index in 0..1024u64 {
            poke_32(low + index * 4, (index << 12 | 3) as u32);
        }
        poke_32(plain, low as u32 | 0x83);
        poke_32(plain + 4 * u64::from(WINDOW >> 22), low as u32 | 0x83);
        let after = finished(
            case,
            protected::run(paged, at(plain, 0, WINDOW + 0x3f_f000)),
        );
        case.equal("the word read", after.eax, peek_32(0x3f_f000));
    });
    report.case("32-bit-paging-faults", |case| {
        let outcome = protected::run(paged, at(directory, pse, 0x6000_0010));
        let fault = faulted(case, "a read of no page", outcome, Vector::PageFault, 0);
        case.equal("CR2", fault.cr2, 0x6000_0010);
        poke_32(directory + 4 * 0x1c0, 0x83 | 1 << 21);
        let outcome = protected::run(paged, at(directory, pse, 0x7000_0000));
        faulted(case, "a reserved bit", outcome, Vector::PageFault, 9);
    });
    report.case("pae-paging", |case| {
        poke_32(LARGE + 0x10, 0xfeed);
        let after = finished(
            case,
            protected::run(paged, at(pointers, pae, WINDOW + 0x10)),
        );
        case.equal("the word read", after.eax, 0xfeed);
        case.equal("the word written", peek_32(LARGE + 0x14), 0x5151);
        let outcome = protected::run(paged, at(pointers, pae, 0x8000_0000));
        let fault = faulted(
            case,
            "a read below an absent pointer",
            outcome,
            Vector::PageFault,
            0,
        );
        case.equal("CR2", fault.cr2, 0x8000_0000);
    });
    report.case("pae-pointers-with-reserved-bits-fault", |case| {
        let original = peek(pointers + 8);
        for bit in [1, 2, 5, 63] {
            poke(pointers + 8, original | 1 << bit);
            let outcome = protected::run(paged, at(pointers, pae, WINDOW));
            poke(pointers + 8, original);
            faulted(
                case,
                "turning on paging",
                outcome,
                Vector::GeneralProtection,
                0,
            );
        }
    });
    report.case("pae-paging-has-no-execute", |case| {
        if cpu::extended().edx & cpu::extended_edx::NX == 0 {
            return case.skip("no NX");
        }
        let slot = (peek(pointers + 8) & entry::ADDRESS) + 8;
        poke(slot, LARGE | 0x83 | entry::XD);
        poke_32(LARGE + 0x40, 0xc3);
        let outcome = protected::run(paged_call, at(pointers, pae, WINDOW + 0x20_0040));
        faulted(case, "a call", outcome, Vector::PageFault, 0x11);
        poke(slot, LARGE | 0x83);
        finished(
            case,
            protected::run(paged_call, at(pointers, pae, WINDOW + 0x20_0040)),
        );
    });
}

fn round_trips(report: &mut Report) {
    report.case("forty-trips-through-all-modes", |case| {
        let directory = directory_32();
        let pointers = table_pae();
        for round in 0..40u32 {
            poke_32(LARGE + 0x80, round);
            let registers = Registers32 {
                ebx: directory as u32,
                esi: pointers as u32,
                edx: WINDOW + 0x80,
                ..Registers32::default()
            };
            let after = finished(case, protected::run(both, registers));
            case.equal("the word by 32-bit paging", after.ecx, round);
            case.equal("the word by PAE paging", after.edi, round);
            case.equal(
                "EFER.LMA",
                cpu::rdmsr(msr::IA32_EFER) & efer::LMA,
                efer::LMA,
            );
        }
    });
    report.case("exceptions-work-after-all-that", |case| {
        case.faults("UD2", fault_of!("ud2"), Vector::InvalidOpcode, 0);
    });
}
