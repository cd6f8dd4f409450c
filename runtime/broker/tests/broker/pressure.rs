//! Publishers beside subscribers that are slow, and subscriptions beside messages that are retained.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Client, PUBACK};
use crate::support::packet::{Connect, Publish, ack};
use crate::support::plain;

/// Messages of the publisher that are not answered yet.
const WINDOW: u16 = 100;
/// What a message takes.
const BYTES: usize = 200;

/// A subscriber that acknowledges everything, and rests that long after each message.
fn subscriber(mut client: Client, rest: Duration, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    tokio::spawn(async move {
        let mut taken = 0;
        while !stop.load(Ordering::Relaxed) {
            let next = tokio::time::timeout(Duration::from_millis(20), client.next()).await;
            let Ok(Some(packet)) = next else { continue };
            let message = packet.published(client.v5);
            if message.qos > 0 {
                client.send(&ack(PUBACK, message.id)).await;
            }
            taken += 1;
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
        }
        taken
    })
}

struct Measured {
    p99: Duration,
    /// Messages a second.
    rate: f64,
}

/// A publisher that always has [`WINDOW`] messages on their way, for `time`; what passes before `warm_up` is over is
/// not counted.
async fn flood(address: SocketAddr, topic: &str, warm_up: Duration, time: Duration) -> Measured {
    let mut client = Client::connect(address, &Connect::v5("publisher")).await;
    let payload = "x".repeat(BYTES);
    let mut sent = vec![Instant::now(); usize::from(WINDOW)];
    let (mut next, mut waits) = (0_u16, Vec::new());
    let begun = Instant::now();
    let mut counted = 0_u64;
    let mut outstanding = 0;
    while begun.elapsed() < warm_up + time {
        let mut bytes = Vec::new();
        while outstanding < WINDOW {
            let id = next % WINDOW + 1;
            bytes.extend(Publish { qos: 1, id, ..client.draft(topic, &payload) }.bytes());
            sent[usize::from(id) - 1] = Instant::now();
            next = next.wrapping_add(1) % (WINDOW * 600);
            outstanding += 1;
        }
        client.send(&bytes).await;
        // As many as are there: at least one.
        for _ in 0..WINDOW / 2 {
            let id = client.expect(PUBACK).await.id();
            outstanding -= 1;
            if begun.elapsed() > warm_up {
                counted += 1;
                waits.push(sent[usize::from(id) - 1].elapsed());
            }
        }
    }
    while outstanding > 0 {
        client.expect(PUBACK).await;
        outstanding -= 1;
    }
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    Measured { p99, rate: counted as f64 / time.as_secs_f64() }
}

/// What a publisher sees whose messages go to a subscriber that keeps up and to one that rests after each message.
async fn beside(rest: Duration) -> Measured {
    let server = plain().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for (name, rest) in [("quick", Duration::ZERO), ("other", rest)] {
        let mut client = Client::connect(server.address, &Connect::v5(name)).await;
        client.subscribe("t", 1).await;
        tasks.push(subscriber(client, rest, Arc::clone(&stop)));
    }
    let measured = flood(server.address, "t", Duration::from_millis(300), Duration::from_millis(700)).await;
    stop.store(true, Ordering::Relaxed);
    let (quick, other) = (tasks.remove(0).await.unwrap(), tasks.remove(0).await.unwrap());
    assert!(rest.is_zero() || quick > 5 * other, "the other one is much slower: {quick}, {other}");
    measured
}

/// A publisher paused for up to a tenth of its time, 51 ms at once, for a subscriber that was slow for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_ten_times_too_slow_slows_a_publisher_no_more_than_one_that_keeps_up() {
    let (mut quick, mut slow) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        quick.push(beside(Duration::ZERO).await);
        slow.push(beside(Duration::from_millis(1)).await);
    }
    let p99s = |measured: &[Measured]| measured.iter().map(|measured| measured.p99).collect::<Vec<_>>();
    let rates =
        |measured: &[Measured]| measured.iter().map(|measured| measured.rate as u64).collect::<Vec<_>>();
    println!("beside one that keeps up: p99 {:?}, {:?}/s", p99s(&quick), rates(&quick));
    println!("beside a slow one: p99 {:?}, {:?}/s", p99s(&slow), rates(&slow));
    // On a loaded machine a round more or less is bad for both.
    let (worst, best) = (p99s(&quick).into_iter().max().unwrap(), p99s(&slow).into_iter().min().unwrap());
    assert!(best < worst * 3 / 2 + Duration::from_millis(2), "{best:?} against {worst:?}");
}

/// Messages were looked for when a subscription was about to be made: what was retained, and routed, between that and the
/// moment it was there did not reach it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_retained_message_of_all_reaches_a_subscription_that_is_made_at_the_same_moment_once() {
    let server = plain().await;
    let mut publisher = Client::connect(server.address, &Connect::v5("publisher")).await;
    let mut subscriber = Client::connect(server.address, &Connect::v5("subscriber")).await;
    for round in 0..1_500_u32 {
        let payload = round.to_string();
        // A little earlier, a little later.
        let pause = Duration::from_micros(u64::from(round % 16) * 10);
        let publish = async {
            spin(if round % 2 == 0 { pause } else { Duration::ZERO }).await;
            publisher.retain("t", &payload).await;
        };
        let subscribe = async {
            spin(if round % 2 == 1 { pause } else { Duration::ZERO }).await;
            subscriber.send(&crate::support::packet::subscribe(true, 5, &[("t", 1)], &[])).await;
            let (mut answered, mut got) = (false, Vec::new());
            while !answered || got.is_empty() {
                let packet = subscriber.recv().await;
                if packet.first == 0x90 {
                    answered = true;
                    continue;
                }
                let message = packet.published(true);
                subscriber.send(&ack(PUBACK, message.id)).await;
                got.push(message.payload);
            }
            got
        };
        let ((), got) = tokio::join!(publish, subscribe);
        assert_eq!(got, [payload], "round {round}");
        // Nothing comes twice.
        subscriber.ping().await;
        subscriber.unsubscribe(&["t"]).await;
        publisher.retain("t", "").await;
    }
}

async fn spin(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        tokio::task::yield_now().await;
    }
}

/// The retained copy of the newest message came first, then older ones live: a subscriber was left with an old value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_ends_with_the_newest_value_however_its_subscription_is_timed() {
    let server = plain().await;
    let address = server.address;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let publishing = tokio::spawn(async move {
        let mut publisher = Client::connect(address, &Connect::v5("publisher")).await;
        let mut number = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            let mut bytes = Vec::new();
            for id in 1..=20 {
                number += 1;
                let text = number.to_string();
                let draft = publisher.draft("t", &text);
                bytes.extend(Publish { qos: 1, id, retain: true, ..draft }.bytes());
            }
            publisher.send(&bytes).await;
            for _ in 0..20 {
                publisher.expect(PUBACK).await;
            }
        }
        number
    });
    let mut subscriber = Client::connect(address, &Connect::v5("subscriber")).await;
    for round in 0..300 {
        subscriber.send(&crate::support::packet::subscribe(true, 5, &[("t", 0)], &[])).await;
        // What the last subscription has left may come before the answer.
        while subscriber.recv().await.kind() != 9 {}
        let mut last = 0_u32;
        for _ in 0..30 {
            let packet = subscriber.recv().await;
            let value = packet.published(true).payload.parse::<u32>().unwrap();
            assert!(value > last, "round {round}: {value} after {last}");
            last = value;
        }
        subscriber.unsubscribe_any("t").await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(publishing.await.unwrap() > 0);
}
