//! Checks on guest segment registers.

use arch::{AccessRights, Cr0, Rflags, SegmentName};

use super::{Checker, Rule};
use crate::fields::{SegmentFields, VmcsReader};

const TABLE_INDICATOR: u16 = 4;
/// Bits 11:8 and 31:17 of the access rights.
const RESERVED: u32 = 0xfffe_0f00;
/// Present, DPL 3, accessed writable data.
const V86_ACCESS_RIGHTS: u32 = 0xf3;

/// The registers that hold code and data segments.
const CODE_AND_DATA: [SegmentName; 6] = [
    SegmentName::Cs,
    SegmentName::Ss,
    SegmentName::Ds,
    SegmentName::Es,
    SegmentName::Fs,
    SegmentName::Gs,
];

impl<V: VmcsReader> Checker<'_, V> {
    fn access(&self, name: SegmentName) -> AccessRights {
        AccessRights::from_bits_retain(self.get(SegmentFields::guest(name).access_rights))
    }

    fn is_usable(&self, name: SegmentName) -> bool {
        !self.access(name).contains(AccessRights::UNUSABLE)
    }

    fn rpl(&self, name: SegmentName) -> u8 {
        (self.get(SegmentFields::guest(name).selector) & 3) as u8
    }

    /// The privilege level of the guest: the DPL of SS.
    pub(super) fn cpl(&self) -> u8 {
        self.access(SegmentName::Ss).dpl()
    }

    pub(super) fn guest_segments(&mut self) {
        let virtual_8086 = self.guest_rflags().contains(Rflags::VM);
        self.selectors(virtual_8086);
        self.bases();
        for name in CODE_AND_DATA {
            if virtual_8086 {
                self.virtual_8086(name);
            } else if name == SegmentName::Cs || self.is_usable(name) {
                self.code_or_data(name);
            }
        }
        self.task_register();
        if self.is_usable(SegmentName::Ldtr) {
            self.ldtr();
        }
    }

    fn selectors(&mut self, virtual_8086: bool) {
        let tr = SegmentFields::guest(SegmentName::Tr).selector;
        self.require(Rule::TableSelectorTi, tr, |selector| {
            selector & TABLE_INDICATOR == 0
        });
        if self.is_usable(SegmentName::Ldtr) {
            let ldtr = SegmentFields::guest(SegmentName::Ldtr).selector;
            self.require(Rule::TableSelectorTi, ldtr, |selector| {
                selector & TABLE_INDICATOR == 0
            });
        }
        if !virtual_8086 && !self.is_unrestricted() {
            let same = self.rpl(SegmentName::Ss) == self.rpl(SegmentName::Cs);
            self.require(
                Rule::SsRpl,
                SegmentFields::guest(SegmentName::Ss).selector,
                |_| same,
            );
        }
    }

    fn bases(&mut self) {
        for name in [
            SegmentName::Tr,
            SegmentName::Fs,
            SegmentName::Gs,
            SegmentName::Ldtr,
        ] {
            if name != SegmentName::Ldtr || self.is_usable(name) {
                self.require_canonical(Rule::SegmentBaseCanonical, SegmentFields::guest(name).base);
            }
        }
        for name in [
            SegmentName::Cs,
            SegmentName::Ss,
            SegmentName::Ds,
            SegmentName::Es,
        ] {
            if name == SegmentName::Cs || self.is_usable(name) {
                let base = SegmentFields::guest(name).base;
                self.require(Rule::SegmentBaseHigh, base, |base| base >> 32 == 0);
            }
        }
    }

    fn virtual_8086(&mut self, name: SegmentName) {
        let fields = SegmentFields::guest(name);
        let selector = self.get(fields.selector);
        self.require(Rule::V86Base, fields.base, |base| {
            base == u64::from(selector) << 4
        });
        self.require(Rule::V86Limit, fields.limit, |limit| limit == 0xffff);
        self.require(Rule::V86AccessRights, fields.access_rights, |rights| {
            rights == V86_ACCESS_RIGHTS
        });
    }

    fn code_or_data(&mut self, name: SegmentName) {
        let field = SegmentFields::guest(name).access_rights;
        let access = self.access(name);
        match name {
            SegmentName::Cs => self.code(access),
            SegmentName::Ss => self.stack(access),
            _ => self.data(name, access),
        }
        self.require(Rule::SegmentS, field, |_| {
            access.contains(AccessRights::CODE_OR_DATA)
        });
        self.require(Rule::SegmentPresent, field, |_| {
            access.contains(AccessRights::PRESENT)
        });
        self.require(Rule::SegmentReserved, field, |rights| {
            rights & RESERVED == 0
        });
        self.granularity(name, access);
    }

    fn code(&mut self, access: AccessRights) {
        let field = SegmentFields::guest(SegmentName::Cs).access_rights;
        let unrestricted = self.is_unrestricted();
        self.require(Rule::CsType, field, |_| match access.kind() {
            9 | 11 | 13 | 15 => true,
            3 => unrestricted,
            _ => false,
        });
        let cpl = self.cpl();
        match access.kind() {
            3 => self.require(Rule::CsDplData, field, |_| access.dpl() == 0),
            9 | 11 => self.require(Rule::CsDplNonconforming, field, |_| access.dpl() == cpl),
            13 | 15 => self.require(Rule::CsDplConforming, field, |_| access.dpl() <= cpl),
            _ => {}
        }
        let long = self.is_long_mode_guest();
        self.require(Rule::CsLongDefault, field, |_| {
            !long || !access.contains(AccessRights::LONG | AccessRights::DEFAULT_BIG)
        });
    }

    fn stack(&mut self, access: AccessRights) {
        let field = SegmentFields::guest(SegmentName::Ss).access_rights;
        self.require(Rule::SsType, field, |_| matches!(access.kind(), 3 | 7));
        if !self.is_unrestricted() {
            let rpl = self.rpl(SegmentName::Ss);
            self.require(Rule::SsDplRpl, field, |_| access.dpl() == rpl);
        }
        let real_mode = !self.guest_cr0().contains(Cr0::PE);
        let data_in_cs = self.access(SegmentName::Cs).kind() == 3;
        self.require(Rule::SsDplZero, field, |_| {
            !(real_mode || data_in_cs) || access.dpl() == 0
        });
    }

    fn data(&mut self, name: SegmentName, access: AccessRights) {
        let field = SegmentFields::guest(name).access_rights;
        self.require(Rule::DataAccessed, field, |_| {
            access.contains(AccessRights::ACCESSED)
        });
        self.require(Rule::DataReadable, field, |_| {
            !access.contains(AccessRights::CODE) || access.contains(AccessRights::WRITABLE)
        });
        if !self.is_unrestricted() && access.kind() <= 11 {
            let rpl = self.rpl(name);
            self.require(Rule::DataDpl, field, |_| access.dpl() >= rpl);
        }
    }

    fn granularity(&mut self, name: SegmentName, access: AccessRights) {
        let fields = SegmentFields::guest(name);
        let limit = self.get(fields.limit);
        let pages = access.contains(AccessRights::GRANULARITY);
        self.require(Rule::GranularityClear, fields.access_rights, |_| {
            !pages || limit & 0xfff == 0xfff
        });
        self.require(Rule::GranularitySet, fields.access_rights, |_| {
            pages || limit >> 20 == 0
        });
    }

    fn task_register(&mut self) {
        let field = SegmentFields::guest(SegmentName::Tr).access_rights;
        let access = self.access(SegmentName::Tr);
        let long = self.is_long_mode_guest();
        self.require(Rule::TrType, field, |_| match access.kind() {
            11 => true,
            3 => !long,
            _ => false,
        });
        self.require(Rule::TrUsable, field, |_| {
            !access.contains(AccessRights::UNUSABLE)
        });
        self.system(SegmentName::Tr, access);
    }

    fn ldtr(&mut self) {
        let access = self.access(SegmentName::Ldtr);
        let field = SegmentFields::guest(SegmentName::Ldtr).access_rights;
        self.require(Rule::LdtrType, field, |_| access.kind() == 2);
        self.system(SegmentName::Ldtr, access);
    }

    fn system(&mut self, name: SegmentName, access: AccessRights) {
        let field = SegmentFields::guest(name).access_rights;
        self.require(Rule::SystemS, field, |_| {
            !access.contains(AccessRights::CODE_OR_DATA)
        });
        self.require(Rule::SegmentPresent, field, |_| {
            access.contains(AccessRights::PRESENT)
        });
        self.require(Rule::SegmentReserved, field, |rights| {
            rights & RESERVED == 0
        });
        self.granularity(name, access);
    }
}
