//! `kill -9` again and again under load: QoS 1 at least once and QoS 2 exactly once, whoever subscribes and however.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_e2e::mosquitto;
use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::sqlite::column;
use tidegate_e2e::wait::{long, tell, until_within};
use tidegate_e2e::wire::{self, Connect, Wire, kind};
use tidegate_e2e::{Server, until};

use crate::churner::Churner;
use crate::publisher::Publisher;
use crate::retainer::Retainer;
use crate::subscriber::Subscriber;
use crate::tally::Tally;

/// The messages of one publisher go into a database before they are acknowledged: its QoS 2 packet ids are recorded when they
/// arrive, and again when the message was routed.
const STORED: &str = r#"
backend.sqlite.pool1.path = ./data/mqtt.db
backend.sqlite.hook.message.publish.1 = {"topic": "load/publisher-5-2", "action": {"function": "on_message_publish"}, "pool": "pool1"}
"#;

/// How long subscribers may take for the last messages.
const SETTLE: Duration = Duration::from_secs(120);

fn rounds() -> u64 {
    if long() > 1 { 50 } else { 10 }
}

/// A client that dies with the server each time, and one that comes back in time; and the wills that were published.
#[derive(Default)]
struct Testators {
    returner: Option<Wire>,
    found: Vec<String>,
}

fn with_will(id: &str, topic: &str, payload: &str, delay: u32) -> Connect {
    let mut connect = Connect::new(5, id).persistent();
    connect.will = Some((topic.into(), payload.into(), 1, false));
    connect.will_properties = [&[0x18][..], &delay.to_be_bytes()].concat();
    connect
}

impl Testators {
    fn new(port: u16) -> Self {
        let (mut wire, _) = Wire::connect(port, &Connect::new(5, "will-watcher").persistent());
        wire.send(&wire::subscribe(5, 1, "wills/#", 1));
        wire.expect(kind::SUBACK);
        Self::default()
    }

    /// Connects the one that will not come back.
    fn connect(port: u16, round: u64) -> Wire {
        let text = format!("gone {round}");
        Wire::connect(port, &with_will(&format!("gone-{round}"), "wills/gone", &text, 1)).0
    }

    /// Connects the one that comes back.
    fn come_back(&mut self, port: u16, round: u64) {
        let text = format!("returner {round}");
        self.returner = Some(Wire::connect(port, &with_will("returner", "wills/returner", &text, 8)).0);
    }

    /// It needs no will any more.
    fn leave(&mut self) {
        if let Some(mut returner) = self.returner.take() {
            returner.send(wire::DISCONNECT);
        }
    }

    /// Takes wills until that of `round` is there; `None`: as many as wait.
    fn watch(&mut self, port: u16, round: Option<u64>) {
        let (mut wire, present) = Wire::connect(port, &Connect::new(5, "will-watcher").persistent());
        assert!(present);
        if round.is_none() {
            wire.patience(Duration::from_millis(300));
        }
        while round.is_none_or(|round| !self.found.contains(&format!("gone {round}"))) {
            let packet = match wire.read() {
                Ok(packet) => packet,
                Err(_) if round.is_none() => break,
                Err(error) => panic!("no will of round {round:?}: {error}; there are {:?}", self.found),
            };
            let (_, id, payload) = packet.publish(5);
            self.found.push(String::from_utf8(payload).unwrap());
            wire.send(&wire::ack(kind::PUBACK, id));
        }
        wire.patience(SETTLE);
        wire.send(wire::DISCONNECT);
        // It has read all that was sent before: else its next connection may get again what it has acknowledged.
        wire.read_to_end();
    }

    /// Every will of a client that did not come back, once; none of the one that did.
    fn check(mut self) {
        self.found.sort();
        let mut expected: Vec<String> = (1..=rounds()).map(|round| format!("gone {round}")).collect();
        expected.sort();
        assert_eq!(self.found, expected);
    }
}

/// What is retained after each round: most of it as it was set last, one topic cleared.
fn retain(port: u16, round: u64) {
    for slot in 0..3 {
        let topic = format!("state/{slot}");
        mosquitto::publish(port, &["-t", &topic, "-m", &format!("{round}"), "-r", "-q", "1"]);
    }
    let cleared = format!("state/{}", round % 3);
    mosquitto::publish(port, &["-t", &cleared, "-n", "-r", "-q", "1"]);
}

fn expect_retained(port: u16, round: u64) {
    let mut reader = mosquitto::Subscriber::start(port, &["-t", "state/#", "-q", "1", "-V", "mqttv5"]);
    let mut found = reader.take(2);
    found.sort();
    let expected = (0..3).filter(|slot| *slot != round % 3).map(|slot| format!("state/{slot} {round}"));
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn kill_9_under_load_loses_and_doubles_nothing() {
    let toml = "[broker]\nmax_queued = 500000\n";
    let server = Server::builder().file("tidegate.toml", toml);
    let mut server = server.file("conf.d/emqx_backend_sqlite.conf", STORED).start();
    let port = server.port;
    let mut publishers: Vec<Publisher> =
        [(4, 1), (5, 1), (4, 2), (5, 2)].map(|(version, qos)| Publisher::new(version, qos)).into();
    let mut subscribers: Vec<Subscriber> = vec![
        Subscriber::enroll(port, 4, "plain-4", "load/#"),
        Subscriber::enroll(port, 5, "plain-5", "load/+"),
        Subscriber::enroll(port, 5, "member-1", "$share/group/load/#"),
        Subscriber::enroll(port, 4, "member-2", "$share/group/load/#"),
    ];
    let mut away = Subscriber::enroll(port, 5, "away", "load/#");
    // They come back by themselves.
    let mut mosquitto = mosquitto::Subscriber::start(
        port,
        &["-t", "load/#", "-q", "1", "-c", "-i", "mosquitto", "-k", "30", "-V", "mqttv311"],
    );
    let options = Options::new(5, "paho").with("clean", false).with("session_expiry", 86_400);
    let mut paho = Paho::connect(port, &options);
    paho.subscribe("load/#", 2);
    let (mut by_mosquitto, mut by_paho) = (Tally::default(), Tally::default());
    let mut testators = Testators::new(port);
    testators.come_back(port, 0);
    let (mut retainer, mut churner) = (Retainer::default(), Churner::enroll(port));

    for round in 1..=rounds() {
        retain(port, round);
        let gone = Testators::connect(port, round);
        let (stop, acknowledged) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 4]);
        let each = || acknowledged.each_ref().map(|count| count.load(Ordering::Relaxed));
        std::thread::scope(|scope| {
            let stop = &stop;
            for subscriber in &mut subscribers {
                scope.spawn(move || subscriber.run(port, stop));
            }
            for (publisher, acknowledged) in publishers.iter_mut().zip(&acknowledged) {
                scope.spawn(move || publisher.run(port, stop, acknowledged));
            }
            let (retainer, churner) = (&mut retainer, &mut churner);
            scope.spawn(move || retainer.run(port, stop));
            scope.spawn(move || churner.run(port, stop));
            // Not always at the same point of the load.
            let enough = 200 + 97 * usize::try_from(round % 7).unwrap();
            let is_enough = |each: [usize; 4]| each.iter().sum::<usize>() >= enough && !each.contains(&0);
            until("the load of every publisher is under way", || is_enough(each()).then_some(()));
            server.kill();
        });
        drop(gone);
        if round.is_multiple_of(3) {
            // Also while it reads back what it has, and begins to serve.
            server.launch();
            std::thread::sleep(Duration::from_millis(17 * round % 200));
            server.kill();
        }
        server.start();
        // In time, for a will that has 8 seconds.
        testators.come_back(port, round);
        expect_retained(port, round);
        retainer.check(port);
        churner.check(port);
        testators.watch(port, Some(round));
        while let Some(message) = mosquitto.try_receive(Duration::ZERO) {
            by_mosquitto.add(&message.payload);
        }
        while let Some(message) = paho.try_receive(Duration::ZERO) {
            by_paho.add(&message.payload);
        }
        tell(&format!("kill {round}: {:?} acknowledged before it", each()));
    }

    testators.leave();
    testators.watch(port, None);

    // No more kills: everything is sent again until it is acknowledged, and arrives.
    let (stop, all, acknowledged) =
        (AtomicBool::new(true), Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    publishers.iter_mut().for_each(|publisher| publisher.run(port, &stop, &acknowledged));
    publishers.iter().for_each(Publisher::check_done);
    let sent: Vec<(String, u8, u64)> =
        publishers.iter().map(|publisher| (publisher.name.clone(), publisher.qos, publisher.next)).collect();
    let has_all = |tally: &Tally| sent.iter().all(|(name, _, end)| tally.has_all(name, *end));
    std::thread::scope(|scope| {
        subscribers.push(away);
        let running: Vec<_> = subscribers
            .drain(..)
            .map(|mut subscriber| {
                let all = all.clone();
                scope.spawn(move || {
                    subscriber.run(port, &all);
                    subscriber
                })
            })
            .collect();
        until_within(SETTLE, "the clients of others to get the last messages", || {
            while let Some(message) = mosquitto.try_receive(Duration::ZERO) {
                by_mosquitto.add(&message.payload);
            }
            while let Some(message) = paho.try_receive(Duration::ZERO) {
                by_paho.add(&message.payload);
            }
            (has_all(&by_mosquitto) && has_all(&by_paho)).then_some(())
        });
        // What nobody waits for any more would only be something too much.
        until_within(SETTLE, "nothing waits for anybody", || {
            (server.metric("tidegate_server_sessions_deliveries", "") == 0.0).then_some(())
        });
        all.store(true, Ordering::Relaxed);
        subscribers = running.into_iter().map(|running| running.join().unwrap()).collect();
    });
    away = subscribers.pop().unwrap();

    let mut group = Tally::default();
    subscribers
        .iter()
        .filter(|one| one.name.starts_with("member"))
        .for_each(|member| group.merge(&member.tally));
    let plain = subscribers.iter().filter(|one| one.name.starts_with("plain")).chain([&away]);
    for (who, tally) in plain.map(|one| (one.name.as_str(), &one.tally)).chain([("paho", &by_paho)]) {
        sent.iter().for_each(|(name, qos, end)| tally.check(who, name, *end, *qos == 2));
        tally.check_order(who);
    }
    sent.iter().for_each(|(name, qos, end)| group.check("the group", name, *end, *qos == 2));
    sent.iter().for_each(|(name, _, end)| by_mosquitto.check("mosquitto", name, *end, false));
    by_mosquitto.check_order("mosquitto");
    let repeated = subscribers.iter().map(|one| one.tally.repeated()).sum::<u32>();
    tell(&format!(
        "{} kills, {} messages, each to seven sessions: none lost, QoS 2 none twice, QoS 1 {repeated} times again",
        rounds(),
        sent.iter().map(|(_, _, end)| end).sum::<u64>()
    ));
    testators.check();
    let stored = column(&server.database(), "select cast(payload as text) from mqtt_msg");
    let mut stored: Vec<u64> =
        stored.iter().map(|row| row.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    stored.sort_unstable();
    let end = sent.iter().find(|(name, ..)| name == "publisher-5-2").map_or(0, |(_, _, end)| *end);
    assert_eq!(stored, (0..end).collect::<Vec<_>>(), "each message of publisher-5-2 has one row");
    tell(&format!("{} retained messages were set", retainer.count()));
    server.assert_no_panic();
}
