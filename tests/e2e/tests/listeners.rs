//! Listeners with TLS and WebSocket, used by clients that are not ours; and what keeps them open for everybody.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tidegate_e2e::certificates::Authority;
use tidegate_e2e::mosquitto::{self, Subscriber};
use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::server::{Builder, free_port, text_of, tidegate};
use tidegate_e2e::wire::Connect;
use tidegate_e2e::{Server, until};

/// Where the listeners of a test are.
struct Ports {
    mqtts: u16,
    mutual: u16,
    ws: u16,
    wss: u16,
}

impl Ports {
    fn new() -> Self {
        Self { mqtts: free_port(), mutual: free_port(), ws: free_port(), wss: free_port() }
    }

    /// The tables of listeners, after the lines `broker`.
    fn tables(&self, broker: &str) -> String {
        let table = |name: &str, port: u16, kind: &str, lines: &str| {
            format!(
                "[[broker.listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nkind = \"{kind}\"\n{lines}\n"
            )
        };
        let own = "certificates = [{ cert = \"tls/server.pem\", key = \"tls/server.key\" }]";
        let mutual = format!(
            "{own}\nclient_ca = \"tls/ca.pem\"\nverify = \"required\"\nusername_from = \"common_name\""
        );
        [
            format!("[broker]\n{broker}\n"),
            table("secure", self.mqtts, "mqtts", own),
            table("mutual", self.mutual, "mqtts", &mutual),
            table("web", self.ws, "ws", ""),
            table("secure web", self.wss, "wss", own),
        ]
        .concat()
    }
}

/// A server with all kinds of listeners, and the authority of its certificate.
fn builder(ports: &Ports, broker: &str) -> (Builder, Authority) {
    let builder = Server::builder().file("tidegate.toml", ports.tables(broker));
    let authority = Authority::new(&builder.path().join("tls"), "ca");
    authority.issue("server", "localhost");
    (builder, authority)
}

fn websocket(version: u8, id: &str) -> Options {
    Options::new(version, id).with("transport", "websockets").with("path", "/mqtt")
}

#[test]
fn clients_of_every_kind_of_listener_meet() {
    let ports = Ports::new();
    let (builder, authority) = builder(&ports, "");
    let server = builder.start();
    let ca = authority.certificate();
    let ready = server.get("/readyz").unwrap().1;
    for url in [
        format!("\"127.0.0.1:{}\"", server.port),
        format!("\"mqtts://127.0.0.1:{}\"", ports.mqtts),
        format!("\"ws://127.0.0.1:{}/mqtt\"", ports.ws),
        format!("\"wss://127.0.0.1:{}/mqtt\"", ports.wss),
    ] {
        assert!(ready.contains(&url), "{url} in {ready}");
    }
    // All of QoS 1: what is of QoS 2 comes to a subscriber's hands later than what overtakes it.
    let mut plain = Subscriber::start(server.port, &["-V", "5", "-t", "t/#", "-q", "1"]);
    let mut tls12 = Subscriber::start(
        ports.mqtts,
        &["--cafile", &ca, "--tls-version", "tlsv1.2", "-t", "t/#", "-q", "1"],
    );
    let mut tls13 = Subscriber::start(
        ports.mqtts,
        &["--cafile", &ca, "--tls-version", "tlsv1.3", "-t", "t/#", "-q", "1"],
    );
    let mut web = Paho::connect(ports.ws, &websocket(5, "web"));
    let mut secure_web = Paho::connect(ports.wss, &websocket(4, "secure-web").with("cafile", &*ca));
    web.subscribe("t/#", 1);
    secure_web.subscribe("t/#", 1);
    mosquitto::publish(ports.mqtts, &["--cafile", &ca, "-t", "t/tls", "-m", "1", "-q", "1"]);
    assert_eq!(secure_web.publish("t/wss", "2", 1), 0);
    assert_eq!(web.publish("t/ws", "3", 1), 0);
    // Longer than a record of TLS and than what a frame has a short length for.
    let long = "x".repeat(300_000);
    assert_eq!(secure_web.publish("t/long", &long, 1), 0);
    assert_eq!(web.publish("t/end", "end", 1), 0);
    let expected = ["t/tls 1".to_owned(), "t/wss 2".into(), "t/ws 3".into(), format!("t/long {long}")];
    for subscriber in [&mut plain, &mut tls12, &mut tls13] {
        assert!(subscriber.take_until("end") == expected);
    }
    for paho in [&mut web, &mut secure_web] {
        let received = paho.take_until("end");
        let received: Vec<_> = received.iter().map(|m| format!("{} {}", m.topic, m.payload)).collect();
        assert!(received == expected);
    }
    server.assert_no_panic();
}

#[test]
fn a_client_without_a_good_certificate_is_refused_where_one_is_asked_for() {
    let ports = Ports::new();
    let (builder, authority) = builder(&ports, "");
    let strangers = Authority::new(&builder.path().join("strangers"), "ca");
    authority.issue("sensor", "sensor-7");
    strangers.issue("sensor", "sensor-7");
    let server = builder.start();
    let ca = authority.certificate();
    let connect = |certificate: &str, key: &str| {
        let shown = ["--cafile", &*ca, "--cert", certificate, "--key", key];
        mosquitto::publish_raw(ports.mutual, &[&shown[..], &["-t", "t", "-m", "x", "-q", "1"]].concat())
    };
    assert!(connect(&authority.file("sensor.pem"), &authority.file("sensor.key")).status.success());
    assert!(!connect(&strangers.file("sensor.pem"), &strangers.file("sensor.key")).status.success());
    let nothing = mosquitto::publish_raw(ports.mutual, &["--cafile", &ca, "-t", "t", "-m", "x", "-q", "1"]);
    assert!(!nothing.status.success());
    assert_eq!(server.metric("tidegate_broker_connections_turned_away_total", "reason=\"tls\""), 2.0);
    server.assert_no_panic();
}

#[test]
fn new_certificates_are_taken_while_messages_flow_and_wrong_ones_are_not() {
    let ports = Ports::new();
    let (builder, authority) = builder(&ports, "");
    let server = builder.start();
    let ca = authority.certificate();
    let mut subscriber = Subscriber::start(ports.mqtts, &["--cafile", &ca, "-t", "t", "-q", "1"]);
    let mut publisher = Paho::connect(ports.wss, &websocket(5, "p").with("cafile", &*ca));
    let mut number = 0;
    let mut go_on = || {
        number += 1;
        assert_eq!(publisher.publish("t", &number.to_string(), 1), 0);
        assert_eq!(
            subscriber.receive().payload,
            number.to_string(),
            "those that are connected stay connected"
        );
    };
    go_on();
    let connects = |ca: &str| {
        mosquitto::publish_raw(ports.mqtts, &["--cafile", ca, "-t", "other", "-m", "x", "-q", "1"])
            .status
            .success()
    };
    assert!(connects(&ca));
    // Another authority, as when the old one has expired.
    let next = Authority::new(&server.file("next"), "ca");
    next.issue("server", "localhost");
    let mark = server.log_mark();
    for name in ["server.pem", "server.key"] {
        std::fs::copy(next.file(name), authority.file(name)).unwrap();
        go_on();
    }
    for name in ["secure", "secure web"] {
        let line = format!("listener={name}");
        server.wait_log(mark, "the new ones are read", |l| l.contains("read again") && l.contains(&line));
    }
    assert!(connects(&next.certificate()));
    assert!(!connects(&ca), "who trusts only the old authority is not served any more");
    go_on();
    // Half a file: an error, and everything stays.
    let mark = server.log_mark();
    let whole = std::fs::read(authority.file("server.pem")).unwrap();
    std::fs::write(authority.file("server.pem"), &whole[..whole.len() / 2]).unwrap();
    let line =
        server.wait_log(mark, "it cannot be used", |l| l.contains("cannot be used, those before stay"));
    assert!(line.contains("tls/server.pem"), "{line}");
    assert!(connects(&next.certificate()));
    go_on();
    let reloads = |result: &str| server.metric("tidegate_broker_certificate_reloads_total", result);
    until("every listener has noticed", || (reloads("result=\"failed\"") >= 3.0).then_some(()));
    assert!(reloads("result=\"ok\"") >= 3.0);
    server.assert_no_panic();
}

#[test]
fn check_opens_the_certificates() {
    let ports = Ports::new();
    let (builder, authority) = builder(&ports, "listen = []");
    let output = tidegate(builder.path(), &["check"]);
    assert!(output.status.success(), "{}", text_of(&output));
    assert!(text_of(&output).contains("listener secure web (certificates: 1)"), "{}", text_of(&output));
    authority.issue("other", "localhost");
    std::fs::copy(authority.file("other.key"), authority.file("server.key")).unwrap();
    let output = tidegate(builder.path(), &["check"]);
    assert!(!output.status.success());
    let expected =
        "tidegate.toml:3:1: broker.listener: secure: tls/server.key is not the private key of tls/server.pem";
    assert!(text_of(&output).contains(expected), "{}", text_of(&output));
    let output = tidegate(builder.path(), &["run", "--api", "off"]);
    assert!(!output.status.success() && text_of(&output).contains(expected), "{}", text_of(&output));
}

/// Connections on every listener that stop in the middle of something, as far as each gets.
fn stalled(server: &Server, ports: &Ports, count: usize) -> Vec<TcpStream> {
    let beginnings: [(u16, &[u8]); 5] = [
        (server.port, b""),
        (server.port, b"\x10\x10\x00\x04MQTT"),
        (ports.mqtts, b"\x16\x03\x01\x02\x00\x01"),
        (ports.ws, b"GET /mqtt HTTP/1.1\r\nHost: "),
        (ports.wss, b""),
    ];
    let connect = |(port, bytes): &(u16, &[u8])| {
        let mut stream = TcpStream::connect(("127.0.0.1", *port)).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    beginnings.iter().cycle().take(count).map(connect).collect()
}

#[test]
fn connections_that_stall_keep_nobody_out() {
    let ports = Ports::new();
    let (builder, authority) = builder(&ports, "max_handshakes = 50");
    let server = builder.start();
    let ca = authority.certificate();
    let stalled = stalled(&server, &ports, 200);
    let turned_away =
        || server.metric("tidegate_broker_connections_turned_away_total", "reason=\"handshakes\"");
    until("the oldest were closed", || (turned_away() == 150.0).then_some(()));
    let began = Instant::now();
    mosquitto::publish(server.port, &["-t", "t", "-m", "x", "-q", "1"]);
    mosquitto::publish(ports.mqtts, &["--cafile", &ca, "-t", "t", "-m", "x", "-q", "1"]);
    Paho::connect(ports.wss, &websocket(5, "w").with("cafile", &*ca)).disconnect();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(server.metric("tidegate_broker_handshakes", "") <= 50.0);
    drop(stalled);
    server.assert_no_panic();
}

/// Sends `first` at once and the bytes of `rest` one by one; gives how long it was until the server had closed.
fn drip(port: u16, first: &[u8], rest: &[u8]) -> Duration {
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    stream.write_all(first).unwrap();
    let mut answer = [0; 1024];
    for byte in rest {
        // It may be gone already.
        drop(stream.write_all(&[*byte]));
        match stream.read(&mut answer) {
            Ok(0) => return began.elapsed(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return began.elapsed(),
            _ => {}
        }
    }
    panic!("it was still open after {:?}", began.elapsed());
}

/// What drips is right as far as it comes, so that nothing but the deadline is a reason to close.
#[test]
fn bytes_that_drip_are_waited_for_until_the_deadline_and_no_longer() {
    let ports = Ports::new();
    let (builder, _) = builder(&ports, "connect_timeout = \"1500ms\"");
    let server = builder.start();
    let connect = Connect::new(5, &"x".repeat(200)).encode();
    // A record with the beginning of a ClientHello.
    let hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[0_u8; 200]].concat();
    let field = [b'x'; 200];
    let request = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
        Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    // A binary frame of a length in two bytes, masked with zeros.
    let length = u16::try_from(connect.len()).unwrap().to_be_bytes();
    let frame = [&[0x82_u8, 0xFE][..], &length, &[0_u8; 4], &connect].concat();
    let drips: [(&str, u16, &[u8], &[u8]); 5] = [
        ("CONNECT", server.port, b"", &connect),
        ("a TLS handshake", ports.mqtts, b"", &hello),
        ("a request", ports.ws, b"GET /mqtt HTTP/1.1\r\nHost: ", &field),
        // One deadline for all: it does not begin anew behind a handshake.
        ("CONNECT in a frame", ports.ws, request, &frame),
        ("a TLS handshake before a request", ports.wss, b"", &hello),
    ];
    std::thread::scope(|scope| {
        let dripping =
            drips.map(|(what, port, first, rest)| (what, scope.spawn(move || drip(port, first, rest))));
        for (what, thread) in dripping {
            let after = thread.join().unwrap_or_else(|_| panic!("{what} was waited for and waited for"));
            let expected = Duration::from_millis(1_500)..Duration::from_secs(5);
            assert!(expected.contains(&after), "{what}: closed after {after:?}");
        }
    });
    let late = || server.metric("tidegate_broker_connect_timeouts_total", "");
    until("all were too late", || (late() == 5.0).then_some(()));
    server.assert_no_panic();
}
