//! A balancer that exists twice: in the kernel, and in the pure library over hash maps.
//!
//! Both get the same maps and the same packets and must do the same: verdict, bytes, every counter,
//! live connections. The kernel's half is in a namespace with the routes of [`super::network`].

mod compare;
mod serve;
mod words;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::programs::xdp::XdpMode;
use lb_common::{Address, AddressFilter, Settings, names};
use lb_ebpf::memory::{Frame, MemoryTables};
use lb_ebpf::{Scratch, Verdict, process};

use self::compare::nonzero;
pub use self::words::{address, at, instance, vip, vip_key};
use super::hook::Hook;
use super::kernel::{Kernel, Sizes, pin};
use super::network::{self, BACK, FRONT, NAT_V4, NAT_V6};
use crate::artifact;

/// What both halves have done with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its fate.
    pub verdict: Verdict,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// Both halves.
#[derive(Debug)]
pub struct Lab {
    kernel: Kernel,
    memory: MemoryTables,
    settings: Settings,
    /// Of everything that was ever written; addresses are never taken out.
    filter: AddressFilter,
    /// Instances that may be behind tunnels: all that there ever were.
    paths: BTreeSet<Address>,
    /// Whether somebody follows packets.
    is_followed: bool,
}

/// Why the tests here cannot run, if they cannot.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        Some("needs root")
    } else if !artifact::object_path().is_ok_and(|path| path.is_file()) {
        Some("needs the XDP object; run `cargo xtask build`")
    } else {
        None
    }
}

/// Runs `test` with the programs of each hook, in a namespace made for it, or says why it cannot.
///
/// # Errors
/// Whatever `test` finds wrong.
pub fn run(sizes: Sizes, test: impl Fn(&mut Lab) -> Result<()> + Send + Sync) -> Result<()> {
    at_each_hook(|hook| test(&mut Lab::new(hook, sizes)?))
}

/// As [`run`], where there are two processors for packets to meet on, or says that there are not.
///
/// # Errors
/// As [`run`].
#[expect(clippy::print_stderr, reason = "says why a test was skipped")]
pub fn run_on_two(sizes: Sizes, test: impl Fn(&mut Lab) -> Result<()> + Send + Sync) -> Result<()> {
    run(sizes, |lab| {
        if pin(1).is_err() {
            eprintln!("skipped: needs two processors");
            return Ok(());
        }
        test(lab)
    })
}

/// Does `work`, which makes labs one after the other, for each hook.
///
/// # Errors
/// Whatever `work` finds wrong.
pub fn at_each_hook(work: impl Fn(Hook) -> Result<()> + Send + Sync) -> Result<()> {
    Hook::each(|hook| in_network(|| work(hook)))
}

/// Does `work`, which makes labs one after the other, in a namespace made for it, or says why it cannot.
///
/// # Errors
/// Whatever `work` finds wrong.
#[expect(clippy::print_stderr, reason = "says why a test was skipped")]
pub fn in_network(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    network::make()?.enter(|| {
        pin(0)?;
        work()
    })?
}

impl Lab {
    /// Loads the programs of a hook, in a namespace of [`in_network`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(hook: Hook, sizes: Sizes) -> Result<Self> {
        Self::of(Kernel::load(hook, sizes)?, sizes)
    }

    /// As [`Self::new`], with a connection table that has memory for all of its elements.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn preallocated(hook: Hook, sizes: Sizes) -> Result<Self> {
        Self::of(Kernel::load_preallocated(hook, sizes)?, sizes)
    }

    /// As [`Self::new`], after a program whose connection table is pinned at `former` and has its fields at
    /// these places. Of that the library's half knows nothing: see [`Self::kernel`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn after(hook: Hook, sizes: Sizes, former: &Path, places: &[u8]) -> Result<Self> {
        Self::of(Kernel::load_after(hook, sizes, former, places)?, sizes)
    }

    fn of(mut kernel: Kernel, sizes: Sizes) -> Result<Self> {
        // A receive queue exists for XDP only where a program is attached.
        let attached = match kernel.hook() {
            Hook::Xdp => &[FRONT, BACK][..],
            Hook::Tc => &[],
        };
        for interface in attached.iter().copied() {
            kernel
                .program(names::PROGRAM_PASS)?
                .attach(network::name(interface), XdpMode::Driver)
                .with_context(|| format!("cannot attach to {}", network::name(interface)))?;
        }
        // The lab stays on one processor, and that one's share is what both halves have.
        let memory = MemoryTables::new(sizes.connections as usize, 1)
            .with_opening_places(sizes.opening_places());
        network::tell(&memory);
        let mut lab = Self {
            kernel,
            memory,
            settings: Settings::default(),
            filter: AddressFilter {
                is_on: 1,
                ..AddressFilter::default()
            },
            paths: BTreeSet::new(),
            is_followed: false,
        };
        lab.set_settings(Settings {
            nat_source_v4: address(NAT_V4),
            nat_source_v6: address(NAT_V6),
            nat_port_first: 40_000,
            nat_port_last: 40_000,
            next_hop_ttl_ms: 60_000,
            gue_port: 6080_u16.to_be_bytes(),
            ..Settings::default()
        })?;
        Ok(lab)
    }

    /// Sends a frame in by [`FRONT`].
    ///
    /// # Errors
    /// When the halves differ in anything, or the counters do not add up.
    pub fn send(&mut self, frame: &[u8]) -> Result<Seen> {
        self.send_by(frame, FRONT)
    }

    /// Sends a frame in by an interface.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_by(&mut self, frame: &[u8], interface: u32) -> Result<Seen> {
        let seen = self.forward(frame, interface)?;
        self.compare_counters()?;
        Ok(seen)
    }

    /// Sends a frame in by an interface, and leaves it to [`Self::compare_counters`] to look at what was
    /// counted.
    ///
    /// # Errors
    /// When the halves differ in the verdict or the bytes.
    pub fn forward(&mut self, frame: &[u8], interface: u32) -> Result<Seen> {
        let outcome = self.kernel.run(frame, interface)?;
        let mut copy = frame.to_vec();
        let verdict = process(
            &mut Frame(&mut copy),
            &self.memory,
            &mut Scratch::default(),
            interface,
        );
        let hook = self.kernel.hook();
        ensure!(
            outcome.action == hook.action(verdict),
            "expected the kernel to do as the library ({verdict:?}), found action {}, counters \
             {:?}",
            outcome.action,
            nonzero(&self.kernel.counters()?)
        );
        ensure!(
            hook.is_same(&outcome.frame, &copy),
            "expected the kernel's frame to be the library's\n {copy:02x?}, found\n {:02x?}",
            outcome.frame
        );
        let seen = Seen {
            verdict,
            frame: copy,
        };
        if self.is_followed {
            self.compare_event(frame, &seen, interface)?;
        }
        Ok(seen)
    }

    /// The program, for what concerns it alone.
    pub const fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// The library's half, for what concerns it alone.
    #[must_use]
    pub const fn memory(&self) -> &MemoryTables {
        &self.memory
    }
}
