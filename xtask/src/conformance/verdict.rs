//! What the comparison of two runs of a guest comes to.

use super::exceptions::Exception;
use super::{Cases, Outcome, Side};
use std::collections::BTreeSet;

/// How the cases of one guest compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Pass on both machines.
    pub agreed: usize,
    /// Pass under Plinth, and cannot be judged on the bare machine: it lacks what they need.
    pub guest_only: usize,
    /// One of the two is excused from the case.
    pub excused: usize,
    /// Both lack what they need.
    pub skipped: usize,
    /// Anything else, in words.
    pub wrong: Vec<String>,
}

/// The sum of scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cases that Plinth passes.
    pub passed: usize,
    /// Those of them that the bare machine passes as well.
    pub agreed: usize,
    /// Cases from which one machine is excused.
    pub excused: usize,
    /// Cases that neither can run.
    pub skipped: usize,
    /// Cases that are wrong.
    pub wrong: usize,
}

impl Totals {
    /// Adds the score of a guest.
    pub fn add(&mut self, score: &Score) {
        self.passed += score.passed();
        self.agreed += score.agreed;
        self.excused += score.excused;
        self.skipped += score.skipped;
        self.wrong += score.wrong.len();
    }
}

impl Score {
    /// How many cases Plinth passes that nobody is excused from.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.agreed + self.guest_only
    }
}

/// Compares two runs. An exception that excuses nothing is wrong as well, so that the list does not outlive its
/// reasons.
#[must_use]
pub fn judge(bare: &Cases, guest: &Cases, exceptions: &[&Exception]) -> Score {
    let mut score = Score::default();
    let names: BTreeSet<_> = bare.keys().chain(guest.keys()).collect();
    for exception in exceptions {
        if !names.contains(&exception.case.to_owned()) {
            score.wrong.push(format!(
                "{}: it is in the list of exceptions, and in no guest",
                exception.case
            ));
        }
    }
    for name in names {
        let excuse = |side| {
            exceptions
                .iter()
                .any(|exception| exception.case == name && exception.side == side)
        };
        let mut wrong = |what: String| score.wrong.push(format!("{name}: {what}"));
        match (bare.get(name), guest.get(name)) {
            (bare, guest) if excuse(Side::Bare) || excuse(Side::Guest) => {
                match still_excused(bare, guest, excuse(Side::Bare), excuse(Side::Guest)) {
                    Ok(()) => score.excused += 1,
                    Err(what) => wrong(what),
                }
            }
            (Some(Outcome::Pass), Some(Outcome::Pass)) => score.agreed += 1,
            (Some(Outcome::Skip(_)), Some(Outcome::Skip(_))) => score.skipped += 1,
            (Some(Outcome::Skip(_)), Some(Outcome::Pass)) => score.guest_only += 1,
            (bare, guest) => wrong(format!("bare {}, guest {}", word(bare), word(guest))),
        }
    }
    score
}

/// Whether a case that somebody is excused from is as the list says: who is excused does not pass it, and the other does.
fn still_excused(
    bare: Option<&Outcome>,
    guest: Option<&Outcome>,
    bare_is_excused: bool,
    guest_is_excused: bool,
) -> Result<(), String> {
    let passes = |outcome: Option<&Outcome>| outcome == Some(&Outcome::Pass);
    for (side, outcome, excused) in [
        ("bare", bare, bare_is_excused),
        ("guest", guest, guest_is_excused),
    ] {
        if excused == passes(outcome) {
            return Err(if excused {
                format!("{side} PASS, though the list of exceptions says otherwise")
            } else {
                format!("{side} {}", word(outcome))
            });
        }
    }
    Ok(())
}

fn word(outcome: Option<&Outcome>) -> String {
    match outcome {
        None => "says nothing".to_owned(),
        Some(Outcome::Pass) => "PASS".to_owned(),
        Some(Outcome::Fail(why)) => format!("FAIL ({why})"),
        Some(Outcome::Skip(why)) => format!("SKIP ({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCEPTIONS: [Exception; 2] = [
        Exception {
            guest: "apic",
            case: "bare-is-wrong",
            side: Side::Bare,
            bochs: "b",
            manual: "m",
        },
        Exception {
            guest: "apic",
            case: "guest-cannot",
            side: Side::Guest,
            bochs: "b",
            manual: "m",
        },
    ];

    fn cases(outcomes: &[(&str, Outcome)]) -> Cases {
        outcomes
            .iter()
            .map(|(name, outcome)| ((*name).to_owned(), outcome.clone()))
            .collect()
    }

    fn fail() -> Outcome {
        Outcome::Fail("no".into())
    }

    fn skip() -> Outcome {
        Outcome::Skip("no".into())
    }

    fn excusing(indexes: &[usize]) -> Vec<&'static Exception> {
        indexes.iter().map(|index| &EXCEPTIONS[*index]).collect()
    }

    #[test]
    fn what_passes_on_both_agrees_and_what_differs_is_wrong() {
        let bare = cases(&[("a", Outcome::Pass), ("b", Outcome::Pass), ("c", fail())]);
        let guest = cases(&[("a", Outcome::Pass), ("b", fail()), ("c", Outcome::Pass)]);
        let score = judge(&bare, &guest, &[]);
        assert_eq!((score.agreed, score.wrong.len()), (1, 2));
        assert!(score.wrong[0].contains("bare PASS, guest FAIL (no)"));
    }

    #[test]
    fn a_guest_may_not_skip_what_the_bare_machine_does() {
        let bare = cases(&[("a", Outcome::Pass), ("b", skip()), ("c", skip())]);
        let guest = cases(&[("a", skip()), ("b", Outcome::Pass), ("c", skip())]);
        let score = judge(&bare, &guest, &[]);
        assert_eq!(
            (score.guest_only, score.skipped, score.wrong.len()),
            (1, 1, 1)
        );
    }

    #[test]
    fn a_case_that_only_one_side_tells_of_is_wrong() {
        let score = judge(&cases(&[("a", Outcome::Pass)]), &cases(&[]), &[]);
        assert_eq!(score.wrong, ["a: bare PASS, guest says nothing"]);
    }

    #[test]
    fn the_bare_machine_may_be_excused_and_then_the_guest_must_pass() {
        let bare = cases(&[("bare-is-wrong", fail())]);
        let good = judge(
            &bare,
            &cases(&[("bare-is-wrong", Outcome::Pass)]),
            &excusing(&[0]),
        );
        assert_eq!((good.excused, good.wrong.len()), (1, 0));
        let bad = judge(&bare, &bare, &excusing(&[0]));
        assert_eq!((bad.excused, bad.wrong.len()), (0, 1));
    }

    #[test]
    fn an_excuse_that_is_not_needed_any_more_is_wrong() {
        let both = cases(&[("guest-cannot", Outcome::Pass)]);
        assert_eq!(judge(&both, &both, &excusing(&[1])).wrong.len(), 1);
        assert_eq!(
            judge(&cases(&[]), &cases(&[]), &excusing(&[1])).wrong.len(),
            1
        );
    }
}
