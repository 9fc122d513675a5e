//! What a reload cannot change.

use crate::model::{
    AccessLogSpec, ApiSpec, AuditLogSpec, DaemonSpec, DatapathSpec, LogSpec, MetricsSpec,
};

/// The settings that differ between `running` and `wanted` and need a restart, by path; empty
/// when a reload is enough.
#[must_use]
pub fn needs_restart(running: &DaemonSpec, wanted: &DaemonSpec) -> Vec<&'static str> {
    let mut changed = Vec::new();
    let mut compare = |differs: bool, path| {
        if differs {
            changed.push(path);
        }
    };
    // Taken apart by name, so that a new setting cannot be forgotten here.
    let DaemonSpec {
        workers,
        api,
        log,
        access_log,
        audit_log,
        metrics,
        datapath,
        watch,
        state_file,
    } = running;
    compare(*state_file != wanted.state_file, "state.file");
    compare(*workers != wanted.workers, "gateway.workers");
    compare(*watch != wanted.watch, "reload.watch");
    let ApiSpec {
        listen,
        socket,
        on_gateway,
        // In force at once.
        access: _,
        tls: _,
        // Looked up with every change.
        require_if_match: _,
    } = api;
    compare(*listen != wanted.api.listen, "api.listen");
    let other = &wanted.api.socket;
    compare(socket.mode != other.mode, "api.socket_mode");
    compare(socket.owner != other.owner, "api.socket_owner");
    compare(*on_gateway != wanted.api.on_gateway, "api.on_gateway");
    // The filter is in force at once.
    let LogSpec { filter: _, format } = log;
    compare(*format != wanted.log.format, "log.format");
    let AccessLogSpec {
        enabled,
        path,
        sample,
        fields,
    } = access_log;
    let other = &wanted.access_log;
    compare(*enabled != other.enabled, "access_log.enabled");
    compare(*path != other.path, "access_log.path");
    compare(*sample != other.sample, "access_log.sample");
    compare(*fields != other.fields, "access_log.fields");
    let MetricsSpec { max_series } = metrics;
    compare(
        *max_series != wanted.metrics.max_series,
        "metrics.max_series",
    );
    let AuditLogSpec { path } = audit_log;
    compare(*path != wanted.audit_log.path, "audit_log.path");
    let DatapathSpec {
        mode,
        interfaces,
        nat_sources,
        nat_ports,
        max_connections,
        max_tables,
        preallocate,
        path_mtu_discovery,
        max_affinity_clients,
        tcp_idle_timeout,
        udp_idle_timeout,
        next_hop_ttl,
        gue_port,
        icmp_rate,
        echo_rate,
        pin_path,
        log,
    } = datapath;
    let other = &wanted.datapath;
    compare(*mode != other.mode, "datapath.mode");
    compare(*interfaces != other.interfaces, "datapath.interfaces");
    compare(*nat_sources != other.nat_sources, "datapath.nat_sources");
    compare(*nat_ports != other.nat_ports, "datapath.nat_ports");
    compare(
        *max_connections != other.max_connections,
        "datapath.max_connections",
    );
    compare(*max_tables != other.max_tables, "datapath.max_tables");
    compare(*preallocate != other.preallocate, "datapath.preallocate");
    compare(
        *path_mtu_discovery != other.path_mtu_discovery,
        "datapath.path_mtu_discovery",
    );
    compare(
        *max_affinity_clients != other.max_affinity_clients,
        "datapath.max_affinity_clients",
    );
    compare(
        *tcp_idle_timeout != other.tcp_idle_timeout,
        "datapath.tcp_idle_timeout",
    );
    compare(
        *udp_idle_timeout != other.udp_idle_timeout,
        "datapath.udp_idle_timeout",
    );
    compare(*gue_port != other.gue_port, "datapath.gue_port");
    compare(*icmp_rate != other.icmp_rate, "datapath.icmp_rate");
    compare(*echo_rate != other.echo_rate, "datapath.echo_rate");
    compare(*next_hop_ttl != other.next_hop_ttl, "datapath.next_hop_ttl");
    compare(*pin_path != other.pin_path, "datapath.pin_path");
    compare(*log != other.log, "datapath.log");
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_changed_and_nothing_else() {
        let running = DaemonSpec::default();
        assert_eq!(needs_restart(&running, &running.clone()), [""; 0]);
        let mut wanted = running.clone();
        wanted.workers += 1;
        wanted.api.on_gateway ^= true;
        wanted.datapath.nat_ports = (20_000, 30_000);
        assert_eq!(
            needs_restart(&running, &wanted),
            ["gateway.workers", "api.on_gateway", "datapath.nat_ports"]
        );
    }
}
