//! A ring without a kernel.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard},
};

use lb_common::{Counter, EVENT_BYTES, FlowEvent, FlowKey, Follower, MAX_FOLLOWERS, from_v4};

use crate::l4::{DatapathError, datapath::Recorder, host};

/// What is on both sides of the ring.
#[derive(Debug, Default)]
struct Shared {
    events: VecDeque<FlowEvent>,
    followers: [Follower; MAX_FOLLOWERS as usize],
    until: u64,
    is_broken: bool,
}

/// The program's side of a ring.
#[derive(Clone, Debug)]
pub(crate) struct Tape {
    shared: Arc<Mutex<Shared>>,
    bell: Arc<UnixStream>,
}

/// The daemon's side.
#[derive(Debug)]
struct Reader {
    shared: Arc<Mutex<Shared>>,
    bell: UnixStream,
}

/// Both sides of a ring.
pub(crate) fn ring() -> (Tape, Box<dyn Recorder>) {
    let (rings, hears) = UnixStream::pair().unwrap();
    for end in [&rings, &hears] {
        end.set_nonblocking(true).unwrap();
    }
    let shared = Arc::<Mutex<Shared>>::default();
    let reader = Reader {
        shared: Arc::clone(&shared),
        bell: hears,
    };
    let bell = Arc::new(rings);
    (Tape { shared, bell }, Box::new(reader))
}

/// An event of now that the followers in these places want.
pub(crate) fn event(counter: Counter, followers: u32) -> FlowEvent {
    FlowEvent {
        time: host::monotonic_ns(),
        key: FlowKey {
            source: from_v4([198, 51, 100, 7]),
            destination: from_v4([192, 0, 2, 1]),
            source_port: 40_000_u16.to_be_bytes(),
            destination_port: [0, 53],
            protocol: 17,
            ..FlowKey::default()
        },
        counter: counter as u32,
        followers,
        interface: 0,
        out: 0,
        length: 60,
        captured: 4,
        vip: 0,
        index: 0,
        generation: 0,
        flags: 0,
        bytes: [7; EVENT_BYTES],
    }
}

impl Tape {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// Records an event, as the program does while somebody follows.
    pub(crate) fn record(&self, event: FlowEvent) {
        self.shared().events.push_back(event);
        // A bell that nobody hears is not rung again and again, and nobody waits at it: the program does not.
        match (&*self.bell).write_all(&[1]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            rung => rung.unwrap(),
        }
    }

    /// The follower in a place.
    pub(crate) fn follower(&self, place: usize) -> Follower {
        self.shared().followers[place]
    }

    /// Until when packets are recorded.
    pub(crate) fn until(&self) -> u64 {
        self.shared().until
    }

    /// Events that nobody has read.
    pub(crate) fn unread(&self) -> usize {
        self.shared().events.len()
    }

    /// Makes every write fail.
    pub(crate) fn break_down(&self) {
        self.shared().is_broken = true;
    }
}

impl Reader {
    fn write(&self, change: impl FnOnce(&mut Shared)) -> Result<(), DatapathError> {
        let mut shared = self.shared.lock().unwrap();
        if shared.is_broken {
            return Err(DatapathError::Write {
                what: "what is followed".to_owned(),
                why: "broken".to_owned(),
            });
        }
        change(&mut shared);
        Ok(())
    }
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Recorder for Reader {
    fn set_follower(&mut self, place: usize, follower: &Follower) -> Result<(), DatapathError> {
        self.write(|shared| shared.followers[place] = *follower)
    }

    fn set_until(&mut self, until: u64) -> Result<(), DatapathError> {
        self.write(|shared| shared.until = until)
    }

    fn read(&mut self, most: usize, each: &mut dyn FnMut(FlowEvent)) -> bool {
        let mut bells = [0; 4096];
        while self.bell.read(&mut bells).is_ok_and(|count| count > 0) {}
        for _ in 0..most {
            let event = self.shared.lock().unwrap().events.pop_front();
            let Some(event) = event else { return false };
            each(event);
        }
        true
    }
}
