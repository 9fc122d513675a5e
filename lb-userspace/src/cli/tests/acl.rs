//! The source ACL.

use super::*;

#[test]
fn rules_are_listed_asked_about_made_and_removed() {
    let folder = tempfile::TempDir::new().unwrap();
    let list = folder.path().join("deny.txt");
    std::fs::write(&list, "198.51.100.0/24\n").unwrap();
    let file = folder.path().join("lb.toml");
    let text = format!("[gateway]\nlisten = []\n[datapath.acl]\nfiles = [{list:?}]\n");
    std::fs::write(&file, text).unwrap();
    let lb = Lb::serving(World::of(&file));
    let text = lb.run("acl").ok();
    assert!(text.contains("1 deny, 0 allow"), "{text}");
    assert!(text.contains("deny.txt: 1 prefixes"), "{text}");
    let text = lb.run("acl deny 192.0.2.0/24").ok();
    assert!(
        text.contains("source ACL changed, it has 2 rules"),
        "{text}"
    );
    lb.run("acl allow 192.0.2.7").ok();
    let text = lb.run("acl list").ok();
    assert_eq!(
        cells(&text, "192.0.2.0/24"),
        ["192.0.2.0/24", "deny", "configuration"]
    );
    assert_eq!(
        cells(&text, "192.0.2.7/32"),
        ["192.0.2.7/32", "allow", "configuration"]
    );
    assert!(
        cells(&text, "198.51.100.0/24")[2].ends_with("deny.txt"),
        "{text}"
    );
    let text = lb.run("acl list --limit 1 --after 192.0.2.0/24").ok();
    assert!(
        text.contains("192.0.2.7/32") && !text.contains("198.51.100.0/24 "),
        "{text}"
    );
    assert!(text.contains("more with --after 192.0.2.7/32"), "{text}");
    let text = lb.run("acl match 192.0.2.7").ok();
    assert_eq!(
        text.trim(),
        "192.0.2.7: allow, by 192.0.2.7/32 of configuration"
    );
    let text = lb.run("acl remove 192.0.2.7 --dry-run").ok();
    assert!(text.contains("dry run"), "{text}");
    lb.run("acl remove 192.0.2.7").ok();
    let text = lb.run("acl match 192.0.2.7").ok();
    assert!(text.contains("deny, by 192.0.2.0/24"), "{text}");
    let text = lb.run("acl match 10.0.0.1").ok();
    assert!(text.contains("10.0.0.1: allow, no rule holds it"), "{text}");
    lb.run("acl remove 10.0.0.0/8").failed(FAILED);
}
