//! The snippets of `snippets.S`, run on either kind of memory and compared.

use core::arch::global_asm;
use core::ffi::CStr;

use plinth_guests::exceptions::{Fault, probe};
use plinth_guests::paging::{self, entry};
use plinth_guests::single::Single;
use plinth_guests::{Case, Report};

use crate::{Backing, Memory, PAGES, WINDOW};

global_asm!(include_str!("snippets.S"));

/// The status flags, and the direction flag.
const STATUS: u64 = 0x8d5;
const DF: u64 = 0x400;
/// How often each snippet runs, from different states.
const ROUNDS: u64 = 3;

/// One snippet, as `snippets.S` lays it out.
#[repr(C)]
struct Snippet {
    group: *const core::ffi::c_char,
    text: *const core::ffi::c_char,
    code: u64,
    ignored_flags: u64,
}

/// What a snippet gets and leaves, as `snippet_run` reads and writes it.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Registers {
    /// RAX, RCX, RDX, RBX, RBP, RSI, RDI, and R8 to R15.
    general: [u64; 15],
    rflags: u64,
    vector: [u64; 4],
}

unsafe extern "C" {
    static snippets: Snippet;
    static snippets_end: Snippet;
    fn snippet_run(code: u64, registers: *mut Registers);
    fn snippet_return();
}

/// Plain RAM for the other operand.
#[repr(align(4096))]
struct Buffer(#[expect(dead_code, reason = "reached by its address")] [u64; BUFFER_WORDS]);
const BUFFER_WORDS: usize = 64;
static BUFFER: Single<Buffer> = Single::new(Buffer([0; BUFFER_WORDS]));

/// The parts of the window that are filled and compared: offset and number of words.
const PARTS: [(u64, usize); 4] = [(0x100, 24), (0x300, 24), (0xff0, 4), (0x1fe0, 4)];
const WORDS: usize = 56;

/// What a snippet has done.
struct Outcome {
    ended: Result<(), Fault>,
    registers: Registers,
    memory: [u64; WORDS],
    buffer: [u64; BUFFER_WORDS],
}

/// A generator of numbers that are the same in each run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // Now and then a value at an edge.
        match self.0 >> 59 {
            0 => 0,
            1 => u64::MAX,
            2 => 0x8080_8080_8080_8080,
            3 => 0x7f7f_7fff_7fff_ffff,
            _ => self.0,
        }
    }
}

fn all_snippets() -> &'static [Snippet] {
    let (start, end) = (&raw const snippets, &raw const snippets_end);
    // SAFETY: the table lies between the two symbols.
    unsafe {
        let count = end.offset_from(start) as usize;
        core::slice::from_raw_parts(start, count)
    }
}

fn text_of(text: *const core::ffi::c_char) -> &'static str {
    // SAFETY: the table's texts are zero-terminated.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("?")
}

/// Runs a snippet from the state that a seed gives.
fn run(snippet: &Snippet, memory: Memory, backing: Backing, seed: u64) -> Outcome {
    memory.show(backing, entry::P | entry::RW);
    let mut numbers = Numbers(seed);
    for (offset, words) in PARTS {
        for word in 0..words as u64 {
            paging::poke(WINDOW + offset + word * 8, numbers.next());
        }
    }
    let buffer = BUFFER.get() as u64;
    for word in 0..BUFFER_WORDS as u64 {
        paging::poke(buffer + word * 8, numbers.next());
    }
    let mut registers = Registers::default();
    for register in &mut registers.general {
        *register = numbers.next();
    }
    registers.general[1] = numbers.next() % 7;
    registers.general[5] = WINDOW + 0x340;
    registers.general[6] = WINDOW + 0x140;
    registers.general[7] = buffer + 0x40;
    registers.general[8] = snippet_return as *const () as u64;
    registers.general[9] = WINDOW + 0xffe;
    registers.general[10] = WINDOW + PAGES * 4096 - 2;
    registers.rflags = 2 | numbers.next() & (STATUS | DF);
    for vector in &mut registers.vector {
        *vector = numbers.next();
    }
    let ended = probe(|| {
        // SAFETY: snippets touch the window, the buffer and their registers only, and a fault ends in the probe.
        unsafe { snippet_run(snippet.code, &raw mut registers) }
    });
    // SAFETY: the snippet wrote it behind the compiler's back.
    let registers = unsafe { (&raw const registers).read_volatile() };
    let mut outcome = Outcome {
        ended,
        registers,
        memory: [0; WORDS],
        buffer: [0; BUFFER_WORDS],
    };
    let mut at = 0;
    for (offset, words) in PARTS {
        for word in 0..words as u64 {
            outcome.memory[at] = paging::peek(WINDOW + offset + word * 8);
            at += 1;
        }
    }
    for (word, value) in outcome.buffer.iter_mut().enumerate() {
        *value = paging::peek(buffer + word as u64 * 8);
    }
    outcome
}

/// Fails the case where two outcomes of a snippet differ.
fn compare(case: &mut Case, snippet: &Snippet, ram: &Outcome, device: &Outcome) {
    let text = text_of(snippet.text);
    match (&ram.ended, &device.ended) {
        (Ok(()), Ok(())) => {
            let names = "rax rcx rdx rbx rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15";
            let pairs = ram.registers.general.iter().zip(&device.registers.general);
            for (name, (ram, device)) in names.split(' ').zip(pairs) {
                if ram != device {
                    case.fail(format_args!("{text}: {name} is {device:#x}, not {ram:#x}"));
                }
            }
            let seen = (STATUS | DF) & !snippet.ignored_flags;
            let (flags, should) = (device.registers.rflags & seen, ram.registers.rflags & seen);
            if flags != should {
                case.fail(format_args!(
                    "{text}: the flags are {flags:#x}, not {should:#x}"
                ));
            }
            if ram.registers.vector != device.registers.vector {
                case.fail(format_args!("{text}: a vector register differs"));
            }
        }
        (Err(ram), Err(device)) => {
            let same = ram.vector() == device.vector()
                && ram.error_code() == device.error_code()
                && ram.frame.rip == device.frame.rip
                && (ram.vector() != 14 || ram.cr2 == device.cr2);
            if !same {
                case.fail(format_args!("{text}: raises {device}, not {ram}"));
            }
            let registers = |fault: &Fault| {
                let frame = &fault.frame;
                [
                    frame.rax, frame.rcx, frame.rdx, frame.rbx, frame.rbp, frame.rsi, frame.rdi,
                    frame.rsp,
                ]
            };
            if registers(ram) != registers(device) {
                case.fail(format_args!("{text}: a register differs at the fault"));
            }
            let flags = |fault: &Fault| fault.frame.rflags & !snippet.ignored_flags;
            if flags(ram) != flags(device) {
                case.fail(format_args!(
                    "{text}: the flags at the fault are {:#x}, not {:#x}",
                    flags(device),
                    flags(ram)
                ));
            }
        }
        (Ok(()), Err(device)) => case.fail(format_args!("{text}: raises {device}")),
        (Err(ram), Ok(())) => case.fail(format_args!("{text}: raises nothing, not {ram}")),
    }
    for (word, (ram, device)) in ram.memory.iter().zip(&device.memory).enumerate() {
        if ram != device {
            case.fail(format_args!(
                "{text}: word {word} of the memory is {device:#x}, not {ram:#x}"
            ));
        }
    }
    if ram.buffer != device.buffer {
        case.fail(format_args!("{text}: the other operand's memory differs"));
    }
}

/// A case for each group of snippets.
pub(super) fn all(report: &mut Report, memory: Memory) {
    let mut rest = all_snippets();
    while let Some(first) = rest.first() {
        let group = first.group;
        let length = rest
            .iter()
            .take_while(|snippet| snippet.group == group)
            .count();
        let (these, others) = rest.split_at(length);
        rest = others;
        report.case(text_of(group), |case| {
            for snippet in these {
                for round in 1..=ROUNDS {
                    let seed = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ snippet.code;
                    let ram = run(snippet, memory, Backing::Ram, seed);
                    let device = run(snippet, memory, Backing::Device, seed);
                    compare(case, snippet, &ram, &device);
                }
            }
        });
    }
}
