//! The states and events, one by one and in any order.

use alloc::string::ToString;

use proptest::prelude::*;

use super::*;

const STOP: EndPolicies = EndPolicies {
    on_crash: EndPolicy::Stop,
    on_reboot: EndPolicy::Stop,
};
const RESTART: EndPolicies = EndPolicies {
    on_crash: EndPolicy::Restart,
    on_reboot: EndPolicy::Restart,
};

const EVENTS: [PowerEvent; 10] = [
    PowerEvent::Start,
    PowerEvent::Pause,
    PowerEvent::Resume,
    PowerEvent::Reset,
    PowerEvent::Stop,
    PowerEvent::Destroy,
    PowerEvent::GuestPowerOff,
    PowerEvent::GuestReset,
    PowerEvent::GuestCrash,
    PowerEvent::VcpusLeft,
];

/// Applies events one after the other and returns the last state.
fn live(policies: EndPolicies, events: &[PowerEvent]) -> Power {
    events.iter().fold(Power::Off, |power, event| {
        apply(power, *event, policies).unwrap().0
    })
}

#[test]
fn a_vm_starts_pauses_goes_on_and_ends() {
    use PowerEvent::*;
    assert_eq!(live(STOP, &[Start]), Power::Running);
    assert_eq!(live(STOP, &[Start, Pause]), Power::Paused);
    assert_eq!(live(STOP, &[Start, Pause, Resume]), Power::Running);
    assert_eq!(
        live(STOP, &[Start, GuestPowerOff]),
        Power::Ending(Then::Off)
    );
    assert_eq!(live(STOP, &[Start, GuestPowerOff, VcpusLeft]), Power::Off);
    assert_eq!(live(STOP, &[Start, Pause, Destroy, VcpusLeft]), Power::Gone);
}

#[test]
fn policies_decide_about_crashes_and_reboots() {
    use PowerEvent::*;
    for event in [GuestCrash, GuestReset] {
        assert_eq!(live(STOP, &[Start, event, VcpusLeft]), Power::Off);
        assert_eq!(live(RESTART, &[Start, event, VcpusLeft]), Power::Running);
    }
    // A power-off is a power-off.
    assert_eq!(
        live(RESTART, &[Start, GuestPowerOff, VcpusLeft]),
        Power::Off
    );
    // The operator's reset is a restart whatever the policies say.
    assert_eq!(live(STOP, &[Start, Reset, VcpusLeft]), Power::Running);
}

#[test]
fn the_first_end_counts_until_the_operator_says_otherwise() {
    use PowerEvent::*;
    assert_eq!(
        live(STOP, &[Start, GuestPowerOff, GuestCrash]),
        Power::Ending(Then::Off)
    );
    assert_eq!(
        live(RESTART, &[Start, GuestCrash, Stop, VcpusLeft]),
        Power::Off
    );
    assert_eq!(live(STOP, &[Start, Stop, Start, VcpusLeft]), Power::Running);
    assert_eq!(live(STOP, &[Start, Stop, Destroy, VcpusLeft]), Power::Gone);
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason() {
    let refused = apply(Power::Off, PowerEvent::Pause, STOP).unwrap_err();
    assert_eq!(refused.to_string(), "cannot be paused: it is off");
    assert!(apply(Power::Gone, PowerEvent::Start, STOP).is_err());
    assert!(apply(Power::Ending(Then::Gone), PowerEvent::Start, STOP).is_err());
}

proptest! {
    #[test]
    fn whatever_happens_nothing_is_built_twice_or_released_twice(
        events in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..200),
        restart: bool,
    ) {
        let policies = if restart { RESTART } else { STOP };
        let (mut power, mut built, mut present) = (Power::Off, false, true);
        for event in events {
            let Ok((next, steps)) = apply(power, event, policies) else { continue };
            for step in steps {
                match step {
                    Step::Build => {
                        prop_assert!(!built && present);
                        built = true;
                    }
                    Step::Run | Step::Freeze | Step::Evict => prop_assert!(built),
                    Step::Release => {
                        prop_assert!(built);
                        built = false;
                    }
                    Step::Forget => {
                        prop_assert!(!built && present);
                        present = false;
                    }
                }
            }
            power = next;
            let has_memory = !matches!(power, Power::Off | Power::Gone);
            prop_assert_eq!(built, has_memory);
            prop_assert_eq!(present, power != Power::Gone);
        }
    }
}

#[test]
fn a_drill_does_nothing_that_is_refused_and_ends() {
    let mut drill = Drill::new(3);
    let (mut power, mut lives, mut now_ns, mut began_ns) = (Power::Off, false, 0, 0);
    let mut done = alloc::vec::Vec::new();
    for _ in 0..1000 {
        now_ns += 300_000;
        let seen = Seen {
            power,
            lives,
            is_frozen: power == Power::Paused,
            lived_ns: now_ns - began_ns,
        };
        match drill.next(seen) {
            DrillStep::Wait => match power {
                Power::Ending(_) => power = apply(power, PowerEvent::VcpusLeft, STOP).unwrap().0,
                Power::Running if !lives => (lives, began_ns) = (true, now_ns),
                _ => {}
            },
            DrillStep::Do(event) => {
                let from = if power == Power::Gone {
                    Power::Off
                } else {
                    power
                };
                power = apply(from, event, STOP).unwrap().0;
                done.push(event);
            }
            DrillStep::RoundOver(0) => break,
            DrillStep::RoundOver(left) => {
                assert_eq!(left, 3 - (done.len() / ROUND.len()) as u32)
            }
        }
        lives &= power == Power::Running || power == Power::Paused;
    }
    assert_eq!(done, ROUND.repeat(3));
    assert_eq!(power, Power::Gone);
}

#[test]
fn a_crash_loop_is_slowed_down() {
    let mut delay = RestartDelay::new();
    let mut waits = alloc::vec::Vec::new();
    for _ in 0..12 {
        waits.push(delay.after_life_of(1_000_000, 1_000_000) / 1_000_000);
    }
    assert_eq!(
        waits,
        [
            0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000
        ]
    );
    // A life that lasted begins the count anew.
    assert_eq!(delay.after_life_of(60_000_000_000, 1), 0);
    assert_eq!(delay.after_life_of(1, 1), 0);
    assert_eq!(delay.after_life_of(1, 1), 100_000_000);
    // What is slow to build waits the longer.
    assert_eq!(delay.after_life_of(1, 1_000_000_000), 20_000_000_000);
}
