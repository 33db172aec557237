//! [`Plan`]: which of the host's CPUs are shared, and which are one vCPU's own.

use super::CpuSet;

/// Who may use which CPU of the host.
#[derive(Clone, Debug)]
pub struct Plan {
    all: CpuSet,
    dedicated: CpuSet,
}

impl Plan {
    /// All of these CPUs, shared by everybody.
    pub const fn new(all: CpuSet) -> Self {
        Self {
            all,
            dedicated: CpuSet::EMPTY,
        }
    }

    /// Makes one of the allowed CPUs (an empty set allows all) the property of one vCPU; one that others ask for is taken
    /// only where there is no other. `None` where there is none to give: the first CPU of the machine stays for
    /// everybody else and for the host's own affairs.
    pub fn dedicate(&mut self, affinity: &CpuSet, others_want: &CpuSet) -> Option<u16> {
        let mut free = self.all.without(&self.dedicated);
        free.remove(0);
        let wanted = if affinity.is_empty() {
            free
        } else {
            free.and(affinity)
        };
        let unwanted = wanted.without(others_want);
        let cpu = unwanted.iter().last().or_else(|| wanted.iter().last())?;
        self.dedicated.insert(cpu);
        Some(cpu)
    }

    /// Gives a dedicated CPU back.
    pub fn release(&mut self, cpu: u16) {
        self.dedicated.remove(cpu);
    }

    /// The CPUs that are shared.
    pub fn shared(&self) -> CpuSet {
        self.all.without(&self.dedicated)
    }

    /// The CPUs that have to look at who is there once this one has changed hands: itself, and all where somebody may be
    /// who may not use it any more, or again. On a CPU that is another vCPU's own there is nobody else.
    pub fn concerned(&self, changed: u16) -> CpuSet {
        let mut cpus = self.shared();
        cpus.insert(changed);
        cpus
    }
}

/// The CPUs that a vCPU with this affinity may use of the shared ones. Where none of those that it asks for is
/// among them, it may use all ([`is_kept`] tells).
pub fn allowed(shared: &CpuSet, affinity: &CpuSet) -> CpuSet {
    let wanted = shared.and(affinity);
    if wanted.is_empty() { *shared } else { wanted }
}

/// Whether a vCPU with this affinity finds one of its CPUs among the shared ones; an empty affinity asks for none.
pub fn is_kept(shared: &CpuSet, affinity: &CpuSet) -> bool {
    affinity.is_empty() || !shared.and(affinity).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[u16]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn a_dedicated_cpu_is_nobody_elses() {
        let mut plan = Plan::new(CpuSet::first(4));
        assert_eq!(plan.dedicate(&set(&[1, 2]), &CpuSet::EMPTY), Some(2));
        let shared = |plan: &Plan, affinity| allowed(&plan.shared(), &affinity);
        assert_eq!(shared(&plan, CpuSet::EMPTY), set(&[0, 1, 3]));
        assert_eq!(shared(&plan, set(&[2, 3])), set(&[3]));
        // What it asked for is taken: it may use the rest.
        assert_eq!(shared(&plan, set(&[2])), set(&[0, 1, 3]));
        plan.release(2);
        assert_eq!(shared(&plan, set(&[2])), set(&[2]));
    }

    #[test]
    fn who_was_displaced_did_not_come_back_when_its_cpu_was_given_back() {
        let mut plan = Plan::new(CpuSet::first(4));
        let affinity = set(&[2]);
        assert_eq!(plan.dedicate(&set(&[3]), &CpuSet::EMPTY), Some(3));
        assert_eq!(plan.dedicate(&affinity, &CpuSet::EMPTY), Some(2));
        // Where it was it may not stay, which is told there.
        assert!(plan.concerned(2).contains(2));
        // It has gone to another one, and is there when its own is given back: it may not stay there either.
        let refuge = 0;
        assert!(allowed(&plan.shared(), &affinity).contains(refuge));
        plan.release(2);
        assert!(!allowed(&plan.shared(), &affinity).contains(refuge));
        assert_eq!(
            plan.concerned(2),
            set(&[0, 1, 2]),
            "who owns 3 is left alone"
        );
    }

    #[test]
    fn a_cpu_that_another_machine_asks_for_is_dedicated_last() {
        let mut plan = Plan::new(CpuSet::first(4));
        let others_want = set(&[3]);
        let mut dedicate = || plan.dedicate(&CpuSet::EMPTY, &others_want);
        let given = [dedicate(), dedicate(), dedicate(), dedicate()];
        assert_eq!(given, [Some(2), Some(1), Some(3), None]);
    }

    #[test]
    fn an_affinity_is_kept_while_one_of_its_cpus_is_shared() {
        let shared = set(&[0, 1]);
        for (affinity, kept) in [(set(&[1, 2]), true), (set(&[2]), false), (set(&[]), true)] {
            assert_eq!(is_kept(&shared, &affinity), kept);
        }
    }

    #[test]
    fn the_first_cpu_is_never_dedicated() {
        let mut plan = Plan::new(CpuSet::first(2));
        assert_eq!(plan.dedicate(&set(&[0]), &CpuSet::EMPTY), None);
        assert_eq!(plan.dedicate(&CpuSet::EMPTY, &CpuSet::EMPTY), Some(1));
        assert_eq!(plan.dedicate(&CpuSet::EMPTY, &CpuSet::EMPTY), None);
    }
}
