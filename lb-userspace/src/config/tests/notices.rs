//! What is right, and yet hardly meant.

use super::*;

#[test]
fn a_destination_that_nothing_is_served_at_is_noticed() {
    let notices = |gateway: &str, destination: &str| {
        let text = format!(
            "{gateway}\n[services.web]\ninstances = [\"10.0.0.1:80\"]\n[[routes]]\n\
             destination = {destination:?}\npath = \"/*\"\nservice = \"web\"\n"
        );
        let notices = load_text(&text).unwrap().notices;
        notices.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let any = "gateway.listen = [\"0.0.0.0:80\"]";
    let one = "gateway.listen = [\"10.0.0.7:80\", \"[::]:81\"]";
    let vips = "gateway.listen = []\ngateway.vips = [\"10.0.0.0/24:80\"]";
    for (gateway, destination) in [
        (any, "10.0.0.8:80"),
        (any, "10.0.0.0/8"),
        (one, "10.0.0.0/8:80-90"),
        (one, "[2001:db8::1]:81"),
        (vips, "10.0.0.9"),
        (vips, "10.0.0.0/8:any"),
    ] {
        let none: [&str; 0] = [];
        assert_eq!(notices(gateway, destination), none, "{gateway}");
    }
    for (gateway, destination) in [
        (any, "10.0.0.8:81"),
        (any, "[2001:db8::1]:80"),
        (one, "10.0.0.8:80"),
        (one, "10.0.0.7:81"),
        (vips, "10.0.1.9:80"),
        (vips, "10.0.0.0/24:81-90"),
    ] {
        let found = notices(gateway, destination);
        let expected = format!(
            "routes[0].destination: neither gateway.listen nor gateway.vips has anything of \
             {destination}, so no request comes by this route"
        );
        assert!(
            found.len() == 1 && found[0].ends_with(&expected),
            "{gateway}: {found:?}"
        );
    }
}

#[test]
fn a_key_that_packets_do_not_have_is_noticed_where_there_are_only_packets() {
    let notices = |key: &str, more: &str| {
        let text = format!(
            "datapath.interfaces = [\"eth0\"]\n[services.web]\ninstances = [\"10.0.0.1:80\"]\n\
             algorithm = \"consistent_hash\"\nhash_key = \"{key}\"\n[[vips]]\n\
             address = \"10.0.0.9\"\nport = 80\nservice = \"web\"\n{more}"
        );
        load_text(&text).unwrap().notices.len()
    };
    let route = "[[routes]]\npath = \"/*\"\nservice = \"web\"\n";
    assert_eq!(notices("cookie:sid", ""), 1);
    assert_eq!(notices("cookie:sid", route), 0);
    assert_eq!((notices("source", ""), notices("flow", "")), (0, 0));
}

/// The notices of a configuration with a packet path, as `lb check` tells them.
fn notices(text: &str) -> Vec<String> {
    let text = format!("datapath.interfaces = [\"eth0\"]\n{text}");
    let config = load_text(&text).unwrap_or_else(|faults| panic!("{faults}"));
    config.notices.iter().map(ToString::to_string).collect()
}

#[test]
fn instances_whose_family_no_vip_of_their_service_has_are_noticed() {
    const V4: &str = "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"\n";
    const V6: &str = "[[vips]]\naddress = \"fd00::9\"\nport = 80\nservice = \"web\"\n";
    let found = |instances: &str, more: &str, vips: &str| {
        notices(&format!(
            "[services.web]\ninstances = [{instances}]\n{more}\n{vips}"
        ))
    };
    let both = "\"10.0.0.1:80\", \"[fd00::1]:80\"";
    assert_eq!(
        found(both, "", V4),
        [
            "lb.toml:3:29: services.web.instances[1].endpoint: is of IPv6 and all VIPs of the service \
             are of IPv4, so it gets no packets of any VIP"
        ]
    );
    let more = &format!("{both}, \"[fd00::2]:80\", \"[fd00::3]:80\"");
    let notice = found(more, "forwarding = \"dnat\"", V4).concat();
    assert!(
        notice.ends_with("; nor does any other of IPv6 (2)"),
        "{notice}"
    );
    let notice = found(both, "forwarding = \"l2dsr\"", V6).concat();
    assert!(
        notice.contains("instances[0].endpoint: is of IPv4"),
        "{notice}"
    );
    // VIPs of both families need instances of both; and where packets stay as they are, those of the
    // other family do when there is nobody else.
    assert_eq!(found(both, "", &format!("{V4}{V6}")), [""; 0]);
    assert_eq!(
        found("\"[fd00::1]:80\"", "forwarding = \"gue\"", V4),
        [""; 0]
    );
    // Connections of a relay are two, of any family each.
    let relayed = format!("{V4}[datapath]\nmode = \"relay\"\n");
    let relayed = format!("[services.web]\ninstances = [{both}]\n{relayed}");
    assert_eq!(load_text(&relayed).unwrap().notices, []);
}

#[test]
fn what_a_relay_that_is_asked_for_does_not_do_is_noticed() {
    let found = |mode: &str, limits: &str| {
        notices(&format!(
            "datapath.mode = \"{mode}\"\n{limits}\n[services.web]\ninstances = [\"10.0.0.1:80\"]\n\
             [[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"\n"
        ))
    };
    let limits = "defaults.limits = { new_connections = 9, source_new_connections = 9, \
                  syn_cookies_above = 9 }\ndefaults.forwarding = \"dnat\"\n\
                  datapath.acl.rules = { \"192.0.2.0/24\" = \"deny\" }";
    let told = found("relay", limits);
    let of_service = "services.web: with datapath.mode = \"relay\" ";
    for what in [
        &format!("{of_service}instances get connections to their own addresses"),
        &format!("{of_service}limits.new_connections does not hold"),
        &format!("{of_service}limits.source_new_connections does not hold"),
        &format!("{of_service}limits.syn_cookies_above has no effect"),
        "datapath.acl: with datapath.mode = \"relay\" the source ACL",
    ] {
        let lines = told.iter().filter(|line| line.contains(what));
        assert_eq!(lines.count(), 1, "{what}: {told:#?}");
    }
    assert_eq!(told.len(), 5, "{told:#?}");
    assert_eq!(found("relay", ""), [""; 0]);
    // Nobody knows beforehand what `auto` comes to.
    assert_eq!(found("auto", limits), [""; 0]);
}
