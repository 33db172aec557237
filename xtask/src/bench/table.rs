//! The results as a table of text.

use super::{Results, Row, Target};
use std::fmt::Write;

const HEAD: [&str; 7] = ["", "native", "Plinth", "KVM", "ratio", "target", ""];

/// All rows, under the names of their suites.
#[must_use]
pub fn text(results: &Results) -> String {
    let mut out = format!(
        "commit {}, {}, {}\n",
        results.commit, results.engine, results.cpu_model
    );
    let mut suite = "";
    let mut lines = Vec::new();
    for row in &results.rows {
        if row.suite != suite {
            suite = &row.suite;
            lines.push([suite, "", "", "", "", "", ""].map(str::to_owned));
        }
        lines.push(cells(row));
    }
    lines.insert(0, HEAD.map(str::to_owned));
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in &lines {
        let mut text = String::new();
        for (index, (cell, width)) in line.iter().zip(widths).enumerate() {
            let _ = if index == 0 {
                write!(text, "{cell:width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

fn cells(row: &Row) -> [String; 7] {
    let number = |value: Option<u64>| value.map_or_else(String::new, grouped);
    let name = if row.unit == "ticks" {
        format!("  {}", row.name)
    } else {
        format!("  {} ({})", row.name, row.unit)
    };
    let ratio = match (row.times_cheaper(), row.percent_over_native()) {
        (Some(times), _) if row.target != Some(Target::NoExit) => format!("{times:.1} x"),
        (_, Some(percent)) if row.kvm.is_none() && percent.abs() < 1000.0 => {
            format!("{percent:+.2} %")
        }
        _ => String::new(),
    };
    let target = row.target.map_or_else(String::new, |target| match target {
        Target::TimesCheaperThanKvm(times) => format!("{times} x"),
        Target::PercentOverNative(percent) => format!("{percent:+} %"),
        Target::NoExit => "no exit".to_owned(),
        Target::AtMost(limit) => format!("<= {}", grouped(limit)),
    });
    let verdict = match row.is_reached() {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "",
    };
    [
        name,
        number(row.native),
        grouped(row.plinth),
        number(row.kvm),
        ratio,
        target,
        verdict.to_owned(),
    ]
}

/// Digits in groups of three.
#[must_use]
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn numbers_are_grouped_by_threes() {
        let numbers = [0, 12, 123, 1234, 123_456, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "12", "123", "1 234", "123 456", "1 234 567"]);
    }

    #[test]
    fn the_table_says_what_is_reached_and_what_is_not() {
        let mut good = row("cpuid", Some(5), 276, Some(983));
        good.target = Some(Target::TimesCheaperThanKvm(3.0));
        let mut bad = row("boot", Some(1000), 1040, None);
        bad.target = Some(Target::PercentOverNative(3.0));
        bad.suite = "linux".into();
        let text = text(&Results {
            commit: "abc".into(),
            engine: "bochs".into(),
            cpu_model: "skylake".into(),
            rows: vec![good, bad],
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "commit abc, bochs, skylake");
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(lines[2]), "exits");
        assert_eq!(words(lines[3]), "cpuid 5 276 983 3.6 x 3 x yes");
        assert_eq!(words(lines[5]), "boot 1 000 1 040 +4.00 % +3 % NO");
    }
}
