//! `multiboot`: what a Multiboot loader, of version 1 or 2, tells the kernel. The file has both headers; the magic
//! number in EAX says which of them was used.
//!
//! It expects the command line `first second` behind the kernel's name, 16 MiB of memory or more, and a module that
//! begins with `a boot module` and has `module words` somewhere on its command line, and a text screen.

#![no_std]
#![no_main]

use core::ffi::CStr;

use plinth_guests::single::Single;
use plinth_guests::{Case, Report, StartInfo, guest, println};

guest!(main);

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("../multiboot.S"));

const MULTIBOOT: u32 = 0x2bad_b002;
const MULTIBOOT2: u32 = 0x36d7_6289;
const MIB: u64 = 1 << 20;

/// EAX and EBX as the loader has left them; written by the entry point.
#[unsafe(no_mangle)]
static MULTIBOOT_REGISTERS: Single<[u32; 2]> = Single::new([0; 2]);

/// What both versions tell.
#[derive(Default)]
struct Told {
    command_line: u64,
    loader: u64,
    /// Start, end and command line of the first module.
    module: [u64; 3],
    modules: u32,
    /// Bytes of RAM by the memory map, and the KiB above 1 MiB.
    ram: u64,
    upper_kib: u32,
    rsdp: u64,
    /// Number of ELF section headers, bytes of each, and which has the names.
    sections: [u32; 3],
    /// Where they are.
    section_table: u64,
    /// Where the description of the framebuffer is.
    framebuffer: u64,
}

fn main(report: &mut Report, _: StartInfo) {
    // SAFETY: one CPU, and only the entry point has written it.
    let [magic, info] = unsafe { *MULTIBOOT_REGISTERS.get() };
    let info = u64::from(info);
    let mut told = None;
    report.case("the-loader-says-that-it-is-one", |case| {
        told = match magic {
            MULTIBOOT => Some(version_1(case, info)),
            MULTIBOOT2 => Some(version_2(case, info)),
            _ => {
                case.fail(format_args!("EAX holds {magic:#x}"));
                None
            }
        };
    });
    let Some(told) = told else {
        return;
    };
    println!("Multiboot, EAX {magic:#x}, by {}", text(told.loader));
    report.case("the-command-line-follows-the-kernels-name", |case| {
        let line = text(told.command_line);
        let arguments = line.split_once(' ').map(|(_, arguments)| arguments);
        case.ensure(arguments == Some("first second"), line);
    });
    report.case("the-memory-map-has-the-memory", |case| {
        case.ensure(told.ram >= 16 * MIB, "less than 16 MiB of RAM");
        case.ensure(
            told.upper_kib >= 15 << 10,
            "less than 15 MiB above the first",
        );
    });
    report.case("the-module-is-there-with-its-command-line", |case| {
        case.equal("modules", told.modules, 1);
        let [start, end, words] = told.module;
        const CONTENTS: &[u8] = b"a boot module";
        case.equal("the module's offset in its page", start % 4096, 0);
        case.ensure(end - start >= CONTENTS.len() as u64, "it is too short");
        for (offset, &byte) in CONTENTS.iter().enumerate() {
            case.equal("a byte of it", read::<u8>(start + offset as u64), byte);
        }
        case.ensure(text(words).contains("module words"), text(words));
    });
    report.case("the-text-screen-is-told", |case| {
        case.ensure(told.framebuffer != 0, "nothing is told of a framebuffer");
        case.equal("its address", read::<u64>(told.framebuffer), 0xb_8000);
        for (offset, wanted) in [(8, 160), (12, 80), (16, 25)] {
            let value = read::<u32>(told.framebuffer + offset);
            case.equal("pitch, width or height", value, wanted);
        }
        case.equal("bits of a cell", read::<u8>(told.framebuffer + 20), 16);
        case.equal("its type", read::<u8>(told.framebuffer + 21), 2);
    });
    report.case("the-section-headers-lead-to-their-names", |case| {
        let [count, bytes, names] = told.sections;
        case.ensure(names < count && bytes >= 64, "there are none");
        let header = told.section_table + u64::from(names) * u64::from(bytes);
        let name = read::<u64>(header + 16) + u64::from(read::<u32>(header));
        case.ensure(text(name) == ".shstrtab", text(name));
    });
    if magic == MULTIBOOT2 {
        report.case("the-acpi-tables-are-told", |case| {
            case.equal(
                "RSDP",
                read::<u64>(told.rsdp),
                u64::from_le_bytes(*b"RSD PTR "),
            );
        });
    }
}

/// The Multiboot information, by the offsets of its fields.
fn version_1(case: &mut Case, info: u64) -> Told {
    let word = |offset: u64| read::<u32>(info + offset);
    // Memory sizes, command line, modules, memory map, loader's name.
    const WANTED: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
    case.equal("the flags", word(0) & WANTED, WANTED);
    let mut told = Told {
        command_line: word(16).into(),
        loader: word(64).into(),
        modules: word(20),
        upper_kib: word(8),
        ..Told::default()
    };
    if word(0) & 1 << 5 != 0 {
        told.sections = [28, 32, 40].map(word);
        told.section_table = word(36).into();
    }
    if word(0) & 1 << 12 != 0 {
        told.framebuffer = info + 88;
    }
    let module = u64::from(word(24));
    if told.modules > 0 {
        told.module = [0, 4, 8].map(|offset| read::<u32>(module + offset).into());
    }
    let (mut at, end) = (
        u64::from(word(48)),
        u64::from(word(48)) + u64::from(word(44)),
    );
    while at < end {
        if read::<u32>(at + 20) == 1 {
            told.ram += read::<u64>(at + 12);
        }
        at += u64::from(read::<u32>(at)) + 4;
    }
    told
}

/// The list of tags.
fn version_2(case: &mut Case, info: u64) -> Told {
    case.equal("the information's alignment", info % 8, 0);
    let end = info + u64::from(read::<u32>(info));
    let mut told = Told::default();
    let mut at = info + 8;
    while at < end {
        let bytes = u64::from(read::<u32>(at + 4));
        match read::<u32>(at) {
            0 => break,
            1 => told.command_line = at + 8,
            2 => told.loader = at + 8,
            3 => {
                told.modules += 1;
                let [start, end] = [8, 12].map(|offset| read::<u32>(at + offset).into());
                told.module = [start, end, at + 16];
            }
            4 => told.upper_kib = read(at + 12),
            6 => {
                let entry_bytes = u64::from(read::<u32>(at + 8));
                let mut entry = at + 16;
                while entry < at + bytes {
                    if read::<u32>(entry + 16) == 1 {
                        told.ram += read::<u64>(entry + 8);
                    }
                    entry += entry_bytes;
                }
            }
            8 => told.framebuffer = at + 8,
            9 => {
                told.sections = [8, 12, 16].map(|offset| read(at + offset));
                told.section_table = at + 20;
            }
            15 => told.rsdp = at + 8,
            _ => {}
        }
        at = (at + bytes).next_multiple_of(8);
    }
    told
}

fn read<T: Copy>(at: u64) -> T {
    // SAFETY: the loader has put its tables below 4 GiB, where the runtime maps all memory; nobody else uses it.
    unsafe { (at as usize as *const T).read_unaligned() }
}

fn text(at: u64) -> &'static str {
    if at == 0 {
        return "";
    }
    // SAFETY: the loader's strings end with a zero byte.
    let text = unsafe { CStr::from_ptr(at as usize as *const _) };
    text.to_str().unwrap_or("not UTF-8")
}
