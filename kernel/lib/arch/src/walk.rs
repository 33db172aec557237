//! The guest's page walk: what a linear address means by the guest's own tables (SDM vol. 3, Paging).
//!
//! [`GuestPaging`] holds the registers that matter; [`translate`](GuestPaging::translate) walks the tables in
//! [`GuestMemory`] exactly as the processor does: permissions, reserved bits, protection keys, error codes,
//! and the accessed and dirty flags. The hypervisor's own tables are in [`paging`](crate::paging).

mod access;
mod mode;

use bitflags::bitflags;
use memory::{GuestMemory, GuestPhys, GuestVirt, Unbacked};

pub use self::access::{AccessKind, PageFaultCode, Privilege, WalkFault};
pub use self::mode::PagingMode;
use crate::{Cr0, Cr4, Efer, Rflags};

bitflags! {
    /// What the guest's CPUID promises that changes how entries are read.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct WalkFeatures: u8 {
        /// 1 GiB pages; CPUID.80000001H.EDX\[26\].
        const PAGES_1G = 1 << 0;
        /// 40-bit addresses in 4 MiB pages; CPUID.1.EDX\[17\].
        const PSE36 = 1 << 1;
    }
}

/// The registers that decide a translation.
#[derive(Clone, Copy, Debug)]
pub struct GuestPaging {
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// IA32_EFER.
    pub efer: Efer,
    /// RFLAGS, for AC.
    pub rflags: Rflags,
    /// PKRU; only read where CR4.PKE is set.
    pub pkru: u32,
    /// The page-directory-pointer entries in the processor; only read in PAE paging.
    pub pdptes: [u64; 4],
    /// MAXPHYADDR of the guest.
    pub physical_bits: u8,
    /// What its CPUID promises.
    pub features: WalkFeatures,
}

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Walks that are started anew because another CPU changed an entry meanwhile.
const ATTEMPTS: u32 = 8;

/// Levels of tables that 5-level paging has.
const MAX_LEVELS: usize = 5;

impl GuestPaging {
    /// The physical address behind `gva` for this access, after the checks and with the side effects that the
    /// access has on the processor. The access must not cross a page.
    ///
    /// # Errors
    /// See [`WalkFault`]; no flag in memory has changed then, except by [`Contended`](WalkFault::Contended).
    #[inline]
    pub fn translate<M: GuestMemory>(
        &self,
        memory: &M,
        gva: GuestVirt,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<GuestPhys, WalkFault> {
        let mode = PagingMode::new(self.cr0, self.cr4, self.efer);
        match mode {
            PagingMode::None => return Ok(GuestPhys::new(gva.as_u64())),
            PagingMode::FourLevel => {
                if let Some(gpa) =
                    self.walk_four_levels(memory, gva.as_u64(), kind, privilege, |_, _| {})
                {
                    return Ok(gpa);
                }
            }
            PagingMode::TwoLevel | PagingMode::Pae | PagingMode::FiveLevel => {}
        }
        self.walk_exactly(memory, mode, gva, kind, privilege)
    }

    /// The walk that succeeds at once: 4 levels, nothing odd in any entry, nothing to mark, and no right that
    /// needs a second look. `visit` sees each entry on the way. To be asked in 64-bit mode.
    ///
    /// `None` says nothing but that [`translate`](Self::translate) has to decide.
    #[inline]
    pub fn walk_four_levels<M: GuestMemory>(
        &self,
        memory: &M,
        gva: u64,
        kind: AccessKind,
        privilege: Privilege,
        mut visit: impl FnMut(GuestPhys, u64),
    ) -> Option<GuestPhys> {
        // Bits that must be set, and bits that must not, in every entry of the way.
        let mut needed = PRESENT | ACCESSED;
        let mut refused = above(self.physical_bits);
        if !self.efer.contains(Efer::NXE) || kind == AccessKind::Execute {
            refused |= NO_EXECUTE;
        }
        if privilege == Privilege::User {
            needed |= USER;
        }
        if kind == AccessKind::Write {
            needed |= WRITABLE;
        }
        let mut entry = self.cr3;
        let mut shift = 39;
        let mut way = u64::MAX;
        loop {
            let at = entry & ADDRESS | (gva >> shift & 0x1ff) << 3;
            entry = memory.read_u64(GuestPhys::new(at)).ok()?;
            visit(GuestPhys::new(at), entry);
            if entry & (needed | refused) != needed {
                return None;
            }
            way &= entry;
            if shift == 12 {
                break;
            }
            if entry & LARGE != 0 {
                let zero = match shift {
                    21 => (1 << 21) - (1 << 13),
                    30 if self.features.contains(WalkFeatures::PAGES_1G) => (1 << 30) - (1 << 13),
                    _ => return None,
                };
                if entry & zero != 0 {
                    return None;
                }
                break;
            }
            shift -= 9;
        }
        // A user page may be closed to supervisors, or by its key.
        let guarded = Cr4::SMEP.union(Cr4::SMAP).union(Cr4::PKE);
        if way & USER != 0 && self.cr4.intersects(guarded)
            || kind == AccessKind::Write && entry & DIRTY == 0
        {
            return None;
        }
        let within = (1 << shift) - 1;
        Some(GuestPhys::new(entry & ADDRESS & !within | gva & within))
    }

    /// The walk in full.
    #[inline(never)]
    fn walk_exactly<M: GuestMemory>(
        &self,
        memory: &M,
        mode: PagingMode,
        gva: GuestVirt,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<GuestPhys, WalkFault> {
        for _ in 0..ATTEMPTS {
            if let Some(gpa) = self.walk(memory, mode, gva.as_u64(), kind, privilege)? {
                return Ok(gpa);
            }
        }
        Err(WalkFault::Contended)
    }

    /// One walk; `None` where another CPU changed an entry between its check and its update.
    fn walk<M: GuestMemory>(
        &self,
        memory: &M,
        mode: PagingMode,
        gva: u64,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<Option<GuestPhys>, WalkFault> {
        let (mut level, mut table, entry_size) = match mode {
            PagingMode::FiveLevel => (5, self.cr3 & ADDRESS, EntrySize::Eight),
            PagingMode::FourLevel => (4, self.cr3 & ADDRESS, EntrySize::Eight),
            PagingMode::Pae => {
                let [zero, one, two, three] = self.pdptes;
                let pdpte = match gva >> 30 & 3 {
                    0 => zero,
                    1 => one,
                    2 => two,
                    _ => three,
                };
                // Reserved bits were checked when the entry was loaded into the processor.
                if pdpte & PRESENT == 0 {
                    return Err(self.fault(PageFaultCode::empty(), kind, privilege));
                }
                (2, pdpte & ADDRESS, EntrySize::Eight)
            }
            PagingMode::TwoLevel | PagingMode::None => (2, self.cr3 & 0xffff_f000, EntrySize::Four),
        };

        let mut trail = [(GuestPhys::new(0), 0); MAX_LEVELS];
        let mut rights = WRITABLE | USER;
        let mut forbidden = 0;
        let mut all_accessed = ACCESSED;
        loop {
            let (at, shift) = match entry_size {
                EntrySize::Eight => {
                    let shift = 12 + 9 * (level - 1);
                    (table + (gva >> shift & 0x1ff) * 8, shift)
                }
                EntrySize::Four => {
                    let shift = 12 + 10 * (level - 1);
                    (table + (gva >> shift & 0x3ff) * 4, shift)
                }
            };
            let at = GuestPhys::new(at);
            let entry = match entry_size {
                EntrySize::Eight => memory.read_u64(at),
                EntrySize::Four => memory.read_u32(at).map(u64::from),
            }
            .map_err(|Unbacked(gpa)| WalkFault::Unbacked(gpa))?;
            if entry & PRESENT == 0 {
                return Err(self.fault(PageFaultCode::empty(), kind, privilege));
            }
            let large = level > 1 && entry & LARGE != 0 && self.has_large_pages(mode, level);
            if entry & self.reserved(mode, level, large) != 0 {
                let code = PageFaultCode::PRESENT | PageFaultCode::RESERVED;
                return Err(self.fault(code, kind, privilege));
            }
            rights &= entry;
            forbidden |= entry & NO_EXECUTE;
            all_accessed &= entry;
            if let Some(slot) = trail.get_mut(level as usize - 1) {
                *slot = (at, entry);
            }
            if level > 1 && !large {
                table = entry & ADDRESS;
                level -= 1;
                continue;
            }

            let key = (entry >> 59 & 0xf) as u32;
            self.check(mode, rights, forbidden, key, kind, privilege)?;
            let set = match kind {
                AccessKind::Write => ACCESSED | DIRTY,
                AccessKind::Read | AccessKind::Execute => ACCESSED,
            };
            if (all_accessed == 0 || entry & set != set)
                && !mark(memory, &trail, level, entry_size, set)
            {
                return Ok(None);
            }
            let offset = gva & ((1 << shift) - 1);
            let frame = match (entry_size, large) {
                (EntrySize::Four, true) => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
                _ => entry & ADDRESS & !((1 << shift) - 1),
            };
            return Ok(Some(GuestPhys::new(frame | offset)));
        }
    }

    /// Whether bit 7 of an entry of this level makes it a page.
    const fn has_large_pages(&self, mode: PagingMode, level: u32) -> bool {
        match mode {
            PagingMode::TwoLevel => self.cr4.contains(Cr4::PSE),
            _ => level == 2 || level == 3 && self.features.contains(WalkFeatures::PAGES_1G),
        }
    }

    /// The bits that must be zero in a present entry (SDM vol. 3, Formats of Paging-Structure Entries).
    const fn reserved(&self, mode: PagingMode, level: u32, large: bool) -> u64 {
        if matches!(mode, PagingMode::TwoLevel) {
            return if !large {
                0
            } else if self.features.contains(WalkFeatures::PSE36) {
                // Bits 20:13 are address bits 39:32, as far as there are any; bit 21 is none.
                let address_bits = if self.physical_bits < 40 {
                    self.physical_bits as u32
                } else {
                    40
                };
                (1 << 22) - (1 << (13 + address_bits.saturating_sub(32)))
            } else {
                (1 << 22) - (1 << 13)
            };
        }
        let ignored_elsewhere = match mode {
            PagingMode::Pae => 0x7ff << 52,
            _ => 0,
        };
        let no_execute = if self.efer.contains(Efer::NXE) {
            0
        } else {
            NO_EXECUTE
        };
        let by_level = match (level, large) {
            // Without large pages on this level the bit must be zero.
            (3.., false) => LARGE,
            (3, true) => (1 << 30) - (1 << 13),
            (2, true) => (1 << 21) - (1 << 13),
            _ => 0,
        };
        above(self.physical_bits) | ignored_elsewhere | no_execute | by_level
    }

    /// Whether the rights that the walk has collected allow the access.
    #[inline]
    fn check(
        &self,
        mode: PagingMode,
        rights: u64,
        forbidden: u64,
        key: u32,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<(), WalkFault> {
        let user_page = rights & USER != 0;
        let user_access = privilege == Privilege::User;
        let write_counts = user_access || self.cr0.contains(Cr0::WP);
        let mut allowed = user_page || !user_access;
        match kind {
            AccessKind::Execute => {
                allowed &= forbidden == 0;
                allowed &= user_access || !user_page || !self.cr4.contains(Cr4::SMEP);
            }
            AccessKind::Read | AccessKind::Write => {
                if kind == AccessKind::Write {
                    allowed &= rights & WRITABLE != 0 || !write_counts;
                }
                if user_page && !user_access && self.cr4.contains(Cr4::SMAP) {
                    allowed &=
                        privilege == Privilege::Supervisor && self.rflags.contains(Rflags::AC);
                }
            }
        }
        let mut code = PageFaultCode::PRESENT;
        if user_page
            && kind != AccessKind::Execute
            && self.cr4.contains(Cr4::PKE)
            && matches!(mode, PagingMode::FourLevel | PagingMode::FiveLevel)
        {
            let access_disable = self.pkru >> (2 * key) & 1 != 0;
            let write_disable = self.pkru >> (2 * key) & 2 != 0;
            if access_disable || kind == AccessKind::Write && write_disable && write_counts {
                allowed = false;
                code |= PageFaultCode::PROTECTION_KEY;
            }
        }
        if allowed {
            Ok(())
        } else {
            Err(self.fault(code, kind, privilege))
        }
    }

    /// The fault with what the access itself contributes to the error code.
    #[cold]
    fn fault(&self, mut code: PageFaultCode, kind: AccessKind, privilege: Privilege) -> WalkFault {
        if privilege == Privilege::User {
            code |= PageFaultCode::USER;
        }
        match kind {
            AccessKind::Write => code |= PageFaultCode::WRITE,
            AccessKind::Execute => {
                let nx = self.cr4.contains(Cr4::PAE) && self.efer.contains(Efer::NXE);
                if nx || self.cr4.contains(Cr4::SMEP) {
                    code |= PageFaultCode::FETCH;
                }
            }
            AccessKind::Read => {}
        }
        WalkFault::PageFault { error_code: code }
    }
}

/// The address bits that a processor with addresses of this width does not have.
#[inline]
const fn above(physical_bits: u8) -> u64 {
    (1 << 52)
        - (1 << if physical_bits < 52 {
            physical_bits
        } else {
            52
        })
}

#[derive(Clone, Copy)]
enum EntrySize {
    Four,
    Eight,
}

/// Sets the accessed flag in all entries of the trail from the root down, and `set` in the last one. Returns
/// whether every entry was still what the walk had seen.
#[cold]
fn mark<M: GuestMemory>(
    memory: &M,
    trail: &[(GuestPhys, u64); MAX_LEVELS],
    last_level: u32,
    entry_size: EntrySize,
    set: u64,
) -> bool {
    for (index, &(at, entry)) in trail.iter().enumerate().rev() {
        let level = index as u32 + 1;
        if level < last_level || entry == 0 {
            continue;
        }
        let new = entry | if level == last_level { set } else { ACCESSED };
        if new == entry {
            continue;
        }
        let seen = match entry_size {
            EntrySize::Eight => memory.compare_exchange_u64(at, entry, new),
            EntrySize::Four => memory
                .compare_exchange_u32(at, entry as u32, new as u32)
                .map(u64::from),
        };
        // Where the entry can be read but not written (a table in ROM), the processor's store is lost, too.
        if seen.is_ok_and(|seen| seen != entry) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests;
