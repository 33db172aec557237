//! What a source file has to look like.

use super::Violation;
use super::text::{code_only, comments_only};

/// The longest a file may be, without its tests.
const MAX_LINES: usize = 520;

/// Where `unsafe` may be written.
const UNSAFE_PLACES: [&str; 2] = ["kernel/src/", "guests/"];

/// Where VMX may be spoken.
const VMX_PLACES: [&str; 2] = ["kernel/lib/vmx/", "kernel/src/backend/vmx/"];

/// The words of VMX that must not leave home. (SVM has other words for the same ideas.)
const VMX_WORDS: [&str; 3] = ["Vmcs", "Ept", "Vpid"];

/// Crates in which no test may be forgotten to be safe: they hold no `unsafe` at all, and say so.
const LIBRARIES: &str = "kernel/lib/";

/// Checks one file. `path` is relative to the checkout, with `/` between its parts.
#[must_use]
pub fn violations(path: &str, source: &str) -> Vec<Violation> {
    let code = code_only(source);
    let mut found = Vec::new();
    let mut report = |line: Option<usize>, message: String| {
        let place = line.map_or_else(|| path.to_owned(), |line| format!("{path}:{line}"));
        found.push(Violation { place, message });
    };

    if !source.trim_start().starts_with("//!") {
        report(
            None,
            "must begin with `//!`: what it does, its main types, its neighbours".into(),
        );
    }
    let lines = lines_without_tests(source);
    if lines > MAX_LINES && !is_all_tests(path) {
        report(
            None,
            format!(
                "has {lines} lines without its tests, {MAX_LINES} are allowed: a file is about one noun"
            ),
        );
    }
    if path.starts_with(LIBRARIES)
        && path.ends_with("/src/lib.rs")
        && !code.contains("#![forbid(unsafe_code)]")
    {
        report(None, "must have #![forbid(unsafe_code)]".into());
    }
    let unsafe_is_fine = UNSAFE_PLACES.iter().any(|place| path.starts_with(place));
    let vmx_is_fine = VMX_PLACES.iter().any(|place| path.starts_with(place));
    for (index, line) in code.lines().enumerate() {
        for word in words(line) {
            if word == "unsafe" && !unsafe_is_fine {
                report(
                    Some(index + 1),
                    "`unsafe` is for kernel/src and guests/ only".into(),
                );
            }
            if !vmx_is_fine && speaks_vmx(word) {
                report(
                    Some(index + 1),
                    format!(
                        "`{word}` is a word of VMX: it belongs into kernel/lib/vmx or kernel/src/backend/vmx"
                    ),
                );
            }
            if matches!(word, "todo" | "unimplemented") && line.contains(&format!("{word}!")) {
                report(Some(index + 1), format!("`{word}!` is not done yet"));
            }
        }
    }
    for (index, line) in comments_only(source).lines().enumerate() {
        if let Some(note) = bare_note(line) {
            report(
                Some(index + 1),
                format!("a bare {note}: do it, or file an issue and name it, as in {note}(#12)"),
            );
        }
    }
    found
}

/// Whether the file is a test module of its own, or belongs to a folder of tests.
fn is_all_tests(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// The number of lines before the test module at the end.
fn lines_without_tests(source: &str) -> usize {
    let lines: Vec<_> = source.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        let is_module = |line: &str| {
            line.starts_with("mod tests")
                || line.starts_with("pub(crate) mod tests")
                || line.starts_with("pub(super) mod tests")
        };
        pair[0] == "#[cfg(test)]" && is_module(pair[1])
    });
    tests.unwrap_or(lines.len())
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// Whether a name in CamelCase has one of VMX's words as one of its own.
fn speaks_vmx(name: &str) -> bool {
    VMX_WORDS.iter().any(|word| {
        name.match_indices(word).any(|(at, _)| {
            let after = name[at + word.len()..].chars().next();
            !after.is_some_and(|c| c.is_lowercase())
        })
    })
}

/// A note to oneself that names no issue.
fn bare_note(line: &str) -> Option<&'static str> {
    ["TODO", "FIXME", "XXX"].into_iter().find(|note| {
        line.match_indices(note).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = &line[at + note.len()..];
            !before.is_some_and(char::is_alphanumeric)
                && !after.starts_with(char::is_alphanumeric)
                && !after.starts_with("(#")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, source: &str) -> Vec<String> {
        violations(path, source)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_file_in_order_has_no_violations() {
        let source = "//! About something.\n\n/// Not unsafe, and no Vmcs.\nfn f() {}\n";
        assert!(messages("kernel/lib/vmm/src/x.rs", source).is_empty());
    }

    #[test]
    fn a_file_without_a_header_is_noticed() {
        assert!(messages("xtask/src/x.rs", "fn f() {}")[0].contains("`//!`"));
    }

    #[test]
    fn unsafe_outside_the_kernel_is_noticed_with_its_line() {
        let source = "//! x\n\nunsafe fn f() {}\n";
        assert!(messages("xtask/src/x.rs", source)[0].starts_with("xtask/src/x.rs:3: `unsafe`"));
        assert!(messages("kernel/src/x.rs", source).is_empty());
        assert!(messages("guests/src/x.rs", source).is_empty());
    }

    #[test]
    fn the_names_of_lints_about_unsafe_are_not_unsafe() {
        assert!(messages("xtask/src/x.rs", "//! x\n#![forbid(unsafe_code)]\n").is_empty());
    }

    #[test]
    fn words_of_vmx_are_noticed_outside_their_home() {
        let source =
            "//! x\nstruct EptViolation;\nenum E { CurrentVmcs }\nfn accept(x: Except) {}\n";
        assert_eq!(messages("kernel/lib/vmm/src/x.rs", source).len(), 2);
        assert!(messages("kernel/lib/vmx/src/x.rs", source).is_empty());
        assert!(messages("kernel/src/backend/vmx/x.rs", source).is_empty());
    }

    #[test]
    fn only_the_lines_before_the_tests_count() {
        let long = format!("//! x\n{}", "fn f() {}\n".repeat(MAX_LINES));
        let told = format!("has {} lines", MAX_LINES + 1);
        assert!(messages("a.rs", &long)[0].contains(&told));
        let tests = format!(
            "//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "fn f() {}\n".repeat(MAX_LINES)
        );
        assert!(messages("a.rs", &tests).is_empty());
        assert!(messages("kernel/lib/vmx/src/x/tests.rs", &long).is_empty());
    }

    #[test]
    fn a_library_that_does_not_forbid_unsafe_is_noticed() {
        assert_eq!(messages("kernel/lib/vmm/src/lib.rs", "//! x\n").len(), 1);
    }

    #[test]
    fn a_note_needs_an_issue() {
        assert_eq!(messages("a.rs", "//! x\n// TODO: later\n").len(), 1);
        assert!(messages("a.rs", "//! x\n// TODO(#3): later\n// a MASTODON\n").is_empty());
        assert_eq!(messages("a.rs", "//! x\nfn f() { todo!() }\n").len(), 1);
    }
}
