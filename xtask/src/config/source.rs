//! The text of a configuration file, places in it, and messages that point there.

use std::cell::RefCell;
use std::fmt::{self, Display, Write};
use std::ops::Range;
use std::rc::Rc;

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// As people call it.
    pub(super) name: String,
    /// What is in it.
    pub(super) text: String,
}

impl Source {
    pub(super) fn new(name: impl Into<String>, text: impl Into<String>) -> Rc<Self> {
        Rc::new(Self {
            name: name.into(),
            text: text.into(),
        })
    }

    /// Line and column, both counted from 1, of the byte at `offset`.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.matches('\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) source: Rc<Source>,
    pub(super) span: Range<usize>,
}

impl Place {
    /// Writes the line, and marks the part of it.
    fn show(&self, out: &mut String) -> fmt::Result {
        let (line, column) = self.source.position(self.span.start);
        let text = self
            .source
            .text
            .lines()
            .nth(line - 1)
            .unwrap_or_default()
            .trim_end();
        let margin = " ".repeat(line.to_string().len());
        // Tabs stay tabs, so that the mark stands below what it marks.
        let indent: String = text
            .chars()
            .take(column - 1)
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        let marked = self.source.text.get(self.span.clone()).unwrap_or_default();
        let rest = text.chars().count().saturating_sub(column - 1);
        let width = marked
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            .clamp(1, rest.max(1));
        writeln!(out, "{margin} |")?;
        writeln!(out, "{line} | {text}")?;
        writeln!(out, "{margin} | {indent}{}", "^".repeat(width))
    }
}

/// `file:line:column`
impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.source.position(self.span.start);
        write!(f, "{}:{line}:{column}", self.source.name)
    }
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) place: Place,
    pub(super) message: String,
}

/// All that was found wrong so far. Looking goes on after the first, so that one look tells everything.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn add(&self, place: Place, message: impl Into<String>) {
        self.0.borrow_mut().push(Problem {
            place,
            message: message.into(),
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Everything in the order of the files and their lines, as text for people; `None` where nothing is wrong.
    pub(super) fn report(self) -> Option<String> {
        let mut problems = self.0.into_inner();
        if problems.is_empty() {
            return None;
        }
        problems.sort_by(|a, b| {
            (&a.place.source.name, a.place.span.start)
                .cmp(&(&b.place.source.name, b.place.span.start))
        });
        let mut text = String::new();
        for Problem { place, message } in &problems {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{place}: {message}");
            let _ = place.show(&mut text);
        }
        let count = match problems.len() {
            1 => "1 mistake".to_owned(),
            count => format!("{count} mistakes"),
        };
        Some(format!("the configuration has {count}\n{text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(source: &Rc<Source>, marked: &str) -> Place {
        let start = source.text.find(marked).unwrap();
        Place {
            source: Rc::clone(source),
            span: start..start + marked.len(),
        }
    }

    #[test]
    fn a_message_points_at_its_line_and_marks_the_words() {
        let source = Source::new("a.toml", "one = 1\ntwo = \"zwei\" # ü\n");
        let problems = Problems::default();
        problems.add(place(&source, "\"zwei\""), "is not two");
        problems.add(place(&source, "one"), "is not one");
        let report = problems.report().unwrap();
        assert_eq!(
            report,
            "the configuration has 2 mistakes\n\
             a.toml:1:1: is not one\n  |\n1 | one = 1\n  | ^^^\n\
             a.toml:2:7: is not two\n  |\n2 | two = \"zwei\" # ü\n  |       ^^^^^^\n"
        );
    }

    #[test]
    fn columns_count_characters_and_tabs_keep_the_mark_in_place() {
        let source = Source::new("a.toml", "\tname = \"ü\"; x = 2");
        let x = place(&source, "x");
        assert_eq!(x.to_string(), "a.toml:1:14");
        let mut text = String::new();
        x.show(&mut text).unwrap();
        assert!(text.ends_with("| \t            ^\n"), "{text:?}");
    }

    #[test]
    fn what_goes_on_over_several_lines_is_marked_on_the_first() {
        let source = Source::new("a.toml", "m = [\n 1,\n]\n");
        let mut text = String::new();
        place(&source, "[\n 1,\n]").show(&mut text).unwrap();
        assert_eq!(text, "  |\n1 | m = [\n  |     ^\n");
    }

    #[test]
    fn the_end_of_a_file_can_be_pointed_at() {
        let source = Source::new("a.toml", "x = ");
        let end = Place {
            source: Rc::clone(&source),
            span: 4..4,
        };
        let mut text = String::new();
        end.show(&mut text).unwrap();
        assert_eq!(end.to_string(), "a.toml:1:5");
        assert!(text.contains("1 | x ="), "{text}");
    }

    #[test]
    fn nothing_wrong_is_no_report() {
        assert_eq!(Problems::default().report(), None);
    }
}
