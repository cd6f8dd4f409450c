//! Publishers that go on through faults: what each was promised is counted, and held against the store afterwards.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::wait::{PATIENCE, until_within};
use crate::wire::{self, Connect, Wire, kind};

/// How long the last acknowledgements may take after the load has ended.
const SETTLE: Duration = Duration::from_secs(90);

/// QoS 1 publishers, each with a connection, a topic and messages in flight of its own.
pub struct Load {
    publishers: Vec<JoinHandle<Vec<String>>>,
    topics: Vec<String>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    acknowledged: AtomicUsize,
    ends: AtomicBool,
}

impl Load {
    /// Starts `publishers`, which send to `topic/0`, `topic/1` .., each with `window` messages in flight and `pause`
    /// after every acknowledgement.
    pub fn start(port: u16, topic: &str, publishers: usize, window: u16, pause: Duration) -> Self {
        Self::of_size(port, topic, publishers, window, pause, 0)
    }

    /// The same with payloads of at least `bytes` bytes: a name, then spaces.
    pub fn of_size(
        port: u16,
        topic: &str,
        publishers: usize,
        window: u16,
        pause: Duration,
        bytes: usize,
    ) -> Self {
        let state = Arc::new(State::default());
        let topics: Vec<String> = (0..publishers).map(|number| format!("{topic}/{number}")).collect();
        let publishers = topics.iter().map(|topic| {
            let (topic, state) = (topic.clone(), state.clone());
            std::thread::spawn(move || publish(port, &topic, (window, pause, bytes), &state))
        });
        Self { publishers: publishers.collect(), topics, state }
    }

    /// The topics, one a publisher.
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Messages acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.state.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many more are acknowledged; gives how long that took.
    pub fn wait_more(&self, count: usize) -> Duration {
        let (start, wanted) = (std::time::Instant::now(), self.acknowledged() + count);
        until_within(SETTLE, &format!("{count} more messages are acknowledged"), || {
            (self.acknowledged() >= wanted).then_some(())
        });
        start.elapsed()
    }

    /// Sends no more, waits for the acknowledgements of what is in flight; gives all payloads that were acknowledged.
    pub fn finish(self) -> HashSet<String> {
        self.state.ends.store(true, Ordering::SeqCst);
        self.join()
    }

    /// As [`finish`](Self::finish), when the runtime is gone: nothing is waited for.
    pub fn join(self) -> HashSet<String> {
        let mut all = HashSet::new();
        for publisher in self.publishers {
            let own = publisher.join().expect("a publisher was refused or cut off");
            assert!(!own.is_empty(), "every publisher took part");
            for payload in own {
                assert!(all.insert(payload.clone()), "{payload} was acknowledged twice");
            }
        }
        all
    }
}

/// Keeps `window` messages in flight until the load ends or the connection does; gives the names of the acknowledged
/// payloads.
fn publish(
    port: u16,
    topic: &str,
    (window, pause, bytes): (u16, Duration, usize),
    state: &State,
) -> Vec<String> {
    let id = topic.replace('/', "-");
    let (mut reader, _) = Wire::connect(port, &Connect::new(4, &id));
    let mut writer = reader.share();
    let mut acknowledged = Vec::new();
    let mut inflight = vec![None; usize::from(window) + 1];
    let mut number = 0_usize;
    let mut send = |id: u16, inflight: &mut Vec<Option<String>>| {
        let payload = format!("{topic}-{number}");
        number += 1;
        let packet = wire::publish(4, topic, format!("{payload:<bytes$}").as_bytes(), 1, id);
        inflight[usize::from(id)] = Some(payload);
        writer.try_send(&packet).is_ok()
    };
    for id in 1..=window {
        if !send(id, &mut inflight) {
            return acknowledged;
        }
    }
    reader.patience(SETTLE + PATIENCE);
    while inflight.iter().any(Option::is_some) {
        let Ok(packet) = reader.read() else { return acknowledged };
        assert_eq!(packet.kind(), kind::PUBACK, "{packet:?}");
        let id = packet.id();
        acknowledged.push(inflight[usize::from(id)].take().expect("what is acknowledged was in flight"));
        state.acknowledged.fetch_add(1, Ordering::SeqCst);
        if state.ends.load(Ordering::SeqCst) {
            continue;
        }
        std::thread::sleep(pause);
        if !send(id, &mut inflight) {
            // What was already on its way to us still counts.
            while let Ok(packet) = reader.read() {
                acknowledged.extend(inflight[usize::from(packet.id())].take());
            }
            return acknowledged;
        }
    }
    drop(reader.share().try_send(wire::DISCONNECT));
    acknowledged
}
