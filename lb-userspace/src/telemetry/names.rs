//! Every metric that lb has, once.
//!
//! The `gateway_*` names and their labels are the guide's and are a contract. lb's own begin with
//! `lb_`. Units are base units (seconds, bytes, ratios from 0 to 1); what only grows ends in
//! `_total`, but for the guide's `gateway_instance_total_requests`, which is exposed as a gauge
//! because scrapers expect that suffix of a counter.
//!
//! To add a metric: declare it here, add it to a collector and to `docs/metrics.md`; a test
//! compares the three.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// A metric: a name, what it says, and the labels of its series in order.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
}

macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = concat!("`", $name, "`: ", $help)]
            pub const $constant: Family = Family {
                name: $name,
                help: $help,
                kind: Kind::$kind,
                labels: &[$($label),*],
            };
        )+

        /// All of them, in the order of the documentation.
        pub const ALL: &[&Family] = &[$(&$constant),+];
    };
}

families! {
    REQUESTS: Counter "gateway_load_balancer_request_total"
        ["service", "algorithm", "instance", "success"]
        "HTTP requests that an instance was asked, by whether it answered below 500.";
    RESPONSE_TIME: Histogram "gateway_load_balancer_response_time_seconds"
        ["service", "algorithm", "instance"]
        "Time from the start of a request to an instance to the head of its answer.";
    SERVED: Counter "lb_requests_total"
        ["service", "status"]
        "Requests of clients for the service that have ended, by the class of their answers.";
    SERVED_DURATION: Histogram "lb_request_duration_seconds"
        ["service"]
        "Time from the head of a client's request to the end of its answer.";
    SERVED_CUT: Counter "lb_answers_cut_total"
        ["service"]
        "Answers that ended before their end, whoever broke them off.";
    SERVED_RECEIVED: Counter "lb_request_body_bytes_total"
        ["service"]
        "Bytes of the bodies of clients' requests.";
    SERVED_SENT: Counter "lb_answer_body_bytes_total"
        ["service"]
        "Bytes of the bodies of instances' answers that clients were given.";
    ACTIVE_CONNECTIONS: Gauge "gateway_instance_active_connections"
        ["service", "instance"]
        "HTTP requests in flight to the instance and connections open in the kernel.";
    TOTAL_REQUESTS: Gauge "gateway_instance_total_requests"
        ["service", "instance"]
        "HTTP requests that the instance was asked since the daemon knows it.";
    SUCCESS_RATE: Gauge "gateway_instance_success_rate"
        ["service", "instance"]
        "Answers below 500 of the requests of the last 60 s, 0 to 1; absent without requests.";
    AVERAGE_RESPONSE_TIME: Gauge "gateway_instance_average_response_time"
        ["service", "instance"]
        "Mean seconds to the head of an answer over the last 60 s; absent without requests.";
    HEALTH_SCORE: Gauge "gateway_instance_health_score"
        ["service", "instance"]
        "Health score, 0 to 1; 1 before anything was measured.";

    ANSWERS: Counter "lb_answers_total"
        ["service", "reason"]
        "Answers that lb made itself instead of passing on an instance's, by reason.";
    RETRIES: Counter "lb_retries_total"
        ["service", "reason"]
        "Requests that were sent once more, by what the try before failed with.";
    HEDGES: Counter "lb_hedges_total"
        ["service", "result"]
        "Requests that were slow enough to be sent to a second instance, by what came of it.";
    RETRIES_REFUSED: Counter "lb_retries_refused_total"
        ["service", "reason"]
        "Requests that failed and were not sent once more, by why not.";
    SESSION_REQUESTS: Counter "lb_session_requests_total" ["service", "result"]
        "Requests of services with affinity by what became of it.";
    SESSION_BREAKS: Counter "lb_session_breaks_total" ["service", "reason"]
        "Sessions that left the instance that they were pinned to.";
    SESSION_REFUSALS: Counter "lb_session_refused_total" ["service", "claim"]
        "Tokens and cookies that claimed a session and were not believed.";
    SESSIONS: Gauge "lb_sessions" []
        "Sessions that are remembered, one for each service that a session uses.";
    SESSION_CAPACITY: Gauge "lb_sessions_capacity" []
        "Most sessions that are remembered.";
    SESSION_BYTES: Gauge "lb_session_store_bytes" []
        "Memory that the sessions take.";
    SESSION_ENDS: Counter "lb_session_ends_total" ["cause"]
        "Sessions that were forgotten because their time was over or the memory full.";
    WEIGHT: Gauge "lb_instance_weight"
        ["service", "instance"]
        "Configured weight.";
    EFFECTIVE_WEIGHT: Gauge "lb_instance_effective_weight"
        ["service", "instance"]
        "Weight in both data planes, in units of the configured one; 0 takes no new traffic.";
    RECOVERY_SHARE: Gauge "lb_instance_recovery_share"
        ["service", "instance"]
        "Share of its weight that the instance has, 0 to 1; below 1 while it recovers.";
    BREAKER: Gauge "lb_instance_breaker_state"
        ["service", "instance", "state"]
        "1 for the state that the circuit breaker is in, 0 for the others.";
    BREAKER_TRANSITIONS: Counter "lb_instance_breaker_transitions_total"
        ["service", "instance", "to"]
        "How often the circuit breaker came into each state.";
    BREAKER_SPARED: Counter "lb_instance_breaker_spared_seconds_total"
        ["service", "instance"]
        "Seconds in which the circuit breaker had cause to open and did not, because the instance serves as much as others or too many fail.";
    SERVICE_BREAKER: Gauge "lb_service_breaker_state"
        ["service", "state"]
        "1 for the state that the service's own circuit breaker is in, 0 for the others.";
    SERVICE_BREAKER_TRANSITIONS: Counter "lb_service_breaker_transitions_total"
        ["service", "to"]
        "How often the service's own circuit breaker came into each state.";
    EJECTED: Gauge "lb_instance_ejected"
        ["service", "instance"]
        "1 while the instance is ejected, else 0.";
    EJECTIONS: Counter "lb_instance_ejections_total"
        ["service", "instance", "detector"]
        "Ejections of the instance, by what found it to stand out.";
    SLOW_START_SHARE: Gauge "lb_instance_slow_start_share"
        ["service", "instance"]
        "Share of its weight that slow start leaves the instance, 0 to 1; 1 without.";
    FAIL_OPEN: Gauge "lb_service_fail_open"
        ["service", "reason"]
        "1 for the reason why traffic goes to instances that should not have any, else 0.";
    DIVERTED: Gauge "lb_service_diverted"
        ["service"]
        "1 while its fallback serves the service's traffic because the service has nobody, else 0.";
    HEALTH: Gauge "lb_instance_health"
        ["service", "instance", "state"]
        "1 for the state that the health checks found, 0 for the others.";
    ADMIN: Gauge "lb_instance_admin"
        ["service", "instance", "state"]
        "1 for the state that the operator asked for, 0 for the others.";
    PROBE_LATENCY: Gauge "lb_instance_probe_latency_seconds"
        ["service", "instance"]
        "Moving average of the time that health checks take; absent until one has passed.";
    CHECKS: Counter "lb_instance_checks_total"
        ["service", "instance", "result"]
        "Health checks of the instance, by what they found: passed or failed.";
    CONNECTIONS: Gauge "lb_instance_open_connections"
        ["service", "instance"]
        "Connections of the proxy open to the instance, in use or kept for the next request.";
    CONNECTIONS_IDLE: Gauge "lb_instance_idle_connections"
        ["service", "instance"]
        "Those of them that are kept for the next request.";
    CONNECTIONS_MAX: Gauge "lb_instance_max_connections"
        ["service", "instance"]
        "Connections that proxy and kernel may each have to the instance; absent without a limit.";
    SERVICE_CONNECTIONS_MAX: Gauge "lb_service_max_connections"
        ["service"]
        "Connections that proxy and kernel may each have to all instances; absent without a limit.";
    DISCOVERY_STATE: Gauge "lb_discovery_state"
        ["service", "kind", "source", "state"]
        "1 for the state that the source of instances is in, 0 for the others.";
    DISCOVERY_INSTANCES: Gauge "lb_discovery_instances"
        ["service", "kind", "source"]
        "Instances that the source has named last.";
    DISCOVERY_LOOKS: Counter "lb_discovery_looks_total"
        ["service", "kind", "source", "result"]
        "Looks at the source of instances, by whether they succeeded or failed.";
    DISCOVERY_AGE: Gauge "lb_discovery_age_seconds"
        ["service", "kind", "source"]
        "Time since the source of instances was last asked with success; absent before that.";
    CONCURRENCY_LIMIT: Gauge "lb_concurrency_limit"
        ["service"]
        "Requests that the service can have in flight, as found by latency; absent when it is off.";
    QUEUE_WAITING: Gauge "lb_queue_waiting"
        ["service"]
        "Requests that wait for a place in the service; absent where none may wait.";
    QUEUE_WAIT: Histogram "lb_queue_wait_seconds"
        ["service"]
        "How long requests that got a place in the service had waited for it.";
    RATE_LIMITED: Counter "lb_rate_limited_total"
        ["scope", "name", "limit"]
        "Requests that a rate limit refused, by what it limits and how.";
    RATE_LIMIT_CROWDED: Counter "lb_rate_limit_crowded_total"
        ["scope", "name", "limit"]
        "Requests whose key found no room for a budget of its own, as too many were in use.";
    GATEWAY_ACCEPTED: Counter "lb_gateway_connections_total"
        []
        "Client connections that the gateway's listeners accepted.";
    GATEWAY_STEERED: Counter "lb_gateway_steered_connections_total"
        ["result"]
        "Connections for gateway.vips that the kernel has handed over, or found no socket for.";
    GATEWAY_OPEN: Gauge "lb_gateway_open_connections"
        []
        "Client connections open now, tunnels not included.";
    GATEWAY_BUSY: Counter "lb_gateway_busy_seconds_total"
        ["worker"]
        "How long a worker of the proxy did not wait for something to do.";
    GATEWAY_ANSWERS: Counter "lb_gateway_answers_total"
        ["reason"]
        "Answers that lb made to requests that reached no service, by reason.";
    GATEWAY_CLOSED: Counter "lb_gateway_closed_total"
        ["reason"]
        "Connections of clients that lb closed because a limit of time had passed, by which.";
    ACCESS_LOG_DROPPED: Counter "lb_access_log_dropped_total"
        []
        "Requests that the access log should have and has not, as it could not keep up.";
    AUDIT_LOG_DROPPED: Counter "lb_audit_log_dropped_total"
        []
        "Lines that the file of the audit log should have and has not, as it could not be written.";
    INTEGRATION_EXCHANGES: Counter "lb_integration_exchanges_total"
        ["integration", "result"]
        "Exchanges with systems beside lb, by whether they did what they should.";
    INTEGRATION_DELIVERED: Counter "lb_integration_delivered_total"
        ["integration"]
        "What systems beside lb have taken: outcomes of requests, samples, spans.";
    INTEGRATION_DROPPED: Counter "lb_integration_dropped_total"
        ["integration"]
        "What was meant for systems beside lb and given up.";
    INTEGRATION_WAITING: Gauge "lb_integration_waiting"
        ["integration"]
        "What waits for systems beside lb to take it.";
    INTEGRATION_SUCCESS: Gauge "lb_integration_last_success_timestamp_seconds"
        ["integration"]
        "When an exchange last did what it should, in Unix seconds; absent before the first.";
    BACKEND_BREAKER: Gauge "lb_breaker_backend_state"
        ["service", "state"]
        "1 for what the circuit-breaker backend has said of the service, else 0.";
    REVISION: Gauge "lb_revision"
        []
        "Revision of the state; grows with each change.";
    RELOADS: Counter "lb_reloads_total"
        ["result"]
        "Reloads of the configuration: applied, or refused and without effect.";

    L4_INSTANCE_PACKETS: Counter "lb_l4_instance_packets_total"
        ["service", "instance", "direction"]
        "Packets from clients (in) and from the instance (out, where they come back through lb).";
    L4_INSTANCE_BYTES: Counter "lb_l4_instance_bytes_total"
        ["service", "instance", "direction"]
        "Bytes of those packets, Ethernet headers included; what was sent, where the relay serves.";
    L4_INSTANCE_CONNECTIONS: Counter "lb_l4_instance_connections_total"
        ["service", "instance"]
        "Connections of VIPs that the instance was given.";
    L4_INSTANCE_DROPPED: Counter "lb_l4_instance_dropped_packets_total"
        ["service", "instance"]
        "Packets of the instance's connections, in either direction, that were not forwarded.";
    L4_INSTANCE_LIVE: Gauge "lb_l4_instance_live_connections"
        ["service", "instance"]
        "Connections of VIPs that are open.";
    L4_MODE: Gauge "lb_l4_mode"
        ["mode"]
        "1 for how VIPs are served: native, tc, generic, or relay where the daemon does it itself.";
    L4_ATTACHED: Gauge "lb_l4_attached"
        ["interface", "mode"]
        "1 for each interface that the packet path is attached to.";
    L4_RECEIVED: Counter "lb_l4_received_packets_total"
        []
        "Packets that the program in the kernel saw: the sum of lb_l4_packets_total.";
    L4_PACKETS: Counter "lb_l4_packets_total"
        ["result", "reason"]
        "What became of the packets: forwarded, passed to the host, or dropped, and why.";
    L4_EVENTS: Counter "lb_l4_events_total"
        ["event"]
        "What else happened in the program in the kernel.";
    L4_FLOW_FOLLOWERS: Gauge "lb_l4_flow_followers"
        []
        "Who follows packets now; while nobody does, none is recorded.";
    L4_FLOW_EVENTS: Counter "lb_l4_flow_events_total"
        ["result"]
        "Events that those who follow packets have got (delivered), or were too slow for (lost).";
    L4_VIP_PACKETS: Counter "lb_l4_vip_packets_total"
        ["vip", "service", "direction"]
        "Packets from clients (in) and from instances (out, where they come back through lb).";
    L4_VIP_BYTES: Counter "lb_l4_vip_bytes_total"
        ["vip", "service", "direction"]
        "Bytes of those packets, Ethernet headers included; what was sent, where the relay serves.";
    L4_VIP_CONNECTIONS: Counter "lb_l4_vip_connections_total"
        ["vip", "service"]
        "Connections begun.";
    L4_VIP_LIVE: Gauge "lb_l4_vip_live_connections"
        ["vip", "service"]
        "Connections that are open, as of the last walk over the connection table; of a relay now.";
    L4_VIP_DROPPED: Counter "lb_l4_vip_dropped_packets_total"
        ["vip", "service"]
        "Packets for the VIP that were refused.";
    L4_VIP_DROPS: Counter "lb_l4_vip_drops_total"
        ["vip", "service", "reason"]
        "Packets for the VIP that were refused, by reason; only reasons that have occurred.";
    L4_VIP_GENERATION: Gauge "lb_l4_vip_table_generation"
        ["vip", "service"]
        "How often the VIP was pointed to another table.";
    L4_RELAY_REFUSED: Counter "lb_l4_relay_refused_connections_total"
        ["vip", "service", "reason"]
        "Clients' connections that the relay has reset instead of passing them on, and why.";
    L4_RELAY_MAX: Gauge "lb_l4_relay_connections_max"
        []
        "Connections that the relay may have open.";
    L4_ENTRIES: Gauge "lb_l4_connection_entries"
        []
        "Entries of the connection table; a nat connection has two.";
    L4_ENTRIES_MAX: Gauge "lb_l4_connection_entries_max"
        []
        "Entries that fit into the connection table.";
    L4_FORGOTTEN: Counter "lb_l4_connections_forgotten_total"
        []
        "Entries removed because their idle time was over.";
    L4_CLIENTS: Gauge "lb_l4_affinity_clients"
        []
        "Clients whose instance the kernel remembers.";
    L4_CLIENTS_MAX: Gauge "lb_l4_affinity_clients_max"
        []
        "Clients whose instance the kernel can remember.";
    L4_TABLES: Gauge "lb_l4_tables"
        []
        "Tables that VIPs point to.";
    L4_TABLES_MAX: Gauge "lb_l4_tables_max"
        []
        "Tables that VIPs could point to.";
    L4_ACL_RULES: Gauge "lb_l4_acl_rules"
        ["action"]
        "Rules of the source ACL: those that allow and those that deny.";
    L4_ACL_LIST_FAULTY: Gauge "lb_l4_acl_list_faulty"
        ["file"]
        "1 when a file of prefixes has faults and what it said before holds, else 0.";
    L4_REVISION: Gauge "lb_l4_revision"
        []
        "Revision that the kernel holds completely; behind lb_revision while it is brought in.";
    L4_WRITES: Counter "lb_l4_writes_total"
        []
        "Values written into the kernel's maps.";
    L4_FAILURES: Counter "lb_l4_reconcile_failures_total"
        []
        "Failed attempts to bring the state into the kernel.";
    L4_RECONCILE_TIME: Gauge "lb_l4_reconcile_duration_seconds"
        []
        "How long the last pass over the maps took.";

    SERIES: Gauge "lb_metrics_series" []
        "Series that this answer has.";
    SERIES_MAX: Gauge "lb_metrics_series_max" []
        "Series that an answer may have.";
    SERIES_FOLDED: Gauge "lb_metrics_folded" ["kind"]
        "Instances or services that have no series of their own, because there would be too many.";
    BUILD: Gauge "lb_build_info"
        ["version"]
        "1; the label says which lb this is.";
    UPTIME: Gauge "lb_uptime_seconds"
        []
        "Time since the daemon started.";
    CPU: Counter "process_cpu_seconds_total"
        []
        "Processor time of the daemon, user and system; the kernel path is not in it.";
    RESIDENT: Gauge "process_resident_memory_bytes"
        []
        "Resident memory of the daemon.";
    VIRTUAL: Gauge "process_virtual_memory_bytes"
        []
        "Virtual memory of the daemon.";
    OPEN_FDS: Gauge "process_open_fds"
        []
        "Open file descriptors.";
    MAX_FDS: Gauge "process_max_fds"
        []
        "File descriptors that may be open.";
    THREADS: Gauge "process_threads"
        []
        "Threads of the daemon.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_the_format() {
        let mut seen = HashSet::new();
        for family in ALL {
            assert!(seen.insert(family.name), "{} twice", family.name);
            let fits = |text: &str| {
                text.starts_with(|c: char| c.is_ascii_lowercase())
                    && text
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            };
            assert!(fits(family.name), "{}", family.name);
            assert!(
                family
                    .labels
                    .iter()
                    .all(|label| fits(label) && *label != "le")
            );
            assert!(family.help.ends_with('.'), "{}", family.name);
            let total = family.name.ends_with("_total");
            assert_eq!(family.kind == Kind::Counter, total, "{}", family.name);
            let reserved = ["_count", "_sum", "_bucket"];
            assert!(
                !reserved.iter().any(|end| family.name.ends_with(end)),
                "{}",
                family.name
            );
        }
    }

    #[test]
    fn every_metric_is_documented_with_its_labels() {
        let docs = include_str!("../../../docs/metrics.md");
        for family in ALL {
            let line = docs
                .lines()
                .find(|line| line.starts_with(&format!("| `{}` |", family.name)))
                .unwrap_or_else(|| panic!("{} is not in docs/metrics.md", family.name));
            for label in family.labels {
                assert!(line.contains(&format!("`{label}`")), "{label} in {line}");
            }
        }
        for word in docs
            .split('`')
            .filter(|word| !word.contains(['{', '=', '(', ' ']))
        {
            if word.starts_with("gateway_") || word.starts_with("lb_") && !word.contains("::") {
                assert!(
                    ALL.iter().any(|family| family.name == word),
                    "{word} does not exist"
                );
            }
        }
    }

    #[test]
    fn dashboard_and_alerts_name_metrics_that_exist() {
        for (file, least) in [
            (include_str!("../../../examples/grafana-dashboard.json"), 20),
            (include_str!("../../../examples/alerts.yml"), 10),
        ] {
            let mut seen = HashSet::new();
            let word = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            for word in file.split(word) {
                let of_lb = ["lb_", "gateway_", "process_"];
                if of_lb.iter().any(|start| word.starts_with(start)) {
                    let name = word.trim_end_matches("_bucket");
                    assert!(ALL.iter().any(|family| family.name == name), "{word}");
                    seen.insert(name);
                }
            }
            assert!(seen.len() >= least, "{seen:?}");
        }
        let dashboard = include_str!("../../../examples/grafana-dashboard.json");
        let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        assert_eq!(dashboard["panels"][0]["type"], "row");
    }
}
