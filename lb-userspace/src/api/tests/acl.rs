//! The source ACL by the API.

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// An API over rules of its own and a list.
fn world() -> (World, TempDir) {
    let folder = TempDir::new().unwrap();
    let list = folder.path().join("deny.txt");
    std::fs::write(&list, "198.51.100.0/24\n203.0.113.7\n").unwrap();
    let text = format!(
        "[gateway]\nlisten = []\n[datapath.acl]\nfiles = [{list:?}]\n\
         rules = {{ \"192.0.2.7\" = \"allow\", \"192.0.2.0/24\" = \"deny\" }}\n"
    );
    let file = folder.path().join("lb.toml");
    std::fs::write(&file, text).unwrap();
    (World::of(&file), folder)
}

impl World {
    async fn ask_acl(&self, method: Method, path: &str, body: &Value) -> Got {
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        let mut request = local(method, &format!("/api/v1/loadbalancer/acl{path}"), body);
        let json = "application/json".parse().unwrap();
        request.headers_mut().insert("content-type", json);
        self.send(request).await
    }

    async fn decision(&self, address: &str) -> String {
        let found = self.get(&format!("/acl/match?address={address}")).await;
        let rule = found["rule"]["prefix"]
            .as_str()
            .unwrap_or("none")
            .to_owned();
        let list = found["rule"]["list"].as_str().unwrap_or("");
        let list = list.rsplit('/').next().unwrap_or_default();
        let words = [found["action"].as_str().unwrap(), &rule, list];
        words.join(" ").trim_end().to_owned()
    }
}

#[tokio::test]
async fn rules_are_shown_page_by_page_with_where_they_are_from() {
    let (world, _folder) = world();
    let acl = world.get("/acl?limit=3").await;
    assert_eq!((&acl["deny"], &acl["allow"]), (&json!(3), &json!(1)));
    assert_eq!(acl["lists"][0]["prefixes"], 2);
    let prefixes = |acl: &Value| -> Vec<String> {
        let rules = acl["rules"].as_array().unwrap().iter();
        rules
            .map(|rule| rule["prefix"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        prefixes(&acl),
        ["192.0.2.0/24", "192.0.2.7/32", "198.51.100.0/24"]
    );
    assert_eq!(acl["more"], true);
    let rest = world.get("/acl?after=198.51.100.0/24").await;
    assert_eq!(
        (prefixes(&rest), &rest["more"]),
        (vec!["203.0.113.7/32".to_owned()], &json!(false))
    );
    for query in ["limit=10001", "limit=x", "after=x", "before=1"] {
        let got = world
            .ask_acl(Method::GET, &format!("?{query}"), &Value::Null)
            .await;
        got.problem(400);
    }
}

#[tokio::test]
async fn rules_are_made_changed_and_removed_one_by_one() {
    let (world, _folder) = world();
    assert_eq!(
        world.decision("198.51.100.9").await,
        "deny 198.51.100.0/24 deny.txt"
    );
    assert_eq!(world.decision("192.0.2.7").await, "allow 192.0.2.7/32");
    assert_eq!(world.decision("2001:db8::1").await, "allow none");
    let deny = json!({"action": "deny"});
    let got = world
        .ask_acl(Method::PUT, "/rules/2001:db8::/32?dry_run=true", &deny)
        .await;
    assert_eq!(got.data()["dry_run"], true);
    assert_eq!(world.decision("2001:db8::1").await, "allow none");
    let got = world
        .ask_acl(Method::PUT, "/rules/2001:db8::/32", &deny)
        .await;
    assert_eq!(
        got.data()["changes"],
        json!(["source ACL changed, it has 5 rules"])
    );
    assert_eq!(world.decision("2001:db8::1").await, "deny 2001:db8::/32");
    // A rule of the configuration holds against a list, and goes by any form of its name.
    let allow = json!({"action": "allow"});
    world
        .ask_acl(Method::PUT, "/rules/198.51.100.0%2F24", &allow)
        .await
        .data();
    assert_eq!(
        world.decision("198.51.100.9").await,
        "allow 198.51.100.0/24"
    );
    world
        .ask_acl(Method::PUT, "/rules/192.0.2.7/32", &deny)
        .await
        .data();
    assert_eq!(world.decision("192.0.2.7").await, "deny 192.0.2.7/32");
    for prefix in ["192.0.2.7", "198.51.100.0/24"] {
        let path = format!("/rules/{prefix}");
        world
            .ask_acl(Method::DELETE, &path, &Value::Null)
            .await
            .data();
    }
    assert_eq!(world.decision("192.0.2.7").await, "deny 192.0.2.0/24");
    assert_eq!(
        world.decision("198.51.100.9").await,
        "deny 198.51.100.0/24 deny.txt"
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_was_expected() {
    let (world, _folder) = world();
    let deny = json!({"action": "deny"});
    let got = world
        .ask_acl(Method::PUT, "/rules/192.0.2.1/24", &deny)
        .await;
    let problem = got.problem(422);
    let expected = problem["errors"][0]["expected"].as_str().unwrap();
    assert!(
        expected.contains("without bits beyond its length"),
        "{problem}"
    );
    let block = json!({"action": "block"});
    let got = world
        .ask_acl(Method::PUT, "/rules/192.0.2.0/25", &block)
        .await;
    let problem = got.problem(422);
    assert_eq!(problem["errors"][0]["expected"], "\"deny\" or \"allow\"");
    let got = world
        .ask_acl(Method::DELETE, "/rules/192.0.3.0/24", &Value::Null)
        .await;
    assert_eq!(got.problem(404)["type"], "urn:lb:problem:no-such-rule");
    let got = world
        .ask_acl(Method::DELETE, "/rules/203.0.113.7", &Value::Null)
        .await;
    let problem = got.problem(409);
    assert!(
        problem["detail"].as_str().unwrap().contains("deny.txt"),
        "{problem}"
    );
    let got = world
        .ask_acl(Method::GET, "/match?address=here", &Value::Null)
        .await;
    got.problem(400);
}
