//! Cases and their outcome: the PASS, FAIL and SKIP lines that the tests read.

use core::fmt::{self, LowerHex, Write};

use crate::exceptions::{Fault, Vector, probe};
use crate::println;

/// Counts the outcomes of a guest's cases.
#[derive(Default)]
pub struct Report {
    passed: u32,
    failed: u32,
}

/// The longest reason that is kept; the rest of a longer one is cut off.
const WHY_BYTES: usize = 240;

/// One case while it runs. The first check that does not hold is the reason of its failure.
pub struct Case {
    why: [u8; WHY_BYTES],
    why_length: usize,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Report {
    /// Runs a case, prints its line and counts it. An exception inside that nobody expected fails it.
    pub fn case(&mut self, name: &str, body: impl FnOnce(&mut Case)) {
        let mut case = Case {
            why: [0; WHY_BYTES],
            why_length: 0,
            outcome: Outcome::Passed,
        };
        let mut body = Some(body);
        let ended = probe(|| {
            if let Some(body) = body.take() {
                body(&mut case);
            }
        });
        if let Err(fault) = ended {
            case.fail(format_args!("unexpected {fault}"));
        }
        match case.outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("PASS {name}");
            }
            Outcome::Failed => {
                self.failed += 1;
                println!("FAIL {name}: {}", case.why());
            }
            Outcome::Skipped => println!("SKIP {name}: {}", case.why()),
        }
    }

    /// Prints the totals.
    pub fn done(&self) {
        println!("DONE {} passed, {} failed", self.passed, self.failed);
    }
}

impl Case {
    fn why(&self) -> &str {
        let mut length = self.why_length;
        while core::str::from_utf8(&self.why[..length]).is_err() {
            length -= 1;
        }
        core::str::from_utf8(&self.why[..length]).unwrap_or("")
    }

    fn settle(&mut self, outcome: Outcome, why: fmt::Arguments<'_>) {
        if self.outcome == Outcome::Passed {
            self.outcome = outcome;
            // Only the formatting of an argument could fail; what was written until then stays.
            let _ = self.write_fmt(why);
        }
    }

    /// Fails the case, unless it has failed already.
    pub fn fail(&mut self, why: fmt::Arguments<'_>) {
        self.settle(Outcome::Failed, why);
    }

    /// Says that the machine lacks what the case needs. Checks that failed before still count.
    pub fn skip(&mut self, why: &str) {
        self.settle(Outcome::Skipped, format_args!("{why}"));
    }

    /// Checks a condition.
    pub fn ensure(&mut self, holds: bool, what: &str) {
        if !holds {
            self.fail(format_args!("{what}"));
        }
    }

    /// Checks that a value is as it should be.
    pub fn equal<T: PartialEq + LowerHex>(&mut self, what: &str, is: T, should: T) {
        if is != should {
            self.fail(format_args!("{what} is {is:#x}, not {should:#x}"));
        }
    }

    /// Checks that a probe raised this exception with this error code (0 for vectors without one), and returns
    /// the fault for a closer look.
    pub fn faults<T>(
        &mut self,
        what: &str,
        probed: Result<T, Fault>,
        vector: Vector,
        error_code: u32,
    ) -> Fault {
        match probed {
            Err(fault) if fault.is(vector) && fault.error_code() == error_code => fault,
            Err(fault) => {
                self.fail(format_args!(
                    "{what} raises {fault}, not {vector:?} ({error_code:#x})"
                ));
                fault
            }
            Ok(_) => {
                self.fail(format_args!(
                    "{what} raises nothing, not {vector:?} ({error_code:#x})"
                ));
                Fault::default()
            }
        }
    }

    /// Checks that a probe ran to its end.
    pub fn runs<T>(&mut self, what: &str, probed: Result<T, Fault>) -> Option<T> {
        match probed {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fail(format_args!("{what} raises {fault}"));
                None
            }
        }
    }
}

impl Write for Case {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = &mut self.why[self.why_length..];
        let taken = text.len().min(free.len());
        free[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.why_length += taken;
        Ok(())
    }
}
