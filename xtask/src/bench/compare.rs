//! What has changed since an older run.

use super::Results;
use super::table::grouped;
use std::fmt::Write;

/// One line for each row that both have and that differs, and for each that only one has.
#[must_use]
pub fn text(old: &Results, new: &Results) -> String {
    let mut out = format!("from commit {} to {}\n", old.commit, new.commit);
    if (&old.engine, &old.cpu_model) != (&new.engine, &new.cpu_model) {
        let _ = writeln!(
            out,
            "the machines differ: {} {} and {} {}",
            old.engine, old.cpu_model, new.engine, new.cpu_model
        );
    }
    let find = |results: &Results, suite: &str, name: &str| {
        let mut rows = results.rows.iter();
        rows.find(|row| row.suite == suite && row.name == name)
            .map(|row| (row.plinth, row.minimum))
    };
    let mut equal = 0;
    for row in &new.rows {
        let label = format!("{} {}", row.suite, row.name);
        match find(old, &row.suite, &row.name) {
            Some((before, least))
                if before == row.plinth && (least == row.minimum || least.is_none()) =>
            {
                equal += 1;
            }
            Some((before, least)) => {
                let change = change(before, row.plinth);
                let least = match (least, row.minimum) {
                    (Some(before), Some(now)) if before != now => {
                        format!(", minimum{}", self::change(before, now))
                    }
                    _ => String::new(),
                };
                let _ = writeln!(out, "  {label:40}{change}{least}");
            }
            None => {
                let _ = writeln!(out, "  {label:40} new: {}", grouped(row.plinth));
            }
        }
    }
    let gone = old.rows.iter();
    for row in gone.filter(|row| {
        let is_in_run = new.rows.iter().any(|other| other.suite == row.suite);
        is_in_run && find(new, &row.suite, &row.name).is_none()
    }) {
        let _ = writeln!(out, "  {} {} is gone", row.suite, row.name);
    }
    let _ = writeln!(out, "{equal} unchanged");
    out
}

/// From one figure to another, and by how much that is more or less.
fn change(before: u64, now: u64) -> String {
    let (from, to) = (grouped(before), grouped(now));
    let percent = match before {
        // Of nothing there is no share.
        0 => String::new(),
        _ => format!("  {:+.1} %", (now as f64 / before as f64 - 1.0) * 100.0),
    };
    format!(" {from:>14} -> {to:>14}{percent}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn changes_news_and_losses_are_told() {
        let results = |commit: &str, rows| Results {
            commit: commit.into(),
            rows,
            ..Results::default()
        };
        let old = results(
            "old",
            vec![
                row("a", None, 100, None),
                row("b", None, 5, None),
                row("c", None, 7, None),
            ],
        );
        let new = results(
            "new",
            vec![
                row("a", None, 110, None),
                row("b", None, 5, None),
                row("d", None, 1, None),
            ],
        );
        let text = text(&old, &new);
        assert!(text.starts_with("from commit old to new\n"));
        for part in [
            "+10.0 %",
            "exits d",
            "new: 1",
            "exits c is gone",
            "1 unchanged",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("machines differ"));
    }

    #[test]
    fn what_was_nothing_has_changed_by_no_percentage() {
        assert_eq!(change(0, 12).trim(), "0 ->             12");
        assert!(change(10, 0).ends_with("-100.0 %"));
    }

    #[test]
    fn a_minimum_that_has_changed_is_told_even_where_the_median_has_not() {
        let results = |minimum| Results {
            rows: vec![super::super::Row {
                minimum,
                ..row("a", None, 100, None)
            }],
            ..Results::default()
        };
        let text = text(&results(Some(90)), &results(Some(99)));
        assert!(
            text.contains(", minimum") && text.contains("0 unchanged"),
            "{text}"
        );
        assert!(super::text(&results(None), &results(Some(9))).contains("1 unchanged"));
    }
}
