//! The far end of tunnels, twice: its programs in the kernel, and the pure library over a host in
//! memory. Both get the same packets and must do the same.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::{Address, Counters, DecapSettings, names};
use lb_ebpf::decap::{Fate, unpack};
use lb_ebpf::memory::{Frame, MemoryHost};
use lb_ebpf::mss;

use crate::artifact;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// Both halves.
pub struct FarEnd {
    object: Ebpf,
    memory: MemoryHost,
}

impl fmt::Debug for FarEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarEnd").finish_non_exhaustive()
    }
}

impl FarEnd {
    /// A host with these addresses, and tunnels from these.
    ///
    /// # Errors
    /// When the programs cannot be loaded.
    pub fn new(settings: DecapSettings, local: &[Address], friends: &[Address]) -> Result<Self> {
        let path = artifact::object_path()?;
        let bytes = fs::read(&path)
            .with_context(|| format!("expected the XDP object at {}", path.display()))?;
        let mut loader = EbpfLoader::new();
        for map in names::PINNED_MAPS {
            loader.map_max_entries(map, 1);
        }
        let mut object = loader.load(&bytes).context("cannot load the XDP object")?;
        let map = |name: &str| format!("no map {name}");
        let name = names::MAP_DECAP_SETTINGS;
        let found = object.map_mut(name).with_context(|| map(name))?;
        Array::<_, DecapSettings>::try_from(found)?.set(0, settings, 0)?;
        for (name, addresses) in [
            (names::MAP_DECAP_LOCAL, local),
            (names::MAP_DECAP_FRIENDS, friends),
        ] {
            let found = object.map_mut(name).with_context(|| map(name))?;
            let mut found = HashMap::<_, Address, u32>::try_from(found)?;
            for address in addresses {
                found.insert(address, 0, 0)?;
            }
        }
        let decap: &mut Xdp = (object.program_mut(names::PROGRAM_DECAP))
            .context("no program")?
            .try_into()?;
        decap.load().context("the kernel refuses lb_decap")?;
        let clamp: &mut SchedClassifier = (object.program_mut(names::PROGRAM_CLAMP))
            .context("no program")?
            .try_into()?;
        clamp.load().context("the kernel refuses lb_clamp")?;
        Ok(Self {
            object,
            memory: MemoryHost::new(settings, local, friends),
        })
    }

    /// What becomes of a frame that comes in.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn receive(&self, frame: &[u8]) -> Result<(Fate, Vec<u8>)> {
        let program = self.object.program(names::PROGRAM_DECAP);
        let program: &Xdp = program.context("no program")?.try_into()?;
        let mut out = vec![0; frame.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        let mut copy = frame.to_vec();
        let fate = unpack(&mut Frame(&mut copy), &self.memory);
        let action = match fate {
            Fate::Pass(_) => XDP_PASS,
            Fate::Drop(_) => XDP_DROP,
        };
        ensure!(
            result.return_value == action && out == copy,
            "expected {fate:?} as in the library, with\n {copy:02x?}, found action {} with\n \
             {out:02x?}",
            result.return_value
        );
        self.compare()?;
        Ok((fate, copy))
    }

    /// What becomes of a frame that goes out; the library leaves the checksum to its caller.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn send(&self, frame: &[u8]) -> Result<Vec<u8>> {
        let program = self.object.program(names::PROGRAM_CLAMP);
        let program: &SchedClassifier = program.context("no program")?.try_into()?;
        let mut out = vec![0; frame.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        let mut copy = frame.to_vec();
        if let Some(clamp) = mss::clamp(&mut Frame(&mut copy), &self.memory) {
            copy[clamp.at..clamp.at + 2].copy_from_slice(&clamp.new);
            let sum = clamp.check_at..clamp.check_at + 2;
            copy[sum.clone()].copy_from_slice(&out[sum]);
        }
        ensure!(out == copy, "expected\n {copy:02x?}, found\n {out:02x?}");
        self.compare()?;
        Ok(out)
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.memory.counters()
    }

    fn compare(&self) -> Result<()> {
        let map = self.object.map(names::MAP_DECAP_COUNTERS);
        let map = PerCpuArray::<_, Counters>::try_from(map.context("no counters")?)?;
        let mut sum = Counters::default();
        for cpu in map.get(&0, 0)?.iter() {
            sum.add(cpu);
        }
        ensure!(sum == self.memory.counters(), "counters differ: {sum:?}");
        Ok(())
    }
}
