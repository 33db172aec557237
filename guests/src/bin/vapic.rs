//! `vapic`: the local APIC where a processor may do its work for the hypervisor: priorities and nesting, EOI of
//! level-triggered interrupts, both register interfaces, and what is left when the APIC is moved or switched off.

#![no_std]
#![no_main]

use plinth_guests::cpu::{self, msr, outb};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, StartInfo, guest, x86};

guest!(main);

const PAGE: u64 = 0xfee0_0000;
const MOVED: u64 = 0xfe00_0000;
const IO_APIC: u64 = 0xfec0_0000;
/// The pin of the I/O APIC that ISA interrupt 0 arrives at.
const PIT_PIN: u32 = 2;

const ID: u32 = 0x02;
const VERSION: u32 = 0x03;
const TPR: u32 = 0x08;
const PPR: u32 = 0x0a;
const EOI: u32 = 0x0b;
const SVR: u32 = 0x0f;
const ISR: u32 = 0x10;
const IRR: u32 = 0x20;
const ICR: u32 = 0x30;
const SELF_IPI: u32 = 0x3f;

const LOW: u8 = 0x41;
const SAME_CLASS: u8 = 0x42;
const HIGH: u8 = 0x61;
const LEVEL: u8 = 0x51;

const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;

/// The vectors as they began, and, with bit 0 of the upper byte set, as they ended.
static LOG: Single<[u16; 16]> = Single::new([0; 16]);
static LOGGED: Single<usize> = Single::new(0);

fn read_at(address: u64) -> u32 {
    let value;
    x86!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags));
    value
}

fn write_at(address: u64, value: u32) {
    x86!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack, preserves_flags));
}

fn is_x2apic() -> bool {
    cpu::rdmsr(msr::IA32_APIC_BASE) & X2APIC != 0
}

fn read(register: u32) -> u32 {
    if is_x2apic() {
        cpu::rdmsr(0x800 + register) as u32
    } else {
        read_at(PAGE + u64::from(register) * 16)
    }
}

fn write(register: u32, value: u32) {
    if is_x2apic() {
        cpu::wrmsr(0x800 + register, u64::from(value));
    } else {
        write_at(PAGE + u64::from(register) * 16, value);
    }
}

/// Sends an interrupt to itself.
fn request(vector: u8) {
    write(ICR, 0x4_0000 | u32::from(vector));
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
    write(EOI, 0);
}

fn on_other(frame: &mut Frame) {
    note(frame.vector as u16);
    write(EOI, 0);
}

/// Lets in what is pending.
fn open() {
    x86!("sti", "nop", "nop", "cli");
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
    set_handler(0xff, Some(|_| ()));
    write(SVR, 0x1ff);
    write(TPR, 0);
    report.case("xapic-interrupts-nest-by-priority", nesting);
    report.case("xapic-registers-in-a-handler", in_service);
    report.case("xapic-task-priority-holds-back", task_priority);
    report.case("xapic-wakes-hlt", wake);
    report.case("level-triggered-interrupt-ends-at-the-io-apic", level);
    report.case("xapic-moved-is-there-and-nowhere-else", moved);
    report.case("apic-disabled-leaves-nothing-behind", disabled);
    report.case("x2apic-leaves-no-page-behind", |case| {
        set_base(PAGE | ENABLED | X2APIC);
        nothing_at(case, PAGE);
        case.equal("the version", read(VERSION), 0x0005_0014);
        case.equal("the ID", read(ID), 0);
        case.equal("the logical ID", cpu::rdmsr(0x80d), 1);
        write(SVR, 0x1ff);
    });
    report.case("x2apic-interrupts-nest-by-priority", nesting);
    report.case("x2apic-registers-in-a-handler", in_service);
    report.case("x2apic-task-priority-holds-back", task_priority);
    report.case("x2apic-wakes-hlt", wake);
    report.case("x2apic-self-interrupt", |case| {
        write(SELF_IPI, HIGH.into());
        write(SELF_IPI, SAME_CLASS.into());
        open();
        expect_log(case, "not by priority", &[HIGH.into(), SAME_CLASS.into()]);
    });
    report.case("x2apic-refuses-what-is-reserved", |case| {
        for (register, value) in [
            (EOI, 1),
            (TPR, 0x100),
            (SELF_IPI, 0x100),
            (PPR, 0),
            (ISR, 0),
        ] {
            case.ensure(
                cpu::try_wrmsr(0x800 + register, value).is_err(),
                "a reserved bit or a read-only register is written",
            );
        }
        for register in [EOI, SELF_IPI, 0x0e, 0x31] {
            case.ensure(
                cpu::try_rdmsr(0x800 + register).is_err(),
                "a register that cannot be read is read",
            );
        }
    });
    report.case(
        "x2apic-level-triggered-interrupt-ends-at-the-io-apic",
        level,
    );
    report.case("xapic-works-again", |case| {
        set_base(PAGE);
        set_base(PAGE | ENABLED);
        write(SVR, 0x1ff);
        nesting(case);
    });
}

fn set_base(base: u64) {
    let bsp = cpu::rdmsr(msr::IA32_APIC_BASE) & 1 << 8;
    cpu::wrmsr(msr::IA32_APIC_BASE, base | bsp);
}

/// There is neither a register nor memory at this address.
fn nothing_at(case: &mut Case, page: u64) {
    for offset in [0x20, 0x30, 0x80, 0x390, 0xff0] {
        write_at(page + offset, 0x1234_5678);
        case.equal("what is read", read_at(page + offset), !0);
    }
}

fn nesting(case: &mut Case) {
    request(LOW);
    open();
    let expected = [LOW.into(), HIGH.into(), end(LOW), SAME_CLASS.into()];
    expect_log(case, "not in the order of their priorities", &expected);
}

/// PPR, and the words of ISR and IRR for the vectors from 0x40 on, as a handler finds them.
static SEEN: Single<[u32; 3]> = Single::new([0; 3]);

fn on_look(_: &mut Frame) {
    request(SAME_CLASS);
    let seen = [read(PPR), read(ISR + 2), read(IRR + 2)];
    // SAFETY: one CPU, and nobody reads it meanwhile.
    unsafe { SEEN.get().write_volatile(seen) };
    write(EOI, 0);
}

fn in_service(case: &mut Case) {
    set_handler(LOW, Some(on_look));
    request(LOW);
    open();
    set_handler(LOW, Some(on_low));
    // SAFETY: one CPU; interrupts are off.
    let [ppr, isr, irr] = unsafe { SEEN.get().read_volatile() };
    case.equal("PPR", ppr, 0x40);
    case.equal("ISR", isr, 1 << 1);
    case.equal("IRR", irr, 1 << 2);
    case.equal("PPR afterwards", read(PPR), 0);
    case.equal("ISR afterwards", read(ISR + 2), 0);
    case.equal("IRR afterwards", read(IRR + 2), 0);
    expect_log(case, "the second is lost", &[SAME_CLASS.into()]);
}

fn task_priority(case: &mut Case) {
    cpu::write_cr8(6);
    case.equal("the register", read(TPR), 0x60);
    request(HIGH);
    open();
    expect_log(case, "it came through", &[]);
    case.equal("IRR", read(IRR + 3), 1 << 1);
    x86!("sti");
    cpu::write_cr8(5);
    x86!("nop", "cli");
    expect_log(case, "CR8 did not let it in", &[HIGH.into()]);
    write(TPR, 0x6f);
    case.equal("CR8", cpu::read_cr8(), 6);
    case.equal("PPR", read(PPR), 0x6f);
    request(HIGH);
    open();
    expect_log(case, "it came through", &[]);
    x86!("sti");
    write(TPR, 0);
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
        write_at(IO_APIC, register + 2 * PIT_PIN);
        write_at(IO_APIC + 0x10, value);
    }
}

fn pin() -> u32 {
    write_at(IO_APIC, 0x10 + 2 * PIT_PIN);
    read_at(IO_APIC + 0x10)
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
    write(EOI, 0);
}

fn level(case: &mut Case) {
    const LEVEL_TRIGGERED: u32 = 1 << 15;
    outb(0x43, 0x30);
    set_pin(LEVEL_TRIGGERED | u32::from(LEVEL), 0);
    for _ in 0..2 {
        shoot(20);
        x86!("sti", "hlt", "cli");
        open();
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
    set_base(MOVED | ENABLED);
    case.equal("the version", read_at(MOVED + 0x30), 0x0005_0014);
    nothing_at(case, PAGE);
    // Requested and ended at the new place.
    set_handler(
        HIGH,
        Some(|_| {
            note(HIGH.into());
            write_at(MOVED + 0xb0, 0);
        }),
    );
    for _ in 0..2 {
        write_at(MOVED + 0x300, 0x4_0000 | u32::from(HIGH));
        open();
        expect_log(case, "no interrupt", &[HIGH.into()]);
    }
    set_handler(HIGH, Some(on_other));
    set_base(PAGE | ENABLED);
    case.equal("the version", read(VERSION), 0x0005_0014);
    nothing_at(case, MOVED);
}

fn disabled(case: &mut Case) {
    set_base(PAGE);
    nothing_at(case, PAGE);
    cpu::write_cr8(3);
    case.equal("CR8", cpu::read_cr8(), 3);
    set_base(PAGE | ENABLED);
    case.equal("the version", read(VERSION), 0x0005_0014);
    cpu::write_cr8(0);
}
