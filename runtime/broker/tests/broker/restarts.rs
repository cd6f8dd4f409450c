//! What a broker finds that starts after a crash, and what it does with it: the newest retained messages, wills that are due,
//! subscriptions that had not brought everything, messages of shared subscriptions, what has expired meanwhile (MQTT 5 clauses
//! 3.1.2.11.2, 3.1.3.2.2, 3.3.1.3, 3.3.2.3.3, 4.8.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_broker::{Broker, BrokerConfig};
use tidegate_event::{
    AckJoin, Change, Event, Hook, Hooks, IdSource, NoHooks, Node, Raised, ReasonCode, Restored, SessionStore,
    SessionStoreError, Tenant, Verdict,
};

use super::durable::delay;
use crate::support::client::{Client, PATIENCE, PUBACK};
use crate::support::gate::ScriptedGate;
use crate::support::packet::{self, Connect, Publish, subscribe};
use crate::support::script::{Script, decide, pass};
use crate::support::shelf::Shelf;
use crate::support::store::Journal;
use crate::support::{free, journalled, start};

/// A journal whose writer of the retained message `first` is held up for a moment.
struct HeldUp(Journal);

impl SessionStore for HeldUp {
    fn keeps(&self) -> bool {
        true
    }

    fn restore(&self) -> Result<Restored, SessionStoreError> {
        self.0.restore()
    }

    fn record(&self, tenant: &Tenant, change: Change) {
        if matches!(&change, Change::Retained { message } if &*message.payload == b"first") {
            std::thread::sleep(Duration::from_millis(500));
        }
        self.0.record(tenant, change);
    }

    fn together(&self, changes: &mut dyn FnMut()) {
        self.0.together(changes);
    }

    fn durable(&self) -> AckJoin {
        self.0.durable()
    }

    fn health(&self) -> Result<(), SessionStoreError> {
        self.0.health()
    }

    fn is_behind(&self) -> bool {
        self.0.is_behind()
    }
}

/// The order on disk could be another one than that in memory: after a restart the older message was back.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn of_two_publishers_the_same_retained_message_is_the_last_in_memory_and_on_disk() {
    let journal = Journal::default();
    let store = Arc::new(HeldUp(journal.clone()));
    let server = start(BrokerConfig::default(), Arc::new(NoHooks), store).await;
    let mut one = Client::connect(server.address, &Connect::v5("one")).await;
    let mut two = Client::connect(server.address, &Connect::v5("two")).await;
    one.publish_as(Publish { qos: 1, id: 1, retain: true, ..one.draft("t", "first") }).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    two.retain("t", "second").await;
    one.expect(PUBACK).await;
    let crashed = journalled(&journal.after_a_crash()).await;
    let mut last = Vec::new();
    for server in [&server, &crashed] {
        let mut client = Client::connect(server.address, &Connect::v5("c")).await;
        client.subscribe("t", 1).await;
        last.push(client.take().await.payload);
    }
    assert_eq!(last[0], last[1]);
}

/// It was not in memory, so that it was deleted was not recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_message_that_was_deleted_while_there_was_no_room_for_it_does_not_come_back() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut client = Client::connect(server.address, &Connect::v5("p")).await;
    for topic in ["a", "b", "c"] {
        client.retain(topic, topic).await;
    }
    let crashed = journal.after_a_crash();
    let config = BrokerConfig { max_retained: 1, ..BrokerConfig::default() };
    let lowered = start(config, Arc::new(NoHooks), Arc::new(crashed.clone())).await;
    let mut client = Client::connect(lowered.address, &Connect::v5("p")).await;
    client.retain("b", "").await;
    let raised = journalled(&crashed.after_a_crash()).await;
    let mut client = Client::connect(raised.address, &Connect::v5("c")).await;
    client.subscribe("#", 1).await;
    assert_eq!([client.take().await.payload, client.take().await.payload], ["a", "c"]);
    client.ping().await;
}

/// Handlers that are bound some time after the start.
struct BoundLater(Arc<Script>, AtomicBool);

impl Hooks for BoundLater {
    fn is_bound(&self, tenant: &Tenant, hook: Hook) -> bool {
        self.1.load(Ordering::SeqCst) && self.0.is_bound(tenant, hook)
    }

    fn raise(&self, event: Event) -> Raised {
        self.0.raise(event)
    }
}

/// Wills that had become due were published while sessions were still being restored, before handlers were bound, and
/// whatever these would have said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_that_is_due_at_the_start_reaches_the_sessions_restored_last_and_the_handlers() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    for topic in ["will/a", "will/forbidden"] {
        let connect = Connect::v5(topic).persistent().will_with(topic, topic, 1, false, &delay(1));
        drop(Client::connect(server.address, &connect).await);
    }
    for number in 0..200 {
        let connect = Connect::v5(&format!("c{number}")).persistent();
        Client::connect(server.address, &connect).await.disconnect().await;
    }
    let watch = Connect::v5("watcher").persistent();
    let mut watcher = Client::connect(server.address, &watch).await;
    watcher.subscribe("will/#", 1).await;
    watcher.disconnect().await;
    let crashed = journal.after_a_crash();
    assert_eq!(crashed.wills(), 2);
    tokio::time::sleep(Duration::from_millis(1_100)).await;

    let script = Script::new(&[Hook::MessagePublish, Hook::ClientAuthorize], |scope| match &scope.event {
        Event::ClientAuthorize { access, .. } if access.topic() == "will/forbidden" => {
            decide(Verdict::Reject(ReasonCode::NOT_AUTHORIZED))
        }
        _ => pass(),
    });
    let hooks = Arc::new(BoundLater(script.clone(), AtomicBool::new(false)));
    let store = Arc::new(crashed.clone());
    let broker =
        Broker::new(BrokerConfig::default(), Arc::new(Node::default()), hooks.clone(), store).unwrap();
    // Modules are opened meanwhile.
    tokio::time::sleep(Duration::from_millis(300)).await;
    hooks.1.store(true, Ordering::SeqCst);
    broker.begin();
    let address = broker.listen(free()).await.unwrap();
    let mut watcher = Client::connect(address, &watch).await;
    assert_eq!(watcher.take().await.payload, "will/a");
    watcher.ping().await;
    let mut raised = script.raised();
    raised.sort();
    let expected = [
        "client.authorize will/a publish will/a 1",
        "client.authorize will/forbidden publish will/forbidden 1",
        "message.publish will/a will/a will/a",
    ];
    assert_eq!(raised, expected);
    assert_eq!(crashed.wills(), 0);
}

/// Receive maximum of 1.
const ONE_AT_A_TIME: [u8; 3] = [0x21, 0, 1];

/// What a subscription had still to bring was in memory alone: after a restart the client, whose session was there, never got
/// the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_that_were_still_to_be_sent_come_after_a_crash() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    for number in 0..10 {
        publisher.retain(&format!("r/{number}"), "x").await;
    }
    let mut connect = Connect::v5("c").persistent();
    connect.properties.extend(ONE_AT_A_TIME);
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("r/#", 1).await;
    let acked = [client.take().await.topic, client.take().await.topic];
    let in_flight = client.message().await;
    client.ping().await;
    journal.sync();
    let crashed = journal.after_a_crash();
    drop((client, server));

    let server = journalled(&crashed).await;
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    let again = client.take().await;
    assert_eq!((&again.topic, again.dup, again.id), (&in_flight.topic, true, in_flight.id));
    let mut seen: Vec<String> = acked.into_iter().chain([again.topic]).collect();
    while seen.len() < 10 {
        let message = client.take().await;
        assert!(message.retain && message.topic != in_flight.topic, "{message:?}");
        if !seen.contains(&message.topic) {
            seen.push(message.topic);
        }
    }
    while crashed.joining("c") > 0 {
        tokio::time::timeout(Duration::from_millis(10), client.take()).await.ok();
    }
    client.ping().await;
    crashed.sync();
    drop((client, server));
    let server = journalled(&crashed.after_a_crash()).await;
    let mut client = Client::connect(server.address, &connect).await;
    client.ping().await;
}

/// Live messages that waited for stored ones were sent before them after a restart, and moved the client's position over
/// them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_messages_that_were_still_to_be_sent_come_after_a_crash_and_before_live_ones() {
    let (journal, shelf) = (Journal::default(), Shelf::new(2, None));
    let server = start(BrokerConfig::default(), shelf.hooks(), Arc::new(journal.clone())).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    for number in 1..=6 {
        publisher.publish_done("t", &number.to_string(), 1, number).await;
    }
    let mut connect = Connect::v5("c").persistent();
    connect.properties.extend(ONE_AT_A_TIME);
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 1).await;
    assert_eq!(client.take().await.payload, "1");
    assert_eq!(client.message().await.payload, "2");
    client.ping().await;
    publisher.publish_done("t", "7", 1, 7).await;
    let crashed = journal.after_a_crash();
    drop((client, publisher, server));

    let hooks = shelf.hooks();
    let server = start(BrokerConfig::default(), hooks.clone(), Arc::new(crashed.clone())).await;
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    assert_eq!(client.payloads(6).await, ["2", "3", "4", "5", "6", "7"]);
    hooks.until_line("+message.acked c t 7").await;
    assert_eq!(shelf.position("c", "t").as_deref(), Some("7"));
    client.ping().await;
    while crashed.joining("c") > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Of which group a message was, was not recorded: it went to a member of another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_shared_subscription_stays_in_its_group_over_a_crash() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let mut away = Client::connect(server.address, &Connect::v5("away").persistent()).await;
    away.subscribe_all(&[("$share/one/t", 1), ("$share/two/t", 1)]).await;
    away.disconnect().await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    publisher.publish_done("t", "x", 1, 1).await;
    assert_eq!(journal.counts("away").0, 2, "one for each group");
    let crashed = journal.after_a_crash();
    drop((publisher, server));

    let server = journalled(&crashed).await;
    for group in ["one", "two"] {
        let mut member = Client::connect(server.address, &Connect::v5(group)).await;
        member.subscribe(&format!("$share/{group}/t"), 1).await;
        assert_eq!(member.take().await.payload, "x", "{group}");
        member.ping().await;
    }
}

/// The position of every topic of the filter stood still for as long as the session lived, and when the client subscribed to
/// the filter once more, what it had had came again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_go_on_when_a_subscription_with_stored_messages_is_not_allowed_after_a_crash() {
    let (journal, shelf) = (Journal::default(), Shelf::new(2, None));
    let server = start(BrokerConfig::default(), shelf.hooks(), Arc::new(journal.clone())).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    for number in 1..=4 {
        publisher.publish_done("a/c", &number.to_string(), 1, number).await;
    }
    let mut connect = Connect::v5("c").persistent();
    connect.properties.extend(ONE_AT_A_TIME);
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe_all(&[("a/b", 1), ("a/#", 1)]).await;
    assert_eq!(client.message().await.payload, "1");
    client.ping().await;
    while journal.joining("c") > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    journal.sync();
    let crashed = journal.after_a_crash();
    assert_eq!(crashed.joining("c"), 1);
    drop((client, publisher, server));

    let (hooks, gate) = (shelf.hooks(), ScriptedGate::new("a/#"));
    let ids = Arc::new(IdSource::new(&Node::default()));
    let store = Arc::new(crashed.clone());
    let broker = Broker::with_gate(BrokerConfig::default(), ids, gate, hooks.clone(), store).unwrap();
    broker.begin();
    let address = broker.listen(free()).await.unwrap();
    let mut client = Client::connect(address, &connect).await;
    assert!(client.present);
    let mut publisher = Client::connect(address, &Connect::v5("p")).await;
    publisher.publish_done("a/b", "live", 1, 1).await;
    assert_eq!(client.payloads(1).await, ["live"]);
    hooks.until_line("+message.acked c a/b live").await;
    assert_eq!(shelf.position("c", "a/b").as_deref(), Some("live"));
    client.ping().await;
}

/// Who subscribed once more and wanted what is retained only with a new subscription got it after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_was_there_before_brings_nothing_that_is_retained_after_a_crash() {
    let (journal, shelf) = (Journal::default(), Shelf::new(2, None));
    let server = start(BrokerConfig::default(), shelf.hooks(), Arc::new(journal.clone())).await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    publisher.publish_as(Publish { retain: true, ..publisher.draft("t/r", "retained") }).await;
    publisher.ping().await;
    let mut connect = Connect::v5("c").persistent();
    connect.properties.extend(ONE_AT_A_TIME);
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t/#", 1).await;
    assert_eq!(client.take().await.payload, "retained");
    client.disconnect().await;
    for number in 1..=4 {
        publisher.publish_done(&format!("t/{number}"), "stored", 1, number).await;
    }
    let mut client = Client::connect(server.address, &connect).await;
    let first = client.message().await;
    client.send(&subscribe(true, 1, &[("t/#", 1 | 1 << 4)], &[])).await;
    client.expect(0x90).await;
    journal.sync();
    let crashed = journal.after_a_crash();
    assert_eq!((first.payload.as_str(), crashed.joining("c")), ("stored", 1));
    drop((client, publisher, server));

    let server = start(BrokerConfig::default(), shelf.hooks(), Arc::new(crashed.clone())).await;
    let mut client = Client::connect(server.address, &connect).await;
    assert_eq!(client.payloads(4).await, ["stored"; 4]);
    while crashed.joining("c") > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.ping().await;
}

/// Time goes on while the server is away: who was promised a message for a second is not sent it after two, and of the others
/// it is said what is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_while_the_server_was_away_does_not_come_and_the_rest_says_what_is_left() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let connect = Connect::v5("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("queued/#", 1).await;
    client.disconnect().await;
    let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
    for (first, retain) in [("queued", false), ("retained", true)] {
        for (id, payload, seconds) in [(1, "short", 1), (2, "long", 100)] {
            let (topic, expiry) = (format!("{first}/{payload}"), [0x02, 0, 0, 0, seconds]);
            let draft = Publish { qos: 1, id, retain, ..publisher.draft(&topic, payload) };
            publisher.publish_as(Publish { properties: &expiry, ..draft }).await;
            publisher.finish(1, id).await;
        }
    }
    let crashed = journal.after_a_crash();
    assert_eq!(crashed.counts("c").0, 2);
    assert_eq!(crashed.retained(), ["retained/long", "retained/short"]);
    drop((publisher, server));
    tokio::time::sleep(Duration::from_millis(1_100)).await;

    let server = journalled(&crashed).await;
    let mut client = Client::connect(server.address, &connect).await;
    assert!(client.present);
    let queued = client.take().await;
    client.ping().await;
    assert_eq!(crashed.counts("c").0, 0, "what has expired is not kept on disk either");
    client.subscribe("retained/#", 1).await;
    let retained = client.take().await;
    client.ping().await;
    for (message, topic) in [(queued, "queued/long"), (retained, "retained/long")] {
        let left = packet::number(&message.properties, 0x02);
        assert_eq!((message.topic.as_str(), message.payload.as_str()), (topic, "long"));
        assert!(left.is_some_and(|left| (50..=99).contains(&left)), "{topic}: {left:?} seconds");
    }
}

/// Its connection ended with the process, and nobody has recorded when: its time begins with the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_of_a_client_that_was_connected_at_the_crash_ends_when_its_time_has_passed() {
    let journal = Journal::default();
    let server = journalled(&journal).await;
    let connect = Connect { clean: false, ..Connect::v5("c").expiry(1) };
    let client = Client::connect(server.address, &connect).await;
    let crashed = journal.after_a_crash();
    assert_eq!(crashed.sessions(), ["c"]);
    drop((client, server));
    let begun = Instant::now();
    let server = journalled(&crashed).await;
    let ends = async {
        while !crashed.sessions().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ends).await.expect("its session ends, and leaves the disk");
    assert!(begun.elapsed() >= Duration::from_secs(1), "after {:?}", begun.elapsed());
    assert!(!Client::connect(server.address, &connect).await.present);
}
