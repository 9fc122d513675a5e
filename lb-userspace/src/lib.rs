//! lb: one control plane, two data planes.
//!
//! Imports go one way, and `cargo xtask lint` checks it: `model` → `balance`, `resilience`,
//! `affinity`, `net` → `config`, `registry` → `runtime` → `health`, `l4`, `l7`, `discovery`, `integration`
//! → `api` → `cli`, `app`. What stands further right may use what stands further left, never the
//! reverse, and `l4` and `l7` never meet: a data plane that knew the other could not be reasoned
//! about alone.

pub mod affinity;
pub mod api;
pub mod app;
pub mod balance;
pub mod cli;
pub mod config;
pub mod discovery;
pub mod health;
pub mod integration;
pub mod l4;
pub mod l7;
pub mod model;
pub mod net;
pub mod registry;
pub mod resilience;
pub mod runtime;
pub mod telemetry;
