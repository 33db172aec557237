//! Where a vCPU goes: to which CPU one that becomes ready, and one that is where it may not run.

use super::{CpuSet, Occupied, Summary};

/// The CPU for a vCPU that becomes ready: where it last was, if that is free, then any free one, then where it
/// last was. `None` where it may not run anywhere.
pub fn place(allowed: &CpuSet, last: Option<u16>, summary: impl Fn(u16) -> Summary) -> Option<u16> {
    let is_free = |cpu: u16| {
        let summary = summary(cpu);
        summary.waiting == 0 && summary.occupied == Occupied::No
    };
    let last = last.filter(|cpu| allowed.contains(*cpu));
    if let Some(cpu) = last
        && is_free(cpu)
    {
        return Some(cpu);
    }
    allowed
        .iter()
        .find(|cpu| is_free(*cpu))
        .or(last)
        .or_else(|| allowed.iter().min_by_key(|cpu| summary(*cpu).waiting))
}

/// Where a vCPU goes that is on a CPU where it may not run; `None` where it may, or where there is nowhere to go. One
/// that comes from a CPU that knew another plan is sent on by this, once for each change of the plan at most.
pub fn onward(allowed: &CpuSet, here: u16, summary: impl Fn(u16) -> Summary) -> Option<u16> {
    if allowed.contains(here) {
        return None;
    }
    place(allowed, None, summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::plan::{Plan, allowed};

    fn set(cpus: &[u16]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn a_vcpu_that_was_on_its_way_to_a_cpu_when_somebody_got_that_does_not_stay_there() {
        let mut plan = Plan::new(CpuSet::first(4));
        let now_allowed = |plan: &Plan| allowed(&plan.shared(), &CpuSet::EMPTY);
        let free = Summary::default();
        // CPU 3 gets an owner, and sends what it has to CPU 2, which is free.
        assert_eq!(plan.dedicate(&set(&[3]), &CpuSet::EMPTY), Some(3));
        let idle = |cpu| {
            if cpu == 2 {
                free
            } else {
                Summary::sample(1, Occupied::Yes, Some(0))
            }
        };
        assert_eq!(onward(&now_allowed(&plan), 3, idle), Some(2));
        // Before it arrives that has an owner, too, and looks as free as before.
        assert_eq!(plan.dedicate(&set(&[2]), &CpuSet::EMPTY), Some(2));
        let next = onward(&now_allowed(&plan), 2, idle).unwrap();
        assert!(next < 2, "it is on CPU {next}");
        // There it stays, whoever else is free.
        assert_eq!(onward(&now_allowed(&plan), next, idle), None);
        assert_eq!(onward(&CpuSet::EMPTY, 2, idle), None);
    }

    #[test]
    fn a_vcpu_goes_back_where_it_was_unless_another_cpu_is_free() {
        let busy = Summary::sample(1, Occupied::Yes, Some(0));
        let free = Summary::default();
        let all = CpuSet::first(3);
        assert_eq!(place(&all, Some(1), |_| free), Some(1));
        assert_eq!(
            place(&all, Some(1), |cpu| if cpu == 2 { free } else { busy }),
            Some(2)
        );
        assert_eq!(place(&all, Some(1), |_| busy), Some(1));
        assert_eq!(place(&set(&[2]), Some(1), |_| busy), Some(2));
        let waiting = |cpu| Summary::sample(usize::from(3 - cpu), Occupied::Yes, Some(0));
        assert_eq!(place(&all, None, waiting), Some(2));
        assert_eq!(place(&CpuSet::EMPTY, None, |_| free), None);
    }
}
