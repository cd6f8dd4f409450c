//! Bounds: queues, packet sizes, windows; and that nobody waits for the slow.

use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::BrokerConfig;
use tidegate_event::{Hook, NoHooks, VolatileStore};

use crate::support::client::{Client, PUBACK, PUBREC};
use crate::support::packet::{Connect, Publish, ack};
use crate::support::script::{Gate, Script};
use crate::support::{counted, plain, start, with_config};

/// Nothing of QoS 0 was published in the test of this name: what it is about was not tried over a socket. Here the client's
/// window is full, and of the four messages that may wait for it some are of QoS 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_drops_qos_0_first_then_the_new_message() {
    let all = [("a", 0), ("3", 1), ("b", 0), ("4", 1), ("5", 1), ("c", 0), ("6", 1)];
    // The older one of QoS 0 has to go; both, and when there is none left whatever comes.
    for (published, expected, dropped) in
        [(&all[..4], ["2", "3", "b", "4"], 1), (&all[..], ["2", "3", "4", "5"], 4)]
    {
        let config = BrokerConfig { max_queued: 4, ..BrokerConfig::default() };
        let (server, counts) = counted(config, Arc::new(NoHooks)).await;
        let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(1)).await;
        client.subscribe("t", 1).await;
        let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
        publisher.publish_done("t", "1", 1, 1).await;
        let first = client.message().await;
        // The connection takes it out of the queue, where it counts until there is room in the window.
        publisher.publish_done("t", "2", 1, 2).await;
        client.ping().await;
        for (id, (payload, qos)) in (3..).zip(published) {
            publisher.publish_done("t", payload, *qos, id).await;
        }
        assert_eq!(counts.dropped("queue_full"), dropped);
        client.send(&ack(PUBACK, first.id)).await;
        assert_eq!(client.payloads(4).await, expected);
        client.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_of_a_client_that_is_away_drops_the_new_message() {
    let config = BrokerConfig { max_queued: 4, ..BrokerConfig::default() };
    let (server, counts) = counted(config, Arc::new(NoHooks)).await;
    let connect = Connect::v4("c").persistent();
    let mut client = Client::connect(server.address, &connect).await;
    client.subscribe("t", 1).await;
    client.disconnect().await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 1..=6 {
        publisher.publish_done("t", &number.to_string(), 1, number).await;
    }
    assert_eq!(counts.dropped("queue_full"), 2);
    let mut client = Client::connect(server.address, &connect).await;
    assert_eq!(client.payloads(4).await, ["1", "2", "3", "4"]);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_delays_nobody() {
    let server = plain().await;
    let mut slow = Client::connect(server.address, &Connect::v4("slow")).await;
    slow.subscribe("t", 1).await;
    let mut fast = Client::connect(server.address, &Connect::v4("fast")).await;
    fast.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    let payload = "x".repeat(1_000);
    // Far more than the slow one's queue, window and socket hold.
    for number in 0..20_000_u32 {
        let id = (number % 60_000) as u16 + 1;
        publisher.publish("t", &payload, 1, id).await;
        assert_eq!(publisher.expect(PUBACK).await.id(), id);
        assert_eq!(fast.take().await.payload.len(), 1_000);
    }
    // What the slow one gets is the beginning, in order.
    assert_eq!(slow.payloads(1_100).await.len(), 1_100);
    slow.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_above_the_clients_maximum_is_not_sent() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c").maximum_packet_size(100)).await;
    client.subscribe("t", 1).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for (id, len) in [(1, 50), (2, 200), (3, 60)] {
        publisher.publish_done("t", &"x".repeat(len), 1, id).await;
    }
    let (first, second) = (client.message().await, client.message().await);
    assert_eq!((first.payload.len(), second.payload.len()), (50, 60));
    assert_eq!(second.id, first.id + 1, "the dropped one took no packet id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_receive_maximum_is_respected() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(2)).await;
    client.subscribe("t", 2).await;
    let mut publisher = Client::connect(server.address, &Connect::v4("p")).await;
    for number in 1..=5 {
        publisher.publish_done("t", &number.to_string(), 1, number).await;
    }
    let (one, two) = (client.message().await, client.message().await);
    client.ping().await;
    client.send(&ack(PUBACK, two.id)).await;
    assert_eq!(client.message().await.payload, "3");
    client.ping().await;
    client.send(&ack(PUBACK, one.id)).await;
    assert_eq!(client.message().await.payload, "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_window_still_answers_pingreq() {
    let gate = Gate::default();
    let hooks = Script::gated(Hook::MessagePublish, &gate);
    let config = BrokerConfig { receive_maximum: 2, read_ahead_bytes: 20_000, ..BrokerConfig::default() };
    let server = start(config, hooks.clone(), Arc::new(VolatileStore)).await;
    let mut client = Client::connect(server.address, &Connect::v4("c").keep_alive(1)).await;
    for id in 1..=10 {
        client.publish("t", "x", 1, id).await;
    }
    client.ping().await;
    assert_eq!(hooks.raised().len(), 1, "one at a time");
    gate.open();
    assert_eq!(client.expect(PUBACK).await.id(), 1);
    client.ping().await;
    // More than the read-ahead holds: nothing is read any more, and the keep-alive waits.
    let payload = "x".repeat(5_000);
    for id in 11..=200 {
        let bytes = Publish { qos: 1, id, ..client.draft("t", &payload) }.bytes();
        client.send(&bytes).await;
    }
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    for _ in 2..=200 {
        gate.open();
    }
    for id in 2..=200 {
        assert_eq!(client.expect(PUBACK).await.id(), id, "not killed by the keep-alive");
    }
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_allowed_are_closed() {
    let config = BrokerConfig { max_connections: 2, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut one = Client::connect(server.address, &Connect::v4("1")).await;
    let two = Client::connect(server.address, &Connect::v4("2")).await;
    let mut three = Client::open(server.address, false).await;
    three.try_send(&Connect::v4("3").bytes()).await;
    assert_eq!(three.next().await, None);
    two.disconnect().await;
    while server.broker.connections() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Client::connect(server.address, &Connect::v4("3")).await.ping().await;
    one.ping().await;
}

/// Whoever opened as many connections as there may be and sent nothing kept all clients out until the handshake's time was
/// over, and again after it: only the limit of handshakes made them give way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_up_to_the_limit_keep_nobody_out() {
    let config = BrokerConfig { max_connections: 8, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut first = Client::connect(server.address, &Connect::v4("first")).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(Client::open(server.address, false).await);
    }
    let mut second = Client::connect(server.address, &Connect::v4("second")).await;
    for _ in 0..20 {
        silent.push(Client::open(server.address, false).await);
    }
    // Clients that are connected stay.
    first.ping().await;
    second.ping().await;
    while server.broker.connections() > 8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut closed = 0;
    for client in &mut silent {
        let quiet = tokio::time::timeout(Duration::from_millis(50), client.next()).await.is_err();
        closed += usize::from(!quiet);
    }
    assert_eq!(closed, 40 - 6, "the oldest have gone, and only as many as had to");
    // All places taken by clients: now the one that comes is refused.
    let mut clients = Vec::new();
    for id in 0..6 {
        clients.push(Client::connect(server.address, &Connect::v4(&format!("c{id}"))).await);
    }
    let mut late = Client::open(server.address, false).await;
    late.try_send(&Connect::v4("late").bytes()).await;
    assert_eq!(late.next().await, None);
    for client in &mut clients {
        client.ping().await;
    }
}

/// A place may be given to another while the CONNECT of the one that had it is being read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_clients_does_not_get_above_the_limit() {
    let config = BrokerConfig { max_connections: 4, ..BrokerConfig::default() };
    let server = with_config(config).await;
    let address = server.address;
    let clients: Vec<_> = (0..200)
        .map(|n| {
            tokio::spawn(async move {
                let mut client = Client::open(address, false).await;
                client.try_send(&Connect::v4(&format!("f{n}")).bytes()).await;
                (client.next().await.is_some(), client)
            })
        })
        .collect();
    let mut connected = Vec::new();
    for client in clients {
        let (accepted, client) = client.await.unwrap();
        connected.extend(accepted.then_some(client));
    }
    assert!((1..=4).contains(&connected.len()), "{} are connected", connected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_its_acknowledgements_is_not_read() {
    let server = plain().await;
    let mut client = Client::connect(server.address, &Connect::v4("c")).await;
    let mut other = Client::connect(server.address, &Connect::v4("o")).await;
    // 40 MB of PINGREQ would make 40 MB of PINGRESP if the broker kept them for the client.
    let pings = [0xc0, 0].repeat(100_000);
    let flood = async {
        for _ in 0..200 {
            client.send(&pings).await;
        }
    };
    let stopped = tokio::time::timeout(Duration::from_millis(1_500), flood).await.is_err();
    assert!(stopped, "the broker stops reading, so the client cannot send");
    other.ping().await;
}

/// Sixty-five thousand copies of a message that waited for its handlers took no room, and all were answered at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_a_message_that_waits_are_packets_that_wait() {
    let gate = Gate::default();
    let hooks = Script::gated(Hook::MessagePublish, &gate);
    let config = BrokerConfig { read_ahead_bytes: 16 * 1024, ..BrokerConfig::default() };
    let server = start(config, hooks, Arc::new(VolatileStore)).await;
    let mut client = Client::connect(server.address, &Connect::v5("c")).await;
    for count in [10, 200] {
        let first = Publish { qos: 2, id: count, ..client.draft("t", "x") };
        let mut bytes = first.bytes();
        for _ in 0..count {
            bytes.extend(Publish { dup: true, ..first }.bytes());
        }
        bytes.extend([0xc0, 0]);
        client.send(&bytes).await;
        if count == 10 {
            client.expect(0xd0).await;
        } else {
            let pong = tokio::time::timeout(Duration::from_millis(300), client.recv()).await;
            assert!(pong.is_err(), "it was read on: {pong:?}");
        }
        gate.open();
        let mut pongs = usize::from(count == 10);
        for _ in 0..=count {
            let packet = client.recv().await;
            if packet.first == 0xd0 {
                pongs += 1;
            } else {
                assert_eq!((packet.first, packet.id(), packet.reason()), (PUBREC, count, 0), "each copy");
            }
        }
        if pongs == 0 {
            client.expect(0xd0).await;
        } else if count > 10 {
            client.expect(PUBREC).await;
        }
        client.ping().await;
    }
}
