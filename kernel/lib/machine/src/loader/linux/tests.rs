//! bzImages made by hand: how each is entered, what it finds, and what is refused.

use super::super::fake::FakeMemory;
use super::super::{Format, detect, load, tests::request};
use super::*;
use crate::Handover;
use crate::layout::MachineLayout;
use alloc::vec::Vec;
use arch::{AccessRights, Cr0, Efer, SegmentName};

/// A bzImage of a version, with one setup sector and 0x400 bytes of code; 64-bit from 2.12 on.
pub(in super::super) fn bzimage(version: u16) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    let mut set = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[1]);
    set(0x1f4, &0x40u32.to_le_bytes());
    set(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    set(0x202, b"HdrS");
    set(0x206, &version.to_le_bytes());
    set(0x211, &[1]);
    set(0x214, &0x10_0000u32.to_le_bytes());
    set(0x22c, &0x7fff_ffffu32.to_le_bytes());
    set(0x230, &0x20_0000u32.to_le_bytes());
    set(0x234, &[1]);
    set(0x236, &[if version >= 0x20c { 1 } else { 0 }]);
    set(0x238, &255u32.to_le_bytes());
    set(0x258, &0x100_0000u64.to_le_bytes());
    set(0x260, &0x10_0000u32.to_le_bytes());
    file.extend((0..0x400u32).map(|index| index as u8));
    file
}

fn with_memory(kernel: &[u8], mib: u64) -> (Request<'_>, FakeMemory) {
    let layout = MachineLayout::new(mib << 20, 1);
    (
        Request {
            layout,
            ..request(kernel)
        },
        FakeMemory::new((mib << 20) as usize),
    )
}

fn word(memory: &FakeMemory, at: u64) -> u32 {
    memory.read_u32(GuestPhys::new(at)).unwrap()
}

#[test]
fn a_64_bit_kernel_is_entered_at_0x200_with_its_zero_page() {
    let kernel = bzimage(0x20f);
    let (mut request, memory) = with_memory(&kernel, 32);
    request.cmdline = "console=ttyS0";
    request.initrd = Some(b"an initial RAM disk");
    request.rsdp = Some(GuestPhys::new(0xe_0000));
    request.display = Display::Vga;
    let loaded = load(&request, &memory).unwrap();
    assert_eq!(loaded.format, Format::Linux);
    assert_eq!(loaded.state.rip, 0x100_0200);
    assert!(loaded.state.efer.contains(Efer::LMA));
    let cs = loaded.state.segment(SegmentName::Cs);
    assert_eq!(cs.selector, 0x10);
    assert!(cs.access.contains(AccessRights::LONG));
    assert_eq!(loaded.state.segment(SegmentName::Ds).selector, 0x18);
    assert_eq!(memory.bytes(0x100_0000, 0x400), kernel[0x400..]);

    let zero_page = loaded.state.gprs.get(Gpr::Rsi);
    assert_eq!(memory.bytes(zero_page + 0x202, 4), b"HdrS");
    assert_eq!(memory.bytes(zero_page + 0x210, 1), [0xff]);
    assert_eq!(memory.bytes(zero_page + 0x1ef, 1), [0], "the sentinel");
    assert_eq!(word(&memory, zero_page + 0x214), 0x100_0000);
    assert_eq!(
        memory.string(word(&memory, zero_page + 0x228).into()),
        b"console=ttyS0"
    );
    let initrd = u64::from(word(&memory, zero_page + 0x218));
    assert_eq!(initrd, 0x1ff_f000, "the last page of memory");
    assert_eq!(word(&memory, zero_page + 0x21c), 19);
    assert_eq!(memory.bytes(initrd, 19), b"an initial RAM disk");
    assert_eq!(word(&memory, zero_page + 0x70), 0xe_0000);
    assert_eq!(memory.bytes(zero_page + 6, 2), [3, 80], "mode and columns");
    assert_eq!(memory.bytes(zero_page + 14, 3), [25, 1, 16]);
    assert_eq!(memory.bytes(zero_page + 0x1e8, 1), [5]);
    let e820 = memory.bytes(zero_page + 0x2d0, 20);
    assert_eq!(e820[8..20], [0, 0xfc, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn an_older_kernel_is_entered_in_protected_mode_at_1_mib() {
    let kernel = bzimage(0x206);
    let (request, memory) = with_memory(&kernel, 32);
    let state = load(&request, &memory).unwrap().state;
    assert_eq!(state.rip, 0x10_0000);
    assert!(!state.efer.contains(Efer::LMA));
    assert_eq!(state.segment(SegmentName::Cs).selector, 0x10);
    assert_ne!(state.gprs.get(Gpr::Rsi), 0);
}

#[test]
fn a_kernel_without_a_32_bit_entry_starts_in_real_mode_with_a_bios() {
    let mut kernel = bzimage(0x207);
    kernel[0x214..0x218].fill(0);
    let (mut request, memory) = with_memory(&kernel, 32);
    request.cmdline = "shell";
    request.initrd = Some(b"disk");
    let loaded = load(&request, &memory).unwrap();
    assert_eq!(loaded.handover, Handover::Bios);
    let cs = loaded.state.segment(SegmentName::Cs);
    let base = cs.base - 0x200;
    assert_eq!((loaded.state.rip, base % 0x1_0000), (0, 0));
    assert!(!loaded.state.cr0.contains(Cr0::PE));
    for name in [SegmentName::Ds, SegmentName::Es, SegmentName::Ss] {
        assert_eq!(loaded.state.segment(name).base, base);
    }
    assert_eq!(loaded.state.gprs.get(Gpr::Rsp), 0xe000);
    assert_eq!(memory.bytes(base, 0x1f1), kernel[..0x1f1]);
    assert_eq!(memory.bytes(base + 0x210, 2), [0xff, 0x81]);
    assert_eq!(memory.bytes(base + 0x224, 2), [0x00, 0xde]);
    assert_eq!(word(&memory, base + 0x214), 0x10_0000);
    assert_eq!(memory.string(word(&memory, base + 0x228).into()), b"shell");
    assert_eq!(memory.bytes(word(&memory, base + 0x218).into(), 4), b"disk");
    assert_eq!(memory.bytes(0x10_0000, 0x400), kernel[0x400..]);
}

#[test]
fn a_kernel_that_prefers_an_address_beyond_its_memory_is_moved() {
    let kernel = bzimage(0x20f);
    let (request, memory) = with_memory(&kernel, 8);
    assert_eq!(load(&request, &memory).unwrap().state.rip, 0x20_0200);
    let mut fixed = kernel.clone();
    fixed[0x234] = 0;
    let (request, memory) = with_memory(&fixed, 8);
    let error = load(&request, &memory).unwrap_err();
    assert!(matches!(
        error,
        LoadError::OutsideMemory {
            start: 0x100_0000,
            ..
        }
    ));
}

#[test]
fn the_initial_ram_disk_stays_below_the_kernels_limit() {
    let mut kernel = bzimage(0x20f);
    kernel[0x22c..0x230].copy_from_slice(&0x17f_ffffu32.to_le_bytes());
    let initrd = vec![7; 0x1001];
    let (mut request, memory) = with_memory(&kernel, 32);
    request.initrd = Some(&initrd);
    let zero_page = load(&request, &memory).unwrap().state.gprs.get(Gpr::Rsi);
    assert_eq!(word(&memory, zero_page + 0x218), 0x17f_e000);
    assert_eq!(memory.bytes(0x17f_e000, 0x1001), initrd);
}

#[test]
fn what_does_not_fit_is_refused() {
    let kernel = bzimage(0x20f);
    let initrd = vec![0; 15 << 20];
    let (mut request, memory) = with_memory(&kernel, 16);
    request.initrd = Some(&initrd);
    assert!(matches!(
        load(&request, &memory),
        Err(LoadError::NoRoom { .. })
    ));
    request.initrd = None;
    let cmdline = "x".repeat(256);
    request.cmdline = &cmdline;
    assert_eq!(
        load(&request, &memory).unwrap_err(),
        LoadError::CommandLineTooLong {
            bytes: 256,
            limit: 255
        }
    );
}

#[test]
fn a_corrupt_header_is_refused_with_the_reason() {
    let with = |at: usize, bytes: &[u8]| {
        let mut kernel = bzimage(0x20f);
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
        let (request, memory) = with_memory(&kernel, 32);
        load(&request, &memory)
            .map(|loaded| loaded.format)
            .unwrap_err()
    };
    assert_eq!(with(0x206, &[5, 2]), LoadError::OldBootProtocol(0x205));
    assert!(matches!(with(0x211, &[0]), LoadError::Unsupported(_)));
    assert!(matches!(with(0x201, &[0x10]), LoadError::Malformed(_)));
    assert!(matches!(with(0x201, &[0xff]), LoadError::Malformed(_)));
    assert!(matches!(with(0x1f1, &[60]), LoadError::Truncated(_)));
    assert!(matches!(with(0x1f4, &[0x41]), LoadError::Truncated(_)));
    assert!(matches!(with(0x1f4, &[0; 4]), LoadError::Malformed(_)));
    assert!(matches!(
        with(0x230, &[3, 0, 0, 0]),
        LoadError::Malformed(_)
    ));
    // Without its magic number, it looks like a boot sector, which a kernel of this size is not.
    let mut kernel = bzimage(0x20f);
    kernel[0x202] = 0;
    assert_eq!(
        detect(&kernel),
        Ok(Format::Flat {
            address: GuestPhys::new(0x7c00)
        })
    );
}

#[test]
fn a_file_that_ends_within_its_last_paragraph_is_whole() {
    let kernel = bzimage(0x20f);
    let (request, memory) = with_memory(&kernel[..0x7f1], 32);
    assert!(load(&request, &memory).is_ok());
    assert_eq!(memory.bytes(0x100_03f0, 3), [0xf0, 0, 0]);
}

#[test]
fn a_file_that_is_cut_anywhere_else_is_refused() {
    let kernel = bzimage(0x20f);
    for length in 0x264..kernel.len() - 15 {
        let (request, memory) = with_memory(&kernel[..length], 2);
        assert!(
            matches!(load(&request, &memory), Err(LoadError::Truncated(_))),
            "{length:#x}"
        );
    }
}
