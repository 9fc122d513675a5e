//! `/explain/flow`: packets are read or refused, and without a packet path there is no answer.

use super::*;

const PATH: &str = "/api/v1/loadbalancer/explain/flow";

#[tokio::test]
async fn queries_are_read_or_refused() {
    let world = World::new();
    let ends = "source=198.51.100.7:4000&destination=192.0.2.1:80";
    for (query, pointer) in [
        ("".to_owned(), "source"),
        (
            "source=198.51.100.7&destination=192.0.2.1:80".to_owned(),
            "source",
        ),
        ("source=198.51.100.7:4000".to_owned(), "destination"),
        (
            "source=198.51.100.7:4000&destination=[2001:db8::1]:80".to_owned(),
            "destination",
        ),
        (format!("{ends}&protocol=sctp"), "protocol"),
        (format!("{ends}&flags=urgent"), "flags"),
        (format!("{ends}&protocol=udp&flags=syn"), "flags"),
        (format!("{ends}&port=80"), ""),
    ] {
        let path = format!("{PATH}?{query}");
        let problem = world.ask(Method::GET, &path).await.problem(400);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}");
    }
}

#[tokio::test]
async fn nobody_knows_what_a_packet_path_would_do_that_is_not_there() {
    let world = World::new();
    for more in ["", "&protocol=udp", "&flags=ack,fin", "&interface=eth0"] {
        let path = format!("{PATH}?source=198.51.100.7:4000&destination=192.0.2.1:80{more}");
        let problem = world.ask(Method::GET, &path).await.problem(409);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("expected a packet path"), "{detail}");
    }
}
