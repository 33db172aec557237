//! Segmentation around an access: limits, types and null selectors in 32-bit code, on RAM and on the device alike.
//!
//! Both kinds of memory are reached by a segment whose base is where they are, so that all registers are the same.

use plinth_guests::compat::{self, Registers32};
use plinth_guests::descriptors::{KERNEL_CODE32, SCRATCH, segment_descriptor, set_gdt_entry};
use plinth_guests::exceptions::Fault;
use plinth_guests::{Case, Report, Vector, compat_code};

use crate::Memory;

/// The descriptor's access byte and flags.
#[derive(Clone, Copy)]
struct Kind(u64);

const READ_WRITE: Kind = Kind(0x93);
const READ_ONLY: Kind = Kind(0x91);
const EXPAND_DOWN: Kind = Kind(0x97);
const EXECUTE_ONLY: Kind = Kind(0x99);
const EXECUTE_READ: Kind = Kind(0x9b);
/// The limit: 0x200 bytes.
const LIMIT: u64 = 0x1ff;

// EAX is the selector, EBX the offset. FS is null afterwards; a fault leaves it loaded, which nobody minds.
macro_rules! through_fs {
    ($name:ident, $($line:literal),+) => {
        compat_code!($name, "mov fs, eax", $($line,)+ "xor eax, eax", "mov fs, eax");
    };
}
through_fs!(read, "mov edx, fs:[ebx]");
through_fs!(read_byte, "movzx edx, byte ptr fs:[ebx]");
through_fs!(write, "mov fs:[ebx], ecx");
through_fs!(add, "add fs:[ebx], ecx");
through_fs!(exchange, "lock xadd fs:[ebx], ecx");
through_fs!(push, "push dword ptr fs:[ebx]", "pop edx");
through_fs!(pop, "push ecx", "pop dword ptr fs:[ebx]");
through_fs!(read_16, ".byte 0x67", "mov edx, fs:[ebx]");
// From the segment to the stack: six elements.
through_fs!(
    string,
    "sub esp, 32",
    "mov edi, esp",
    "mov esi, ebx",
    "mov ecx, 6",
    "cld",
    "rep movs dword ptr es:[edi], dword ptr fs:[esi]",
    "add esp, 32"
);

pub(super) fn all(report: &mut Report, memory: Memory) {
    report.case("segment-limits-hold", |case| {
        for (what, code) in [
            ("a read", read as Code),
            ("a write", write),
            ("an addition", add),
            ("an exchange", exchange),
            ("a push", push),
            ("a pop", pop),
        ] {
            for offset in [0x80, 0x1fc] {
                alike(case, what, memory, READ_WRITE, code, offset, None);
            }
            for offset in [0x1fd, 0x1ff, 0x200, 0xffff_fffe] {
                alike(case, what, memory, READ_WRITE, code, offset, Some(0));
            }
        }
        alike(case, "a byte", memory, READ_WRITE, read_byte, 0x1ff, None);
        alike(
            case,
            "a byte",
            memory,
            READ_WRITE,
            read_byte,
            0x200,
            Some(0),
        );
    });
    report.case("segment-types-hold", |case| {
        for (kind, code, raises) in [
            (READ_ONLY, read as Code, None),
            (READ_ONLY, write, Some(0)),
            (READ_ONLY, add, Some(0)),
            (READ_ONLY, pop, Some(0)),
            (EXECUTE_READ, read, None),
            (EXECUTE_READ, write, Some(0)),
        ] {
            alike(case, "a type", memory, kind, code, 0x100, raises);
        }
        // An execute-only segment cannot even be loaded: the error code is the selector.
        let selector = u32::from(SCRATCH);
        alike(
            case,
            "execute-only",
            memory,
            EXECUTE_ONLY,
            read,
            0x100,
            Some(selector),
        );
    });
    report.case("expand-down-segments-end-below-their-limit", |case| {
        for (offset, raises) in [
            (0x0, Some(0)),
            (0x1ff, Some(0)),
            (0x200, None),
            (0x7f8, None),
        ] {
            alike(
                case,
                "expand-down",
                memory,
                EXPAND_DOWN,
                read,
                offset,
                raises,
            );
        }
    });
    report.case("null-segments-cannot-be-used", |case| {
        let registers = Registers32 {
            ebx: 0x100,
            ..Registers32::default()
        };
        for code in [read as Code, write, push] {
            let ended = compat::run(KERNEL_CODE32, code, registers);
            case.faults("a null segment", ended, Vector::GeneralProtection, 0);
        }
    });
    report.case("string-stops-at-the-limit", |case| {
        let [ram, device] = both(memory, READ_WRITE, string, 0x1f0);
        for fault in [ram, device] {
            let fault = case.faults("REP MOVS", fault, Vector::GeneralProtection, 0);
            case.equal("ECX", fault.frame.rcx & 0xffff_ffff, 2);
            case.equal("ESI", fault.frame.rsi & 0xffff_ffff, 0x200);
        }
        alike(case, "REP MOVS", memory, READ_WRITE, string, 0x100, None);
    });
    report.case("16-bit-addresses-wrap-in-the-segment", |case| {
        // The assembler's operand is [EBX]; with the prefix the same byte names [BX + DI].
        alike(
            case,
            "a 16-bit address",
            memory,
            READ_WRITE,
            read_16,
            0x0001_0010,
            None,
        );
    });
}

type Code = unsafe extern "C" fn();

/// Runs code on both kinds of memory.
fn both(memory: Memory, kind: Kind, code: Code, offset: u32) -> [Result<Registers32, Fault>; 2] {
    [memory.ram, memory.device].map(|base| {
        for word in 0..0x100u64 {
            plinth_guests::paging::poke(base + word * 8, word * 0x0101_0101_0101_0101);
        }
        // Of 32 bits.
        let descriptor = segment_descriptor(kind.0, base, LIMIT) | 0x40 << 48;
        set_gdt_entry(SCRATCH, descriptor);
        compat::run(
            KERNEL_CODE32,
            code,
            Registers32 {
                eax: u32::from(SCRATCH),
                ebx: offset,
                ecx: 0x1357_9bdf,
                ..Registers32::default()
            },
        )
    })
}

/// Checks that both end alike: with the same registers, or in #GP with this error code.
fn alike(
    case: &mut Case,
    what: &str,
    memory: Memory,
    kind: Kind,
    code: Code,
    offset: u32,
    raises: Option<u32>,
) {
    let [ram, device] = both(memory, kind, code, offset);
    match raises {
        Some(error_code) => {
            case.faults(what, ram, Vector::GeneralProtection, error_code);
            case.faults(what, device, Vector::GeneralProtection, error_code);
        }
        None => {
            let ram = case.runs(what, ram);
            let device = case.runs(what, device);
            if let (Some(ram), Some(device)) = (ram, device) {
                case.equal(what, device.edx, ram.edx);
                case.equal(what, device.ecx, ram.ecx);
                case.equal(what, device.esi, ram.esi);
            }
        }
    }
}
