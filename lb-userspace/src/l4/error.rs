//! Why there is no packet path.

use std::path::PathBuf;

use super::datapath::{AttachMode, DatapathError};

/// Why the packet path could not be opened, looked at or taken off.
#[derive(Debug, thiserror::Error)]
pub enum L4Error {
    /// VIPs are configured, but the packet path is switched off.
    #[error(
        "expected datapath.mode to be auto, native, tc, generic or relay, because VIPs are configured; \
         found off"
    )]
    Off,
    /// The daemon carries no program.
    #[error(
        "this lb was built without its programs for the kernel, so it can serve no VIP; run `cargo xtask \
         build` and start what that builds"
    )]
    NoProgram,
    /// Rights are missing.
    #[error(
        "serving VIPs in the kernel needs {missing}, which this process lacks; run lb as root or \
         give it these capabilities"
    )]
    Rights {
        /// The capabilities that are missing.
        missing: String,
    },
    /// There is nothing to attach to.
    #[error("expected datapath.interfaces to name at least one interface, found none")]
    NoInterfaces,
    /// An interface does not exist.
    #[error("expected the name of an interface that exists, found {name:?}: {why}")]
    Interface {
        /// The name.
        name: String,
        /// The system's words.
        why: String,
    },
    /// What comes in by an interface is nothing that the programs can read.
    #[error("expected an interface with Ethernet frames, found {name:?}, {found}")]
    NoFrames {
        /// The name.
        name: String,
        /// What it is.
        found: String,
    },
    /// There is no BPF file system to pin to.
    #[error(
        "expected {path} to be on a BPF file system, where links and maps outlive the daemon: \
         {why}; `mount -t bpf bpf /sys/fs/bpf` makes one"
    )]
    NoBpfFs {
        /// Where things are pinned.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another daemon works on the same maps.
    #[error("expected {path} for this lb alone, found another lb that works on the maps there")]
    Busy {
        /// Where things are pinned.
        path: PathBuf,
    },
    /// What is pinned was made by an lb that this one does not understand.
    #[error("expected maps at {path} that this lb can read, found others: {why}")]
    Unreadable {
        /// Where things are pinned.
        path: PathBuf,
        /// What is other about them.
        why: String,
    },
    /// There is no packet path that could be asked.
    #[error("expected a packet path that serves VIPs, found none: {why}")]
    NoPath {
        /// Why there is none.
        why: String,
    },
    /// Too many follow packets.
    #[error("expected at most {most} who follow packets at one time, found that many already")]
    Followers {
        /// The limit.
        most: usize,
    },
    /// A packet that is asked about cannot be.
    #[error("expected {expected}, found {found}")]
    Probe {
        /// What is possible.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// The program or its maps could not be loaded.
    #[error("the kernel refused the program: {why}")]
    Load {
        /// The kernel's words.
        why: String,
    },
    /// The program's maps are not the daemon's.
    #[error(
        "expected map {map} of the program to be {expected}, found {found}: the program \
             and this lb are of different builds; run `cargo xtask build`"
    )]
    Mismatch {
        /// The map.
        map: &'static str,
        /// What the daemon knows.
        expected: String,
        /// What the program has.
        found: String,
    },
    /// The program could not be attached.
    #[error("cannot attach the program to {interface} in {mode} mode: {why}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode that was tried last.
        mode: AttachMode,
        /// The kernel's words.
        why: String,
    },
    /// What lowers the MSS of answers could not be attached.
    #[error("cannot attach the program that lowers the MSS of answers to {interface}: {why}")]
    Clamp {
        /// The interface.
        interface: String,
        /// The kernel's words.
        why: String,
    },
    /// Something below the pin path could not be read, made or removed.
    #[error("cannot {what} {path}: {why}")]
    Pin {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The program that hands connections to the proxy could not be attached.
    #[error("cannot attach the program that hands connections to the proxy: {why}")]
    Steer {
        /// The kernel's words.
        why: String,
    },
    /// A relay could not be started.
    #[error("cannot start a relay for VIPs: {why}")]
    Relay {
        /// The system's words.
        why: String,
    },
    /// A call to the packet path failed.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}
