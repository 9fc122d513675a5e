//! How many processors there are.

use std::io;

use aya::util;

/// Processors that there may ever be. The value of a map with one for each processor has as many parts,
/// whoever is online.
pub(super) fn possible() -> io::Result<usize> {
    match util::nr_cpus() {
        Ok(count) => Ok(count.max(1)),
        Err((_, error)) => Err(error),
    }
}

/// Processors that packets can be met by as things are. A virtual machine may have room for hundreds, of
/// which it was given two.
pub(super) fn online() -> usize {
    let online = util::online_cpus().map_or(0, |list| list.len());
    if online > 0 {
        online
    } else {
        possible().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_online_is_possible() {
        let possible = possible().unwrap();
        assert!((1..=possible).contains(&online()));
        // Threads run somewhere.
        let usable = std::thread::available_parallelism().unwrap().get();
        assert!(online() >= usable.min(possible));
    }
}
