//! The load generator against a relay that is known to be right, or wrong in a known way.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_bench::certificates::Certificates;
use tidegate_bench::load::paced::Paced;
use tidegate_bench::load::{Endpoint, Load, Span, Transport};
use tidegate_bench::wire::{self, Payload, Version, kind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, WriteHalf};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;

const SPAN: Span = Span { warm_up: Duration::from_millis(20), measure: Duration::from_millis(100) };

/// The first subscriber's socket.
type Subscriber = Arc<Mutex<Option<WriteHalf<Box<dyn Socket>>>>>;

/// Plain TCP or TLS.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// Starts a relay that sends what it is published to its one subscriber at QoS 0, but for every `drops`-th
/// message, and acknowledges all.
async fn relay(drops: Option<u64>) -> Endpoint {
    relay_over(None, drops).await
}

/// The same, with a certificate.
async fn relay_over(tls: Option<&Certificates>, drops: Option<u64>) -> Endpoint {
    let transport = tls.map_or(Transport::Tcp, Certificates::transport);
    let acceptor = tls.map(|certificates| {
        let chain = vec![CertificateDer::from_pem_file(certificates.certificate()).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certificates.key()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let subscriber = Subscriber::default();
        while let Ok((stream, _)) = listener.accept().await {
            let socket: Box<dyn Socket> = match &acceptor {
                Some(acceptor) => Box::new(acceptor.accept(stream).await.unwrap()),
                None => Box::new(stream),
            };
            tokio::spawn(serve(socket, subscriber.clone(), drops));
        }
    });
    Endpoint { address, pid: std::process::id(), transport }
}

async fn serve(socket: Box<dyn Socket>, subscriber: Subscriber, drops: Option<u64>) {
    let (mut read, write) = tokio::io::split(socket);
    let mut write = Some(write);
    let (mut inbox, mut published) = (Vec::new(), 0_u64);
    while read.read_buf(&mut inbox).await.is_ok_and(|count| count > 0) {
        let (mut at, mut back, mut onward) = (0, Vec::new(), Vec::new());
        let mut subscribed = false;
        while let Some((frame, used)) = wire::next_frame(&inbox[at..]).unwrap() {
            match frame.kind() {
                1 => back.extend_from_slice(&[0x20, 2, 0, 0]),
                8 => {
                    back.extend_from_slice(&[0x90, 3, 0, 1, *frame.body().last().unwrap()]);
                    subscribed = true;
                }
                kind::PUBLISH => {
                    let publish = frame.publish(Version::V311).unwrap();
                    published += 1;
                    if publish.qos == 1 {
                        wire::acknowledge(&mut back, kind::PUBACK, publish.packet_id);
                    } else if publish.qos == 2 {
                        wire::acknowledge(&mut back, kind::PUBREC, publish.packet_id);
                    }
                    if drops.is_none_or(|every| !published.is_multiple_of(every)) {
                        onward.extend_from_slice(&[0x30, 3 + publish.payload.len() as u8, 0, 1, b't']);
                        onward.extend_from_slice(publish.payload);
                    }
                }
                kind::PUBREL => wire::acknowledge(&mut back, kind::PUBCOMP, frame.packet_id().unwrap()),
                _ => {}
            }
            at += used;
        }
        inbox.drain(..at);
        // Taken before SUBACK is sent: what is published after it waits for the subscriber to be there.
        let mut place = if subscribed { Some(subscriber.lock().await) } else { None };
        if let Some(write) = &mut write {
            write.write_all(&back).await.unwrap();
            write.flush().await.unwrap();
        }
        if let Some(place) = &mut place {
            **place = write.take();
        }
        drop(place);
        if let Some(subscriber) = subscriber.lock().await.as_mut() {
            subscriber.write_all(&onward).await.unwrap();
            subscriber.flush().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_through_a_good_relay_at_any_qos() {
    for qos in 0..3 {
        let load = Load { qos, ..Load::default() };
        let result = load.run(relay(None).await, SPAN).await.unwrap();
        assert!(result.per_second > 0.0);
        assert!(result.sent > 0);
        assert_eq!((result.lost, result.misordered), (0, 0), "QoS {qos}");
        assert_eq!(result.acknowledged, if qos == 0 { 0 } else { result.sent }, "QoS {qos}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_lost_message_is_counted() {
    // What is lost never frees its place in the lead: an unbounded one keeps the load going.
    let load = Load { lead: 1_000_000, ..Load::default() };
    let result = load.run(relay(Some(1_000)).await, SPAN).await.unwrap();
    assert_eq!(result.lost, result.sent / 1_000);
    assert!(result.lost > 0);
    // Each gap shows at the message after it; the last lost one may have none.
    assert!(result.lost - result.misordered <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_subscriber_of_many_publishers_checks_each_of_them() {
    let load = Load { qos: 1, publishers: 10, fan_in: true, lead: 1_000, ..Load::default() };
    let result = load.run(relay(None).await, SPAN).await.unwrap();
    assert!(result.per_second > 0.0);
    assert_eq!((result.lost, result.misordered), (0, 0));
    assert_eq!(result.acknowledged, result.sent);

    let load = Load { lead: 1_000_000, ..load };
    let result = load.run(relay(Some(10)).await, SPAN).await.unwrap();
    assert!(result.lost > 0, "{result:?}");
    // Of each publisher the last lost one may have no message after it.
    assert!(result.lost - result.misordered <= 10, "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_through_tls() {
    let certificates = Certificates::new().unwrap();
    for qos in 0..3 {
        let load = Load { qos, publishers: 2, fan_in: true, ..Load::default() };
        let result = load.run(relay_over(Some(&certificates), None).await, SPAN).await.unwrap();
        assert!(result.sent > 0);
        assert_eq!((result.lost, result.misordered), (0, 0), "QoS {qos}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_takes_the_time_of_every_measured_message() {
    for qos in [0, 1] {
        let paced = Paced {
            qos,
            payload: Payload::Sequenced(100),
            topic: "t".into(),
            rate: 2_000,
            name: String::new(),
        };
        let latency = paced.run(relay(None).await, SPAN).await.unwrap();
        assert_eq!((latency.lost, latency.misordered), (0, 0));
        assert_eq!(latency.histogram.len(), 200, "a tenth of a second at 2,000 a second");
        assert!(latency.percentile_us(50.0) > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_counts_what_is_lost() {
    let paced = Paced {
        qos: 0,
        payload: Payload::Sequenced(100),
        topic: "t".into(),
        rate: 2_000,
        name: String::new(),
    };
    let latency = paced.run(relay(Some(10)).await, SPAN).await.unwrap();
    assert_eq!(latency.lost, 24, "240 messages, every tenth lost");
    assert_eq!(latency.misordered, 23, "each gap shows at the message after it; the last one has none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fixed_payload_is_counted_without_sequence_numbers() {
    let load = Load { payload: Payload::Fixed(b"{\"celsius\":21.5}".to_vec()), ..Load::default() };
    let result = load.run(relay(None).await, SPAN).await.unwrap();
    assert_eq!((result.lost, result.misordered), (0, 0));
}
