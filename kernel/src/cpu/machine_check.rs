//! Machine checks on this CPU: [`enable_here`] asks for them, [`take`] reads what the processor tells, and decides with [`arch::machine_check`] what goes
//! on. One that is survived is told by [`tell`], from where a line can be written at any time; one that is not, by the
//! epitaph.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use arch::machine_check::{
    BankStatus, Capabilities, GlobalStatus, Interrupted, Verdict, address_msr, control_msr, judge,
    status_msr,
};
use arch::msr::{IA32_MCG_CAP, IA32_MCG_CTL, IA32_MCG_STATUS};

use super::msr::{try_read_msr, write_msr};
use super::this;

/// Machine checks that this CPU has survived, and the last bank that held an error then. Written by itself.
pub(super) struct Survived {
    untold: AtomicU64,
    bank: AtomicU64,
    status: AtomicU64,
    address: AtomicU64,
}

impl Survived {
    pub(super) const fn new() -> Self {
        Self {
            untold: AtomicU64::new(0),
            bank: AtomicU64::new(0),
            status: AtomicU64::new(0),
            address: AtomicU64::new(0),
        }
    }
}

/// A bank that holds an error.
struct Found {
    bank: u8,
    status: BankStatus,
    address: Option<u64>,
}

impl Found {
    fn in_bank(bank: u8) -> Option<Self> {
        let status = BankStatus::from_bits_retain(try_read_msr(status_msr(bank))?);
        status.contains(BankStatus::VAL).then(|| Self {
            bank,
            status,
            address: status
                .contains(BankStatus::ADDRV)
                .then(|| try_read_msr(address_msr(bank)))
                .flatten(),
        })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bank {}: status {:#018x}", self.bank, self.status)?;
        match self.address {
            Some(address) => write!(f, ", address {address:#x}"),
            None => Ok(()),
        }
    }
}

/// The registers about machine checks, read anew each time: only a fatal one is shown by them.
pub(crate) struct Registers {
    capabilities: Capabilities,
    global: GlobalStatus,
}

impl Registers {
    fn read() -> Self {
        let read = |index| try_read_msr(index).unwrap_or(0);
        Self {
            capabilities: Capabilities::from_bits_retain(read(IA32_MCG_CAP)),
            global: GlobalStatus::from_bits_retain(read(IA32_MCG_STATUS)),
        }
    }

    fn banks(&self) -> impl Iterator<Item = Found> {
        (0..self.capabilities.banks()).filter_map(Found::in_bank)
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  IA32_MCG_STATUS {:#x}, IA32_MCG_CAP {:#x}",
            self.global.bits(),
            self.capabilities.bits()
        )?;
        for found in self.banks() {
            write!(f, "\n  {found}")?;
        }
        Ok(())
    }
}

/// Lets all errors of this CPU be signalled, and forgets what its banks hold from before: it would be taken for a part of
/// the next machine check. It may be what has reset the machine, so it is told.
pub(crate) fn enable_here() {
    let Registers { capabilities, .. } = Registers::read();
    let signature = core::arch::x86_64::__cpuid(1).eax;
    if capabilities.contains(Capabilities::GLOBAL_CONTROL) {
        // SAFETY: the register is there; it lets errors be signalled, which the handler of #MC expects.
        unsafe { write_msr(IA32_MCG_CTL, u64::MAX) };
    }
    for bank in 0..capabilities.banks() {
        if let Some(found) = Found::in_bank(bank) {
            log::warn!("an error from before the start: machine-check {found}");
        }
        // SAFETY: a bank has these registers; as above, and zero clears what has just been told.
        unsafe {
            if let Some(control) = control_msr(bank, signature) {
                write_msr(control, u64::MAX);
            }
            write_msr(status_msr(bank), 0);
        }
    }
}

/// Handles the machine check that this CPU has just met. Where it can go on the registers are cleared, so that the next
/// one does not shut the CPU down.
///
/// # Errors
/// What the processor tells, where nothing here is to be relied on any more.
pub(crate) fn take(interrupted: Interrupted) -> Result<Verdict, Registers> {
    let registers = Registers::read();
    let statuses = registers.banks().map(|found| found.status);
    let verdict = judge(
        registers.capabilities,
        registers.global,
        statuses,
        interrupted,
    );
    if verdict == Verdict::Fatal {
        return Err(registers);
    }
    let survived = &this().survived;
    for found in registers.banks() {
        survived.bank.store(found.bank.into(), Ordering::Relaxed);
        survived
            .status
            .store(found.status.bits(), Ordering::Relaxed);
        survived
            .address
            .store(found.address.unwrap_or(0), Ordering::Relaxed);
        // SAFETY: the register is there, as it was just read; zero clears it and makes room for the next error.
        unsafe { write_msr(status_msr(found.bank), 0) };
    }
    if registers.global != GlobalStatus::empty() {
        // SAFETY: as above; all of it has been looked at.
        unsafe { write_msr(IA32_MCG_STATUS, 0) };
    }
    survived.untold.fetch_add(1, Ordering::Relaxed);
    this().has_news();
    Ok(verdict)
}

/// Tells of the machine checks that this CPU has survived since the last call.
#[cold]
pub(super) fn tell() {
    let survived = &this().survived;
    let count = survived.untold.swap(0, Ordering::Relaxed);
    if count == 0 {
        return;
    }
    let status = survived.status.load(Ordering::Relaxed);
    log::error!(
        "{count} machine checks on this CPU: the hardware fails; bank {}, status {status:#x}, address {:#x}",
        survived.bank.load(Ordering::Relaxed),
        survived.address.load(Ordering::Relaxed)
    );
}
