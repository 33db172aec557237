//! What a guest sees of a local APIC, area by area. The register offsets, MSR numbers and bits are the manual's
//! (SDM vol. 3, Advanced Programmable Interrupt Controller), written out here a second time.

mod access;
mod hardware;
mod icr;
mod lint;
mod mode;
mod posted;
mod priority;
mod timer;

use arch::Width;

use super::*;
use crate::{DeliveryMode, DestinationMode, InterruptMessage, Level, TriggerMode};

const ID: u16 = 0x020;
const VERSION: u16 = 0x030;
const TPR: u16 = 0x080;
const APR: u16 = 0x090;
const PPR: u16 = 0x0a0;
const EOI: u16 = 0x0b0;
const LDR: u16 = 0x0d0;
const DFR: u16 = 0x0e0;
const SVR: u16 = 0x0f0;
const ISR: u16 = 0x100;
const TMR: u16 = 0x180;
const IRR: u16 = 0x200;
const ESR: u16 = 0x280;
const ICR_LOW: u16 = 0x300;
const ICR_HIGH: u16 = 0x310;
const LVT_TIMER: u16 = 0x320;
const LVT_LINT0: u16 = 0x350;
const LVT_LINT1: u16 = 0x360;
const LVT_ERROR: u16 = 0x370;
const INITIAL_COUNT: u16 = 0x380;
const CURRENT_COUNT: u16 = 0x390;
const DIVIDE: u16 = 0x3e0;

const MASK: u32 = 1 << 16;
const APIC_BASE: u64 = 0xfee0_0000;
const BSP: u64 = 1 << 8;
const EXTD: u64 = 1 << 10;
const EN: u64 = 1 << 11;

const CONFIG: LapicConfig = LapicConfig {
    id: 3,
    role: Role::Bootstrap,
    features: LapicFeatures::all(),
    bus_hz: 1_000_000_000,
    physical_address_bits: 40,
};

/// A local APIC with a clock beside it.
struct Bench {
    lapic: Lapic,
    now: Now,
}

impl Bench {
    /// After power-on.
    fn cold() -> Self {
        Self::with(CONFIG)
    }

    fn with(config: LapicConfig) -> Self {
        Self {
            lapic: Lapic::new(config),
            now: Now::default(),
        }
    }

    /// In xAPIC mode, enabled by software.
    fn new() -> Self {
        let mut bench = Self::cold();
        assert_eq!(bench.set(SVR, 0x1ff), ApicAction::Rerouted);
        bench
    }

    /// In x2APIC mode, enabled by software.
    fn x2() -> Self {
        let mut bench = Self::new();
        let base = bench.lapic.base() | EXTD;
        assert_eq!(bench.lapic.write_base(base), Ok(ApicAction::ModeChanged));
        bench
    }

    fn get(&mut self, offset: u16) -> u32 {
        let value = self.lapic.read_mmio(offset, Width::Dword, &self.now);
        u32::try_from(value).expect("a doubleword has 32 bits")
    }

    fn set(&mut self, offset: u16, value: u32) -> ApicAction {
        self.lapic
            .write_mmio(offset, Width::Dword, u64::from(value), &self.now)
    }

    /// A write that has no consequence outside.
    fn put(&mut self, offset: u16, value: u32) {
        assert_eq!(self.set(offset, value), ApicAction::None);
    }

    fn rdmsr(&self, msr: u32) -> Result<u64, InvalidAccess> {
        self.lapic.read_msr(msr, &self.now)
    }

    fn wrmsr(&mut self, msr: u32, value: u64) -> Result<ApicAction, InvalidAccess> {
        self.lapic.write_msr(msr, value, &self.now)
    }

    fn edge(&mut self, vector: u8) {
        self.lapic.accept(Vector(vector), TriggerMode::Edge);
    }

    fn level(&mut self, vector: u8) {
        self.lapic.accept(Vector(vector), TriggerMode::Level);
    }

    fn take(&mut self) -> Option<u8> {
        self.lapic.acknowledge().map(|vector| vector.0)
    }

    fn due(&self) -> Option<u8> {
        self.lapic.pending_vector().map(|vector| vector.0)
    }

    /// The bits set in a 256-bit register.
    fn vectors(&mut self, first: u16) -> alloc::vec::Vec<u8> {
        (0..=255u8)
            .filter(|vector| {
                let word = self.get(first + u16::from(vector >> 5) * 0x10);
                word >> (vector & 31) & 1 != 0
            })
            .collect()
    }

    /// What has gone wrong since the last call, as software learns it.
    fn errors(&mut self) -> u32 {
        self.put(ESR, 0);
        self.get(ESR)
    }
}
