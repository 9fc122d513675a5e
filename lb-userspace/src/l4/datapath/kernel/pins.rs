//! What is pinned where.
//!
//! ```text
//! <pin path>/links/native-3-eth0    the link of eth0, the interface with index 3
//! <pin path>/maps-5-1/VIPS …        the first set of maps of ABI 5
//! <pin path>/maps-5-1/LAYOUT        what they look like, see `former.rs`
//! <pin path>/maps-5-1/TABLES-5      the table at index 5 of TABLES, see `tables.rs`
//! <pin path>/maps-5-1/STAGES-77     the stages of the program with the id 77
//! <pin path>/maps-5-1/COOKIE_KEYS   the keys of SYN cookies, see `maps.rs`
//! <pin path>/maps-5-1/OPENINGS      connections that have hardly begun, see `load.rs`
//! <pin path>/maps-5-1/CLIENTS       clients that stay, see `affinity.rs`
//! <pin path>/maps-5-2/FORMER-1      the connections of the set before, until all of them are taken over
//! <pin path>/rehearsal/…            for moments only, see `rehearsal.rs`
//! ```
//!
//! The index is in the name because it is never given to another interface of the same network
//! namespace, the interface's name because an index means nothing in another one, and the mode
//! because the kernel does not tell a link's. There is more than one set of maps only while a
//! daemon moves from one to the next, or after one that died doing so.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use lb_common::names;
use rustix::fs::{FlockOperation, flock};

use super::syscall;
use crate::l4::{AttachMode, L4Error};

/// The place where things are pinned.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PinnedLink {
    /// Index of the interface.
    pub(crate) index: u32,
    /// Its name when the link was made.
    pub(crate) interface: String,
    /// How it was attached.
    pub(crate) mode: AttachMode,
    /// Where it is pinned.
    pub(crate) path: PathBuf,
}

/// A pinned set of maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MapSet {
    /// [`lb_common::ABI`] of the daemon that made it.
    pub(crate) abi: u32,
    /// Counts sets of the same ABI.
    pub(crate) number: u32,
    /// The folder.
    pub(crate) path: PathBuf,
}

impl Pins {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    fn links_folder(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Where the link of an interface belongs.
    pub(crate) fn link(&self, index: u32, interface: &str, mode: AttachMode) -> PinnedLink {
        // The BPF file system allows no dots.
        let name = interface.replace('%', "%25").replace('.', "%2E");
        PinnedLink {
            index,
            interface: interface.to_owned(),
            mode,
            path: self.links_folder().join(format!("{mode}-{index}-{name}")),
        }
    }

    /// The links that are there.
    pub(crate) fn links(&self) -> Result<Vec<PinnedLink>, L4Error> {
        let names = names_in(&self.links_folder())?;
        Ok(names
            .iter()
            .filter_map(|name| {
                let (mode, index, interface) = parse_link(name)?;
                Some(self.link(index, &interface, mode))
            })
            .collect())
    }

    /// The sets of maps that are there, the latest last.
    pub(crate) fn map_sets(&self) -> Result<Vec<MapSet>, L4Error> {
        let mut sets: Vec<MapSet> = names_in(&self.root)?
            .iter()
            .filter_map(|name| {
                let (abi, number) = parse_set(name)?;
                Some(self.map_set(abi, number))
            })
            .collect();
        sets.sort_unstable();
        Ok(sets)
    }

    fn map_set(&self, abi: u32, number: u32) -> MapSet {
        MapSet {
            abi,
            number,
            path: self.root.join(format!("maps-{abi}-{number}")),
        }
    }

    /// The set that a new one beside `sets` would be.
    pub(crate) fn next_set(&self, abi: u32, sets: &[MapSet]) -> MapSet {
        let taken = sets.iter().filter(|set| set.abi == abi);
        let number = taken.map(|set| set.number).max().unwrap_or(0) + 1;
        self.map_set(abi, number)
    }

    /// Where maps are pinned for the moment in which a second load of the program takes them over.
    fn rehearsal(&self) -> PathBuf {
        self.root.join("rehearsal")
    }

    /// Makes that folder, empty.
    pub(crate) fn make_rehearsal(&self) -> Result<PathBuf, L4Error> {
        self.remove_rehearsal()?;
        let folder = self.rehearsal();
        fs::create_dir_all(&folder).map_err(|error| failure("make", &folder, &error))?;
        Ok(folder)
    }

    /// Removes that folder, and what a daemon that died has left in it.
    pub(crate) fn remove_rehearsal(&self) -> Result<(), L4Error> {
        remove_folder(&self.rehearsal())
    }

    /// Makes the folders of links and of `set`.
    pub(crate) fn make(&self, set: &MapSet) -> Result<(), L4Error> {
        for folder in [&self.links_folder(), &set.path] {
            fs::create_dir_all(folder).map_err(|error| failure("make", folder, &error))?;
        }
        Ok(())
    }

    /// Takes the place for one daemon, for as long as the file is open: two that wrote the same maps
    /// would undo each other's work.
    pub(crate) fn lock(&self) -> Result<File, L4Error> {
        let folder = File::open(&self.root).map_err(|e| failure("open", &self.root, &e))?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(L4Error::Busy {
                path: self.root.clone(),
            }),
            Err(error) => Err(failure("lock", &self.root, &error.into())),
        }
    }

    /// Removes everything and the folder itself: links first, so that no packet is worked on by a
    /// program whose maps are being taken apart.
    pub(crate) fn remove_all(&self) -> Result<(), L4Error> {
        for link in self.links()? {
            link.remove()?;
        }
        remove_folder(&self.links_folder())?;
        self.remove_rehearsal()?;
        for set in self.map_sets()? {
            set.remove()?;
        }
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failure("remove", &self.root, &error))
            }
            _ => Ok(()),
        }
    }
}

impl PinnedLink {
    /// Takes the program off the interface and removes the pin.
    pub(crate) fn remove(&self) -> Result<(), L4Error> {
        // What cannot be detached (its interface is gone, or it is no link at all) goes with its
        // pin.
        if let Err(error) = syscall::detach_link(&self.path) {
            let path = self.path.display();
            tracing::debug!(%path, %error, "the link was not attached any more");
        }
        remove_file(&self.path)
    }
}

impl MapSet {
    /// The ids of programs that work, or have worked, on the set: those whose stages are pinned.
    pub(crate) fn programs(&self) -> Result<Vec<u32>, L4Error> {
        let names = names_in(&self.path)?;
        Ok(names.iter().filter_map(|name| parse_stages(name)).collect())
    }

    /// What the table at `index` is pinned as.
    pub(crate) fn table_pin(index: u32) -> String {
        format!("{}-{index}", names::MAP_TABLES)
    }

    /// What a map of the set that this one follows is pinned as, until all of that is taken over.
    pub(crate) fn former_pin(number: u32) -> String {
        format!("{}-{number}", names::MAP_FORMER)
    }

    /// The number of the set that this one follows, while something may be left to take over.
    pub(crate) fn follows(&self) -> Result<Option<u32>, L4Error> {
        let names = names_in(&self.path)?;
        let number = |name: &String| number_of(name, names::MAP_FORMER);
        Ok(names.iter().filter_map(number).max())
    }

    /// Forgets what set this one follows.
    pub(crate) fn follow_nobody(&self) -> Result<(), L4Error> {
        for name in names_in(&self.path)? {
            if number_of(&name, names::MAP_FORMER).is_some() {
                remove_file(&self.path.join(&name))?;
            }
        }
        Ok(())
    }

    /// The indices of the tables that are pinned in `folder`.
    pub(crate) fn tables_in(folder: &Path) -> Result<Vec<u32>, L4Error> {
        let names = names_in(folder)?;
        let index = |name: &String| number_of(name, names::MAP_TABLES);
        Ok(names.iter().filter_map(index).collect())
    }

    /// Removes the pinned stages of a program.
    pub(crate) fn remove_stages(&self, pin: &str) -> Result<(), L4Error> {
        remove_file(&self.path.join(pin))
    }

    /// Removes the pinned stages of all programs but the one whose pin is named so.
    pub(crate) fn remove_stages_but(&self, keep: &str) -> Result<(), L4Error> {
        for name in names_in(&self.path)? {
            if parse_stages(&name).is_some() && name != keep {
                remove_file(&self.path.join(&name))?;
            }
        }
        Ok(())
    }

    /// Removes the pins of the set.
    pub(crate) fn remove(&self) -> Result<(), L4Error> {
        remove_folder(&self.path)
    }
}

fn parse_link(name: &str) -> Option<(AttachMode, u32, String)> {
    let (mode, rest) = name.split_once('-')?;
    let (index, interface) = rest.split_once('-')?;
    let mode = AttachMode::ALL
        .into_iter()
        .find(|known| known.as_str() == mode)?;
    let interface = interface.replace("%2E", ".").replace("%25", "%");
    Some((mode, index.parse().ok()?, interface))
}

/// The id of the program whose stages are pinned by this name.
fn parse_stages(name: &str) -> Option<u32> {
    number_of(name, names::MAP_STAGES)
}

/// The number after the name of a map.
fn number_of(pin: &str, map: &str) -> Option<u32> {
    pin.strip_prefix(map)?.strip_prefix('-')?.parse().ok()
}

fn parse_set(name: &str) -> Option<(u32, u32)> {
    let (abi, number) = name.strip_prefix("maps-")?.split_once('-')?;
    Some((abi.parse().ok()?, number.parse().ok()?))
}

fn failure(what: &'static str, path: &Path, error: &io::Error) -> L4Error {
    L4Error::Pin {
        what,
        path: path.to_owned(),
        why: error.to_string(),
    }
}

/// The names in a folder; none when it is not there.
fn names_in(folder: &Path) -> Result<Vec<String>, L4Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failure("list", folder, &error)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names
        .collect::<io::Result<_>>()
        .map_err(|error| failure("list", folder, &error))
}

fn remove_folder(folder: &Path) -> Result<(), L4Error> {
    for name in names_in(folder)? {
        remove_file(&folder.join(name))?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failure("remove", folder, &error))
        }
        _ => Ok(()),
    }
}

pub(super) fn remove_file(path: &Path) -> Result<(), L4Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failure("remove", path, &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_it_has_made_and_nothing_else() {
        // The layout needs no BPF file system; plain files stand for pins.
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(&folder.path().join("lb"));
        assert!(pins.links().unwrap().is_empty() && pins.map_sets().unwrap().is_empty());
        let first = pins.next_set(1, &[]);
        pins.make(&first).unwrap();
        let lock = pins.lock().unwrap();
        assert!(matches!(pins.lock(), Err(L4Error::Busy { .. })));
        drop(lock);
        pins.lock().unwrap();
        let second = pins.next_set(1, &pins.map_sets().unwrap());
        assert_eq!((first.number, second.number), (1, 2));
        pins.make(&second).unwrap();
        pins.make(&pins.next_set(2, &pins.map_sets().unwrap()))
            .unwrap();
        let link = pins.link(3, "eth-0.100%2E", AttachMode::Generic);
        assert!(
            !link
                .path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .contains('.')
        );
        fs::write(&link.path, "").unwrap();
        fs::write(pins.links_folder().join("stranger"), "").unwrap();
        for name in ["VIPS", "STAGES-7", "TABLES-3", "TABLES", "STAGES-8"] {
            fs::write(first.path.join(name), "").unwrap();
        }
        assert!(second.programs().unwrap().is_empty());
        let mut programs = first.programs().unwrap();
        programs.sort_unstable();
        assert_eq!(programs, [7, 8]);
        assert_eq!(MapSet::tables_in(&first.path).unwrap(), [3]);

        assert_eq!(second.follows().unwrap(), None);
        fs::write(second.path.join(MapSet::former_pin(1)), "").unwrap();
        assert_eq!(second.follows().unwrap(), Some(1));
        second.follow_nobody().unwrap();
        assert_eq!(second.follows().unwrap(), None);

        first.remove_stages_but("STAGES-8").unwrap();
        let mut left = names_in(&first.path).unwrap();
        left.sort_unstable();
        assert_eq!(left, ["STAGES-8", "TABLES", "TABLES-3", "VIPS"]);
        assert_eq!(pins.links().unwrap(), [link]);
        let sets = pins.map_sets().unwrap();
        assert_eq!(
            sets.iter().map(|s| (s.abi, s.number)).collect::<Vec<_>>(),
            [(1, 1), (1, 2), (2, 1)]
        );
        pins.remove_all().unwrap();
        assert!(!folder.path().join("lb").exists());
        pins.remove_all().unwrap();
    }
}
