//! `lb flows`.

use std::{fs, thread};

use lb_common::Counter;

use super::*;
use crate::{
    api::{Access, Audit},
    l4::{Tape, recorded},
    model::AccessSpec,
};

/// An lb whose packet path records what tests want it to.
struct Followed {
    lb: Lb,
    tape: Tape,
    /// Where the packet path runs.
    _runtime: Runtime,
}

impl Followed {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let access = Access::new(AccessSpec::default().into(), Audit::to_log());
        let (world, tape) = runtime.block_on(async { World::followed(access) });
        Self {
            lb: Lb::serving(world),
            tape,
            _runtime: runtime,
        }
    }

    /// Runs a command while packets are dropped.
    fn run(&self, args: &str) -> Done {
        thread::scope(|scope| {
            let running = scope.spawn(|| self.lb.run(args));
            while !running.is_finished() {
                if self.tape.until() != 0 {
                    self.tape.record(recorded(Counter::DropNoInstance, 0xff));
                }
                thread::sleep(Duration::from_millis(1));
            }
            running.join().unwrap()
        })
    }
}

#[test]
fn packets_are_followed_until_there_are_enough() {
    let followed = Followed::new();
    let lines = followed.run("flows --verdict dropped --count 2").ok();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    for line in lines.lines() {
        let told = "udp  198.51.100.7:40000 → 192.0.2.1:53  dropped: no_instance  60 bytes";
        assert!(line.ends_with(told), "{line}");
    }
    let lines = followed.run("--json flows --bytes --count 3").ok();
    let events: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2]["bytes"], "BwcHBw==");
    // It is over in time, whether anything has come or not.
    let lines = followed.run("flows --reason ttl_expired --seconds 1").ok();
    assert!(lines.lines().all(|line| line.contains("no_instance")));
}

#[test]
fn a_capture_is_written_once_lb_agrees() {
    let followed = Followed::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flows.pcapng");
    fs::write(&file, "precious").unwrap();
    let name = file.display();
    let refused = followed
        .lb
        .run(&format!("flows --reason nonsense --write {name}"));
    assert!(refused.failed(FAILED).contains("no_instance"));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let done = followed.run(&format!("flows --count 2 --write {name}"));
    assert_eq!(done.ok(), "");
    let bytes = fs::read(&file).unwrap();
    assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    let comment = "dropped: no_instance; came as 198.51.100.7:40000 → 192.0.2.1:53".as_bytes();
    let count = bytes.windows(comment.len()).filter(|part| *part == comment);
    assert_eq!(count.count(), 2);
    let nowhere = followed.run(&format!("flows --count 1 --write {name}/there"));
    assert!(nowhere.failed(FAILED).contains("cannot write"));
}

#[test]
fn what_ends_before_it_was_to_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flows.pcapng");
    let to_file = format!("flows --seconds 30 --write {}", file.display());
    for (args, until) in [
        ("flows --seconds 30", "for 30 s"),
        (&to_file, "for 30 s"),
        ("flows --count 100000000", "until there are 100000000"),
        ("flows", "for as long as it runs"),
    ] {
        let followed = Followed::new();
        let done = thread::scope(|scope| {
            scope.spawn(|| {
                while followed.tape.until() == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                followed.lb.world.state.stop();
            });
            followed.run(args)
        });
        assert_eq!(done.code, FAILED, "{args}: {}", done.errors);
        let expected = format!("{until}, found that they have ended after 0.");
        assert!(done.errors.contains(&expected), "{args}: {}", done.errors);
        assert!(
            done.errors.ends_with(": lb stops\n"),
            "{args}: {}",
            done.errors
        );
    }
    assert!(fs::read(&file).unwrap().len() >= 28);
}

#[test]
fn a_capture_says_what_is_lost() {
    let followed = Followed::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flows.pcapng");
    let args = format!("flows --count 30000 --write {}", file.display());
    let done = thread::scope(|scope| {
        let running = scope.spawn(|| followed.lb.run(&args));
        while !running.is_finished() {
            // Many at once: the reader cannot be as fast as that.
            for _ in 0..20_000 {
                if followed.tape.until() != 0 && followed.tape.unread() < 40_000 {
                    followed
                        .tape
                        .record(recorded(Counter::DropNoInstance, 0xff));
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        running.join().unwrap()
    });
    assert_eq!((done.code, done.out.as_str()), (OK, ""), "{}", done.errors);
    let (said, sum) = done.errors.trim_end().rsplit_once('\n').unwrap();
    let lost: u64 = said
        .lines()
        .map(|line| {
            let count = line.strip_prefix("lb: ").unwrap();
            let count = count.strip_suffix(" events are lost").unwrap();
            count.parse::<u64>().unwrap()
        })
        .sum();
    let expected = format!("lb: events in all: 30000 have come, {lost} are lost");
    assert_eq!(sum, expected);
    // The last block of its kind has the sum: type 5, with the option 5 of eight bytes.
    let bytes = fs::read(&file).unwrap();
    let option: Vec<u8> = [5_u16.to_ne_bytes(), 8_u16.to_ne_bytes()].concat();
    let option = [option, lost.to_ne_bytes().to_vec()].concat();
    assert!(bytes.windows(option.len()).any(|part| part == option));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let lb = Lb::new();
    for args in [
        "flows --sample 0",
        "flows --count 0",
        "flows --seconds 90000",
    ] {
        lb.run(args).failed(USAGE);
    }
    let absent = lb.run("flows").failed(FAILED);
    assert!(absent.contains("expected a packet path"), "{absent}");
}
