//! The two places where the kernel calls the programs, and what is different there for whoever runs them: the kind
//! of program, what it is called with and what it answers.

use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{MapData, ProgramArray};
use aya::programs::{Program, ProgramFd, SchedClassifier, TestRun, TestRunOptions, Xdp};
use lb_common::names;
use lb_ebpf::Verdict;

use super::kernel::Outcome;
use crate::artifact;

/// Bytes of the header of Ethernet.
const ETHERNET: usize = 14;
/// Bytes that a frame may grow by.
const GROWTH: usize = 256;
/// `struct __sk_buff` of `linux/bpf.h`: its bytes, and where the index of the interface is.
const SKB: usize = 192;
const SKB_IFINDEX: usize = 40;

/// `XDP_DROP` and what follows it, of `linux/bpf.h`.
const XDP: [u32; 4] = [1, 2, 3, 4];
/// `TC_ACT_SHOT`, `TC_ACT_UNSPEC` and twice `TC_ACT_REDIRECT`, of `linux/pkt_cls.h`.
const TC: [u32; 4] = [2, u32::MAX, 7, 7];

/// Where a program is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// On what a driver has received.
    Xdp,
    /// On the socket buffer that the kernel has made of it.
    Tc,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    /// Does `work` for each, and says for which it went wrong.
    ///
    /// # Errors
    /// Whatever `work` finds wrong.
    pub fn each(work: impl Fn(Self) -> Result<()>) -> Result<()> {
        Self::ALL
            .into_iter()
            .try_for_each(|hook| work(hook).with_context(|| format!("{hook:?}")))
    }

    /// Where the object is.
    ///
    /// # Errors
    /// As [`artifact::object_path`].
    pub fn object(self) -> Result<PathBuf> {
        let xdp = artifact::object_path()?;
        Ok(match self {
            Self::Xdp => xdp,
            Self::Tc => xdp.with_file_name("lb-tc"),
        })
    }

    /// The balancing program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Xdp => names::PROGRAM,
            Self::Tc => names::PROGRAM_TC,
        }
    }

    /// Loads the balancing program and its stages.
    ///
    /// # Errors
    /// When one is not there, or the kernel refuses it.
    pub fn load(self, object: &mut Ebpf) -> Result<ProgramArray<MapData>> {
        for name in [self.program()].iter().chain(&names::STAGES) {
            self.load_one(object, name)?;
        }
        let stages = object.take_map(names::MAP_STAGES);
        let mut stages = ProgramArray::try_from(stages.context("no map of stages")?)?;
        for (place, name) in (0..).zip(names::STAGES) {
            let program = object.program(name).context("no program")?;
            stages.set(place, descriptor(program)?, 0)?;
        }
        Ok(stages)
    }

    /// Loads one program.
    ///
    /// # Errors
    /// As [`Hook::load`].
    pub fn load_one(self, object: &mut Ebpf, name: &str) -> Result<()> {
        let program = object.program_mut(name);
        match program.with_context(|| format!("no program {name}"))? {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => anyhow::bail!("{name} is a program of another kind"),
        }
        .with_context(|| format!("the kernel refuses {name}"))
    }

    /// Runs a frame through a program, as if it had come in by `interface`.
    ///
    /// # Errors
    /// When the kernel cannot.
    pub fn run(self, program: &Program, frame: &[u8], interface: u32) -> Result<Outcome> {
        let mut out = vec![0; frame.len() + GROWTH];
        let context = self.context(frame.len(), interface);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match self {
            Self::Xdp => <&Xdp>::try_from(program)?.test_run(options)?,
            Self::Tc => <&SchedClassifier>::try_from(program)?.test_run(options)?,
        };
        out.truncate(result.data_size_out as usize);
        Ok(Outcome {
            action: result.return_value,
            is_sent: self.actions()[2..].contains(&result.return_value),
            frame: out,
        })
    }

    /// What a program is called with for a frame of so many bytes.
    #[must_use]
    pub fn context(self, length: usize, interface: u32) -> Vec<u8> {
        match self {
            // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
            Self::Xdp => [0, length as u32, 0, interface, 0, 0]
                .iter()
                .flat_map(|field| field.to_ne_bytes())
                .collect(),
            Self::Tc => {
                let mut context = vec![0; SKB];
                let place = SKB_IFINDEX..SKB_IFINDEX + size_of::<u32>();
                context[place].copy_from_slice(&interface.to_ne_bytes());
                context
            }
        }
    }

    /// What the program answers for a verdict.
    #[must_use]
    pub const fn action(self, verdict: Verdict) -> u32 {
        let [drop, pass, transmit, redirect] = self.actions();
        match verdict {
            Verdict::Drop(_) => drop,
            Verdict::Pass(_) => pass,
            Verdict::Transmit | Verdict::Answer(_) => transmit,
            Verdict::Redirect(_) => redirect,
        }
    }

    const fn actions(self) -> [u32; 4] {
        match self {
            Self::Xdp => XDP,
            Self::Tc => TC,
        }
    }

    /// Whether the kernel makes a packet of a frame so that a program can be run on it: a socket buffer is none
    /// without the header that the frame promises.
    #[must_use]
    pub fn takes(self, frame: &[u8]) -> bool {
        let header = match frame.get(12..ETHERNET) {
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xdd]) => 40,
            _ => 1,
        };
        self == Self::Xdp || frame.len() >= ETHERNET + header
    }

    /// Whether two frames are one. A socket buffer has the outermost tag beside its bytes once the program has
    /// written it, where nobody sees it here.
    #[must_use]
    pub fn is_same(self, seen: &[u8], expected: &[u8]) -> bool {
        seen == expected || self == Self::Tc && seen == untagged(expected)
    }
}

fn descriptor(program: &Program) -> Result<&ProgramFd> {
    Ok(match program {
        Program::Xdp(program) => program.fd()?,
        Program::SchedClassifier(program) => program.fd()?,
        _ => anyhow::bail!("a program of another kind"),
    })
}

/// A frame without its VLAN tag.
fn untagged(frame: &[u8]) -> Vec<u8> {
    match frame.get(12..16) {
        Some([0x81, 0, ..] | [0x88, 0xa8, ..]) => [&frame[..12], &frame[16..]].concat(),
        _ => frame.to_vec(),
    }
}
