//! Kernels with a PVH entry point: 32-bit protected mode, EBX points to an `hvm_start_info`.
//!
//! Layout and register state as in Xen's "x86/HVM direct boot ABI".

use alloc::vec::Vec;

use arch::{Gpr, Gprs};
use memory::{GuestMemory, GuestPhys};

use super::elf::{Elf, place_gdt};
use super::parts::{place_modules, place_text};
use super::space::{BELOW_1M, BELOW_4G, From, Space};
use super::start::InitialState;
use super::{LoadError, Request};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const START_INFO_BYTES: u64 = 56;
const MODULE_BYTES: u64 = 32;
const REGION_BYTES: u64 = 24;

/// Loads an ELF kernel with a PVH note. The initial RAM disk is the first module.
pub(super) fn load(
    request: &Request<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<InitialState, LoadError> {
    let elf = Elf::parse(request.kernel)?;
    let entry = elf
        .pvh_entry()
        .ok_or(LoadError::Malformed("the ELF file has no PVH note"))?;
    elf.load(memory, space)?;

    let info = space
        .place(
            "the start info",
            START_INFO_BYTES,
            8,
            BELOW_1M,
            From::Bottom,
        )?
        .start;
    let command_line = place_text(request.cmdline, memory, space)?;
    space.placement.cmdline = (command_line != 0).then_some(GuestPhys::new(command_line));
    let modules = list_modules(request, memory, space)?;
    let map = place_memory_map(request, memory, space)?;

    let mut bytes = Vec::with_capacity(START_INFO_BYTES as usize);
    for word in [MAGIC, VERSION, 0, modules.count] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let rsdp = request.rsdp.map_or(0, GuestPhys::as_u64);
    for pointer in [modules.at, command_line, rsdp, map.at] {
        bytes.extend_from_slice(&pointer.to_le_bytes());
    }
    for word in [map.count, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    memory.write(info, &bytes)?;

    let gdt = place_gdt(space)?;
    let mut gprs = Gprs::new();
    gprs.set(Gpr::Rbx, info.as_u64());
    let state = InitialState::protected(entry, gdt, gprs);
    state.write_gdt(memory, gdt)?;
    Ok(state)
}

/// A table in guest memory; address 0 if it is empty.
struct Table {
    at: u64,
    count: u32,
}

fn list_modules(
    request: &Request<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<Table, LoadError> {
    let mut table = Vec::new();
    for (module, cmdline) in place_modules(request, memory, space)? {
        let cmdline = place_text(cmdline, memory, space)?;
        for word in [module.start.as_u64(), module.len(), cmdline, 0] {
            table.extend_from_slice(&word.to_le_bytes());
        }
    }
    place_table("the list of modules", &table, MODULE_BYTES, memory, space)
}

fn place_memory_map(
    request: &Request<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<Table, LoadError> {
    let mut table = Vec::new();
    for region in &request.layout.memory_map() {
        table.extend_from_slice(&region.range.start.as_u64().to_le_bytes());
        table.extend_from_slice(&region.range.len().to_le_bytes());
        table.extend_from_slice(&(region.kind as u64).to_le_bytes());
    }
    place_table("the memory map", &table, REGION_BYTES, memory, space)
}

fn place_table(
    what: &'static str,
    bytes: &[u8],
    entry_bytes: u64,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<Table, LoadError> {
    if bytes.is_empty() {
        return Ok(Table { at: 0, count: 0 });
    }
    let size = bytes.len() as u64;
    let range = space.place(what, size, 8, BELOW_4G, From::Bottom)?;
    memory.write(range.start, bytes)?;
    Ok(Table {
        at: range.start.as_u64(),
        count: (size / entry_bytes) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeMemory, FakeSegment, elf};
    use super::super::{Format, Module, load, tests::request};
    use super::*;
    use arch::SegmentName;

    fn kernel() -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4u32, 4, 18] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0");
        note.extend(0x10_0004u32.to_le_bytes());
        let segments = [
            FakeSegment {
                kind: 1,
                virtual_address: 0x10_0000,
                physical_address: 0x10_0000,
                memory_bytes: 8,
                contents: &[0x90; 8],
            },
            FakeSegment {
                kind: 4,
                virtual_address: 0,
                physical_address: 0,
                memory_bytes: 0,
                contents: &note,
            },
        ];
        elf(2, 0x10_0000, &segments)
    }

    #[test]
    fn the_start_info_describes_the_machine() {
        let memory = FakeMemory::new(2 << 20);
        let kernel = kernel();
        let modules = [Module {
            bytes: b"module",
            cmdline: "with arguments",
        }];
        let request = Request {
            initrd: Some(b"initial RAM disk"),
            modules: &modules,
            cmdline: "console=ttyS0",
            rsdp: Some(GuestPhys::new(0xe_0000)),
            ..request(&kernel)
        };
        let loaded = load(&request, &memory).unwrap();
        assert_eq!(loaded.format, Format::Pvh);
        assert_eq!(loaded.state.rip, 0x10_0004);
        assert_eq!(loaded.state.segment(SegmentName::Tr).limit, 0x67);
        let info = loaded.state.gprs.get(Gpr::Rbx);
        let word = |offset| memory.read_u32(GuestPhys::new(info + offset)).unwrap();
        let pointer = |at: u64| memory.read_u64(GuestPhys::new(at)).unwrap();
        assert_eq!(
            [word(0), word(4), word(8), word(12)],
            [0x336e_c578, 1, 0, 2]
        );
        assert_eq!(memory.string(pointer(info + 24)), b"console=ttyS0");
        assert_eq!(pointer(info + 32), 0xe_0000);

        let list = pointer(info + 16);
        assert_eq!(memory.bytes(pointer(list), 16), b"initial RAM disk");
        assert_eq!((pointer(list + 8), pointer(list + 16)), (16, 0));
        assert_eq!(memory.bytes(pointer(list + 32), 6), b"module");
        assert_eq!(memory.string(pointer(list + 48)), b"with arguments");

        let map = pointer(info + 40);
        assert_eq!(word(48), 5);
        assert_eq!(
            (pointer(map), pointer(map + 8), pointer(map + 16)),
            (0, 0x9_fc00, 1)
        );
        assert_eq!(
            (pointer(map + 72), pointer(map + 80)),
            (0x10_0000, 0x10_0000)
        );
    }

    #[test]
    fn modules_that_do_not_fit_are_refused() {
        let memory = FakeMemory::new(2 << 20);
        let kernel = kernel();
        let initrd = alloc::vec![0; 1 << 20];
        let request = Request {
            initrd: Some(&initrd),
            ..request(&kernel)
        };
        assert_eq!(
            load(&request, &memory).unwrap_err(),
            LoadError::NoRoom {
                what: "a module",
                bytes: 1 << 20
            }
        );
    }

    #[test]
    fn a_command_line_without_end_is_refused() {
        let memory = FakeMemory::new(2 << 20);
        let kernel = kernel();
        let cmdline = "x".repeat(4096);
        let request = Request {
            cmdline: &cmdline,
            ..request(&kernel)
        };
        assert_eq!(
            load(&request, &memory).unwrap_err(),
            LoadError::CommandLineTooLong {
                bytes: 4096,
                limit: 4095
            }
        );
    }
}
