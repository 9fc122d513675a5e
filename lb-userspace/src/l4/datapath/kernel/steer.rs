//! The program that names the sockets of connections that nobody listens for.

use std::{collections::BTreeMap, fs::File, net::TcpListener};

use aya::{
    Ebpf, EbpfLoader,
    maps::{LpmTrie, MapData, PerCpuArray, SockMap, lpm_trie::Key},
    programs::SkLookup,
};
use lb_common::{Address, SteerCounts, SteerPorts, names};

use super::{
    chain, forget_maps,
    load::{OBJECT, refusal},
    read, recorder, take, written,
};
use crate::l4::{L4Error, host};

/// The network namespace of this process.
const NAMESPACE: &str = "/proc/self/ns/net";

/// The program, attached; it comes off when dropped.
pub(crate) struct Steering {
    ports: LpmTrie<MapData, Address, SteerPorts>,
    sockets: SockMap<MapData>,
    counts: PerCpuArray<MapData, SteerCounts>,
    present: BTreeMap<(Address, u32), SteerPorts>,
    _object: Ebpf,
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steering").finish_non_exhaustive()
    }
}

impl Steering {
    /// Loads the program and attaches it to the network namespace. It hands nothing over so far.
    ///
    /// It is not pinned: the sockets that it names end with this process, and so should it.
    ///
    /// # Errors
    /// When something that it needs is missing.
    pub(crate) fn open() -> Result<Self, L4Error> {
        let object = OBJECT.ok_or(L4Error::NoProgram)?;
        host::check_rights()?;
        host::raise_memory_limit();
        let mut loader = EbpfLoader::new();
        for name in names::PINNED_MAPS {
            // The maps of the balancing program come along; they need not hold anything.
            loader.map_max_entries(name, 1);
        }
        loader.map_max_entries(names::MAP_FLOW_EVENTS, recorder::UNREAD);
        let load = |error: &dyn std::error::Error| L4Error::Load { why: chain(error) };
        let mut object = loader.load(object).map_err(|error| load(&error))?;
        let ports = take(&mut object, names::MAP_STEER_PORTS)?;
        let sockets = take(&mut object, names::MAP_STEER_SOCKETS)?;
        let counts = take(&mut object, names::MAP_STEER_COUNTS)?;
        let program = object.program_mut(names::PROGRAM_STEER);
        let program = program.ok_or_else(|| L4Error::Load {
            why: format!("there is no program {}", names::PROGRAM_STEER),
        })?;
        let program: &mut SkLookup = program.try_into().map_err(|error| load(&error))?;
        program.load().map_err(|error| L4Error::Load {
            why: refusal(&error),
        })?;
        let attach = |why: String| L4Error::Steer { why };
        let namespace = File::open(NAMESPACE).map_err(|error| attach(error.to_string()))?;
        program
            .attach(namespace)
            .map_err(|error| attach(chain(&error)))?;
        forget_maps(&mut object);
        Ok(Self {
            ports,
            sockets,
            counts,
            present: BTreeMap::new(),
            _object: object,
        })
    }

    /// Names `socket`, and the group that shares its port, for a family.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub(crate) fn put_socket(&mut self, index: u32, socket: &TcpListener) -> Result<(), L4Error> {
        let result = self.sockets.set(index, socket, 0);
        Ok(result.map_err(written(|| format!("socket {index} of the proxy")))?)
    }

    /// Hands over what `wanted` says, by first address and length of the range, and nothing else.
    ///
    /// # Errors
    /// When a map cannot be written; the next call goes on from there.
    pub(crate) fn put_ports(
        &mut self,
        wanted: &BTreeMap<(Address, u32), SteerPorts>,
    ) -> Result<(), L4Error> {
        let key = |(address, length): (Address, u32)| Key::new(length, address);
        let what = || "the ports of a range of addresses".to_owned();
        for (at, ports) in wanted {
            if self.present.get(at) != Some(ports) {
                let result = self.ports.insert(&key(*at), ports, 0);
                result.map_err(written(what))?;
                self.present.insert(*at, *ports);
            }
        }
        let gone = self.present.keys().filter(|at| !wanted.contains_key(at));
        for at in gone.copied().collect::<Vec<_>>() {
            self.ports.remove(&key(at)).map_err(written(what))?;
            self.present.remove(&at);
        }
        Ok(())
    }

    /// What was counted, all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn counts(&self) -> Result<SteerCounts, L4Error> {
        let values = self.counts.get(&0, 0);
        let values = values.map_err(read(|| "what was handed to the proxy".to_owned()))?;
        let mut sum = SteerCounts::default();
        for value in values.iter() {
            sum.handed += value.handed;
            sum.orphaned += value.orphaned;
        }
        Ok(sum)
    }
}
