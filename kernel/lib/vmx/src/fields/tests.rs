//! Encodings by the manual, and what a read of a field gives.

use super::*;

#[test]
fn the_encodings_are_the_manuals() {
    for (field, encoding) in [
        (VPID.encoding(), 0x0),
        (GUEST_TR_SELECTOR.encoding(), 0x80e),
        (HOST_TR_SELECTOR.encoding(), 0xc0c),
        (EPT_POINTER.encoding(), 0x201a),
        (TSC_MULTIPLIER.encoding(), 0x2032),
        (GUEST_PHYSICAL_ADDRESS.encoding(), 0x2400),
        (GUEST_EFER.encoding(), 0x2806),
        (HOST_PERF_GLOBAL_CTRL.encoding(), 0x2c04),
        (SECONDARY_CONTROLS.encoding(), 0x401e),
        (EXIT_INSTRUCTION_INFO.encoding(), 0x440e),
        (PREEMPTION_TIMER_VALUE.encoding(), 0x482e),
        (CR4_READ_SHADOW.encoding(), 0x6006),
        (GUEST_LINEAR_ADDRESS.encoding(), 0x640a),
        (GUEST_RIP.encoding(), 0x681e),
        (HOST_RIP.encoding(), 0x6c16),
    ] {
        assert_eq!(field.as_u32(), encoding, "{field}");
    }
}

#[test]
fn no_two_fields_share_an_encoding() {
    let mut sorted = ALL.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), ALL.len());
}

#[test]
fn every_field_of_a_segment_is_the_one_with_its_name() {
    for name in SegmentName::ALL {
        let fields = SegmentFields::guest(name);
        let upper = std::format!("{name:?}").to_uppercase();
        assert_eq!(
            fields.selector.encoding().name(),
            std::format!("GUEST_{upper}_SELECTOR")
        );
        assert_eq!(
            fields.base.encoding().name(),
            std::format!("GUEST_{upper}_BASE")
        );
        assert_eq!(
            fields.limit.encoding().name(),
            std::format!("GUEST_{upper}_LIMIT")
        );
        assert_eq!(
            fields.access_rights.encoding().name(),
            std::format!("GUEST_{upper}_ACCESS_RIGHTS")
        );
    }
}

#[test]
fn a_field_that_the_processor_lacks_reads_as_zero_and_others_at_their_width() {
    struct Only(Encoding, u64);
    impl VmcsReader for Only {
        fn read_raw(&self, encoding: Encoding) -> Option<u64> {
            (encoding == self.0).then_some(self.1)
        }
    }
    let vmcs = Only(GUEST_CS_SELECTOR.encoding(), 0x1_0008);
    assert_eq!(vmcs.read(GUEST_CS_SELECTOR), 8_u16);
    assert_eq!(vmcs.read(SPEC_CTRL_MASK), 0_u64);
}
