//! Instances: listed, drained, recovering, held by breakers.

use super::*;

#[test]
fn instances_are_listed_drained_and_enabled() {
    let lb = Lb::new();
    let b = lb.world.instance("main-backend", 1);
    lb.world.serve(&b, Outcome::Success, 3, 5);
    lb.world.serve(&b, Outcome::Failure, 1, 5);
    let list = lb.run("instances list").ok();
    assert_eq!(list.lines().count(), 4, "{list}");
    let expected = [
        "main-backend",
        B,
        "enabled",
        "unknown",
        "30/30",
        "1.00",
        "0",
        "4",
        "75 %",
        "5.00 ms",
        "0",
    ];
    assert_eq!(cells(&list, B), expected);
    let list = lb.run("instances list ocr-service").ok();
    assert_eq!(list.lines().count(), 2, "{list}");

    let held = b.begin(Algorithm::Adaptive, 0, &lb.world.clock);
    let text = lb.run(&format!("instances drain main-backend {B}")).ok();
    assert!(
        text.contains("draining: 1 requests, 0 connections left"),
        "{text}"
    );
    assert_eq!(cells(&lb.run("instances list").ok(), B)[2], "draining");
    let errors = lb.run("instances drain main-backend 127.0.0.1:8081 --wait 600ms");
    assert_eq!(errors.code, FAILED);
    assert!(
        errors.errors.contains("1 requests, 0 connections left"),
        "{}",
        errors.errors
    );
    drop(held);
    let text = lb
        .run(&format!("instances drain main-backend {B} --wait"))
        .ok();
    assert!(text.ends_with("is drained\n"), "{text}");
    let text = lb.run(&format!("instance show main-backend {B}")).ok();
    assert!(text.contains("drained        yes"), "{text}");
    assert!(text.contains("weight         0 of 30 configured"), "{text}");

    lb.world.health(&b, Health::Unhealthy, "connection refused");
    let text = lb.run(&format!("instances enable main-backend {B}/")).ok();
    assert!(text.contains("but unhealthy: connection refused"), "{text}");
    let text = lb.run(&format!("instances disable main-backend {A}")).ok();
    assert!(text.contains(A), "{text}");
    let shown = lb.json(&format!("instances show main-backend {A}"));
    assert_eq!(shown["admin"], "disabled");
    assert_eq!(shown["weight"], 10);
}

#[test]
fn a_wait_sees_the_last_request_go() {
    let lb = Lb::new();
    let b = lb.world.instance("main-backend", 1);
    let held = b.begin(Algorithm::Adaptive, 0, &lb.world.clock);
    lb.runtime.spawn(async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        drop(held);
    });
    let text = lb
        .run(&format!("instances drain main-backend {B} --wait 20s"))
        .ok();
    assert!(
        text.contains("is draining\n") && text.ends_with("is drained\n"),
        "{text}"
    );
}

#[test]
fn recoveries_are_listed_and_forced() {
    let lb = Lb::new();
    let list = lb.run("recovery list").ok();
    assert!(
        list.starts_with("every instance has its whole weight"),
        "{list}"
    );
    let b = lb.world.instance("main-backend", 1);
    lb.world.health(&b, Health::Unhealthy, "connection refused");
    lb.world.health(&b, Health::Healthy, "connected");
    lb.world.recover();
    let list = lb.run("recovery list").ok();
    let expected = [
        "main-backend",
        B,
        "healthy",
        "climbing",
        "10 %",
        "3/30",
        "30 s",
        "0",
    ];
    assert_eq!(cells(&list, B), expected);
    assert_eq!(
        cells(&lb.run("instances list").ok(), B)[3],
        "recovering 10 %"
    );
    let text = lb.run(&format!("instances show main-backend {B}")).ok();
    assert!(
        text.contains("recovering 10 %, relapses so far: 0"),
        "{text}"
    );
    let text = lb.run(&format!("recovery force main-backend {B}")).ok();
    assert!(text.ends_with("has its whole weight\n"), "{text}");
    assert_eq!(
        lb.json("recovery list")["recoveries"],
        serde_json::json!([])
    );
}

#[test]
fn breakers_are_listed_held_and_reset() {
    let lb = Lb::new();
    let cells_of = |lb: &Lb, what: &str, name: &str| cells(&lb.run(what).ok(), name);
    let closed = ["main-backend", B, "closed", "0/0", "-", "0"];
    assert_eq!(cells_of(&lb, "breakers list main-backend", B), closed);
    let text = lb.run(&format!("breakers open main-backend {B}")).ok();
    assert!(text.contains("is held open"), "{text}");
    let held = ["main-backend", B, "held open", "-", "-", "1"];
    assert_eq!(cells_of(&lb, "breaker list", B), held);
    assert_eq!(cells_of(&lb, "instances list", B)[3], "breaker held open");
    let text = lb.run(&format!("instances show main-backend {B}")).ok();
    assert!(text.contains("circuit breaker"), "{text}");
    lb.run(&format!("breakers reset main-backend {B}")).ok();
    assert_eq!(cells_of(&lb, "breakers list", B)[2], "closed");
    let text = lb.run("breakers close main-backend").ok();
    assert!(
        text.contains("service main-backend is held closed"),
        "{text}"
    );
    assert_eq!(cells_of(&lb, "breakers list", "(all)")[2], "held closed");
    let errors = lb.run("breakers open nobody").failed(FAILED);
    assert!(errors.contains("nobody"), "{errors}");
}
