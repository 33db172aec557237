//! A small BIOS, for guests that call one: interrupt vectors, data area, and a stub for each service.
//!
//! A stub is VMCALL and IRET: the services themselves are carried out by the hypervisor (`vmm::handle::bios`), which
//! knows the stubs by their addresses ([`service_at`]). What a stub finds of the machine lies beside them
//! ([`MEMORY_MAP`], [`HAS_DISPLAY`]). [`install`] writes all of it to every machine; those whose boot protocol promises
//! a PC as its BIOS leaves it also find interrupt controllers and timer set up so ([`SET_UP`]).
//!
//! Addresses and contents of the data area by IBM's Personal System/2 and Personal Computer BIOS Interface
//! technical reference.

use alloc::vec;
use alloc::vec::Vec;

use memory::{GuestMemory, GuestPhys, Unbacked};

use crate::Display;
use crate::layout::{EBDA, MachineLayout};

/// Where the text of the display is.
const TEXT: GuestPhys = GuestPhys::new(0xb_8000);
/// The segment of the BIOS.
pub const SEGMENT: u16 = 0xf000;
/// The stubs, four bytes each, one for each vector.
const STUBS: u16 = 0xe000;
const STUB_BYTES: u16 = 4;
/// VMCALL, IRET.
const STUB: [u8; STUB_BYTES as usize] = [0x0f, 0x01, 0xc1, 0xcf];
/// Vectors from here on belong to nobody after a start.
const SERVED_VECTORS: u8 = 0x78;

/// Where the keyboard service goes on to wait for an interrupt: STI, HLT, and back to its stub.
pub const WAIT_FOR_KEY: u16 = 0xe400;
/// Where the timer's interrupt goes on: INT 0x1c, IRET.
pub const CALL_TICK: u16 = 0xe410;
/// Resets the machine by port 0xcf9.
const RESTART: u16 = 0xe420;
/// Where the wait of INT 0x15 goes on: STI, PAUSE, and to the stub of [`IS_WAIT_OVER`], which leads back here or to its
/// IRET.
pub const WAIT: u16 = 0xe428;
/// A vector that nobody calls, whose stub asks whether a wait is over.
pub const IS_WAIT_OVER: u8 = 0xff;
/// What the machine is, for INT 0x15, AH=0xc0.
pub const CONFIGURATION: u16 = 0xe500;
/// That table: its length, model (AT), submodel, BIOS revision; a second 8259A, a real-time clock, an extended data area.
const CONFIGURATION_TABLE: [u8; 10] = [8, 0, 0xfc, 0x01, 0, 0x64, 0, 0, 0, 0];
/// One byte: whether there is a display.
pub const HAS_DISPLAY: GuestPhys = GuestPhys::new(0xf_e430);
/// The memory map: the number of entries in two bytes, then [`E820_ENTRY_BYTES`] for each, as E820 gives them.
pub const MEMORY_MAP: GuestPhys = GuestPhys::new(0xf_e440);
/// Bytes of an entry of the memory map.
pub const E820_ENTRY_BYTES: u64 = 20;

/// The data area, by the addresses of its fields.
pub mod data {
    /// Ports of the serial interfaces.
    pub const SERIAL_PORTS: u64 = 0x400;
    /// Segment of the extended data area.
    pub const EBDA_SEGMENT: u64 = 0x40e;
    /// What INT 0x11 returns.
    pub const EQUIPMENT: u64 = 0x410;
    /// KiB below the extended data area, which INT 0x12 returns.
    pub const MEMORY_KIB: u64 = 0x413;
    /// Shift, Ctrl and Alt.
    pub const SHIFT_FLAGS: u64 = 0x417;
    /// Next key to be taken, and place for the next one, as offsets from 0x400.
    pub const KEYS_HEAD: u64 = 0x41a;
    /// Place for the next key.
    pub const KEYS_TAIL: u64 = 0x41c;
    /// Video mode, then columns.
    pub const VIDEO_MODE: u64 = 0x449;
    /// Columns.
    pub const COLUMNS: u64 = 0x44a;
    /// Bytes of a page.
    pub const PAGE_BYTES: u64 = 0x44c;
    /// Start of the active page.
    pub const PAGE_START: u64 = 0x44e;
    /// Column and row of the cursor, for each of eight pages.
    pub const CURSORS: u64 = 0x450;
    /// Last and first line of the cursor.
    pub const CURSOR_SHAPE: u64 = 0x460;
    /// The active page.
    pub const PAGE: u64 = 0x462;
    /// Port of the CRT controller.
    pub const CRTC_PORT: u64 = 0x463;
    /// Timer ticks since midnight.
    pub const TICKS: u64 = 0x46c;
    /// Whether midnight has passed.
    pub const MIDNIGHT: u64 = 0x470;
    /// When the wait that goes on is over.
    pub const WAIT_UNTIL: u64 = 0x49c;
    /// Whether a wait goes on.
    pub const WAITS: u64 = 0x4a0;
    /// First and last place for keys, as offsets from 0x400.
    pub const KEYS_START: u64 = 0x480;
    /// The end of the places for keys.
    pub const KEYS_END: u64 = 0x482;
    /// Rows - 1.
    pub const LAST_ROW: u64 = 0x484;
    /// Lines of a character.
    pub const CHARACTER_LINES: u64 = 0x485;
    /// Keyboard state: bit 1 says that the prefix 0xe0 came last.
    pub const KEYBOARD_STATE: u64 = 0x496;
}

/// What a BIOS writes to ports before it starts an operating system: interrupt controllers with vectors 8 and 0x70, timer,
/// keyboard and cascade open; the timer at 18.2 Hz.
pub const SET_UP: [(u16, u8); 13] = [
    (0x20, 0x11),
    (0x21, 0x08),
    (0x21, 0x04),
    (0x21, 0x01),
    (0xa0, 0x11),
    (0xa1, 0x70),
    (0xa1, 0x02),
    (0xa1, 0x01),
    (0x21, 0xf8),
    (0xa1, 0xff),
    (0x43, 0x36),
    (0x40, 0x00),
    (0x40, 0x00),
];

/// The vector whose stub's VMCALL is at this offset of [`SEGMENT`].
pub const fn service_at(offset: u64) -> Option<u8> {
    let from_start = offset.wrapping_sub(STUBS as u64);
    let vector = from_start / STUB_BYTES as u64;
    if from_start.is_multiple_of(STUB_BYTES as u64) && vector < 0x100 {
        return Some(vector as u8);
    }
    None
}

/// The offset of a vector's stub.
pub const fn stub(vector: u8) -> u16 {
    STUBS + vector as u16 * STUB_BYTES
}

/// Writes the BIOS to a machine's memory, and clears its display.
///
/// # Errors
/// The machine has less than 1 MiB.
pub fn install(
    layout: &MachineLayout,
    display: Display,
    memory: &impl GuestMemory,
) -> Result<(), Unbacked> {
    let mut image = Image(memory);
    let vectors: Vec<_> = (0..SERVED_VECTORS)
        .flat_map(|vector| [stub(vector), SEGMENT])
        .collect();
    image.words(0, &vectors)?;
    image.data_area()?;
    image.code(STUBS, &STUB.repeat(0x100))?;
    // JMP with the distance from behind itself.
    let back = |from: u16, to: u16| to.wrapping_sub(from).to_le_bytes();
    let [low, high] = back(WAIT_FOR_KEY + 5, stub(0x16));
    image.code(WAIT_FOR_KEY, &[0xfb, 0xf4, 0xe9, low, high])?;
    image.code(CALL_TICK, &[0xcd, 0x1c, 0xcf])?;
    let [low, high] = back(WAIT + 6, stub(IS_WAIT_OVER));
    image.code(WAIT, &[0xfb, 0xf3, 0x90, 0xe9, low, high])?;
    image.code(CONFIGURATION, &CONFIGURATION_TABLE)?;
    // MOV AL, 6; MOV DX, 0xcf9; OUT DX, AL; HLT.
    image.code(RESTART, &[0xb0, 0x06, 0xba, 0xf9, 0x0c, 0xee, 0xf4])?;
    // The processor's first address after a reset, and the date and model that a BIOS has behind it.
    let [low, high] = back(0xfff3, RESTART);
    image.code(0xfff0, &[0xe9, low, high])?;
    image.code(0xfff5, b"01/01/26\0\xfc\0")?;
    let has_display = u8::from(display == Display::Vga);
    memory.write(HAS_DISPLAY, &[has_display])?;
    let map = layout.memory_map();
    let mut bytes = (map.len() as u16).to_le_bytes().to_vec();
    for region in &map {
        bytes.extend_from_slice(&region.range.start.as_u64().to_le_bytes());
        bytes.extend_from_slice(&region.range.len().to_le_bytes());
        bytes.extend_from_slice(&(region.kind as u32).to_le_bytes());
    }
    memory.write(MEMORY_MAP, &bytes)?;
    memory.write(TEXT, &[b' ', 0x07].repeat(0x4000))
}

/// Guest memory, as a BIOS fills it.
struct Image<'a, M>(&'a M);

impl<M: GuestMemory> Image<'_, M> {
    fn words(&mut self, at: u64, words: &[u16]) -> Result<(), Unbacked> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.0.write(GuestPhys::new(at), &bytes)
    }

    fn code(&mut self, offset: u16, bytes: &[u8]) -> Result<(), Unbacked> {
        let segment = GuestPhys::new(u64::from(SEGMENT) << 4);
        self.0.write(segment.wrapping_add(u64::from(offset)), bytes)
    }

    fn data_area(&mut self) -> Result<(), Unbacked> {
        // Offsets from 0x400 of the places for keys.
        const KEYS: [u16; 2] = [0x1e, 0x3e];
        self.0
            .write(GuestPhys::new(data::SERIAL_PORTS), &vec![0; 0x100])?;
        let ebda = EBDA.start.as_u64();
        self.words(data::SERIAL_PORTS, &[0x3f8])?;
        self.words(data::EBDA_SEGMENT, &[(ebda >> 4) as u16])?;
        // 80 columns in colour; one serial interface.
        self.words(data::EQUIPMENT, &[0x0220])?;
        self.words(data::MEMORY_KIB, &[(ebda / 1024) as u16])?;
        self.words(data::KEYS_HEAD, &[KEYS[0], KEYS[0]])?;
        self.0.write(GuestPhys::new(data::VIDEO_MODE), &[3])?;
        self.words(data::COLUMNS, &[80, 0x1000])?;
        self.words(data::CURSOR_SHAPE, &[0x0d0e])?;
        self.words(data::CRTC_PORT, &[0x3d4])?;
        self.words(data::KEYS_START, &KEYS)?;
        self.0.write(GuestPhys::new(data::LAST_ROW), &[24, 16, 0])?;
        // The extended data area begins with its size in KiB.
        self.0.zero(EBDA.start, EBDA.len())?;
        self.0.write(EBDA.start, &[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::FakeMemory;

    #[test]
    fn every_vector_leads_to_a_stub_of_its_own() {
        let memory = FakeMemory::new(1 << 20);
        install(&MachineLayout::new(1 << 20, 1), Display::Vga, &memory).unwrap();
        for vector in 0..0x78u64 {
            let entry = memory.bytes(4 * vector, 4);
            let offset = u16::from_le_bytes([entry[0], entry[1]]);
            assert_eq!(entry[2..], [0x00, 0xf0]);
            assert_eq!(service_at(offset.into()), Some(vector as u8));
            assert_eq!(
                memory.bytes(0xf_0000 + u64::from(offset), 4),
                [0x0f, 0x01, 0xc1, 0xcf]
            );
        }
        assert_eq!(memory.bytes(4 * 0x78, 4), [0; 4]);
        assert_eq!(service_at(0xe001), None);
        assert_eq!(service_at(0xe400), None);
        assert_eq!(service_at(0xdffc), None);
    }

    #[test]
    fn waiting_leads_back_to_the_service() {
        let memory = FakeMemory::new(1 << 20);
        install(&MachineLayout::new(1 << 20, 1), Display::Absent, &memory).unwrap();
        let code = memory.bytes(0xf_e400, 5);
        assert_eq!(code[..3], [0xfb, 0xf4, 0xe9]);
        let target = 0xe405u16.wrapping_add(u16::from_le_bytes([code[3], code[4]]));
        assert_eq!(service_at(target.into()), Some(0x16));
        let code = memory.bytes(0xf_e428, 6);
        assert_eq!(code[..4], [0xfb, 0xf3, 0x90, 0xe9]);
        let target = 0xe42eu16.wrapping_add(u16::from_le_bytes([code[4], code[5]]));
        assert_eq!(service_at(target.into()), Some(0xff));
        let jump = memory.bytes(0xf_fff0, 3);
        let target = 0xfff3u16.wrapping_add(u16::from_le_bytes([jump[1], jump[2]]));
        assert_eq!((jump[0], target), (0xe9, 0xe420));
    }

    #[test]
    fn the_data_area_and_the_memory_map_describe_the_machine() {
        let memory = FakeMemory::new(2 << 20);
        install(&MachineLayout::new(2 << 20, 1), Display::Vga, &memory).unwrap();
        assert_eq!(memory.bytes(0x413, 2), 639u16.to_le_bytes());
        assert_eq!(memory.bytes(0x40e, 2), [0xc0, 0x9f]);
        assert_eq!(memory.bytes(0x449, 3), [3, 80, 0]);
        assert_eq!(memory.bytes(0xf_e430, 1), [1]);
        assert_eq!(memory.bytes(0xf_e440, 2), [5, 0]);
        assert_eq!(memory.bytes(0xf_e442 + 8, 4), [0, 0xfc, 9, 0]);
        assert_eq!(memory.bytes(0xb_8000, 2), [b' ', 7]);
    }
}
