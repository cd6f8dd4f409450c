//! client.authorize and client.subscribe: leave to publish and to subscribe, in the order of the packets.

use std::sync::Arc;

use tidegate_event::{Access, Event, Hook, QoS, ReasonCode, Requested, Scope, Verdict};

use crate::support::client::{Client, PUBACK, PUBREC};
use crate::support::packet::{Connect, Publish, subscribe};
use crate::support::script::{Gate, Script, decide, pass};
use crate::support::with_hooks;

/// Refuses what is under `no/`, fails on what is under `broken/`.
fn by_topic(scope: &Scope) -> Option<tidegate_event::BoxFuture<'static, Verdict>> {
    match scope.event.topic().unwrap().split('/').next() {
        Some("no") => decide(Verdict::Reject(ReasonCode::NOT_AUTHORIZED)),
        Some("quota") => decide(Verdict::Reject(ReasonCode::QUOTA_EXCEEDED)),
        Some("broken") => decide(Verdict::Fail(scope.event.hook().failure())),
        Some("free") => None,
        _ => decide(Verdict::Allow),
    }
}

fn changed(filter: &str, qos: QoS) -> Verdict {
    Verdict::Change(Arc::new(Requested::parse(filter.into(), qos).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_without_leave_is_refused_before_message_publish() {
    let hooks = Script::new(&[Hook::ClientAuthorize, Hook::MessagePublish], |scope| match &scope.event {
        Event::ClientAuthorize { access: Access::Publish(_), .. } => by_topic(scope),
        _ => pass(),
    });
    let server = with_hooks(hooks.clone()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("#", 2).await;
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    for (topic, code) in [("yes/1", 0), ("no/1", 0x87), ("quota/1", 0x97), ("broken/1", 0x83), ("free/1", 0)]
    {
        for (qos, answer) in [(1, PUBACK), (2, PUBREC)] {
            five.publish(topic, "five", qos, 9).await;
            let packet = five.expect(answer).await;
            assert_eq!((packet.id(), packet.reason()), (9, code), "{topic}");
            if qos == 2 && code == 0 {
                five.send(&crate::support::packet::ack(0x62, 9)).await;
                five.expect(0x70).await;
            }
        }
        five.publish(topic, "five", 0, 0).await;
    }
    five.ping().await;
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    four.publish_done("no/1", "four", 1, 1).await;
    four.publish_done("no/1", "four", 2, 2).await;
    four.publish_done("no/1", "four", 0, 0).await;
    four.publish_done("broken/1", "four", 0, 0).await;
    four.publish_done("yes/1", "four", 1, 3).await;
    four.publish("broken/1", "four", 1, 4).await;
    assert_eq!(four.closed().await, None, "without an acknowledgement, so that it is sent again");
    let mut seen = Vec::new();
    for _ in 0..7 {
        let message = subscriber.take().await;
        seen.push(format!("{} {}", message.topic, message.payload));
    }
    let (yes, free) = ("yes/1 five".to_owned(), "free/1 five".to_owned());
    assert_eq!(seen[..6], [yes.clone(), yes.clone(), yes, free.clone(), free.clone(), free]);
    assert_eq!(seen[6], "yes/1 four");
    subscriber.ping().await;
    let published = hooks.raised().into_iter().filter(|line| line.starts_with("message.publish"));
    assert!(published.clone().all(|line| line.contains(" yes/") || line.contains(" free/")));
    assert_eq!(published.count(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resent_qos_2_message_is_asked_about_once() {
    let hooks = Script::observer(&[Hook::ClientAuthorize]);
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.publish("t", "x", 2, 1).await;
    client.expect(PUBREC).await;
    client.publish_as(Publish { qos: 2, id: 1, dup: true, ..client.draft("t", "x") }).await;
    client.finish(2, 1).await;
    assert_eq!(hooks.raised(), ["client.authorize c publish t 2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_clients_publishes_are_asked_about_one_at_a_time_in_order() {
    let gate = Gate::default();
    let closed = gate.clone();
    let hooks = Script::new(&[Hook::ClientAuthorize, Hook::MessagePublish], move |scope| {
        let (gate, asks) = (closed.clone(), scope.event.hook() == Hook::ClientAuthorize);
        Some(Box::pin(async move {
            if asks {
                gate.pass().await;
            }
            Verdict::Pass
        }))
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for id in 1..=3 {
        client.publish(&format!("t/{id}"), "x", 1, id).await;
    }
    client.send(&subscribe(true, 4, &[("s", 0)], &[])).await;
    client.ping().await;
    assert_eq!(hooks.raised(), ["client.authorize c publish t/1 1"]);
    for id in 1..=3 {
        gate.open();
        assert_eq!(client.expect(PUBACK).await.id(), id);
    }
    hooks.until_line("client.authorize c subscribe s 0").await;
    gate.open();
    assert_eq!(client.expect(0x90).await.id(), 4);
    let raised = hooks.raised();
    let expected: Vec<_> = (1..=3)
        .flat_map(|id| {
            [format!("client.authorize c publish t/{id} 1"), format!("message.publish c t/{id} x")]
        })
        .chain(["client.authorize c subscribe s 0".to_owned()])
        .collect();
    assert_eq!(raised, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wills_need_leave_when_they_are_published() {
    let hooks = Script::new(&[Hook::ClientAuthorize], by_topic);
    let server = with_hooks(hooks.clone()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("s")).await;
    subscriber.subscribe_all(&[("yes/#", 1), ("late/#", 1)]).await;
    let late = [0x18, 0, 0, 0, 1];
    for (id, topic, properties) in [
        ("a", "no/will", &[][..]),
        ("b", "yes/will", &[]),
        ("c", "no/late", &late),
        ("d", "late/will", &late),
    ] {
        let connect = Connect::v5(id).expiry(60).will_with(topic, id, 1, false, properties);
        drop(Client::connect(server.address, &connect).await);
    }
    assert_eq!(subscriber.take().await.topic, "yes/will");
    assert_eq!(subscriber.take().await.topic, "late/will");
    let log = hooks.until(|log| log.iter().filter(|line| line.contains("publish")).count() >= 6).await;
    for line in
        ["a publish no/will 1", "b publish yes/will 1", "c publish no/late 1", "d publish late/will 1"]
    {
        assert!(log.contains(&format!("client.authorize {line}")), "{line}: {log:#?}");
    }
    subscriber.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_filter_of_a_subscribe_is_asked_about() {
    let hooks = Script::new(&[Hook::ClientAuthorize, Hook::ClientSubscribe], |scope| match &scope.event {
        Event::ClientSubscribe { request, .. } if &*request.text == "limited" => {
            decide(Verdict::Reject(ReasonCode(0xa2)))
        }
        Event::ClientSubscribe { request, .. } if request.text.starts_with("later") => {
            decide(Verdict::Fail(scope.event.hook().failure()))
        }
        Event::ClientSubscribe { .. } => pass(),
        _ => by_topic(scope),
    });
    let server = with_hooks(hooks.clone()).await;
    let filters = [
        ("yes", 2),
        ("no/#", 1),
        ("limited", 1),
        ("$share/g/ok/+", 1),
        ("broken", 0),
        ("later", 0),
        ("free", 0),
    ];
    let mut five = Client::connect(server.address, &Connect::v5("five")).await;
    assert_eq!(five.subscribe_all(&filters).await, [2, 0x87, 0xa2, 1, 0x83, 0x83, 0]);
    assert_eq!(
        hooks.raised(),
        [
            "client.authorize five subscribe yes 2",
            "client.subscribe five yes 2",
            "client.authorize five subscribe no/# 1",
            "client.authorize five subscribe limited 1",
            "client.subscribe five limited 1",
            "client.authorize five subscribe $share/g/ok/+ 1",
            "client.subscribe five $share/g/ok/+ 1",
            "client.authorize five subscribe broken 0",
            "client.authorize five subscribe later 0",
            "client.subscribe five later 0",
            "client.authorize five subscribe free 0",
            "client.subscribe five free 0",
        ]
    );
    let mut four = Client::connect(server.address, &Connect::v4("four")).await;
    assert_eq!(four.subscribe_all(&filters).await, [2, 0x80, 0x80, 1, 0x80, 0x80, 0]);
    // The last publish of every kind shows what has been subscribed to.
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for topic in ["limited", "later", "broken", "yes"] {
        publisher.publish(topic, topic, 0, 0).await;
    }
    assert_eq!((five.take().await.topic, four.take().await.topic), ("yes".into(), "yes".into()));
    five.ping().await;
    four.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_subscription_goes_on_in_place_of_the_one_asked_for() {
    let hooks = Script::new(&[Hook::ClientSubscribe, Hook::SessionSubscribed], |scope| match &scope.event {
        Event::ClientSubscribe { request, client } => match &*request.text {
            "me/#" => decide(changed(&format!("devices/{}/#", client.id), request.qos)),
            "slow" => decide(changed("slow", QoS::AtMostOnce)),
            "deep" => decide(changed(&"x/".repeat(200), QoS::AtMostOnce)),
            "shared" => decide(changed("$share/g/shared", QoS::AtLeastOnce)),
            _ => pass(),
        },
        _ => pass(),
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    // No local, which a shared subscription cannot have.
    let codes = client.subscribe_all(&[("me/#", 1), ("slow", 2), ("deep", 1), ("shared", 1 | 4)]).await;
    assert_eq!(codes, [1, 0, 0x8f, 1]);
    let raised = hooks.raised();
    let subscribed: Vec<_> = raised.iter().filter(|line| line.starts_with("session.")).collect();
    assert_eq!(
        subscribed,
        [
            "session.subscribed c devices/c/# 1",
            "session.subscribed c slow 0",
            "session.subscribed c shared 1 shared"
        ]
    );
    client.publish_done("devices/c/x", "mine", 1, 1).await;
    assert_eq!(client.take().await.qos, 1);
    client.publish_done("me/x", "nobody's", 1, 1).await;
    client.publish_done("slow", "slow", 1, 1).await;
    assert_eq!(client.take().await.qos, 0);
    client.publish_done("shared", "shared", 1, 1).await;
    assert_eq!(client.take().await.payload, "shared", "its own messages too");
    assert_eq!(client.unsubscribe(&["me/#", "devices/c/#"]).await.body[3..], [0x11, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_handlers_subscribe_a_client_to_is_not_asked_about() {
    let bound = [Hook::ClientAuthorize, Hook::ClientSubscribe, Hook::ClientConnected];
    let hooks = Script::new(&bound, |scope| match &scope.event {
        Event::ClientConnected { .. } => {
            scope.effects.lock().subscriptions.push(("auto/#".parse().unwrap(), QoS::AtLeastOnce));
            pass()
        }
        _ => decide(Verdict::Reject(ReasonCode::NOT_AUTHORIZED)),
    });
    let server = with_hooks(hooks.clone()).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    assert_eq!(client.subscribe("by/itself", 1).await, 0x87);
    let tenant = tidegate_event::Tenant::default();
    let control = server.broker.control();
    control.subscribe(&tenant, "c", "ordered/#".parse().unwrap(), QoS::AtLeastOnce).unwrap();
    client.ping().await;
    for topic in ["auto/1", "ordered/1"] {
        let message = tidegate_event::Message {
            id: server.broker.ids().next_id(),
            topic: topic.parse().unwrap(),
            payload: topic.into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            sender: String::new().into(),
            publisher: None,
            properties: None,
            origin: tidegate_event::Origin::Module,
            hops: 1,
        };
        control.publish(&tenant, message).unwrap();
        assert_eq!(client.take().await.topic, topic, "and modules publish without leave");
    }
    assert_eq!(hooks.raised(), ["client.connected c", "client.authorize c subscribe by/itself 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_it_is_asked_about_has_its_message_handled() {
    let gate = Gate::default();
    let closed = gate.clone();
    let hooks = Script::new(&[Hook::ClientAuthorize], move |scope| {
        let (gate, waits) = (closed.clone(), scope.event.client().unwrap().id == "c");
        Some(Box::pin(async move {
            if waits {
                gate.pass().await;
            }
            Verdict::Pass
        }))
    });
    let server = with_hooks(hooks.clone()).await;
    let mut subscriber = Client::connect(server.address, &Connect::v4("s")).await;
    subscriber.subscribe("t", 1).await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    client.publish("t", "1", 1, 1).await;
    client.publish("t", "2", 1, 2).await;
    hooks.until_line("client.authorize c publish t 1").await;
    client.ping().await;
    client.disconnect().await;
    gate.open();
    gate.open();
    assert_eq!(subscriber.payloads(2).await, ["1", "2"]);
}
