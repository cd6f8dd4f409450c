//! MQTT in WebSocket frames, with an independent implementation as the client (MQTT 5 clause 6).

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tidegate_broker::{ListenerConfig, WebSocketConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::certificates::Authority;
use crate::support::client::{Client, Stream};
use crate::support::packet::{Connect, Publish, subscribe};
use crate::support::{Server, free, plain};

async fn listen(server: &Server) -> SocketAddr {
    let websocket = Some(WebSocketConfig::default());
    let config = ListenerConfig { name: "web".into(), address: free(), tls: None, websocket };
    server.broker.listen(config).await.unwrap()
}

fn request(protocols: &'static str) -> Request {
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    if !protocols.is_empty() {
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocols));
    }
    request
}

async fn upgrade<S: Stream>(stream: S) -> (WebSocketStream<S>, Response) {
    client_async(request("mqtt"), stream).await.unwrap()
}

async fn open(address: SocketAddr) -> WebSocketStream<TcpStream> {
    upgrade(TcpStream::connect(address).await.unwrap()).await.0
}

/// The payloads of frames as a stream of bytes, for [`Client`].
fn bytes<S: Stream + 'static>(socket: WebSocketStream<S>) -> DuplexStream {
    let (near, far) = duplex(1 << 20);
    let (mut sink, mut stream) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(payload) = message
                && writer.write_all(&payload).await.is_err()
            {
                break;
            }
        }
        writer.shutdown().await.ok();
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 3_000];
        while let Ok(len @ 1..) = reader.read(&mut buffer).await {
            if sink.send(Message::binary(buffer[..len].to_vec())).await.is_err() {
                break;
            }
        }
    });
    near
}

async fn send(from: &mut Client, to: &mut Client, topic: &str, id: u16, payload: &str) {
    let bytes = Publish { qos: 2, id, ..from.draft(topic, payload) }.bytes();
    from.send(&bytes).await;
    from.finish(2, id).await;
    assert_eq!(to.take().await.payload.len(), payload.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_frames_meets_one_without() {
    let server = plain().await;
    let address = listen(&server).await;
    let (socket, response) = upgrade(TcpStream::connect(address).await.unwrap()).await;
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
    let mut web = Client::connect_on(bytes(socket), &Connect::v5("web")).await;
    let mut plain = Client::connect(server.address, &Connect::v5("plain")).await;
    web.subscribe("to/web", 2).await;
    plain.subscribe("to/plain", 2).await;
    // Below and above each length of a frame's header, and longer than a read.
    for (id, len) in [1, 100, 130, 4_000, 70_000, 900_000].into_iter().enumerate() {
        let (id, payload) = (id as u16 + 1, "x".repeat(len));
        send(&mut web, &mut plain, "to/plain", id, &payload).await;
        send(&mut plain, &mut web, "to/web", id, &payload).await;
    }
    web.disconnect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_and_tls_are_used_together() {
    let server = plain().await;
    let authority = Authority::new();
    let config = ListenerConfig {
        name: "secure web".into(),
        address: free(),
        tls: Some(authority.tls()),
        websocket: Some(WebSocketConfig::default()),
    };
    let address = server.broker.listen(config).await.unwrap();
    let (socket, _) = upgrade(authority.trust().connect(address).await).await;
    let mut client = Client::connect_on(bytes(socket), &Connect::v5("c")).await;
    client.subscribe("t", 1).await;
    client.publish("t", &"x".repeat(50_000), 0, 0).await;
    assert_eq!(client.message().await.payload.len(), 50_000);
    client.disconnect().await;
}

/// The next `len` bytes of MQTT.
async fn read(socket: &mut WebSocketStream<TcpStream>, len: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < len {
        let Message::Binary(payload) = socket.next().await.unwrap().unwrap() else {
            panic!("a binary frame")
        };
        received.extend(payload);
    }
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_may_be_cut_into_frames_anywhere() {
    let server = plain().await;
    let mut socket = open(listen(&server).await).await;
    for byte in [Connect::v4("c").bytes(), subscribe(false, 7, &[("t", 0)], &[])].concat() {
        socket.send(Message::binary(vec![byte])).await.unwrap();
    }
    assert_eq!(read(&mut socket, 9).await, [0x20, 2, 0, 0, 0x90, 3, 0, 7, 0]);
    // Several packets in a frame, the last one not whole.
    socket.send(Message::binary(vec![0xc0, 0, 0xc0, 0, 0xc0])).await.unwrap();
    assert_eq!(read(&mut socket, 4).await, [0xd0, 0, 0xd0, 0]);
    socket.send(Message::binary(vec![0])).await.unwrap();
    assert_eq!(read(&mut socket, 2).await, [0xd0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_sub_protocol_there_is_no_upgrade() {
    let server = plain().await;
    let address = listen(&server).await;
    for (protocols, expected) in
        [("", None), ("chat", None), ("chat, mqttv3.1", Some("mqttv3.1")), ("mqtt", Some("mqtt"))]
    {
        let stream = TcpStream::connect(address).await.unwrap();
        match (client_async(request(protocols), stream).await, expected) {
            (Ok((_, response)), Some(expected)) => {
                assert_eq!(response.headers()["Sec-WebSocket-Protocol"], expected);
            }
            (Err(Error::Http(response)), None) => assert_eq!(response.status(), 400, "{protocols:?}"),
            (result, _) => panic!("{protocols:?}: {result:?}"),
        }
    }
}

/// [MQTT-6.0.0-4]: by the name that MQTT 3.1 has, later versions were served, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sub_protocol_of_mqtt_3_1_is_for_that_version_alone() {
    let server = plain().await;
    let address = listen(&server).await;
    let mqtt_3_1 = b"\x10\x0f\0\x06MQIsdp\x03\x02\0\0\0\x01c".to_vec();
    for (connect, answer) in [
        (mqtt_3_1, &[0x20, 2, 0, 0][..]),
        (Connect::v4("c").bytes(), &[0x20, 2, 0, 1]),
        // It is explained in words as well.
        (Connect::v5("c").bytes(), &[0x20]),
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = client_async(request("mqttv3.1"), stream).await.unwrap();
        socket.send(Message::binary(connect)).await.unwrap();
        let Some(Ok(Message::Binary(came))) = socket.next().await else { panic!("no CONNACK") };
        match answer {
            [_] => assert_eq!((came[0], came[3]), (0x20, 0x84), "{came:02x?}"),
            answer => assert_eq!(came, answer),
        }
    }
}

/// [MQTT-6.0.0-1].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_frame_closes_the_connection() {
    let server = plain().await;
    let address = listen(&server).await;
    for connected in [false, true] {
        let mut socket = open(address).await;
        if connected {
            socket.send(Message::binary(Connect::v4("c").bytes())).await.unwrap();
            assert!(matches!(socket.next().await, Some(Ok(Message::Binary(_)))));
        }
        socket.send(Message::text("hello")).await.unwrap();
        let answer = socket.next().await;
        let Some(Ok(Message::Close(Some(frame)))) = answer else {
            panic!("connected {connected}: {answer:?}")
        };
        assert_eq!(frame.code, CloseCode::Unsupported);
        while let Some(Ok(_)) = socket.next().await {}
        while server.broker.connections() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_answered_before_connect_and_after() {
    let server = plain().await;
    let mut socket = open(listen(&server).await).await;
    for round in ["before", "after"] {
        socket.send(Message::Ping(round.into())).await.unwrap();
        let Some(Ok(Message::Pong(payload))) = socket.next().await else { panic!("a pong {round}") };
        assert_eq!(payload, round.as_bytes());
        if round == "before" {
            socket.send(Message::binary(Connect::v4("c").bytes())).await.unwrap();
            assert!(matches!(socket.next().await, Some(Ok(Message::Binary(_)))));
        }
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        assert!(matches!(message, Message::Close(_)), "{message:?}");
    }
}
