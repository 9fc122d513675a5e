//! The grammar itself: what is no command, errors, what needs no daemon.

use super::*;

#[test]
fn completions_know_the_grammar() {
    let lb = Lb::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = lb.run(&format!("completions {shell}")).ok();
        for word in ["instances", "explain", "--json"] {
            let word = word.trim_start_matches('-');
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    lb.run("completions tcsh").failed(USAGE);
}

#[test]
fn errors_say_what_to_do_next() {
    // A port that was free a moment ago.
    let free = StdListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let errors = command(&format!("lb --api {free} status")).failed(FAILED);
    assert!(
        errors.contains("lb run") && errors.contains("--api"),
        "{errors}"
    );

    let lb = Lb::new();
    let errors = lb
        .run("instances show main-backend 127.0.0.1:9")
        .failed(FAILED);
    assert!(errors.contains(A) && errors.contains(B), "{errors}");
    let errors = command(&format!("lb --api http://{}/other status", lb.address)).failed(FAILED);
    assert!(errors.contains("/other"), "{errors}");

    for (line, code) in [
        ("lb", USAGE),
        ("lb fly", USAGE),
        ("lb instances drain main-backend", USAGE),
        ("lb --api ftp://x status", USAGE),
        ("lb --api unix:x status", USAGE),
        ("lb --api https://x --cert c.pem status", USAGE),
        ("lb --help", OK),
        ("lb --version", OK),
        ("lb instances --help", OK),
    ] {
        assert_eq!(command(line).code, code, "{line}");
    }
    assert!(command("lb --help").ok().contains("Exit codes"));
}

#[test]
fn what_is_not_lb_is_told_so() {
    use std::io::{Read as _, Write as _};
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for _ in 0..4 {
        let errors = command(&format!("lb --api {address} services")).failed(FAILED);
        assert!(errors.contains("something else"), "{errors}");
    }
    server.join().unwrap();
}

#[test]
fn the_grammar_is_consistent() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lb = Lb::new();
    let api = format!("http://{}", lb.address);
    let mut errors = Vec::new();
    let code = run(
        ["lb", "--api", &api, "services"],
        NO_DAEMON,
        &mut Gone,
        &mut errors,
    );
    assert_eq!((code, errors.len()), (OK, 0));
}

#[test]
fn check_reports_every_fault_or_sums_up() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = write(
        "good.toml",
        "[gateway]\nlisten = [\"127.0.0.1:8000\"]\n\n[services.web]\n\
         instances = [\"http://127.0.0.1:8081\"]\n",
    );
    let text = command(&format!("lb check --config {good}")).ok();
    assert!(text.contains("1 service with 1 instance"), "{text}");
    let text = command(&format!("lb check --config {good} --effective")).ok();
    assert!(text.contains("gateway.listen"), "{text}");
    let bad = write(
        "bad.toml",
        "[gateway]\nlisten = [\"nowhere\"]\nlissen = 1\n",
    );
    let errors = command(&format!("lb check --config {bad}")).failed(FAILED);
    assert!(
        errors.contains("nowhere") && errors.contains("lissen"),
        "{errors}"
    );
}

#[test]
fn the_daemon_and_the_kernel_are_reached_without_the_api() {
    let refused = command("lb run --listen 127.0.0.1:0");
    assert_eq!(refused.code, FAILED);
    assert_eq!(refused.errors, "lb: this test starts no daemon\n");
    let dir = tempfile::tempdir().unwrap();
    let pins = dir.path().join("pins");
    let detached = command(&format!("lb datapath detach --pin-path {}", pins.display()));
    assert_eq!(detached.ok(), "nothing was attached\n");
}
