//! Packets without a network: built byte by byte, run through the programs by
//! `BPF_PROG_TEST_RUN` and through the pure library side by side, and judged by a library that has
//! nothing to do with either.

pub mod build;
pub mod check;
pub mod far_end;
pub mod fuzz;
pub mod handshake;
pub mod hook;
pub mod kernel;
pub mod lab;
pub mod network;
pub mod pieces;
pub mod random;
pub mod tunnel;

pub use build::Build;
pub use kernel::Kernel;
pub use lab::Lab;
