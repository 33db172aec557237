//! Extended page tables: the entry format, the EPT pointer, and why an access failed.
//!
//! [`Ept`] is the format that [`memory::Tables`] works on. [`explain`] walks tables for the log and says which
//! entry broke which rule. SDM vol. 3, The Extended Page Table Mechanism.

use core::fmt;

use arch::mtrr::MemoryType;
use bitflags::bitflags;
use memory::table::{ENTRIES, Entry, Format, UpperBits};
use memory::{GuestPhys, HostPhys, PageSize, Range, TableMemory};
use vmm::exit::AccessKind;

use crate::capability::{Capabilities, EptVpid};

bitflags! {
    /// What an entry that maps a page says beside the frame (SDM vol. 3, Format of an EPT Page-Table Entry).
    ///
    /// The memory type is a number in bits 5:3; [`with_memory_type`](Self::with_memory_type) sets it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct EptFlags: u64 {
        /// Reads are allowed.
        const READ = 1 << 0;
        /// Writes are allowed.
        const WRITE = 1 << 1;
        /// Fetches are allowed; under mode-based execute control, from supervisor addresses.
        const EXECUTE = 1 << 2;
        /// All three bits of the memory type.
        const MEMORY_TYPE = 7 << 3;
        /// The guest's PAT does not count.
        const IGNORE_PAT = 1 << 6;
        /// The page was used (where the EPT pointer enables such flags).
        const ACCESSED = 1 << 8;
        /// The page was written (where the EPT pointer enables such flags).
        const DIRTY = 1 << 9;
        /// Under mode-based execute control, fetches from user addresses are allowed.
        const USER_EXECUTE = 1 << 10;
        /// Sub-page write permissions may allow a write that WRITE does not.
        const SUB_PAGE_WRITE = 1 << 61;
        /// Violations exit, even where they could be #VE.
        const SUPPRESS_VE = 1 << 63;
    }
}

impl EptFlags {
    /// All accesses.
    pub const ALL_ACCESSES: Self = Self::READ.union(Self::WRITE).union(Self::EXECUTE);
    /// Ordinary guest memory: all accesses, write-back unless the guest's PAT says otherwise.
    pub const RAM: Self = Self::ALL_ACCESSES.with_memory_type(MemoryType::WriteBack);
    /// Guest memory that it cannot write.
    pub const ROM: Self = Self::READ
        .union(Self::EXECUTE)
        .with_memory_type(MemoryType::WriteBack);
    /// The APIC-access page. Nobody runs code there: a fetch is an EPT violation, as from any device.
    pub const APIC_ACCESS: Self = Self::READ
        .union(Self::WRITE)
        .with_memory_type(MemoryType::WriteBack);
    /// A page of the host's devices: uncacheable whatever the guest wants.
    pub const DEVICE: Self = Self::READ
        .union(Self::WRITE)
        .union(Self::IGNORE_PAT)
        .with_memory_type(MemoryType::Uncacheable);

    /// The memory type, or `None` where the number is reserved.
    pub const fn memory_type(self) -> Option<MemoryType> {
        MemoryType::from_number((self.bits() >> 3) as u8 & 7)
    }

    /// The same with this memory type.
    #[must_use]
    pub const fn with_memory_type(self, memory_type: MemoryType) -> Self {
        let rest = self.difference(Self::MEMORY_TYPE).bits();
        Self::from_bits_retain(rest | (memory_type as u64) << 3)
    }

    const fn right_for(kind: AccessKind) -> Self {
        match kind {
            AccessKind::Read => Self::READ,
            AccessKind::Write => Self::WRITE,
            AccessKind::Execute => Self::EXECUTE,
        }
    }
}

/// Extended page tables of four levels.
#[derive(Debug)]
pub struct Ept;

const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// An entry with none of these is not present. Under mode-based execute control bit 10 counts too; Plinth
/// never sets it alone.
const PRESENT: EptFlags = EptFlags::ALL_ACCESSES;

impl Format for Ept {
    type Flags = EptFlags;
    const LEVELS: u8 = 4;
    const UPPER_BITS: UpperBits = UpperBits::Zero;

    fn table_entry(table: HostPhys) -> u64 {
        // Tables allow everything, user fetches included; the pages decide.
        table.as_u64() & ADDRESS | (EptFlags::ALL_ACCESSES | EptFlags::USER_EXECUTE).bits()
    }

    fn leaf_entry(frame: HostPhys, size: PageSize, flags: EptFlags) -> u64 {
        let large = if size == PageSize::Size4K { 0 } else { LARGE };
        frame.align_down(size).as_u64() & ADDRESS | flags.bits() | large
    }

    fn decode(entry: u64, level: u8) -> Entry<EptFlags> {
        let flags = EptFlags::from_bits_truncate(entry);
        if !flags.intersects(PRESENT) {
            return Entry::Empty;
        }
        let size = match level {
            1 => PageSize::Size4K,
            2 if entry & LARGE != 0 => PageSize::Size2M,
            3 if entry & LARGE != 0 => PageSize::Size1G,
            _ => return Entry::Table(HostPhys::new(entry & ADDRESS)),
        };
        Entry::Leaf {
            frame: HostPhys::new(entry & ADDRESS).align_down(size),
            flags,
        }
    }
}

/// Whether the processor keeps accessed and dirty flags in the entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AccessedDirty {
    /// It does.
    Tracked,
    /// It does not.
    Ignored,
}

/// The EPT-pointer field (SDM vol. 3, Extended-Page-Table Pointer).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct EptPointer(u64);

impl EptPointer {
    const WRITE_BACK: u64 = MemoryType::WriteBack as u64;
    const FOUR_LEVELS: u64 = 3 << 3;
    const ACCESSED_DIRTY: u64 = 1 << 6;

    /// Tables of four levels in write-back memory.
    pub const fn new(root: HostPhys, flags: AccessedDirty) -> Self {
        let flags = match flags {
            AccessedDirty::Tracked => Self::ACCESSED_DIRTY,
            AccessedDirty::Ignored => 0,
        };
        Self(root.as_u64() & ADDRESS | flags | Self::FOUR_LEVELS | Self::WRITE_BACK)
    }

    /// The pointer with this value in the VMCS.
    pub const fn from_u64(value: u64) -> Self {
        Self(value)
    }

    /// The value for the VMCS and for INVEPT.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The root table.
    pub const fn root(self) -> HostPhys {
        HostPhys::new(self.0 & ADDRESS)
    }

    /// Whether accessed and dirty flags are kept.
    pub const fn accessed_dirty(self) -> AccessedDirty {
        if self.0 & Self::ACCESSED_DIRTY != 0 {
            AccessedDirty::Tracked
        } else {
            AccessedDirty::Ignored
        }
    }
}

/// Why an entry is misconfigured (SDM vol. 3, EPT Misconfigurations).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misconfiguration {
    /// Writes are allowed and reads are not.
    WriteOnly,
    /// Only fetches are allowed, which this processor cannot do.
    ExecuteOnly,
    /// Reserved bits are set: these.
    Reserved(u64),
    /// The memory type has this number, which is reserved.
    MemoryType(u8),
}

impl fmt::Display for Misconfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteOnly => f.write_str("it allows writes without reads"),
            Self::ExecuteOnly => {
                f.write_str("it allows only fetches, which this processor does not support")
            }
            Self::Reserved(bits) => write!(f, "reserved bits {bits:#x} are set"),
            Self::MemoryType(number) => write!(f, "memory type {number} is reserved"),
        }
    }
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The address is above what four levels translate.
    OutOfRange,
    /// The last entry is not present.
    NotPresent,
    /// The last entry breaks a rule.
    Misconfigured(Misconfiguration),
    /// The entry of this level does not allow the access.
    Denied {
        /// The level, 4 to 1.
        level: u8,
        /// What it does not allow.
        kind: AccessKind,
    },
    /// The tables allow the access now: a stale TLB entry, or another CPU changed them meanwhile.
    Allowed(HostPhys),
}

/// A walk through the tables, entry by entry. Its `Display` is for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The address looked up.
    pub gpa: GuestPhys,
    /// The table and the entry of levels 4, 3, 2 and 1, as far as the walk came.
    pub steps: [Option<(HostPhys, u64)>; 4],
    /// How it ended.
    pub verdict: Verdict,
}

/// Walks the tables below `root` as the processor does and says what becomes of an access.
pub fn explain<M: TableMemory>(
    memory: &M,
    root: HostPhys,
    gpa: GuestPhys,
    kind: AccessKind,
    caps: &Capabilities,
) -> Walk {
    let mut walk = Walk {
        gpa,
        steps: [None; 4],
        verdict: Verdict::OutOfRange,
    };
    if gpa.as_u64() >> 48 != 0 {
        return walk;
    }
    let mut table = root;
    let mut denied = None;
    for (step, level) in walk.steps.iter_mut().zip((1..=4).rev()) {
        let index = (gpa.as_u64() >> (12 + 9 * (level - 1))) as usize % ENTRIES;
        let entry = memory.read_entry(table, index);
        *step = Some((table, entry));
        let flags = EptFlags::from_bits_retain(entry);
        if flags.intersects(PRESENT)
            && let Err(broken) = check_entry(entry, level as u8, caps)
        {
            walk.verdict = Verdict::Misconfigured(broken);
            return walk;
        }
        if denied.is_none() && !flags.contains(EptFlags::right_for(kind)) {
            denied = Some(Verdict::Denied {
                level: level as u8,
                kind,
            });
        }
        match Ept::decode(entry, level as u8) {
            Entry::Empty => {
                walk.verdict = Verdict::NotPresent;
                return walk;
            }
            Entry::Table(next) => table = next,
            Entry::Leaf { frame, .. } => {
                let offset = gpa.as_u64() & ((1 << (12 + 9 * (level - 1))) - 1);
                walk.verdict = denied.unwrap_or(Verdict::Allowed(frame.wrapping_add(offset)));
                return walk;
            }
        }
    }
    walk
}

/// Checks a present entry of a table of this level.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_entry(entry: u64, level: u8, caps: &Capabilities) -> Result<(), Misconfiguration> {
    let flags = EptFlags::from_bits_retain(entry);
    if !flags.contains(EptFlags::READ) {
        if flags.contains(EptFlags::WRITE) {
            return Err(Misconfiguration::WriteOnly);
        }
        if !caps.ept_vpid().contains(EptVpid::EXECUTE_ONLY) {
            return Err(Misconfiguration::ExecuteOnly);
        }
    }
    let large = match level {
        2 => caps.ept_vpid().contains(EptVpid::PAGE_2M),
        3 => caps.ept_vpid().contains(EptVpid::PAGE_1G),
        _ => false,
    };
    let is_leaf = level == 1 || (large && entry & LARGE != 0);
    let mut reserved = ADDRESS & !low_bits(caps.address_widths().physical);
    match (is_leaf, level) {
        (true, 2) => reserved |= 0x001f_f000,
        (true, 3) => reserved |= 0x3fff_f000,
        (true, _) => {}
        (false, 2 | 3) if large => reserved |= 0x78,
        (false, _) => reserved |= 0xf8,
    }
    if entry & reserved != 0 {
        return Err(Misconfiguration::Reserved(entry & reserved));
    }
    if is_leaf && flags.memory_type().is_none() {
        return Err(Misconfiguration::MemoryType((entry >> 3) as u8 & 7));
    }
    Ok(())
}

const fn low_bits(count: u8) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// The most tables that it takes to map these pieces, sorted, in pages of at most this size.
pub fn tables_of(pieces: impl Iterator<Item = Range<GuestPhys>> + Clone, largest: PageSize) -> u64 {
    // What an entry of the parent's level spans decides which table it is, and pages of that size need none.
    let spans = [1 << 39, PageSize::Size1G.bytes(), PageSize::Size2M.bytes()];
    let tables_at = |span: u64| {
        let mut count = 0;
        let mut counted_to = 0;
        for piece in pieces.clone() {
            if span <= largest.bytes() && piece.len() >= span {
                continue;
            }
            let first = (piece.start.as_u64() / span).max(counted_to);
            let end = piece.end.as_u64().div_ceil(span);
            if end > first {
                count += end - first;
                counted_to = end;
            }
        }
        count
    };
    1 + spans.into_iter().map(tables_at).sum::<u64>()
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EPT walk of {}:", self.gpa)?;
        for (step, level) in self.steps.iter().zip((1..=4).rev()) {
            let Some((table, entry)) = step else { break };
            write!(f, "\n  level {level}: table {table}, entry {entry:#018x}")?;
            for (flag, letter) in [
                (EptFlags::READ, 'r'),
                (EptFlags::WRITE, 'w'),
                (EptFlags::EXECUTE, 'x'),
            ] {
                let allowed = EptFlags::from_bits_retain(*entry).contains(flag);
                write!(
                    f,
                    "{}{}",
                    if letter == 'r' { " " } else { "" },
                    if allowed { letter } else { '-' }
                )?;
            }
        }
        match self.verdict {
            Verdict::OutOfRange => f.write_str("\n  the address is beyond 48 bits"),
            Verdict::NotPresent => f.write_str("\n  the last entry is not present"),
            Verdict::Misconfigured(broken) => {
                write!(f, "\n  the last entry is misconfigured: {broken}")
            }
            Verdict::Denied { level, kind } => {
                let what = match kind {
                    AccessKind::Read => "reads",
                    AccessKind::Write => "writes",
                    AccessKind::Execute => "fetches",
                };
                write!(f, "\n  the entry of level {level} does not allow {what}")
            }
            Verdict::Allowed(hpa) => write!(
                f,
                "\n  the access to {hpa} is allowed: a stale TLB entry, or the tables have changed"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
