//! What a PVH loader tells the guest: `hvm_start_info` with its command line and memory map.

use core::ffi::CStr;

const MAGIC: u32 = 0x336e_c578;

/// `struct hvm_start_info` of the PVH boot protocol, version 1.
#[repr(C)]
struct Raw {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `struct hvm_memmap_table_entry`: one range of the memory map.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemoryRange {
    /// The first physical address.
    pub start: u64,
    /// The length in bytes.
    pub bytes: u64,
    /// The kind, numbered as in the E820 map: 1 is RAM.
    pub kind: u32,
    reserved: u32,
}

impl MemoryRange {
    /// True for RAM that is free to use.
    pub fn is_ram(&self) -> bool {
        self.kind == 1
    }

    /// The first address after the range.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// The start information, if the loader gave any.
#[derive(Clone, Copy)]
pub struct StartInfo(Option<&'static Raw>);

impl StartInfo {
    /// The start information at a physical address; 0, or an address without the magic number, is none.
    pub fn at(address: u32) -> Self {
        if address == 0 {
            return Self(None);
        }
        // SAFETY: the PVH protocol puts the structure here, in memory that the runtime maps and leaves alone.
        let raw = unsafe { &*(address as usize as *const Raw) };
        Self((raw.magic == MAGIC).then_some(raw))
    }

    /// The protocol's version, if there is any start information.
    pub fn version(&self) -> Option<u32> {
        self.0.map(|raw| raw.version)
    }

    /// The command line.
    pub fn command_line(&self) -> Option<&'static str> {
        let raw = self.0.filter(|raw| raw.command_line != 0)?;
        // SAFETY: a non-zero address is that of a zero-terminated string below 4 GiB.
        let text = unsafe { CStr::from_ptr(raw.command_line as usize as *const _) };
        text.to_str().ok()
    }

    /// The number behind `key=` on the command line, if there is one.
    pub fn number(&self, key: &str) -> Option<u64> {
        let words = self.command_line()?.split_ascii_whitespace();
        words
            .filter_map(|word| word.split_once('='))
            .find(|(name, _)| *name == key)
            .and_then(|(_, number)| number.parse().ok())
    }

    /// The physical address of the ACPI RSDP; 0 if there is none.
    pub fn rsdp(&self) -> u64 {
        self.0.map_or(0, |raw| raw.rsdp)
    }

    /// The memory map; empty if the loader gave none.
    pub fn memory_map(&self) -> &'static [MemoryRange] {
        match self.0 {
            Some(raw) if raw.version >= 1 && raw.memory_map != 0 => {
                // SAFETY: version 1 of the protocol has the map's address and count.
                unsafe {
                    core::slice::from_raw_parts(
                        raw.memory_map as usize as *const _,
                        raw.memory_map_entries as usize,
                    )
                }
            }
            _ => &[],
        }
    }
}
