//! The harness that end-to-end tests, the demo and the benchmarks share.
//!
//! A [`topology::Topology`] is a small network of namespaces: a client, a balancer and instances
//! around one switch. [`instance::Instance`] and [`daemon::Daemon`] are real processes in it, and
//! the clients in [`client`] are real sockets: a thread enters a namespace and stays there. What
//! was made is taken down when its handle is dropped, and on Ctrl-C, too.

pub mod algorithms;
pub mod artifact;
pub mod bench;
pub mod beside;
pub mod browser;
pub mod cleanup;
pub mod client;
pub mod command;
pub mod daemon;
pub mod datapath;
pub mod decap;
pub mod demo;
pub mod dns;
pub mod instance;
pub mod netns;
pub mod nginx;
pub mod other_layout;
pub mod packet;
pub mod parameter;
pub mod pass;
pub mod process;
pub mod prometheus;
pub mod scene;
pub mod simulator;
pub mod tally;
pub mod topology;
