//! Programs that decide nothing: one that passes every packet, for the far ends of veth pairs, and those
//! that send packets to one host, beside which balancers are measured.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::{fmt, fs};

use anyhow::{Context, Result, anyhow};
use aya::programs::tc::TcAttachType;
use aya::programs::{Program, xdp::XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::names;

use crate::netns::Namespace;
use crate::packet::hook::Hook;

/// A program on interfaces; off all of them when dropped.
pub struct Attached {
    name: &'static str,
    object: Mutex<Ebpf>,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attached").field(&self.name).finish()
    }
}

impl Attached {
    /// Loads the XDP program that passes every packet, from the object that `cargo xtask build` makes.
    ///
    /// # Errors
    /// When there is no object, or the kernel refuses it.
    pub fn pass() -> Result<Self> {
        Self::load(Hook::Xdp, names::PROGRAM_PASS, &mut EbpfLoader::new())
    }

    /// Loads a program that sends packets for `address` to `mac`, from the object that `cargo xtask build`
    /// makes.
    ///
    /// # Errors
    /// When there is no object, or the kernel refuses it.
    pub fn reflector(hook: Hook, address: Ipv4Addr, mac: [u8; 6]) -> Result<Self> {
        let mut to = [0; 8];
        to[..mac.len()].copy_from_slice(&mac);
        let address = address.octets();
        let mut loader = EbpfLoader::new();
        loader.override_global(names::REFLECTED, &address, true);
        loader.override_global(names::REFLECTED_TO, &to, true);
        Self::load(hook, names::PROGRAM_REFLECT, &mut loader)
    }

    fn load(hook: Hook, name: &'static str, loader: &mut EbpfLoader<'_>) -> Result<Self> {
        let path = hook.object()?;
        let bytes = fs::read(&path).with_context(|| {
            format!(
                "expected an object at {}; run `cargo xtask build`",
                path.display()
            )
        })?;
        // The maps of the balancing program come along; the small ones will do.
        for map in names::PINNED_MAPS {
            loader.map_max_entries(map, 1);
        }
        let mut object = loader
            .load(&bytes)
            .with_context(|| format!("cannot load {}", path.display()))?;
        hook.load_one(&mut object, name)?;
        Ok(Self {
            name,
            object: Mutex::new(object),
        })
    }

    /// Attaches it to an interface in a namespace.
    ///
    /// # Errors
    /// When there is no such interface or something is attached to it.
    pub fn attach(&self, namespace: &Namespace, interface: &str) -> Result<()> {
        namespace.enter(|| -> Result<()> {
            let mut object = self
                .object
                .lock()
                .map_err(|_| anyhow!("a thread panicked"))?;
            match object.program_mut(self.name).context("no program")? {
                Program::Xdp(program) => program.attach(interface, XdpMode::Driver).map(drop),
                Program::SchedClassifier(program) => {
                    program.attach(interface, TcAttachType::Ingress).map(drop)
                }
                _ => anyhow::bail!("a program of another kind"),
            }
            .with_context(|| format!("cannot attach to {interface}"))
        })?
    }
}
