//! The far end of tunnels, twice: its programs in the kernel, and the pure library over a host in
//! memory. Both get the same packets and must do the same.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use lb_common::{Address, Counter, Counters, DecapSettings, names};
use lb_ebpf::decap::{Fate, unpack};
use lb_ebpf::memory::{Frame, MemoryHost};
use lb_ebpf::{Verdict, mss};

use super::hook::Hook;

/// The index of the loopback interface, by which frames come in.
const LOOPBACK: u32 = 1;

/// Both halves.
pub struct FarEnd {
    hook: Hook,
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
    pub fn new(
        hook: Hook,
        settings: DecapSettings,
        local: &[Address],
        friends: &[Address],
    ) -> Result<Self> {
        let path = hook.object()?;
        let bytes =
            fs::read(&path).with_context(|| format!("expected an object at {}", path.display()))?;
        let mut loader = EbpfLoader::new();
        for map in names::PINNED_MAPS {
            loader.map_max_entries(map, 1);
        }
        let mut object = loader
            .load(&bytes)
            .with_context(|| format!("cannot load {}", path.display()))?;
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
        for name in [names::PROGRAM_DECAP, names::PROGRAM_CLAMP] {
            hook.load_one(&mut object, name)?;
        }
        Ok(Self {
            hook,
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
        let outcome = self
            .hook
            .run(program.context("no program")?, frame, LOOPBACK)?;
        let mut copy = frame.to_vec();
        let fate = unpack(&mut Frame(&mut copy), &self.memory);
        // What is not among these differs in its name alone.
        let action = self.hook.action(match fate {
            Fate::Pass(_) => Verdict::Pass(Counter::PassedNotVip),
            Fate::Drop(_) => Verdict::Drop(Counter::DropNoStage),
        });
        ensure!(
            outcome.action == action && outcome.frame == copy,
            "expected {fate:?} as in the library, with\n {copy:02x?}, found action {} with\n \
             {:02x?}",
            outcome.action,
            outcome.frame
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

    /// Where the programs are called.
    #[must_use]
    pub const fn hook(&self) -> Hook {
        self.hook
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
