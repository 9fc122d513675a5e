//! What the daemon, and `lb decap`, may do once they have started.
//!
//! A process that parses what strangers send should not be able to do more than it has to. So every thread
//! gives up all capabilities but those that it is told to [`keep`], for good: they leave the bounding set
//! as well, so nothing that is executed gets them back. What takes more (mounting a BPF file system, giving
//! away a socket) happens before, on the first thread.
//!
//! Capabilities belong to threads. Threads of the control plane give theirs up as they start; all
//! others are begun by the first thread after it has done so.

use std::{fs::File, path::Path};

use rustix::{
    io,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};

/// What a running daemon needs: to load programs and fill maps, to attach them, to have the verifier
/// accept them, and listeners on ports below 1024 that a reload adds.
const DAEMON: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Gives up what the calling thread of the daemon does not need any more.
pub(super) fn give_up() {
    if let Err(error) = keep(DAEMON) {
        tracing::warn!(%error, "cannot give up capabilities that are not needed");
    }
}

/// Gives up all capabilities of the calling thread but those of `kept`. Without any that is nothing,
/// and no fault.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn keep(kept: CapabilitySet) -> io::Result<()> {
    let held = capabilities(None)?;
    // While the right to do so is still there.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for unneeded in CapabilitySet::all().difference(kept).iter() {
            // The kernel may be older than the list.
            match remove_capability_from_bounding_set(unneeded) {
                Ok(()) | Err(io::Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    set_no_new_privs(true)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: held.effective & kept,
            permitted: held.permitted & kept,
            inheritable: held.inheritable & kept,
        },
    )
}

/// Warns of a file that could be read before, and will not be readable at a reload: root without
/// `CAP_DAC_OVERRIDE` is a user like any other.
pub(super) fn check_file(path: &Path) {
    if let Err(error) = File::open(path) {
        let path = path.display();
        tracing::warn!(
            "expected {path} to be readable for this user without further rights, so that it can be \
             reloaded, found: {error}"
        );
    }
}
