//! The ring of flow events, and what the program is told of who follows. The maps are one program's
//! alone, so a program that an earlier daemon has left cannot be recording for nobody once this one's is
//! in its place.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Ebpf,
    maps::{Array, MapData, RingBuf},
};
use lb_common::{FlowEvent, Follower, Followers, names};

use super::{
    maps::{shape, take_own},
    written,
};
use crate::l4::{
    L4Error,
    datapath::{DatapathError, Recorder},
};

/// Bytes of a ring that nobody reads, of a second load or of other programs of the object: as few as
/// the kernel allows.
pub(super) const UNREAD: u32 = 4096;

/// The maps.
pub(crate) struct RecorderMaps {
    events: RingBuf<MapData>,
    followers: Array<MapData, Followers>,
    /// What is in that map.
    told: Followers,
    until: Array<MapData, u64>,
}

impl fmt::Debug for RecorderMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecorderMaps").finish_non_exhaustive()
    }
}

impl RecorderMaps {
    /// Takes the maps out of a loaded program.
    pub(super) fn take(program: &mut Ebpf) -> Result<Self, L4Error> {
        let followers = shape::<u32, Followers>(1);
        Ok(Self {
            events: take_own(program, names::MAP_FLOW_EVENTS, shape::<(), ()>(0))?,
            followers: take_own(program, names::MAP_FOLLOWERS, followers)?,
            told: Followers::default(),
            until: take_own(program, names::MAP_FOLLOWED, shape::<u32, u64>(1))?,
        })
    }
}

impl AsFd for RecorderMaps {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Recorder for RecorderMaps {
    fn set_follower(&mut self, place: usize, follower: &Follower) -> Result<(), DatapathError> {
        let Some(told) = self.told.places.get_mut(place) else {
            return Ok(());
        };
        *told = *follower;
        let result = self.followers.set(0, self.told, 0);
        result.map_err(written(|| format!("what follower {place} wants to see")))
    }

    fn set_until(&mut self, until: u64) -> Result<(), DatapathError> {
        let result = self.until.set(0, until, 0);
        result.map_err(written(|| "until when packets are followed".to_owned()))
    }

    fn read(&mut self, most: usize, each: &mut dyn FnMut(FlowEvent)) -> bool {
        for _ in 0..most {
            let Some(entry) = self.events.next() else {
                return false;
            };
            if let Some(event) = FlowEvent::read(&entry) {
                each(event);
            }
        }
        true
    }
}
