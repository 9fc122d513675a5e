//! The configuration as one document: out and in, in parts, guarded by tags, and its revisions.

use super::*;

#[tokio::test]
async fn the_whole_document_goes_out_and_comes_back() {
    let (world, folder) = world("");
    let got = world.ask(Method::GET, "/api/v1/loadbalancer/config").await;
    assert!(!got.body.contains("hush"), "{}", got.body);
    let document = got.data()["document"].clone();
    assert_eq!(document["api"]["token"], "(secret)");
    let same = world
        .change("PUT", "/config", document.clone())
        .await
        .data();
    assert_eq!(
        (&same["diff"], &same["config_revision"]),
        (&json!([]), &1.into())
    );
    let mut other = document.clone();
    other["services"]["web"]["instances"][1] = "http://127.0.0.1:8009".into();
    other["routes"][0]["priority"] = 1.into();
    let tried = world
        .change("PUT", "/config?dry_run=true", other.clone())
        .await
        .data();
    assert_eq!(tried["dry_run"], true);
    assert_eq!(world.weights("web"), [1, 3]);
    let done = world.change("PUT", "/config", other).await.data();
    assert_eq!(
        (&done["diff"], &done["changes"]),
        (&tried["diff"], &tried["changes"])
    );
    let pointers: Vec<_> = done["diff"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["pointer"].clone())
        .collect();
    assert_eq!(
        pointers,
        [
            "/routes/*~1shop~1*/priority",
            "/services/web/instances/http:~1~1127.0.0.1:8002",
            "/services/web/instances/http:~1~1127.0.0.1:8009",
        ]
    );
    assert_eq!(world.weights("web"), [1, 1]);
    // The secret is what it was.
    let kept = std::fs::read_to_string(folder.path().join("state.json")).unwrap();
    assert!(kept.contains("hush-hush"));

    // One that is wrong changes nothing and says where, in the body that was sent.
    let mut wrong = document.clone();
    wrong["services"]["web"]["instances"] = json!(["http://127.0.0.1:8002", {"endpoint": "http://127.0.0.1:8001", "weight": -1}, {"weight": 1}]);
    wrong["routes"] = json!([
        {"path": "/a", "service": "web"},
        {"path": "/b", "service": "web"},
        {"path": "/c", "service": "wbe"},
    ]);
    wrong["logg"] = json!({});
    let problem = world.change("PUT", "/config", wrong).await.problem(422);
    let pointers: Vec<_> = errors(&problem)
        .into_iter()
        .map(|(pointer, _)| pointer)
        .collect();
    for pointer in [
        "/logg",
        "/routes/2/service",
        "/services/web/instances/1/weight",
        "/services/web/instances/2/endpoint",
    ] {
        assert!(
            pointers.contains(&pointer.to_owned()),
            "{pointer} in {pointers:?}"
        );
    }
    assert_eq!(world.weights("web"), [1, 1]);
    for body in ["[]", "5", "{\"a\": 1, \"a\": 2}", "{"] {
        world
            .with_body(Method::PUT, "/config", body)
            .await
            .problem(400);
    }
}

#[tokio::test]
async fn a_patch_names_what_changes() {
    let (world, _folder) = world("");
    let patch = json!({"services": {"web": {"instances": {"http://127.0.0.1:8001": {"weight": 8}, "http://127.0.0.1:8002": null}}}});
    world.change("PATCH", "/config", patch).await.data();
    assert_eq!(world.weights("web"), [8]);
    let patch = json!({"services": {"web": {"instances": ["http://127.0.0.1:8005"]}}});
    world.change("PATCH", "/config", patch).await.data();
    assert_eq!(world.weights("web"), [1]);
    let patch = json!({"gateway": {"workers": 3}, "defaults": {"retry": {"max_retries": null}}});
    let done = world.change("PATCH", "/config", patch).await.data();
    assert_eq!(done["needs_restart"], json!(["gateway.workers"]));
    let config = world.get("/config").await;
    let settings = config["settings"].as_array().unwrap();
    let workers = settings
        .iter()
        .find(|s| s["path"] == "gateway.workers")
        .unwrap();
    assert_eq!(workers["waiting"], "3");

    // And all of it can be given back.
    let set = world.get("/config/runtime").await;
    assert_eq!(set["set"].as_array().unwrap().len(), 4, "{set}");
    let path = "/config/runtime?pointer=/services/web/instances";
    world.change("DELETE", path, Value::Null).await.data();
    assert_eq!(world.weights("web"), [1, 3]);
    world
        .change("DELETE", "/config/runtime", Value::Null)
        .await
        .data();
    assert_eq!(world.get("/config/runtime").await["set"], json!([]));
    let wrong = world
        .change("DELETE", "/config/runtime?pointer=web", Value::Null)
        .await;
    wrong.problem(400);
}

#[tokio::test]
async fn tags_guard_against_changes_of_somebody_else() {
    let (world, _folder) = world("");
    let path = "/services/web";
    let tag = |got: &Got| got.header("etag").to_owned();
    let full = format!("/api/v1/loadbalancer{path}");
    let first = tag(&world.ask(Method::GET, &full).await);
    assert!(first.starts_with('"') && first.len() > 20, "{first}");
    let mut request = local(Method::GET, &full, Body::empty());
    let headers = request.headers_mut();
    headers.insert("if-none-match", format!("W/{first}").parse().unwrap());
    let unchanged = world.send(request).await;
    assert_eq!(
        (unchanged.status.as_u16(), unchanged.body.as_str()),
        (304, "")
    );
    let patch = json!({"algorithm": "adaptive"});
    let changed = world.send_json("PATCH", path, &patch, Some(&first)).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let second = tag(&changed);
    assert_ne!(first, second);
    let patch = json!({"algorithm": "round_robin"});
    let late = world.send_json("PATCH", path, &patch, Some(&first)).await;
    late.problem(412);
    let either = format!("\"other\", {second}");
    assert_eq!(
        world
            .send_json("PATCH", path, &patch, Some(&either))
            .await
            .status,
        200
    );
    // The same of an instance and of the whole.
    let instance = "/instances/web/127.0.0.1:8001";
    world
        .send_json("DELETE", instance, &Value::Null, Some("\"other\""))
        .await
        .problem(412);
    world
        .send_json("PUT", "/config", &json!({}), Some("\"other\""))
        .await
        .problem(412);
    let nothing = "/services/none";
    world
        .send_json("PUT", nothing, &json!({"instances": []}), Some("*"))
        .await
        .problem(412);

    let demand = json!({"api": {"require_if_match": true}});
    world.change("PATCH", "/config", demand).await.data();
    world
        .change("DELETE", instance, Value::Null)
        .await
        .problem(428);
    let full = format!("/api/v1/loadbalancer{instance}");
    let held = tag(&world.ask(Method::GET, &full).await);
    assert_eq!(
        world
            .send_json("DELETE", instance, &Value::Null, Some(&held))
            .await
            .status,
        200
    );
    // What is not there has no tag.
    let put = world
        .change("PUT", "/services/new", json!({"instances": []}))
        .await;
    assert_eq!(put.status, 201);
}

#[tokio::test]
async fn revisions_tell_who_changed_what_and_lead_back() {
    let (world, _folder) = world("");
    let patch = json!({"weight": 8});
    world
        .change("PATCH", "/instances/web/127.0.0.1:8001", patch)
        .await
        .data();
    let list = world.get("/config/revisions").await;
    assert_eq!(list["config_revision"], 2);
    let [second, first] = list["revisions"].as_array().unwrap().as_slice() else {
        panic!("{list}");
    };
    assert_eq!(
        (&first["cause"], &first["who"]),
        (&"start".into(), &"lb".into())
    );
    assert_eq!(second["who"], "loopback");
    assert_eq!(second["cause"], "PATCH /instances/web/127.0.0.1:8001");
    let summary = second["summary"].as_str().unwrap();
    assert!(
        summary.contains("weight of instance http://127.0.0.1:8001"),
        "{summary}"
    );
    let one = world.get("/config/revisions/2").await;
    let pointer = "/services/web/instances/http:~1~1127.0.0.1:8001/weight";
    assert_eq!(one["diff"], json!([{"pointer": pointer, "after": 8}]));
    assert_eq!(one["document"]["api"]["token"], "(secret)");
    let diff = world.get("/config/revisions/2/diff?to=1").await;
    assert_eq!(diff["diff"], json!([{"pointer": pointer, "before": 8}]));
    let back = world
        .post("/config/revisions/1/rollback?dry_run=true")
        .await
        .data();
    assert_eq!(
        (&back["diff"], world.weights("web")),
        (&diff["diff"], vec![8, 3])
    );
    let back = world.post("/config/revisions/1/rollback").await.data();
    assert_eq!(back["config_revision"], 3);
    assert_eq!(world.weights("web"), [1, 3]);
    let config = world.get("/config").await;
    assert_eq!(config["config_revision"], 3);
    for path in [
        "/config/revisions/9",
        "/config/revisions/9/diff",
        "/config/revisions/1/diff?to=9",
    ] {
        let got = world
            .ask(Method::GET, &format!("/api/v1/loadbalancer{path}"))
            .await;
        assert_eq!(got.problem(404)["type"], "urn:lb:problem:no-such-revision");
    }
    world
        .post("/config/revisions/9/rollback")
        .await
        .problem(404);
    world.post("/config/revisions/1").await.problem(405);
    world
        .post("/config/revisions/x/rollback")
        .await
        .problem(404);
}
