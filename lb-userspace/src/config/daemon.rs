//! The sections of the process itself: gateway, log, datapath.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    acl,
    forms::{Choice, Number, Period, Share, Switch},
    origin::Sourced,
    rate_limit,
    reader::Section,
    timeouts::{OrOff, REQUESTS},
    values::{
        ACCESS_LOG, GATEWAY_VIP, INTERFACE, LISTEN, LOG_LEVEL, NAT_SOURCE, PIN_PATH, PORTS,
        TRUSTED_PROXY,
    },
};
use crate::model::{
    AccessLogSpec, AclSpec, DaemonSpec, DatapathMode, DatapathSpec, GatewaySpec, GatewayVip,
    LogField, LogFormat, LogSpec, MetricsSpec,
};

/// A period from `min` milliseconds to `max` seconds.
const fn period(min: u64, max: u64, example: &'static str) -> Period {
    Period {
        min: Duration::from_millis(min),
        max: Duration::from_secs(max),
        example,
    }
}

const fn number<T>(min: T, max: T, example: T) -> Number<T>
where
    T: Copy,
{
    Number { min, max, example }
}

const LOG_FORMAT: Choice<LogFormat> = Choice {
    choices: &[LogFormat::Text, LogFormat::Json],
    name: |format| match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    },
};

const LOG_FIELD: Choice<LogField> = Choice {
    choices: &LogField::ALL,
    name: LogField::as_str,
};

const MODE: Choice<DatapathMode> = Choice {
    choices: &[
        DatapathMode::Auto,
        DatapathMode::Native,
        DatapathMode::Tc,
        DatapathMode::Generic,
        DatapathMode::Relay,
        DatapathMode::Off,
    ],
    name: |mode| match mode {
        DatapathMode::Auto => "auto",
        DatapathMode::Native => "native",
        DatapathMode::Tc => "tc",
        DatapathMode::Generic => "generic",
        DatapathMode::Relay => "relay",
        DatapathMode::Off => "off",
    },
};

/// Where HTTP is listened for when nobody says anything: the guide's port.
pub(super) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8000);

/// `[gateway]`.
#[derive(Debug)]
pub(super) struct ReadGateway {
    pub(super) spec: GatewaySpec,
    pub(super) listeners: Vec<Sourced<SocketAddr>>,
    pub(super) vips: Vec<Sourced<GatewayVip>>,
    pub(super) workers: usize,
}

/// `[datapath]`, and the places that other sections can contradict.
#[derive(Debug)]
pub(super) struct ReadDatapath {
    pub(super) spec: DatapathSpec,
    pub(super) mode: Sourced<DatapathMode>,
    pub(super) max_tables: Sourced<u32>,
    pub(super) interfaces: Vec<Sourced<String>>,
    pub(super) nat_sources: Vec<Sourced<IpAddr>>,
    pub(super) acl: AclSpec,
}

pub(super) fn read_gateway(root: &mut Section<'_, '_>) -> ReadGateway {
    root.table("gateway", |t| {
        let listeners = t.list("listen", &LISTEN, &[DEFAULT_LISTEN]);
        let vips = t.list("vips", &GATEWAY_VIP, &[]);
        let workers = Sourced::unset(DaemonSpec::default().workers);
        let workers = t.value("workers", &number(1, 1024, 4), &workers).value;
        let GatewaySpec {
            vips: _,
            header_timeout,
            keepalive_timeout,
            max_connection_age,
            max_connection_requests,
            max_headers,
            max_head_bytes,
            pool_idle_per_instance,
            pool_idle_timeout,
            drain_timeout,
            trusted_proxies,
            rate_limits: _,
            sessions,
            tracing,
        } = GatewaySpec::default();
        let rate_limits = rate_limit::read(t);
        let trusted_proxies = t.list("trusted_proxies", &TRUSTED_PROXY, &trusted_proxies);
        let mut time = |key, form: Period, unset| t.value(key, &form, &Sourced::unset(unset)).value;
        let header_timeout = time("header_timeout", period(10, 3600, "30s"), header_timeout);
        let keepalive_timeout = time(
            "keepalive_timeout",
            period(10, 24 * 3600, "75s"),
            keepalive_timeout,
        );
        let pool_idle_timeout = time(
            "pool_idle_timeout",
            period(10, 24 * 3600, "60s"),
            pool_idle_timeout,
        );
        let drain_timeout = time("drain_timeout", period(1, 24 * 3600, "30s"), drain_timeout);
        let age = OrOff(period(10, 30 * 24 * 3600, "1h"));
        let unset = Sourced::unset(max_connection_age);
        let max_connection_age = t.value("max_connection_age", &age, &unset).value;
        let (form, unset) = (OrOff(REQUESTS), Sourced::unset(max_connection_requests));
        let max_connection_requests = t.value("max_connection_requests", &form, &unset).value;
        let mut count =
            |key, form: Number<usize>, unset| t.value(key, &form, &Sourced::unset(unset)).value;
        let spec = GatewaySpec {
            vips: vips.iter().map(|vip| vip.value).collect(),
            header_timeout,
            keepalive_timeout,
            max_connection_age,
            max_connection_requests,
            max_headers: count("max_headers", number(1, 10_000, 100), max_headers),
            max_head_bytes: count(
                "max_head_bytes",
                number(8192, 16 << 20, 65_536),
                max_head_bytes,
            ),
            pool_idle_per_instance: count(
                "pool_idle_per_instance",
                number(0, 65_536, 256),
                pool_idle_per_instance,
            ),
            pool_idle_timeout,
            drain_timeout,
            trusted_proxies: trusted_proxies.iter().map(|range| range.value).collect(),
            rate_limits,
            // Sections of their own.
            sessions,
            tracing,
        };
        ReadGateway {
            spec,
            listeners,
            vips,
            workers,
        }
    })
}

pub(super) fn read_log(root: &mut Section<'_, '_>) -> LogSpec {
    root.table("log", |t| {
        let unset = DaemonSpec::default().log;
        LogSpec {
            filter: t
                .value("level", &LOG_LEVEL, &Sourced::unset(unset.filter))
                .value,
            format: t
                .value("format", &LOG_FORMAT, &Sourced::unset(unset.format))
                .value,
        }
    })
}

pub(super) fn read_access_log(root: &mut Section<'_, '_>) -> AccessLogSpec {
    root.table("access_log", |t| {
        let unset = AccessLogSpec::default();
        AccessLogSpec {
            enabled: t
                .value("enabled", &Switch, &Sourced::unset(unset.enabled))
                .value,
            path: t
                .value("path", &ACCESS_LOG, &Sourced::unset(unset.path))
                .value,
            sample: t
                .value("sample", &Share, &Sourced::unset(unset.sample))
                .value,
            fields: t
                .list("fields", &LOG_FIELD, LogField::USUAL)
                .into_iter()
                .map(|field| field.value)
                .collect(),
        }
    })
}

/// `[metrics]`, and whether there are any.
pub(super) fn read_metrics(root: &mut Section<'_, '_>) -> (MetricsSpec, bool) {
    root.table("metrics", |t| {
        let enabled = t.value("enabled", &Switch, &Sourced::unset(true)).value;
        let unset = Sourced::unset(MetricsSpec::default().max_series);
        let series = number(1000, 10_000_000, 50_000);
        let spec = MetricsSpec {
            max_series: t.value("max_series", &series, &unset).value,
        };
        (spec, enabled)
    })
}

/// `[reload]`: whether a change of the file is a reload.
pub(super) fn read_reload(root: &mut Section<'_, '_>) -> bool {
    let unset = DaemonSpec::default().watch;
    root.table("reload", |t| {
        t.value("watch", &Switch, &Sourced::unset(unset)).value
    })
}

pub(super) fn read_datapath(root: &mut Section<'_, '_>) -> ReadDatapath {
    root.table("datapath", |t| {
        let unset = DatapathSpec::default();
        let mode = t.value("mode", &MODE, &Sourced::unset(unset.mode));
        let interfaces = t.list("interfaces", &INTERFACE, &unset.interfaces);
        let nat_sources = t.list("nat_sources", &NAT_SOURCE, &unset.nat_sources);
        let nat_ports = t.value("nat_ports", &PORTS, &Sourced::unset(unset.nat_ports));
        let gue_port = number(1, u16::MAX, 6080);
        let gue_port = t.value("gue_port", &gue_port, &Sourced::unset(unset.gue_port));
        let echo_rate = number(0, u16::MAX, 1000);
        let echo_rate = t.value("echo_rate", &echo_rate, &Sourced::unset(unset.echo_rate));
        let mut count = |key, form: Number<u32>, unset| t.value(key, &form, &Sourced::unset(unset));
        let icmp_rate = count("icmp_rate", number(0, 1_000_000, 100), unset.icmp_rate);
        let max_connections = count(
            "max_connections",
            number(1024, 1 << 26, 1 << 20),
            unset.max_connections,
        );
        let max_tables = count("max_tables", number(2, 1024, 1024), unset.max_tables);
        let max_affinity_clients = count(
            "max_affinity_clients",
            number(1024, 1 << 24, 1 << 20),
            unset.max_affinity_clients,
        );
        let mut time = |key, form: Period, unset| t.value(key, &form, &Sourced::unset(unset)).value;
        let idle = |example| period(1000, 7 * 24 * 3600, example);
        let tcp_idle_timeout = time("tcp_idle_timeout", idle("1h"), unset.tcp_idle_timeout);
        let udp_idle_timeout = time("udp_idle_timeout", idle("60s"), unset.udp_idle_timeout);
        let next_hop_ttl = time("next_hop_ttl", period(10, 3600, "1s"), unset.next_hop_ttl);
        let pin_path = t.value("pin_path", &PIN_PATH, &Sourced::unset(unset.pin_path));
        let log = t.value("log", &Switch, &Sourced::unset(unset.log));
        let preallocate = t.value("preallocate", &Switch, &Sourced::unset(unset.preallocate));
        let learns = Sourced::unset(unset.path_mtu_discovery);
        let learns = t.value("path_mtu_discovery", &Switch, &learns);
        let acl = t.table("acl", acl::read);
        let values = |list: &[Sourced<String>]| list.iter().map(|i| i.value.clone()).collect();
        ReadDatapath {
            spec: DatapathSpec {
                mode: mode.value,
                interfaces: values(&interfaces),
                nat_sources: nat_sources.iter().map(|source| source.value).collect(),
                nat_ports: nat_ports.value,
                gue_port: gue_port.value,
                icmp_rate: icmp_rate.value,
                echo_rate: echo_rate.value,
                max_connections: max_connections.value,
                max_tables: max_tables.value,
                preallocate: preallocate.value,
                path_mtu_discovery: learns.value,
                max_affinity_clients: max_affinity_clients.value,
                tcp_idle_timeout,
                udp_idle_timeout,
                next_hop_ttl,
                pin_path: pin_path.value,
                log: log.value,
            },
            mode,
            max_tables,
            interfaces,
            nat_sources,
            acl,
        }
    })
}
