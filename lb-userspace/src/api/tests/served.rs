//! The API on a real socket.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;

async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn raw_instance_names_survive_a_socket_and_stop_ends_it() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(serve(listener, world.state.clone(), stopped));
    let request = format!(
        "POST /api/v1/loadbalancer/instances/main-backend/{B}/drain HTTP/1.1\r\n\
         Host: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let answer = exchange(address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\"admin\":\"draining\""), "{answer}");
    let request = "GET /metrics2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(
        exchange(address, request)
            .await
            .starts_with("HTTP/1.1 404 ")
    );
    let rebound = "GET /health/x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(
        exchange(address, rebound)
            .await
            .starts_with("HTTP/1.1 403 ")
    );

    // An idle connection does not hold up the end.
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 15];
    idle.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stop.send(true).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(4), served);
    ended.await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_service_for_the_gateway_is_the_same_api() {
    fn fits<T: Clone + Send + Sync + 'static>(_: &T) {}
    let world = World::new();
    let service = service(world.state.clone());
    fits(&service);
    let response = service
        .oneshot(local(Method::GET, "/health", Body::empty()))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}
