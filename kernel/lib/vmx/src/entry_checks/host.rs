//! Checks on the host-state area.

use arch::{Cr0, Cr4, Efer};

use super::{Checker, EFER_BITS, Rule, is_pat};
use crate::controls::ExitControls;
use crate::fields::{self, VmcsReader};

impl<V: VmcsReader> Checker<'_, V> {
    pub(super) fn host_registers(&mut self) {
        let (cr0, cr4) = (self.caps.cr0(), self.caps.cr4());
        self.require(Rule::HostCr0Fixed, fields::HOST_CR0, |value| {
            cr0.wrong_bits(value) == 0
        });
        self.require(Rule::HostCr4Fixed, fields::HOST_CR4, |value| {
            cr4.wrong_bits(value) == 0
        });
        let cet = Cr4::from_bits_retain(self.get(fields::HOST_CR4)).contains(Cr4::CET);
        self.require(Rule::HostCetNeedsWp, fields::HOST_CR0, |value| {
            !cet || Cr0::from_bits_retain(value).contains(Cr0::WP)
        });
        let fits = self.is_cr3_in_width(self.get(fields::HOST_CR3));
        self.require(Rule::HostCr3Width, fields::HOST_CR3, |_| fits);
        self.require_canonical(Rule::HostSysenterCanonical, fields::HOST_SYSENTER_ESP);
        self.require_canonical(Rule::HostSysenterCanonical, fields::HOST_SYSENTER_EIP);

        if self.exit.contains(ExitControls::LOAD_PAT) {
            self.require(Rule::HostPat, fields::HOST_PAT, is_pat);
        }
        if self.exit.contains(ExitControls::LOAD_EFER) {
            self.require(Rule::HostEferReserved, fields::HOST_EFER, |value| {
                value & !EFER_BITS == 0
            });
            let long = self.exit.contains(ExitControls::HOST_ADDRESS_SPACE_SIZE);
            self.require(Rule::HostEferLma, fields::HOST_EFER, |value| {
                let efer = Efer::from_bits_retain(value);
                efer.contains(Efer::LMA) == long && efer.contains(Efer::LME) == long
            });
        }
        if self.exit.contains(ExitControls::LOAD_CET_STATE) {
            let valid = self.is_s_cet(self.get(fields::HOST_S_CET));
            self.require(Rule::HostCetReserved, fields::HOST_S_CET, |_| valid);
            self.require(Rule::HostSspAlignment, fields::HOST_SSP, |ssp| ssp & 3 == 0);
            self.require_canonical(Rule::HostShadowStackCanonical, fields::HOST_SSP);
            self.require_canonical(
                Rule::HostShadowStackCanonical,
                fields::HOST_INTERRUPT_SSP_TABLE,
            );
        }
        if self.exit.contains(ExitControls::LOAD_PKRS) {
            self.require(Rule::HostPkrsReserved, fields::HOST_PKRS, |value| {
                value >> 32 == 0
            });
        }
    }

    /// Bits 9:6 of IA32_S_CET are reserved, suppression and tracking (10 and 11) exclude each other, and the
    /// rest is the address of the legacy code bitmap.
    pub(super) fn is_s_cet(&self, value: u64) -> bool {
        value & 0x3c0 == 0 && value & 0xc00 != 0xc00 && self.is_canonical(value & !0xfff)
    }

    pub(super) fn host_segments(&mut self) {
        for selector in [
            fields::HOST_CS_SELECTOR,
            fields::HOST_SS_SELECTOR,
            fields::HOST_DS_SELECTOR,
            fields::HOST_ES_SELECTOR,
            fields::HOST_FS_SELECTOR,
            fields::HOST_GS_SELECTOR,
            fields::HOST_TR_SELECTOR,
        ] {
            self.require(Rule::HostSelectorRpl, selector, |value| value & 7 == 0);
        }
        self.require(Rule::HostSelectorNull, fields::HOST_CS_SELECTOR, |value| {
            value != 0
        });
        self.require(Rule::HostSelectorNull, fields::HOST_TR_SELECTOR, |value| {
            value != 0
        });
        for base in [
            fields::HOST_FS_BASE,
            fields::HOST_GS_BASE,
            fields::HOST_GDTR_BASE,
            fields::HOST_IDTR_BASE,
            fields::HOST_TR_BASE,
        ] {
            self.require_canonical(Rule::HostBaseCanonical, base);
        }
    }

    pub(super) fn address_space_size(&mut self) {
        let long = self.exit.contains(ExitControls::HOST_ADDRESS_SPACE_SIZE);
        self.require(Rule::HostAddressSpaceSize, fields::EXIT_CONTROLS, |_| long);
        self.require(Rule::HostPae, fields::HOST_CR4, |value| {
            !long || Cr4::from_bits_retain(value).contains(Cr4::PAE)
        });
        self.require_canonical(Rule::HostRipCanonical, fields::HOST_RIP);
    }
}
