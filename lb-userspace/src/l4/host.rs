//! What the packet path needs of the host: rights, a BPF file system, interfaces, a clock.

use std::{fs, path::Path};

use rustix::{
    fs::statfs,
    mount::{MountFlags, mount},
    net::{AddressFamily, SocketType, netdevice, socket},
    process::{Resource, Rlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use super::L4Error;

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS: u32 = 0xcafe_4a11;
/// Where distributions mount it.
const USUAL: &str = "/sys/fs/bpf";

/// Bits of `linux/capability.h`.
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Checks that this process may load and attach programs.
///
/// # Errors
/// When a capability is missing.
pub(crate) fn check_rights() -> Result<(), L4Error> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match missing(&status) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(L4Error::Rights {
            missing: missing.join(" and "),
        }),
    }
}

/// The capabilities that a process with this `/proc/self/status` lacks. Without the line nothing
/// is known, and the kernel will say it.
fn missing(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let Some(held) = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Vec::new();
    };
    let has = |bit: u32| held & (1 << bit) != 0;
    let mut missing = Vec::new();
    if !has(BPF) && !has(SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !has(NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    // The verifier would refuse the program's arithmetic with pointers, in words that do not say so.
    if !has(PERFMON) && !has(SYS_ADMIN) {
        missing.push("CAP_PERFMON");
    }
    missing
}

/// Before Linux 5.11 maps counted against a limit that is far too low by default. Failing to raise
/// it is no fault: newer kernels do not look at it.
pub(crate) fn raise_memory_limit() {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "cannot raise the limit of locked memory");
    }
}

/// Makes `path` a folder on a BPF file system, mounting that at its usual place when it is not
/// mounted there.
///
/// # Errors
/// When there is none and none can be mounted.
pub(crate) fn prepare_pins(path: &Path) -> Result<(), L4Error> {
    let fail = |why: String| L4Error::NoBpfFs {
        path: path.to_owned(),
        why,
    };
    if path.starts_with(USUAL) && !is_bpf_fs(Path::new(USUAL)) {
        mount("bpf", USUAL, "bpf", MountFlags::empty(), None)
            .map_err(|error| fail(format!("mounting one at {USUAL} failed: {error}")))?;
        tracing::info!("mounted a BPF file system at {USUAL}");
    }
    let existing = path.ancestors().find(|a| a.exists());
    if !existing.is_some_and(is_bpf_fs) {
        return Err(fail("there is another file system".to_owned()));
    }
    fs::create_dir_all(path).map_err(|error| L4Error::Pin {
        what: "make",
        path: path.to_owned(),
        why: error.to_string(),
    })
}

/// Whether `path` is on a BPF file system.
pub(crate) fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.f_type as u32 == BPF_FS)
}

/// The index of the interface `name` in this network namespace.
///
/// # Errors
/// When there is none.
pub(crate) fn interface_index(name: &str) -> Result<u32, L4Error> {
    any_socket()
        .and_then(|socket| netdevice::name_to_index(socket, name))
        .map_err(|error| L4Error::Interface {
            name: name.to_owned(),
            why: error.to_string(),
        })
}

/// The name of the interface with this index; `None` when there is none in this network namespace.
pub(crate) fn interface_name(index: u32) -> Option<String> {
    let socket = any_socket().ok()?;
    netdevice::index_to_name(socket, index).ok()
}

fn any_socket() -> rustix::io::Result<rustix::fd::OwnedFd> {
    socket(AddressFamily::INET, SocketType::DGRAM, None)
}

/// Whether `interface` forwards packets of a family: without that the kernel answers no route
/// look-ups for packets that come in by it. `None` when the system does not say.
pub(crate) fn forwards(interface: &str, v4: bool) -> Option<bool> {
    let family = if v4 { "ipv4" } else { "ipv6" };
    let path = format!("/proc/sys/net/{family}/conf/{interface}/forwarding");
    Some(fs::read_to_string(path).ok()?.trim() != "0")
}

/// `CLOCK_MONOTONIC` in nanoseconds, what `bpf_ktime_get_ns` reads.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let whole = |part: i64| u64::try_from(part).unwrap_or(0);
    whole(now.tv_sec) * 1_000_000_000 + whole(now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_capabilities_are_missing() {
        let status = |bits: u64| format!("Name:\tlb\nCapEff:\t{bits:016x}\nSeccomp:\t0\n");
        let all = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
        assert_eq!(missing(&status(0)), all);
        assert_eq!(missing(&status(1 << NET_ADMIN | 1 << PERFMON)), ["CAP_BPF"]);
        assert_eq!(missing(&status(1 << NET_ADMIN | 1 << BPF)), ["CAP_PERFMON"]);
        assert!(missing(&status(1 << NET_ADMIN | 1 << BPF | 1 << PERFMON)).is_empty());
        assert!(missing(&status(1 << NET_ADMIN | 1 << SYS_ADMIN)).is_empty());
        assert!(missing("Name:\tlb\n").is_empty());
    }

    #[test]
    fn finds_interfaces_both_ways() {
        let index = interface_index("lo").unwrap();
        assert_eq!(interface_name(index).as_deref(), Some("lo"));
        let error = interface_index("nothing0").unwrap_err().to_string();
        assert!(error.contains("\"nothing0\""), "{error}");
    }

    #[test]
    fn knows_whether_an_interface_forwards() {
        assert!(forwards("lo", true).is_some());
        assert_eq!(forwards("nothing0", true), None);
    }

    #[test]
    fn a_path_elsewhere_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let error = prepare_pins(&folder.path().join("lb"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("mount -t bpf"), "{error}");
    }

    #[test]
    fn the_clock_runs() {
        let before = monotonic_ns();
        assert!(before > 0 && monotonic_ns() >= before);
    }
}
