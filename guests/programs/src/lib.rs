//! What the programs for the Linux guest's user space have in common: [`system`], Linux's system calls as they are, and
//! [`window`], what a terminal tells about its window.

#![cfg_attr(not(test), no_std)]

pub mod system;
pub mod window;
