//! Measurements: what lb costs, next to what its peers cost, in the same run.
//!
//! The machines that this runs on are shared and noisy, so a figure alone says little. Every
//! figure is taken in several rounds, the candidates alternate within each round, and what is
//! reported is the median with its spread, and the ratio to a yardstick of the same round.

pub mod balance;
pub mod beside;
pub mod cpu;
pub mod l4;
pub mod l7;
pub mod pick;
pub mod plot;
pub mod report;
pub mod sessions;
