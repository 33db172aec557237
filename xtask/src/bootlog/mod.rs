//! What Linux warns of when it boots, on the bare machine and under Plinth: a warning that the bare machine does not
//! give is Plinth's fault, unless [`explained`] says why it is right.
//!
//! [`compare`] boots a kernel on both with the script `guests/linux/warnings`; [`Warnings`] is what one of them said.

pub mod explained;

use crate::bench::capture;
use crate::bench::exits::Host;
use crate::build::Artifacts;
use crate::linux::{KernelPackage, Linux, Task};
use crate::paths::Paths;
use anyhow::{Context, Result};
use bundle::Console;
use std::collections::BTreeMap;

use explained::Explained;

/// The script that tells them.
const SCRIPT: &str = "warnings";

/// On both: without the kernel's tests of its own cryptography, which take the longest and concern no device.
const BOTH: &str = " quiet cryptomgr.notests";

/// On the bare machine only, for what Bochs 2.7 does not do as it says: XSAVEC and XSAVES (old kernels know them by
/// their numbers only), which Plinth hides, the frequency of the TSC, and the registers of machine checks, for lack of
/// which kernels that know them panic.
const BARE: &str = " clearcpuid=321,323 tsc_early_khz=10000 mce=off";

/// The warnings in a boot log, and which kernel it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    /// The kernel's release.
    pub kernel: String,
    /// By what they have in common whatever the numbers in them: each as it was.
    by_kind: BTreeMap<String, String>,
}

/// A warning that only one machine has given, and why that is right, if it is.
pub type Difference = (String, Option<&'static Explained>);

impl Warnings {
    /// Out of what a machine has said; `None` where it did not come to its end.
    #[must_use]
    pub fn of(lines: &[String]) -> Option<Self> {
        let mut warnings = Self::default();
        let mut count = 0;
        let mut told = None;
        for line in lines {
            if let Some(release) = line.strip_prefix("kernel: ") {
                release.clone_into(&mut warnings.kernel);
            } else if let Some(warning) = line.strip_prefix("WARNING ") {
                count += 1;
                let text = message(warning);
                warnings.by_kind.insert(kind(text), text.to_owned());
            } else if let Some(number) = line
                .strip_prefix("DONE ")
                .and_then(|rest| rest.strip_suffix(" warnings"))
            {
                told = number.trim().parse().ok();
            }
        }
        (told == Some(count)).then_some(warnings)
    }

    /// How many kinds there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_kind.len()
    }

    /// Those of this machine that the other has not given.
    #[must_use]
    pub fn beyond(&self, bare: &Self) -> Vec<Difference> {
        self.by_kind
            .iter()
            .filter(|(kind, _)| !bare.by_kind.contains_key(*kind))
            .map(|(_, text)| (text.clone(), explained::of(text)))
            .collect()
    }
}

/// A line of the log in raw form without its level and time: `<4>[    1.234567] text`, and the task where that is told.
fn message(line: &str) -> &str {
    let mut text = line.split_once('>').map_or(line, |(_, text)| text);
    while let Some((inside, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && inside
            .trim_start_matches(['T', 'C', ' '])
            .starts_with(|c: char| c.is_ascii_digit())
    {
        text = rest.trim_start();
    }
    text
}

/// The text with a `#` for each number: sizes, addresses and times are each machine's own.
fn kind(text: &str) -> String {
    let mut kind = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let number = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let digits = number.strip_prefix("0x").unwrap_or(number);
        let is_number = digits.contains(|c: char| c.is_ascii_digit())
            && digits.chars().all(|c| c.is_ascii_hexdigit());
        if is_number {
            kind.push('#');
            kind.push_str(word.get(number.len()..).unwrap_or(""));
        } else {
            kind.push_str(word);
        }
    }
    kind
}

/// Boots a kernel on the bare machine and under Plinth; what both have warned of.
pub fn compare(
    paths: &Paths,
    artifacts: &Artifacts,
    package: &KernelPackage,
    host: Host,
) -> Result<[Warnings; 2]> {
    let linux = Linux::provide_kernel(paths, package)?;
    let name = package.to_string().replace('/', "-");
    let initrd = paths.artifacts().join(format!("bootlog-{name}.initrd"));
    let mut guest = linux.guest(Task::Script(SCRIPT), &initrd)?;
    guest.config.console = Console::Terminal;
    guest.config.cmdline.push_str(BOTH);
    let mut bare = guest.clone();
    bare.config.cmdline.push_str(BARE);
    let boot = |machine| {
        let captured = capture::run(paths, &machine, |line| line.ends_with(" warnings"))?;
        Warnings::of(&captured.lines).with_context(|| {
            format!(
                "the kernel has not come to its end:\n{}",
                captured.lines.join("\n")
            )
        })
    };
    let machines = [
        host.bare(artifacts, &bare, 1)?,
        // With virtual-interrupt delivery in Bochs, kernels of today wait for themselves.
        host.plinth_with(artifacts, &[guest], 1, host.engine.usual_apic())?,
    ];
    let [bare, guest] = machines.map(boot);
    Ok([bare?, guest?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(lines: &[&str]) -> Option<Warnings> {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        Warnings::of(&lines)
    }

    #[test]
    fn numbers_and_times_make_no_difference() {
        let bare = warnings(&[
            "kernel: 6.1.0",
            "WARNING <4>[    0.123456] tsc: Unable to calibrate against PIT",
            "WARNING <4>[    0.2] no memory at 0xfee00000, 4096 bytes",
            "DONE 2 warnings",
        ])
        .unwrap();
        let guest = warnings(&[
            "kernel: 6.1.0",
            "WARNING <3>[    7.5][    T1] no memory at 0x1000, 16 bytes",
            "DONE 1 warnings",
        ])
        .unwrap();
        assert_eq!(guest.kernel, "6.1.0");
        assert_eq!((bare.count(), guest.count()), (2, 1));
        assert_eq!(guest.beyond(&bare), []);
        let more = bare.beyond(&guest);
        assert_eq!(more.len(), 1);
        assert_eq!(more[0].0, "tsc: Unable to calibrate against PIT");
        assert!(more[0].1.is_none());
    }

    #[test]
    fn only_time_and_task_are_cut_off() {
        let text = "[Firmware Bug]: TSC_DEADLINE disabled";
        assert_eq!(message(&format!("<3>[    0.936152] {text}")), text);
        assert_eq!(message(&format!("<3>[   12.5][    T1] {text}")), text);
        assert_eq!(message("<4> bare"), " bare");
    }

    #[test]
    fn words_with_digits_in_them_are_words() {
        assert_eq!(
            kind("i8042: No controller, r15 x2apic"),
            "i8042: No controller, r15 x2apic"
        );
        assert_eq!(kind("at 0xFEE0-0xfef0 (12 of 0a)"), "at #-# (# of #)");
        assert_eq!(kind("dead beef"), "dead beef");
    }

    #[test]
    fn a_log_that_is_cut_off_is_none() {
        assert_eq!(warnings(&["kernel: 6.1", "WARNING <4>[ 0.1] a"]), None);
        assert_eq!(warnings(&["WARNING <4>[ 0.1] a", "DONE 2 warnings"]), None);
    }
}
