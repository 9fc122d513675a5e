//! Lines and files of the access log. How requests come to be records is tested with the proxy.

use std::{sync::Arc, time::SystemTime};

use hyper::Method;

use super::*;
use crate::{
    l7::{Trace, WHOLE},
    model::{Endpoint, Instance, InstanceId, Reason, ServiceLoad},
};

fn record(ending: Ending) -> Record {
    let service = ServiceName::new("main-backend").unwrap();
    let endpoint = Endpoint::parse("http://127.0.0.1:8080").unwrap();
    let id = InstanceId {
        index: 1,
        generation: 0,
    };
    let load = Arc::new(ServiceLoad::new(1));
    let instance = Arc::new(Instance::new(id, service.clone(), endpoint, load));
    Record {
        ended: SystemTime::UNIX_EPOCH + Duration::from_secs(1_705_314_600),
        duration: Duration::from_millis(120),
        method: Method::POST,
        path: "/api/v1/letters".into(),
        client: [192, 168, 1, 100].into(),
        destination: Some(([192, 0, 2, 1], 443).into()),
        trace: Trace::Made(1_705_315_800, 0xab_c123),
        service: Some(service),
        instance: Some(Asked {
            instance,
            score: 0.95,
            connections: 5,
            success_rate: 0.985,
        }),
        attempts: 1,
        ending,
        complete: true,
    }
}

fn text(record: &Record) -> String {
    serde_json::to_string(&Line::of(record, LogFields::USUAL)).unwrap()
}

#[test]
fn the_guides_example_has_the_guides_fields() {
    let expected = concat!(
        r#"{"level":"info","timestamp":"2024-01-15T10:30:00.000Z","message":"request completed","#,
        r#""service":"main-backend","instance":"http://127.0.0.1:8080","method":"POST","#,
        r#""path":"/api/v1/letters","status":200,"duration":"120ms","client_ip":"192.168.1.100","#,
        r#""success":true,"instance_score":0.95,"instance_connections":5,"#,
        r#""instance_success_rate":98.5,"trace_id":"gw-1705315800-abc123"}"#,
    );
    assert_eq!(text(&record(Ending::Answered(200))), expected);
}

#[test]
fn a_line_has_the_fields_that_were_chosen() {
    let fields = [LogField::Status, LogField::TraceId, LogField::Attempts];
    let chosen = fields.into_iter().collect();
    let line = serde_json::to_string(&Line::of(&record(Ending::Answered(200)), chosen));
    let expected = r#"{"status":200,"trace_id":"gw-1705315800-abc123"}"#;
    assert_eq!(line.unwrap(), expected);
    let whole = serde_json::to_string(&Line::of(&record(Ending::Answered(200)), LogFields::ALL));
    let end = r#","destination":"192.0.2.1:443"}"#;
    assert!(whole.as_ref().unwrap().ends_with(end), "{whole:?}");
    // Every field alone is the field of its name, as long as the request has one.
    let mut failed = record(Ending::Refused(Reason::ConnectFailed));
    failed.attempts = 2;
    for field in LogField::ALL {
        let chosen = [field].into_iter().collect();
        let line = serde_json::to_value(Line::of(&failed, chosen)).unwrap();
        let keys: Vec<_> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, [field.as_str()]);
    }
}

#[test]
fn failures_say_what_they_are() {
    let fields = |record: &Record| -> serde_json::Value {
        serde_json::from_str(&text(record)).expect("an object")
    };
    let error = fields(&record(Ending::Answered(500)));
    assert_eq!(
        (&error["level"], &error["success"]),
        (&"warn".into(), &false.into())
    );
    assert_eq!(error.get("reason"), None);
    let mut cut = record(Ending::Answered(200));
    cut.complete = false;
    let cut = fields(&cut);
    assert_eq!(
        (&cut["reason"], &cut["success"]),
        (&"cut_off".into(), &false.into())
    );
    let gone = fields(&record(Ending::ClientGone));
    assert_eq!(
        (&gone["reason"], &gone["status"]),
        (&"client_gone".into(), &499.into())
    );
    let mut retried = record(Ending::Answered(200));
    retried.attempts = 2;
    assert_eq!(fields(&retried)["attempts"], 2);
    let mut nowhere = record(Ending::Refused(Reason::NoRoute));
    (nowhere.service, nowhere.instance) = (None, None);
    let nowhere = fields(&nowhere);
    assert_eq!(
        (&nowhere["reason"], &nowhere["status"]),
        (&"no_route".into(), &404.into())
    );
    for field in [
        "service",
        "instance",
        "instance_score",
        "instance_connections",
    ] {
        assert_eq!(nowhere.get(field), None, "{field}");
    }
}

#[test]
fn a_path_cannot_break_out_of_its_line() {
    let mut odd = record(Ending::Answered(200));
    odd.path = "/\"},\n\u{7}\\{".into();
    let line = text(&odd);
    assert_eq!(line.lines().count(), 1);
    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(read["path"], "/\"},\n\u{7}\\{");
}

#[test]
fn durations_are_written_as_go_does() {
    for (us, expected) in [
        (0, "0s"),
        (350, "350µs"),
        (1_000, "1ms"),
        (1_234, "1.234ms"),
        (120_000, "120ms"),
        (1_500_000, "1.5s"),
        (123_000_000, "2m3s"),
        (3_600_000_000, "1h0m0s"),
    ] {
        assert_eq!(go_duration(Duration::from_micros(us)), expected);
    }
}

#[test]
fn a_log_that_cannot_be_opened_says_which_setting_is_wrong() {
    let spec = AccessLogSpec {
        enabled: true,
        path: Some("/nowhere/access.log".into()),
        sample: WHOLE,
        fields: LogFields::ALL,
    };
    let error = open(&spec).unwrap_err().to_string();
    assert!(
        error.contains("/nowhere/access.log") && error.contains("access_log.path"),
        "{error}"
    );
    assert!(open(&AccessLogSpec::default()).unwrap().is_none());
}
