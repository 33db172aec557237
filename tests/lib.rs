//! Placeholder of the test harness.
