//! The laws of the layer.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::document::{Document, Found, differences, keyed, natural, undo, with_patch};

fn stamp(revision: u64) -> Stamp {
    Stamp {
        revision,
        who: "test".to_owned(),
        time: "2026-01-15T10:30:00Z".to_owned(),
    }
}

fn tree(document: &Value) -> Table {
    let natural = natural(document, &mut Pointer::new());
    match tree_value(&natural, &Origin::Default) {
        tree::Value::Table(table) => table,
        other => panic!("{other:?}"),
    }
}

/// What `layer` over `base` comes to.
fn over(base: &Value, layer: &Layer) -> Value {
    let mut root = tree(base);
    layer.overlay(&mut root, &mut Vec::new());
    Document::of(&root, &Found::default()).whole
}

fn doc(natural: Value) -> Value {
    keyed(natural, &mut Pointer::new())
}

fn changed(base: &Value, layer: &Layer, target: &Value, revision: u64) -> Layer {
    let mut layer = layer.clone();
    layer.reach(base, &over(base, &layer.clone()), target, stamp(revision));
    layer
}

#[test]
fn a_change_of_one_member_leaves_the_others_to_the_file() {
    let file = doc(
        json!({"services": {"web": {"algorithm": "adaptive", "instances": [
            {"endpoint": "http://a", "weight": 1}, "http://b/",
        ]}}}),
    );
    let mut target = file.clone();
    target["services"]["web"]["instances"]["http://a"]["weight"] = 7.into();
    target["services"]["web"]["instances"]["http://b"]["weight"] = 3.into();
    let layer = changed(&file, &Layer::default(), &target, 1);
    let edited = doc(
        json!({"services": {"web": {"algorithm": "round_robin", "instances": [
            {"endpoint": "http://a", "weight": 2, "max_requests": 9},
            {"endpoint": "http://c", "weight": 4},
        ]}}}),
    );
    let mut notices = Vec::new();
    let mut root = tree(&edited);
    layer.overlay(&mut root, &mut notices);
    let expected = doc(
        json!({"services": {"web": {"algorithm": "round_robin", "instances": [
            {"endpoint": "http://a", "weight": 7, "max_requests": 9},
            {"endpoint": "http://c", "weight": 4},
        ]}}}),
    );
    assert_eq!(Document::of(&root, &Found::default()).whole, expected);
    // What was set of the one that is gone rests until it is back.
    assert_eq!(notices.len(), 1);
    assert!(notices[0].text.contains("http:~1~1b"), "{notices:?}");
    assert!(notices[0].to_string().contains("revision 1"), "{notices:?}");
    assert_eq!(over(&file, &layer), target);
}

#[test]
fn what_is_removed_stays_away_and_what_is_made_anew_stands_alone() {
    let file = doc(json!({"services": {"web": {"instances": ["http://a"], "retry": {"max": 1}}}}));
    let none = doc(json!({"services": {}}));
    let layer = changed(&file, &Layer::default(), &none, 1);
    assert_eq!(over(&file, &layer), none);
    let again = doc(json!({"services": {"web": {"instances": ["http://b"]}}}));
    let layer = changed(&file, &layer, &again, 2);
    assert_eq!(over(&file, &layer), again);
    // Back to what the file says: nothing is left in the layer.
    let layer = changed(&file, &layer, &file, 3);
    assert!(layer.is_empty(), "{layer:?}");
}

#[test]
fn a_layer_says_who_has_set_each_place() {
    let file = doc(json!({"log": {"level": "info"}}));
    let first = doc(json!({"log": {"level": "warn"}}));
    let second = doc(json!({"log": {"level": "warn", "format": "json"}}));
    let layer = changed(&file, &Layer::default(), &first, 1);
    let layer = changed(&file, &layer, &second, 2);
    let mut root = tree(&file);
    layer.overlay(&mut root, &mut Vec::new());
    let tree::Value::Table(log) = &root["log"].value else {
        panic!("{root:?}");
    };
    let origin = |key: &str| log[key].origin.to_string();
    assert_eq!(
        origin("level"),
        "run time (revision 1, by test, at 2026-01-15T10:30:00Z)"
    );
    assert!(origin("format").contains("revision 2"));
    assert!(layer.is_sound());
    // A stamp that nothing bears goes.
    let layer = changed(&file, &layer, &file, 3);
    assert_eq!(layer, Layer::default());
}

#[test]
fn patches_change_members_by_name_and_replace_lists_as_wholes() {
    let before = doc(
        json!({"routes": [{"path": "/a", "service": "web"}, {"path": "/b", "service": "web"}]}),
    );
    let mut by_name = before.clone();
    let patch = json!({"routes": {"*/a": null, "*/b": {"priority": 1}}});
    with_patch(&mut by_name, patch, &mut Pointer::new());
    let expected = json!({"routes": [{"path": "/b", "service": "web", "priority": 1}]});
    assert_eq!(natural(&by_name, &mut Pointer::new()), expected);
    let mut whole = before.clone();
    let patch = json!({"routes": [{"host": "X.example", "path": "/c", "service": "web"}]});
    with_patch(&mut whole, patch, &mut Pointer::new());
    let found = differences(&before, &whole);
    let at: Vec<String> = found.iter().map(|one| pointer_text(&one.at)).collect();
    assert_eq!(at, ["/routes/*~1a", "/routes/*~1b", "/routes/x.example~1c"]);
    assert_eq!(
        found[0].before,
        Some(json!({"path": "/a", "service": "web"}))
    );
    assert_eq!(found[2].before, None);
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        (0i64..4).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
        prop::collection::vec(0i64..3, 0..3).prop_map(Value::from),
        Just(json!(0.25)),
    ]
}

fn section() -> impl Strategy<Value = Value> {
    let nested = prop::collection::btree_map("[a-c]", leaf(), 0..3);
    let value = prop_oneof![
        leaf(),
        nested.prop_map(|members| Value::Object(members.into_iter().collect())),
    ];
    prop::collection::btree_map("[a-c]", value, 0..3)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

fn with(mut object: Value, members: &[(&str, Value)]) -> Value {
    for (key, value) in members {
        object[*key] = value.clone();
    }
    object
}

fn instances() -> impl Strategy<Value = Value> {
    let one = ("[a-d]", section())
        .prop_map(|(host, rest)| with(rest, &[("endpoint", format!("http://{host}").into())]));
    prop::collection::vec(one, 0..4).prop_map(Value::Array)
}

fn service() -> impl Strategy<Value = Value> {
    (section(), prop::option::of(instances())).prop_map(|(rest, instances)| match instances {
        Some(instances) => with(rest, &[("instances", instances)]),
        None => rest,
    })
}

fn document() -> impl Strategy<Value = Value> {
    let services = prop::collection::btree_map("[s-u]", service(), 0..3)
        .prop_map(|services| Value::Object(services.into_iter().collect()));
    let destination = prop::sample::select(vec![None, Some("10.0.0.7"), Some("10.0.0.0/24:80")]);
    let route = ("[a-c]", destination, section()).prop_map(|(path, destination, rest)| {
        let destination = destination.map(|to| ("destination", to.into()));
        let path = ("path", format!("/{path}").into());
        let matched: Vec<_> = destination.into_iter().chain([path]).collect();
        with(rest, &matched)
    });
    let routes = prop::collection::vec(route, 0..3).prop_map(Value::Array);
    let vip = (1u16..4, section()).prop_map(|(port, rest)| {
        with(
            rest,
            &[("address", "10.0.0.1".into()), ("port", port.into())],
        )
    });
    let vips = prop::collection::vec(vip, 0..3).prop_map(Value::Array);
    let parts = (
        section(),
        prop::option::of(services),
        prop::option::of(routes),
        prop::option::of(vips),
    );
    parts.prop_map(|(rest, services, routes, vips)| {
        let named = [("services", services), ("routes", routes), ("vips", vips)];
        let members = named.into_iter();
        let members: Vec<_> = members.filter_map(|(k, v)| Some((k, v?))).collect();
        // Two of one name would go by their places, which are others after a change.
        let whole = doc(with(rest, &members));
        doc(natural(&unique(whole), &mut Pointer::new()))
    })
}

/// Without the members that go by their places.
fn unique(mut value: Value) -> Value {
    if let Value::Object(object) = &mut value {
        object.retain(|key, _| !key.starts_with('#'));
        for value in object.values_mut() {
            *value = unique(value.take());
        }
    }
    value
}

proptest! {
    #[test]
    fn a_layer_reaches_whatever_is_wanted(
        base in document(), later in document(), targets in prop::collection::vec(document(), 1..5),
    ) {
        let mut layer = Layer::default();
        let mut revision = 0;
        for base in [&base, &later] {
            for target in &targets {
                revision += 1;
                layer = changed(base, &layer, target, revision);
                prop_assert_eq!(&over(base, &layer), target);
                prop_assert!(layer.is_sound());
                let text = serde_json::to_string(&layer).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Layer>(&text).unwrap(), &layer);
            }
        }
        layer = changed(&later, &layer, &later, revision + 1);
        prop_assert_eq!(over(&later, &layer), later);
    }

    #[test]
    fn a_difference_applied_to_what_it_is_from_gives_what_it_is_to(
        one in document(), other in document(),
    ) {
        let mut value = one.clone();
        if let Some(patch) = undo(&one, &other) {
            with_patch(&mut value, patch, &mut Pointer::new());
        }
        prop_assert_eq!(&value, &other);
        prop_assert_eq!(differences(&one, &other).is_empty(), one == other);
        prop_assert_eq!(doc(natural(&one, &mut Pointer::new())), one);
    }
}
