//! What stood still, or ran in circles, or was forgotten when a store or a disk did not do its work.

use std::sync::atomic::Ordering;

use super::buffered::buffered;
use super::*;
use crate::buffer::memory::Memory;

/// The answer was not looked at while anything waited: under load that was for ever, and the buffer filled up.
#[tokio::test(start_paused = true)]
async fn a_silent_store_is_heard_when_it_answers_however_much_comes() {
    let (bench, space) = buffered(1, 0);
    *space.delay.lock() = Duration::from_millis(5);
    let bench = Arc::new(bench);
    let first = bench.put("t/first").await;
    let more = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move {
            for n in 0_u64.. {
                drop(bench.put(&format!("t/{n}")).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(space.count() > 1_000, "what comes waits on disk: {}", space.count());
    bench.backend.gate.add_permits(MANY);
    assert_eq!(tokio::time::timeout(Duration::from_secs(1), first).await, Ok(Ok(())));
    let emptied = async {
        while space.count() > 50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let emptied = tokio::time::timeout(Duration::from_secs(30), emptied).await;
    assert!(emptied.is_ok(), "{} are still on disk", space.count());
    more.abort();
}

/// What came behind a batch without an answer waited for two seconds each.
#[tokio::test(start_paused = true)]
async fn behind_a_silent_store_nobody_waits_twice() {
    let (bench, _) = buffered(1, 0);
    let first = bench.put("t/first").await;
    tokio::task::yield_now().await; // in flight
    assert_eq!(bench.put("t/0").await.await, Ok(()));
    let began = tokio::time::Instant::now();
    for n in 1..20 {
        assert_eq!(bench.put(&format!("t/{n}")).await.await, Ok(()));
    }
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert!(first.now_or_never().is_none());
}

/// Only the last one stayed; the others were neither stored nor kept.
#[tokio::test(start_paused = true)]
async fn all_that_is_refused_and_cannot_be_kept_stays_in_the_buffer() {
    let (bench, space) = buffered(1, MANY);
    bench.down();
    for topic in ["a", "bad/1", "b", "bad/2", "bad/3", "c"] {
        assert_eq!(bench.put(topic).await.await, Ok(()));
    }
    std::fs::create_dir(bench.dir.path().join("dead-letters.jsonl")).unwrap();
    *bench.backend.refuse.lock() = vec!["bad/1", "bad/2", "bad/3"];
    *bench.backend.names_all.lock() = true;
    bench.up();
    tokio::time::sleep(Duration::from_secs(20)).await;
    bench.writer.close(Duration::from_secs(5)).await;
    assert!(space.count() >= 3, "{} are left", space.count());
    assert!(bench.backend.stored().starts_with(&["a".into(), "b".into(), "c".into()]));
}

/// A record that cannot be read, and a full disk for the dead letter: the log filled what was left of that.
#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_nor_kept_is_tried_again_with_pauses() {
    let space = Arc::new(Memory::default());
    space.append("test:p", vec![bytes::Bytes::from_static(b"\x09 of another release")]).await.unwrap();
    let bench = bench_with(Scripted::new(1, MANY), MANY, Some(space.clone()));
    std::fs::create_dir(bench.dir.path().join("dead-letters.jsonl")).unwrap();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reads = space.reads.load(Ordering::Relaxed);
    assert!((1..40).contains(&reads), "{reads} times in ten seconds");
    std::fs::remove_dir(bench.dir.path().join("dead-letters.jsonl")).unwrap();
    bench.writer.drain_filter(&TopicFilter::all()).await;
    assert_eq!(bench.letters().lines().count(), 1);
}

/// The count of what is in the buffer about a topic fell below none: its look-ups waited for ever, and after the next
/// operation for nothing.
#[tokio::test(start_paused = true)]
async fn what_an_operator_drops_while_it_is_being_written_is_counted_once() {
    let (bench, space) = buffered(1, MANY);
    bench.down();
    assert_eq!(bench.put("t").await.await, Ok(()));
    bench.up();
    // The page is read, and its write has no answer yet.
    bench.backend.gate.forget_permits(MANY);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let spill = bench.writer.spill();
    let operation = Operation::DeleteRetained { topic: "t".parse().unwrap() };
    assert_eq!(spill.remove(&[crate::buffer::Going::of(1, &operation)], None).await, Ok(1));
    assert_eq!(space.count(), 0);
    bench.backend.gate.add_permits(MANY);
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.down();
    assert_eq!(bench.put("other").await.await, Ok(()));
    let filter: TopicFilter = "t".parse().unwrap();
    let drained = tokio::time::timeout(Duration::from_secs(5), bench.writer.drain_filter(&filter)).await;
    assert!(drained.is_ok(), "nothing about it is in the buffer");
    assert_eq!(bench.put("t").await.await, Ok(()));
    assert!(bench.writer.drain_filter(&filter).now_or_never().is_none(), "now something is");
}
