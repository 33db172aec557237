//! `paging`: page tables as the processor walks them. Sizes, permissions, accessed and dirty bits, and what a
//! change of the tables needs to be seen.

#![no_std]
#![no_main]

mod keys;
mod permissions;

use plinth_guests::cpu::{self, cr4, extended, extended_edx, leaf1_ecx, leaf7, leaf7_ebx};
use plinth_guests::paging::{self, PageSize, entry, invlpg, new_frame, peek, poke};
use plinth_guests::{Case, Report, StartInfo, Vector, fault_of, guest, probe, user_code, x86};

guest!(main);

/// Where the cases map their pages.
const AREA: u64 = 0x90_0000_0000;
/// 2 MiB pages of RAM that nothing else uses; all machines that run this have 8 MiB.
const LARGE: u64 = 0x40_0000;
const KERNEL: u64 = entry::P | entry::RW;
const USER: u64 = KERNEL | entry::US;

user_code!(user_read, "mov rax, [rdx]");
user_code!(user_write, "mov [rdx], rax");
user_code!(user_jump, "call rdx");

fn main(report: &mut Report, _: StartInfo) {
    sizes(report);
    accessed_and_dirty(report);
    stale(report);
    permissions::all(report);
    permissions::supervisor(report);
    reserved(report);
    identifiers(report);
}

/// Maps a new frame at an address and returns (entry, frame).
fn fresh(address: u64, flags: u64) -> (u64, u64) {
    let frame = new_frame();
    (paging::map(address, frame, PageSize::Size4K, flags), frame)
}

fn sizes(report: &mut Report) {
    report.case("4-kib-pages", |case| {
        let (_, frame) = fresh(AREA, KERNEL);
        poke(AREA + 0x10, 0x1234);
        case.equal("the frame", peek(frame + 0x10), 0x1234);
        poke(frame + 0x20, 0x5678);
        case.equal("the page", peek(AREA + 0x20), 0x5678);
    });
    report.case("2-mib-pages", |case| {
        paging::map(AREA + 0x4000_0000, LARGE, PageSize::Size2M, KERNEL);
        poke(LARGE + 0x1f_fff8, 0x4321);
        case.equal(
            "the end of the page",
            peek(AREA + 0x4000_0000 + 0x1f_fff8),
            0x4321,
        );
        poke(AREA + 0x4000_0000, 0x8765);
        case.equal("the start of the page", peek(LARGE), 0x8765);
        let outcome = probe(|| {
            peek(AREA + 0x4020_0000);
        });
        case.faults("the page behind it", outcome, Vector::PageFault, 0);
    });
    report.case("1-gib-pages", |case| {
        let address = AREA + 0x8000_0000;
        poke(LARGE + 0x18, 0x9999);
        paging::map(address, 0, PageSize::Size1G, KERNEL);
        let outcome = probe(|| {
            peek(address + LARGE + 0x18);
        });
        if extended().edx & extended_edx::PAGE_1G == 0 {
            case.faults(
                "a 1 GiB page where CPUID shows none",
                outcome,
                Vector::PageFault,
                9,
            );
        } else if case.runs("a read", outcome).is_some() {
            case.equal("the word", peek(address + LARGE + 0x18), 0x9999);
        }
    });
    report.case("two-names-of-one-frame", |case| {
        let (_, frame) = fresh(AREA + 0x2000, KERNEL);
        paging::map(AREA + 0x3000, frame, PageSize::Size4K, KERNEL);
        for value in 0..100 {
            poke(AREA + 0x2008, value);
            case.equal("the other name", peek(AREA + 0x3008), value);
        }
    });
    report.case("code-written-through-another-name-runs", |case| {
        let (_, frame) = fresh(AREA + 0x4000, entry::P);
        for value in 1..20u32 {
            // mov eax, value; ret
            poke(frame, 0xb8 | u64::from(value) << 8 | 0xc3 << 40);
            let eax: u32;
            x86!("call {}", in(reg) AREA + 0x4000, out("eax") eax);
            case.equal("EAX", eax, value);
        }
    });
}

fn accessed_and_dirty(report: &mut Report) {
    let bits = |slot: u64| peek(slot) & (entry::A | entry::D);
    report.case("accessed-and-dirty-bits", |case| {
        let (slot, _) = fresh(AREA + 0x5000, KERNEL);
        case.equal("a fresh entry", bits(slot), 0);
        peek(AREA + 0x5000);
        case.equal("after a read", bits(slot), entry::A);
        poke(AREA + 0x5000, 1);
        case.equal("after a write", bits(slot), entry::A | entry::D);
        poke(slot, peek(slot) & !(entry::A | entry::D));
        invlpg(AREA + 0x5000);
        poke(AREA + 0x5008, 1);
        case.equal(
            "after they were cleared and a write",
            bits(slot),
            entry::A | entry::D,
        );
    });
    report.case("dirty-after-a-read-needs-a-new-walk", |case| {
        // The translation was cached by the read: the write must set the dirty bit all the same.
        let (slot, _) = fresh(AREA + 0x6000, KERNEL);
        for _ in 0..10 {
            peek(AREA + 0x6000);
        }
        case.equal("after ten reads", bits(slot), entry::A);
        poke(AREA + 0x6000, 1);
        case.equal("after a write", bits(slot), entry::A | entry::D);
    });
    report.case("upper-levels-have-accessed-bits", |case| {
        let slot = paging::entry_address(AREA + 0x5000, PageSize::Size2M);
        poke(slot, peek(slot) & !entry::A);
        paging::reload_cr3();
        peek(AREA + 0x5000);
        case.equal(
            "the accessed bit of level 2",
            peek(slot) & entry::A,
            entry::A,
        );
    });
    report.case("large-pages-have-both-bits", |case| {
        let address = AREA + 0x4040_0000;
        let slot = paging::map(address, LARGE, PageSize::Size2M, KERNEL);
        peek(address + 0x12_3450);
        case.equal("after a read", bits(slot), entry::A);
        poke(address + 0x1f_0000, 1);
        case.equal("after a write", bits(slot), entry::A | entry::D);
    });
    report.case("string-port-input-makes-dirty", |case| {
        let (slot, _) = fresh(AREA + 0x7000, KERNEL);
        x86!("rep insb", in("dx") 0x9990u16, inout("rdi") AREA + 0x7000 => _, inout("rcx") 4u64 => _);
        case.equal("after INS", bits(slot), entry::A | entry::D);
        let (slot, _) = fresh(AREA + 0x8000, KERNEL);
        x86!("rep outsb", in("dx") 0x9990u16, inout("rsi") AREA + 0x8000 => _, inout("rcx") 4u64 => _);
        case.equal("after OUTS", bits(slot), entry::A);
    });
    report.case("failed-access-is-not-dirty", |case| {
        let (slot, _) = fresh(AREA + 0x9000, entry::P);
        let outcome = probe(|| poke(AREA + 0x9000, 1));
        case.faults("a write to a read-only page", outcome, Vector::PageFault, 3);
        case.equal("the dirty bit", bits(slot) & entry::D, 0);
    });
}

fn stale(report: &mut Report) {
    let address = AREA + 0xa000;
    let frames = [new_frame(), new_frame()];
    poke(frames[0], 0xaaaa);
    poke(frames[1], 0xbbbb);
    let slot = paging::map(address, frames[0], PageSize::Size4K, KERNEL);
    let switches = |case: &mut Case, flags: u64, flush: fn(u64)| {
        for round in 0..200 {
            let index = round & 1;
            poke(slot, frames[index] | KERNEL | flags);
            flush(address);
            case.equal(
                "the word",
                peek(address),
                if index == 0 { 0xaaaa } else { 0xbbbb },
            );
        }
    };
    report.case("invlpg-shows-the-new-page", |case| {
        switches(case, 0, invlpg)
    });
    report.case("cr3-reload-shows-the-new-page", |case| {
        switches(case, 0, |_| paging::reload_cr3())
    });
    report.case("invlpg-drops-global-pages", |case| {
        cpu::write_cr4(cpu::read_cr4() | cr4::PGE);
        switches(case, entry::G, invlpg);
        cpu::write_cr4(cpu::read_cr4() & !cr4::PGE);
    });
    report.case("pge-switch-drops-global-pages", |case| {
        switches(case, entry::G, |_| {
            let original = cpu::read_cr4();
            cpu::write_cr4(original | cr4::PGE);
            cpu::write_cr4(original & !cr4::PGE);
            cpu::write_cr4(original);
        });
    });
    report.case("unmapped-page-is-gone", |case| {
        for _ in 0..50 {
            poke(slot, frames[0] | KERNEL);
            invlpg(address);
            peek(address);
            poke(slot, 0);
            invlpg(address);
            let outcome = probe(|| {
                peek(address);
            });
            case.faults("a read", outcome, Vector::PageFault, 0);
        }
    });
    report.case("absent-entries-are-not-cached", |case| {
        poke(slot, 0);
        invlpg(address);
        let outcome = probe(|| {
            peek(address);
        });
        case.faults("a read", outcome, Vector::PageFault, 0);
        poke(slot, frames[1] | KERNEL);
        case.equal("the word, without INVLPG", peek(address), 0xbbbb);
    });
    report.case("another-top-table", |case| {
        let (other, original) = (new_frame(), paging::root());
        for index in 0..512 {
            poke(other + index * 8, peek(original + index * 8));
        }
        // Only the other table lacks the area.
        poke(other + (AREA >> 39) * 8, 0);
        poke(slot, frames[0] | KERNEL);
        invlpg(address);
        for _ in 0..20 {
            cpu::write_cr3(other);
            let outcome = probe(|| {
                peek(address);
            });
            cpu::write_cr3(original);
            case.faults("a read in the other space", outcome, Vector::PageFault, 0);
            case.equal("the word in this space", peek(address), 0xaaaa);
        }
    });
}

fn reserved(report: &mut Report) {
    report.case("reserved-physical-address-bits", |case| {
        let width = cpu::physical_address_bits();
        if width > 51 {
            return case.skip("all physical address bits exist");
        }
        let (slot, frame) = fresh(AREA + 0x20_4000, KERNEL);
        for bit in [width, 51] {
            poke(slot, frame | KERNEL | 1 << bit);
            invlpg(AREA + 0x20_4000);
            let outcome = probe(|| {
                peek(AREA + 0x20_4000);
            });
            case.faults("a read", outcome, Vector::PageFault, 9);
            let outcome = probe(|| poke(AREA + 0x20_4000, 1));
            case.faults("a write", outcome, Vector::PageFault, 0xb);
        }
        poke(slot, frame | KERNEL);
        invlpg(AREA + 0x20_4000);
    });
    report.case("reserved-bits-of-a-large-page", |case| {
        let address = AREA + 0x4060_0000;
        paging::map(address, LARGE | 1 << 13, PageSize::Size2M, KERNEL);
        let outcome = probe(|| {
            peek(address);
        });
        case.faults("a read", outcome, Vector::PageFault, 9);
    });
    report.case("ignored-bits-are-free", |case| {
        let (slot, _) = fresh(
            AREA + 0x20_5000,
            KERNEL | 0x7ff << 52 & !(0xf << 59) | 7 << 9,
        );
        case.runs(
            "a read",
            probe(|| {
                peek(AREA + 0x20_5000);
            }),
        );
        case.equal("the ignored bits", peek(slot) >> 52 & 0x7f, 0x7f);
    });
    report.case("cr3-reserved-bits-fault", |case| {
        let original = cpu::read_cr3();
        for bit in [cpu::physical_address_bits(), 52, 60]
            .into_iter()
            .filter(|bit| *bit < 61)
        {
            case.faults(
                "CR3",
                cpu::try_write_cr3(original | 1 << bit),
                Vector::GeneralProtection,
                0,
            );
            case.equal("CR3", cpu::read_cr3(), original);
        }
    });
}

fn identifiers(report: &mut Report) {
    report.case("pcid", |case| {
        if cpu::cpuid(1, 0).ecx & leaf1_ecx::PCID == 0 {
            return case.skip("no PCIDs");
        }
        let (cr3, cr4_before) = (cpu::read_cr3(), cpu::read_cr4());
        case.faults(
            "CR3 bit 63 without PCIDE",
            cpu::try_write_cr3(cr3 | 1 << 63),
            Vector::GeneralProtection,
            0,
        );
        cpu::write_cr3(cr3 | 0x18);
        let with_bits = cpu::try_write_cr4(cr4_before | cr4::PCIDE);
        cpu::write_cr3(cr3);
        case.faults(
            "PCIDE with bits of a PCID in CR3",
            with_bits,
            Vector::GeneralProtection,
            0,
        );
        if case
            .runs("PCIDE", cpu::try_write_cr4(cr4_before | cr4::PCIDE))
            .is_none()
        {
            return;
        }
        let (slot, frame) = fresh(AREA + 0x20_6000, KERNEL);
        let other = new_frame();
        poke(frame, 0x111);
        poke(other, 0x222);
        for round in 0..100u64 {
            let wanted = if round & 1 == 0 { frame } else { other };
            poke(slot, wanted | KERNEL);
            // A CR3 write without bit 63 drops this PCID's translations.
            cpu::write_cr3(cr3 | (1 + round % 5));
            case.equal("the word after CR3", peek(AREA + 0x20_6000), peek(wanted));
        }
        cpu::write_cr3(cr3 | 2);
        cpu::write_cr3(cr3 | 3 | 1 << 63);
        case.equal("CR3 without its bit 63", cpu::read_cr3(), cr3 | 3);
        if leaf7().ebx & leaf7_ebx::INVPCID != 0 {
            for (round, kind) in [0u64, 1, 2, 3].into_iter().cycle().take(40).enumerate() {
                let wanted = if round & 1 == 0 { frame } else { other };
                poke(slot, wanted | KERNEL);
                let descriptor = [3u64, AREA + 0x20_6000];
                case.runs(
                    "INVPCID",
                    fault_of!("invpcid {}, [{}]", in(reg) kind, in(reg) &raw const descriptor),
                );
                case.equal(
                    "the word after INVPCID",
                    peek(AREA + 0x20_6000),
                    peek(wanted),
                );
            }
            let descriptor = [0x1_0000u64, 0];
            let outcome =
                fault_of!("invpcid {}, [{}]", in(reg) 1u64, in(reg) &raw const descriptor);
            case.faults(
                "INVPCID with a PCID of 17 bits",
                outcome,
                Vector::GeneralProtection,
                0,
            );
            let outcome =
                fault_of!("invpcid {}, [{}]", in(reg) 4u64, in(reg) &raw const descriptor);
            case.faults("INVPCID of type 4", outcome, Vector::GeneralProtection, 0);
        }
        cpu::write_cr3(cr3);
        cpu::write_cr4(cr4_before);
    });
}
