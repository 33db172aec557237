//! One table of a configuration file: its keys, read one by one with their kinds checked, and the question which of
//! them nobody asked for.

use super::source::{Place, Problems, Source};
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::rc::Rc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something that was read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<T> Found<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Found<U> {
        Found {
            value: change(self.value),
            place: self.place,
        }
    }
}

/// A table.
pub(super) struct Section<'a> {
    /// As messages call it: `[[vm]]`.
    pub(super) title: &'static str,
    /// Where it begins.
    pub(super) place: Place,
    table: &'a DeTable<'a>,
    problems: &'a Problems,
    /// The keys that somebody has asked for.
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        title: &'static str,
        source: &Rc<Source>,
        table: &'a DeTable<'a>,
        span: Range<usize>,
        problems: &'a Problems,
    ) -> Self {
        Self {
            title,
            place: Place {
                source: Rc::clone(source),
                span,
            },
            table,
            problems,
            known: RefCell::default(),
        }
    }

    pub(super) fn problem(&self, place: Place, message: impl Into<String>) {
        self.problems.add(place, message);
    }

    /// The value of a key, if it is there.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        let entry = self.table.iter().find(|(name, _)| name.get_ref() == key);
        entry.map(|(_, value)| value)
    }

    /// What stands at a value.
    pub(super) fn place_of(&self, value: &Spanned<DeValue<'_>>) -> Place {
        Place {
            source: Rc::clone(&self.place.source),
            span: value.span(),
        }
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> Option<Found<&'a str>> {
        let value = self.value(key)?;
        self.as_text(key, value)
    }

    /// A value that is to be a text.
    pub(super) fn as_text(
        &self,
        key: &str,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Option<Found<&'a str>> {
        let place = self.place_of(value);
        match value.get_ref() {
            DeValue::String(text) => Some(Found { value: text, place }),
            other => {
                let found = kind(other);
                self.problem(
                    place,
                    format!("`{key}` is a text in quotes, and not {found}"),
                );
                None
            }
        }
    }

    /// A whole number in this range.
    pub(super) fn number(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<Found<u32>> {
        let value = self.value(key)?;
        self.as_number(key, value, range)
    }

    /// A value that is to be a whole number in this range.
    pub(super) fn as_number(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        range: RangeInclusive<u32>,
    ) -> Option<Found<u32>> {
        let place = self.place_of(value);
        let DeValue::Integer(integer) = value.get_ref() else {
            let found = kind(value.get_ref());
            self.problem(place, format!("`{key}` is a whole number, and not {found}"));
            return None;
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.filter(|number| range.contains(number)) {
            Some(value) => Some(Found { value, place }),
            None => {
                let (least, most) = range.into_inner();
                self.problem(
                    place,
                    format!("`{key}` is a number from {least} to {most}, and not {integer}"),
                );
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> Option<Found<bool>> {
        let value = self.value(key)?;
        let place = self.place_of(value);
        match value.get_ref() {
            DeValue::Boolean(value) => Some(Found {
                value: *value,
                place,
            }),
            other => {
                let found = kind(other);
                self.problem(place, format!("`{key}` is true or false, and not {found}"));
                None
            }
        }
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<Found<T>> {
        let word = self.text(key)?;
        let choice = choices.iter().find(|(name, _)| *name == word.value);
        match choice {
            Some((_, value)) => Some(word.map(|_| *value)),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                let message = format!(
                    "`{key}` is {}, and not \"{}\"{}",
                    names
                        .iter()
                        .map(|name| format!("\"{name}\""))
                        .collect::<Vec<_>>()
                        .join(" or "),
                    word.value,
                    did_you_mean(word.value, names.iter().copied()),
                );
                self.problem(word.place, message);
                None
            }
        }
    }

    /// A size such as "512M".
    pub(super) fn size(&self, key: &'static str) -> Option<Found<u64>> {
        let text = self.text(key)?;
        match crate::guests::parse_size(text.value) {
            Ok(bytes) => Some(text.map(|_| bytes)),
            Err(error) => {
                self.problem(text.place, format!("`{key}`: {error}"));
                None
            }
        }
    }

    /// The elements of an array.
    pub(super) fn elements(&self, key: &'static str) -> Option<Found<&'a [Spanned<DeValue<'a>>]>> {
        let value = self.value(key)?;
        let place = self.place_of(value);
        match value.get_ref() {
            DeValue::Array(array) => Some(Found {
                value: array,
                place,
            }),
            other => {
                let found = kind(other);
                self.problem(
                    place,
                    format!("`{key}` is an array in brackets, and not {found}"),
                );
                None
            }
        }
    }

    /// A value that is a table, as a section of its own.
    pub(super) fn inner(
        &self,
        title: &'static str,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            return None;
        };
        let source = &self.place.source;
        Some(Self::new(title, source, table, value.span(), self.problems))
    }

    /// Complains about the keys that nobody has asked for. `elsewhere` are keys of other tables, with the tables'
    /// titles.
    pub(super) fn finish(&self, elsewhere: &[(&str, &[&str])]) {
        let known = self.known.borrow();
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let place = Place {
                source: Rc::clone(&self.place.source),
                span: key.span(),
            };
            let owner = elsewhere.iter().find(|(_, keys)| keys.contains(&name));
            let hint = match owner {
                Some((title, _)) => format!("; it belongs into {title}"),
                None => did_you_mean(name, known.iter().copied()),
            };
            self.problem(place, format!("{} has no key `{name}`{hint}", self.title));
        }
    }
}

/// What a value is, in a message.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// `; did you mean X?` where one of these is near enough to the word.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let word = word.to_lowercase().replace('_', "-");
    candidates
        .map(|candidate| (strsim::osa_distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min()
        .map_or_else(String::new, |(_, candidate)| {
            format!("; did you mean `{candidate}`?")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_suggested() {
        let keys = ["memory", "cpus", "on-crash"];
        assert_eq!(
            did_you_mean("memroy", keys.into_iter()),
            "; did you mean `memory`?"
        );
        assert_eq!(
            did_you_mean("on_crash", keys.into_iter()),
            "; did you mean `on-crash`?"
        );
        assert_eq!(
            did_you_mean("CPU", keys.into_iter()),
            "; did you mean `cpus`?"
        );
        assert_eq!(did_you_mean("colour", keys.into_iter()), "");
    }
}
