//! Instructions that a hypervisor may intercept, and memory that is touched for the first time.

use crate::measure::{SAMPLES, bench};
use crate::ticks;
use crate::vectors;
use plinth_guests::cpu::{self, cr0, cr4, msr};
use plinth_guests::start_info::MemoryRange;
use plinth_guests::{Vector, fault_of};

/// No processor has this register.
const UNKNOWN_MSR: u64 = 0x4141_4141;

/// Memory above what the runtime uses.
const UNTOUCHED: u64 = 16 << 20;
const PAGE_BYTES: u64 = 4096;
const LARGE_PAGE_BYTES: u64 = 2 << 20;

pub(crate) fn measure() {
    bench("nothing", || ticks!(0u64, 0u64; "nop"));
    bench(
        "cpuid",
        || ticks!(0u64, 0u64; "mov r9, rbx", "xor eax, eax", "cpuid", "mov rbx, r9"),
    );
    if fault_of!("vmcall", inout("rax") u64::MAX => _).is_ok() {
        bench("vmcall", || ticks!(0u64, 0u64; "mov rax, -1", "vmcall"));
    }
    msrs();
    bench("wbinvd", || ticks!(0u64, 0u64; "wbinvd"));
    let xcr0 = cpu::xcr0();
    bench(
        "xsetbv",
        || ticks!(xcr0, 0u64; "xor ecx, ecx", "xor edx, edx", "mov eax, edi", "xsetbv"),
    );
    registers();
    bench(
        "pause-1000",
        || ticks!(0u64, 0u64; "mov ecx, 1000", "2: pause", "dec ecx", "jnz 2b"),
    );
}

/// Writes to memory that nobody has written to before: each time in another page of 2 MiB where there is so much, else
/// in one of 4 KiB as far from the last as can be, so that memory which came only on demand would show, in either size.
/// Nothing is measured where there is too little.
pub(crate) fn measure_first_touch(map: &[MemoryRange]) {
    let untouched = map.iter().find(|range| {
        range.is_ram() && range.start <= UNTOUCHED && UNTOUCHED - range.start < range.bytes
    });
    let Some(range) = untouched else {
        return;
    };
    let apart = (range.start + range.bytes - UNTOUCHED) / SAMPLES as u64;
    let apart = apart.min(LARGE_PAGE_BYTES) & !(PAGE_BYTES - 1);
    if apart == 0 {
        return;
    }
    let mut page = UNTOUCHED;
    bench("first-touch", || {
        let at = page;
        page += apart;
        ticks!(at, 0u64; "mov [rdi], rdi")
    });
}

fn msrs() {
    bench(
        "rdmsr-apic-base",
        || ticks!(u64::from(msr::IA32_APIC_BASE), 0u64; "mov ecx, edi", "rdmsr"),
    );
    let efer = u64::from(msr::IA32_EFER);
    bench("rdmsr-efer", || ticks!(efer, 0u64; "mov ecx, edi", "rdmsr"));
    let value = cpu::rdmsr(msr::IA32_EFER);
    bench(
        "wrmsr-efer",
        || ticks!(efer, value; "mov ecx, edi", "mov eax, esi", "xor edx, edx", "wrmsr"),
    );
    let old = vectors::set(Vector::GeneralProtection as u8, vectors::skip_two_bytes());
    bench(
        "rdmsr-unknown-gp",
        || ticks!(UNKNOWN_MSR, 0u64; "mov ecx, edi", "rdmsr"),
    );
    vectors::restore(Vector::GeneralProtection as u8, old);
}

fn registers() {
    let value = cpu::read_cr0();
    bench(
        "cr0-wp",
        || ticks!(cpu::read_cr0() ^ cr0::WP, 0u64; "mov cr0, rdi"),
    );
    cpu::write_cr0(value);
    bench("cr3", || ticks!(cpu::read_cr3(), 0u64; "mov cr3, rdi"));
    let value = cpu::read_cr4();
    bench(
        "cr4-pge",
        || ticks!(cpu::read_cr4() ^ cr4::PGE, 0u64; "mov cr4, rdi"),
    );
    cpu::write_cr4(value);
    bench("cr8", || ticks!(0u64, 0u64; "mov cr8, rdi"));
    bench("dr0", || ticks!(0u64, 0u64; "mov dr0, rdi"));
    bench("invlpg", || ticks!(UNTOUCHED, 0u64; "invlpg [rdi]"));
    bench("rdtsc", || ticks!(0u64, 0u64; "rdtsc"));
}
