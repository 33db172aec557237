//! What a README names exists: files, folders, functions and types; and the files that comments name. A map that shows
//! what is not there leads astray.
//!
//! Looked at is what stands between backticks. A path is one by its `/` or its ending; it may begin anywhere below the
//! checkout, and leave out the `src` of a crate. In a row of a table whose first cell is a folder, plain words are what
//! that folder has.

use super::Violation;
use super::text::comments_only;
use std::collections::BTreeSet;

/// What there is in the checkout.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Files and folders, each with `/` at both ends, also without the `src` of crates.
    places: BTreeSet<String>,
    /// What the sources define.
    names: BTreeSet<String>,
}

/// What a name follows that is defined.
const KEYWORDS: [&str; 8] = [
    "fn", "struct", "enum", "trait", "type", "mod", "const", "static",
];

/// Endings of files that a README names without their folder.
const ENDINGS: [&str; 4] = [".rs", ".md", ".toml", ".S"];

/// Places of the user's machine, or made by a build.
const ELSEWHERE: [&str; 2] = ["/", "target/"];

impl Inventory {
    /// Takes a file of the checkout, by its path relative to that, and what it defines.
    pub fn add(&mut self, path: &str, source: &str) {
        for path in [path.to_owned(), path.replace("/src/", "/")] {
            let mut end = 0;
            while let Some(length) = path[end..].find('/') {
                end += length + 1;
                self.places.insert(format!("/{}", &path[..end]));
            }
            self.places.insert(format!("/{path}/"));
        }
        let mut words = source.split(|c: char| !c.is_alphanumeric() && c != '_');
        while let Some(word) = words.next() {
            if KEYWORDS.contains(&word)
                && let Some(name) = words.next()
            {
                self.names.insert(name.to_owned());
            }
        }
    }

    fn has_place(&self, path: &str) -> bool {
        let wanted = format!("/{}/", path.trim_matches('/'));
        let module = format!("/{}.rs/", path.trim_matches('/'));
        self.places
            .iter()
            .any(|place| place.ends_with(&wanted) || place.ends_with(&module))
    }
}

/// Checks a README, whose path is relative to the checkout.
#[must_use]
pub fn violations(path: &str, text: &str, inventory: &Inventory) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // What is indented is an example.
        if line.starts_with("    ") {
            continue;
        }
        let words: Vec<_> = line.split('`').skip(1).step_by(2).collect();
        let folder = words
            .first()
            .filter(|first| line.starts_with(&format!("| `{first}` |")) && first.ends_with('/'));
        for (place, word) in words.iter().enumerate() {
            let is_there = match (kind(word), folder) {
                (Kind::Path, _) => inventory.has_place(word),
                (Kind::Function(name), _) => inventory.names.contains(name),
                (Kind::Type, _) => inventory.names.contains(*word),
                (Kind::Word, Some(folder)) if place > 0 => {
                    inventory.has_place(&format!("{folder}{word}"))
                }
                (Kind::Word | Kind::Other, _) => true,
            };
            if !is_there {
                found.push(Violation {
                    place: format!("{path}:{}", index + 1),
                    message: format!("names `{word}`, which is not there"),
                });
            }
        }
    }
    found
}

/// Checks the comments of a source file: the files that they name.
#[must_use]
pub fn stale_comments(path: &str, source: &str, inventory: &Inventory) -> Vec<Violation> {
    let comments = comments_only(source);
    let lines = comments.lines().enumerate();
    let named = lines.flat_map(|(index, line)| {
        let words = line.split('`').skip(1).step_by(2);
        words.map(move |word| (index, word))
    });
    named
        .filter(|(_, word)| word.ends_with(".rs") && matches!(kind(word), Kind::Path))
        .filter(|(_, word)| !inventory.has_place(word))
        .map(|(index, word)| Violation {
            place: format!("{path}:{}", index + 1),
            message: format!("names `{word}`, which is not there"),
        })
        .collect()
}

/// Checks the table of guests in a text: each program has a row, and there are no others.
#[must_use]
pub fn guests_table(path: &str, text: &str, programs: &BTreeSet<&str>) -> Vec<Violation> {
    let rows: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.trim_start_matches("//! ").strip_prefix("| `"))
        .filter_map(|row| row.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let missing = programs.difference(&rows).map(|name| (name, "is not in"));
    let surplus = rows
        .difference(programs)
        .map(|name| (name, "is none, but is in"));
    missing
        .chain(surplus)
        .map(|(name, what)| Violation {
            place: path.to_owned(),
            message: format!("the guest `{name}` {what} the table"),
        })
        .collect()
}

/// What may stand between backticks.
enum Kind<'a> {
    /// A path.
    Path,
    /// A function of a type or a module.
    Function(&'a str),
    /// A type, by its capitals.
    Type,
    /// A word that may be a module.
    Word,
    /// A command, an option, a key, something of others'.
    Other,
}

fn kind(word: &str) -> Kind<'_> {
    let is_identifier = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let is_path = |text: &str| {
        !ELSEWHERE.iter().any(|begin| text.starts_with(begin))
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-./".contains(c))
    };
    let is_lower = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if let Some((owner, function)) = word.split_once("::") {
        if is_identifier(owner) && is_lower(function) {
            return Kind::Function(function);
        }
        return Kind::Other;
    }
    if is_path(word) && (word.contains('/') || ENDINGS.iter().any(|end| word.ends_with(end))) {
        Kind::Path
    } else if is_lower(word) && !word.is_empty() {
        Kind::Word
    } else if is_identifier(word)
        && word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.contains(|c: char| c.is_ascii_lowercase())
    {
        Kind::Type
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> Vec<String> {
        let mut inventory = Inventory::default();
        inventory.add("kernel/src/vm.rs", "impl Vm { pub fn apply(&self) {} }");
        inventory.add("kernel/src/hw/clock.rs", "");
        inventory.add(
            "kernel/lib/vmx/src/posted.rs",
            "pub struct PostedInterrupts;",
        );
        inventory.add("guests/examples/two-linux.toml", "");
        let violations = violations("README.md", text, &inventory);
        violations
            .into_iter()
            .map(|violation| violation.to_string())
            .collect()
    }

    #[test]
    fn what_is_there_may_be_named() {
        for text in [
            "`vm.rs`, `kernel/src`, `src/hw/`, `vmx/posted.rs`, `lib/vmx` and `vmx/posted`",
            "`cargo xtask run --config guests/none.toml`, `Ctrl-A x`, `IA32_EFER`, `/dev/kvm`, `target/plinth/x.img`",
            "`Vm::apply` and `PostedInterrupts`, `--apic`, `no_std`, `kvm-clock`",
            "    cargo xtask run `none.rs`",
            "| `hw/` | `clock` |",
            "| `guests/examples` | `anything` |",
        ] {
            assert_eq!(wrong(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_file_that_has_moved_stayed_in_a_comment() {
        let mut inventory = Inventory::default();
        inventory.add("kernel/src/vm/port.rs", "");
        let found = |source| stale_comments("a.rs", source, &inventory).len();
        assert_eq!(found("//! See `vm/port.rs`, `port.rs` and `Vm`."), 0);
        assert_eq!(found("/// See\n/// `vm/ports.rs`.\nfn f() {}"), 1);
        assert_eq!(found("fn f() { g(\"`none.rs`\") }"), 0);
    }

    #[test]
    fn a_guest_was_in_the_list_by_another_name() {
        let text = "//! | guest | form |\n//! | `hello` | PVH |\n//! | `panicked` | `DONE` |\n";
        let found = guests_table("lib.rs", text, &BTreeSet::from(["hello", "dying"]));
        let messages: Vec<_> = found.iter().map(|found| &*found.message).collect();
        assert_eq!(
            messages,
            [
                "the guest `dying` is not in the table",
                "the guest `panicked` is none, but is in the table"
            ]
        );
        let programs = BTreeSet::from(["hello", "panicked"]);
        assert_eq!(guests_table("lib.rs", text, &programs), []);
    }

    #[test]
    fn a_file_that_has_moved_stayed_in_the_map() {
        assert_eq!(
            wrong("first\n| `vcpu.rs` | runs |"),
            ["README.md:2: names `vcpu.rs`, which is not there"]
        );
        for text in [
            "`vmx/none.rs`",
            "`guests/none`",
            "`hw/vm.rs`",
            "`m.rs`",
            "`Vm::none`",
            "`NoType`",
            "| `hw/` | `clock`, `none` |",
        ] {
            assert_eq!(wrong(text).len(), 1, "{text}");
        }
    }
}
