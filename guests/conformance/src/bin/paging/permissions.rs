//! Who may do what with a page: write protection, no execution, ring 3, and what keeps ring 0 from the pages of ring 3.

use plinth_guests::cpu::{self, cr0, cr4, efer, extended, extended_edx, leaf7, leaf7_ebx, msr};
use plinth_guests::paging::{self, PageSize, entry, invlpg, peek, poke};
use plinth_guests::user::{self, Start};
use plinth_guests::{Report, Vector, fault_of, probe};

use crate::{AREA, KERNEL, USER, fresh, keys, user_jump, user_read, user_write};

pub(crate) fn all(report: &mut Report) {
    report.case("write-protection-follows-cr0-wp", |case| {
        let (_, frame) = fresh(AREA + 0xb000, entry::P);
        let original = cpu::read_cr0();
        let protected = probe(|| poke(AREA + 0xb000, 1));
        cpu::write_cr0(original & !cr0::WP);
        let free = probe(|| poke(AREA + 0xb000, 2));
        cpu::write_cr0(original);
        let again = probe(|| poke(AREA + 0xb000, 3));
        case.faults("a write with WP", protected, Vector::PageFault, 3);
        case.runs("a write without WP", free);
        case.faults("a write with WP again", again, Vector::PageFault, 3);
        case.equal("the word", peek(frame), 2);
    });
    report.case("no-execute", |case| {
        if extended().edx & extended_edx::NX == 0 {
            return case.skip("no NX");
        }
        let (slot, frame) = fresh(AREA + 0xc000, KERNEL | entry::XD);
        poke(frame, 0xc3);
        let call = || fault_of!("call {}", in(reg) AREA + 0xc000);
        let fault = case.faults("a call", call(), Vector::PageFault, 0x11);
        case.equal("CR2", fault.cr2, AREA + 0xc000);
        poke(slot, frame | KERNEL);
        invlpg(AREA + 0xc000);
        case.runs("a call without XD", call());
        // The bit of an upper level counts for all below it.
        let upper = paging::entry_address(AREA + 0xc000, PageSize::Size2M);
        poke(upper, peek(upper) | entry::XD);
        invlpg(AREA + 0xc000);
        let outcome = call();
        poke(upper, peek(upper) & !entry::XD);
        invlpg(AREA + 0xc000);
        case.faults(
            "a call with XD at level 2",
            outcome,
            Vector::PageFault,
            0x11,
        );
    });
    report.case("xd-is-reserved-without-nxe", |case| {
        if extended().edx & extended_edx::NX == 0 {
            return case.skip("no NX");
        }
        fresh(AREA + 0xd000, KERNEL | entry::XD);
        let original = cpu::rdmsr(msr::IA32_EFER);
        cpu::wrmsr(msr::IA32_EFER, original & !efer::NXE);
        let outcome = probe(|| {
            peek(AREA + 0xd000);
        });
        cpu::wrmsr(msr::IA32_EFER, original);
        case.faults("a read", outcome, Vector::PageFault, 9);
    });
    report.case("ring-3-permissions", |case| {
        let at = |address: u64| Start {
            registers: [0, address, 0],
            ..Start::default()
        };
        fresh(AREA + 0xe000, KERNEL);
        let (read_only, _) = fresh(AREA + 0xf000, entry::P | entry::US);
        case.faults(
            "a read of ring 0's page",
            user::run(user_read(), at(AREA + 0xe000)),
            Vector::PageFault,
            5,
        );
        case.faults(
            "a write to ring 0's page",
            user::run(user_write(), at(AREA + 0xe000)),
            Vector::PageFault,
            7,
        );
        case.runs(
            "a read of a user page",
            user::run(user_read(), at(AREA + 0xf000)),
        );
        case.faults(
            "a write to a read-only page",
            user::run(user_write(), at(AREA + 0xf000)),
            Vector::PageFault,
            7,
        );
        case.faults(
            "a read of no page",
            user::run(user_read(), at(AREA + 0xf_f000)),
            Vector::PageFault,
            4,
        );
        if extended().edx & extended_edx::NX != 0 {
            poke(read_only, peek(read_only) | entry::XD);
            invlpg(AREA + 0xf000);
            case.faults(
                "a jump to data",
                user::run(user_jump(), at(AREA + 0xf000)),
                Vector::PageFault,
                0x15,
            );
        }
    });
    report.case("upper-levels-restrict-too", |case| {
        fresh(AREA + 0x20_0000, USER);
        let upper = paging::entry_address(AREA + 0x20_0000, PageSize::Size2M);
        let original = peek(upper);
        poke(upper, original & !entry::RW);
        invlpg(AREA + 0x20_0000);
        let outcome = probe(|| poke(AREA + 0x20_0000, 1));
        case.faults(
            "a write below a read-only table",
            outcome,
            Vector::PageFault,
            3,
        );
        poke(upper, original & !entry::US);
        invlpg(AREA + 0x20_0000);
        let at = Start {
            registers: [0, AREA + 0x20_0000, 0],
            ..Start::default()
        };
        case.faults(
            "ring 3 below ring 0's table",
            user::run(user_read(), at),
            Vector::PageFault,
            5,
        );
        poke(upper, original);
        invlpg(AREA + 0x20_0000);
    });
}

pub(crate) fn supervisor(report: &mut Report) {
    report.case("smep", |case| {
        if leaf7().ebx & leaf7_ebx::SMEP == 0 {
            return case.skip("no SMEP");
        }
        let (_, frame) = fresh(AREA + 0x20_1000, USER);
        poke(frame, 0xc3);
        let call = || fault_of!("call {}", in(reg) AREA + 0x20_1000);
        let original = cpu::read_cr4();
        let before = call();
        cpu::write_cr4(original | cr4::SMEP);
        let with = call();
        cpu::write_cr4(original);
        let after = call();
        case.runs("a call without SMEP", before);
        case.faults("a call with SMEP", with, Vector::PageFault, 0x11);
        case.runs("a call without SMEP again", after);
    });
    report.case("smap", |case| {
        if leaf7().ebx & leaf7_ebx::SMAP == 0 {
            return case.skip("no SMAP");
        }
        fresh(AREA + 0x20_2000, USER);
        let address = AREA + 0x20_2000;
        let original = cpu::read_cr4();
        cpu::write_cr4(original | cr4::SMAP);
        let read = probe(|| {
            peek(address);
        });
        let write = probe(|| poke(address, 1));
        let allowed = fault_of!("stac", "mov rax, [{}]", "clac", in(reg) address, out("rax") _);
        let input = fault_of!("insb", in("dx") 0x9990u16, in("rdi") address);
        let allowed_input =
            fault_of!("stac", "insb", "clac", in("dx") 0x9990u16, inout("rdi") address => _);
        cpu::write_cr4(original);
        case.faults("a read", read, Vector::PageFault, 1);
        case.faults("a write", write, Vector::PageFault, 3);
        case.runs("a read with AC", allowed);
        case.faults("INS", input, Vector::PageFault, 3);
        case.runs("INS with AC", allowed_input);
        case.runs(
            "a read without SMAP",
            probe(|| {
                peek(address);
            }),
        );
    });
    keys::all(report);
}
