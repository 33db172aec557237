//! Protection keys, where the processor has them.

use plinth_guests::cpu::{self, leaf7, leaf7_ecx};
use plinth_guests::paging::{self, PageSize, peek, poke};
use plinth_guests::user::{self, Start};
use plinth_guests::{Report, Vector, user_code, x86};

use crate::{AREA, USER, fresh, user_read, user_write};

/// Memory of no RAM: that of the test board, where there is one.
const BOARD: u64 = 0xff00_0000;

user_code!(user_move, "mov rsi, rcx", "mov rdi, rdx", "movsq");

pub(super) fn all(report: &mut Report) {
    report.case("protection-keys", |case| {
        if leaf7().ecx & leaf7_ecx::PKU == 0 {
            return case.skip("no protection keys");
        }
        let (_, _) = fresh(AREA + 0x20_3000, USER | 5 << 59);
        let original = cpu::read_cr4();
        cpu::write_cr4(original | 1 << 22);
        let set = |value: u32| x86!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0);
        let at = Start {
            registers: [0, AREA + 0x20_3000, 0],
            ..Start::default()
        };
        let read = || user::run(user_read(), at);
        let write = || user::run(user_write(), at);
        set(1 << 10);
        let denied = read();
        set(2 << 10);
        let readable = read();
        let protected = write();
        set(0);
        let free = write();
        cpu::write_cr4(original);
        case.faults(
            "a read with access disabled",
            denied,
            Vector::PageFault,
            0x25,
        );
        case.runs("a read with writes disabled", readable);
        case.faults(
            "a write with writes disabled",
            protected,
            Vector::PageFault,
            0x27,
        );
        case.runs("a write with all enabled", free);
    });
    report.case("protection-keys-hold-for-a-move-from-a-device", |case| {
        if leaf7().ecx & leaf7_ecx::PKU == 0 {
            return case.skip("no protection keys");
        }
        let (device, target) = (AREA + 0x20_5000, AREA + 0x20_6000);
        paging::map(device, BOARD, PageSize::Size4K, USER);
        let (_, frame) = fresh(target, USER | 5 << 59);
        poke(frame, 0x1111);
        let original = cpu::read_cr4();
        cpu::write_cr4(original | 1 << 22);
        let set = |value: u32| x86!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0);
        let at = Start {
            registers: [device, target, 0],
            ..Start::default()
        };
        set(2 << 10);
        let protected = user::run(user_move(), at);
        let kept = peek(frame);
        set(0);
        let free = user::run(user_move(), at);
        cpu::write_cr4(original);
        case.faults(
            "MOVS with writes disabled",
            protected,
            Vector::PageFault,
            0x27,
        );
        case.equal("the word that it did not write", kept, 0x1111);
        case.runs("MOVS with all enabled", free);
        case.ensure(peek(frame) != 0x1111, "nothing was moved");
    });
}
