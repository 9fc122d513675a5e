//! The programs of traffic control: [`lb_ebpf::process`] over socket buffers and BPF maps. Most of it is what the
//! XDP programs are made of as well.
//!
//! Compiled for a host it is an empty shell, as those are.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/atomic.rs"]
mod atomic;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/bytes.rs"]
mod bytes;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/decap.rs"]
mod decap;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/diagnostics.rs"]
mod diagnostics;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/entries.rs"]
mod entries;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/fib.rs"]
mod fib;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/flow.rs"]
mod flow;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/former.rs"]
mod former;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/hook.rs"]
mod hook;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/maps.rs"]
mod maps;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/parts.rs"]
mod parts;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/record.rs"]
mod record;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/reflect.rs"]
mod reflect;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/stage.rs"]
mod stage;
#[cfg(target_arch = "bpf")]
#[path = "../lb-xdp/tables.rs"]
mod tables;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
