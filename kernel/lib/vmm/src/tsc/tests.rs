//! What [`GuestTsc`](super::GuestTsc) and [`Rate`](super::Rate) promise, for all frequencies.

use alloc::string::ToString;

use proptest::prelude::*;

use super::*;

const MHZ: u64 = 1_000_000;

/// Frequencies of real machines, and of emulated ones.
fn hz() -> impl Strategy<Value = u64> {
    5 * MHZ..10_000 * MHZ
}

#[test]
fn a_deadline_at_the_end_of_time_is_not_in_the_past() {
    let at = |guest_tsc, guest_now_tsc: u64, now_tsc| {
        let mut tsc = GuestTsc::new(None, 0);
        tsc.advance(guest_now_tsc.wrapping_sub(now_tsc));
        tsc.host_tsc_at(guest_tsc, now_tsc)
    };
    assert_eq!(at(u64::MAX, 1_000, 5_000), u64::MAX);
    assert_eq!(at(1_500, 1_000, 5_000), 5_500);
    assert_eq!(at(400, 1_000, 5_000), 4_400);
    assert_eq!(at(0, 9_000, 5_000), 0);
}

#[test]
fn the_same_holds_for_a_scaled_counter() {
    // Twice as fast.
    let twice = GuestTsc::new(Multiplier::of(2, 1), 1_000);
    assert_eq!(twice.at(1_000), 0);
    assert_eq!(twice.at(5_000), 8_000);
    assert_eq!(twice.host_tsc_at(8_001, 5_000), 5_001);
    assert_eq!(twice.host_tsc_at(8_002, 5_000), 5_001);
    assert_eq!(twice.host_tsc_at(8_003, 5_000), 5_002);
    assert_eq!(twice.host_tsc_at(7_000, 5_000), 4_500);
    // The end of the guest's counter is before that of the host's.
    assert_eq!(
        twice.host_tsc_at(u64::MAX, 5_000),
        5_000 + (u64::MAX - 8_000).div_ceil(2)
    );
    let half = GuestTsc::new(Multiplier::of(1, 2), 0);
    assert_eq!(half.host_tsc_at(u64::MAX, 5_000), u64::MAX);
}

#[test]
fn the_multiplier_has_48_bits_behind_the_point() {
    assert_eq!(Multiplier::of(1, 1).unwrap().bits(), 1 << 48);
    assert_eq!(Multiplier::of(3, 2).unwrap().bits(), 3 << 47);
    assert_eq!(
        Multiplier::of(2500 * MHZ, 10 * MHZ).unwrap().bits(),
        250 << 48
    );
    assert_eq!(
        Multiplier::of(65536 * MHZ, MHZ),
        None,
        "17 bits before the point"
    );
    assert_eq!(Multiplier::of(0, MHZ), None);
    assert_eq!(Multiplier::of(MHZ, 0), None);
    assert_eq!(Multiplier::of(u64::MAX, u64::MAX).unwrap().bits(), 1 << 48);
}

#[test]
fn a_vm_without_a_wish_has_the_hosts_frequency_without_a_multiplier() {
    for scaling in [Scaling::Absent, Scaling::Present] {
        let host = Rate {
            hz: 2_400_123_456,
            multiplier: None,
        };
        assert_eq!(Rate::choose(None, host.hz, scaling), Ok(host));
        assert_eq!(Rate::choose(Some(host.hz), host.hz, scaling), Ok(host));
    }
}

#[test]
fn another_frequency_is_scaled_to_or_refused() {
    let scaled = Rate::choose(Some(2500 * MHZ), 10 * MHZ, Scaling::Present).unwrap();
    assert_eq!(scaled.hz, 2500 * MHZ);
    assert_eq!(scaled.multiplier.map(Multiplier::bits), Some(250 << 48));
    let refused = Rate::choose(Some(2500 * MHZ), 9_999_500, Scaling::Absent).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "its TSC is to run at 2500.000 MHz, this machine's runs at 9.999 MHz, and the processor has no TSC \
         scaling; leave `tsc` out, or use a processor that has it"
    );
    let far = Rate::choose(Some(70_000 * MHZ), MHZ, Scaling::Present).unwrap_err();
    assert!(
        far.to_string()
            .ends_with("further apart than TSC scaling goes")
    );
}

#[test]
fn without_scaling_a_frequency_that_differs_as_clocks_do_is_the_hosts() {
    let host_hz = 10 * MHZ;
    let choose = |hz| Rate::choose(Some(hz), host_hz, Scaling::Absent);
    assert_eq!(choose(host_hz + 2_500).map(|rate| rate.hz), Ok(host_hz));
    assert_eq!(choose(host_hz - 2_500).map(|rate| rate.hz), Ok(host_hz));
    assert!(choose(host_hz + 2_501).is_err());
}

proptest! {
    #[test]
    fn a_scaled_counter_never_runs_backwards(
        guest_hz in hz(), host_hz in hz(), origin in 0u64..1 << 60, from in 0u64..1 << 50, step in 0u64..1 << 50,
    ) {
        // Thousands of years of a host at 10 GHz, unless the guest's own counter is over before.
        let tsc = GuestTsc::new(Multiplier::of(guest_hz, host_hz), origin);
        let first = tsc.at(origin + from);
        let second = tsc.at(origin + from + step);
        prop_assert!(second >= first || guest_hz / host_hz > 1 << 10);
    }

    #[test]
    fn a_deadline_is_met_at_the_first_moment_and_never_early(
        guest_hz in hz(), host_hz in hz(), origin in 0u64..1 << 55, passed in 0u64..1 << 50, ahead in 1u64..1 << 50,
        moved: u64,
    ) {
        let mut tsc = GuestTsc::new(Multiplier::of(guest_hz, host_hz), origin);
        tsc.advance(moved);
        let now = origin + passed;
        // Wherever the guest has put its counter, it does not wrap before the deadline.
        prop_assume!(tsc.at(now) < u64::MAX - (1 << 50));
        let deadline = tsc.at(now) + ahead;
        let due = tsc.host_tsc_at(deadline, now);
        prop_assert!(due > now);
        let wrapped = |host: u64| tsc.at(host).wrapping_sub(tsc.at(now));
        prop_assert!(wrapped(due) >= ahead, "early: {} of {ahead}", wrapped(due));
        prop_assert!(wrapped(due - 1) < ahead, "late: {} of {ahead}", wrapped(due - 1));
    }

    #[test]
    fn a_deadline_that_has_passed_is_in_the_past_by_about_as_much(
        guest_hz in hz(), host_hz in hz(), passed in 1u64 << 40..1 << 50, late in 0u64..1 << 30,
    ) {
        let tsc = GuestTsc::new(Multiplier::of(guest_hz, host_hz), 0);
        let deadline = tsc.at(passed).saturating_sub(late);
        let due = tsc.host_tsc_at(deadline, passed);
        prop_assert!(due <= passed);
        prop_assert!(tsc.at(due).abs_diff(deadline) <= 2 + guest_hz / host_hz);
    }

    #[test]
    fn nothing_a_guest_asks_for_overflows(
        multiplier in 1u64.., offset: u64, guest_tsc: u64, now_tsc: u64,
    ) {
        let tsc = GuestTsc { multiplier: Some(Multiplier(multiplier)), offset };
        let due = tsc.host_tsc_at(guest_tsc, now_tsc);
        prop_assert_eq!(due > now_tsc || due == u64::MAX, guest_tsc > tsc.at(now_tsc) || due == u64::MAX);
    }

    #[test]
    fn a_pause_is_not_seen_by_the_counter_in_however_many_steps_it_is_made_up_for(
        guest_hz in hz(), host_hz in hz(), origin in 0u64..1 << 55, pauses in prop::collection::vec(0u64..1 << 40, 1..5),
    ) {
        let multiplier = Multiplier::of(guest_hz, host_hz);
        let end = origin + pauses.iter().sum::<u64>();
        let mut at_once = GuestTsc::new(multiplier, origin);
        at_once.move_origin(origin, end);
        let mut step_by_step = GuestTsc::new(multiplier, origin);
        let mut from = origin;
        for pause in pauses {
            step_by_step.move_origin(from, from + pause);
            from += pause;
        }
        prop_assert_eq!(at_once, step_by_step);
        prop_assert_eq!(at_once, GuestTsc::new(multiplier, end));
        prop_assert_eq!(at_once.at(end), 0);
    }

    #[test]
    fn a_second_of_the_host_is_a_second_of_the_guest(guest_hz in hz(), host_hz in hz(), origin in 0u64..1 << 55) {
        let tsc = GuestTsc::new(Multiplier::of(guest_hz, host_hz), origin);
        let counted = tsc.at(origin + host_hz);
        prop_assert!(counted.abs_diff(guest_hz) <= 1 + guest_hz / 1_000_000_000, "{counted} of {guest_hz}");
    }
}
