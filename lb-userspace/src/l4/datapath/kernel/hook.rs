//! Where the kernel calls the packet path: on what a driver has received (XDP), or on the socket buffer that is
//! made of it (traffic control). Either is an object of its own, over the same maps.
//!
//! All interfaces of a daemon have the same one. An earlier daemon may have left links of the other one: both can be on
//! an interface at once, XDP before traffic control, so the new link is made before the old one is let go, and no packet
//! finds neither. An XDP program that comes before one of traffic control which works may not decide anything before it
//! knows all: its link passes all packets on at first.

use std::error::Error;

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::{
        LinkOrder, Program, ProgramError, ProgramFd, ProgramInfo, SchedClassifier, TcAttachType,
        TestRun as _, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, PinnedLink as AyaLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use lb_common::names;

use super::{
    chain,
    load::{OBJECT, OBJECT_TC, refusal},
    pins::PinnedLink,
};
use crate::l4::{AttachMode, L4Error, host};

/// `struct __sk_buff` of `linux/bpf.h`: its bytes, and where the index of the interface is.
const SKB: usize = 192;
const SKB_IFINDEX: usize = 40;

/// Where the programs are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// On packets.
    Xdp,
    /// On socket buffers.
    Tc,
}

impl Hook {
    /// The one that a link of this mode is of.
    pub(super) const fn of(mode: AttachMode) -> Self {
        match mode {
            AttachMode::Native | AttachMode::Generic => Self::Xdp,
            AttachMode::Tc => Self::Tc,
        }
    }

    /// The object, where it was built.
    pub(super) fn object(self) -> Result<&'static [u8], L4Error> {
        let object = match self {
            Self::Xdp => OBJECT,
            Self::Tc => OBJECT_TC,
        };
        object.ok_or(L4Error::NoProgram)
    }

    /// The first of its programs.
    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => names::PROGRAM,
            Self::Tc => names::PROGRAM_TC,
        }
    }

    /// Loads the first program.
    pub(super) fn load(self, object: &mut Ebpf) -> Result<(), L4Error> {
        load(object, self.name())
    }

    /// What the kernel knows of the first program.
    pub(super) fn info(self, object: &Ebpf) -> Result<ProgramInfo, L4Error> {
        let info = match program(object, self.name())? {
            Program::Xdp(program) => program.info(),
            Program::SchedClassifier(program) => program.info(),
            _ => return Err(absent(self.name())),
        };
        info.map_err(|error| failed(&error))
    }

    /// Makes a link and pins it. One of XDP that `stands_by` runs a program that passes all packets, until it is
    /// [switched](Self::switch).
    pub(super) fn attach(
        self,
        object: &mut Ebpf,
        pin: &PinnedLink,
        stands_by: bool,
    ) -> Result<PinnedLink, String> {
        let takes = format!("which takes Linux {} or later", pin.mode.oldest_kernel());
        let mut attached = || -> Result<FdLink, Box<dyn Error>> {
            if self == Self::Xdp {
                let mode = match pin.mode {
                    AttachMode::Generic => XdpMode::Skb,
                    AttachMode::Native | AttachMode::Tc => XdpMode::Driver,
                };
                let name = if stands_by {
                    names::PROGRAM_PASS
                } else {
                    self.name()
                };
                let program = object.program_mut(name).ok_or_else(|| absent(name))?;
                let program: &mut Xdp = program.try_into()?;
                // That of the first interface is the one of the others too.
                if stands_by && program.fd().is_err() {
                    program.load()?;
                }
                let id = program.attach_to_if_index(pin.index, mode)?;
                // Where the kernel makes no link, aya attaches without one. Such a program would come off with
                // the daemon, so it is no substitute; dropping it takes it off.
                return FdLink::try_from(program.take_link(id)?)
                    .map_err(|_| format!("the kernel made no link, {takes}").into());
            }
            let program: &mut SchedClassifier = first(object, self)?.try_into()?;
            // Before whoever is there already, as XDP is before all of them.
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let name = host::interface_name(pin.index).ok_or("the interface is gone")?;
            let id = program
                .attach_with_options(&name, TcAttachType::Ingress, options)
                .map_err(|error| format!("{}, {takes}", chain(&error)))?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        };
        let link = attached().map_err(|error| chain(error.as_ref()))?;
        link.pin(&pin.path).map_err(|error| chain(&error))?;
        Ok(pin.clone())
    }

    /// Makes an earlier daemon's link run the program of `object`, atomically: no packet sees neither.
    pub(super) fn switch(self, object: &mut Ebpf, pin: &PinnedLink) -> Result<(), String> {
        let mut switched = || -> Result<(), Box<dyn Error>> {
            let link = FdLink::from(AyaLink::from_pin(&pin.path)?);
            match self {
                Self::Xdp => {
                    let program: &mut Xdp = first(object, self)?.try_into()?;
                    let id = program.attach_to_link(XdpLink::try_from(link)?)?;
                    drop(program.take_link(id)?);
                }
                Self::Tc => {
                    let program: &mut SchedClassifier = first(object, self)?.try_into()?;
                    let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
                    drop(program.take_link(id)?);
                }
            }
            Ok(())
        };
        switched().map_err(|error| chain(error.as_ref()))
    }

    /// Runs a frame through the first program, as if it had come in by the interface with this index. Returns
    /// what became of its bytes, for which there is room in `out`.
    pub(super) fn play(
        self,
        object: &mut Ebpf,
        frame: &[u8],
        interface: u32,
        mut out: Vec<u8>,
    ) -> Result<Vec<u8>, L4Error> {
        let context = match self {
            // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            Self::Xdp => {
                let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
                let fields = [0, length, 0, interface, 0, 0];
                fields.into_iter().flat_map(u32::to_ne_bytes).collect()
            }
            Self::Tc => {
                let mut context = vec![0; SKB];
                let place = SKB_IFINDEX..SKB_IFINDEX + size_of::<u32>();
                context[place].copy_from_slice(&interface.to_ne_bytes());
                context
            }
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match first(object, self)? {
            Program::Xdp(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            _ => return Err(absent(self.name())),
        };
        let result = result.map_err(|error| failed(&error))?;
        out.truncate(result.data_size_out as usize);
        Ok(out)
    }
}

/// Loads a program.
pub(super) fn load(object: &mut Ebpf, name: &str) -> Result<(), L4Error> {
    let loaded = match object.program_mut(name) {
        Some(Program::Xdp(program)) => program.load(),
        Some(Program::SchedClassifier(program)) => program.load(),
        _ => return Err(absent(name)),
    };
    loaded.map_err(|error| L4Error::Load {
        why: format!("{name}: {}", refusal(&error)),
    })
}

/// Enters a program that is loaded into an array.
pub(super) fn enter(
    object: &Ebpf,
    name: &str,
    array: &mut ProgramArray<MapData>,
    place: u32,
) -> Result<(), L4Error> {
    let descriptor: Result<&ProgramFd, ProgramError> = match program(object, name)? {
        Program::Xdp(program) => program.fd(),
        Program::SchedClassifier(program) => program.fd(),
        _ => return Err(absent(name)),
    };
    let descriptor = descriptor.map_err(|error| failed(&error))?;
    let entered = array.set(place, descriptor, 0);
    entered.map_err(|error| failed(&error))
}

fn first(object: &mut Ebpf, hook: Hook) -> Result<&mut Program, L4Error> {
    object
        .program_mut(hook.name())
        .ok_or_else(|| absent(hook.name()))
}

fn program<'a>(object: &'a Ebpf, name: &str) -> Result<&'a Program, L4Error> {
    object.program(name).ok_or_else(|| absent(name))
}

fn absent(name: &str) -> L4Error {
    L4Error::Load {
        why: format!("the object holds no program named {name} that can be attached to interfaces"),
    }
}

fn failed(error: &dyn Error) -> L4Error {
    L4Error::Load { why: chain(error) }
}
