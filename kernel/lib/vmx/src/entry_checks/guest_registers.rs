//! Checks on guest control registers, debug registers and MSRs, on RIP, RFLAGS and SSP, on descriptor tables
//! and on PDPTEs.

use arch::{AccessRights, Cr0, Cr4, Efer, Rflags};

use super::{Checker, EFER_BITS, Rule, is_pat, sign_part};
use crate::controls::{EntryControls, SecondaryControls};
use crate::event::InterruptionType;
use crate::fields::{self, VmcsReader};

/// Bits 5:3 and from 16 on.
const DEBUGCTL_RESERVED: u64 = !0xffff | 0x38;
/// Bits 15:4 and from 23 on.
const LBR_CTL_RESERVED: u64 = !0x7f_ffff | 0xfff0;
/// Bits 63:22, 15, 5 and 3.
const RFLAGS_RESERVED: u64 = !0x3f_ffff | 0x8028;
/// Bits 2:1 and 8:5.
const PDPTE_RESERVED: u64 = 0x1e6;

impl<V: VmcsReader> Checker<'_, V> {
    pub(super) fn guest_cr0(&self) -> Cr0 {
        Cr0::from_bits_retain(self.get(fields::GUEST_CR0))
    }

    pub(super) fn guest_rflags(&self) -> Rflags {
        Rflags::from_bits_retain(self.get(fields::GUEST_RFLAGS))
    }

    pub(super) fn guest_control_registers(&mut self) {
        let long = self.is_long_mode_guest();
        let cr0 = self.guest_cr0();
        let cr4 = Cr4::from_bits_retain(self.get(fields::GUEST_CR4));
        let allowed = if self.is_unrestricted() {
            self.caps.unrestricted_cr0()
        } else {
            self.caps.cr0()
        };
        self.require(Rule::GuestCr0Fixed, fields::GUEST_CR0, |value| {
            allowed.wrong_bits(value) == 0
        });
        self.require(Rule::GuestPagingNeedsProtection, fields::GUEST_CR0, |_| {
            !cr0.contains(Cr0::PG) || cr0.contains(Cr0::PE)
        });
        let allowed = self.caps.cr4();
        self.require(Rule::GuestCr4Fixed, fields::GUEST_CR4, |value| {
            allowed.wrong_bits(value) == 0
        });
        self.require(Rule::GuestCetNeedsWp, fields::GUEST_CR0, |_| {
            !cr4.contains(Cr4::CET) || cr0.contains(Cr0::WP)
        });
        self.require(Rule::GuestLongModeNeedsPaging, fields::GUEST_CR0, |_| {
            !long || cr0.contains(Cr0::PG)
        });
        self.require(Rule::GuestLongModeNeedsPae, fields::GUEST_CR4, |_| {
            !long || cr4.contains(Cr4::PAE)
        });
        self.require(Rule::GuestPcideNeedsLongMode, fields::GUEST_CR4, |_| {
            long || !cr4.contains(Cr4::PCIDE)
        });
        let fits = self.is_cr3_in_width(self.get(fields::GUEST_CR3));
        self.require(Rule::GuestCr3Width, fields::GUEST_CR3, |_| fits);
        if self.entry.contains(EntryControls::LOAD_DEBUG_CONTROLS) {
            self.require(
                Rule::GuestDebugctlReserved,
                fields::GUEST_DEBUGCTL,
                |value| value & DEBUGCTL_RESERVED == 0,
            );
            self.require(Rule::GuestDr7High, fields::GUEST_DR7, |value| {
                value >> 32 == 0
            });
        }
    }

    pub(super) fn guest_msrs(&mut self) {
        let entry = self.entry;
        self.require_canonical(Rule::GuestSysenterCanonical, fields::GUEST_SYSENTER_ESP);
        self.require_canonical(Rule::GuestSysenterCanonical, fields::GUEST_SYSENTER_EIP);
        if entry.contains(EntryControls::LOAD_CET_STATE) {
            let valid = self.is_s_cet(self.get(fields::GUEST_S_CET));
            self.require(Rule::GuestCetReserved, fields::GUEST_S_CET, |_| valid);
            self.require_canonical(
                Rule::GuestShadowStackCanonical,
                fields::GUEST_INTERRUPT_SSP_TABLE,
            );
        }
        if entry.contains(EntryControls::LOAD_PAT) {
            self.require(Rule::GuestPat, fields::GUEST_PAT, is_pat);
        }
        if entry.contains(EntryControls::LOAD_EFER) {
            self.guest_efer();
        }
        if entry.contains(EntryControls::LOAD_BNDCFGS) {
            let value = self.get(fields::GUEST_BNDCFGS);
            let valid = value & 0xffc == 0 && self.is_canonical(value & !0xfff);
            self.require(Rule::GuestBndcfgs, fields::GUEST_BNDCFGS, |_| valid);
        }
        if entry.contains(EntryControls::LOAD_PKRS) {
            self.require(Rule::GuestPkrsReserved, fields::GUEST_PKRS, |value| {
                value >> 32 == 0
            });
        }
        if entry.contains(EntryControls::LOAD_UINV) {
            self.require(Rule::GuestUinv, fields::GUEST_UINV, |value| value <= 0xff);
        }
        if entry.contains(EntryControls::LOAD_LBR_CTL) {
            self.require(Rule::GuestLbrCtlReserved, fields::GUEST_LBR_CTL, |value| {
                value & LBR_CTL_RESERVED == 0
            });
        }
    }

    fn guest_efer(&mut self) {
        let long = self.is_long_mode_guest();
        let paging = self.guest_cr0().contains(Cr0::PG);
        let efer = Efer::from_bits_retain(self.get(fields::GUEST_EFER));
        self.require(Rule::GuestEferReserved, fields::GUEST_EFER, |value| {
            value & !EFER_BITS == 0
        });
        self.require(Rule::GuestEferLma, fields::GUEST_EFER, |_| {
            efer.contains(Efer::LMA) == long
        });
        self.require(Rule::GuestEferLme, fields::GUEST_EFER, |_| {
            !paging || efer.contains(Efer::LME) == efer.contains(Efer::LMA)
        });
    }

    pub(super) fn guest_descriptor_tables(&mut self) {
        self.require_canonical(Rule::TableBaseCanonical, fields::GUEST_GDTR_BASE);
        self.require_canonical(Rule::TableBaseCanonical, fields::GUEST_IDTR_BASE);
        self.require(Rule::TableLimit, fields::GUEST_GDTR_LIMIT, |limit| {
            limit >> 16 == 0
        });
        self.require(Rule::TableLimit, fields::GUEST_IDTR_LIMIT, |limit| {
            limit >> 16 == 0
        });
    }

    pub(super) fn guest_rip_rflags_ssp(&mut self) {
        let cs = AccessRights::from_bits_retain(self.get(fields::GUEST_CS_ACCESS_RIGHTS));
        let in_64_bit_mode = self.is_long_mode_guest() && cs.contains(AccessRights::LONG);
        let width = self.caps.address_widths().linear;
        // Not quite canonical: the highest bit of the width itself does not count.
        let is_within = |address: u64| matches!(sign_part(address, width), 0 | -1);
        if in_64_bit_mode {
            self.require(Rule::RipUpper, fields::GUEST_RIP, is_within);
        } else {
            self.require(Rule::RipHigh, fields::GUEST_RIP, |rip| rip >> 32 == 0);
        }

        let rflags = self.guest_rflags();
        self.require(Rule::RflagsReserved, fields::GUEST_RFLAGS, |value| {
            value & RFLAGS_RESERVED == 0 && rflags.contains(Rflags::ONE)
        });
        let vm_possible = !self.is_long_mode_guest() && self.guest_cr0().contains(Cr0::PE);
        self.require(Rule::RflagsVm, fields::GUEST_RFLAGS, |_| {
            vm_possible || !rflags.contains(Rflags::VM)
        });
        let interrupt = self.injects(InterruptionType::ExternalInterrupt);
        self.require(Rule::RflagsIf, fields::GUEST_RFLAGS, |_| {
            !interrupt || rflags.contains(Rflags::IF)
        });

        if self.entry.contains(EntryControls::LOAD_CET_STATE) {
            self.require(Rule::SspAlignment, fields::GUEST_SSP, |ssp| ssp & 3 == 0);
            self.require(Rule::SspUpper, fields::GUEST_SSP, |ssp| {
                if in_64_bit_mode {
                    is_within(ssp)
                } else {
                    ssp >> 32 == 0
                }
            });
        }
    }

    pub(super) fn guest_pdptes(&mut self) {
        let cr4 = Cr4::from_bits_retain(self.get(fields::GUEST_CR4));
        let pae_paging = self.guest_cr0().contains(Cr0::PG)
            && cr4.contains(Cr4::PAE)
            && !self.is_long_mode_guest();
        if !pae_paging || !self.secondary.contains(SecondaryControls::ENABLE_EPT) {
            return;
        }
        for field in [
            fields::GUEST_PDPTE0,
            fields::GUEST_PDPTE1,
            fields::GUEST_PDPTE2,
            fields::GUEST_PDPTE3,
        ] {
            let fits = self.in_physical_width(self.get(field));
            self.require(Rule::PdpteReserved, field, |entry| {
                entry & 1 == 0 || (entry & PDPTE_RESERVED == 0 && fits)
            });
        }
    }
}
