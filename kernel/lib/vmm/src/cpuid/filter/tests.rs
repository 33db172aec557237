//! What a guest sees of a host that shows everything.

use arch::Cr4;

use super::*;
use crate::cpuid::Live;
use crate::testing::{guest_cpu_config, host_cpuid};

struct State {
    cr4: Cr4,
    xcr0: Xcr0,
    apic: bool,
    long: bool,
}

const LONG_MODE: State = State {
    cr4: Cr4::empty(),
    xcr0: Xcr0::X87,
    apic: true,
    long: true,
};

impl Live for State {
    fn cr4(&self) -> Cr4 {
        self.cr4
    }
    fn xcr0(&self) -> Xcr0 {
        self.xcr0
    }
    fn xss(&self) -> u64 {
        0
    }
    fn apic_enabled(&self) -> bool {
        self.apic
    }
    fn in_64_bit_mode(&self) -> bool {
        self.long
    }
}

fn table() -> CpuidTable {
    CpuidTable::build(&host_cpuid, &guest_cpu_config())
}

fn ask(table: &CpuidTable, leaf: u32, subleaf: u32) -> CpuidResult {
    table.lookup(leaf, subleaf, &LONG_MODE)
}

#[test]
fn virtualisation_and_monitoring_are_hidden() {
    let leaf_1 = ask(&table(), 1, 0);
    // VMX, SMX, EIST, TM2, MONITOR, DTES64, DS-CPL, PDCM, DCA, xTPR, OSXSAVE.
    for bit in [5, 6, 7, 8, 3, 2, 4, 15, 18, 14, 27] {
        assert_eq!(leaf_1.ecx & 1 << bit, 0, "bit {bit}");
    }
    // DS, ACPI, TM, PBE, PSN.
    for bit in [21, 22, 29, 31, 18] {
        assert_eq!(leaf_1.edx & 1 << bit, 0, "bit {bit}");
    }
    assert_eq!(ask(&table(), 0xa, 0), CpuidResult::ZERO);
    assert_eq!(ask(&table(), 0x14, 0), CpuidResult::ZERO);
    assert_eq!(ask(&table(), 5, 0), CpuidResult::ZERO);
}

#[test]
fn what_software_provides_is_shown_whatever_the_host_has() {
    let bare = |leaf, subleaf| match leaf {
        1 => CpuidResult::ZERO,
        _ => host_cpuid(leaf, subleaf),
    };
    let table = CpuidTable::build(&bare, &guest_cpu_config());
    let leaf_1 = ask(&table, 1, 0);
    // x2APIC, TSC deadline, hypervisor; and nothing that the host lacks.
    assert_eq!(leaf_1.ecx, 1 << 21 | 1 << 24 | 1 << 31);
    // MCE, APIC, MTRR, MCA, HTT.
    assert_eq!(leaf_1.edx, 1 << 7 | 1 << 9 | 1 << 12 | 1 << 14 | 1 << 28);
}

#[test]
fn leaf_7_shows_no_unknown_bit() {
    let leaf_7 = ask(&table(), 7, 0);
    // SGX, HLE, RTM, RDT, MPX, PT and the reserved bit 22.
    for bit in [2, 4, 11, 12, 14, 15, 22, 25] {
        assert_eq!(leaf_7.ebx & 1 << bit, 0, "EBX bit {bit}");
    }
    // OSPKE, WAITPKG, CET, TME, KL, bus lock, ENQCMD, SGX_LC, PKS.
    for bit in [4, 5, 7, 13, 15, 17, 23, 24, 29, 30, 31] {
        assert_eq!(leaf_7.ecx & 1 << bit, 0, "ECX bit {bit}");
    }
    // UINTR, hybrid, PCONFIG, IBT, AMX, core capabilities.
    for bit in [0, 1, 5, 9, 11, 13, 15, 16, 18, 19, 20, 22, 24, 25, 30] {
        assert_eq!(leaf_7.edx & 1 << bit, 0, "EDX bit {bit}");
    }
    assert_eq!(ask(&table(), 7, 2), CpuidResult::ZERO);
}

#[test]
fn fast_short_rep_movs_needs_erms() {
    let host = |leaf, subleaf| match (leaf, subleaf) {
        (7, 0) => CpuidResult {
            ebx: !(1 << 9),
            ..host_cpuid(7, 0)
        },
        _ => host_cpuid(leaf, subleaf),
    };
    let table = CpuidTable::build(&host, &guest_cpu_config());
    assert_eq!(ask(&table, 7, 0).edx & 1 << 4, 0);
    assert_ne!(ask(&self::table(), 7, 0).edx & 1 << 4, 0);
}

#[test]
fn protection_keys_need_their_xsave_component() {
    let host = |leaf, subleaf| match (leaf, subleaf) {
        (0xd, 9) => CpuidResult::ZERO,
        _ => host_cpuid(leaf, subleaf),
    };
    let table = CpuidTable::build(&host, &guest_cpu_config());
    assert_eq!(ask(&table, 7, 0).ecx & 1 << 3, 0);
    assert_eq!(table.allowed_xcr0().bits(), 0xe7);
    assert!(!table.allowed_cr4().contains(Cr4::PKE));
}

#[test]
fn without_avx_state_there_are_no_avx_instructions() {
    let config = GuestCpuConfig {
        xcr0: Xcr0::X87 | Xcr0::SSE,
        ..guest_cpu_config()
    };
    let table = CpuidTable::build(&host_cpuid, &config);
    // AVX, FMA, F16C; AVX2 and all of AVX-512; VAES, VPCLMULQDQ.
    assert_eq!(ask(&table, 1, 0).ecx & (1 << 28 | 1 << 12 | 1 << 29), 0);
    assert_eq!(ask(&table, 7, 0).ebx & (1 << 5 | 0xdc23_0000), 0);
    assert_eq!(
        ask(&table, 7, 0).ecx & (1 << 9 | 1 << 10 | 1 << 1 | 1 << 14),
        0
    );
    assert_eq!(ask(&table, 0xd, 0).eax, 3);
    assert_eq!(ask(&table, 0xd, 2), CpuidResult::ZERO);
}

#[test]
fn the_xsave_area_is_as_large_as_its_components_make_it() {
    let table = table();
    let size = |xcr0| {
        let state = State {
            xcr0: Xcr0::from_bits_retain(xcr0),
            ..LONG_MODE
        };
        (table.lookup(0xd, 0, &state), table.lookup(0xd, 1, &state))
    };
    let (standard, compacted) = size(1);
    assert_eq!(
        (standard.eax, standard.ebx, standard.ecx, standard.edx),
        (0x2e7, 576, 0xa88, 0)
    );
    assert_eq!(
        (compacted.eax, compacted.ebx, compacted.ecx, compacted.edx),
        (0xf, 576, 0, 0)
    );
    let (standard, compacted) = size(7);
    assert_eq!((standard.ebx, compacted.ebx), (832, 832));
    let (standard, compacted) = size(0xe7);
    assert_eq!((standard.ebx, compacted.ebx), (0xa80, 2432));
    let (standard, compacted) = size(0x203);
    assert_eq!((standard.ebx, compacted.ebx), (0xa88, 584));
    assert_eq!(
        ask(&table, 0xd, 9),
        CpuidResult {
            eax: 8,
            ebx: 0xa80,
            ecx: 0,
            edx: 0
        }
    );
    assert_eq!(ask(&table, 0xd, 3), CpuidResult::ZERO);
    assert_eq!(ask(&table, 0xd, 8), CpuidResult::ZERO);
    assert_eq!(ask(&table, 0xd, 63), CpuidResult::ZERO);
    assert_eq!(ask(&table, 0xd, u32::MAX), CpuidResult::ZERO);
}

#[test]
fn live_bits_follow_the_registers() {
    let table = table();
    let state = State {
        cr4: Cr4::OSXSAVE | Cr4::PKE,
        apic: false,
        long: false,
        ..LONG_MODE
    };
    assert_ne!(table.lookup(1, 0, &state).ecx & 1 << 27, 0);
    assert_eq!(table.lookup(1, 0, &state).edx & 1 << 9, 0);
    assert_ne!(table.lookup(7, 0, &state).ecx & 1 << 4, 0);
    assert_eq!(table.lookup(7, 1, &state).ecx, 0);
    assert_eq!(table.lookup(0x8000_0001, 0, &state).edx & 1 << 11, 0);
    assert_ne!(ask(&table, 0x8000_0001, 0).edx & 1 << 11, 0);
}

#[test]
fn topology_says_one_package_of_single_threaded_cores() {
    let config = GuestCpuConfig {
        vcpus: 6,
        apic_id: 5,
        ..guest_cpu_config()
    };
    let table = CpuidTable::build(&host_cpuid, &config);
    let leaf_1 = ask(&table, 1, 0);
    assert_eq!(leaf_1.ebx, 5 << 24 | 8 << 16 | 0x0800);
    assert_eq!(
        ask(&table, 0xb, 0),
        CpuidResult {
            eax: 0,
            ebx: 1,
            ecx: 0x100,
            edx: 5
        }
    );
    assert_eq!(
        ask(&table, 0xb, 1),
        CpuidResult {
            eax: 3,
            ebx: 6,
            ecx: 0x201,
            edx: 5
        }
    );
    assert_eq!(
        ask(&table, 0xb, 7),
        CpuidResult {
            eax: 0,
            ebx: 0,
            ecx: 7,
            edx: 5
        }
    );
    // First and second level private, third shared by all; eight core numbers in the package.
    assert_eq!(ask(&table, 4, 0).eax, 0x1c00_0121);
    assert_eq!(ask(&table, 4, 3).eax, 0x1c01_c163);
    assert_eq!(ask(&table, 4, 4), CpuidResult::ZERO);
}

#[test]
fn one_vcpu_has_no_hyper_threading_bit() {
    let config = GuestCpuConfig {
        vcpus: 1,
        ..guest_cpu_config()
    };
    let table = CpuidTable::build(&host_cpuid, &config);
    assert_eq!(ask(&table, 1, 0).edx & 1 << 28, 0);
    assert_eq!(ask(&table, 0xb, 1).eax, 0);
}

#[test]
fn the_hypervisor_leaf_carries_our_signature() {
    let leaf = ask(&table(), 0x4000_0000, 0);
    assert_eq!(leaf.eax, 0x4000_0001);
    let mut name = Vec::new();
    for register in [leaf.ebx, leaf.ecx, leaf.edx] {
        name.extend_from_slice(&register.to_le_bytes());
    }
    assert_eq!(name, b"PlinthPlinth");
    assert_eq!(ask(&table(), 0x4000_0001, 0).eax, 1);
}

#[test]
fn a_leaf_past_the_end_answers_as_the_highest_basic_leaf() {
    let table = table();
    let highest = ask(&table, 0x16, 0);
    assert_eq!(
        highest,
        CpuidResult {
            eax: 3500,
            ebx: 3500,
            ecx: 100,
            edx: 0
        }
    );
    for leaf in [
        0x17,
        0x1f,
        0x3fff_ffff,
        0x4000_0002,
        0x8000_0009,
        0xc000_0000,
        u32::MAX,
    ] {
        assert_eq!(ask(&table, leaf, 0), highest, "{leaf:#x}");
    }
}

#[test]
fn clock_frequencies_are_the_guests() {
    let table = table();
    assert_eq!(
        ask(&table, 0x15, 0),
        CpuidResult {
            eax: 1,
            ebx: 140,
            ecx: 25_000_000,
            edx: 0
        }
    );
    assert_eq!(ask(&table, 0x8000_0007, 0).edx, 1 << 8);
    assert_eq!(ask(&table, 6, 0).eax, 1 << 2);
}

#[test]
fn address_widths_are_those_of_the_host() {
    let table = table();
    // The host shows 5-level paging.
    assert_eq!(ask(&table, 0x8000_0008, 0).eax, 57 << 8 | 46);
    assert_eq!(table.reserved_physical_bits(), 0xffff_c000_0000_0000);
    let config = GuestCpuConfig {
        backing: Backing::empty(),
        ..guest_cpu_config()
    };
    let table = CpuidTable::build(&host_cpuid, &config);
    assert_eq!(ask(&table, 0x8000_0008, 0).eax, 48 << 8 | 46);
    assert!(!table.allowed_cr4().contains(Cr4::LA57));
}

#[test]
fn what_the_backend_lacks_is_hidden() {
    let config = GuestCpuConfig {
        backing: Backing::empty(),
        ..guest_cpu_config()
    };
    let table = CpuidTable::build(&host_cpuid, &config);
    assert_eq!(ask(&table, 7, 0).ebx & (1 << 10 | 1 << 18), 0);
    assert_eq!(ask(&table, 7, 0).ecx & (1 << 22 | 1 << 16), 0);
    assert_eq!(ask(&table, 7, 0).edx & 0x9c00_0000, 0);
    assert_eq!(ask(&table, 1, 0).ecx & 1 << 30, 0);
    assert_eq!(ask(&table, 0x8000_0001, 0).edx & 1 << 27, 0);
    assert_eq!(ask(&table, 0xd, 1).eax & 8, 0);
    assert_eq!(table.allowed_xss(), None);
}
