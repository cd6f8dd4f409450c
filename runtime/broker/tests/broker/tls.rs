//! TLS: versions, names, certificates of clients, and new files while the listener serves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::{HandshakeKind, SupportedProtocolVersion};
use tidegate_broker::{Broker, BrokerConfig, ListenerConfig, TlsConfig, UsernameFrom, Verify};
use tidegate_event::{Client as Peer, Hook, VolatileStore, now_ms};

use crate::support::certificates::{Authority, Returning, Trust};
use crate::support::client::{Client, Stream};
use crate::support::packet::{Connect, Publish};
use crate::support::script::Script;
use crate::support::{Server, free, plain, start};

const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn listener(tls: TlsConfig) -> ListenerConfig {
    ListenerConfig { name: "secure".into(), address: free(), tls: Some(tls), websocket: None }
}

async fn listen(broker: &Broker, tls: TlsConfig) -> SocketAddr {
    broker.listen(listener(tls)).await.unwrap()
}

/// A broker whose client.connected handlers note who came.
async fn noting() -> (Server, Arc<Mutex<Vec<Arc<Peer>>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let hooks = Script::new(&[Hook::ClientConnected], move |scope| {
        noted.lock().extend(scope.event.client().cloned());
        None
    });
    (start(BrokerConfig::default(), hooks, Arc::new(VolatileStore)).await, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_serve_and_meet_plain_clients() {
    let server = plain().await;
    let authority = Authority::new();
    let address = listen(&server.broker, authority.tls()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("plain")).await;
    subscriber.subscribe("t", 1).await;
    for (id, versions) in [(1, TLS12), (2, TLS13)] {
        let stream = authority.trust().speaking(versions).connect(address).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(versions[0].version));
        let mut client = Client::connect_on(stream, &Connect::v4("tls")).await;
        client.publish_done("t", &format!("{id}"), 1, id).await;
        assert_eq!(subscriber.take().await.payload, format!("{id}"));
        client.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_is_that_of_the_name_that_is_asked_for() {
    let (server, seen) = noting().await;
    let authority = Authority::new();
    let named = |name: &str, names: &[&str]| {
        let mut files = authority.files(name);
        files.server_names = names.iter().map(ToString::to_string).collect();
        files
    };
    let certificates = vec![
        named("one.example.com", &["one.example.com"]),
        named("*.example.com", &["*.example.com"]),
        named("other.test", &[]),
    ];
    let address = listen(&server.broker, TlsConfig { certificates, ..TlsConfig::default() }).await;
    let trust = authority.trust();
    for name in ["one.example.com", "two.example.com", "other.test"] {
        let stream = trust.try_connect(address, name).await.unwrap();
        Client::connect_on(stream, &Connect::v4(name)).await.disconnect().await;
    }
    // Only one level below, and what nobody has gets the certificate without names, which this client does not take.
    for name in ["a.b.example.com", "example.com"] {
        assert!(trust.try_connect(address, name).await.is_err(), "{name}");
    }
    let seen: Vec<_> =
        seen.lock().iter().map(|peer| peer.server_name.as_deref().map(str::to_owned)).collect();
    assert_eq!(seen, ["one.example.com", "two.example.com", "other.test"].map(|name| Some(name.to_owned())));
}

/// Whether a client gets as far as CONNACK. In TLS 1.3 it learns only then that its certificate was refused.
async fn is_served(trust: &Trust, address: SocketAddr) -> bool {
    let Ok(stream) = trust.try_connect(address, "localhost").await else { return false };
    is_let_in(stream).await
}

/// The same of a client that is through the handshake.
async fn is_let_in(stream: impl Stream + 'static) -> bool {
    let mut client = Client::on(stream, false);
    client.try_send(&Connect::v4("c").login("claimed", "").bytes()).await;
    client.next().await.is_some_and(|packet| packet.kind() == 2 && packet.body[1] == 0)
}

/// Whether a client that was not served comes to be: files that change are looked at every second.
async fn is_served_soon(trust: &Trust, address: SocketAddr) -> bool {
    for _ in 0..500 {
        if is_served(trust, address).await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// What became of a client that comes again.
#[derive(Debug, PartialEq)]
struct Visit {
    /// The server knew its session of TLS, and took it up without a look at the certificate.
    resumed: bool,
    served: bool,
}

async fn visit(client: &Returning, address: SocketAddr) -> Visit {
    let Ok(stream) = client.try_connect(address).await else {
        return Visit { resumed: false, served: false };
    };
    let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    Visit { resumed, served: is_let_in(stream).await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_required_names_the_user() {
    let (server, seen) = noting().await;
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let tls = TlsConfig {
        client_ca: Some(clients.file("ca.pem")),
        verify: Verify::Required,
        username: UsernameFrom::CommonName,
        ..authority.tls()
    };
    let address = listen(&server.broker, tls).await;
    let trust = authority.trust();
    for versions in [TLS12, TLS13] {
        let trust = trust.clone().speaking(versions);
        assert!(!is_served(&trust, address).await, "without a certificate");
        assert!(
            !is_served(&trust.clone().with(strangers.issue("sensor")), address).await,
            "of somebody else"
        );
        assert!(is_served(&trust.with(clients.issue("sensor")), address).await);
    }
    let seen = seen.lock();
    assert_eq!(seen.len(), 2);
    for peer in seen.iter() {
        let certificate = peer.certificate.as_ref().unwrap();
        assert_eq!(certificate.common_name.as_deref(), Some("sensor"));
        assert!(
            certificate.subject.contains("CN=sensor") && certificate.subject.contains("O=Tests"),
            "{certificate:?}"
        );
        assert_eq!(
            (peer.username.as_deref(), peer.certified),
            (Some("sensor"), true),
            "not the one in CONNECT"
        );
        assert_eq!(&*peer.listener, "secure");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_optional_is_checked_if_it_is_shown() {
    let (server, seen) = noting().await;
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let tls = TlsConfig {
        client_ca: Some(clients.file("ca.pem")),
        verify: Verify::Optional,
        username: UsernameFrom::CommonName,
        ..authority.tls()
    };
    let address = listen(&server.broker, tls).await;
    let trust = authority.trust();
    assert!(is_served(&trust, address).await);
    assert!(is_served(&trust.clone().with(clients.issue("sensor")), address).await);
    assert!(!is_served(&trust.clone().with(strangers.issue("sensor")), address).await);
    let seen = seen.lock();
    let names: Vec<_> = seen.iter().map(|peer| (peer.username.as_deref(), peer.certified)).collect();
    assert_eq!(names, [(Some("claimed"), false), (Some("sensor"), true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_files_are_for_new_connections_and_wrong_ones_change_nothing() {
    let server = plain().await;
    let (before, after) = (Authority::new(), Authority::new());
    let tls = before.tls();
    let files = tls.certificates[0].clone();
    let address = listen(&server.broker, tls).await;
    let mut old = Client::connect_on(before.trust().connect(address).await, &Connect::v4("old")).await;
    // Half of it: the key does not fit any more, and nothing may change.
    let (certificate, key) = after.issue("localhost");
    std::fs::write(&files.cert, certificate).unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(is_served(&before.trust(), address).await, "the old pair is still in use");
    std::fs::write(&files.key, key).unwrap();
    assert!(is_served_soon(&after.trust(), address).await, "the new pair is in use");
    assert!(!is_served(&before.trust(), address).await, "and the old one is not");
    old.ping().await;
}

/// A session of TLS is resumed without a look at the certificate: who is trusted by the old authority alone must not
/// get in by what it was granted before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_only_the_old_authority_trusts_neither_connects_nor_resumes() {
    let server = plain().await;
    let (authority, before, after) = (Authority::new(), Authority::new(), Authority::new());
    let client_ca = before.file("ca.pem");
    let tls = TlsConfig { client_ca: Some(client_ca.clone()), verify: Verify::Required, ..authority.tls() };
    let address = listen(&server.broker, tls).await;
    let old = authority.trust().with(before.issue("old"));
    let new = authority.trust().with(after.issue("new"));
    let returning = [TLS12, TLS13].map(|versions| old.clone().speaking(versions).returning());
    for client in &returning {
        assert_eq!(visit(client, address).await, Visit { resumed: false, served: true });
        assert_eq!(
            visit(client, address).await,
            Visit { resumed: true, served: true },
            "nothing has changed"
        );
    }
    let mut open = Client::connect_on(old.connect(address).await, &Connect::v4("open")).await;
    assert!(!is_served(&new, address).await, "nobody knows its authority yet");
    std::fs::copy(after.file("ca.pem"), &client_ca).unwrap();
    assert!(is_served_soon(&new, address).await, "the new authority is in use");
    for client in &returning {
        assert_eq!(visit(client, address).await, Visit { resumed: false, served: false });
    }
    for versions in [TLS12, TLS13] {
        assert!(
            !is_served(&old.clone().speaking(versions), address).await,
            "the old authority is not in use"
        );
        assert!(is_served(&new.clone().speaking(versions), address).await);
    }
    open.ping().await;
}

/// The library looks at the end of a certificate in a whole handshake only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_certificate_has_expired_resumes_nothing() {
    let server = plain().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let client_ca = Some(clients.file("ca.pem"));
    let tls = TlsConfig { client_ca, verify: Verify::Required, ..authority.tls() };
    let address = listen(&server.broker, tls).await;
    // Longer than what comes before its end takes on a busy machine.
    let end = now_ms() / 1_000 + 5;
    let trust = authority.trust().with(clients.issue_until("brief", end));
    let returning = [TLS12, TLS13].map(|versions| trust.clone().speaking(versions).returning());
    for client in &returning {
        assert_eq!(visit(client, address).await, Visit { resumed: false, served: true });
        assert_eq!(visit(client, address).await, Visit { resumed: true, served: true }, "it is still valid");
    }
    let mut open = Client::connect_on(trust.connect(address).await, &Connect::v4("open")).await;
    // The second that it ends with is over.
    let expired = (end + 1) * 1_000 + 200;
    tokio::time::sleep(Duration::from_millis(expired.saturating_sub(now_ms()))).await;
    for client in &returning {
        // The library resumes, and then the broker looks.
        assert_eq!(visit(client, address).await, Visit { resumed: true, served: false });
    }
    for versions in [TLS12, TLS13] {
        assert!(!is_served(&trust.clone().speaking(versions), address).await, "nor by a whole handshake");
    }
    open.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_told_with_its_file() {
    let server = plain().await;
    let authority = Authority::new();
    let (good, other) = (authority.files("localhost"), authority.files("other"));
    let open = async |change: &dyn Fn(&mut TlsConfig)| {
        let mut tls = TlsConfig { certificates: vec![good.clone()], ..TlsConfig::default() };
        change(&mut tls);
        server.broker.listen(listener(tls)).await.unwrap_err().to_string()
    };
    let named = |name: &str| authority.file(name).display().to_string();
    assert!(open(&|tls| tls.certificates.clear()).await.contains("at least one certificate"));
    let missing = open(&|tls| tls.certificates[0].key = authority.file("nothing")).await;
    assert!(missing.starts_with(&format!("{}: cannot be read", named("nothing"))), "{missing}");
    let wrong = open(&|tls| tls.certificates[0].key.clone_from(&other.key)).await;
    assert_eq!(wrong, format!("{} is not the private key of {}", named("other.key"), named("localhost.pem")));
    let swapped = open(&|tls| tls.certificates[0].key.clone_from(&good.cert)).await;
    assert!(swapped.contains("localhost.pem: there is no private key in it"), "{swapped}");
    let swapped = open(&|tls| tls.certificates[0].cert.clone_from(&good.key)).await;
    assert!(swapped.contains("localhost.key: there is no certificate in it"), "{swapped}");
    std::fs::write(
        authority.file("locked"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let locked = open(&|tls| tls.certificates[0].key = authority.file("locked")).await;
    assert!(locked.contains("the private key is encrypted"), "{locked}");
    let twice = open(&|tls| {
        tls.certificates[0].server_names = vec!["a.test".into()];
        tls.certificates.push(tls.certificates[0].clone());
    });
    assert!(twice.await.contains("two certificates have the name \"a.test\""));
    assert!(open(&|tls| tls.verify = Verify::Required).await.contains("client_ca"));
    assert!(open(&|tls| tls.client_ca = Some(authority.file("ca.pem"))).await.contains("verify"));
}

/// TLS keeps records that the socket did not take: they were never sent when nothing else came to be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tls_keeps_is_written_when_the_socket_takes_it() {
    let server = plain().await;
    let authority = Authority::new();
    let address = listen(&server.broker, authority.tls()).await;
    let mut slow = Client::connect_on(authority.trust().connect(address).await, &Connect::v4("slow")).await;
    slow.subscribe("t", 0).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    // More than the buffers of both sockets, in few messages.
    let payload = "x".repeat(900_000);
    for id in 1..=10 {
        let bytes = Publish { qos: 1, id, ..publisher.draft("t", &payload) }.bytes();
        publisher.send(&bytes).await;
        publisher.finish(1, id).await;
    }
    for _ in 0..10 {
        assert_eq!(slow.message().await.payload.len(), payload.len());
    }
    slow.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_says_good_bye_in_tls_too() {
    let server = plain().await;
    let authority = Authority::new();
    let address = listen(&server.broker, authority.tls()).await;
    let mut client = Client::connect_on(authority.trust().connect(address).await, &Connect::v5("c")).await;
    let waiting = authority.trust().connect(address).await;
    server.broker.shutdown(Duration::from_secs(5)).await;
    assert_eq!(client.closed().await, Some(0x8b));
    drop(waiting);
}
