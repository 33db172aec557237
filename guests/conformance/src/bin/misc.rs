//! `misc`: the instructions that a hypervisor may have to stop and that fit nowhere else.

#![no_std]
#![no_main]

use plinth_guests::cpu::{
    self, cpuid, cr0, cr4, extended, extended_edx, leaf1_ecx, leaf7, leaf7_ecx, msr, rdtsc,
};
use plinth_guests::descriptors::{
    self, KERNEL_DATA, SCRATCH, TSS, TablePointer, gdt_entry, set_gdt_entry,
};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::user::{self, Start};
use plinth_guests::{Report, StartInfo, Vector, fault_of, guest, user_code, x86};

guest!(main);

user_code!(user_rdtsc, "rdtsc");
user_code!(user_rdpmc, "xor ecx, ecx", "rdpmc");
user_code!(user_sgdt, "sgdt [rsp - 32]");
user_code!(user_sidt, "sidt [rsp - 32]");
user_code!(user_sldt, "sldt eax");
user_code!(user_str, "str eax");
user_code!(user_smsw, "smsw eax");
user_code!(user_lgdt, "lgdt [rsp - 32]");
user_code!(user_invd, "invd");
user_code!(user_wbinvd, "wbinvd");
user_code!(user_xsetbv, "xor ecx, ecx", "xgetbv", "xsetbv");
user_code!(user_invlpg, "invlpg [rsp]");
user_code!(
    user_monitor,
    "mov rax, rsp",
    "xor ecx, ecx",
    "xor edx, edx",
    "monitor"
);
user_code!(user_lmsw, "lmsw ax");
user_code!(user_clts, "clts");
user_code!(user_mov_dr, "mov rax, dr7");

fn main(report: &mut Report, _: StartInfo) {
    caches(report);
    waiting(report);
    counters(report);
    tables(report);
    machine_status(report);
    ring_3(report);
}

fn caches(report: &mut Report) {
    report.case("wbinvd-and-invd-keep-memory", |case| {
        let mut words = [0u64; 64];
        for (index, word) in words.iter_mut().enumerate() {
            *word = index as u64 * 0x0101_0101;
        }
        x86!("wbinvd");
        case.ensure(
            (0..64).all(|index| words[index] == index as u64 * 0x0101_0101),
            "WBINVD lost memory",
        );
        if cpu::is_plinth() {
            // On a real machine INVD throws away what is not written back; a guest's must not.
            words[5] = 0x5555;
            x86!("invd");
            case.equal("the word after INVD", words[5], 0x5555);
        }
    });
    report.case("wbnoinvd-or-wbinvd", |case| {
        // With the feature it is WBNOINVD, without it WBINVD with a prefix that is ignored.
        case.runs("WBNOINVD", fault_of!(".byte 0xf3, 0x0f, 0x09"));
    });
    report.case("invlpg-takes-any-address", |case| {
        case.runs(
            "a mapped address",
            fault_of!("invlpg [{}]", in(reg) 0x10_0000u64),
        );
        case.runs(
            "an unmapped address",
            fault_of!("invlpg [{}]", in(reg) 0x7f00_0000_0000u64),
        );
        case.runs(
            "a non-canonical address",
            fault_of!("invlpg [{}]", in(reg) 0x8000_0000_0000_0000u64),
        );
    });
}

fn woken(_: &mut Frame) {
    cpu::outb(0x20, 0x20);
}

/// Lets channel 0 of the PIT interrupt once in some milliseconds; false if no PIC answers.
fn arm_wake_up() -> bool {
    cpu::outb(0x21, 0x5a);
    if cpu::inb(0x21) != 0x5a {
        return false;
    }
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xfe),
        (0xa1, 0xff),
        (0x43, 0x30),
        (0x40, 0),
        (0x40, 0x20),
    ] {
        cpu::outb(port, value);
    }
    set_handler(0x20, Some(woken));
    true
}

fn disarm_wake_up() {
    set_handler(0x20, None);
    cpu::outb(0x21, 0xff);
}

fn waiting(report: &mut Report) {
    report.case("pause-runs-a-million-times", |case| {
        let before = rdtsc();
        for _ in 0..1_000_000 {
            x86!("pause");
        }
        case.ensure(rdtsc() > before, "no time passed");
    });
    report.case("monitor-and-mwait-as-shown", |case| {
        let mut line = [0u64; 8];
        let address = line.as_mut_ptr();
        let shown = cpuid(1, 0).ecx & leaf1_ecx::MONITOR != 0;
        let monitor = fault_of!("monitor", in("rax") address, in("ecx") 0, in("edx") 0);
        if !shown {
            case.faults("MONITOR", monitor, Vector::InvalidOpcode, 0);
            case.faults(
                "MWAIT",
                fault_of!("mwait", in("eax") 0, in("ecx") 0),
                Vector::InvalidOpcode,
                0,
            );
            return;
        }
        case.runs("MONITOR", monitor);
        let bad = fault_of!("monitor", in("rax") address, in("ecx") 1, in("edx") 0);
        case.faults("MONITOR with extensions", bad, Vector::GeneralProtection, 0);
        // An interrupt ends the wait in any case, so that a lost store cannot hang the guest.
        if !arm_wake_up() {
            return case.skip("no PIC answers at 0x20, and nothing else would end MWAIT");
        }
        let count: u64;
        x86!(
            "monitor", "mov qword ptr [rax], 2", "sti", "mwait", "inc {0}", "cli",
            inout(reg) 6u64 => count, in("rax") address, in("ecx") 0, in("edx") 0,
        );
        case.equal("what ran after MWAIT", count, 7);
        disarm_wake_up();
    });
    report.case("hlt-is-woken-by-an-interrupt", |case| {
        if !arm_wake_up() {
            return case.skip("no PIC answers at 0x20");
        }
        let count: u64;
        x86!("sti", "hlt", "inc {0}", "cli", inout(reg) 6u64 => count);
        disarm_wake_up();
        case.equal("what ran after HLT", count, 7);
    });
}

fn counters(report: &mut Report) {
    report.case("rdtsc-obeys-tsd-in-ring-3-only", |case| {
        let original = cpu::read_cr4();
        cpu::write_cr4(original | cr4::TSD);
        let kernel = fault_of!("rdtsc", out("eax") _, out("edx") _);
        let outcome = user::run(user_rdtsc(), Start::default());
        cpu::write_cr4(original & !cr4::TSD);
        let free = user::run(user_rdtsc(), Start::default());
        cpu::write_cr4(original);
        case.runs("ring 0 with TSD", kernel);
        case.faults("ring 3 with TSD", outcome, Vector::GeneralProtection, 0);
        case.runs("ring 3 without TSD", free);
    });
    report.case("rdtsc-clears-the-upper-halves", |case| {
        let (rax, rdx): (u64, u64);
        x86!("rdtsc", inout("rax") !0u64 => rax, inout("rdx") !0u64 => rdx);
        case.equal("the upper halves", (rax | rdx) >> 32, 0);
    });
    report.case("rdtscp-is-ordered-with-rdtsc", |case| {
        if extended().edx & extended_edx::RDTSCP == 0 {
            return case.skip("no RDTSCP");
        }
        let mut last = 0;
        for _ in 0..100 {
            let (low, high): (u32, u32);
            x86!("rdtscp", out("eax") low, out("edx") high, out("ecx") _);
            let now = u64::from(high) << 32 | u64::from(low);
            case.ensure(now >= last, "RDTSCP is behind RDTSC");
            last = rdtsc();
            case.ensure(last >= now, "RDTSC is behind RDTSCP");
        }
    });
    report.case("rdpmc-as-shown", |case| {
        let counters = if cpuid(0, 0).eax < 0xa {
            0
        } else {
            cpuid(0xa, 0).eax >> 8 & 0xff
        };
        let outcome = fault_of!("rdpmc", in("ecx") 0x3fff, out("eax") _, out("edx") _);
        case.faults(
            "RDPMC of a counter that is not there",
            outcome,
            Vector::GeneralProtection,
            0,
        );
        let outcome = fault_of!("rdpmc", in("ecx") 0, out("eax") _, out("edx") _);
        if counters == 0 && cpu::is_plinth() {
            case.faults(
                "RDPMC where no counter is shown",
                outcome,
                Vector::GeneralProtection,
                0,
            );
        } else if cpu::is_plinth() {
            case.runs("RDPMC", outcome);
        }
    });
}

fn tables(report: &mut Report) {
    report.case("sgdt-and-sidt-return-what-was-loaded", |case| {
        let (mut gdt, mut idt) = (TablePointer::default(), TablePointer::default());
        x86!("sgdt [{}]", "sidt [{}]", in(reg) &raw mut gdt, in(reg) &raw mut idt);
        case.ensure(
            gdt == descriptors::gdt_pointer(),
            "SGDT returns another table",
        );
        case.ensure(
            idt == descriptors::idt_pointer(),
            "SIDT returns another table",
        );
        let other = TablePointer {
            limit: 0x123,
            base: 0xffff_8000_1234_5678,
        };
        x86!("lidt [{0}]", "sidt [{1}]", in(reg) &raw const other, in(reg) &raw mut idt);
        descriptors::restore();
        case.ensure(idt == other, "LIDT and SIDT do not agree");
    });
    report.case("lgdt-refuses-a-non-canonical-base", |case| {
        let bad = TablePointer {
            limit: 0xff,
            base: 0x8000_0000_0000_0000,
        };
        case.faults(
            "LGDT",
            fault_of!("lgdt [{}]", in(reg) &raw const bad),
            Vector::GeneralProtection,
            0,
        );
        case.faults(
            "LIDT",
            fault_of!("lidt [{}]", in(reg) &raw const bad),
            Vector::GeneralProtection,
            0,
        );
    });
    report.case("str-and-ltr", |case| {
        let selector: u64;
        x86!("str {}", out(reg) selector);
        case.equal("TR", selector, u64::from(TSS));
        case.equal(
            "the type of the loaded TSS",
            gdt_entry(TSS) >> 40 & 0x1f,
            0xb,
        );
        case.faults(
            "LTR of null",
            fault_of!("ltr {:x}", in(reg) 0u16),
            Vector::GeneralProtection,
            0,
        );
        let data = fault_of!("ltr {:x}", in(reg) KERNEL_DATA);
        case.faults(
            "LTR of data",
            data,
            Vector::GeneralProtection,
            u32::from(KERNEL_DATA),
        );
        set_gdt_entry(TSS, gdt_entry(TSS) & !(2 << 40) & !(1 << 47));
        let absent = fault_of!("ltr {:x}", in(reg) TSS);
        descriptors::restore();
        case.faults(
            "LTR of an absent TSS",
            absent,
            Vector::SegmentNotPresent,
            u32::from(TSS),
        );
    });
    report.case("sldt-and-lldt", |case| {
        let selector: u64;
        x86!("sldt {}", out(reg) selector);
        case.equal("LDTR", selector, 0);
        let mut table = [0u64, 0x00cf_9300_0000_ffff];
        let base = table.as_mut_ptr() as u64;
        set_gdt_entry(
            SCRATCH,
            descriptors::segment_descriptor(descriptors::kind::LDT, base, 15),
        );
        set_gdt_entry(SCRATCH + 8, base >> 32);
        let loaded = fault_of!("lldt {:x}", in(reg) SCRATCH);
        let used = fault_of!("mov es, {:e}", in(reg) 0xcu32);
        let beyond = fault_of!("mov es, {:e}", in(reg) 0x14u32);
        let selector: u64;
        x86!("sldt {}", out(reg) selector);
        x86!("mov es, {:e}", "lldt {:x}", in(reg) u32::from(KERNEL_DATA), in(reg) 0u16);
        case.runs("LLDT", loaded);
        case.runs("a selector of the LDT", used);
        case.faults(
            "a selector beyond the LDT",
            beyond,
            Vector::GeneralProtection,
            0x14,
        );
        case.equal("LDTR while loaded", selector, u64::from(SCRATCH));
        let data = fault_of!("lldt {:x}", in(reg) KERNEL_DATA);
        case.faults(
            "LLDT of data",
            data,
            Vector::GeneralProtection,
            u32::from(KERNEL_DATA),
        );
    });
    report.case("lar-lsl-verr-verw", |case| {
        let (access, limit): (u64, u64);
        let (lar, lsl, null): (u8, u8, u8);
        x86!(
            "lar {0:e}, {2:e}", "setz {3}", "lsl {1:e}, {2:e}", "setz {4}", "xor {2:e}, {2:e}", "lar {2:e}, {2:e}", "setz {5}",
            out(reg) access, out(reg) limit, inout(reg) u64::from(KERNEL_DATA) => _,
            out(reg_byte) lar, out(reg_byte) lsl, out(reg_byte) null,
        );
        case.equal("LAR's success", lar, 1);
        case.equal("the access rights", access & 0xff_fe00, 0xcf_9200);
        case.equal("LSL's success", lsl, 1);
        case.equal("the limit", limit, 0xffff_ffff);
        case.equal("LAR of null", null, 0);
        let (readable, writable): (u8, u8);
        x86!(
            "verr {2:x}", "setz {0}", "verw {3:x}", "setz {1}",
            out(reg_byte) readable, out(reg_byte) writable, in(reg) KERNEL_DATA, in(reg) descriptors::KERNEL_CODE,
        );
        case.equal("VERR of data", readable, 1);
        case.equal("VERW of code", writable, 0);
    });
    report.case("segment-bases-of-fs-and-gs", |case| {
        set_gdt_entry(SCRATCH + 16, 0x12cf_9334_5678_ffff);
        x86!("mov fs, {:e}", in(reg) u32::from(SCRATCH + 16));
        let loaded = cpu::rdmsr(msr::IA32_FS_BASE);
        x86!("mov fs, {:e}", in(reg) 0);
        case.equal("FS_BASE after the load", loaded, 0x1234_5678);
    });
}

fn machine_status(report: &mut Report) {
    report.case("smsw-lmsw-and-clts", |case| {
        let original = cpu::read_cr0();
        let smsw: u64;
        x86!("smsw {}", out(reg) smsw);
        case.equal("SMSW", smsw & 0xffff_ffff, original & 0xffff_ffff);
        // LMSW writes the lowest four bits, and cannot clear PE.
        x86!("lmsw {:x}", in(reg) (original as u16 & 0xf) | 0x8);
        case.equal("CR0 after LMSW set TS", cpu::read_cr0(), original | cr0::TS);
        x86!("lmsw {:x}", in(reg) 0u16);
        case.equal("CR0 after LMSW of 0", cpu::read_cr0(), original & !0xe);
        cpu::write_cr0(original | cr0::TS);
        x86!("clts");
        case.equal("CR0 after CLTS", cpu::read_cr0(), original & !cr0::TS);
        let mut word = 0u16;
        x86!("smsw [{}]", in(reg) &raw mut word);
        case.equal(
            "SMSW to memory",
            u64::from(word),
            original & !cr0::TS & 0xffff,
        );
        let from_memory = original as u16 | 0x8;
        x86!("lmsw [{}]", in(reg) &raw const from_memory);
        case.equal(
            "CR0 after LMSW from memory",
            cpu::read_cr0(),
            original | cr0::TS,
        );
        cpu::write_cr0(original);
    });
    report.case("fsgsbase-as-enabled", |case| {
        if leaf7().ebx & cpu::leaf7_ebx::FSGSBASE == 0 {
            return case.skip("no FSGSBASE");
        }
        let original = cpu::read_cr4();
        cpu::write_cr4(original & !cr4::FSGSBASE);
        let without = fault_of!("rdfsbase {}", out(reg) _);
        cpu::write_cr4(original | cr4::FSGSBASE);
        let with = fault_of!("wrfsbase {}", in(reg) 0x7777_0000u64);
        let bad = fault_of!("wrgsbase {}", in(reg) 0x8000_0000_0000_0000u64);
        cpu::write_cr4(original);
        case.faults(
            "RDFSBASE without its bit",
            without,
            Vector::InvalidOpcode,
            0,
        );
        case.runs("WRFSBASE", with);
        case.equal("FS_BASE", cpu::rdmsr(msr::IA32_FS_BASE), 0x7777_0000);
        case.faults(
            "WRGSBASE of a non-canonical address",
            bad,
            Vector::GeneralProtection,
            0,
        );
        cpu::wrmsr(msr::IA32_FS_BASE, 0);
    });
    report.case("xsetbv-of-the-same-value", |case| {
        if cpuid(1, 0).ecx & leaf1_ecx::XSAVE == 0 {
            return case.skip("no XSAVE");
        }
        let value = cpu::xcr0();
        case.runs("XSETBV", cpu::try_xsetbv(0, value));
        case.equal("XCR0", cpu::xcr0(), value);
    });
}

fn ring_3(report: &mut Report) {
    let run = |code| user::run(code, Start::default());
    report.case("ring-3-may-not", |case| {
        let mut privileged = |name, code| {
            case.faults(name, run(code), Vector::GeneralProtection, 0);
        };
        privileged("LGDT", user_lgdt());
        privileged("INVD", user_invd());
        privileged("WBINVD", user_wbinvd());
        privileged("INVLPG", user_invlpg());
        privileged("LMSW", user_lmsw());
        privileged("CLTS", user_clts());
        privileged("MOV from DR7", user_mov_dr());
        if cpuid(1, 0).ecx & leaf1_ecx::XSAVE != 0 {
            privileged("XSETBV", user_xsetbv());
        }
        case.faults("MONITOR", run(user_monitor()), Vector::InvalidOpcode, 0);
        let original = cpu::read_cr4();
        cpu::write_cr4(original & !cr4::PCE);
        case.faults(
            "RDPMC without PCE",
            run(user_rdpmc()),
            Vector::GeneralProtection,
            0,
        );
        cpu::write_cr4(original);
    });
    report.case("umip", |case| {
        type Code = fn() -> &'static [u8];
        let stores: [(&str, Code); 5] = [
            ("SGDT", user_sgdt),
            ("SIDT", user_sidt),
            ("SLDT", user_sldt),
            ("STR", user_str),
            ("SMSW", user_smsw),
        ];
        for (name, code) in stores {
            case.runs(name, run(code()));
        }
        if leaf7().ecx & leaf7_ecx::UMIP == 0 {
            return;
        }
        let original = cpu::read_cr4();
        cpu::write_cr4(original | cr4::UMIP);
        let outcomes = stores.map(|(name, code)| (name, run(code())));
        cpu::write_cr4(original);
        for (name, outcome) in outcomes {
            case.faults(name, outcome, Vector::GeneralProtection, 0);
        }
    });
}
