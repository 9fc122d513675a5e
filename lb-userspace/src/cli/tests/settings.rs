//! Settings, algorithms, reloads.

use super::*;

#[test]
fn settings_are_shown_and_what_was_set_is_reset() {
    let lb = Lb::new();
    let flags = Overrides {
        workers: Some("2".to_owned()),
        ..Default::default()
    };
    let sources = crate::config::Sources::new(flags, std::collections::BTreeMap::new());
    let config = crate::config::load(&sources).unwrap();
    lb.world.state.configured(&config.settings);
    let text = lb.run("config show").ok();
    assert!(
        text.lines().any(|line| line == "gateway.workers = 2"),
        "{text}"
    );
    let text = lb.run("config show --origin").ok();
    let line = text
        .lines()
        .find(|line| line.starts_with("gateway.workers"));
    assert!(line.unwrap().ends_with("# flag --workers"), "{text}");

    lb.run("algorithm set main-backend round_robin").ok();
    let text = lb.run("reset").ok();
    assert!(
        text.contains("3 instances") && text.contains("adaptive"),
        "{text}"
    );
    let debug: serde_json::Value = serde_json::from_str(&lb.run("debug").ok()).unwrap();
    assert_eq!(debug["services"][0]["algorithm"], "adaptive");
}

#[test]
fn algorithms_are_shown_and_set() {
    let lb = Lb::new();
    let list = lb.run("algorithm list").ok();
    assert_eq!(list.lines().count(), 8, "{list}");
    assert_eq!(cells(&list, "consistent_hash")[2], "ocr-service");
    for algorithm in Algorithm::ALL.iter().rev() {
        lb.run(&format!("algorithm set main-backend {algorithm}"))
            .ok();
        let snapshot = lb.world.registry.snapshot();
        assert_eq!(
            snapshot.service("main-backend").unwrap().spec.algorithm,
            *algorithm
        );
    }
    let text = lb.run("algorithm get main-backend").ok();
    assert!(text.contains("algorithm   round_robin\n"), "{text}");
    assert!(text.contains("EVIDENCE"), "{text}");
    let keys = |rest: &str| lb.run(&format!("algorithm keys main-backend {rest}"));
    // One of two, under an algorithm that ignores weights.
    let text = keys("--without http://127.0.0.1:8080").ok();
    assert!(text.contains("have to") && text.contains("50 %"), "{text}");
    assert!(keys("--without nobody:1").failed(FAILED).contains("nobody"));
    let text = lb.run("algorithm reset main-backend").ok();
    assert!(text.contains("of main-backend is forgotten"), "{text}");
    let text = lb.run("algorithm set main-backend round_robin").ok();
    assert!(text.contains("already"), "{text}");
    let errors = lb.run("algorithm set main-backend fastest").failed(FAILED);
    assert_eq!(errors.matches("least_response_time").count(), 1, "{errors}");
    let errors = lb.run("algorithm set nothing adaptive").failed(FAILED);
    assert!(
        errors.contains("services are: main-backend, ocr-service"),
        "{errors}"
    );
}

#[test]
fn configuration_and_metrics_can_be_read() {
    let lb = Lb::new();
    let text = lb.run("services").ok();
    let row = [
        "ocr-service",
        "consistent_hash",
        "1/1",
        "off",
        "-",
        "udp/192.0.2.1:53",
    ];
    assert_eq!(cells(&text, "ocr-service"), row);
    let text = lb.run("routes").ok();
    assert_eq!(
        cells(&text, "/exact"),
        ["*", "*.example.org", "/exact", "main-backend"]
    );
    let text = lb.run("vips").ok();
    assert_eq!(
        cells(&text, "udp"),
        ["udp/192.0.2.1:53", "ocr-service", "l2dsr"]
    );
    let text = lb.run("limits").ok();
    assert_eq!(
        cells(&text, "main-backend"),
        [
            "main-backend",
            "0",
            "-",
            "-",
            "0 + 0",
            "-",
            "-",
            "-",
            "-",
            "-",
            "10",
            "0",
            "50"
        ]
    );
    let row = ["gateway", "client", "100", "1m", "20", "0"];
    assert_eq!(cells(&text, "gateway"), row);
    let text = lb.run("metrics").ok();
    assert!(text.contains("\nlb_revision 1\n"), "{text}");
}

#[test]
fn routes_are_made_listed_and_named_with_their_destination() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("lb.toml");
    let text = "[gateway]\nlisten = []\n[services.web]\ninstances = [\"http://127.0.0.1:1\"]\n\
                health_check.enabled = false\n";
    std::fs::write(&file, text).unwrap();
    let lb = Lb::serving(World::of(&file));
    lb.run("routes add /shop/* --service web").ok();
    lb.run("routes add /shop/* --service web --host a.example --destination 10.0.0.0/24:80")
        .ok();
    let text = lb.run("routes").ok();
    assert_eq!(
        cells(&text, "a.example")[..2],
        ["10.0.0.0/24:80", "a.example"]
    );
    assert_eq!(cells(&text, "*   "), ["*", "*", "/shop/*", "web"]);
    let named = |verb: &str| {
        let api = format!("http://{}", lb.address);
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let name = "10.0.0.0/24:80 a.example/shop/*";
        let words = ["lb", "--api", &api, "routes", verb, name];
        let code = run(words, NO_DAEMON, &mut out, &mut errors);
        assert_eq!(code, OK, "{}", String::from_utf8_lossy(&errors));
        String::from_utf8(out).unwrap()
    };
    let shown = named("show");
    assert!(
        shown.contains("\"destination\": \"10.0.0.0/24:80\""),
        "{shown}"
    );
    let explained = |more: &str| {
        lb.run(&format!("explain http://a.example/shop/{more}"))
            .ok()
    };
    let text = explained("");
    assert!(text.contains("1 with a destination"), "{text}");
    assert!(text.contains("* /shop/*"), "{text}");
    let text = explained(" --destination 10.0.0.9:80");
    assert!(text.contains("10.0.0.0/24:80 a.example /shop/*"), "{text}");
    assert!(!text.contains("left out"), "{text}");
    named("remove");
    let text = lb.run("routes").ok();
    assert!(!text.contains("a.example"), "{text}");
}

#[test]
fn reloads_tell_what_happened() {
    let done: Reload = Arc::new(|_| {
        Box::pin(async {
            Ok(Reloaded {
                revision: 2,
                changes: vec!["routes changed".to_owned()],
                needs_restart: vec!["gateway.workers".to_owned()],
                ..Reloaded::default()
            })
        })
    });
    let lb = Lb::serving(World::with_reload(done));
    let text = lb.run("reload").ok();
    let expected = "reloaded, revision 2\n  routes changed\n\
                    ! gateway.workers has changed and waits for a restart\n";
    assert_eq!(text, expected);

    let failed: Reload = Arc::new(|_| {
        let fault = api::Fault {
            origin: None,
            pointer: "gateway.listen".to_owned(),
            expected: "an address".to_owned(),
            found: "\"x\"".to_owned(),
        };
        Box::pin(async move {
            Err(ReloadFailure {
                message: "1 fault".to_owned(),
                faults: vec![fault],
            })
        })
    });
    let lb = Lb::serving(World::with_reload(failed));
    let errors = lb.run("reload").failed(FAILED);
    assert!(errors.contains("nothing has changed"), "{errors}");
    assert!(
        errors.contains("gateway.listen: expected an address, found \"x\""),
        "{errors}"
    );
}
