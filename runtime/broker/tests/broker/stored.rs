//! Stored messages before live ones: backlogs and stored retained messages of a new subscription.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_broker::BrokerConfig;
use tidegate_event::{
    Backlog, BoxFuture, Hook, IdSource, Message, Node, Origin, QoS, StorageError, Verdict, VolatileStore,
};

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, ack};
use crate::support::script::{Gate, Script, pass};
use crate::support::{start, with_hooks};

type Stored = Arc<Mutex<Vec<Arc<Message>>>>;

/// Reads `stored` from its position on, a page at a time, when `gate` lets it.
struct Reader {
    stored: Stored,
    position: usize,
    page: usize,
    gate: Option<Gate>,
    asked: Arc<Mutex<usize>>,
}

impl Backlog for Reader {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Vec<Arc<Message>>, StorageError>> {
        Box::pin(async move {
            *self.asked.lock() += 1;
            if let Some(gate) = &self.gate {
                gate.pass().await;
            }
            let stored = self.stored.lock();
            let page: Vec<_> = stored
                .iter()
                .skip(self.position)
                .take(self.page)
                .map(|message| {
                    let mut message = Message::clone(message);
                    message.origin = Origin::Fetched;
                    Arc::new(message)
                })
                .collect();
            self.position += page.len();
            Ok(page)
        })
    }
}

fn message(ids: &IdSource, topic: &str, payload: &str, qos: QoS) -> Arc<Message> {
    Arc::new(Message {
        id: ids.next_id(),
        topic: topic.parse().unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        dup: false,
        timestamp_ms: 0,
        sender: "earlier".into(),
        publisher: None,
        properties: None,
        origin: Origin::Fetched,
        hops: 0,
    })
}

/// Handlers that store what is published at QoS 1 and 2 and give it to new subscribers, `page` at a time.
fn storing(stored: &Stored, page: usize, gate: Option<Gate>) -> (Arc<Script>, Arc<Mutex<usize>>) {
    let (stored, asked) = (Arc::clone(stored), Arc::new(Mutex::new(0)));
    let count = Arc::clone(&asked);
    let hooks = [Hook::MessagePublish, Hook::SessionSubscribed, Hook::MessageAcked];
    let script = Script::new(&hooks, move |scope| {
        match scope.event.hook() {
            Hook::MessagePublish => {
                let message = scope.event.message().unwrap();
                if message.qos != QoS::AtMostOnce {
                    stored.lock().push(Arc::clone(message));
                }
            }
            Hook::SessionSubscribed => {
                scope.effects.lock().backlogs.push(Box::new(Reader {
                    stored: Arc::clone(&stored),
                    position: 0,
                    page,
                    gate: gate.clone(),
                    asked: Arc::clone(&count),
                }));
            }
            _ => {}
        }
        pass()
    });
    (script, asked)
}

fn three(ids: &IdSource) -> Stored {
    let all = ["1", "2", "3"].map(|payload| message(ids, "t", payload, QoS::AtLeastOnce));
    Arc::new(Mutex::new(all.to_vec()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_come_one_after_the_other_then_live_messages() {
    let ids = IdSource::new(&Node::default());
    let stored = three(&ids);
    let (hooks, asked) = storing(&stored, 2, None);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    let (one, two) = (client.message().await, client.message().await);
    assert_eq!((one.payload.as_str(), two.payload.as_str()), ("1", "2"));
    publisher.publish_done("t", "live", 1, 1).await;
    publisher.publish_done("t", "live 0", 0, 0).await;
    client.ping().await;
    assert_eq!(*asked.lock(), 1, "the next page waits for the acknowledgements");
    client.send(&ack(PUBACK, two.id)).await;
    client.ping().await;
    assert_eq!(*asked.lock(), 1);
    client.send(&ack(PUBACK, one.id)).await;
    // `live` is stored too: it comes once, out of the store or live.
    assert_eq!(client.payloads(3).await, ["3", "live", "live 0"]);
    client.ping().await;
    publisher.publish_done("t", "after", 1, 2).await;
    assert_eq!(client.take().await.payload, "after");
    let acked = |log: &[String]| log.iter().filter(|line| line.starts_with("message.acked")).count() == 6;
    let log = hooks.until(acked).await;
    let acked: Vec<&String> = log.iter().filter(|line| line.starts_with("message.acked")).collect();
    let expected = [
        "message.acked c t 2 through none",
        "message.acked c t 1 through beyond",
        "message.acked c t 3 through itself",
        "message.acked c t live through itself",
        "message.acked c t live 0 through itself implicit",
        "message.acked c t after through itself",
    ];
    assert_eq!(acked, expected);
    assert!(!log.iter().any(|line| line.contains("publish earlier")), "fetched messages are not published");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_topics_do_not_wait_for_a_backlog() {
    let ids = IdSource::new(&Node::default());
    let stored = three(&ids);
    let gate = Gate::default();
    let (hooks, _) = storing(&stored, 10, Some(gate.clone()));
    let server = with_hooks(hooks).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    gate.open();
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    assert_eq!(client.payloads(3).await, ["1", "2", "3"]);
    publisher.publish_done("t", "held", 0, 0).await;
    server
        .broker
        .control()
        .deliver(&Default::default(), "c", Message::clone(&message(&ids, "t", "direct", QoS::AtMostOnce)))
        .unwrap();
    assert_eq!(client.take().await.payload, "direct");
    client.ping().await;
    gate.open();
    assert_eq!(client.take().await.payload, "held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_while_a_backlog_is_read_under_load() {
    let stored: Stored = Arc::default();
    let (hooks, _) = storing(&stored, 7, None);
    let config = BrokerConfig { max_queued: 20, max_inflight: 5, ..BrokerConfig::default() };
    let server = start(config, hooks, Arc::new(VolatileStore)).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 0..100_u16 {
        publisher.publish_done("t/x", &number.to_string(), 1, number + 1).await;
    }
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t/+", 1).await;
    // Live messages come faster than pages are read: the hold overflows, and the store is asked again.
    let publishing = tokio::spawn(async move {
        for number in 100..600_u16 {
            publisher.publish_done("t/x", &number.to_string(), 1, number + 1).await;
        }
        publisher
    });
    let mut got = Vec::new();
    let mut publishing = Some(publishing);
    while got.len() < 600 {
        got.push(client.take().await.payload);
        if got.len() == 40
            && let Some(publishing) = publishing.take()
        {
            publishing.await.unwrap();
        }
    }
    let expected: Vec<String> = (0..600_u16).map(|number| number.to_string()).collect();
    assert_eq!(got, expected);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_retained_messages_silence_the_brokers_own_and_come_once() {
    let ids = IdSource::new(&Node::default());
    let stored = three(&ids);
    let backlog = Arc::clone(&stored);
    let hooks = Script::new(&[Hook::SessionSubscribed, Hook::MessageAcked], move |scope| {
        if scope.event.hook() == Hook::SessionSubscribed {
            let mut effects = scope.effects.lock();
            let last = backlog.lock().last().cloned();
            let mut retained = Message::clone(&last.unwrap());
            retained.origin = Origin::RetainedStore;
            effects.retained = Some(vec![Arc::new(retained)]);
            effects.backlogs.push(Box::new(Reader {
                stored: Arc::clone(&backlog),
                position: 0,
                page: 10,
                gate: None,
                asked: Arc::default(),
            }));
        }
        pass()
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.retain("t", "the broker's own").await;
    client.subscribe("t", 1).await;
    let (first, second, third) = (client.message().await, client.message().await, client.message().await);
    assert_eq!((first.payload.as_str(), first.retain), ("3", true));
    assert_eq!((second.payload.as_str(), second.retain), ("1", false));
    assert_eq!((third.payload.as_str(), third.retain), ("2", false));
    client.ping().await;
    for id in [third.id, first.id, second.id] {
        client.send(&ack(PUBACK, id)).await;
    }
    client.ping().await;
    let log = hooks.until(|log| log.iter().filter(|l| l.starts_with("+message.acked")).count() == 3).await;
    let acked: Vec<&String> = log.iter().filter(|line| line.starts_with("message.acked")).collect();
    let expected = [
        "message.acked c t 2 through none",
        "message.acked c t 3 through none",
        "message.acked c t 1 through beyond",
    ];
    assert_eq!(acked, expected, "the copy stands for the stored message once the older ones are sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_stored_answer_also_silences_the_brokers_own() {
    let hooks = Script::new(&[Hook::SessionSubscribed], |scope| {
        scope.effects.lock().retained = Some(Vec::new());
        pass()
    });
    let server = with_hooks(hooks).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.retain("t", "x").await;
    client.subscribe("t", 1).await;
    client.ping().await;
    client.publish_done("t", "live", 1, 1).await;
    assert_eq!(client.take().await.payload, "live");
}

/// Fails for good: it is asked once.
struct Broken;

impl Backlog for Broken {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Vec<Arc<Message>>, StorageError>> {
        Box::pin(async { Err(StorageError::InvalidArgument("no such table".into())) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_that_can_never_be_read_lets_live_messages_through() {
    let gate = Gate::default();
    let closed = gate.clone();
    let hooks = Script::new(&[Hook::SessionSubscribed], move |scope| {
        scope.effects.lock().backlogs.push(Box::new(Broken));
        let gate = closed.clone();
        Some(Box::pin(async move {
            gate.pass().await;
            Verdict::Pass
        }))
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.send(&crate::support::packet::subscribe(false, 1, &[("t", 1)], &[])).await;
    hooks.until_line("session.subscribed").await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "live", 1, 1).await;
    client.ping().await;
    gate.open();
    client.expect(0x90).await;
    assert_eq!(client.take().await.payload, "live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_goes_on_after_a_reconnect() {
    let ids = IdSource::new(&Node::default());
    let stored: Stored = Arc::default();
    for number in 0..30 {
        stored.lock().push(message(&ids, "t", &number.to_string(), QoS::AtLeastOnce));
    }
    let (hooks, _) = storing(&stored, 10, None);
    let server = with_hooks(hooks).await;
    let connect = Connect::v5("c").persistent().receive_maximum(4);
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 1).await;
    let mut got: VecDeque<String> = client.payloads(5).await.into();
    drop(client);
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "live", 1, 1).await;
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    while got.back().is_none_or(|last| last != "live") {
        let message = client.take().await;
        if !(message.dup && got.contains(&message.payload)) {
            got.push_back(message.payload);
        }
    }
    let mut expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    expected.push("live".into());
    assert_eq!(got, expected);
    client.ping().await;
}

/// Is not to be read twice, then gives its page, then its end.
struct Slow {
    answers: Vec<Result<Vec<Arc<Message>>, StorageError>>,
}

impl Backlog for Slow {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Vec<Arc<Message>>, StorageError>> {
        let answer = self.answers.pop().unwrap_or_else(|| Ok(Vec::new()));
        Box::pin(async { answer })
    }
}

/// Going live after a failed read let the ack of a live message move the client's position beyond stored messages
/// that it had never been given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_fails_for_now_is_repeated_before_live_messages() {
    let ids = IdSource::new(&Node::default());
    let old = message(&ids, "t", "old", QoS::AtLeastOnce);
    let down = || Err(StorageError::Timeout { connector: "sqlite:pool1".into() });
    let hooks = Script::new(&[Hook::SessionSubscribed], move |scope| {
        let answers = vec![Ok(vec![old.clone()]), down(), down()];
        scope.effects.lock().backlogs.push(Box::new(Slow { answers }));
        Some(Box::pin(async { Verdict::Pass }))
    });
    let server = with_hooks(hooks).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    publisher.publish_done("t", "live", 1, 1).await;
    assert_eq!(client.take().await.payload, "old");
    assert_eq!(client.take().await.payload, "live");
}
