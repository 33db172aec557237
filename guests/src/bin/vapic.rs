//! `vapic`: the local APIC where a processor may do its work for the hypervisor: priorities and nesting, EOI of
//! level-triggered interrupts, both register interfaces, and what is left when the APIC is moved or switched off.

#![no_std]
#![no_main]

use plinth_guests::apic::base::{BSP, EN, EXTD};
use plinth_guests::apic::{self, BASE, SPURIOUS_VECTOR, TO_SELF, open_window, register};
use plinth_guests::cpu::{self, msr, outb};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::paging::{peek_32, poke_32};
use plinth_guests::places::IO_APIC;
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, StartInfo, guest, x86};

guest!(main);

const MOVED: u64 = 0xfe00_0000;
/// The pin of the I/O APIC that ISA interrupt 0 arrives at.
const PIT_PIN: u32 = 2;

const LOW: u8 = 0x41;
const SAME_CLASS: u8 = 0x42;
const HIGH: u8 = 0x61;
const LEVEL: u8 = 0x51;

/// The vectors as they began, and, with bit 0 of the upper byte set, as they ended.
static LOG: Single<[u16; 16]> = Single::new([0; 16]);
static LOGGED: Single<usize> = Single::new(0);

/// Sends an interrupt to itself.
fn request(vector: u8) {
    apic::set(register::COMMAND, TO_SELF | u32::from(vector));
}

fn note(what: u16) {
    // SAFETY: one CPU; the handlers that nest here have finished with it when they are interrupted.
    unsafe {
        let at = LOGGED.get().read_volatile();
        if at < 16 {
            LOG.get().cast::<u16>().add(at).write_volatile(what);
            LOGGED.get().write_volatile(at + 1);
        }
    }
}

/// What has happened since the last call, one hexadecimal byte for each begin and a 1 before it for each end.
fn take_log() -> ([u16; 16], usize) {
    // SAFETY: one CPU; interrupts are off.
    unsafe {
        let (log, count) = (LOG.get().read_volatile(), LOGGED.get().read_volatile());
        LOGGED.get().write_volatile(0);
        (log, count)
    }
}

fn expect_log(case: &mut Case, what: &str, expected: &[u16]) {
    let (log, count) = take_log();
    case.ensure(&log[..count] == expected, what);
}

const fn end(vector: u8) -> u16 {
    0x100 | vector as u16
}

fn on_low(_: &mut Frame) {
    note(LOW.into());
    request(SAME_CLASS);
    request(HIGH);
    x86!("sti", "nop", "nop", "cli");
    note(end(LOW));
    apic::end_of_interrupt();
}

fn on_other(frame: &mut Frame) {
    note(frame.vector as u16);
    apic::end_of_interrupt();
}

fn main(report: &mut Report, _: StartInfo) {
    // The 8259As are to be silent.
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    for vector in [SAME_CLASS, HIGH] {
        set_handler(vector, Some(on_other));
    }
    set_handler(LOW, Some(on_low));
    set_handler(LEVEL, Some(on_level));
    set_handler(SPURIOUS_VECTOR, Some(|_| ()));
    apic::set(register::SPURIOUS, 0x1ff);
    apic::set(register::TASK_PRIORITY, 0);
    report.case("xapic-interrupts-nest-by-priority", nesting);
    report.case("xapic-registers-in-a-handler", in_service);
    report.case("xapic-task-priority-holds-back", task_priority);
    report.case("xapic-wakes-hlt", wake);
    report.case("level-triggered-interrupt-ends-at-the-io-apic", level);
    report.case("xapic-moved-is-there-and-nowhere-else", moved);
    report.case("apic-disabled-leaves-nothing-behind", disabled);
    report.case("x2apic-leaves-no-page-behind", |case| {
        set_base(BASE | EN | EXTD);
        nothing_at(case, BASE);
        case.equal("the version", apic::get(register::VERSION), 0x0005_0014);
        case.equal("the ID", apic::get(register::ID), 0);
        case.equal(
            "the logical ID",
            apic::get(register::LOGICAL_DESTINATION),
            1,
        );
        apic::set(register::SPURIOUS, 0x1ff);
    });
    report.case("x2apic-interrupts-nest-by-priority", nesting);
    report.case("x2apic-registers-in-a-handler", in_service);
    report.case("x2apic-task-priority-holds-back", task_priority);
    report.case("x2apic-wakes-hlt", wake);
    report.case("x2apic-self-interrupt", |case| {
        apic::set(register::SELF_IPI, HIGH.into());
        apic::set(register::SELF_IPI, SAME_CLASS.into());
        open_window();
        expect_log(case, "not by priority", &[HIGH.into(), SAME_CLASS.into()]);
    });
    report.case("x2apic-refuses-what-is-reserved", |case| {
        for (register, value) in [
            (register::EOI, 1),
            (register::TASK_PRIORITY, 0x100),
            (register::SELF_IPI, 0x100),
            (register::PROCESSOR_PRIORITY, 0),
            (register::IN_SERVICE, 0),
        ] {
            case.ensure(
                apic::try_write_msr(register, value).is_err(),
                "a reserved bit or a read-only register is written",
            );
        }
        for register in [
            register::EOI,
            register::SELF_IPI,
            register::DESTINATION_FORMAT,
            register::COMMAND_HIGH,
        ] {
            case.ensure(
                apic::try_read_msr(register).is_err(),
                "a register that cannot be read is read",
            );
        }
    });
    report.case(
        "x2apic-level-triggered-interrupt-ends-at-the-io-apic",
        level,
    );
    report.case("xapic-works-again", |case| {
        set_base(BASE);
        set_base(BASE | EN);
        apic::set(register::SPURIOUS, 0x1ff);
        nesting(case);
    });
}

fn set_base(base: u64) {
    let bsp = cpu::rdmsr(msr::IA32_APIC_BASE) & BSP;
    cpu::wrmsr(msr::IA32_APIC_BASE, base | bsp);
}

/// There is neither a register nor memory at this address.
fn nothing_at(case: &mut Case, page: u64) {
    for offset in [0x20, 0x30, 0x80, 0x390, 0xff0] {
        poke_32(page + offset, 0x1234_5678);
        case.equal("what is read", peek_32(page + offset), !0);
    }
}

fn nesting(case: &mut Case) {
    request(LOW);
    open_window();
    let expected = [LOW.into(), HIGH.into(), end(LOW), SAME_CLASS.into()];
    expect_log(case, "not in the order of their priorities", &expected);
}

/// PPR, and the words of ISR and IRR for the vectors from 0x40 on, as a handler finds them.
static SEEN: Single<[u32; 3]> = Single::new([0; 3]);

fn on_look(_: &mut Frame) {
    request(SAME_CLASS);
    let seen = [
        apic::get(register::PROCESSOR_PRIORITY),
        apic::get(register::IN_SERVICE + 0x20),
        apic::get(register::REQUEST + 0x20),
    ];
    // SAFETY: one CPU, and nobody reads it meanwhile.
    unsafe { SEEN.get().write_volatile(seen) };
    apic::end_of_interrupt();
}

fn in_service(case: &mut Case) {
    set_handler(LOW, Some(on_look));
    request(LOW);
    open_window();
    set_handler(LOW, Some(on_low));
    // SAFETY: one CPU; interrupts are off.
    let [ppr, isr, irr] = unsafe { SEEN.get().read_volatile() };
    case.equal("PPR", ppr, 0x40);
    case.equal("ISR", isr, 1 << 1);
    case.equal("IRR", irr, 1 << 2);
    case.equal("PPR afterwards", apic::get(register::PROCESSOR_PRIORITY), 0);
    case.equal("ISR afterwards", apic::get(register::IN_SERVICE + 0x20), 0);
    case.equal("IRR afterwards", apic::get(register::REQUEST + 0x20), 0);
    expect_log(case, "the second is lost", &[SAME_CLASS.into()]);
}

fn task_priority(case: &mut Case) {
    cpu::write_cr8(6);
    case.equal("the register", apic::get(register::TASK_PRIORITY), 0x60);
    request(HIGH);
    open_window();
    expect_log(case, "it came through", &[]);
    case.equal("IRR", apic::get(register::REQUEST + 0x30), 1 << 1);
    x86!("sti");
    cpu::write_cr8(5);
    x86!("nop", "cli");
    expect_log(case, "CR8 did not let it in", &[HIGH.into()]);
    apic::set(register::TASK_PRIORITY, 0x6f);
    case.equal("CR8", cpu::read_cr8(), 6);
    case.equal("PPR", apic::get(register::PROCESSOR_PRIORITY), 0x6f);
    request(HIGH);
    open_window();
    expect_log(case, "it came through", &[]);
    x86!("sti");
    apic::set(register::TASK_PRIORITY, 0);
    x86!("nop", "cli");
    expect_log(case, "the register did not let it in", &[HIGH.into()]);
}

fn wake(case: &mut Case) {
    request(HIGH);
    x86!("sti", "hlt", "cli");
    expect_log(case, "it did not wake", &[HIGH.into()]);
}

fn set_pin(low: u32, high: u32) {
    for (register, value) in [(0x11, high), (0x10, low)] {
        poke_32(IO_APIC, register + 2 * PIT_PIN);
        poke_32(IO_APIC + 0x10, value);
    }
}

fn pin() -> u32 {
    poke_32(IO_APIC, 0x10 + 2 * PIT_PIN);
    peek_32(IO_APIC + 0x10)
}

/// Starts a shot of the PIT: its output goes low now, and high for good after the count.
fn shoot(count: u8) {
    outb(0x43, 0x30);
    outb(0x40, count);
    outb(0x40, 0);
}

fn on_level(_: &mut Frame) {
    note(LEVEL.into());
    note(if pin() & 1 << 14 != 0 { 1 } else { 0 });
    outb(0x43, 0x30);
    apic::end_of_interrupt();
}

fn level(case: &mut Case) {
    const LEVEL_TRIGGERED: u32 = 1 << 15;
    outb(0x43, 0x30);
    set_pin(LEVEL_TRIGGERED | u32::from(LEVEL), 0);
    for _ in 0..2 {
        shoot(20);
        x86!("sti", "hlt", "cli");
        open_window();
        expect_log(
            case,
            "other than one interrupt in service",
            &[LEVEL.into(), 1],
        );
        case.equal("the remote IRR", pin() & 1 << 14, 0);
    }
    set_pin(1 << 16, 0);
}

fn moved(case: &mut Case) {
    set_base(MOVED | EN);
    case.equal("the version", peek_32(MOVED + 0x30), 0x0005_0014);
    nothing_at(case, BASE);
    // Requested and ended at the new place.
    set_handler(
        HIGH,
        Some(|_| {
            note(HIGH.into());
            poke_32(MOVED + 0xb0, 0);
        }),
    );
    for _ in 0..2 {
        poke_32(MOVED + 0x300, 0x4_0000 | u32::from(HIGH));
        open_window();
        expect_log(case, "no interrupt", &[HIGH.into()]);
    }
    set_handler(HIGH, Some(on_other));
    set_base(BASE | EN);
    case.equal("the version", apic::get(register::VERSION), 0x0005_0014);
    nothing_at(case, MOVED);
}

fn disabled(case: &mut Case) {
    set_base(BASE);
    nothing_at(case, BASE);
    cpu::write_cr8(3);
    case.equal("CR8", cpu::read_cr8(), 3);
    set_base(BASE | EN);
    case.equal("the version", apic::get(register::VERSION), 0x0005_0014);
    cpu::write_cr8(0);
}
