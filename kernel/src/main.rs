//! Plinth: entry point.
#![no_std]
#![no_main]
