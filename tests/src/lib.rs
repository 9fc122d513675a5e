//! The harness that lb's end-to-end tests, demo and benchmarks share.

pub mod bench;
