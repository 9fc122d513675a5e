//! Nobody is overtaken, nobody is forgotten, and nothing stays behind.

use std::{sync::atomic::AtomicBool, task::Wake, thread};

use proptest::prelude::*;

use super::*;

/// A waker that remembers whether it was woken.
#[derive(Debug, Default)]
struct Bell {
    rung: AtomicBool,
    thread: std::sync::OnceLock<thread::Thread>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

fn spec(size: u32) -> QueueSpec {
    QueueSpec {
        size,
        timeout: Duration::from_secs(10),
        target: Duration::from_secs(5),
        interval: Duration::from_secs(1),
        priority_header: None,
    }
}

const LATE: Timestamp = Timestamp(u64::MAX);

fn priority(number: u8) -> Priority {
    Priority::new(number).unwrap()
}

/// Somebody in line, and whether they were woken.
struct One {
    waiter: Waiter,
    bell: Arc<Bell>,
}

impl One {
    fn new(
        queue: &Arc<Queue>,
        spec: &QueueSpec,
        number: u8,
        clock: &Clock,
    ) -> Result<Self, Reason> {
        let waiter = queue.join(spec, priority(number), LATE, clock)?;
        let bell = Arc::default();
        let mut one = Self { waiter, bell };
        assert_eq!(one.poll(), None);
        Ok(one)
    }

    fn poll(&mut self) -> Option<Result<(), Reason>> {
        let waker = Waker::from(Arc::clone(&self.bell));
        match self.waiter.poll_call(&Context::from_waker(&waker)) {
            Poll::Ready(verdict) => Some(verdict),
            Poll::Pending => None,
        }
    }

    fn is_woken(&self) -> bool {
        self.bell.rung.load(Ordering::SeqCst)
    }
}

#[test]
fn the_most_urgent_and_then_the_first_come_first() {
    let (queue, clock) = (Arc::new(Queue::default()), Clock::manual(Timestamp(1)));
    let spec = spec(100);
    let numbers = [3, 7, 3, 0, 5, 0];
    let mut all: Vec<_> = numbers
        .iter()
        .map(|number| One::new(&queue, &spec, *number, &clock).unwrap())
        .collect();
    assert_eq!(queue.waiting(), 6);
    let mut order = Vec::new();
    for _ in 0..6 {
        queue.released(&clock);
        let next = all.iter().position(One::is_woken).unwrap();
        let mut one = all.remove(next);
        order.push(one.waiter.ticket - 1);
        assert_eq!(one.poll(), Some(Ok(())));
        one.waiter.admitted();
        assert!(!all.iter().any(One::is_woken));
    }
    assert_eq!(order, [3, 5, 0, 2, 4, 1]);
    assert_eq!(queue.waiting(), 0);
}

#[test]
fn the_urgent_cannot_starve_the_others() {
    let (queue, clock) = (Arc::new(Queue::default()), Clock::manual(Timestamp(1)));
    let spec = spec(100);
    let mut last = One::new(&queue, &spec, 7, &clock).unwrap();
    let mut served = 0;
    while !last.is_woken() {
        let mut urgent = One::new(&queue, &spec, 0, &clock).unwrap();
        queue.released(&clock);
        if urgent.poll().is_some() {
            urgent.waiter.admitted();
            served += 1;
        }
        assert!(served < 3 * FAIR, "starved");
    }
    assert_eq!(last.poll(), Some(Ok(())));
}

#[test]
fn a_full_queue_takes_only_who_is_more_urgent_than_somebody() {
    let (queue, clock) = (Arc::new(Queue::default()), Clock::manual(Timestamp(1)));
    let spec = spec(2);
    let mut first = One::new(&queue, &spec, 3, &clock).unwrap();
    let mut second = One::new(&queue, &spec, 3, &clock).unwrap();
    let join = |number| One::new(&queue, &spec, number, &clock);
    assert_eq!(join(3).err(), Some(Reason::QueueFull));
    assert_eq!(join(4).err(), Some(Reason::QueueFull));
    let urgent = join(2).unwrap();
    assert_eq!(second.poll(), Some(Err(Reason::QueueFull)));
    assert_eq!(queue.waiting(), 2);
    assert_eq!(first.poll(), None);
    drop((first, urgent, second));
    assert_eq!(queue.waiting(), 0);
}

impl std::fmt::Debug for One {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.waiter.fmt(f)
    }
}

#[test]
fn a_place_that_came_free_while_nobody_was_in_line_is_not_lost() {
    let (queue, clock) = (Arc::new(Queue::default()), Clock::manual(Timestamp(1)));
    let mut waiter = queue.join(&spec(9), priority(3), LATE, &clock).unwrap();
    assert!(waiter.is_first());
    // It looks, finds nothing, and before it is in line:
    queue.released(&clock);
    let context = Context::from_waker(Waker::noop());
    assert_eq!(waiter.poll_call(&context), Poll::Ready(Ok(())));
    // Now it is just looking again, and leaves instead: whoever comes next is called for it.
    let mut next = queue.join(&spec(9), priority(3), LATE, &clock).unwrap();
    assert_eq!(next.poll_call(&context), Poll::Pending);
    drop(waiter);
    assert_eq!(next.poll_call(&context), Poll::Ready(Ok(())));
    next.admitted();
    assert_eq!(queue.waiting(), 0);
}

#[test]
fn who_waited_beyond_the_deadline_gets_no_place() {
    let (queue, clock) = (Arc::new(Queue::default()), Clock::manual(Timestamp(1)));
    let mut late = One::new(&queue, &spec(9), 0, &clock).unwrap();
    clock.advance(Duration::from_secs(9));
    let mut young = One::new(&queue, &spec(9), 3, &clock).unwrap();
    clock.advance(Duration::from_secs(1));
    queue.released(&clock);
    assert_eq!(late.poll(), Some(Err(Reason::QueueTimeout)));
    assert_eq!(young.poll(), Some(Ok(())));
    assert_eq!(queue.waiting(), 1);
}

#[test]
fn a_queue_that_stands_lets_the_old_give_way_and_one_that_does_not_lets_nobody() {
    for standing in [true, false] {
        let (queue, clock) = (Arc::new(Queue::default()), Clock::manual(Timestamp(1)));
        let spec = QueueSpec {
            target: Duration::from_millis(20),
            interval: Duration::from_millis(100),
            ..spec(1000)
        };
        let mut all = std::collections::VecDeque::new();
        let (mut shed, mut served, mut longest) = (0, 0, Duration::ZERO);
        // Two come and one place comes free each millisecond; or one and one.
        for at in 0..1000 {
            clock.advance(Duration::from_millis(1));
            for _ in 0..if standing { 2 } else { 1 } {
                all.push_back(One::new(&queue, &spec, 3, &clock).unwrap());
            }
            if at < 30 {
                continue;
            }
            queue.released(&clock);
            while let Some(mut one) = all.pop_front() {
                match one.poll() {
                    None => {
                        all.push_front(one);
                        break;
                    }
                    Some(Ok(())) => {
                        served += 1;
                        if at > 400 {
                            longest = longest.max(clock.now() - one.waiter.since);
                        }
                        one.waiter.admitted();
                    }
                    Some(Err(reason)) => {
                        assert_eq!(reason, Reason::QueueShed);
                        shed += 1;
                    }
                }
            }
            if !standing && at % 90 == 0 {
                // Now and then it is empty.
                while let Some(mut one) = all.pop_front() {
                    queue.released(&clock);
                    assert_eq!(one.poll(), Some(Ok(())));
                    one.waiter.admitted();
                }
            }
        }
        assert!(served >= 960 - usize::from(!standing) * 100, "{served}");
        if standing {
            assert!(shed > 900, "{shed}");
            assert!(longest <= Duration::from_millis(41), "{longest:?}");
        } else {
            assert_eq!(shed, 0);
        }
    }
}

#[test]
fn threads_that_wait_for_each_other_all_get_through() {
    const PLACES: u32 = 2;
    let queue = Arc::new(Queue::default());
    let taken = Arc::new(AtomicU32::new(0));
    let clock = Clock::real();
    thread::scope(|scope| {
        for _ in 0..6 {
            let (queue, taken, clock) = (Arc::clone(&queue), Arc::clone(&taken), clock.clone());
            scope.spawn(move || {
                for _ in 0..3000 {
                    enter(&queue, &taken, &clock, PLACES);
                    assert!(taken.load(Ordering::SeqCst) <= PLACES);
                    taken.fetch_sub(1, Ordering::Relaxed);
                    queue.released(&clock);
                }
            });
        }
    });
    assert_eq!((queue.waiting(), taken.load(Ordering::SeqCst)), (0, 0));
}

/// Takes a place as a worker does, with this thread as the task. Sleeping for ever would fail the
/// test by its time.
fn enter(queue: &Arc<Queue>, taken: &AtomicU32, clock: &Clock, places: u32) {
    let claim = || crate::model::claim(taken, places);
    if queue.waiting() == 0 && claim() {
        return;
    }
    let spec = QueueSpec {
        timeout: Duration::from_secs(3600),
        target: Duration::from_secs(3600),
        ..spec(100)
    };
    let mut waiter = queue.join(&spec, priority(3), LATE, clock).unwrap();
    if waiter.is_first() && claim() {
        return waiter.admitted();
    }
    let bell = Arc::new(Bell::default());
    bell.thread.set(thread::current()).unwrap();
    let waker = Waker::from(Arc::clone(&bell));
    let context = Context::from_waker(&waker);
    loop {
        match waiter.poll_call(&context) {
            Poll::Ready(verdict) => {
                assert_eq!(verdict, Ok(()));
                if claim() {
                    return waiter.admitted();
                }
            }
            Poll::Pending => {
                while !bell.rung.swap(false, Ordering::SeqCst) {
                    thread::park_timeout(Duration::from_secs(20));
                    assert!(bell.rung.load(Ordering::SeqCst), "a wake-up was lost");
                }
            }
        }
    }
}

proptest! {
    /// Whatever waiters do, in whatever order: a free place never stays free while somebody is in
    /// line, nobody is called without a place, and at the end nobody is left.
    #[test]
    fn places_and_waiters_find_each_other(
        steps in prop::collection::vec((0_u8..5, 0_u8..8, any::<prop::sample::Index>()), 1..200),
    ) {
        let (queue, clock) = (Arc::new(Queue::default()), Clock::manual(Timestamp(1)));
        let spec = spec(8);
        let mut free: u32 = 0;
        let mut all: Vec<One> = Vec::new();
        for (step, number, index) in steps {
            match step {
                0 | 1 => all.extend(One::new(&queue, &spec, number, &clock).ok()),
                2 => {
                    if queue.waiting() > 0 {
                        free += 1;
                    }
                    queue.released(&clock);
                }
                3 if !all.is_empty() => drop(all.swap_remove(index.index(all.len()))),
                _ => clock.advance(Duration::from_millis(1)),
            }
            // Those who were woken look.
            let mut at = 0;
            while at < all.len() {
                if !all[at].is_woken() {
                    at += 1;
                    continue;
                }
                match all[at].poll() {
                    Some(Ok(())) => {
                        prop_assert!(free > 0, "called for nothing");
                        free -= 1;
                        all.swap_remove(at).waiter.admitted();
                    }
                    Some(Err(reason)) => {
                        prop_assert_eq!(reason, Reason::QueueFull);
                        all.swap_remove(at);
                    }
                    None => {
                        all[at].bell.rung.store(false, Ordering::SeqCst);
                        at += 1;
                    }
                }
                // Somebody who looked may have called another one.
                at = at.min(all.len());
            }
            prop_assert!(all.len() <= 8);
            prop_assert_eq!(queue.waiting() as usize, all.len());
            if !all.is_empty() {
                prop_assert!(free == 0, "{} free and {} in line", free, all.len());
            }
            free = 0;
        }
        all.clear();
        let lines = queue.lock();
        prop_assert_eq!((lines.waiting, lines.in_line, lines.tokens), (0, 0, 0));
        prop_assert!(lines.called.is_empty() && lines.lanes.iter().all(BTreeMap::is_empty));
    }
}
