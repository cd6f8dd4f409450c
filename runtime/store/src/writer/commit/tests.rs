//! A back end of which one part is lost: some operations of a batch are written, others undecided.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tidegate_event::{AckJoin, BoxFuture, IdSource, Node, TopicFilter};

use super::super::{BatchLimits, Budget, Writer, WriterParts};
use crate::backend::{Backend, BackendError, WriteError};
use crate::buffer::memory::Memory;
use crate::buffer::{BufferSpace, Spill};
use crate::dead_letter::DeadLetters;
use crate::metrics::ConnectorMetrics;
use crate::operation::Operation;

/// Executes what is not about `lost/..`; that too, once it is not lost. Remembers what it executed.
#[derive(Default)]
struct Halves {
    lost: AtomicBool,
    /// Milliseconds until it answers.
    answers_after: AtomicU64,
    executed: Mutex<Vec<String>>,
}

impl Backend for Halves {
    fn write<'a>(&'a self, operations: &'a [Operation]) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            let lost = self.lost.load(Ordering::Relaxed);
            let mut undecided = Vec::new();
            for (at, operation) in operations.iter().enumerate() {
                match operation.place() {
                    topic if lost && topic.starts_with("lost/") => {
                        undecided.push((at, BackendError::Unavailable("a node is lost".into())));
                    }
                    topic => self.executed.lock().push(topic.to_owned()),
                }
            }
            tokio::time::sleep(Duration::from_millis(self.answers_after.load(Ordering::Relaxed))).await;
            if undecided.is_empty() { Ok(()) } else { Err(WriteError::all_but(Vec::new(), undecided)) }
        })
    }

    asked_nothing!();
}

struct Bench {
    backend: Arc<Halves>,
    writer: Writer,
    _dir: tempfile::TempDir,
}

fn bench(space: Option<Arc<dyn BufferSpace>>) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(Halves { lost: AtomicBool::new(true), ..Halves::default() });
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
    let writer = Writer::start(parts, &Budget::new(1 << 20, 1), spill);
    Bench { backend, writer, _dir: dir }
}

const TOPICS: [&str; 5] = ["a", "lost/1", "b", "lost/2", "c"];

impl Bench {
    /// All in one batch.
    async fn put(&self) -> Vec<AckJoin> {
        let mut joins = Vec::new();
        for topic in TOPICS {
            let join = AckJoin::new();
            let operation = Operation::DeleteRetained { topic: topic.parse().unwrap() };
            self.writer.enqueue(operation, join.part()).await;
            joins.push(join);
        }
        joins
    }

    fn find_again(&self) {
        self.backend.lost.store(false, Ordering::Relaxed);
    }

    fn executed(&self) -> Vec<String> {
        self.backend.executed.lock().clone()
    }
}

/// Each once, those that were lost after the others, in their order.
const EACH_ONCE: [&str; 5] = ["a", "b", "c", "lost/1", "lost/2"];

#[tokio::test(start_paused = true)]
async fn only_what_is_undecided_is_written_again() {
    let bench = bench(None);
    let joins = bench.put().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let done: Vec<bool> = joins.iter().map(|join| join.clone().now_or_never() == Some(Ok(()))).collect();
    assert_eq!(done, [true, false, true, false, true]);
    bench.find_again();
    for join in joins {
        assert_eq!(join.await, Ok(()));
    }
    assert_eq!(bench.executed(), EACH_ONCE);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_undecided_goes_to_the_buffer() {
    let space = Arc::new(Memory::default());
    let bench = bench(Some(space.clone()));
    for join in bench.put().await {
        assert_eq!(join.await, Ok(()));
    }
    assert_eq!(space.count(), 2);
    bench.find_again();
    bench.writer.drain_filter(&TopicFilter::all()).await;
    assert_eq!((bench.executed(), space.count()), (EACH_ONCE.map(str::to_owned).to_vec(), 0));
}

/// It was put into the buffer while nothing was known of any of it.
#[tokio::test(start_paused = true)]
async fn what_is_decided_late_leaves_the_buffer_beside_what_is_not() {
    let space = Arc::new(Memory::default());
    let bench = bench(Some(space.clone()));
    bench.backend.answers_after.store(5_000, Ordering::Relaxed);
    for join in bench.put().await {
        assert_eq!(join.await, Ok(()));
    }
    bench.backend.answers_after.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(space.count(), 2);
    bench.find_again();
    bench.writer.drain_filter(&TopicFilter::all()).await;
    assert_eq!((bench.executed(), space.count()), (EACH_ONCE.map(str::to_owned).to_vec(), 0));
}
