//! The live view: what each vCPU and each CPU has done since a moment ago, from two samples of their figures.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt::{self, Write};

use crate::metrics::{ExitKind, ExitTotal};

/// vCPUs that a view shows at most; of more, the busiest.
const ROWS: usize = 32;
/// Kinds of exit that are shown for each, the most expensive first.
const KINDS: usize = 3;

/// What a vCPU is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// It runs, or waits for its turn.
    Ready,
    /// It waits for an interrupt.
    Halted,
    /// It has not been started.
    NotStarted,
    /// Its VM stands still.
    Paused,
}

impl Doing {
    const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Halted => "halted",
            Self::NotStarted => "off",
            Self::Paused => "paused",
        }
    }
}

/// The figures of one vCPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VcpuSample {
    /// Its VM, by number, which sorts, and by name.
    pub vm: u32,
    /// Its VM's name.
    pub name: String,
    /// Its number there.
    pub vcpu: u8,
    /// The host's CPU that has it.
    pub cpu: u32,
    /// What it is doing.
    pub doing: Doing,
    /// What it has run.
    pub ran_ns: u64,
    /// Its exits so far, by kind.
    pub exits: [ExitTotal; ExitKind::COUNT],
}

/// The figures of one CPU of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuSample {
    /// Its number.
    pub cpu: u32,
    /// For how long it has given turns.
    pub busy_ns: u64,
}

/// All figures at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// When.
    pub at_ns: u64,
    /// Of the CPUs.
    pub cpus: Vec<CpuSample>,
    /// Of the vCPUs, in any order.
    pub vcpus: Vec<VcpuSample>,
    /// Memory that is free.
    pub free_mib: u64,
}

/// What happened between two samples.
pub struct View<'a> {
    before: &'a Sample,
    now: &'a Sample,
}

/// One row of the view.
struct Row<'a> {
    sample: &'a VcpuSample,
    /// Tenths of a percent of one CPU.
    permille: u64,
    exits_per_s: u64,
    mean_ticks: u64,
    kinds: Vec<(ExitKind, u64, u64)>,
}

impl<'a> View<'a> {
    /// The view of what happened between the two.
    pub const fn new(before: &'a Sample, now: &'a Sample) -> Self {
        Self { before, now }
    }

    fn passed_ns(&self) -> u64 {
        self.now.at_ns.saturating_sub(self.before.at_ns).max(1)
    }

    fn permille(&self, ns: u64) -> u64 {
        (u128::from(ns) * 1000 / u128::from(self.passed_ns())) as u64
    }

    fn per_second(&self, count: u64) -> u64 {
        (u128::from(count) * 1_000_000_000 / u128::from(self.passed_ns())) as u64
    }

    fn row(&self, sample: &'a VcpuSample) -> Row<'a> {
        let same = |other: &&VcpuSample| (other.vm, other.vcpu) == (sample.vm, sample.vcpu);
        let before = self.before.vcpus.iter().find(same);
        let before_of = |kind: ExitKind| {
            before
                .and_then(|before| before.exits.get(kind as usize).copied())
                .unwrap_or_default()
        };
        let mut kinds = Vec::new();
        let (mut exits, mut all_ticks) = (0, 0);
        for (kind, now) in ExitKind::ALL.into_iter().zip(sample.exits) {
            let before = before_of(kind);
            let count = since(before.count, now.count);
            let ticks = since(before.ticks, now.ticks);
            if count > 0 {
                exits += count;
                all_ticks += ticks;
                kinds.push((kind, count, ticks));
            }
        }
        kinds.sort_unstable_by_key(|(_, count, ticks)| Reverse((*ticks, *count)));
        kinds.truncate(KINDS);
        let ran_before = before.map_or(0, |before| before.ran_ns);
        Row {
            sample,
            permille: self.permille(since(ran_before, sample.ran_ns)),
            exits_per_s: self.per_second(exits),
            mean_ticks: all_ticks.checked_div(exits).unwrap_or(0),
            kinds,
        }
    }
}

/// How far a figure has risen. One that is lower than before has begun anew.
const fn since(before: u64, now: u64) -> u64 {
    match now.checked_sub(before) {
        Some(risen) => risen,
        None => now,
    }
}

impl fmt::Display for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up_ms = self.now.at_ns / 1_000_000;
        write!(f, "Plinth, up {}.{} s", up_ms / 1000, up_ms / 100 % 10)?;
        f.write_str("   CPUs busy:")?;
        for cpu in &self.now.cpus {
            let before = self.before.cpus.iter().find(|other| other.cpu == cpu.cpu);
            let busy = since(before.map_or(0, |before| before.busy_ns), cpu.busy_ns);
            write!(f, " {}: {}%", cpu.cpu, self.permille(busy) / 10)?;
        }
        writeln!(f, "   {} MiB free   any key leaves", self.now.free_mib)?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<14} {:>4} {:>3} {:<7} {:>6} {:>9} {:>7}  by kind: exits/s x mean ticks",
            "VM", "vCPU", "CPU", "does", "CPU %", "exits/s", "ticks"
        )?;
        let mut rows: Vec<_> = self.now.vcpus.iter().map(|vcpu| self.row(vcpu)).collect();
        let left_out = rows.len().saturating_sub(ROWS);
        if left_out > 0 {
            rows.sort_unstable_by_key(|row| Reverse((row.permille, row.exits_per_s)));
            rows.truncate(ROWS);
        }
        rows.sort_unstable_by_key(|row| (row.sample.vm, row.sample.vcpu));
        for row in rows {
            let VcpuSample {
                name,
                vcpu,
                cpu,
                doing,
                ..
            } = row.sample;
            // A long name must not push the figures aside.
            let name: String = name.chars().take(14).collect();
            write!(
                f,
                "{name:<14} {vcpu:>4} {cpu:>3} {:<7} {:>4}.{} {:>9} {:>7} ",
                doing.name(),
                row.permille / 10,
                row.permille % 10,
                row.exits_per_s,
                row.mean_ticks
            )?;
            for (number, (kind, count, ticks)) in row.kinds.iter().enumerate() {
                let comma = if number > 0 { "," } else { "" };
                write!(
                    f,
                    "{comma} {} {} x {}",
                    kind.name(),
                    self.per_second(*count),
                    ticks.checked_div(*count).unwrap_or(0)
                )?;
            }
            writeln!(f)?;
        }
        if left_out > 0 {
            writeln!(f, "and {left_out} that do less")?;
        }
        Ok(())
    }
}

/// Switches a terminal to a page of its own.
pub const BEGIN_PAGE: &str = "\x1b[?1049h\x1b[2J";
/// Switches it back to what it showed.
pub const END_PAGE: &str = "\x1b[?1049l";

/// The text as what a terminal shows from its upper left corner on, over what stood there before.
pub fn over_the_last(text: &str) -> String {
    let mut page = String::from("\x1b[H");
    for line in text.lines() {
        // To a string it does not fail.
        let _ = writeln!(page, "{line}\x1b[K");
    }
    page.push_str("\x1b[J");
    page
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;

    fn vcpu(vm: u32, vcpu: u8, ran_ms: u64, exits: &[(ExitKind, u64, u64)]) -> VcpuSample {
        let mut totals = [ExitTotal::default(); ExitKind::COUNT];
        for (kind, count, ticks) in exits {
            totals[*kind as usize] = ExitTotal {
                count: *count,
                ticks: *ticks,
            };
        }
        VcpuSample {
            vm,
            name: format!("vm{vm}"),
            vcpu,
            cpu: 1,
            doing: Doing::Ready,
            ran_ns: ran_ms * 1_000_000,
            exits: totals,
        }
    }

    fn sample(at_ms: u64, vcpus: Vec<VcpuSample>) -> Sample {
        Sample {
            at_ns: at_ms * 1_000_000,
            cpus: alloc::vec![CpuSample {
                cpu: 0,
                busy_ns: at_ms * 400_000,
            }],
            vcpus,
            free_mib: 77,
        }
    }

    #[test]
    fn rates_are_those_between_the_samples() {
        let before = sample(
            1000,
            alloc::vec![vcpu(0, 0, 100, &[(ExitKind::Hlt, 10, 1000)])],
        );
        let now = sample(
            3000,
            alloc::vec![vcpu(
                0,
                0,
                1100,
                &[(ExitKind::Hlt, 30, 3000), (ExitKind::PortIo, 400, 200_000)]
            )],
        );
        let text = View::new(&before, &now).to_string();
        let words: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(
            words,
            [
                "vm0", "0", "1", "ready", "50.0", "210", "480", "port", "200", "x", "500,", "hlt",
                "10", "x", "100"
            ]
        );
        assert!(
            text.starts_with("Plinth, up 3.0 s   CPUs busy: 0: 40%   77 MiB free"),
            "{text}"
        );
    }

    #[test]
    fn a_vm_that_has_begun_anew_has_no_negative_rates() {
        let before = sample(
            0,
            alloc::vec![vcpu(0, 0, 900, &[(ExitKind::Hlt, 1000, 9000)])],
        );
        let now = sample(1000, alloc::vec![vcpu(0, 0, 5, &[(ExitKind::Hlt, 3, 30)])]);
        let text = View::new(&before, &now).to_string();
        assert!(text.contains("hlt 3 x 10"), "{text}");
    }

    #[test]
    fn of_very_many_the_busiest_are_shown_in_their_order() {
        let all: Vec<_> = (0..100).map(|vm| vcpu(vm, 0, vm.into(), &[])).collect();
        let text = View::new(&sample(0, Vec::new()), &sample(1000, all)).to_string();
        assert!(text.contains("and 68 that do less"), "{text}");
        assert!(!text.contains("vm67 ") && text.find("vm68 ") < text.find("vm99 "));
    }

    #[test]
    fn a_page_clears_what_is_left_of_the_one_before() {
        assert_eq!(over_the_last("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
