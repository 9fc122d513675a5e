//! The program that passes every packet, for the far ends of veth pairs.

use std::sync::Mutex;
use std::{fmt, fs};

use anyhow::{Context, Result, anyhow};
use aya::programs::{Xdp, xdp::XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::names;

use crate::artifact;
use crate::netns::Namespace;

/// The loaded program; detached from everything when dropped.
pub struct Pass {
    object: Mutex<Ebpf>,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").finish_non_exhaustive()
    }
}

impl Pass {
    /// Loads it from the object that `cargo xtask build` makes.
    ///
    /// # Errors
    /// When there is no object, or the kernel refuses it.
    pub fn load() -> Result<Self> {
        let path = artifact::object_path()?;
        let bytes = fs::read(&path).with_context(|| {
            format!(
                "expected the XDP object at {}; run `cargo xtask build`",
                path.display()
            )
        })?;
        let mut loader = EbpfLoader::new();
        // The maps of the balancing program come along; the small ones will do.
        for map in names::PINNED_MAPS {
            loader.map_max_entries(map, 1);
        }
        let mut object = loader.load(&bytes).context("cannot load the XDP object")?;
        program(&mut object)?
            .load()
            .context("the kernel refuses the passing program")?;
        Ok(Self {
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
            program(&mut object)?
                .attach(interface, XdpMode::Driver)
                .with_context(|| format!("cannot attach to {interface}"))?;
            Ok(())
        })?
    }
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp> {
    let name = names::PROGRAM_PASS;
    let program = object
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
