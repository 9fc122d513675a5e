//! Programs that decide nothing: one that passes every packet, for the far ends of veth pairs, and one
//! that sends packets to one host, beside which balancers are measured.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::{fmt, fs};

use anyhow::{Context, Result, anyhow};
use aya::programs::{Xdp, xdp::XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::names;

use crate::artifact;
use crate::netns::Namespace;

/// The program that passes every packet; detached from everything when dropped.
#[derive(Debug)]
pub struct Pass(Loaded);

/// The program that sends packets to one host; detached from everything when dropped.
#[derive(Debug)]
pub struct Reflector(Loaded);

impl Pass {
    /// Loads it from the object that `cargo xtask build` makes.
    ///
    /// # Errors
    /// When there is no object, or the kernel refuses it.
    pub fn load() -> Result<Self> {
        Loaded::load(names::PROGRAM_PASS, &mut EbpfLoader::new()).map(Self)
    }

    /// Attaches it to an interface in a namespace.
    ///
    /// # Errors
    /// When there is no such interface or something is attached to it.
    pub fn attach(&self, namespace: &Namespace, interface: &str) -> Result<()> {
        self.0.attach(namespace, interface)
    }
}

impl Reflector {
    /// Loads one that sends packets for `address` to `mac`, from the object that `cargo xtask build`
    /// makes.
    ///
    /// # Errors
    /// When there is no object, or the kernel refuses it.
    pub fn load(address: Ipv4Addr, mac: [u8; 6]) -> Result<Self> {
        let mut to = [0; 8];
        to[..mac.len()].copy_from_slice(&mac);
        let address = address.octets();
        let mut loader = EbpfLoader::new();
        loader.override_global(names::REFLECTED, &address, true);
        loader.override_global(names::REFLECTED_TO, &to, true);
        Loaded::load(names::PROGRAM_REFLECT, &mut loader).map(Self)
    }

    /// Attaches it to an interface in a namespace.
    ///
    /// # Errors
    /// When there is no such interface or something is attached to it.
    pub fn attach(&self, namespace: &Namespace, interface: &str) -> Result<()> {
        self.0.attach(namespace, interface)
    }
}

/// A loaded program.
struct Loaded {
    name: &'static str,
    object: Mutex<Ebpf>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Loaded").field(&self.name).finish()
    }
}

impl Loaded {
    fn load(name: &'static str, loader: &mut EbpfLoader<'_>) -> Result<Self> {
        let path = artifact::object_path()?;
        let bytes = fs::read(&path).with_context(|| {
            format!(
                "expected the XDP object at {}; run `cargo xtask build`",
                path.display()
            )
        })?;
        // The maps of the balancing program come along; the small ones will do.
        for map in names::PINNED_MAPS {
            loader.map_max_entries(map, 1);
        }
        let mut object = loader.load(&bytes).context("cannot load the XDP object")?;
        program(&mut object, name)?
            .load()
            .with_context(|| format!("the kernel refuses {name}"))?;
        Ok(Self {
            name,
            object: Mutex::new(object),
        })
    }

    fn attach(&self, namespace: &Namespace, interface: &str) -> Result<()> {
        namespace.enter(|| -> Result<()> {
            let mut object = self
                .object
                .lock()
                .map_err(|_| anyhow!("a thread panicked"))?;
            program(&mut object, self.name)?
                .attach(interface, XdpMode::Driver)
                .with_context(|| format!("cannot attach to {interface}"))?;
            Ok(())
        })?
    }
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = object
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
