//! Where the hypervisor's own ticks go: samples of a machine in Bochs, at every so many ticks.
//!
//! Bochs's debugger stops the machine by its own clock, so nothing in the machine knows of it, and two profiles of the
//! same run are the same. [`sample`] takes the samples, [`stack`] follows the calls that led to each, and the names
//! come from the hypervisor's debug information, functions that the compiler has inlined included.

pub mod sample;
pub mod stack;

use addr2line::{Loader, demangle_auto};
use anyhow::{Result, anyhow};
use std::collections::BTreeMap;
use std::path::Path;

pub use sample::{Sample, take};
use stack::Unwinder;

/// Stacks by how many samples showed them: names from the outermost caller on, with `;` between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The stacks.
    pub stacks: BTreeMap<String, u64>,
    /// All samples, those outside of the hypervisor included.
    pub samples: u64,
}

impl Profile {
    /// Finds names for the samples, by the hypervisor's program with symbols.
    pub fn of(samples: &[Sample], program: &Path) -> Result<Self> {
        let unwinder = Unwinder::of(program)?;
        let names = Names::of(program)?;
        let mut profile = Self::default();
        for sample in samples {
            profile.samples += 1;
            if !unwinder.is_code(sample.rip) {
                continue;
            }
            let mut frames = Vec::new();
            for (depth, address) in unwinder.calls(sample).into_iter().enumerate() {
                // A return address is behind its call, which may be the last thing in its function.
                frames.extend(names.at(if depth == 0 { address } else { address - 1 }));
            }
            frames.reverse();
            *profile.stacks.entry(frames.join(";")).or_default() += 1;
        }
        Ok(profile)
    }

    /// Samples inside the hypervisor.
    #[must_use]
    pub fn inside(&self) -> u64 {
        self.stacks.values().sum()
    }

    /// Samples in each function itself, most first.
    #[must_use]
    pub fn by_function(&self) -> Vec<(&str, u64)> {
        let mut functions: BTreeMap<&str, u64> = BTreeMap::new();
        for (stack, count) in &self.stacks {
            let (_, innermost) = stack.rsplit_once(';').unwrap_or(("", stack));
            *functions.entry(innermost).or_default() += count;
        }
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        functions
    }

    /// The flame graph.
    pub fn svg(&self, title: &str) -> Result<Vec<u8>> {
        let lines: Vec<String> = self
            .stacks
            .iter()
            .map(|(stack, count)| format!("{stack} {count}"))
            .collect();
        let mut options = inferno::flamegraph::Options::default();
        options.title = title.to_owned();
        options.count_name = "samples".to_owned();
        options.deterministic = true;
        let mut svg = Vec::new();
        inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
        Ok(svg)
    }
}

/// Names of code addresses.
struct Names(Loader);

impl Names {
    fn of(program: &Path) -> Result<Self> {
        let loader = Loader::new(program)
            .map_err(|error| anyhow!("cannot read {}: {error}", program.display()))?;
        Ok(Self(loader))
    }

    /// The functions at an address, the innermost inlined one first.
    fn at(&self, address: u64) -> Vec<String> {
        let mut names = Vec::new();
        if let Ok(mut frames) = self.0.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.and_then(|function| {
                    let name = function.demangle().ok()?;
                    Some(short(&name))
                });
                names.push(name.unwrap_or_else(|| "?".to_owned()));
            }
        }
        // Line tables name functions without their modules; the symbol of the outermost has them.
        if let Some(symbol) = self.0.find_symbol(address) {
            names.pop();
            names.push(short(&demangle_auto(symbol.into(), None)));
        }
        names
    }
}

/// A name without its hash, and without what would end a frame in a line of stacks.
fn short(name: &str) -> String {
    let name = match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            name
        }
        _ => name,
    };
    name.replace(';', ",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let stacks = [("a;b", 3), ("a;b;c", 5), ("a", 1), ("x;c", 4)];
        Profile {
            stacks: stacks
                .map(|(stack, count)| (stack.to_owned(), count))
                .into(),
            samples: 100,
        }
    }

    #[test]
    fn functions_are_sorted_by_what_is_their_own() {
        assert_eq!(profile().by_function(), [("c", 9), ("b", 3), ("a", 1)]);
        assert_eq!(profile().inside(), 13);
    }

    #[test]
    fn the_flame_graph_names_the_functions() {
        let svg = String::from_utf8(profile().svg("a title").unwrap()).unwrap();
        assert!(svg.contains("<svg") && svg.contains("a title") && svg.contains("b (8 samples"));
    }

    #[test]
    fn names_lose_their_hash() {
        assert_eq!(
            short("vmm::handle::handle::h0123456789abcdef"),
            "vmm::handle::handle"
        );
        assert_eq!(short("memory::hot"), "memory::hot");
        assert_eq!(short("f::<[u8; 4]>"), "f::<[u8, 4]>");
    }
}
