//! Measurements: each suite boots machines and gives [`Row`]s; all of a run are a [`Results`].
//!
//! [`exits`] is what single events cost, next to the bare machine and to KVM on the same one ([`baseline`]);
//! [`linux`] a whole system, native against guest; [`scale`] many VMs at once; [`startup`] the way from power-on to
//! the first guest, and sizes. [`table`] shows them, [`compare`] sets them against an older run, [`budget`] against
//! what is allowed. In Bochs an instruction is a tick, so figures repeat; on real hardware ticks are the TSC's.

pub mod baseline;
pub mod budget;
pub mod capture;
pub mod compare;
pub mod exits;
pub mod linux;
pub mod scale;
pub mod startup;
pub mod table;

use serde::{Deserialize, Serialize};

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// This many times cheaper than KVM.
    TimesCheaperThanKvm(f64),
    /// This much more than native, in percent.
    PercentOverNative(f64),
    /// No exit: what it costs natively, and a few ticks of grace.
    NoExit,
    /// At most this.
    AtMost(u64),
}

/// Ticks by which measurements of the same native path differ.
const GRACE_TICKS: u64 = 12;

/// One measured thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The suite that it belongs to.
    pub suite: String,
    /// What was measured.
    pub name: String,
    /// `ticks`, `KiB`.
    pub unit: String,
    /// On the bare machine, the median.
    pub native: Option<u64>,
    /// Under Plinth, the median where there were several.
    pub plinth: u64,
    /// The least of those, where there were several.
    #[serde(default)]
    pub minimum: Option<u64>,
    /// Under KVM on the same emulated machine.
    pub kvm: Option<u64>,
    /// What KVM costs over native, in percent, where only that can be compared.
    #[serde(default)]
    pub kvm_percent: Option<f64>,
    /// What is to be reached.
    pub target: Option<Target>,
}

impl Row {
    /// A row of ticks with nothing to compare with yet.
    #[must_use]
    pub fn ticks(suite: &str, name: impl Into<String>, plinth: u64) -> Self {
        Self {
            suite: suite.to_owned(),
            name: name.into(),
            unit: "ticks".to_owned(),
            native: None,
            plinth,
            minimum: None,
            kvm: None,
            kvm_percent: None,
            target: None,
        }
    }

    /// How many times cheaper than KVM.
    #[must_use]
    pub fn times_cheaper(&self) -> Option<f64> {
        let kvm = self.kvm?;
        (self.plinth > 0).then(|| kvm as f64 / self.plinth as f64)
    }

    /// What it costs over native, in percent.
    #[must_use]
    pub fn percent_over_native(&self) -> Option<f64> {
        let native = self.native.filter(|native| *native > 0)? as f64;
        Some((self.plinth as f64 - native) / native * 100.0)
    }

    /// Whether the target is reached; `None` where there is none, or nothing to hold it against.
    #[must_use]
    pub fn is_reached(&self) -> Option<bool> {
        Some(match self.target? {
            Target::TimesCheaperThanKvm(times) => self.times_cheaper()? >= times,
            Target::PercentOverNative(percent) => self.percent_over_native()? <= percent,
            Target::NoExit => self.plinth <= self.native? + GRACE_TICKS,
            Target::AtMost(limit) => self.plinth <= limit,
        })
    }
}

impl Target {
    /// The most that a row may show which reaches this; `None` if it lacks what the target is held against.
    #[must_use]
    pub fn most(self, row: &Row) -> Option<u64> {
        Some(match self {
            Self::TimesCheaperThanKvm(times) => (row.kvm? as f64 / times) as u64,
            Self::PercentOverNative(percent) => {
                (row.native? as f64 * (1.0 + percent / 100.0)) as u64
            }
            Self::NoExit => row.native? + GRACE_TICKS,
            Self::AtMost(limit) => limit,
        })
    }
}

/// All rows of a run, and what they were measured on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The commit, with `+` where the checkout had changes.
    pub commit: String,
    /// The engine.
    pub engine: String,
    /// The CPU model.
    pub cpu_model: String,
    /// The rows, suite by suite.
    pub rows: Vec<Row>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(name: &str, native: Option<u64>, plinth: u64, kvm: Option<u64>) -> Row {
        Row {
            native,
            kvm,
            ..Row::ticks("exits", name, plinth)
        }
    }

    #[test]
    fn a_target_is_held_against_what_it_names() {
        let with = |row: Row, target| {
            let target = Some(target);
            Row { target, ..row }.is_reached()
        };
        let ratio = Target::TimesCheaperThanKvm(3.0);
        assert_eq!(with(row("a", None, 300, Some(900)), ratio), Some(true));
        assert_eq!(with(row("a", None, 301, Some(900)), ratio), Some(false));
        assert_eq!(with(row("a", None, 301, None), ratio), None);
        let percent = Target::PercentOverNative(3.0);
        assert_eq!(with(row("a", Some(100), 103, None), percent), Some(true));
        assert_eq!(with(row("a", Some(100), 104, None), percent), Some(false));
        assert_eq!(
            with(row("a", Some(5), 17, None), Target::NoExit),
            Some(true)
        );
        assert_eq!(
            with(row("a", Some(5), 18, None), Target::NoExit),
            Some(false)
        );
        assert_eq!(
            with(row("a", None, 5, None), Target::AtMost(4)),
            Some(false)
        );
        assert_eq!(row("a", Some(5), 18, Some(20)).is_reached(), None);
    }

    #[test]
    fn the_most_that_a_target_allows_is_reached_and_one_more_is_not() {
        let targets = [
            Target::TimesCheaperThanKvm(3.0),
            Target::TimesCheaperThanKvm(10.0),
            Target::PercentOverNative(1.0),
            Target::NoExit,
            Target::AtMost(77),
        ];
        for target in targets {
            let with = |plinth| Row {
                target: Some(target),
                ..row("a", Some(1310), plinth, Some(978))
            };
            let most = target.most(&with(0)).unwrap();
            assert_eq!(with(most).is_reached(), Some(true), "{target:?}");
            assert_eq!(with(most + 1).is_reached(), Some(false), "{target:?}");
        }
        assert_eq!(Target::NoExit.most(&row("a", None, 1, None)), None);
    }

    #[test]
    fn results_survive_being_written_and_read() {
        let mut rows = vec![row("a", Some(1), 2, Some(3)), row("b", None, 4, None)];
        rows[0].target = Some(Target::TimesCheaperThanKvm(10.0));
        rows[1].target = Some(Target::NoExit);
        let results = Results {
            commit: "abc".into(),
            rows,
            ..Results::default()
        };
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
    }
}
