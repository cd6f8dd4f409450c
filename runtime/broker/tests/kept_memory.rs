//! What clients make the broker keep that take what they are sent slowly, or never: its memory, measured.
#![allow(unsafe_code, reason = "a global allocator cannot be written without; it only counts and forwards")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use support::client::{Client, PUBACK};
use support::packet::{Connect, Publish, ack, subscribe};
use support::script::{Gate, Script};
use support::{start, with_config};
use tidegate_broker::BrokerConfig;
use tidegate_event::{Hook, VolatileStore};

/// Bytes that the process has allocated and not freed.
static HELD: AtomicIsize = AtomicIsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every method hands its arguments to `System` unchanged and returns what that returned.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `test` with nothing beside it, not even what another has left: all of the process is counted.
fn alone(test: impl Future<Output = ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
    runtime.shutdown_timeout(Duration::from_secs(5));
}

const MIB: isize = 1024 * 1024;

/// Bytes that are held more than `before`, when what is on its way has come to rest.
async fn kept_since(before: isize) -> isize {
    let (mut least, end) = (isize::MAX, Instant::now() + Duration::from_secs(2));
    while Instant::now() < end {
        least = least.min(HELD.load(Ordering::Relaxed) - before);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    least
}

/// Reads what comes and answers nothing.
fn read_for_ever(mut client: Client) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { while client.next().await.is_some() {} })
}

/// Each of them was encoded a copy of its own.
#[test]
fn a_large_message_to_clients_that_never_read_is_kept_once() {
    alone(async {
        let server = with_config(BrokerConfig::default()).await;
        let mut stuck = Vec::new();
        for number in 0..60 {
            let mut client = Client::connect(server.address, &Connect::v5(&format!("c{number}"))).await;
            client.subscribe("t", 0).await;
            stuck.push(client);
        }
        let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
        let payload = "x".repeat(1_000_000);
        let before = HELD.load(Ordering::Relaxed);
        // The system takes a few MiB for each of them.
        for _ in 0..8 {
            publisher.publish("t", &payload, 0, 0).await;
            publisher.ping().await;
        }
        let kept = kept_since(before).await;
        println!("kept: {kept}");
        assert!(kept > 3 * MIB, "{kept}: they have read it all");
        assert!(kept < 18 * MIB, "{kept}");
    });
}

/// What is in flight was counted, and bounded for each client but not for all.
#[test]
fn clients_that_read_and_never_acknowledge_stay_within_the_memory_of_all_queues() {
    alone(async {
        let config = BrokerConfig {
            queue_budget_bytes: 8 * 1024 * 1024,
            max_inflight: 200,
            ..BrokerConfig::default()
        };
        let server = with_config(config).await;
        for number in 0..10 {
            let mut client = Client::connect(server.address, &Connect::v5(&format!("c{number}"))).await;
            client.subscribe(&format!("t/{number}"), 1).await;
            read_for_ever(client);
        }
        let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
        let payload = "x".repeat(14_000);
        let before = HELD.load(Ordering::Relaxed);
        for id in 1..=1_500_u16 {
            publisher.publish(&format!("t/{}", id % 10), &payload, 1, id).await;
            assert_eq!(publisher.expect(PUBACK).await.id(), id);
        }
        let kept = kept_since(before).await;
        println!("kept: {kept}");
        assert!((6 * MIB..13 * MIB).contains(&kept), "{kept}");
        // One that acknowledges gets its messages as before.
        let mut good = Client::connect(server.address, &Connect::v5("good")).await;
        good.subscribe("good", 1).await;
        for id in 1..=300 {
            publisher.publish_done("good", &payload, 1, id).await;
            assert_eq!(good.take().await.payload.len(), payload.len());
        }
    });
}

/// Every filter copied the ids of all messages that waited, and the same filter could be sent again and again.
#[test]
fn filters_of_a_client_that_does_not_acknowledge_keep_nothing_of_what_waits() {
    alone(async {
        let server = with_config(BrokerConfig::default()).await;
        let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
        let topic = "a/b/c/d/e/f/g/h";
        publisher.retain(topic, "retained").await;
        let mut client = Client::connect(server.address, &Connect::v5("c").receive_maximum(1)).await;
        // Without what is retained.
        client.subscribe(topic, 1 | 2 << 4).await;
        for id in 1..=900 {
            publisher.publish_done(topic, "live", 1, id).await;
        }
        let first = client.message().await;
        let with_wildcards = |mask: usize| {
            let levels = topic.split('/').enumerate();
            let levels: Vec<_> =
                levels.map(|(n, level)| if mask >> n & 1 == 1 { "+" } else { level }).collect();
            levels.join("/")
        };
        let different: Vec<String> = (1..256).map(with_wildcards).collect();
        let different: Vec<(&str, u8)> = different.iter().map(|filter| (filter.as_str(), 1)).collect();
        let before = HELD.load(Ordering::Relaxed);
        for filters in [different].into_iter().chain((0..10).map(|_| vec![("a/#", 1); 250])) {
            client.send(&subscribe(true, 7, &filters, &[])).await;
            let codes = client.expect(0x90).await.body.split_off(3);
            assert_eq!(codes, vec![1; filters.len()]);
        }
        let kept = kept_since(before).await;
        println!("kept: {kept}");
        assert!(kept < 2 * MIB, "{kept}");
        client.send(&ack(PUBACK, first.id)).await;
        let (mut live, mut retained) = (1, 0);
        while live < 900 || retained < 255 + 4 {
            let message = client.take().await;
            *if message.retain { &mut retained } else { &mut live } += 1;
        }
        client.ping().await;
    });
}

/// A few bytes kept the whole buffer into which they were read.
#[test]
fn a_small_message_that_waits_keeps_no_read_buffer() {
    alone(async {
        let server = with_config(BrokerConfig::default()).await;
        let mut client = Client::connect(server.address, &Connect::v5("c")).await;
        client.subscribe("t", 1).await;
        read_for_ever(client);
        let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
        let junk = "x".repeat(64 * 1024);
        let before = HELD.load(Ordering::Relaxed);
        for id in 1..=500_u16 {
            publisher.publish("nobody", &junk, 0, 0).await;
            publisher.publish("t", "twenty bytes of text", 1, id).await;
            assert_eq!(publisher.expect(PUBACK).await.id(), id);
        }
        let kept = kept_since(before).await;
        println!("kept: {kept}");
        assert!(kept < 2 * MIB, "{kept}");
    });
}

/// The same of what is retained, however large it is.
#[test]
fn a_large_retained_message_keeps_no_read_buffer() {
    alone(async {
        let server = with_config(BrokerConfig::default()).await;
        let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
        let (junk, payload) = ("x".repeat(900_000), "y".repeat(16 * 1024));
        let before = HELD.load(Ordering::Relaxed);
        for number in 0..40 {
            // One write: they are read into one buffer.
            let mut bytes = publisher.draft("nobody", &junk).bytes();
            let topic = format!("kept/{number}");
            let kept = support::packet::Publish { retain: true, ..publisher.draft(&topic, &payload) };
            bytes.extend(kept.bytes());
            publisher.send(&bytes).await;
            publisher.ping().await;
        }
        let kept = kept_since(before).await;
        println!("kept: {kept}");
        assert!((MIB / 2..3 * MIB).contains(&kept), "{kept}");
    });
}

/// It kept all of the CONNECT of which it is a part, the password with it.
#[test]
fn a_will_keeps_nothing_of_what_came_beside_it() {
    alone(async {
        let server = with_config(BrokerConfig::default()).await;
        let before = HELD.load(Ordering::Relaxed);
        let mut clients = Vec::new();
        for number in 0..50 {
            let connect = Connect::v5(&format!("c{number}")).will("t", "gone", 1, false);
            let connect = connect.login("user", "x".repeat(60_000));
            clients.push(Client::connect(server.address, &connect).await);
        }
        let kept = kept_since(before).await;
        println!("kept: {kept}");
        assert!(kept < 2 * MIB, "{kept}");
    });
}

/// Each connection could bring one packet of any size, however many there were.
#[test]
fn large_packets_are_not_read_while_too_much_waits_for_handlers() {
    alone(async {
        let gate = Gate::default();
        let hooks = Script::gated(Hook::MessagePublish, &gate);
        let config = BrokerConfig { inbound_budget_bytes: 8 * 1024 * 1024, ..BrokerConfig::default() };
        let server = start(config, hooks, Arc::new(VolatileStore)).await;
        let before = HELD.load(Ordering::Relaxed);
        let mut senders = Vec::new();
        for number in 0..40 {
            let mut client = Client::connect(server.address, &Connect::v5(&format!("c{number}"))).await;
            senders.push(tokio::spawn(async move {
                let packet = Publish { qos: 1, id: 1, ..client.draft("t", &"x".repeat(1_000_000)) }.bytes();
                client.send(&packet).await;
                drop(packet);
                client.expect(PUBACK).await
            }));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let kept = kept_since(before).await;
        println!("kept: {kept}");
        // With what of their packets the senders have not sent.
        assert!(kept < 36 * MIB, "{kept}");
        (0..40).for_each(|_| gate.open());
        for sender in senders {
            assert_eq!(sender.await.unwrap().id(), 1, "nothing is lost");
        }
    });
}

/// The topic tree, what publishers know of their subscribers, the subscriptions of sessions: all of it goes with the clients.
#[test]
fn filters_of_clients_that_are_gone_keep_nothing() {
    const CLIENTS: usize = 4;
    const FILTERS: usize = 10_000;
    alone(async {
        let server = with_config(BrokerConfig::default()).await;
        let mut publisher = Client::connect(server.address, &Connect::v5("p")).await;
        let flood = async |time: usize| {
            for number in 0..CLIENTS {
                let mut client = Client::connect(server.address, &Connect::v5(&format!("c{number}"))).await;
                for first in (0..FILTERS).step_by(20) {
                    let filters: Vec<String> =
                        (first..first + 20).map(|n| format!("flood/{number}/{time}/{n}/+/state")).collect();
                    let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 1)).collect();
                    assert_eq!(client.subscribe_all(&filters).await, [1; 20]);
                }
                client.disconnect().await;
            }
        };
        publisher.ping().await;
        let before = HELD.load(Ordering::Relaxed);
        for time in 0..3 {
            flood(time).await;
            publisher.publish("t", "x", 0, 0).await;
            publisher.ping().await;
            println!("kept: {}", kept_since(before).await);
        }
        let kept = kept_since(before).await;
        assert!(kept < MIB, "{kept}");
    });
}
