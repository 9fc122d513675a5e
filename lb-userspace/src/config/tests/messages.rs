//! Messages, word for word.

use super::*;

/// A file without faults that cases add to.
const GOOD: &str = r#"
[services.web]
instances = ["10.0.0.1:80", "10.0.0.2:80"]
[[routes]]
path = "/*"
service = "web"
"#;

/// What VIPs need beside them.
const ETH0: &str = "datapath.interfaces = [\"eth0\"]\n";

#[test]
fn an_address_has_no_more_ranges_of_ports_than_the_kernel_looks_at() {
    let vips = |count: u16| {
        let vips = (0..count).map(|number| format!("\"10.0.0.1:{}\"", 1000 + 2 * number));
        let vips = vips.collect::<Vec<_>>().join(", ");
        load_text(&format!(
            "gateway.vips = [\"10.0.0.0/8:80\", {vips}]\n{GOOD}\n"
        ))
    };
    assert!(vips(15).is_ok());
    let found = faults(vips(16));
    let expected = "gateway.vips[16]: expected at most 16 ranges of ports at one address, those of \
                    ranges of addresses around it included; found 17";
    assert!(
        found.len() == 1 && found[0].ends_with(expected),
        "{found:?}"
    );
}

#[test]
fn each_fault_is_said_in_its_own_words() {
    // What is added in front of the good file, what behind it, and the fault without its place.
    let cases: &[(&str, &str, &str)] = &[
        ("gateway = 3", "", "gateway: expected a table; found 3"),
        (
            "defaults.recovery.step = 0.005",
            "",
            "defaults.recovery.step: expected a fraction from 0.01 to 1 in hundredths, such as 0.1; found 0.005",
        ),
        (
            "defaults.recovery.threshold = 80",
            "",
            "defaults.recovery.threshold: expected a fraction from 0.01 to 1 in hundredths, such as 0.8; found 80",
        ),
        (
            "routing = 3",
            "",
            "routing: expected one of the sections access_log, api, audit_log, datapath, defaults, environment, gateway, integration, log, metrics, reload, routes, services, sessions, state, tracing, vips; found \"routing\"",
        ),
        (
            "[service.web]",
            "",
            "service: expected one of the sections access_log, api, audit_log, datapath, defaults, environment, gateway, integration, log, metrics, reload, routes, services, sessions, state, tracing, vips; found \"service\" (did you mean \"services\"?)",
        ),
        (
            "gateway.listen = [\"10.0.0.1\"]",
            "",
            "gateway.listen[0]: expected an IP address and a port from 1 to 65535, or a port alone for 0.0.0.0, such as \"0.0.0.0:8000\"; found \"10.0.0.1\"",
        ),
        (
            "gateway.vips = [\"192.0.2.0/24\"]",
            "",
            "gateway.vips[0]: expected an address or a range of addresses, IPv6 in brackets, and after a colon a port, the first and the last of several, or any, such as \"192.0.2.0/24:8000-8999\"; found \"192.0.2.0/24\"",
        ),
        (
            "gateway.vips = [\"192.0.2.1/24:80\"]",
            "",
            "gateway.vips[0]: expected an address or a range of addresses, IPv6 in brackets, and after a colon a port, the first and the last of several, or any, such as \"192.0.2.0/24:8000-8999\"; found \"192.0.2.1/24:80\"",
        ),
        (
            "gateway.vips = [\"2001:db8::1:80\"]",
            "",
            "gateway.vips[0]: expected an address or a range of addresses, IPv6 in brackets, and after a colon a port, the first and the last of several, or any, such as \"192.0.2.0/24:8000-8999\"; found \"2001:db8::1:80\"",
        ),
        (
            "gateway.vips = [\"[192.0.2.1]:80\"]",
            "",
            "gateway.vips[0]: expected an address or a range of addresses, IPv6 in brackets, and after a colon a port, the first and the last of several, or any, such as \"192.0.2.0/24:8000-8999\"; found \"[192.0.2.1]:80\"",
        ),
        (
            "gateway.vips = [\"192.0.2.1:0\"]",
            "",
            "gateway.vips[0]: expected an address or a range of addresses, IPv6 in brackets, and after a colon a port, the first and the last of several, or any, such as \"192.0.2.0/24:8000-8999\"; found \"192.0.2.1:0\"",
        ),
        (
            "gateway.vips = [\"192.0.2.1:90-80\"]",
            "",
            "gateway.vips[0]: expected an address or a range of addresses, IPv6 in brackets, and after a colon a port, the first and the last of several, or any, such as \"192.0.2.0/24:8000-8999\"; found \"192.0.2.1:90-80\"",
        ),
        (
            "gateway.vips = [\"224.0.0.0/4:80\"]",
            "",
            "gateway.vips[0]: expected an address or a range of addresses, IPv6 in brackets, and after a colon a port, the first and the last of several, or any, such as \"192.0.2.0/24:8000-8999\"; found \"224.0.0.0/4:80\"",
        ),
        (
            "gateway.vips = [\"192.0.2.0/24:80\", \"192.0.2.0/24:80\"]",
            "",
            "gateway.vips[1]: expected every one once; found the same in gateway.vips[0]",
        ),
        (
            "api.listen = [\"127.0.0.1:7700\"]\ngateway.vips = [\"127.0.0.0/8:any\"]",
            "",
            "gateway.vips[0]: expected none that api.listen has, which has 127.0.0.1:7700; found \"127.0.0.0/8:any\"",
        ),
        (
            "gateway.vips = [\"10.0.0.0/24:80-90\"]\ndatapath.interfaces = \"eth0\"",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = \"90-99\"\nservice = \"web\"",
            "gateway.vips[0]: expected addresses and ports that no VIP has, but vips[0] has tcp/10.0.0.9:90-99; found \"10.0.0.0/24:80-90\"",
        ),
        (
            "gateway.listen = [0]",
            "",
            "gateway.listen[0]: expected an IP address and a port from 1 to 65535, or a port alone for 0.0.0.0, such as \"0.0.0.0:8000\"; found 0",
        ),
        (
            "gateway.listen = [81, \"10.0.0.1:81\"]",
            "",
            "gateway.listen[1]: expected an address that is free, but gateway.listen[0] takes 0.0.0.0:81; found \"10.0.0.1:81\"",
        ),
        (
            "gateway.listen = 7700",
            "",
            "api.listen: expected an address that is free, but gateway.listen[0] takes 0.0.0.0:7700; found \"127.0.0.1:7700\"",
        ),
        (
            "gateway.listen = [\"0.0.0.0:81\", \"[::]:81\", \"[::1]:81\"]",
            "",
            "gateway.listen[2]: expected an address that is free, but gateway.listen[1] takes [::]:81; found \"[::1]:81\"",
        ),
        (
            "gateway.listen = 81\napi.listen = \"[::]:81\"",
            "",
            "api.listen: expected an address that is free, but gateway.listen[0] takes 0.0.0.0:81; found \"[::]:81\"",
        ),
        (
            "gateway.max_head_bytes = 4096",
            "",
            "gateway.max_head_bytes: expected a number from 8192 to 16777216, such as 65536; found 4096",
        ),
        (
            "gateway.max_headers = 1.5",
            "",
            "gateway.max_headers: expected a number from 1 to 10000, such as 100; found 1.5",
        ),
        (
            "gateway.drain_timeout = \"1 fortnight\"",
            "",
            "gateway.drain_timeout: expected a duration from 1ms to 1day, such as \"30s\"; found \"1 fortnight\" (unknown time unit \"fortnight\", supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations))",
        ),
        (
            "api.on_gateway = \"yes\"",
            "",
            "api.on_gateway: expected true or false, such as true; found \"yes\"",
        ),
        (
            "api.token = \"a b\"",
            "",
            "api.token: expected 1 to 1024 visible ASCII characters without spaces, such as \"correct-horse-battery-staple\"; found another value",
        ),
        (
            "api.token_file = \"token\"",
            "",
            "api.token_file: expected an absolute path, such as \"/etc/lb/token\"; found \"token\"",
        ),
        (
            "api.token_file = \"/nonexistent/token\"",
            "",
            "api.token_file: expected a readable file (No such file or directory (os error 2)); found \"/nonexistent/token\"",
        ),
        (
            "[[api.tokens]]\nname = \"a\"\nrole = \"read\"",
            "",
            "api.tokens[0]: expected one of token, token_file and token_sha256; found none of them",
        ),
        (
            "[[api.tokens]]\nname = \"a\"\nrole = \"read\"\ntoken = \"t\"\ntoken_sha256 = \"c846af09c88a238676292c8cb78c9ba097ba8f24a11014de6de1c6a510d6db7f\"",
            "",
            "api.tokens[0].token_sha256: expected one of token, token_file and token_sha256; found api.tokens[0].token as well",
        ),
        (
            "[[api.tokens]]\nname = \"a\"\nrole = \"root\"\ntoken = \"t\"",
            "",
            "api.tokens[0].role: expected \"read\", \"operate\" or \"configure\", such as \"read\"; found \"root\"",
        ),
        (
            "[[api.tokens]]\nname = \"a\"\nrole = \"read\"\ntoken_sha256 = \"abc\"",
            "",
            "api.tokens[0].token_sha256: expected 64 hexadecimal digits: the SHA-256 of a token, as sha256sum prints it, such as \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"; found another value",
        ),
        (
            "api.tokens = [{ name = \"a\", role = \"read\", token = \"t\" }, { name = \"a\", role = \"read\", token = \"u\" }]",
            "",
            "api.tokens[1].name: expected every name once, but api.tokens[0].name has it; found \"a\"",
        ),
        (
            "api.token = \"t\"\napi.tokens = [{ name = \"a\", role = \"read\", token = \"t\" }]",
            "",
            "api.tokens[0].name: expected a token of its own, but api.token has it; found the same token",
        ),
        (
            "api.listen = [\"unix:/run/lb/api.sock\", \"unix:api.sock\"]",
            "",
            "api.listen: expected an IP address and a port from 1 to 65535, a port alone for 127.0.0.1, unix: and an absolute path, several of these, or \"off\", such as \"127.0.0.1:7700\"; found a list (what follows unix: is no absolute path of a file)",
        ),
        (
            "api.listen = [7700, \"127.0.0.1:7700\"]",
            "",
            "api.listen: expected an IP address and a port from 1 to 65535, a port alone for 127.0.0.1, unix: and an absolute path, several of these, or \"off\", such as \"127.0.0.1:7700\"; found a list (\"127.0.0.1:7700\" is there twice)",
        ),
        (
            "api.socket_mode = \"0460\"",
            "",
            "api.socket_mode: expected three or four octal digits that let the owner read and write, such as \"0660\"; found \"0460\"",
        ),
        (
            "api.socket_owner = \"root:no-such-group\"",
            "",
            "api.socket_owner: expected a user, :GROUP or USER:GROUP, by name or number, such as \":root\"; found \"root:no-such-group\" (this host has no group \"no-such-group\")",
        ),
        (
            "api.tls.cert = \"/nonexistent/lb.pem\"",
            "",
            "api.tls.cert: expected api.tls.cert and api.tls.key together; found api.tls.cert alone",
        ),
        (
            "api.tls = { cert = \"/nonexistent/lb.pem\", key = \"/nonexistent/lb.key\" }",
            "",
            "api.tls.cert: expected one or more certificates in PEM; found \"/nonexistent/lb.pem\" (I/O error: No such file or directory (os error 2))",
        ),
        (
            "api.tls.require_client_cert = true",
            "",
            "api.tls.require_client_cert: expected false, or api.tls.client_ca to judge certificates by; found true",
        ),
        (
            "api.tls.clients = [{ name = \"ci\", role = \"read\" }]",
            "",
            "api.tls.clients[0].name: expected api.tls.client_ca to judge certificates by; found none",
        ),
        (
            "api.loopback_role = \"all\"",
            "",
            "api.loopback_role: expected \"read\", \"operate\", \"configure\" or \"none\", such as \"read\"; found \"all\"",
        ),
        (
            "log.format = \"yaml\"",
            "",
            "log.format: expected \"text\" or \"json\", such as \"text\"; found \"yaml\"",
        ),
        (
            "datapath.mode = \"skb\"",
            "",
            "datapath.mode: expected \"auto\", \"native\", \"tc\", \"generic\", \"relay\" or \"off\", such as \"auto\"; found \"skb\"",
        ),
        (
            "datapath.interfaces = [\"eth0\", \"eth0\"]",
            "",
            "datapath.interfaces[1]: expected every interface once; found the same in datapath.interfaces[0]",
        ),
        (
            "datapath.interfaces = [\"a/b\"]",
            "",
            "datapath.interfaces[0]: expected the name of a network interface, 1 to 15 characters without spaces, slashes or colons, such as \"eth0\"; found \"a/b\"",
        ),
        (
            "datapath.nat_sources = [\"10.0.0.1\", \"10.0.0.2\"]",
            "",
            "datapath.nat_sources[1]: expected at most one address of each family; found the same in datapath.nat_sources[0]",
        ),
        (
            "gateway.trusted_proxies = [\"10.0.0.0/8\", \"10.0.0.1/8\"]",
            "",
            "gateway.trusted_proxies[1]: expected an address or a range of addresses without bits beyond its length, such as \"10.0.0.0/8\"; found \"10.0.0.1/8\"",
        ),
        (
            "datapath.nat_sources = [\"127.0.0.1\"]",
            "",
            "datapath.nat_sources[0]: expected an IPv4 or IPv6 address of this host that the instances can reach, such as \"10.0.0.1\"; found \"127.0.0.1\"",
        ),
        (
            "datapath.nat_ports = \"30000-20000\"",
            "",
            "datapath.nat_ports: expected the first and the last of at least 1024 ports from 1024 to 65535, such as \"10240-32767\"; found \"30000-20000\" (the first is above the last)",
        ),
        (
            "datapath.pin_path = \"bpf\"",
            "",
            "datapath.pin_path: expected an absolute path on a BPF file system, such as \"/sys/fs/bpf/lb\"; found \"bpf\"",
        ),
        (
            "defaults.hash_key = \"header:\"",
            "",
            "defaults.hash_key: expected \"source\", \"flow\", \"session\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\", such as \"header:x-user\"; found \"header:\"",
        ),
        (
            "defaults.hash_bound = 1",
            "",
            "defaults.hash_bound: expected a factor from 1.01 to 10 in hundredths, or 0 or \"off\" for no bound, such as 1.25; found 1 (with 1 there is no room to move to)",
        ),
        (
            "defaults.health_check = { interval = \"1s\", timeout = \"2s\" }",
            "",
            "defaults.health_check.timeout: expected at most the interval, \"1s\"; found \"2s\"",
        ),
        (
            "defaults.health_check = { type = \"tcp\", status = 200 }",
            "",
            "defaults.health_check.type: expected \"http\", because status is set; found \"tcp\"",
        ),
        (
            "defaults.health_check.status = \"399-200\"",
            "",
            "defaults.health_check.status: expected a status from 100 to 599, or the first and the last of a range, such as \"200-399\"; found \"399-200\" (the first is above the last)",
        ),
        (
            "defaults.health_check.rise = 0",
            "",
            "defaults.health_check.rise: expected a number from 1 to 1000, such as 3; found 0",
        ),
        (
            "defaults.timeouts.request = \"0s\"",
            "",
            "defaults.timeouts.request: expected a duration from 1ms to 1day, such as \"30s\"; found \"0s\"",
        ),
        (
            "defaults.instances = []",
            "",
            "defaults.instances: expected one of the keys of defaults: affinity, algorithm, breaker, concurrency, discovery, fail_open, forwarding, hash_bound, hash_key, health_check, hedge, idle_timeout, limits, load_reports, outlier, queue, recovery, retry, score, slow_start, timeouts, udp_flows, without_instances; found \"instances\"",
        ),
        (
            "services.Web.instances = [\"10.0.0.1:80\"]",
            "",
            "services.Web: expected the name of a service: 1 to 63 lower-case letters, digits or hyphens, without a hyphen at either end; found \"Web\"",
        ),
        (
            "services.api.algorithm = \"adaptive\"",
            "",
            "services.api.instances: expected a list of instances, such as [\"http://10.0.0.2:8080\", { endpoint = \"http://10.0.0.3:8080\", weight = 5 }]; found nothing",
        ),
        (
            "services.api.instances = \"10.0.0.1:80\"",
            "",
            "services.api.instances: expected a list; found \"10.0.0.1:80\"",
        ),
        (
            "services.api.instances = [{ weight = 1 }]",
            "",
            "services.api.instances[0].endpoint: expected an endpoint: http://HOST, http://HOST:PORT or HOST:PORT, such as \"http://10.0.0.2:8080\"; found nothing",
        ),
        (
            "services.api.instances = [\"http://10.0.0.1\", \"10.0.0.1:80\"]",
            "",
            "services.api.instances[1].endpoint: expected every address once in a service, but 10.0.0.1:80 is the address of services.api.instances[0].endpoint too; found \"10.0.0.1:80\"",
        ),
        (
            "services.api.instances = [\"http://no.such.host:1\"]",
            "",
            "services.api.instances[0].endpoint: expected an endpoint: http://HOST, http://HOST:PORT or HOST:PORT, such as \"http://10.0.0.2:8080\"; found \"http://no.such.host:1\" (the host \"no.such.host\" does not resolve: no such host)",
        ),
        (
            "services.api.instances = [3]",
            "",
            "services.api.instances[0].endpoint: expected an endpoint: http://HOST, http://HOST:PORT or HOST:PORT, such as \"http://10.0.0.2:8080\"; found 3",
        ),
        (
            "",
            "[[routes]]\npath = \"/*\"\nservice = \"web\"",
            "routes[1]: expected every destination, host and path in one route; found the same in routes[0]",
        ),
        (
            "",
            "[[routes]]\ndestination = \"10.0.0.7\"\npath = \"/*\"\nservice = \"web\"\n[[routes]]\ndestination = \"10.0.0.7/32:any\"\npath = \"/*\"\nservice = \"web\"",
            "routes[2]: expected every destination, host and path in one route; found the same in routes[1]",
        ),
        (
            "",
            "[[routes]]\ndestination = \"2001:db8::1:80\"\npath = \"/*\"\nservice = \"web\"",
            "routes[1].destination: expected an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after a colon a port, the first and the last of several, or any, such as \"192.0.2.7:443\"; found \"2001:db8::1:80\"",
        ),
        (
            "",
            "[[routes]]\ndestination = \"192.0.2.1/24:80\"\npath = \"/*\"\nservice = \"web\"",
            "routes[1].destination: expected an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after a colon a port, the first and the last of several, or any, such as \"192.0.2.7:443\"; found \"192.0.2.1/24:80\"",
        ),
        (
            "",
            "[[routes]]\ndestination = \"192.0.2.1:0\"\npath = \"/*\"\nservice = \"web\"",
            "routes[1].destination: expected an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after a colon a port, the first and the last of several, or any, such as \"192.0.2.7:443\"; found \"192.0.2.1:0\"",
        ),
        (
            "",
            "[[routes]]\ndestination = \"192.0.2.1:90-80\"\npath = \"/*\"\nservice = \"web\"",
            "routes[1].destination: expected an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after a colon a port, the first and the last of several, or any, such as \"192.0.2.7:443\"; found \"192.0.2.1:90-80\"",
        ),
        (
            "",
            "[[routes]]\ndestination = \"224.0.0.1\"\npath = \"/*\"\nservice = \"web\"",
            "routes[1].destination: expected an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after a colon a port, the first and the last of several, or any, such as \"192.0.2.7:443\"; found \"224.0.0.1\"",
        ),
        (
            "",
            "[[routes]]\ndestination = \"*:80\"\npath = \"/*\"\nservice = \"web\"",
            "routes[1].destination: expected an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after a colon a port, the first and the last of several, or any, such as \"192.0.2.7:443\"; found \"*:80\"",
        ),
        (
            "",
            "[[routes]]\ndestination = \"[::ffff:192.0.2.1]:80\"\npath = \"/*\"\nservice = \"web\"",
            "routes[1].destination: expected an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after a colon a port, the first and the last of several, or any, such as \"192.0.2.7:443\"; found \"[::ffff:192.0.2.1]:80\" (IPv4 addresses are written as such)",
        ),
        (
            "",
            "[[routes]]\ndestination = \"0.0.0.0:80\"\npath = \"/*\"\nservice = \"web\"",
            "routes[1].destination: expected an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after a colon a port, the first and the last of several, or any, such as \"192.0.2.7:443\"; found \"0.0.0.0:80\" (for every address: 0.0.0.0/0)",
        ),
        (
            "",
            "[[routes]]\ndestination = \"[::]\"\npath = \"/*\"\nservice = \"web\"",
            "routes[1].destination: expected an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after a colon a port, the first and the last of several, or any, such as \"192.0.2.7:443\"; found \"[::]\" (for every address: [::/0])",
        ),
        (
            "",
            "[[routes]]\nhost = \"a.b:80\"\npath = \"/a\"\nservice = \"web\"",
            "routes[1].host: expected a host name without port, or *. and a domain, or * for any, such as \"api.example.org\"; found \"a.b:80\"",
        ),
        (
            "",
            "[[routes]]\npath = \"/metrics\"\nservice = \"web\"",
            "routes[1]: expected a path that requests can reach: /metrics and all below is the management API's unless api.on_gateway is false; found \"/metrics\"",
        ),
        (
            "",
            "[[routes]]\npath = \"/api/v1/loadbalancer/stats/*\"\nservice = \"web\"",
            "routes[1]: expected a path that requests can reach: /api/v1/loadbalancer and all below is the management API's unless api.on_gateway is false; found \"/api/v1/loadbalancer/stats\"",
        ),
        (
            "",
            "[[routes]]\npath = \"/a\"\nservice = \"other\"",
            "routes[1].service: expected the name of a service, one of web; found \"other\"",
        ),
        (
            "",
            "[[routes]]\npath = \"/a\"",
            "routes[1].service: expected the name of a service: 1 to 63 lower-case letters, digits or hyphens, without a hyphen at either end, such as \"main-backend\"; found nothing",
        ),
        (
            "",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"",
            "vips[0]: expected datapath.interfaces to name the interface that its packets come in by; found none",
        ),
        (
            "datapath.mode = \"off\"",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"",
            "datapath.mode: expected another mode, because vips[0] is there to be served; found \"off\"",
        ),
        (
            ETH0,
            "[[vips]]\naddress = \"224.0.0.1\"\nport = 80\nservice = \"web\"",
            "vips[0].address: expected an IPv4 or IPv6 unicast address, such as \"10.0.0.100\"; found \"224.0.0.1\"",
        ),
        (
            ETH0,
            "[[vips]]\naddress = \"10.0.0.9\"\nport = 0\nservice = \"web\"",
            "vips[0].port: expected a port from 1 to 65535, the first and the last of several as \"8000-8999\", or \"any\", such as \"8000-8999\"; found 0",
        ),
        (
            ETH0,
            "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nprotocol = \"sctp\"\nservice = \"web\"",
            "vips[0].protocol: expected \"tcp\" or \"udp\", such as \"tcp\"; found \"sctp\"",
        ),
        (
            ETH0,
            "[[vips]]\naddress = \"fd00::9\"\nport = 80\nservice = \"web\"",
            "vips[0].service: expected a service with instances of the VIP's address family, IPv6; found \"web\"",
        ),
        (
            ETH0,
            "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"\n[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"",
            "vips[1]: expected every address, port and protocol in one VIP; found the same in vips[0]",
        ),
        (
            ETH0,
            "[[vips]]\naddress = \"10.0.0.9\"\nport = \"90-80\"\nservice = \"web\"",
            "vips[0].port: expected a port from 1 to 65535, the first and the last of several as \"8000-8999\", or \"any\", such as \"8000-8999\"; found \"90-80\" (the first is above the last)",
        ),
        (
            ETH0,
            "[[vips]]\naddress = \"10.0.0.9\"\nport = \"80-90\"\nservice = \"web\"\n[[vips]]\naddress = \"10.0.0.9\"\nport = \"90-99\"\nservice = \"web\"",
            "vips[1]: expected ranges of ports that have none in common; found tcp/10.0.0.9:90-99 beside tcp/10.0.0.9:80-90 in vips[0]",
        ),
        (
            ETH0,
            "[[vips]]\naddress = \"10.0.0.9\"\nport = \"any\"\nservice = \"web\"\n[[vips]]\naddress = \"10.0.0.9\"\nport = \"any\"\nservice = \"web\"",
            "vips[1]: expected every address, port and protocol in one VIP; found the same in vips[0]",
        ),
        (
            "gateway.listen = \"10.0.0.9:8080\"\ndatapath.interfaces = \"eth0\"",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = \"8000-8999\"\nservice = \"web\"",
            "vips[0]: expected an address and port that is not listened on, but gateway.listen[0] is it; found tcp/10.0.0.9:8000-8999",
        ),
        (
            "gateway.listen = \"10.0.0.9:80\"\ndatapath.interfaces = \"eth0\"",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"",
            "vips[0]: expected an address and port that is not listened on, but gateway.listen[0] is it; found tcp/10.0.0.9:80",
        ),
        (
            "datapath = { interfaces = [\"eth0\"], nat_sources = [\"10.0.0.9\"] }",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"",
            "datapath.nat_sources[0]: expected an address that is no VIP, but vips[0] has it; found \"10.0.0.9\"",
        ),
        (
            "datapath.mode = \"relay\"",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nprotocol = \"udp\"\nservice = \"web\"",
            "vips[0]: expected a VIP that datapath.mode = \"relay\" can serve, but a relay joins TCP connections, and UDP has none; found udp/10.0.0.9:80",
        ),
        (
            "datapath.mode = \"relay\"",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = \"any\"\nservice = \"web\"",
            "vips[0]: expected a VIP that datapath.mode = \"relay\" can serve, but a relay cannot listen on every port; found tcp/10.0.0.9:any",
        ),
        (
            "datapath.mode = \"relay\"",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = \"8000-8999\"\nservice = \"web\"",
            "vips[0]: expected a VIP that datapath.mode = \"relay\" can serve, but a relay listens on each port, and on 256 of a VIP at most; found tcp/10.0.0.9:8000-8999",
        ),
        (
            "datapath = { interfaces = [\"eth0\"], max_tables = 2 }",
            "[[vips]]\naddress = \"10.0.0.9\"\nport = 80\nservice = \"web\"",
            "datapath.max_tables: expected at least 3 for the services that VIPs lead to; found 2",
        ),
    ];
    for (front, behind, expected) in cases {
        let text = format!("{front}\n{GOOD}{behind}\n");
        let found = faults(load_text(&text));
        let [found] = found.as_slice() else {
            panic!(
                "{} faults instead of one in {text}\n{found:#?}",
                found.len()
            );
        };
        let (_, said) = found.split_once(": ").unwrap();
        assert_eq!(said, *expected, "{text}");
    }
}
