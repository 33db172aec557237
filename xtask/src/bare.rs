//! A guest on the bare machine, without the hypervisor: real behaviour to judge ours by.
//!
//! The guest is laid out by the very loaders that the hypervisor uses, so its memory, its memory map and its first
//! registers are those that it has in a VM. The emulator puts the result ([`hand_over`]) somewhere into RAM, and
//! the boot sector of `guests/src/starter.S` moves it to its places and jumps. A boot sector is its own disk.
//!
//! Where a VM's ACPI tables start is not told: a kernel finds those of the machine by searching.

use crate::build::Artifacts;
use crate::emulator::{Disk, Msrs, bytes_with_bundle};
use crate::guests::Guest;
use anyhow::{Context, Result, bail};
use arch::{Efer, Gpr};
use bundle::KernelFormat;
use machine::Display;
use machine::layout::MachineLayout;
use machine::loader::{self, Format, InitialState, LoadError, Module, Request};
use memory::{GuestMemory, GuestPhys, Unbacked};
use std::cell::RefCell;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// A disk that a BIOS starts from, and that no emulator's geometry cuts: whole cylinders.
const CYLINDER_BYTES: usize = 16 * 63 * 512;

/// The starter keeps this for itself.
const STARTER: Range<u64> = 0x9_e000..0x9_f000;

/// Words before the records of a hand-over.
const HEADER_BYTES: usize = 56;
const RECORD_BYTES: usize = 12;

/// The granularity in which what is zero is left out.
const PAGE: usize = 4096;

/// The disk of a bare machine for this guest, and how much memory the machine needs.
pub fn disk(artifacts: &Artifacts, guest: &Guest) -> Result<(Disk, u32)> {
    let kernel = read(&guest.kernel)?;
    let format = format(guest, &kernel)?;
    if format != Format::BOOT_SECTOR && matches!(format, Format::Flat { .. }) {
        bail!("on the bare machine a flat binary starts where a BIOS puts it, at 0x7c00");
    }
    if format == Format::BOOT_SECTOR {
        let image = artifacts
            .bare_disk
            .with_file_name(format!("bare-{}.img", guest.config.name));
        crate::build::write_if_different(&image, &padded(kernel))?;
        let memory_mib = mebibytes(guest.config.memory_bytes)?;
        return Ok((Disk::Complete { image }, memory_mib));
    }
    let bundle = hand_over(guest)?;
    let memory_mib = mebibytes(bytes_with_bundle(
        guest.config.memory_bytes,
        bundle.len() as u64,
    ))?;
    let image = artifacts.bare_disk.clone();
    Ok((Disk::WithPointer { image, bundle }, memory_mib))
}

/// The registers that the machine must have. Our own guests ask for none of those that Bochs lacks without being
/// ready for a fault; Linux does.
#[must_use]
pub fn msrs(guest: &Guest) -> Msrs {
    match fs::read(&guest.kernel).map(|kernel| format(guest, &kernel)) {
        Ok(Ok(Format::Linux)) => Msrs::Everywhere,
        _ => Msrs::Emulators,
    }
}

fn mebibytes(bytes: u64) -> Result<u32> {
    u32::try_from(bytes.div_ceil(1 << 20)).context("that is more memory than any machine has")
}

/// The disk with the starter, whose second sector is a place for a pointer.
pub fn starter_disk(starter: &Path) -> Result<Vec<u8>> {
    let mut disk = read(starter)?;
    disk.extend(bundle::Pointer::PLACEHOLDER);
    Ok(padded(disk))
}

fn padded(mut disk: Vec<u8>) -> Vec<u8> {
    disk.resize(disk.len().next_multiple_of(CYLINDER_BYTES), 0);
    disk
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn format(guest: &Guest, kernel: &[u8]) -> Result<Format> {
    Ok(match guest.config.kernel_format {
        KernelFormat::Auto => loader::detect(kernel)?,
        KernelFormat::Linux => Format::Linux,
        KernelFormat::Elf => Format::Elf,
        KernelFormat::Multiboot => Format::Multiboot,
        KernelFormat::Multiboot2 => Format::Multiboot2,
        KernelFormat::Pvh => Format::Pvh,
        KernelFormat::Flat { address } => Format::Flat {
            address: GuestPhys::new(u64::from(address)),
        },
    })
}

/// The guest as the starter takes it: registers, and records of what goes where.
fn hand_over(guest: &Guest) -> Result<Vec<u8>> {
    let kernel = read(&guest.kernel)?;
    let initrd = guest.initrd.as_deref().map(read).transpose()?;
    let mut modules = Vec::new();
    for (path, cmdline) in &guest.modules {
        modules.push((read(path)?, cmdline));
    }
    let modules: Vec<_> = modules
        .iter()
        .map(|(bytes, cmdline)| Module { bytes, cmdline })
        .collect();
    let layout = MachineLayout::new(guest.config.memory_bytes, guest.config.cpus);
    let memory = Recorder::new(&layout)?;
    let request = Request {
        kernel: &kernel,
        format: Some(format(guest, &kernel)?),
        initrd: initrd.as_deref(),
        modules: &modules,
        cmdline: &guest.config.cmdline,
        layout,
        rsdp: None,
        // The boot loader has left it in a graphics mode.
        display: Display::Absent,
    };
    let loaded = loader::load(&request, &memory).map_err(|error| match error {
        LoadError::Unbacked(at) => anyhow::anyhow!("the starter keeps the page of {at} for itself"),
        error => error.into(),
    })?;
    serialise(&loaded.state, memory)
}

fn serialise(state: &InitialState, memory: Recorder) -> Result<Vec<u8>> {
    let mode = if state.efer.contains(Efer::LMA) {
        64
    } else {
        32
    };
    let pieces = memory.pieces();
    let mut out = Vec::new();
    let mut word = |value: u64| -> Result<()> {
        let value = u32::try_from(value).context("it starts above 4 GiB")?;
        out.extend(value.to_le_bytes());
        Ok(())
    };
    word(mode)?;
    word(state.rip)?;
    word(u64::from(state.gdtr.limit) << 16)?;
    word(state.gdtr.base)?;
    word(state.cr3)?;
    for register in [
        Gpr::Rax,
        Gpr::Rcx,
        Gpr::Rdx,
        Gpr::Rbx,
        Gpr::Rsp,
        Gpr::Rbp,
        Gpr::Rsi,
        Gpr::Rdi,
    ] {
        word(state.gprs.get(register))?;
    }
    word(pieces.len() as u64)?;
    let mut offset = HEADER_BYTES + pieces.len() * RECORD_BYTES;
    for (range, is_zero) in &pieces {
        word(range.start as u64)?;
        word(range.len() as u64)?;
        word(if *is_zero { 0 } else { offset as u64 })?;
        if !is_zero {
            offset += range.len();
        }
    }
    let bytes = memory.bytes.into_inner();
    for (range, _) in pieces.into_iter().filter(|(_, is_zero)| !is_zero) {
        out.extend(&bytes[range]);
    }
    Ok(out)
}

/// A guest's memory that remembers where something was written.
struct Recorder {
    bytes: RefCell<Vec<u8>>,
    written: RefCell<Vec<Range<usize>>>,
}

impl Recorder {
    fn new(layout: &MachineLayout) -> Result<Self> {
        let bytes = usize::try_from(layout.low_ram().len())?;
        if bytes as u64 <= STARTER.end {
            bail!("a bare machine has at least a megabyte of memory");
        }
        Ok(Self {
            bytes: RefCell::new(vec![0; bytes]),
            written: RefCell::default(),
        })
    }

    fn range(&self, gpa: GuestPhys, bytes: usize) -> Result<Range<usize>, Unbacked> {
        let start = usize::try_from(gpa.as_u64()).map_err(|_| Unbacked(gpa))?;
        let end = start.checked_add(bytes).ok_or(Unbacked(gpa))?;
        let is_starters = (start as u64) < STARTER.end && end as u64 > STARTER.start;
        if end > self.bytes.borrow().len() || is_starters {
            return Err(Unbacked(gpa));
        }
        Ok(start..end)
    }

    /// What was written, in pieces that are all zero or hardly have a zero page.
    fn pieces(&self) -> Vec<(Range<usize>, bool)> {
        let bytes = self.bytes.borrow();
        let mut written = self.written.borrow().clone();
        written.sort_by_key(|range| range.start);
        let mut pieces: Vec<(Range<usize>, bool)> = Vec::new();
        let mut done = 0;
        for range in written {
            let mut at = range.start.max(done);
            while at < range.end {
                let end = range.end.min((at + 1).next_multiple_of(PAGE));
                let is_zero = bytes[at..end].iter().all(|byte| *byte == 0);
                match pieces.last_mut() {
                    Some((last, kind)) if last.end == at && *kind == is_zero => last.end = end,
                    _ => pieces.push((at..end, is_zero)),
                }
                at = end;
            }
            done = done.max(range.end);
        }
        pieces
    }
}

impl GuestMemory for Recorder {
    fn read(&self, gpa: GuestPhys, buffer: &mut [u8]) -> Result<(), Unbacked> {
        let range = self.range(gpa, buffer.len())?;
        buffer.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), Unbacked> {
        let range = self.range(gpa, bytes.len())?;
        self.bytes.borrow_mut()[range.clone()].copy_from_slice(bytes);
        self.written.borrow_mut().push(range);
        Ok(())
    }

    fn compare_exchange_u64(&self, at: GuestPhys, current: u64, new: u64) -> Result<u64, Unbacked> {
        let old = self.read_u64(at)?;
        if old == current {
            self.write(at, &new.to_le_bytes())?;
        }
        Ok(old)
    }

    fn compare_exchange_u32(&self, at: GuestPhys, current: u32, new: u32) -> Result<u32, Unbacked> {
        let old = self.read_u32(at)?;
        if old == current {
            self.write(at, &new.to_le_bytes())?;
        }
        Ok(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> Recorder {
        Recorder::new(&MachineLayout::new(2 << 20, 1)).unwrap()
    }

    #[test]
    fn what_was_written_comes_out_once_and_zero_pages_are_only_named() {
        let memory = recorder();
        let write = |at, bytes: &[u8]| memory.write(GuestPhys::new(at), bytes).unwrap();
        write(0x1800, &[1; 0x900]);
        write(0x2000, &[0; 0x3000]);
        write(0x1900, &[2; 4]);
        write(0x10_0000, &[3; 5]);
        assert_eq!(
            memory.pieces(),
            [
                (0x1800..0x2000, false),
                (0x2000..0x5000, true),
                (0x10_0000..0x10_0005, false)
            ]
        );
    }

    #[test]
    fn the_page_of_the_starter_and_what_is_no_memory_are_refused() {
        let memory = recorder();
        for (at, bytes) in [(0x9_e000, 1), (0x9_dfff, 2), (0x1f_ffff, 2), (u64::MAX, 1)] {
            let refused = memory.write(GuestPhys::new(at), &vec![0; bytes]);
            assert_eq!(refused, Err(Unbacked(GuestPhys::new(at))), "{at:#x}");
        }
        assert!(memory.write(GuestPhys::new(0x9_f000), &[0]).is_ok());
    }

    #[test]
    fn a_hand_over_says_where_everything_goes() {
        let folder = tempfile::tempdir().unwrap();
        let sector = folder.path().join("sector");
        // A Multiboot kernel of the a.out kind: header, then one instruction, all at 1 MiB.
        let (magic, flags) = (0x1bad_b002u32, 1u32 << 16);
        let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
        let words = [
            magic, flags, checksum, 0x10_0000, 0x10_0000, 0x10_0024, 0x10_0024, 0x10_0020, 0xf4,
        ];
        let kernel: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        fs::write(&sector, &kernel).unwrap();
        let out = hand_over(&Guest::new("g", &sector, 2 << 20)).unwrap();
        let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((word(0), word(4)), (32, 0x10_0020));
        assert_eq!(word(20), 0x2bad_b002, "EAX");
        let records = word(52);
        let at = |index: usize| HEADER_BYTES + index * RECORD_BYTES;
        let kernel_record = (0..records)
            .map(at)
            .find(|at| word(*at) == 0x10_0000)
            .unwrap();
        assert_eq!(word(kernel_record + 4), kernel.len());
        let from = word(kernel_record + 8);
        assert_eq!(out[from..from + kernel.len()], kernel);
    }

    #[test]
    fn the_starters_disk_has_a_place_for_a_pointer_and_whole_cylinders() {
        let folder = tempfile::tempdir().unwrap();
        let starter = folder.path().join("starter");
        fs::write(&starter, [7; 512]).unwrap();
        let disk = starter_disk(&starter).unwrap();
        assert_eq!(disk.len(), CYLINDER_BYTES);
        assert!(disk[512..].starts_with(&bundle::Pointer::PLACEHOLDER));
    }
}
