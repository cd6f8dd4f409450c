//! Tests of the writer against a scripted back end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod buffered;
mod stuck;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tidegate_event::{AckError, AckJoin, BoxFuture, IdSource, Node, TopicFilter};
use tokio::sync::Semaphore;

use super::*;
use crate::backend::{BackendError, WriteError};
use crate::buffer::BufferSpace;

/// Writes when it is let, answers as told, remembers what it was given.
struct Scripted {
    shards: usize,
    /// One permit a call.
    gate: Semaphore,
    /// Topics that are refused, and topics that are unavailable so many times.
    refuse: Mutex<Vec<&'static str>>,
    unavailable: Mutex<usize>,
    panic_on: Mutex<Option<&'static str>>,
    /// Whether a refusal names the operation.
    says_which: Mutex<bool>,
    /// Whether it writes all but those that it refuses, and names them.
    names_all: Mutex<bool>,
    /// How long the store takes for one operation.
    pace: Mutex<Duration>,
    writes: Mutex<usize>,
    batches: Mutex<Vec<Vec<String>>>,
    /// Batches that are being written, by shard.
    writing: Mutex<BTreeMap<usize, usize>>,
    /// The most that ever were: of any one shard, and of all together.
    most: Mutex<(usize, usize)>,
}

/// Counts a batch that is being written.
struct Writing<'a>(&'a Scripted, usize);

impl<'a> Writing<'a> {
    fn of(backend: &'a Scripted, operations: &[Operation]) -> Self {
        let shard = operations.first().map_or(0, |operation| operation.shard(backend.shards));
        let mut writing = backend.writing.lock();
        *writing.entry(shard).or_default() += 1;
        let mut most = backend.most.lock();
        *most = (most.0.max(writing[&shard]), most.1.max(writing.values().sum()));
        Self(backend, shard)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *self.0.writing.lock().entry(self.1).or_default() -= 1;
    }
}

impl Scripted {
    fn new(shards: usize, permits: usize) -> Arc<Self> {
        Arc::new(Self {
            shards,
            gate: Semaphore::new(permits),
            refuse: Mutex::default(),
            unavailable: Mutex::default(),
            panic_on: Mutex::default(),
            says_which: Mutex::default(),
            names_all: Mutex::default(),
            pace: Mutex::default(),
            writes: Mutex::default(),
            batches: Mutex::default(),
            writing: Mutex::default(),
            most: Mutex::default(),
        })
    }

    /// Stores all of `topics` but those that are to be refused.
    fn all_but(&self, topics: Vec<String>) -> Result<(), WriteError> {
        let (refuse, error) =
            (self.refuse.lock(), BackendError::Refused { code: "1".into(), message: "no".into() });
        let is_refused = |topic: &str| refuse.contains(&topic);
        let places = topics.iter().enumerate().filter(|(_, topic)| is_refused(topic));
        let refused: Vec<_> = places.map(|(at, _)| (at, error.clone())).collect();
        self.batches.lock().push(topics.iter().filter(|topic| !is_refused(topic)).cloned().collect());
        if refused.is_empty() {
            Ok(())
        } else {
            Err(WriteError { error, operation: None, refused, undecided: Vec::new() })
        }
    }

    /// The shards whose batches are being written.
    fn writing(&self) -> Vec<usize> {
        self.writing.lock().iter().filter(|(_, count)| **count > 0).map(|(shard, _)| *shard).collect()
    }

    fn stored(&self) -> Vec<String> {
        self.batches.lock().iter().flatten().cloned().collect()
    }
}

fn topic_of(operation: &Operation) -> String {
    operation.subject().topic.unwrap_or_default().to_string()
}

impl Backend for Scripted {
    fn shards(&self) -> usize {
        self.shards
    }

    fn write<'a>(&'a self, operations: &'a [Operation]) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            let _writing = Writing::of(self, operations);
            self.gate.acquire().await.unwrap().forget();
            let pace = *self.pace.lock();
            if pace > Duration::ZERO && *self.unavailable.lock() == 0 {
                tokio::time::sleep(pace * u32::try_from(operations.len()).unwrap()).await;
            }
            let mut unavailable = self.unavailable.lock();
            if *unavailable > 0 {
                *unavailable -= 1;
                return Err(BackendError::Unavailable("down".into()).into());
            }
            let topics: Vec<String> = operations.iter().map(topic_of).collect();
            let panic_on = *self.panic_on.lock();
            assert!(!topics.iter().any(|t| Some(&**t) == panic_on), "scripted panic");
            *self.writes.lock() += 1;
            if *self.names_all.lock() {
                return self.all_but(topics);
            }
            if let Some(at) = topics.iter().position(|t| self.refuse.lock().contains(&&**t)) {
                let error = BackendError::Refused { code: "1".into(), message: "no".into() };
                return Err(WriteError {
                    error,
                    operation: self.says_which.lock().then_some(at),
                    refused: Vec::new(),
                    undecided: Vec::new(),
                });
            }
            self.batches.lock().push(topics);
            Ok(())
        })
    }

    asked_nothing!();
}

struct Bench {
    backend: Arc<Scripted>,
    writer: Writer,
    dir: tempfile::TempDir,
}

fn bench(shards: usize, permits: usize, budget: usize) -> Bench {
    bench_with(Scripted::new(shards, permits), budget, None)
}

fn bench_with(backend: Arc<Scripted>, budget: usize, space: Option<Arc<dyn BufferSpace>>) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Arc::new(ConnectorMetrics::new("test:p"));
    let spill = Spill::new("test:p", space, Arc::clone(&metrics));
    let parts = WriterParts {
        connector: "test:p".into(),
        backend: backend.clone(),
        metrics,
        dead_letters: Arc::new(DeadLetters::new(dir.path().join("dead-letters.jsonl"), 1 << 20)),
        limits: BatchLimits { operations: 100, bytes: 1 << 20 },
        ids: Arc::new(IdSource::new(&Node::default())),
        turn: crate::turn::Turn::now(),
        knock: Arc::default(),
    };
    let writer = Writer::start(parts, &Budget::new(budget, 1), spill);
    Bench { backend, writer, dir }
}

impl Bench {
    async fn put(&self, topic: &str) -> AckJoin {
        let join = AckJoin::new();
        let operation = Operation::DeleteRetained { topic: topic.parse().unwrap() };
        self.writer.enqueue(operation, join.part()).await;
        join
    }

    fn letters(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("dead-letters.jsonl")).unwrap_or_default()
    }
}

const MANY: usize = 1 << 30;

#[tokio::test]
async fn what_gathers_while_a_batch_is_written_is_the_next_batch() {
    let bench = bench(1, 0, MANY);
    let first = bench.put("t/0").await;
    tokio::task::yield_now().await; // the worker takes it and waits at the gate
    let mut joins = vec![first];
    for n in 1..=5 {
        joins.push(bench.put(&format!("t/{n}")).await);
    }
    bench.backend.gate.add_permits(2);
    for join in joins {
        assert_eq!(join.await, Ok(()));
    }
    let sizes: Vec<usize> = bench.backend.batches.lock().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 5]);
}

#[tokio::test]
async fn a_part_is_done_only_after_the_write_returned() {
    let bench = bench(1, 0, MANY);
    let join = bench.put("t").await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
        assert_eq!(join.clone().now_or_never(), None);
    }
    bench.backend.gate.add_permits(1);
    assert_eq!(join.await, Ok(()));
}

/// Ten operations of which the fourth and the eighth are refused; gives the number of attempts.
async fn refuse_two_of_ten(says_which: bool) -> usize {
    let bench = bench(1, 0, MANY);
    *bench.backend.refuse.lock() = vec!["t/3", "t/7"];
    *bench.backend.says_which.lock() = says_which;
    let mut joins = Vec::new();
    for n in 0..10 {
        joins.push(bench.put(&format!("t/{n}")).await);
    }
    bench.backend.gate.add_permits(MANY);
    for (n, join) in joins.into_iter().enumerate() {
        match join.await {
            Ok(()) => assert!(n != 3 && n != 7, "{n}"),
            Err(AckError::Refused { connector, code, .. }) => {
                assert!(n == 3 || n == 7, "{n}");
                assert_eq!((&*connector, code.0), ("test:p", 0x83));
            }
            Err(other) => panic!("{other}"),
        }
    }
    let expected: Vec<String> = [0, 1, 2, 4, 5, 6, 8, 9].iter().map(|n| format!("t/{n}")).collect();
    assert_eq!(bench.backend.stored(), expected);
    assert_eq!(bench.letters().lines().count(), 2);
    *bench.backend.writes.lock()
}

#[tokio::test]
async fn only_the_refused_operation_fails_and_order_is_kept() {
    let searched = refuse_two_of_ten(false).await;
    let told = refuse_two_of_ten(true).await;
    // All; before, it and after for the first; the same for the second in what came after the first.
    assert!(told <= 7 && told < searched, "{told} {searched}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_tried_again_until_it_is_up() {
    let bench = bench(1, MANY, MANY);
    *bench.backend.unavailable.lock() = 50;
    let (first, second) = (bench.put("a").await, bench.put("b").await);
    assert_eq!((first.await, second.await), (Ok(()), Ok(())));
    assert_eq!(bench.backend.stored(), ["a", "b"]);
    assert_eq!(bench.letters(), "");
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_written_is_not_acknowledged() {
    let bench = bench(1, MANY, MANY);
    std::fs::create_dir(bench.dir.path().join("dead-letters.jsonl")).unwrap();
    *bench.backend.refuse.lock() = vec!["bad"];
    let (good, bad) = (bench.put("good").await, bench.put("bad").await);
    assert_eq!((good.await, bad.await), (Ok(()), Err(AckError::Abandoned)));
}

/// Keeps counters and gauges by name and labels.
#[derive(Default)]
struct Recorder(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Recorder {
    fn slot(&self, key: &metrics::Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::clone(self.0.lock().entry(name).or_default())
    }

    fn raw(&self, name: &str) -> u64 {
        self.0.lock().get(name).expect(name).load(Ordering::Relaxed)
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.raw(name))
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(self.slot(key))
    }

    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(self.slot(key))
    }

    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_show_what_waits_what_was_tried_and_how_it_ended() {
    let recorder = Recorder::default();
    let bench = metrics::with_local_recorder(&recorder, || bench(1, 0, MANY));
    *bench.backend.unavailable.lock() = 3;
    *bench.backend.refuse.lock() = vec!["bad"];
    let joins = [bench.put("good").await, bench.put("bad").await, bench.put("fine").await];
    assert!((recorder.gauge("tidegate_store_queued{connector=test:p}") - 3.0).abs() < 0.1);
    bench.backend.gate.add_permits(1);
    while recorder.raw("tidegate_store_retries_total{connector=test:p,call=write}") == 0 {
        tokio::task::yield_now().await;
    }
    assert!(recorder.gauge("tidegate_store_up{connector=test:p}") < 0.1, "down");
    assert!((recorder.gauge("tidegate_store_inflight{connector=test:p}") - 3.0).abs() < 0.1);
    bench.backend.gate.add_permits(MANY);
    let mut ok = 0;
    for join in joins {
        ok += usize::from(join.await.is_ok());
    }
    assert_eq!(ok, 2);
    assert_eq!(bench.writer.close(Duration::from_secs(1)).await, 0);
    assert_eq!(recorder.raw("tidegate_store_operations_total{connector=test:p,result=stored}"), 2);
    assert_eq!(recorder.raw("tidegate_store_operations_total{connector=test:p,result=refused}"), 1);
    assert_eq!(recorder.raw("tidegate_store_operations_total{connector=test:p,result=abandoned}"), 0);
    assert_eq!(recorder.raw("tidegate_store_retries_total{connector=test:p,call=write}"), 3);
    for (gauge, value) in [("queued", 0.0), ("inflight", 0.0), ("up", 1.0)] {
        let name = format!("tidegate_store_{gauge}{{connector=test:p}}");
        assert!((recorder.gauge(&name) - value).abs() < 0.1, "{name}");
    }
}

#[tokio::test]
async fn a_panic_in_a_driver_refuses_the_operation_and_the_writer_goes_on() {
    let bench = bench(1, MANY, MANY);
    *bench.backend.panic_on.lock() = Some("bad");
    let joins = [bench.put("good").await, bench.put("bad").await, bench.put("fine").await];
    let mut results = Vec::new();
    for join in joins {
        results.push(join.await.is_ok());
    }
    assert_eq!(results, [true, false, true]);
}

#[tokio::test]
async fn a_full_budget_holds_the_next_operation_back() {
    let bench = bench(1, 0, 0); // the least share: 64 KiB
    let mut joins = Vec::new();
    loop {
        let join = AckJoin::new();
        let operation = Operation::DeleteRetained { topic: "x".repeat(1_000).parse().unwrap() };
        if bench.writer.enqueue(operation, join.part()).now_or_never().is_none() {
            break;
        }
        joins.push(join);
        assert!(joins.len() < 1_000, "the queue has no bound");
    }
    assert!(joins.len() > 40, "{}", joins.len());
    let operation = Operation::DeleteRetained { topic: "late".parse().unwrap() };
    let late = bench.writer.enqueue(operation, AckPart::detached());
    let mut late = std::pin::pin!(late);
    // Waiters are served in their order, small ones too: nobody starves.
    bench.backend.gate.add_permits(MANY);
    for join in joins {
        assert_eq!(join.await, Ok(()));
    }
    late.as_mut().await;
}

#[tokio::test]
async fn a_drain_waits_for_what_was_queued_before_it() {
    let bench = bench(4, 0, MANY);
    let join = bench.put("a/b").await;
    let exact: TopicFilter = "a/b".parse().unwrap();
    let all = TopicFilter::all();
    let mut drains = [bench.writer.drain_filter(&exact).boxed(), bench.writer.drain_filter(&all).boxed()];
    for drain in &mut drains {
        assert!(drain.now_or_never().is_none());
    }
    bench.backend.gate.add_permits(1);
    assert_eq!(join.await, Ok(()));
    for drain in drains {
        drain.await;
    }
    bench.writer.drain_client(&ByteString::from_static("nobody")).await;
}

#[tokio::test]
async fn shards_write_side_by_side_and_each_in_order() {
    let bench = bench(4, 0, MANY);
    let mut joins = Vec::new();
    for n in 0..200 {
        for topic in ["a", "b", "c", "d", "e"] {
            joins.push(bench.put(&format!("{topic}/{n}")).await);
        }
        // At the gate: one batch of every shard, and never a second one, however much waits behind it.
        tokio::task::yield_now().await;
    }
    let settled = async || {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    settled().await;
    assert_eq!(bench.backend.writing(), [0, 1, 2, 3], "all shards are in flight together");
    assert_eq!(*bench.backend.most.lock(), (1, 4));
    // One is let through: the next of its shard takes its place, beside those of the others.
    for _ in 0..8 {
        bench.backend.gate.add_permits(1);
        settled().await;
    }
    assert_eq!(bench.backend.batches.lock().len(), 8);
    bench.backend.gate.add_permits(MANY);
    for join in joins {
        assert_eq!(join.await, Ok(()));
    }
    assert_eq!(*bench.backend.most.lock(), (1, 4), "batches in flight: of one shard, and of all");

    let batches = bench.backend.batches.lock();
    let mut by_shard: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for batch in batches.iter() {
        let shards: std::collections::BTreeSet<_> = batch.iter().map(|t| shard_of(t, 4)).collect();
        assert_eq!(shards.len(), 1, "a batch belongs to one shard");
        by_shard.entry(shard_of(&batch[0], 4)).or_default().extend(batch.iter().cloned());
    }
    for (shard, stored) in &by_shard {
        // As they were put: number after number, and within one in the order of the topics.
        let put = (0..200).flat_map(|n| ["a", "b", "c", "d", "e"].map(|topic| format!("{topic}/{n}")));
        let expected: Vec<String> = put.filter(|topic| shard_of(topic, 4) == *shard).collect();
        assert!(expected.len() > 100);
        assert_eq!(*stored, expected, "shard {shard}");
    }
    assert_eq!(by_shard.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn closing_writes_what_is_queued_and_gives_up_at_the_deadline() {
    let bench_ok = bench(1, MANY, MANY);
    let join = bench_ok.put("a").await;
    assert_eq!(bench_ok.writer.close(Duration::from_secs(5)).await, 0);
    assert_eq!(join.await, Ok(()));
    assert_eq!(bench_ok.put("late").await.await, Err(AckError::Abandoned));

    let bench_down = bench(1, MANY, MANY);
    *bench_down.backend.unavailable.lock() = usize::MAX;
    let first = bench_down.put("a").await;
    tokio::task::yield_now().await; // in flight
    let second = bench_down.put("b").await; // in the queue
    let left = bench_down.writer.close(Duration::from_secs(5)).await;
    assert_eq!(left, 2);
    assert_eq!((first.await, second.await), (Err(AckError::Abandoned), Err(AckError::Abandoned)));
}
