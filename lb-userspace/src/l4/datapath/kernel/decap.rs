//! The programs of the far end of tunnels.

use std::{collections::BTreeSet, net::IpAddr};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{
        Program, ProgramError, SchedClassifier,
        TcAttachType::{self, Egress, Ingress},
        Xdp, XdpMode,
        tc::qdisc_add_clsact,
    },
};
use lb_common::{Address, Counters, DecapSettings, names};

use super::{
    chain, forget_maps,
    hook::{self, Hook},
    read, recorder, take, written,
};
use crate::{
    l4::{AttachMode, L4Error, host, link::Framed, plan::address},
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
    /// What was told; programs are loaded by descriptors that have to be open.
    _told: (
        Array<MapData, DecapSettings>,
        HashMap<MapData, Address, u32>,
    ),
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
    /// Loads the programs, tells them what they need to know, and attaches them the best way that was asked
    /// for.
    pub(crate) fn open(wanted: &Wanted<'_>) -> Result<Self, L4Error> {
        let Framed { index, .. } = Framed::named(wanted.interface)?;
        host::check_rights()?;
        host::raise_memory_limit();
        let modes: &[AttachMode] = match wanted.mode {
            DatapathMode::Auto => &[AttachMode::Native, AttachMode::Tc, AttachMode::Generic],
            DatapathMode::Native => &[AttachMode::Native],
            DatapathMode::Tc => &[AttachMode::Tc],
            DatapathMode::Generic => &[AttachMode::Generic],
            DatapathMode::Relay | DatapathMode::Off => &[],
        };
        let mut refused = L4Error::NoProgram;
        for mode in modes {
            let programs = Self::load(wanted, *mode);
            let attached = programs.and_then(|mut programs| {
                programs.attach(wanted, index)?;
                Ok(programs)
            });
            match attached {
                Ok(mut programs) => {
                    forget_maps(&mut programs.object);
                    return Ok(programs);
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn load(wanted: &Wanted<'_>, mode: AttachMode) -> Result<Self, L4Error> {
        let mut loader = EbpfLoader::new();
        for name in names::PINNED_MAPS {
            // The maps of the balancing program come along; they need not hold anything.
            loader.map_max_entries(name, 1);
        }
        loader.map_max_entries(names::MAP_FLOW_EVENTS, recorder::UNREAD);
        let object = Hook::of(mode).object()?;
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
            _told: (settings, friends),
            mode,
            object,
        };
        for local in wanted.local {
            programs.learn(*local)?;
        }
        Ok(programs)
    }

    /// First what goes out, so that the first connection's answer is right.
    fn attach(&mut self, wanted: &Wanted<'_>, index: u32) -> Result<(), L4Error> {
        let (object, interface) = (&mut self.object, wanted.interface);
        if wanted.settings.mtu != 0 {
            hook::load(object, names::PROGRAM_CLAMP)?;
            let attached = traffic_control(object, names::PROGRAM_CLAMP, interface, Egress);
            attached.map_err(|error| L4Error::Clamp {
                interface: interface.to_owned(),
                why: chain(&error),
            })?;
        }
        hook::load(object, names::PROGRAM_DECAP)?;
        let attached = match self.mode {
            AttachMode::Native => xdp(object, index, XdpMode::Driver),
            AttachMode::Generic => xdp(object, index, XdpMode::Skb),
            AttachMode::Tc => traffic_control(object, names::PROGRAM_DECAP, interface, Ingress),
        };
        attached.map_err(|error| L4Error::Attach {
            interface: interface.to_owned(),
            mode: self.mode,
            why: chain(&error),
        })
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

fn xdp(object: &mut Ebpf, index: u32, mode: XdpMode) -> Result<(), ProgramError> {
    let program: &mut Xdp = found(object, names::PROGRAM_DECAP)?;
    program.attach_to_if_index(index, mode).map(drop)
}

fn traffic_control(
    object: &mut Ebpf,
    name: &str,
    interface: &str,
    way: TcAttachType,
) -> Result<(), ProgramError> {
    let program: &mut SchedClassifier = found(object, name)?;
    let attached = match program.attach(interface, way) {
        // Before Linux 6.6 a queueing discipline has to be there first.
        Err(_) if qdisc_add_clsact(interface).is_ok() => program.attach(interface, way),
        result => result,
    };
    attached.map(drop)
}

fn found<'a, T>(object: &'a mut Ebpf, name: &str) -> Result<T, ProgramError>
where
    T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = object.program_mut(name);
    T::try_from(program.ok_or(ProgramError::UnexpectedProgramType)?)
}

fn load(error: &dyn std::error::Error) -> L4Error {
    L4Error::Load { why: chain(error) }
}
