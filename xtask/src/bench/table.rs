//! The results as a table of text.

use super::{Results, Row, Target, baseline};
use std::fmt::Write;

const HEAD: [&str; 8] = [
    "", "native", "Plinth", "minimum", "KVM", "ratio", "target", "",
];

/// All rows, under the names of their suites.
#[must_use]
pub fn text(results: &Results) -> String {
    let mut out = format!(
        "commit {}, {}, {}\n",
        results.commit, results.engine, results.cpu_model
    );
    let is_with_kvm = |row: &Row| row.kvm.is_some() || row.kvm_percent.is_some();
    if results.rows.iter().any(is_with_kvm) {
        let _ = writeln!(out, "{}", baseline::SOURCE);
    }
    let mut suite = "";
    let mut lines = Vec::new();
    for row in &results.rows {
        if row.suite != suite {
            suite = &row.suite;
            lines.push([suite, "", "", "", "", "", "", ""].map(str::to_owned));
        }
        lines.push(cells(row));
    }
    lines.insert(0, HEAD.map(str::to_owned));
    let mut widths = [0; 8];
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

fn cells(row: &Row) -> [String; 8] {
    let number = |value: Option<u64>| value.map_or_else(String::new, grouped);
    let name = if row.unit == "ticks" {
        format!("  {}", row.name)
    } else {
        format!("  {} ({})", row.name, row.unit)
    };
    let ratio = match (row.times_cheaper(), row.percent_over_native()) {
        (Some(times), _) => format!("{times:.1} x"),
        (None, Some(percent)) if percent.abs() < 1000.0 => {
            format!("{percent:+.2} %")
        }
        _ => String::new(),
    };
    let kvm = match (row.kvm, row.kvm_percent, row.target) {
        (Some(ticks), ..) => grouped(ticks),
        (None, Some(percent), _) => format!("{percent:+.1} %"),
        (None, None, Some(Target::NoExit)) => "no exit".to_owned(),
        (None, None, _) => String::new(),
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
        number(row.minimum),
        kvm,
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
        good.minimum = Some(270);
        let mut none = row("cr3", Some(4), 5, None);
        none.target = Some(Target::NoExit);
        let mut bad = row("boot", Some(1000), 1040, None);
        bad.target = Some(Target::PercentOverNative(3.0));
        bad.suite = "linux".into();
        bad.kvm_percent = Some(4.4);
        let text = text(&Results {
            commit: "abc".into(),
            engine: "bochs".into(),
            cpu_model: "skylake".into(),
            rows: vec![good, none, bad],
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "commit abc, bochs, skylake");
        assert!(lines[1].starts_with("KVM: Linux 6.1"), "{text}");
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(lines[3]), "exits");
        assert_eq!(words(lines[4]), "cpuid 5 276 270 983 3.6 x 3 x yes");
        assert_eq!(words(lines[5]), "cr3 4 5 no exit +25.00 % no exit yes");
        assert_eq!(words(lines[7]), "boot 1 000 1 040 +4.4 % +4.00 % +3 % NO");
    }
}
