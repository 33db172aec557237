//! gdb for machines in Bochs: speaks gdb's remote protocol on one side ([`packet`]) and the language of Bochs's own
//! debugger on the other ([`bochs`]); [`server`] translates. QEMU needs none of this, it has a server for gdb built in.

pub mod bochs;
pub mod packet;
pub mod server;
