//! The programs of the far end of tunnels.

use std::{collections::BTreeSet, net::IpAddr};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode, tc::qdisc_add_clsact},
};
use lb_common::{Address, Counters, DecapSettings, names};

use super::{
    chain, forget_maps,
    load::{OBJECT, refusal},
    read, recorder, take, written,
};
use crate::{
    l4::{AttachMode, L4Error, host, plan::address},
    model::DatapathMode,
};

/// What the programs are to do.
pub(crate) struct Wanted<'a> {
    pub(crate) interface: &'a str,
    pub(crate) mode: DatapathMode,
    pub(crate) settings: DecapSettings,
    pub(crate) local: &'a BTreeSet<IpAddr>,
    pub(crate) friends: &'a [IpAddr],
}

/// The programs, attached; they come off when dropped.
pub(crate) struct Programs {
    local: HashMap<MapData, Address, u32>,
    counters: PerCpuArray<MapData, Counters>,
    mode: AttachMode,
    object: Ebpf,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Programs")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Programs {
    /// Loads the programs, tells them what they need to know, and attaches them.
    pub(crate) fn open(wanted: &Wanted<'_>) -> Result<Self, L4Error> {
        let object = OBJECT.ok_or(L4Error::NoProgram)?;
        let index = host::interface_index(wanted.interface)?;
        host::check_rights()?;
        host::raise_memory_limit();
        let mut loader = EbpfLoader::new();
        for name in names::PINNED_MAPS {
            // The maps of the balancing program come along; they need not hold anything.
            loader.map_max_entries(name, 1);
        }
        loader.map_max_entries(names::MAP_FLOW_EVENTS, recorder::UNREAD);
        let mut object = loader.load(object).map_err(|error| load(&error))?;
        let mut settings: Array<_, DecapSettings> = take(&mut object, names::MAP_DECAP_SETTINGS)?;
        settings
            .set(0, wanted.settings, 0)
            .map_err(written(|| "the settings".to_owned()))?;
        let mut friends: HashMap<_, Address, u32> = take(&mut object, names::MAP_DECAP_FRIENDS)?;
        for friend in wanted.friends {
            let result = friends.insert(address(*friend), 0, 0);
            result.map_err(written(|| format!("{friend}, where tunnels may come from")))?;
        }
        let mut programs = Self {
            local: take(&mut object, names::MAP_DECAP_LOCAL)?,
            counters: take(&mut object, names::MAP_DECAP_COUNTERS)?,
            mode: AttachMode::Native,
            object,
        };
        for local in wanted.local {
            programs.learn(*local)?;
        }
        programs.attach(wanted, index)?;
        forget_maps(&mut programs.object);
        Ok(programs)
    }

    /// First what goes out, so that the first connection's answer is right.
    fn attach(&mut self, wanted: &Wanted<'_>, index: u32) -> Result<(), L4Error> {
        if wanted.settings.mtu != 0 {
            clamp(&mut self.object, wanted.interface)?;
        }
        let program: &mut Xdp = program(&mut self.object, names::PROGRAM_DECAP)?;
        program.load().map_err(|error| L4Error::Load {
            why: refusal(&error),
        })?;
        let modes: &[AttachMode] = match wanted.mode {
            DatapathMode::Auto => &[AttachMode::Native, AttachMode::Generic],
            DatapathMode::Native => &[AttachMode::Native],
            DatapathMode::Generic => &[AttachMode::Generic],
            DatapathMode::Tc | DatapathMode::Relay | DatapathMode::Off => &[],
        };
        let mut refused = Ok(());
        for mode in modes {
            let how = match mode {
                AttachMode::Native => XdpMode::Driver,
                AttachMode::Generic | AttachMode::Tc => XdpMode::Skb,
            };
            match program.attach_to_if_index(index, how) {
                Ok(_) => {
                    self.mode = *mode;
                    return Ok(());
                }
                Err(error) => {
                    refused = Err(L4Error::Attach {
                        interface: wanted.interface.to_owned(),
                        mode: *mode,
                        why: chain(&error),
                    });
                }
            }
        }
        refused
    }

    /// How the program that unpacks is attached.
    pub(crate) const fn mode(&self) -> AttachMode {
        self.mode
    }

    /// An address that the host has got.
    pub(crate) fn learn(&mut self, new: IpAddr) -> Result<(), L4Error> {
        let result = self.local.insert(address(new), 0, 0);
        Ok(result.map_err(written(|| format!("address {new}")))?)
    }

    /// An address that the host has lost.
    pub(crate) fn forget(&mut self, gone: IpAddr) -> Result<(), L4Error> {
        match self.local.remove(&address(gone)) {
            Err(error) if !super::is_absent(&error) => {
                Err(written(|| format!("address {gone}"))(error).into())
            }
            _ => Ok(()),
        }
    }

    /// What was counted, all processors.
    pub(crate) fn counters(&self) -> Result<Counters, L4Error> {
        let cpus = self.counters.get(&0, 0);
        let cpus = cpus.map_err(read(|| "the counters".to_owned()))?;
        let mut sum = Counters::default();
        cpus.iter().for_each(|cpu| sum.add(cpu));
        Ok(sum)
    }
}

/// Attaches what lowers the MSS of answers.
fn clamp(object: &mut Ebpf, interface: &str) -> Result<(), L4Error> {
    let program: &mut SchedClassifier = program(object, names::PROGRAM_CLAMP)?;
    program.load().map_err(|error| L4Error::Load {
        why: refusal(&error),
    })?;
    let attached = match program.attach(interface, TcAttachType::Egress) {
        // Before Linux 6.6 a queueing discipline has to be there first.
        Err(_) if qdisc_add_clsact(interface).is_ok() => {
            program.attach(interface, TcAttachType::Egress)
        }
        result => result,
    };
    attached.map(drop).map_err(|error| L4Error::Clamp {
        interface: interface.to_owned(),
        why: chain(&error),
    })
}

fn program<'a, T>(object: &'a mut Ebpf, name: &str) -> Result<T, L4Error>
where
    T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = object.program_mut(name).ok_or_else(|| L4Error::Load {
        why: format!("the object holds no program named {name}"),
    })?;
    T::try_from(program).map_err(|error| load(&error))
}

fn load(error: &dyn std::error::Error) -> L4Error {
    L4Error::Load { why: chain(error) }
}
