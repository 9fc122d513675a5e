//! Faults of every source, all at once.

use super::*;

#[test]
fn all_faults_are_reported_at_once_in_the_order_of_their_places() {
    let text = r#"
[gateway]
lisen = ["0.0.0.0:80"]
header_timeout = "30"
workers = 0

[services.web]
algorithm = "least_connection"
instances = ["http://10.0.0.1:99999", { endpoint = "10.0.0.2:80", weight = 70000 }]

[[routes]]
path = "no-slash"
service = "wbe"
"#;
    let env = [("LOG_LEVEL", "warning")];
    let flags = Overrides {
        workers: Some("many".to_owned()),
        ..Overrides::default()
    };
    let result = load_all(text, &env, &flags);
    let Err(all) = &result else {
        panic!("{result:?}");
    };
    assert!(
        all.to_string()
            .starts_with("9 faults in the configuration:\n  lb.toml:3:1: ")
    );
    assert_eq!(
        faults(result),
        [
            "lb.toml:3:1: gateway.lisen: expected one of the keys of gateway: drain_timeout, \
             header_timeout, keepalive_timeout, listen, max_connection_age, \
             max_connection_requests, max_head_bytes, max_headers, pool_idle_per_instance, \
             pool_idle_timeout, rate_limit, trusted_proxies, vips, workers; found \"lisen\" (did you mean \"listen\"?)",
            "lb.toml:4:18: gateway.header_timeout: expected a duration from 10ms to 1h, such as \
             \"30s\"; found \"30\" (the unit is missing)",
            "lb.toml:8:13: services.web.algorithm: expected \"round_robin\", \
             \"weighted_round_robin\", \"least_connections\", \"least_response_time\", \
             \"health_aware\", \"consistent_hash\" or \"adaptive\", such as \"round_robin\"; \
             found \"least_connection\" (did you mean \"least_connections\"?)",
            "lb.toml:9:14: services.web.instances[0].endpoint: expected an endpoint: http://HOST, \
             http://HOST:PORT or HOST:PORT, such as \"http://10.0.0.2:8080\"; found \
             \"http://10.0.0.1:99999\" (the port must be from 1 to 65535)",
            "lb.toml:9:76: services.web.instances[1].weight: expected a number from 0 to 65535, \
             such as 10; found 70000",
            "lb.toml:12:8: routes[0].path: expected a path that begins with a slash, without \
             query or spaces, and with /* at its end for everything below it, such as \
             \"/api/v1/auth/*\"; found \"no-slash\"",
            "lb.toml:13:11: routes[0].service: expected the name of a service, perhaps \"web\"; \
             found \"wbe\"",
            "environment variable LOG_LEVEL: log.level: expected \"off\", \"error\", \"warn\", \
             \"info\", \"debug\" or \"trace\", or a filter of such levels by module, such as \
             \"info,lb_userspace::l4=debug\"; found \"warning\" (did you mean \"warn\"?)",
            "flag --workers: gateway.workers: expected a number from 1 to 1024, such as 4; \
             found \"many\"",
        ]
    );
}

#[test]
fn syntax_errors_are_reported_together_with_what_other_sources_got_wrong() {
    let text = "[gateway]\nlisten = = 3\nworkers = \"x\nheader_timeout = 3\n";
    let found = faults(load_all(
        text,
        &[("LB_WORKERS", "0")],
        &Overrides::default(),
    ));
    assert_eq!(
        found,
        [
            "lb.toml:2:10: expected valid TOML; found \"listen = = 3\" (extra `=`, expected \
             nothing)",
            "lb.toml:2:12: expected valid TOML; found \"listen = = 3\" (unexpected key or value, \
             expected newline, `#`)",
            "lb.toml:3:13: expected valid TOML; found \"workers = \\\"x\" (invalid basic string, \
             expected `\"`)",
            "environment variable LB_WORKERS: gateway.workers: expected a number from 1 to 1024, \
             such as 4; found \"0\"",
        ]
    );
}

#[test]
fn a_key_that_is_set_twice_hides_no_other_fault() {
    let text = "[gateway]\nworkers = 1\nworkers = 2\nheader_timeout = 3\n[gateway]\n";
    assert_eq!(
        faults(load_text(text)),
        [
            "lb.toml:3:1: expected every key once; found \"workers = 2\" (duplicate key)",
            "lb.toml:4:18: gateway.header_timeout: expected a duration from 10ms to 1h, such as \
             \"30s\"; found 3 (the unit is missing)",
            "lb.toml:5:2: expected every key once; found \"[gateway]\" (duplicate key)",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let load_file = |file: PathBuf| {
        let sources = Sources {
            file: Some(file),
            ..Sources::default()
        };
        load(&sources).unwrap_err().to_string()
    };
    let missing = folder.path().join("none.toml");
    let expected = format!(
        "1 fault in the configuration:\n  {}: expected a readable file; found nothing (No such \
         file or directory (os error 2))",
        missing.display()
    );
    assert_eq!(load_file(missing), expected);
    let latin = folder.path().join("latin.toml");
    std::fs::write(&latin, b"a = 1\n# \xe9\n").unwrap();
    let expected = "expected a file in UTF-8; found another encoding (invalid byte in line 2)";
    let found = load_file(latin);
    assert!(found.ends_with(expected), "{found}");
    let folder_itself = load_file(folder.path().to_owned());
    assert!(folder_itself.contains("Is a directory"), "{folder_itself}");
}

#[test]
fn columns_count_characters() {
    let text = "[log]\n\"größe\" = 1 # ä\n[api]\ntoken = 'ää'\non_gateway = 'ää'";
    let places: Vec<_> = load_text(text)
        .unwrap_err()
        .list()
        .iter()
        .map(|fault| (fault.origin.to_string(), fault.path.pointer()))
        .collect();
    let place = |at: &str, path: &str| (format!("lb.toml:{at}"), path.to_owned());
    assert_eq!(
        places,
        [
            place("2:1", "/log/größe"),
            place("4:9", "/api/token"),
            place("5:14", "/api/on_gateway"),
        ]
    );
}

#[test]
fn a_fallback_is_another_service_that_is_there() {
    let found = faults(load_text(
        "[services.web]\ninstances = [\"10.0.0.1:80\"]\nfallback = \"web\"\n\
         [services.api]\ninstances = [\"10.0.0.2:80\"]\nfallback = \"sory\"\n\
         [services.sorry]\ninstances = [\"10.0.0.3:80\"]\nfallback = \"api\"\n",
    ));
    assert_eq!(
        found,
        [
            "lb.toml:3:12: services.web.fallback: expected the name of another service; found \
             \"web\"",
            "lb.toml:6:12: services.api.fallback: expected the name of a service, perhaps \
             \"sorry\"; found \"sory\"",
        ]
    );
}

#[test]
fn a_fallback_has_instances_that_the_vips_can_use() {
    let text = |rest: &str| {
        format!(
            "[datapath]\ninterfaces = [\"eth0\"]\n{rest}\n\
             [services.web]\ninstances = [\"10.0.0.1:80\"]\nfallback = \"sorry\"\n\
             [[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"\n\
             [[vips]]\naddress = \"10.0.0.9\"\nport = 81\nservice = \"web\"\n\
             [services.sorry]\ninstances = [\"[fd00::3]:80\"]\n"
        )
    };
    assert_eq!(
        faults(load_text(&text(""))),
        [
            "lb.toml:6:12: services.web.fallback: expected a service with instances of the address \
             family of vips[0], IPv4; found \"sorry\""
        ]
    );
    // For one of both families it is of use.
    let both = format!(
        "{}[[vips]]\naddress = \"fd00::9\"\nport = 80\nservice = \"web\"\n",
        text("").replace("\"10.0.0.1:80\"", "\"10.0.0.1:80\", \"[fd00::1]:80\"")
    );
    assert!(load_text(&both).is_ok());
    // Where packets keep their addresses the instance's own only says where they go.
    for (rest, forwarding) in [("", "forwarding = \"ipip\""), ("mode = \"relay\"", "")] {
        assert!(load_text(&format!("{}{forwarding}\n", text(rest))).is_ok());
    }
}
