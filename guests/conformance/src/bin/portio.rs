//! `portio`: IN, OUT, INS and OUTS in every width, form and address size.
//!
//! The UART's scratch register (0x3ff) is a byte that reads back; ports from 0x9990 on are nobody's and read
//! all ones.

#![no_std]
#![no_main]

use plinth_guests::compat::{self, Registers32};
use plinth_guests::cpu::{self, inb, inl, inw, msr, outb, outl, outw};
use plinth_guests::descriptors::KERNEL_CODE32;
use plinth_guests::paging::{self, PageSize, entry};
use plinth_guests::user::{self, Start};
use plinth_guests::{Case, Report, StartInfo, Vector, compat_code, guest, probe, user_code, x86};

guest!(main);

const SCRATCH: u16 = 0x3ff;
const NOBODY: u16 = 0x9990;
const PATTERN: u64 = 0x1122_3344_5566_7788;
/// Two pages with a hole behind them; their frames are not neighbours.
const PAGES: u64 = 0x90_0000_0000;

user_code!(user_in, "in al, dx");
user_code!(user_out, "out dx, al");
user_code!(
    user_ins,
    "mov rdi, rsp",
    "sub rdi, 64",
    "mov ecx, 4",
    "rep insb",
    "xor eax, eax"
);

compat_code!(outs_32, "rep outsb");
compat_code!(outs_16, "addr16 rep outsb");
compat_code!(ins_16, "addr16 rep insb");
compat_code!(in_32, "mov eax, 0x11223344", "in ax, dx");

fn main(report: &mut Report, _: StartInfo) {
    plain_forms(report);
    string_forms(report);
    address_sizes(report);
    pages(report);
    privilege(report);
    boards(report);
}

fn plain_forms(report: &mut Report) {
    report.case("byte-reads-back", |case| {
        for value in [0x00, 0x5a, 0xa5, 0xff] {
            outb(SCRATCH, value);
            case.equal("the scratch register", inb(SCRATCH), value);
        }
    });
    report.case("in-8-keeps-the-rest-of-rax", |case| {
        outb(SCRATCH, 0x3c);
        let rax: u64;
        x86!("in al, dx", inout("rax") PATTERN => rax, in("dx") SCRATCH, options(nostack));
        case.equal("RAX", rax, 0x1122_3344_5566_773c);
    });
    report.case("in-16-keeps-the-rest-of-rax", |case| {
        let rax: u64;
        x86!("in ax, dx", inout("rax") PATTERN => rax, in("dx") NOBODY, options(nostack));
        case.equal("RAX", rax, 0x1122_3344_5566_ffff);
    });
    report.case("in-32-clears-the-upper-half-of-rax", |case| {
        let rax: u64;
        x86!("in eax, dx", inout("rax") PATTERN => rax, in("dx") NOBODY, options(nostack));
        case.equal("RAX", rax, 0xffff_ffff);
        // REX.W does not make it 64 bits.
        let rax: u64;
        x86!(".byte 0x48", "in eax, dx", inout("rax") PATTERN => rax, in("dx") NOBODY, options(nostack));
        case.equal("RAX with REX.W", rax, 0xffff_ffff);
    });
    report.case("unassigned-ports-read-all-ones", |case| {
        for port in (NOBODY..NOBODY + 0x40)
            .step_by(4)
            .chain([0x2a0, 0x6660, 0xeee0])
        {
            case.equal("8 bits", inb(port), 0xff);
            case.equal("16 bits", inw(port), 0xffff);
            case.equal("32 bits", inl(port), 0xffff_ffff);
        }
    });
    report.case("writes-to-unassigned-ports-are-ignored", |case| {
        outb(NOBODY, 0x12);
        outw(NOBODY, 0x1234);
        outl(NOBODY, 0x1234_5678);
        case.equal("the port", inl(NOBODY), 0xffff_ffff);
    });
    report.case("immediate-forms", |case| {
        let (byte, word, long): (u64, u64, u64);
        x86!("in al, 0xe4", inout("rax") PATTERN => byte, options(nostack));
        x86!("in ax, 0xe4", inout("rax") PATTERN => word, options(nostack));
        x86!("in eax, 0xe4", inout("rax") PATTERN => long, options(nostack));
        case.equal("IN AL", byte, 0x1122_3344_5566_77ff);
        case.equal("IN AX", word, 0x1122_3344_5566_ffff);
        case.equal("IN EAX", long, 0xffff_ffff);
        let rax: u64;
        x86!("out 0xe4, al", "out 0xe4, ax", "out 0xe4, eax", inout("rax") PATTERN => rax, options(nostack));
        case.equal("RAX after the OUTs", rax, PATTERN);
    });
    report.case("only-dx-counts", |case| {
        outb(SCRATCH, 0x69);
        let rax: u64;
        x86!("in al, dx", inout("rax") 0u64 => rax, in("rdx") 0xffff_ffff_1234_0000 | u64::from(SCRATCH), options(nostack));
        case.equal("AL", rax, 0x69);
    });
    report.case("flags-survive", |case| {
        let flags: u64;
        x86!(
            "push {wanted}",
            "popfq",
            "in al, dx",
            "out dx, al",
            "in eax, dx",
            "pushfq",
            "pop {wanted}",
            "push 2",
            "popfq",
            wanted = inout(reg) 0xcd7u64 => flags,
            in("dx") NOBODY,
            out("rax") _,
        );
        case.equal("RFLAGS", flags, 0xcd7);
    });
    report.case("wide-access-to-a-byte-device", |case| {
        outb(SCRATCH, 0x24);
        let both = inw(SCRATCH - 1);
        if both == 0xffff {
            return case.skip("this board does not split wide accesses");
        }
        case.equal("the upper byte", both >> 8, 0x24);
        outw(SCRATCH - 1, 0x4200);
        case.equal("the scratch register", inb(SCRATCH), 0x42);
    });
}

/// Runs `rep outsb`-like code with the registers given; returns (RSI or RDI, RCX) afterwards.
macro_rules! string_io {
    ($code:literal, $port:expr, $pointer:tt, $address:expr, $count:expr) => {{
        let (pointer, count): (u64, u64);
        x86!(
            $code,
            "cld",
            in("dx") $port,
            inout($pointer) $address as u64 => pointer,
            inout("rcx") $count as u64 => count,
        );
        (pointer, count)
    }};
}

fn string_forms(report: &mut Report) {
    report.case("outsb-one", |case| {
        let bytes = [0x11u8, 0x22, 0x33];
        let (rsi, rcx) = string_io!("outsb", SCRATCH, "rsi", &raw const bytes, 7);
        case.equal("RSI", rsi, &raw const bytes as u64 + 1);
        case.equal("RCX", rcx, 7);
        case.equal("the port", inb(SCRATCH), 0x11);
    });
    report.case("rep-outsb", |case| {
        let bytes = [0x11u8, 0x22, 0x33];
        let (rsi, rcx) = string_io!("rep outsb", SCRATCH, "rsi", &raw const bytes, 3);
        case.equal("RSI", rsi, &raw const bytes as u64 + 3);
        case.equal("RCX", rcx, 0);
        case.equal("the port", inb(SCRATCH), 0x33);
    });
    report.case("rep-outsb-backwards", |case| {
        let bytes = [0x11u8, 0x22, 0x33, 0x44];
        let (rsi, rcx) = string_io!(
            "std; rep outsb",
            SCRATCH,
            "rsi",
            &raw const bytes as u64 + 3,
            3
        );
        case.equal("RSI", rsi, &raw const bytes as u64);
        case.equal("RCX", rcx, 0);
        case.equal("the port", inb(SCRATCH), 0x22);
    });
    report.case("repne-means-rep", |case| {
        let bytes = [0x51u8, 0x52];
        let (_, rcx) = string_io!("repne outsb", SCRATCH, "rsi", &raw const bytes, 2);
        case.equal("RCX", rcx, 0);
        case.equal("the port", inb(SCRATCH), 0x52);
    });
    report.case("insb-one", |case| {
        outb(SCRATCH, 0x77);
        let mut bytes = [0u8; 4];
        let (rdi, rcx) = string_io!("insb", SCRATCH, "rdi", &raw mut bytes as u64 + 1, 9);
        case.equal("RDI", rdi, &raw const bytes as u64 + 2);
        case.equal("RCX", rcx, 9);
        case.equal("the bytes", u32::from_le_bytes(bytes), 0x7700);
    });
    report.case("rep-ins-in-three-widths", |case| {
        let mut bytes = [0u8; 64];
        let start = &raw mut bytes as u64;
        let (rdi, rcx) = string_io!("rep insb", NOBODY, "rdi", start + 1, 3);
        case.equal("RDI after INSB", rdi, start + 4);
        case.equal("RCX after INSB", rcx, 0);
        let (rdi, rcx) = string_io!("rep insw", NOBODY, "rdi", start + 9, 3);
        case.equal("RDI after INSW", rdi, start + 15);
        case.equal("RCX after INSW", rcx, 0);
        let (rdi, rcx) = string_io!("rep insd", NOBODY, "rdi", start + 21, 3);
        case.equal("RDI after INSD", rdi, start + 33);
        case.equal("RCX after INSD", rcx, 0);
        for (index, byte) in bytes.into_iter().enumerate() {
            let written = matches!(index, 1..4 | 9..15 | 21..33);
            case.equal("a byte of the buffer", byte, if written { 0xff } else { 0 });
        }
    });
    report.case("rep-insd-backwards", |case| {
        let mut words = [0u32; 6];
        let start = &raw mut words as u64;
        let (rdi, rcx) = string_io!("std; rep insd", NOBODY, "rdi", start + 16, 3);
        case.equal("RDI", rdi, start + 4);
        case.equal("RCX", rcx, 0);
        case.ensure(
            words == [0, 0, !0, !0, !0, 0],
            "the wrong words were written",
        );
    });
    report.case("rep-outs-in-wide-forms", |case| {
        let words = [0x1111_1111u32; 8];
        let start = &raw const words as u64;
        let (rsi, rcx) = string_io!("rep outsw", NOBODY, "rsi", start, 5);
        case.equal("RSI after OUTSW", rsi, start + 10);
        case.equal("RCX after OUTSW", rcx, 0);
        let (rsi, rcx) = string_io!("rep outsd", NOBODY, "rsi", start, 5);
        case.equal("RSI after OUTSD", rsi, start + 20);
        case.equal("RCX after OUTSD", rcx, 0);
    });
    report.case("count-zero-does-nothing", |case| {
        outb(SCRATCH, 0x99);
        // Not even the address is looked at: this one is not canonical.
        let nowhere = 0x8000_0000_0000_0000u64;
        let (rsi, rcx) = string_io!("rep outsb", SCRATCH, "rsi", nowhere, 0);
        case.equal("RSI", rsi, nowhere);
        case.equal("RCX", rcx, 0);
        case.equal("the port", inb(SCRATCH), 0x99);
        let (rdi, _) = string_io!("rep insd", SCRATCH, "rdi", nowhere, 0);
        case.equal("RDI", rdi, nowhere);
    });
    report.case("ten-thousand-bytes", |case| {
        // SAFETY: reads the guest's own image.
        let image = unsafe { core::slice::from_raw_parts(0x10_0000 as *const u8, 10_000) };
        let (rsi, rcx) = string_io!("rep outsb", SCRATCH, "rsi", image.as_ptr(), 10_000);
        case.equal("RSI", rsi, 0x10_0000 + 10_000);
        case.equal("RCX", rcx, 0);
        case.equal("the port", inb(SCRATCH), image[9_999]);
    });
    report.case("outs-takes-a-segment-ins-does-not", |case| {
        let bytes = [0x01u8, 0x02, 0x03, 0x04];
        let saved = cpu::rdmsr(msr::IA32_GS_BASE);
        cpu::wrmsr(msr::IA32_GS_BASE, &raw const bytes as u64 - 0x1000);
        let (rsi, _) = string_io!(".byte 0x65; outsb", SCRATCH, "rsi", 0x1002, 0);
        case.equal("RSI", rsi, 0x1003);
        case.equal("the port", inb(SCRATCH), 0x03);
        let mut target = [0u8; 2];
        let (rdi, _) = string_io!(".byte 0x65; insb", SCRATCH, "rdi", &raw mut target, 0);
        case.equal("RDI", rdi, &raw const target as u64 + 1);
        case.equal("the byte", target[0], 0x03);
        cpu::wrmsr(msr::IA32_GS_BASE, saved);
    });
}

fn address_sizes(report: &mut Report) {
    report.case("32-bit-addresses-in-64-bit-mode", |case| {
        let bytes = [0x0au8, 0x0b, 0x0c];
        let start = &raw const bytes as u64;
        let (rsi, rcx) = string_io!(
            "addr32 rep outsb",
            SCRATCH,
            "rsi",
            0xdead_0000_0000_0000 | start,
            0xbeef_0000_0000_0003u64
        );
        case.equal("RSI", rsi, start + 3);
        case.equal("RCX", rcx, 0);
        case.equal("the port", inb(SCRATCH), 0x0c);
        let mut target = [0u8; 4];
        let (rdi, _) = string_io!(
            "addr32 rep insb",
            SCRATCH,
            "rdi",
            0xdead_0000_0000_0000 | &raw mut target as u64,
            2
        );
        case.equal("RDI", rdi, &raw const target as u64 + 2);
        case.equal("the bytes", u32::from_le_bytes(target), 0x0c0c);
    });
    report.case("compatibility-mode-outs", |case| {
        let bytes = [0x21u8, 0x22, 0x23];
        let registers = Registers32 {
            esi: &raw const bytes as u32,
            ecx: 3,
            edx: u32::from(SCRATCH),
            ..Registers32::default()
        };
        if let Some(after) = case.runs("REP OUTSB", compat::run(KERNEL_CODE32, outs_32, registers))
        {
            case.equal("ESI", after.esi, registers.esi + 3);
            case.equal("ECX", after.ecx, 0);
            case.equal("the port", inb(SCRATCH), 0x23);
        }
    });
    report.case("16-bit-addresses-wrap", |case| {
        // The last two bytes of the first 64 KiB and its first two; saved, since low memory may be firmware's.
        let saved = [paging::peek(0), paging::peek(0xfff8)];
        paging::poke(0, 0);
        paging::poke(0xfff8, 0);
        outb(SCRATCH, 0x5d);
        let registers = Registers32 {
            edi: 0x1234_fffe,
            ecx: 0x9999_0004,
            edx: u32::from(SCRATCH),
            ..Registers32::default()
        };
        let outcome = compat::run(KERNEL_CODE32, ins_16, registers);
        let written = [paging::peek(0), paging::peek(0xfff8)];
        paging::poke(0, saved[0]);
        paging::poke(0xfff8, saved[1]);
        if let Some(after) = case.runs("REP INSB", outcome) {
            case.equal("EDI", after.edi, 0x1234_0002);
            case.equal("ECX", after.ecx, 0x9999_0000);
            case.equal("the bytes at 0", written[0], 0x5d5d);
            case.equal("the bytes at 0xfff8", written[1], 0x5d5d_0000_0000_0000);
        }
        let registers = Registers32 {
            esi: 0x7777_8000,
            ecx: 0x1_0002,
            edx: u32::from(SCRATCH),
            ..Registers32::default()
        };
        if let Some(after) = case.runs("REP OUTSB", compat::run(KERNEL_CODE32, outs_16, registers))
        {
            case.equal("ESI", after.esi, 0x7777_8002);
            case.equal("ECX", after.ecx, 0x1_0000);
        }
    });
    report.case("compatibility-mode-in", |case| {
        let registers = Registers32 {
            edx: u32::from(NOBODY),
            ..Registers32::default()
        };
        if let Some(after) = case.runs("IN AX", compat::run(KERNEL_CODE32, in_32, registers)) {
            case.equal("EAX", after.eax, 0x1122_ffff);
        }
    });
}

fn pages(report: &mut Report) {
    let first = paging::new_frame();
    let _gap = paging::new_frame();
    let second = paging::new_frame();
    paging::map(PAGES, first, PageSize::Size4K, entry::P | entry::RW);
    let second_entry = paging::map(
        PAGES + 0x1000,
        second,
        PageSize::Size4K,
        entry::P | entry::RW,
    );

    report.case("ins-across-a-page-boundary", |case| {
        let (rdi, _) = string_io!("rep insd", NOBODY, "rdi", PAGES + 0xff6, 5);
        case.equal("RDI", rdi, PAGES + 0x100a);
        case.equal(
            "before the boundary",
            paging::peek(first + 0xff0),
            0xffff_0000_0000_0000,
        );
        case.equal("before the boundary", paging::peek(first + 0xff8), !0);
        case.equal("after the boundary", paging::peek(second), !0);
        case.equal("after the boundary", paging::peek(second + 8), 0xffff);
    });
    report.case("outs-across-a-page-boundary", |case| {
        paging::poke(first + 0xff8, 0x0807_0605_0403_0201);
        paging::poke(second, 0x1817_1615_1413_1211);
        let (rsi, _) = string_io!("rep outsb", SCRATCH, "rsi", PAGES + 0xffd, 5);
        case.equal("RSI", rsi, PAGES + 0x1002);
        case.equal("the port", inb(SCRATCH), 0x12);
    });
    report.case("ins-into-a-hole-stops-there", |case| {
        let fault = faulting(case, "rep insb", PAGES + 0x1ffd, 8, 0x2);
        case.equal("CR2", fault.0, PAGES + 0x2000);
        case.equal("RCX", fault.1, 5);
        case.equal("RDI", fault.2, PAGES + 0x2000);
        case.equal(
            "the bytes before",
            paging::peek(second + 0xff8) >> 40,
            0xff_ffff,
        );
    });
    report.case("ins-into-a-read-only-page-faults", |case| {
        let writable = paging::peek(second_entry);
        paging::poke(second_entry, writable & !entry::RW);
        paging::invlpg(PAGES + 0x1000);
        let fault = faulting(case, "rep insb", PAGES + 0xffe, 8, 0x3);
        case.equal("CR2", fault.0, PAGES + 0x1000);
        case.equal("RCX", fault.1, 6);
        paging::poke(second_entry, writable);
        paging::invlpg(PAGES + 0x1000);
    });
    report.case("outs-out-of-a-hole-stops-there", |case| {
        paging::poke(second + 0xff8, 0x7f7e_7d7c_7b7a_7978);
        let fault = faulting(case, "rep outsb", PAGES + 0x1ffd, 8, 0x0);
        case.equal("CR2", fault.0, PAGES + 0x2000);
        case.equal("RCX", fault.1, 5);
        case.equal("RSI", fault.2, PAGES + 0x2000);
        case.equal("the port", inb(SCRATCH), 0x7f);
    });
    report.case("wide-outs-into-a-hole-has-no-effect", |case| {
        let outcome = probe(|| x86!("outsd", in("dx") NOBODY, in("rsi") PAGES + 0x1ffe));
        let fault = case.faults("OUTSD", outcome, Vector::PageFault, 0);
        case.equal("CR2", fault.cr2, PAGES + 0x2000);
        case.equal("RSI", fault.frame.rsi, PAGES + 0x1ffe);
    });
    report.case("non-canonical-string-address", |case| {
        let outcome = probe(|| x86!("insb", in("dx") NOBODY, in("rdi") 0x8000_0000_0000_0000u64));
        case.faults("INSB", outcome, Vector::GeneralProtection, 0);
    });
}

/// Runs a string instruction that must end in a page fault; returns (CR2, RCX, the pointer) of it.
fn faulting(
    case: &mut Case,
    code: &str,
    address: u64,
    count: u64,
    error_code: u32,
) -> (u64, u64, u64) {
    let into = code == "rep insb";
    let outcome = probe(|| {
        if into {
            x86!("rep insb", in("dx") NOBODY, in("rdi") address, in("rcx") count);
        } else {
            x86!("rep outsb", in("dx") SCRATCH, in("rsi") address, in("rcx") count);
        }
    });
    let fault = case.faults(code, outcome, Vector::PageFault, error_code);
    (
        fault.cr2,
        fault.frame.rcx,
        if into {
            fault.frame.rdi
        } else {
            fault.frame.rsi
        },
    )
}

fn privilege(report: &mut Report) {
    let at = |port: u16, rflags: u64| Start {
        rflags,
        registers: [0, u64::from(port), 0],
        ..Start::default()
    };
    report.case("ring-3-without-iopl-faults", |case| {
        for (name, code) in [
            ("IN", user_in()),
            ("OUT", user_out()),
            ("REP INSB", user_ins()),
        ] {
            case.faults(
                name,
                user::run(code, at(SCRATCH, 2)),
                Vector::GeneralProtection,
                0,
            );
        }
    });
    report.case("ring-3-with-iopl-3-may", |case| {
        outb(SCRATCH, 0x2f);
        let outcome = user::run(user_in(), at(SCRATCH, 0x3002));
        if let Some(rax) = case.runs("IN", outcome) {
            case.equal("AL", rax & 0xff, 0x2f);
        }
        let outcome = user::run(user_ins(), at(SCRATCH, 0x3002));
        case.runs("REP INSB", outcome);
    });
}

fn boards(report: &mut Report) {
    report.case("every-port-can-be-read", |case| {
        if !cpu::is_plinth() {
            return case.skip("real devices take offence at this");
        }
        for port in 0..=u16::MAX {
            let _ = inb(port);
        }
        for port in (0..0xfff0u16).step_by(13) {
            let _ = inw(port);
            let _ = inl(port);
        }
        outb(SCRATCH, 0x18);
        case.equal("the scratch register", inb(SCRATCH), 0x18);
    });
    report.case("pci-address-port-takes-32-bits-only", |case| {
        outl(0xcf8, 0x8000_0000);
        if inl(0xcf8) != 0x8000_0000 {
            return case.skip("no PCI host bridge");
        }
        outb(0xcf8, 0x55);
        case.equal("the address port", inl(0xcf8), 0x8000_0000);
        outl(0xcf8, 0);
    });
}
