//! What is due to whom.

use alloc::vec;
use alloc::vec::Vec;

/// The shares that weights are worth on some CPUs, of which nobody can use more than one.
pub(in super::super) fn fair_shares(weights: &[u32], cpus: usize) -> Vec<f64> {
    let demands: Vec<_> = weights.iter().map(|weight| (*weight, 1)).collect();
    fair_shares_of_vms(&demands, cpus)
}

/// The same of VMs, each of which has a weight and can use so many CPUs: those that would get more get that, and the
/// others share what is left.
pub(in super::super) fn fair_shares_of_vms(vms: &[(u32, usize)], cpus: usize) -> Vec<f64> {
    let mut shares = vec![0.0; vms.len()];
    let mut open: Vec<usize> = (0..vms.len()).collect();
    let mut left = cpus as f64;
    loop {
        let total: f64 = open.iter().map(|&i| f64::from(vms[i].0)).sum();
        let due = |i: usize| f64::from(vms[i].0) / total * left;
        let (full, rest): (Vec<_>, Vec<_>) = open
            .iter()
            .partition(|&&i| total > 0.0 && due(i) >= vms[i].1 as f64);
        if full.is_empty() {
            for &i in &rest {
                shares[i] = due(i);
            }
            return shares;
        }
        for &i in &full {
            shares[i] = vms[i].1 as f64;
            left -= shares[i];
        }
        open = rest;
    }
}
