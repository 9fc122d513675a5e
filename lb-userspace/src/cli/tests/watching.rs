//! `lb stats --watch`.

use super::*;

#[test]
fn stats_are_watched_as_lines_where_nobody_looks() {
    let lb = Lb::new();
    let a = lb.world.instance("main-backend", 0);
    lb.world.serve(&a, Outcome::Success, 20, 5);
    let text = lb.run("stats --watch=100ms --count 2").ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2 * 3, "{text}");
    assert!(lines[0].contains(" main-backend state=2/2 requests_per_second=- "));
    assert!(lines[3].contains(" main-backend state=2/2 requests_per_second=0.000 "));
    assert!(lines[2].contains(" all state=3/3 "), "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");

    let text = lb.run("stats main-backend --watch=100ms --count 1").ok();
    assert!(text.contains(&format!(" {A} state=available ")), "{text}");
    let text = lb.run("--json stats --watch=100ms --count 3").ok();
    assert_eq!(text.lines().count(), 3);
    for line in text.lines() {
        let stats: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(stats["requests"]["total"], 20);
    }

    let text = lb.run("stats nothing --watch").failed(FAILED);
    assert!(text.contains("main-backend"), "{text}");
    for odd in [
        "stats --watch=0s",
        "stats --watch=x",
        "stats --watch=2h",
        "stats --count 3",
    ] {
        lb.run(odd).failed(USAGE);
    }
}

#[test]
fn a_terminal_shows_a_table_that_stands_still() {
    let lb = Lb::new();
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let line = format!(
        "lb --api http://{} stats --watch=100ms --count 2",
        lb.address
    );
    let args = line.split_whitespace();
    let code = answer(args, NO_DAEMON, true, &mut out, &mut errors);
    assert_eq!((code, errors.len()), (OK, 0));
    let out = String::from_utf8(out).unwrap();
    assert_eq!(out.matches("LATENCY 10S").count(), 2, "{out:?}");
    assert!(out.starts_with("\x1b[?25l\x1b[H\x1b[2J"), "{out:?}");
    assert!(out.ends_with("\x1b[?25h\n"), "the cursor is back: {out:?}");
}
