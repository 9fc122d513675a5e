//! The keeper over a real registry and real files.

use std::{fs, path::PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    config::{Pointer, document::keyed},
    model::{AdminState, Algorithm, Endpoint, GateState, InstanceSpec, ServiceName},
    resilience::Hold,
    runtime::{Order, load, load_to_run},
};

const FILE: &str = r#"
[gateway]
listen = []
[api]
token = "hush-hush"
[services.web]
instances = ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]
[[routes]]
path = "/*"
service = "web"
"#;

/// A daemon's configuration on the disk.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            folder: TempDir::new().unwrap(),
        };
        place.write(FILE);
        place
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state.json")
    }

    fn write(&self, text: &str) {
        let state = format!("[state]\nfile = {:?}\n{text}", self.state());
        fs::write(self.folder.path().join("lb.toml"), state).unwrap();
    }

    fn sources(&self) -> Sources {
        Sources {
            file: Some(self.folder.path().join("lb.toml")),
            ..Sources::default()
        }
    }

    fn load(&self) -> Result<Loaded, LoadError> {
        load(&self.sources())
    }

    /// A daemon that starts.
    fn start(&self) -> Keeper {
        let loaded = self.load().unwrap();
        let keeper = Keeper::new(self.sources(), loaded, Arc::new(Registry::new(1, [])));
        keeper.start(Timestamp(1)).unwrap();
        keeper
    }
}

fn now(keeper: &Keeper) -> Value {
    keeper.view().config.document.whole.clone()
}

fn try_put(keeper: &Keeper, edit: impl FnOnce(&mut Value)) -> Result<Changed, ChangeError> {
    keeper.change("somebody", "PUT /config", false, |now| {
        let mut target = now.whole.clone();
        edit(&mut target);
        Ok(target)
    })
}

fn put(keeper: &Keeper, edit: impl FnOnce(&mut Value)) -> Changed {
    try_put(keeper, edit).unwrap()
}

fn weigh(keeper: &Keeper, weight: u64) -> Changed {
    put(keeper, |whole| {
        whole["services"]["web"]["instances"]["http://127.0.0.1:8001"]["weight"] = weight.into();
    })
}

fn weights(keeper: &Keeper) -> Vec<u16> {
    let snapshot = keeper.registry.snapshot();
    let web = snapshot.service("web").unwrap();
    web.statuses.iter().map(|status| status.weight).collect()
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn origin(keeper: &Keeper, path: &str) -> String {
    let config = Arc::clone(&keeper.view().config);
    let found = config.settings.iter().find(|s| s.path.to_string() == path);
    found.unwrap().origin.to_string()
}

#[test]
fn what_was_answered_is_there_after_a_restart() {
    let place = Place::new();
    let keeper = place.start();
    let changed = weigh(&keeper, 7);
    assert!(changed.persisted);
    assert_eq!(
        changed.changes,
        ["weight of instance http://127.0.0.1:8001 of web is now 7"]
    );
    assert_eq!(changed.differences.len(), 1);
    assert_eq!(weights(&keeper), [7, 1]);
    put(&keeper, |whole| {
        whole["services"]["new"] =
            json!({"instances": {"http://127.0.0.1:9": {"endpoint": "http://127.0.0.1:9"}}});
    });
    let before = now(&keeper);
    drop(keeper);

    let keeper = place.start();
    assert_eq!(now(&keeper), before);
    assert_eq!(weights(&keeper), [7, 1]);
    assert!(keeper.registry.snapshot().service("new").is_some());
    let origin = origin(&keeper, "services.web.instances[0].weight");
    assert!(
        origin.starts_with("run time (revision 2, by somebody, at 20"),
        "{origin}"
    );
    // A start that finds what was there is no revision.
    let history = Arc::clone(&keeper.view().history);
    let causes: Vec<&str> = history.revisions().map(|one| &*one.cause).collect();
    assert_eq!(causes, ["PUT /config", "PUT /config", "start"]);
    // Only its owner may read what may have secrets.
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(place.state()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_refused_change_leaves_everything_as_it_was() {
    let place = Place::new();
    let keeper = place.start();
    weigh(&keeper, 7);
    let (before, state) = (now(&keeper), fs::read(place.state()).unwrap());
    let revision = keeper.registry.snapshot().revision;
    let refused = try_put(&keeper, |whole| {
        whole["services"]["web"]["instances"]["http://127.0.0.1:8001"]["weight"] = 70_000.into();
        whole["routes"]["*/*"]["service"] = "none".into();
    });
    let Err(ChangeError::Faults { faults, stamp }) = refused else {
        panic!("{refused:?}");
    };
    let paths: Vec<String> = faults.list().iter().map(|one| one.path.pointer()).collect();
    assert_eq!(
        paths,
        [
            "/routes/*~1*/service",
            "/services/web/instances/http:~1~1127.0.0.1:8001/weight"
        ]
    );
    let own = config::Origin::RunTime(stamp.unwrap());
    assert!(faults.list().iter().all(|fault| fault.origin == own));
    // And one that cannot be kept.
    fs::create_dir(place.folder.path().join("state.json.new")).unwrap();
    let refused = try_put(&keeper, |whole| whole["environment"] = "x".into());
    assert!(matches!(refused, Err(ChangeError::State(_))), "{refused:?}");
    let order = Order::Admin {
        service: name("web"),
        instance: "127.0.0.1:8001".to_owned(),
        state: AdminState::Disabled,
        deadline: None,
    };
    let refused = keeper.order(&order, Timestamp(2));
    assert!(matches!(refused, Err(ChangeError::State(_))));

    assert_eq!(now(&keeper), before);
    assert_eq!(fs::read(place.state()).unwrap(), state);
    assert_eq!(keeper.registry.snapshot().revision, revision);
    assert_eq!(keeper.view().history.number(), 2);
    fs::remove_dir(place.folder.path().join("state.json.new")).unwrap();
    assert_eq!(weigh(&keeper, 8).configuration, 3);
}

#[test]
fn a_damaged_state_file_is_not_started_with() {
    let place = Place::new();
    weigh(&place.start(), 7);
    let whole = fs::read_to_string(place.state()).unwrap();
    let half = whole[..whole.len() / 2].to_owned();
    let newer = whole.replacen("\"format\":1", "\"format\":2", 1);
    let unknown = whole.replacen('{', "{\"more\":1,", 1);
    let unsound = whole.replacen("\"stamps\":{\"2\"", "\"stamps\":{\"3\"", 1);
    for (text, found) in [
        (half.as_str(), "EOF while parsing"),
        ("", "EOF while parsing"),
        (newer.as_str(), "the format 2"),
        (unknown.as_str(), "unknown field `more`"),
        (unsound.as_str(), "revisions that do not fit together"),
    ] {
        fs::write(place.state(), text).unwrap();
        let error = place.load().unwrap_err();
        assert!(matches!(error, LoadError::State(_)), "{error:?}");
        let said = error.to_string();
        assert!(
            said.contains(found) && said.contains("state.json"),
            "{said}"
        );
    }
    fs::write(place.state(), &whole).unwrap();
    assert_eq!(weights(&place.start()), [7, 1]);
    // A state file that cannot be written is found out at the start, too.
    fs::create_dir(place.folder.path().join("state.json.new")).unwrap();
    let loaded = place.load().unwrap();
    let keeper = Keeper::new(place.sources(), loaded, Arc::new(Registry::new(1, [])));
    assert!(matches!(
        keeper.start(Timestamp(1)),
        Err(LoadError::State(_))
    ));
}

#[test]
fn a_reload_keeps_what_was_set_and_takes_what_the_file_says_of_the_rest() {
    let place = Place::new();
    let keeper = place.start();
    weigh(&keeper, 7);
    let edited = FILE.replace(
        "\"http://127.0.0.1:8002\"",
        "{ endpoint = \"http://127.0.0.1:8002\", weight = 5 }",
    );
    place.write(&edited);
    // Until somebody says so the file means nothing.
    put(&keeper, |whole| whole["environment"] = "test".into());
    assert_eq!(weights(&keeper), [7, 1]);
    let changed = keeper.reload("SIGHUP").unwrap();
    assert_eq!(weights(&keeper), [7, 5]);
    assert_eq!(changed.configuration, 4);
    let last = keeper.revision(4).unwrap();
    assert_eq!((&*last.cause, &*last.stamp.who), ("reload", "SIGHUP"));
    // What was set is given back to the file.
    let at = [
        "services",
        "web",
        "instances",
        "http://127.0.0.1:8001",
        "weight",
    ];
    let at: Vec<String> = at.map(str::to_owned).to_vec();
    keeper.unset("somebody", false, &at).unwrap();
    assert_eq!(weights(&keeper), [1, 5]);
    // A reload that changes nothing is no revision.
    assert_eq!(keeper.reload("SIGHUP").unwrap().configuration, 5);
    place.write("[services.web]\ninstances = 5\n");
    let refused = keeper.reload("SIGHUP");
    assert!(
        matches!(refused, Err(ChangeError::Faults { stamp: None, .. })),
        "{refused:?}"
    );
    assert_eq!(weights(&keeper), [1, 5]);
}

#[test]
fn a_rollback_leads_to_what_was_in_force_whatever_the_file_says_now() {
    let place = Place::new();
    let keeper = place.start();
    let first = now(&keeper);
    weigh(&keeper, 7);
    place.write(&FILE.replace("8002", "8003"));
    keeper.reload("SIGHUP").unwrap();
    put(&keeper, |whole| {
        whole.as_object_mut().unwrap().remove("routes");
    });
    let last = now(&keeper);
    let rehearsed = keeper.roll_back("somebody", 1, true).unwrap();
    assert_eq!(now(&keeper), last);
    let done = keeper.roll_back("somebody", 1, false).unwrap();
    assert_eq!(done.changes, rehearsed.changes);
    assert_eq!(done.differences, rehearsed.differences);
    assert_eq!(done.configuration, 5);
    assert_eq!(now(&keeper), first);
    let keeper = place.start();
    assert_eq!(now(&keeper), first);
    keeper.roll_back("somebody", 4, false).unwrap();
    assert_eq!(now(&keeper), last);
    let unknown = keeper.roll_back("somebody", 9, false).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "expected the number of a revision that is kept, 1 to 6; found 9"
    );
    assert!(keeper.differences(4, 6).unwrap().is_empty());
    assert_eq!(keeper.differences(1, 5).unwrap(), []);
    assert!(!keeper.differences(1, 4).unwrap().is_empty());
}

#[test]
fn fifty_revisions_are_kept_and_all_can_be_gone_back_to() {
    let place = Place::new();
    let keeper = place.start();
    for weight in 2..=70 {
        weigh(&keeper, weight);
    }
    let view = keeper.view();
    let numbers: Vec<u64> = view
        .history
        .revisions()
        .map(|one| one.stamp.revision)
        .collect();
    assert_eq!(numbers, (21..=70).rev().collect::<Vec<_>>());
    for number in [21, 50, 70] {
        let document = view.history.document(number).unwrap();
        let weight = &document["services"]["web"]["instances"]["http://127.0.0.1:8001"]["weight"];
        assert_eq!(*weight, number);
    }
    assert_eq!(view.history.document(20), None);
    let [only] = &*view.history.changed(21).unwrap() else {
        panic!("{:?}", view.history.changed(21));
    };
    assert_eq!(
        (&only.before, &only.after),
        (&Some(20.into()), &Some(21.into()))
    );
}

#[test]
fn secrets_are_kept_and_never_shown() {
    let place = Place::new();
    let keeper = place.start();
    put(&keeper, |whole| {
        whole["api"]["token"] = "second-secret".into();
    });
    let changed = put(&keeper, |whole| {
        // As whoever sends back what was shown does.
        whole["api"]["token"] = document::HIDDEN.into();
        whole["environment"] = "x".into();
    });
    assert_eq!(changed.differences.len(), 1);
    assert_eq!(now(&keeper)["api"]["token"], "second-secret");
    let view = keeper.view();
    let shown = format!(
        "{:?} {:?} {:?} {:?}",
        view.config.document.shown(),
        view.history.changed(1),
        view.history.changed(2),
        view.history.hide(&view.history.document(1).unwrap()),
    );
    assert!(
        !shown.contains("hush") && !shown.contains("second-secret"),
        "{shown}"
    );
    let differences = view.history.changed(2).unwrap();
    let hidden = Some(Value::from(document::HIDDEN));
    assert_eq!(
        (&differences[0].before, &differences[0].after),
        (&hidden, &hidden)
    );
    // Where there is none the word itself is no secret.
    put(&keeper, |whole| {
        whole.as_object_mut().unwrap().remove("api");
    });
    let refused = try_put(&keeper, |whole| {
        whole["api"] = json!({"token": document::HIDDEN});
    });
    assert!(
        matches!(refused, Err(ChangeError::Faults { .. })),
        "{refused:?}"
    );
}

#[test]
fn where_it_is_kept_is_not_set_at_run_time() {
    let place = Place::new();
    let keeper = place.start();
    let refused = try_put(&keeper, |whole| {
        whole["state"]["file"] = "/tmp/other.json".into();
    });
    assert!(
        matches!(refused, Err(ChangeError::StateFile)),
        "{refused:?}"
    );
    // Who leaves it out does not mean it.
    let whole = json!({"services": {"web": {"instances": ["http://127.0.0.1:8001"]}}});
    let target = keyed(whole, &mut Pointer::new());
    put(&keeper, |whole| *whole = target);
    assert_eq!(
        now(&keeper)["state"]["file"],
        place.state().to_str().unwrap()
    );
    assert_eq!(weights(&keeper), [1]);
}

#[test]
fn orders_hold_across_restarts_and_go_with_what_they_are_about() {
    let place = Place::new();
    let keeper = place.start();
    let admin = |instance: &str, state| Order::Admin {
        service: name("web"),
        instance: instance.to_owned(),
        state,
        deadline: None,
    };
    let adaptive = Order::Algorithm {
        service: name("web"),
        algorithm: Algorithm::Adaptive,
    };
    let held = Order::Breaker {
        service: name("web"),
        instance: Some("127.0.0.1:8002".to_owned()),
        hold: Hold::Open,
    };
    for order in [
        admin("127.0.0.1:8001", AdminState::Draining),
        admin("http://127.0.0.1:8002/", AdminState::Disabled),
        adaptive,
        held,
    ] {
        keeper.order(&order, Timestamp(5)).unwrap();
    }
    let unknown = keeper.order(&admin("127.0.0.1:1", AdminState::Disabled), Timestamp(5));
    assert!(
        matches!(unknown, Err(ChangeError::Registry(_))),
        "{unknown:?}"
    );

    let keeper = place.start();
    let snapshot = keeper.registry.snapshot();
    let web = snapshot.service("web").unwrap();
    let states: Vec<_> = web.statuses.iter().map(|status| status.admin).collect();
    assert_eq!(states, [AdminState::Draining, AdminState::Disabled]);
    assert_eq!(web.spec.algorithm, Algorithm::Adaptive);
    let gate = |position: usize| web.members[position].instance.gate.state();
    assert_eq!(gate(1), GateState::HeldOpen);
    assert!(!gate(0).is_held());
    // No revision has them, and none takes them back.
    assert_eq!(keeper.view().history.number(), 1);

    // An instance that leaves is as new when it comes back; another configured algorithm wins.
    put(&keeper, |whole| {
        let web = &mut whole["services"]["web"];
        web["instances"]
            .as_object_mut()
            .unwrap()
            .remove("http://127.0.0.1:8002");
        web["algorithm"] = "round_robin".into();
    });
    keeper.roll_back("somebody", 1, false).unwrap();
    let keeper = place.start();
    let snapshot = keeper.registry.snapshot();
    let web = snapshot.service("web").unwrap();
    let states: Vec<_> = web.statuses.iter().map(|status| status.admin).collect();
    assert_eq!(states, [AdminState::Draining, AdminState::Enabled]);
    assert_eq!(web.spec.algorithm, Algorithm::WeightedRoundRobin);
    assert!(!web.members[1].instance.gate.state().is_held());

    keeper.reset().unwrap();
    let keeper = place.start();
    let snapshot = keeper.registry.snapshot();
    assert_eq!(snapshot.services[0].statuses[0].admin, AdminState::Enabled);
}

#[test]
fn an_order_waits_for_an_instance_that_its_source_names_again() {
    let place = Place::new();
    place.write("[services.web]\ndiscovery.file = \"/nowhere.json\"\n");
    let found = |keeper: &Keeper, there: bool| {
        let endpoint = Endpoint::parse("10.0.0.1:80").unwrap();
        let one = there.then(|| InstanceSpec::new(endpoint, 1));
        let instances = one.into_iter().collect();
        let service = name("web");
        let change = Change::Discovered { service, instances };
        keeper.registry.apply(change).unwrap();
    };
    let admin = |keeper: &Keeper| {
        let snapshot = keeper.registry.snapshot();
        snapshot.service("web").unwrap().statuses[0].admin
    };
    let keeper = place.start();
    found(&keeper, true);
    let drain = Order::Admin {
        service: name("web"),
        instance: "10.0.0.1:80".to_owned(),
        state: AdminState::Draining,
        deadline: None,
    };
    keeper.order(&drain, Timestamp(5)).unwrap();
    keeper.reload("somebody").unwrap();
    found(&keeper, false);
    found(&keeper, true);
    keeper.obey(Timestamp(6));
    assert_eq!(admin(&keeper), AdminState::Draining);
    drop(keeper);

    let keeper = place.start();
    found(&keeper, true);
    assert_eq!(admin(&keeper), AdminState::Enabled);
    keeper.obey(Timestamp(7));
    assert_eq!(admin(&keeper), AdminState::Draining);
    let enable = Order::Admin {
        service: name("web"),
        instance: "http://10.0.0.1:80".to_owned(),
        state: AdminState::Enabled,
        deadline: None,
    };
    keeper.order(&enable, Timestamp(8)).unwrap();
    keeper.obey(Timestamp(9));
    assert_eq!(admin(&keeper), AdminState::Enabled);
}

#[test]
fn a_trial_changes_nothing() {
    let place = Place::new();
    let keeper = place.start();
    let before = (now(&keeper), fs::read(place.state()).unwrap());
    let revision = keeper.registry.snapshot().revision;
    let tried = keeper.change::<ChangeError>("somebody", "PATCH", true, |now| {
        let mut target = now.whole.clone();
        target["services"]["web"]["algorithm"] = "consistent_hash".into();
        Ok(target)
    });
    let tried = tried.unwrap();
    assert_eq!(tried.changes, ["algorithm of web is now consistent_hash"]);
    assert_eq!((now(&keeper), fs::read(place.state()).unwrap()), before);
    assert_eq!(keeper.registry.snapshot().revision, revision);
    assert_eq!(keeper.view().history.number(), 1);
}

#[test]
fn a_state_file_has_one_daemon() {
    let place = Place::new();
    let sources = place.sources();
    let first = load_to_run(&sources).unwrap();
    // Whoever only looks at the configuration may.
    load(&sources).unwrap();
    let refused = load_to_run(&sources).unwrap_err().to_string();
    assert!(refused.contains("for this daemon alone"), "{refused}");
    assert!(refused.contains("state.json.lock"), "{refused}");
    drop(first);
    load_to_run(&sources).unwrap();
}
