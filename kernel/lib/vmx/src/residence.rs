//! Where a vCPU's state is, and what it means that it comes to a CPU.

/// Where a vCPU's state is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residence<C> {
    /// In memory only; the VMCS is clear and was last current on this CPU, if on any.
    Memory {
        /// That CPU.
        last: Option<C>,
    },
    /// On this CPU, with its VMCS current, and launched or not.
    Cpu(C),
}

/// How a vCPU has come to a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It was there all the time.
    Stayed,
    /// It had been in memory, and no other CPU has had it meanwhile: the host state in its VMCS is this CPU's, and what
    /// this CPU has cached under its VPID is its own.
    Returned,
    /// It comes from another CPU, or has never been on one. Here may be cached what it used in an earlier stay, or what
    /// another vCPU used that had the same VPID before.
    New,
}

impl<C: Copy + Eq> Residence<C> {
    /// Of a vCPU that has never been on a CPU.
    pub const NOWHERE: Self = Self::Memory { last: None };

    /// It comes to this CPU.
    #[inline]
    pub fn arrive(&mut self, here: C) -> Arrival {
        let arrival = match *self {
            Self::Cpu(_) => Arrival::Stayed,
            Self::Memory { last } if last == Some(here) => Arrival::Returned,
            Self::Memory { .. } => Arrival::New,
        };
        *self = Self::Cpu(here);
        arrival
    }

    /// It goes to memory. The CPU that it leaves, if it was on one.
    #[inline]
    pub fn leave(&mut self) -> Option<C> {
        let Self::Cpu(here) = *self else {
            return None;
        };
        *self = Self::Memory { last: Some(here) };
        Some(here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vcpu_that_another_cpu_had_meanwhile_is_new_here() {
        let mut residence = Residence::NOWHERE;
        assert_eq!(residence.leave(), None);
        assert_eq!(residence.arrive(0), Arrival::New);
        assert_eq!(residence.arrive(0), Arrival::Stayed);
        assert_eq!(residence.leave(), Some(0));
        assert_eq!(residence.leave(), None);
        assert_eq!(residence.arrive(0), Arrival::Returned);
        residence.leave();
        assert_eq!(residence.arrive(1), Arrival::New);
        residence.leave();
        assert_eq!(residence.arrive(0), Arrival::New);
    }
}
