//! What a Multiboot kernel is told: the information that EBX points to, and the lists that this names. By the "Multiboot
//! Specification version 0.6.96", whose names the fields have.

use alloc::format;
use alloc::vec::Vec;

use memory::{GuestMemory, GuestPhys};

use super::super::parts::{place_modules, place_text};
use super::super::sections::Sections;
use super::super::space::{BELOW_1M, BELOW_4G, From, Space};
use super::super::{LoadError, Request};
use super::{KERNEL_NAME, LOADER_NAME, TEXT_SCREEN, memory_sizes_kib};
use crate::{Display, bios};

/// Information flags: what is valid.
mod has {
    pub(super) const MEMORY: u32 = 1 << 0;
    pub(super) const COMMAND_LINE: u32 = 1 << 2;
    pub(super) const MODULES: u32 = 1 << 3;
    pub(super) const ELF_SECTIONS: u32 = 1 << 5;
    pub(super) const MEMORY_MAP: u32 = 1 << 6;
    pub(super) const CONFIGURATION_TABLE: u32 = 1 << 8;
    pub(super) const LOADER_NAME: u32 = 1 << 9;
    pub(super) const FRAMEBUFFER: u32 = 1 << 12;
}

const INFO_BYTES: usize = 116;
const FRAMEBUFFER_OFFSET: usize = 88;

/// Writes it, and what it points to.
pub(super) fn write(
    request: &Request<'_>,
    is_elf: bool,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<GuestPhys, LoadError> {
    let info = space.place(
        "the Multiboot information",
        INFO_BYTES as u64,
        8,
        BELOW_1M,
        From::Bottom,
    )?;
    let cmdline = place_text(&format!("{KERNEL_NAME} {}", request.cmdline), memory, space)?;
    space.placement.cmdline = Some(GuestPhys::new(cmdline + KERNEL_NAME.len() as u64 + 1));
    let name = place_text(LOADER_NAME, memory, space)?;

    let mut modules = Vec::new();
    for (module, cmdline) in place_modules(request, memory, space)? {
        let cmdline = place_text(cmdline, memory, space)?;
        for address in [module.start.as_u64(), module.end.as_u64(), cmdline, 0] {
            modules.extend_from_slice(&(address as u32).to_le_bytes());
        }
    }
    let module_count = (modules.len() / 16) as u32;
    let modules = place_table("the list of modules", &modules, memory, space)?;

    let mut map = Vec::new();
    for region in &request.layout.memory_map() {
        // The size of an entry does not count itself.
        map.extend_from_slice(&20u32.to_le_bytes());
        map.extend_from_slice(&region.range.start.as_u64().to_le_bytes());
        map.extend_from_slice(&region.range.len().to_le_bytes());
        map.extend_from_slice(&(region.kind as u32).to_le_bytes());
    }
    let map_bytes = map.len() as u32;
    let map = place_table("the memory map", &map, memory, space)?;
    let section_words = if is_elf {
        place_sections(request.kernel, memory, space)?
    } else {
        None
    };

    let mut words = [0u32; INFO_BYTES / 4];
    let [lower, upper] = memory_sizes_kib(request);
    let mut flags = has::MEMORY
        | has::COMMAND_LINE
        | has::MODULES
        | has::MEMORY_MAP
        | has::CONFIGURATION_TABLE
        | has::LOADER_NAME;
    if request.display == Display::Vga {
        flags |= has::FRAMEBUFFER;
    }
    if section_words.is_some() {
        flags |= has::ELF_SECTIONS;
    }
    let [section_count, section_bytes, section_table, section_names] =
        section_words.unwrap_or_default();
    let configuration = (u32::from(bios::SEGMENT) << 4) + u32::from(bios::CONFIGURATION);
    for (index, word) in [
        (0, flags),
        (1, lower),
        (2, upper),
        (4, cmdline as u32),
        (5, module_count),
        (6, modules),
        (7, section_count),
        (8, section_bytes),
        (9, section_table),
        (10, section_names),
        (11, map_bytes),
        (12, map),
        (15, configuration),
        (16, name as u32),
    ] {
        if let Some(place) = words.get_mut(index) {
            *place = word;
        }
    }
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    if request.display == Display::Vga {
        for (place, byte) in bytes.iter_mut().skip(FRAMEBUFFER_OFFSET).zip(TEXT_SCREEN) {
            *place = byte;
        }
    }
    memory.write(info.start, &bytes)?;
    Ok(info.start)
}

/// Number, size, address and number of the names of an ELF kernel's section headers, if it has any.
fn place_sections(
    file: &[u8],
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<Option<[u32; 4]>, LoadError> {
    let Some(sections) = Sections::find(file)? else {
        return Ok(None);
    };
    let Some(table) = sections.place(memory, space)? else {
        return Ok(None);
    };
    let table = place_table("the section headers", &table, memory, space)?;
    Ok(Some([
        sections.count.into(),
        sections.entry_bytes.into(),
        table,
        sections.names.into(),
    ]))
}

/// Writes a table and returns its address, 0 for an empty one.
fn place_table(
    what: &'static str,
    bytes: &[u8],
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<u32, LoadError> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let at = space
        .place(what, bytes.len() as u64, 8, BELOW_4G, From::Bottom)?
        .start;
    memory.write(at, bytes)?;
    Ok(at.as_u64() as u32)
}
