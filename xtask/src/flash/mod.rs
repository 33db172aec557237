//! Writing an image to a USB stick: what the device is ([`sysfs`]), whether it may be overwritten ([`verdict`]),
//! and the writing itself ([`write`]).
//!
//! The decision is a pure function over what sysfs and `/proc` say, because a mistake here costs somebody a disk.

pub mod sysfs;
pub mod verdict;
pub mod write;
