//! `lb events` and `lb log`.

use std::{
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Instant,
};

use super::*;
use crate::model::AdminState;

/// What a command that goes on has written so far.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn wait_for(&self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.text().contains(text) {
            assert!(Instant::now() < end, "no {text} in {}", self.text());
            thread::sleep(Duration::from_millis(5));
        }
        self.text()
    }
}

fn follow(lb: &Lb, args: &str) -> (Page, JoinHandle<(u8, String)>) {
    let line = format!("lb --api http://{} {args}", lb.address);
    let page = Page::default();
    let mut out = page.clone();
    let following = thread::spawn(move || {
        let mut errors = Vec::new();
        let code = run(line.split_whitespace(), NO_DAEMON, &mut out, &mut errors);
        (code, String::from_utf8(errors).unwrap())
    });
    (page, following)
}

#[test]
fn events_are_followed_until_lb_ends() {
    let lb = Lb::new();
    let after = lb.world.registry.feed().newest();
    let set = |state| lb.world.set_admin("main-backend", B, state);
    set(AdminState::Draining);
    let (people, first) = follow(&lb, &format!("events --after {after}"));
    let (machine, second) = follow(
        &lb,
        &format!("--json events --service main-backend --type admin_changed --after {after}"),
    );
    let line = people.wait_for("\n");
    assert!(
        line.contains("admin_changed") && line.contains("is now draining"),
        "{line}"
    );
    set(AdminState::Enabled);
    people.wait_for("is now enabled");
    let lines = machine.wait_for("enabled");
    let events: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events[0]["sequence"], after + 1);
    assert_eq!(events[0]["data"]["admin"], "draining");
    lb.world.state.stop();
    for following in [first, second] {
        let (code, errors) = following.join().unwrap();
        assert_eq!(code, FAILED);
        assert!(errors.contains("it has ended"), "{errors}");
    }
    let refused = lb.run("events").failed(FAILED);
    assert!(refused.contains("shutting down"), "{refused}");
}

#[test]
fn events_of_a_type_that_is_not_known_are_refused() {
    let refused = Lb::new().run("events --type helth").failed(FAILED);
    assert!(refused.contains("health_changed"), "{refused}");
}

#[test]
fn the_log_is_made_louder_and_quieter() {
    let lb = Lb::new();
    assert_eq!(lb.run("log level").ok(), "info, as configured\n");
    let text = lb.run("log level info,lb_userspace::l4=debug").ok();
    let expected = "info,lb_userspace::l4=debug, until lb restarts; configured is info\n";
    assert_eq!(text, expected);
    assert_eq!(lb.json("log level")["level"], "info,lb_userspace::l4=debug");
    for (level, known) in [
        ("debg", "did you mean \"debug\"?"),
        ("info,x=loud", "expected"),
    ] {
        let refused = lb.run(&format!("log level {level}")).failed(FAILED);
        assert!(refused.contains(known), "{refused}");
    }
    assert_eq!(lb.run("log reset").ok(), "info, as configured\n");
    lb.run("log level trace").ok();
    let text = lb.run("reset").ok();
    assert!(text.contains("log level is info again"), "{text}");
    assert_eq!(lb.run("log level").ok(), "info, as configured\n");
}
