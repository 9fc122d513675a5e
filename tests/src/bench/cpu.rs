//! Time that processes have spent on a processor.

use std::{fs, io, path::Path, time::Duration};

use anyhow::{Context as _, Result};

/// On-CPU time of process `pid`, all its running threads, and all its descendants, user and
/// kernel. The time of threads that have ended is not in it: compare at times between which none
/// does.
///
/// Read from `schedstat`, which counts nanoseconds; `stat` counts ticks of ten milliseconds.
///
/// # Errors
/// When `/proc` cannot be read, which is also so when the process has ended.
pub fn time(pid: u32) -> Result<Duration> {
    let nanoseconds =
        tree(pid).with_context(|| format!("cannot read CPU time of process {pid}"))?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// On-CPU time of the calling thread.
///
/// # Errors
/// As [`time`].
pub fn own() -> Result<Duration> {
    let nanoseconds = schedstat(Path::new("/proc/thread-self"));
    let nanoseconds = nanoseconds.context("cannot read CPU time of this thread")?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// The process id of a thread of the kernel.
///
/// # Errors
/// When there is none of that name.
pub fn kernel_thread(name: &str) -> Result<u32> {
    let is_it = |pid: &u32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    };
    let entries = fs::read_dir("/proc")?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(is_it)
        .with_context(|| format!("the kernel has no thread {name}"))
}

fn tree(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        match schedstat(&thread) {
            Ok(time) => sum += time,
            // It has ended since the folder was listed.
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(error),
        }
        let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
        {
            sum += tree(child)?;
        }
    }
    Ok(sum)
}

fn gone(error: &io::Error) -> bool {
    // ESRCH, when the thread ends between opening the file and reading it.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3)
}

fn schedstat(thread: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(thread.join("schedstat"))?;
    text.split_whitespace()
        .next()
        .and_then(|first| first.parse().ok())
        .ok_or_else(|| io::Error::other(format!("expected three numbers, found {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_time() {
        let before = time(std::process::id()).unwrap();
        let mut x = 1u64;
        // Two scheduler ticks at least; the figure itself does not matter.
        for i in 0..80_000_000u64 {
            x = std::hint::black_box(x.wrapping_mul(i | 1));
        }
        assert!(x != 7 && time(std::process::id()).unwrap() > before);
    }
}
