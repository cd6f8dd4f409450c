//! A store that is down, silent or back again, with a buffer beside it.

use super::*;
use crate::buffer::memory::Memory;
use crate::buffer::{Going, SpaceError, Spill, record};

pub(super) fn buffered(shards: usize, permits: usize) -> (Bench, Arc<Memory>) {
    let space = Arc::new(Memory::default());
    (bench_with(Scripted::new(shards, permits), MANY, Some(space.clone())), space)
}

impl Bench {
    pub(super) fn down(&self) {
        *self.backend.unavailable.lock() = usize::MAX;
    }

    pub(super) fn up(&self) {
        *self.backend.unavailable.lock() = 0;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_acknowledges_by_the_buffer_and_gets_everything_in_order() {
    let (bench, space) = buffered(1, MANY);
    bench.down();
    let began = tokio::time::Instant::now();
    for n in 0..50 {
        assert_eq!(bench.put(&format!("t/{n}")).await.await, Ok(()));
    }
    assert!(began.elapsed() < Duration::from_secs(3), "only the first waited: {:?}", began.elapsed());
    assert_eq!((space.count(), bench.backend.stored().len()), (50, 0));
    bench.up();
    bench.writer.drain_filter(&TopicFilter::all()).await;
    let expected: Vec<String> = (0..50).map(|n| format!("t/{n}")).collect();
    assert_eq!((bench.backend.stored(), space.count()), (expected, 0));
    // Then directly again.
    assert_eq!(bench.put("late").await.await, Ok(()));
    assert_eq!((bench.backend.stored().len(), space.count()), (51, 0));
}

#[tokio::test(start_paused = true)]
async fn a_short_pause_of_the_store_uses_no_disk() {
    let (bench, space) = buffered(1, MANY);
    *space.refuses.lock() = Some(SpaceError::Failed("nobody asks".into()));
    *bench.backend.unavailable.lock() = 3;
    assert_eq!(bench.put("a").await.await, Ok(()));
    assert_eq!(bench.backend.stored(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn order_is_kept_however_often_the_store_goes_and_comes() {
    let (bench, space) = buffered(3, MANY);
    let mut joins = Vec::new();
    for n in 0..600 {
        match n % 100 {
            20 => bench.down(),
            80 => bench.up(),
            _ => {}
        }
        joins.push(bench.put(&format!("topic{}/{n}", n % 7)).await);
        if n % 5 == 0 {
            tokio::time::sleep(Duration::from_millis(130)).await;
        }
    }
    bench.up();
    for join in joins {
        assert_eq!(join.await, Ok(()));
    }
    bench.writer.drain_filter(&TopicFilter::all()).await;
    assert_eq!(space.count(), 0);
    let stored = bench.backend.stored();
    assert_eq!(stored.len(), 600, "each once");
    for shard in 0..3 {
        let numbers: Vec<u32> = stored
            .iter()
            .filter(|topic| shard_of(topic, 3) == shard)
            .filter_map(|topic| topic.rsplit_once('/')?.1.parse().ok())
            .collect();
        assert!(numbers.is_sorted(), "shard {shard}: {numbers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_silent_store_holds_up_is_acknowledged_by_the_buffer_and_stored_once() {
    let (bench, space) = buffered(1, 0);
    let first = bench.put("t/0").await;
    tokio::task::yield_now().await; // in flight, and no answer
    let mut later = Vec::new();
    for n in 1..=5 {
        later.push(bench.put(&format!("t/{n}")).await);
    }
    for join in later {
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), join).await, Ok(Ok(())));
    }
    assert_eq!(space.count(), 6, "what is in flight, too: it comes first should the store forget it");
    assert!(first.clone().now_or_never().is_none());
    bench.backend.gate.add_permits(MANY);
    assert_eq!(first.await, Ok(()));
    bench.writer.drain_filter(&TopicFilter::all()).await;
    let expected: Vec<String> = (0..=5).map(|n| format!("t/{n}")).collect();
    assert_eq!((bench.backend.stored(), space.count()), (expected, 0));
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_that_forgets_gets_it_again_first() {
    let (bench, space) = buffered(1, 0);
    let first = bench.put("t/0").await;
    tokio::task::yield_now().await;
    let second = bench.put("t/1").await;
    assert_eq!(second.await, Ok(()));
    bench.down();
    bench.backend.gate.add_permits(MANY);
    assert_eq!(first.await, Ok(()), "it is on disk");
    bench.up();
    bench.writer.drain_filter(&TopicFilter::all()).await;
    assert_eq!((bench.backend.stored(), space.count()), (vec!["t/0".to_owned(), "t/1".into()], 0));
}

#[tokio::test(start_paused = true)]
async fn without_room_on_disk_operations_wait_in_memory() {
    let (bench, space) = buffered(1, MANY);
    *space.refuses.lock() = Some(SpaceError::Full { limit: 10 });
    bench.down();
    let (first, second) = (bench.put("a").await, bench.put("b").await);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(first.clone().now_or_never().is_none() && second.clone().now_or_never().is_none());
    bench.up();
    assert_eq!((first.await, second.await), (Ok(()), Ok(())));
    assert_eq!((bench.backend.stored(), space.count()), (vec!["a".to_owned(), "b".into()], 0));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_left_is_stored_first() {
    let space = Arc::new(Memory::default());
    let before = bench_with(Scripted::new(1, MANY), MANY, Some(space.clone()));
    before.down();
    for topic in ["a", "b"] {
        assert_eq!(before.put(topic).await.await, Ok(()));
    }
    let queued = before.put("c").await;
    assert_eq!(before.writer.close(Duration::from_secs(5)).await, 0);
    assert_eq!((queued.await, space.count()), (Ok(()), 3));

    let gate = Scripted::new(4, 0);
    let after = bench_with(gate.clone(), MANY, Some(space.clone()));
    let client = ByteString::from_static("c");
    let mut drained = after.writer.drain_client(&client).boxed();
    assert!((&mut drained).now_or_never().is_none(), "a look-up waits for what was acknowledged");
    let new = after.put("d").await;
    gate.gate.add_permits(MANY);
    assert_eq!(new.await, Ok(()));
    drained.await;
    after.writer.drain_filter(&TopicFilter::all()).await;
    let mut stored = after.backend.stored();
    stored.sort();
    assert_eq!((stored, space.count()), (vec!["a".to_owned(), "b".into(), "c".into(), "d".into()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_becomes_a_dead_letter() {
    let space = Arc::new(Memory::default());
    let good = Operation::DeleteRetained { topic: "good".parse().unwrap() };
    let good = record::encode(&good, 0).unwrap();
    space.append("test:p", vec![bytes::Bytes::from_static(b"\x09 of another release"), good]).await.unwrap();
    let bench = bench_with(Scripted::new(1, MANY), MANY, Some(space.clone()));
    bench.writer.drain_filter(&TopicFilter::all()).await;
    assert_eq!((bench.backend.stored(), space.count()), (vec!["good".to_owned()], 0));
    let letters = bench.letters();
    assert!(letters.contains("the record has form 9") && letters.contains("\"record\":\"CSBvZ"), "{letters}");
}

#[tokio::test(start_paused = true)]
async fn what_the_store_refuses_when_it_is_back_becomes_a_dead_letter() {
    let (bench, space) = buffered(1, MANY);
    bench.down();
    for topic in ["a", "bad", "b"] {
        assert_eq!(bench.put(topic).await.await, Ok(()));
    }
    *bench.backend.refuse.lock() = vec!["bad"];
    bench.up();
    bench.writer.drain_filter(&TopicFilter::all()).await;
    assert_eq!((bench.backend.stored(), space.count()), (vec!["a".to_owned(), "b".into()], 0));
    assert_eq!(bench.letters().lines().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_store_that_is_down() {
    let (bench, space) = buffered(2, MANY);
    bench.down();
    let joins = [bench.put("a").await, bench.put("b").await, bench.put("c").await];
    let began = tokio::time::Instant::now();
    assert_eq!(bench.writer.close(Duration::from_secs(60)).await, 0);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for join in joins {
        assert_eq!(join.await, Ok(()));
    }
    assert_eq!(space.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_waits_only_for_what_is_about_it() {
    let (bench, space) = buffered(1, MANY);
    bench.down();
    assert_eq!(bench.put("stored/topic").await.await, Ok(()));
    assert_eq!(space.count(), 1);
    let (own, other): (TopicFilter, TopicFilter) =
        ("stored/topic".parse().unwrap(), "other".parse().unwrap());
    bench.writer.drain_filter(&other).await;
    bench.writer.drain_client(&ByteString::from_static("somebody")).await;
    let mut drain = bench.writer.drain_filter(&own).boxed();
    assert!((&mut drain).now_or_never().is_none());
    bench.up();
    drain.await;
    assert_eq!(bench.backend.stored(), ["stored/topic"]);
}

/// Puts twice what the store takes, and waits only when the memory budget makes it wait.
async fn put_twice_what_is_taken(bench: &Bench, shards: usize, pace: Duration) {
    let mut tick = tokio::time::interval(pace * 100);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    for n in 0_usize.. {
        tick.tick().await;
        for more in 0..200 * shards {
            drop(bench.put(&format!("t/{}", n * 7 + more)).await);
        }
    }
}

/// After an outage that left `left` operations in the buffer, a store that takes one in `pace` a shard, and twice as many
/// that come: the buffer must empty, and stay empty.
async fn empties(shards: usize, pace: Duration, left: usize) {
    let space = Arc::new(Memory::default());
    // The least share of memory: whoever publishes soon waits.
    let bench = bench_with(Scripted::new(shards, MANY), 0, Some(space.clone()));
    *bench.backend.pace.lock() = pace;
    bench.down();
    let producing = put_twice_what_is_taken(&bench, shards, pace);
    let looking = async {
        while space.count() < left {
            tokio::time::sleep(pace).await;
        }
        bench.up();
        bench.writer.knock();
        let began = tokio::time::Instant::now();
        // Half of what comes out may go in, so it takes twice the time in which one shard alone would write them; and twice
        // that for what was on its way.
        let within = pace * u32::try_from(left).unwrap() * 4;
        while space.count() > 0 {
            let held = space.count();
            assert!(began.elapsed() < within, "{shards} shards: {held} are in the buffer after {within:?}");
            tokio::time::sleep(pace).await;
        }
        println!("{shards} shards, {left} at {pace:?}: empty after {:?}", began.elapsed());
        // From now on everything is written directly, as fast as the store takes it.
        let (before, ran) = (bench.backend.stored().len(), pace * 10_000);
        let until = tokio::time::Instant::now() + ran;
        while tokio::time::Instant::now() < until {
            assert_eq!(space.count(), 0, "{shards} shards: the buffer is used again");
            tokio::time::sleep(pace).await;
        }
        let stored = bench.backend.stored().len() - before;
        assert!(stored > 5_000 * shards, "{shards} shards: {stored} of {} were stored", 10_000 * shards);
    };
    tokio::select! {
        () = producing => {}
        () = looking => {}
    }
    assert_eq!(bench.put("next").await.await, Ok(()));
    assert!(space.count() == 0 && bench.backend.stored().iter().any(|topic| topic == "next"));
}

/// The buffer is emptied before the store is written past it, so it must empty under any load: what goes in is less than
/// what comes out, and publishers wait.
#[tokio::test(start_paused = true)]
async fn a_buffer_empties_while_more_comes_than_the_store_takes() {
    empties(1, Duration::from_micros(100), 10_000).await;
    empties(4, Duration::from_micros(100), 10_000).await;
}

/// What is read from the buffer at once takes such a store longer than the time after which it counts as silent.
#[tokio::test(start_paused = true)]
async fn a_buffer_empties_into_a_slow_store_too() {
    empties(1, Duration::from_millis(2), 3_000).await;
}

/// The disk has a record before its appender has counted it. What was taken out in between was subtracted from nothing, so that
/// for ever one was held that nobody could find.
#[tokio::test(start_paused = true)]
async fn what_leaves_before_it_is_counted_is_not_held() {
    let recorder = Recorder::default();
    let (bench, space) = metrics::with_local_recorder(&recorder, || buffered(1, MANY));
    bench.down();
    assert_eq!(bench.put("first").await.await, Ok(()));
    *space.silence.lock() = Duration::from_secs(60);
    let late = bench.put("late").await;
    // Until both are read at once.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(space.count(), 2);
    bench.up();
    bench.writer.knock();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((space.count(), late.clone().now_or_never()), (0, None), "out, and not counted yet");
    let all = TopicFilter::all();
    let mut drain = bench.writer.drain_filter(&all).boxed();
    assert!((&mut drain).now_or_never().is_none(), "nobody knows yet that it is out");
    assert_eq!(late.await, Ok(()));
    drain.await;
    for gauge in ["buffered", "buffered_bytes"] {
        let name = format!("tidegate_store_{gauge}{{connector=test:p}}");
        assert!(recorder.gauge(&name) < 0.5, "{name}: {}", recorder.gauge(&name));
    }
    *space.silence.lock() = Duration::ZERO;
    assert_eq!(bench.put("next").await.await, Ok(()));
    assert_eq!(
        (bench.backend.stored(), space.count()),
        (["first", "late", "next"].map(String::from).to_vec(), 0)
    );
}

/// What somebody else had taken out of the buffer was shown as held for ever.
#[tokio::test(start_paused = true)]
async fn what_others_have_removed_is_not_shown_any_more() {
    let recorder = Recorder::default();
    let (bench, space) = metrics::with_local_recorder(&recorder, || buffered(1, MANY));
    bench.down();
    assert_eq!(bench.put("a").await.await, Ok(()));
    space.clear();
    // Until what was read before is not tried any more.
    tokio::time::sleep(Duration::from_secs(20)).await;
    bench.up();
    bench.writer.drain_filter(&TopicFilter::all()).await;
    assert!(recorder.gauge("tidegate_store_buffered{connector=test:p}") < 0.5);
    assert_eq!(bench.put("b").await.await, Ok(()));
    assert_eq!(bench.backend.stored(), ["b"]);
}

/// The lanes for which nothing was in the buffer were "written": a store that did not answer was said to be up.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_asked_nothing_has_not_answered() {
    let (bench, _) = buffered(4, MANY);
    bench.down();
    assert_eq!(bench.put("a").await.await, Ok(()));
    bench.up();
    bench.writer.drain_filter(&TopicFilter::all()).await;
    assert_eq!(*bench.backend.batches.lock(), [["a"]], "no batch of nothing");
}

/// Credit that was left when little was in the buffer let operations follow each other through it, thousands of them.
#[tokio::test(start_paused = true)]
async fn no_more_may_go_in_than_is_there() {
    let space = Arc::new(Memory::default());
    let spill = Spill::new("test:p", Some(space), Arc::new(ConnectorMetrics::new("test:p")));
    spill.begin().await.unwrap();
    let operations: Vec<Operation> =
        (0..100).map(|n| Operation::DeleteRetained { topic: format!("t/{n}").parse().unwrap() }).collect();
    spill.append(&operations).await.unwrap();
    let going: Vec<Going> =
        (1..).zip(&operations).take(90).map(|(number, one)| Going::of(number, one)).collect();
    spill.remove(&going, None).await.unwrap();
    spill.flows(true);
    assert_eq!(spill.turn(11).now_or_never(), None);
    assert_eq!(spill.turn(10).now_or_never(), Some(true));
}
