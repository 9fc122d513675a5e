//! The OpenAPI document: it says what the router does, and the answers are as it says.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The document as it is served.
async fn document(world: &World) -> Value {
    let got = world
        .ask(Method::GET, "/api/v1/loadbalancer/openapi.json")
        .await;
    assert_eq!(got.status, 200);
    assert_eq!(got.header("content-type"), "application/json");
    got.json()
}

/// Path, method in lower case, operation.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    });
    each.collect()
}

/// A path with something in place of its parameters.
fn filled(path: &str) -> String {
    path.replace("{service}", "main-backend")
        .replace("{instance}", "http%3A%2F%2F127.0.0.1%3A8081")
        .replace("{session}", "ba7816bf8f01cfea414140de5dae2223")
        .replace("{route}", "%2A%2Fapi%2Fv1%2Fauth%2F%2A")
        .replace("{vip}", "udp%2F192.0.2.1%3A53")
        .replace("{prefix}", "192.0.2.0%2F24")
        .replace("{revision}", "1")
}

#[tokio::test]
async fn the_router_has_exactly_the_methods_of_the_document() {
    let world = World::new();
    let document = document(&world).await;
    let mut documented = BTreeMap::<&str, BTreeSet<String>>::new();
    for (path, method, _) in operations(&document) {
        let methods = documented.entry(path).or_default();
        methods.insert(method.to_uppercase());
        methods.insert("OPTIONS".to_owned());
        if method == "get" {
            methods.insert("HEAD".to_owned());
        }
    }
    assert!(documented.len() > 30, "{documented:?}");
    for (path, methods) in documented {
        assert!(!filled(path).contains('{'), "{path} has another parameter");
        for slash in ["", "/"] {
            let path = format!("{}{slash}", filled(path));
            world.ask(Method::TRACE, &path).await.problem(405);
            let got = world.ask(Method::OPTIONS, &path).await;
            assert_eq!(
                (got.status.as_u16(), got.body.as_str()),
                (204, ""),
                "{path}"
            );
            let allowed = got.header("allow").split(',').map(|m| m.trim().to_owned());
            assert_eq!(allowed.collect::<BTreeSet<_>>(), methods, "{path}");
        }
    }
}

#[tokio::test]
async fn every_operation_is_described() {
    let world = World::new();
    let document = document(&world).await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let tags = document["tags"].as_array().unwrap();
    let tags: BTreeSet<&str> = tags.iter().map(|t| t["name"].as_str().unwrap()).collect();
    let mut used = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let at = format!("{method} {path}");
        let id = operation["operationId"].as_str().expect(&at);
        assert!(ids.insert(id), "{at}: {id} twice");
        assert!(!operation["summary"].as_str().expect(&at).is_empty());
        let tag = operation["tags"][0].as_str().expect(&at);
        assert!(tags.contains(tag), "{at}: {tag}");
        used.insert(tag);
        let declared = operation["parameters"].as_array();
        for parameter in declared.into_iter().flatten() {
            let description = parameter["description"].as_str().unwrap_or_default();
            assert!(!description.is_empty(), "{at}: {parameter}");
        }
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.contains_key("200"), "{at}");
        let open = operation["security"] == serde_json::json!([{}]);
        assert_eq!(responses.contains_key("401"), !open, "{at}");
        assert_eq!(operation["x-role"].is_string(), !open, "{at}");
    }
    assert_eq!(used, tags, "a tag without operations");
}

#[tokio::test]
async fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document(&World::new()).await;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for reference in &found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let components = document["components"]["schemas"].as_object().unwrap();
    for name in components.keys() {
        let pointer = format!("#/components/schemas/{name}");
        assert!(found.contains(&pointer.as_str()), "{name} is of no use");
    }
}

/// Panics when an answer is not one that the document has for the operation.
fn assert_documented(document: &Value, operation: &Value, got: &Got, at: &str) {
    let status = got.status.as_str();
    let mut response = &operation["responses"][status];
    if let Some(reference) = response["$ref"].as_str() {
        response = document.pointer(&reference[1..]).unwrap();
    }
    assert!(response.is_object(), "{at}: {status} is not documented");
    let media_type = got.header("content-type").split(';').next().unwrap();
    let content = &response["content"][media_type];
    assert!(content.is_object(), "{at}: {status} with {media_type}");
    if !media_type.ends_with("json") {
        return;
    }
    let mut schema = content["schema"].clone();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let faults: Vec<_> = validator
        .iter_errors(&got.json())
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{at}: {faults:#?}\n{}", got.body);
}

#[tokio::test]
async fn answers_are_as_the_document_says() {
    let world = World::new();
    let (a, b) = (
        world.instance("main-backend", 0),
        world.instance("main-backend", 1),
    );
    world.serve(&a, Outcome::Success, 20, 5);
    world.serve(&b, Outcome::Failure, 3, 50);
    world.health(&b, Health::Unhealthy, "503 from GET /health");
    world.recover();
    world.health(&b, Health::Healthy, "200 from GET /health");
    world.recover();
    let document = document(&world).await;
    for (path, method, operation) in operations(&document) {
        // The document itself, and what never ends.
        if path.ends_with("/openapi.json") || path.ends_with("/events") {
            continue;
        }
        let at = format!("{method} {path}");
        let mut parameters = operation["parameters"].as_array().into_iter().flatten();
        let query = if path.ends_with("/explain") {
            "?url=/api/v1/auth/login"
        } else if path.ends_with("/explain/flow") {
            "?source=198.51.100.7:40000&destination=192.0.2.10:80"
        } else if path.ends_with("/acl/match") {
            "?address=192.0.2.7"
        } else if parameters.any(|parameter| parameter["name"] == "dry_run") {
            // What follows is to find everything in its place.
            "?dry_run=true"
        } else {
            ""
        };
        let target = filled(path) + query;
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let mut request = local(method.clone(), &target, Body::empty());
        if let Some(example) = example(&document, operation) {
            *request.body_mut() = Body::from(example.to_string());
            let json = "application/json".parse().unwrap();
            request.headers_mut().insert("content-type", json);
        }
        let got = world.send(request).await;
        let no_session = path.ends_with("{session}") && got.status == 404;
        // No service has a breaker of its own, and there is no packet path.
        let off = ["/advise", "/flow", "/flows"]
            .iter()
            .any(|end| path.ends_with(end))
            && got.status == 409;
        // Routes lead to it.
        let used = at == "delete /api/v1/loadbalancer/services/{service}" && got.status == 422;
        // Nothing of a gateway runs in here.
        let unready = path == "/readyz" && got.status == 503;
        assert!(
            got.status.is_success() || no_session || off || used || unready,
            "{at}: {}",
            got.body
        );
        assert_documented(&document, operation, &got, &at);

        // And when it is refused.
        let far = SocketAddr::from(([192, 0, 2, 7], 1));
        let strange = Request::builder().method(method).uri(&target);
        let strange = strange.body(Body::empty()).unwrap();
        let refused = world.send(with_peer(strange, far)).await;
        assert_documented(&document, operation, &refused, &at);
    }
}

#[tokio::test]
async fn a_body_that_may_be_missing_is_not_demanded() {
    let document = document(&World::new()).await;
    let drain = "/api/v1/loadbalancer/instances/{service}/{instance}/drain";
    let body = &document["paths"][drain]["post"]["requestBody"];
    assert_eq!(body["required"], false, "{body}");
    let schema = &body["content"]["application/json"]["schema"];
    assert!(schema["$ref"].is_string(), "{schema}");
}

/// The example of an operation's body.
fn example(document: &Value, operation: &Value) -> Option<Value> {
    let content = operation["requestBody"]["content"].get("application/json")?;
    let reference = content["schema"]["$ref"].as_str().unwrap();
    let schema = document.pointer(&reference[1..]).unwrap();
    let example = schema.get("example").or_else(|| schema["examples"].get(0));
    let example = example.unwrap_or_else(|| panic!("{reference} has no example: {schema}"));
    Some(example.clone())
}

#[tokio::test]
async fn short_addresses_serve_the_same() {
    let world = World::new();
    let long = document(&world).await;
    let short = world.ask(Method::GET, "/api/v1/openapi.json").await;
    assert_eq!(short.json(), long);
}
