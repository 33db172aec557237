//! What a case has met: each interrupt and exception that a recording handler takes is a line in a log.

use crate::apic::{self, SPURIOUS_VECTOR};
use crate::exceptions::{Frame, set_handler};
use crate::pic;
use crate::report::{Case, Report};
use crate::single::Single;

/// How many events are kept.
const CAPACITY: usize = 32;

/// One interrupt or exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The vector.
    pub vector: u8,
    /// The error code; 0 for vectors without one.
    pub error_code: u32,
    /// Where it came.
    pub rip: u64,
    /// RFLAGS there.
    pub rflags: u64,
}

/// The events since the last [`clear`].
#[derive(Clone, Copy)]
pub struct Log {
    count: usize,
    events: [Event; CAPACITY],
}

impl Log {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The event with this number, or zeroes.
    pub fn event(&self, index: usize) -> Event {
        if index < self.count {
            self.events.get(index).copied().unwrap_or_default()
        } else {
            Event::default()
        }
    }

    /// True if these vectors came, in this order, and nothing else.
    pub fn is(&self, vectors: &[u8]) -> bool {
        self.count == vectors.len()
            && vectors
                .iter()
                .zip(self.events)
                .all(|(vector, event)| *vector == event.vector)
    }

    /// The vectors as one number for messages: two hexadecimal digits each, the first one leftmost.
    pub fn vectors(&self) -> u64 {
        self.events
            .iter()
            .take(self.count.min(8))
            .fold(0, |all, event| all << 8 | u64::from(event.vector))
    }
}

static LOG: Single<Log> = Single::new(Log {
    count: 0,
    events: [Event {
        vector: 0,
        error_code: 0,
        rip: 0,
        rflags: 0,
    }; CAPACITY],
});

/// Empties the log.
pub fn clear() {
    // SAFETY: one CPU; handlers write only while a case runs.
    unsafe { (&raw mut (*LOG.get()).count).write_volatile(0) };
}

/// What is in the log.
pub fn log() -> Log {
    // SAFETY: as above; volatile, since handlers write behind the compiler's back.
    unsafe { LOG.get().read_volatile() }
}

/// A handler that notes the event.
pub fn note(frame: &mut Frame) {
    // SAFETY: as above; handlers that nest note in turn, each in whole.
    let log = unsafe { &mut *LOG.get() };
    if let Some(event) = log.events.get_mut(log.count) {
        *event = Event {
            vector: frame.vector as u8,
            error_code: frame.error_code as u32,
            rip: frame.rip,
            rflags: frame.rflags,
        };
    }
    log.count += 1;
}

/// A handler that notes the interrupt, and ends it in the local APIC.
pub fn note_and_end(frame: &mut Frame) {
    note(frame);
    apic::end_of_interrupt();
}

/// A handler that notes the exception and goes on two bytes further, behind UD2.
pub fn note_and_skip_two(frame: &mut Frame) {
    note(frame);
    frame.rip += 2;
}

/// For guests about interrupts: silences the 8259As, and has these vectors recorded. Where CPUID shows no local APIC it
/// returns false, and the report says so.
pub fn begin(report: &mut Report, vectors: &[u8]) -> bool {
    pic::init();
    set_handler(SPURIOUS_VECTOR, Some(|_| ()));
    if !apic::is_shown() {
        report.case("local-apic", |case| case.skip("CPUID shows no local APIC"));
        return false;
    }
    record(vectors);
    true
}

/// Records these vectors of the local APIC.
pub fn record(vectors: &[u8]) {
    for &vector in vectors {
        set_handler(vector, Some(note_and_end));
    }
}

/// Takes the handlers of vectors away.
pub fn forget(vectors: &[u8]) {
    for &vector in vectors {
        set_handler(vector, None);
    }
}

/// What came when interrupts were let in.
pub fn taken() -> Log {
    apic::open_window();
    log()
}

/// Checks that these vectors came, in this order.
pub fn came(case: &mut Case, what: &str, log: Log, vectors: &[u8]) {
    if !log.is(vectors) {
        case.fail(format_args!(
            "{what}: {} interrupts came ({:#x}), not {vectors:x?}",
            log.count(),
            log.vectors(),
        ));
    }
}
