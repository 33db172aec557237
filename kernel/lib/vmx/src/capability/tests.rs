//! What the capability MSRs of some processors allow.

use super::*;
use crate::controls::{PrimaryControls, SecondaryControls};
use crate::testing::skylake;
use std::string::ToString;
use std::vec::Vec;

#[test]
fn a_control_is_set_only_where_its_msr_allows_it() {
    let caps = Capabilities::new(skylake());
    let adjusted = caps
        .adjust(
            SecondaryControls::ENABLE_EPT,
            SecondaryControls::ENABLE_VPID | SecondaryControls::BUS_LOCK_DETECTION,
        )
        .unwrap();
    assert_eq!(
        adjusted,
        SecondaryControls::ENABLE_EPT | SecondaryControls::ENABLE_VPID
    );
}

#[test]
fn a_missing_required_control_is_named() {
    let caps = Capabilities::new(skylake());
    let error = caps
        .adjust(
            SecondaryControls::BUS_LOCK_DETECTION | SecondaryControls::ENABLE_EPT,
            SecondaryControls::empty(),
        )
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "this processor's VMX lacks BUS_LOCK_DETECTION in its secondary processor-based \
         VM-execution controls"
    );
}

#[test]
fn the_true_controls_let_cr3_moves_run_and_the_old_ones_do_not() {
    let cr3 = PrimaryControls::CR3_LOAD_EXITING | PrimaryControls::CR3_STORE_EXITING;
    let with_true = Capabilities::new(skylake());
    let word = with_true
        .adjust(PrimaryControls::HLT_EXITING, PrimaryControls::empty())
        .unwrap();
    assert!(!word.intersects(cr3));
    assert_eq!(word.bits(), 0x0400_6172 | 0x80);

    let without = RawCapabilities {
        basic: skylake().basic & !(1 << 55),
        ..skylake()
    };
    let word = Capabilities::new(without)
        .adjust(PrimaryControls::HLT_EXITING, PrimaryControls::empty())
        .unwrap();
    assert!(word.contains(cr3));
}

#[test]
fn only_msrs_that_exist_are_read() {
    let mut old = skylake();
    old.basic &= !(1 << 55);
    old.primary &= !(1 << 63);
    let mut seen = Vec::new();
    let raw = RawCapabilities::read(|index| {
        seen.push(index);
        match index {
            0x480 => old.basic,
            0x482 => old.primary,
            _ => 0x1_0000_0000,
        }
    });
    assert_eq!(
        seen,
        [
            0x480, 0x481, 0x482, 0x483, 0x484, 0x485, 0x486, 0x487, 0x488, 0x489
        ]
    );
    assert_eq!(raw.secondary, 0);
    assert_eq!(raw.true_pin, 0);
}

#[test]
fn all_msrs_of_a_rich_processor_are_read() {
    let mut seen = Vec::new();
    RawCapabilities::read(|index| {
        seen.push(index);
        u64::MAX
    });
    seen.sort_unstable();
    let expected: Vec<u32> = (0x480..=0x493).filter(|&index| index != 0x48a).collect();
    assert_eq!(seen, expected);
}

#[test]
fn numbers_in_the_msrs_are_decoded() {
    let caps = Capabilities::new(skylake());
    assert_eq!(caps.revision(), 0x12);
    assert_eq!(caps.preemption_timer_shift(), 5);
    assert_eq!(caps.cr3_targets(), 0);
    let four_targets = RawCapabilities {
        misc: 0x7004_c1e7,
        ..skylake()
    };
    assert_eq!(Capabilities::new(four_targets).cr3_targets(), 4);
}

#[test]
fn a_guest_that_wants_no_machine_checks_does_not_turn_them_into_shutdowns() {
    let caps = Capabilities::new(skylake());
    let ones = caps.guest_cr4_ones(Cr4::PAE | Cr4::MCE | Cr4::VMXE | Cr4::SMEP);
    assert_eq!(ones.bits(), 0x2040);
    assert_eq!(caps.cr4().wrong_bits(ones.bits()), 0);
    assert_eq!(caps.guest_cr4_ones(Cr4::PAE).bits(), 0x2000);
}

#[test]
fn the_hosts_control_registers_get_the_fixed_bits() {
    let caps = Capabilities::new(skylake());
    assert_eq!(caps.host_cr0(Cr0::PE | Cr0::PG).bits(), 0x8000_0021);
    assert_eq!(caps.host_cr4(Cr4::PAE).bits(), 0x2020);
    assert_eq!(caps.unrestricted_cr0().wrong_bits(0x20), 0);
    assert_eq!(caps.cr0().wrong_bits(0x20), 0x8000_0001);
    assert_eq!(
        caps.unrestricted_cr0().wrong_bits(0x1_0000_0020),
        0x1_0000_0000
    );
}
