//! State from one version to the next: nothing is counted twice, nothing is lost, a failure leaves the old one as it was.

use super::*;
use crate::guests::{ask, said};

const SINGLE: &str = "[instances]\nmode = \"single\"\n[config]\n";

/// A counter called `old` that has counted to 3.
async fn counted(config: &str) -> (Followed, Arc<Module>) {
    let bench = Bench::with(|config: &mut HostConfig| {
        config.handover = Duration::from_millis(700);
        config.rescan = Duration::from_millis(200);
    });
    bench.write("m", &guest("counter"), &format!("{SINGLE}name = \"old\"\n{config}"));
    let followed = Followed::open(bench).await;
    let module = followed.directory.modules()[0].clone();
    for n in 1..=3 {
        assert_eq!(ask(&module, "t").await, format!("old {n}"));
    }
    (followed, module)
}

impl Followed {
    /// Saves a counter called `new`.
    fn save_new(&self, config: &str) {
        self.bench.write("m", &variant(guest("counter"), 1), &format!("{SINGLE}name = \"new\"\n{config}"));
    }

    /// Saves a counter called `new` and gives it when it serves.
    async fn new_version(&mut self, config: &str) -> Arc<Module> {
        self.save_new(config);
        // File and manifest are two saves, which may be seen as one or two.
        let text = format!("{SINGLE}name = \"new\"\n{config}");
        for _ in 0..3_000 {
            let now = self.directory.modules()[0].clone();
            if ask(&now, "t").await.starts_with("new ") {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not served: {text}: {:?}", self.directory.failures());
    }
}

#[tokio::test]
async fn the_count_goes_on_and_the_old_version_sends_its_callers_on() {
    let (mut followed, old) = counted("").await;
    let before = old.stats().calls;
    let new = followed.new_version("").await;
    let counted: u64 = ask(&new, "t").await.strip_prefix("new ").unwrap().parse().unwrap();
    assert!(counted > before, "{counted} after {before}");
    // A handler table from before the swap: the event goes to the new version, which has the state.
    assert_eq!(ask(&old, "t").await, format!("new {}", counted + 1));
    assert_eq!(ask(&new, "t").await, format!("new {}", counted + 2));
    assert_eq!(old.stats().instances, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_event_is_counted_once() {
    const SWAPS: u8 = 10;
    let bench = Bench::new();
    bench.write("m", &guest("counter"), &format!("{SINGLE}name = \"x\""));
    let followed = Followed::open(bench).await;
    let table = Arc::new(ArcSwap::from_pointee(followed.directory.modules()));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (table, stop) = (table.clone(), stop.clone());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    // Kept for a while, as an event in flight keeps its table.
                    let module = table.load()[0].clone();
                    tokio::task::yield_now().await;
                    let count: u64 = said(module.call(&publish("t", b"")).await)
                        .strip_prefix("x ")
                        .and_then(|count| count.parse().ok())
                        .unwrap();
                    assert!(seen.last().is_none_or(|last| *last < count), "{count} after {seen:?}");
                    seen.push(count);
                }
                seen
            })
        })
        .collect();
    for n in 0..SWAPS {
        let wasm = variant(guest("counter"), n);
        fs::write(followed.path("m"), &wasm).unwrap();
        let hash = blake3::hash(&wasm).to_hex();
        let mut serving = followed.serving.clone();
        let now = tokio::time::timeout(
            Duration::from_secs(30),
            serving.wait_for(|now| now[0].hash() == hash.as_str()),
        );
        let now = now.await.unwrap().unwrap().clone();
        table.store(Arc::new(now));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.unwrap());
    }
    all.sort_unstable();
    println!("{} events counted by {} versions, none twice, none lost", all.len(), SWAPS + 1);
    assert!(all.iter().copied().eq(1..=u64::try_from(all.len()).unwrap()), "a count is missing or double");
}

#[tokio::test]
async fn a_version_that_does_not_take_the_state_is_refused() {
    for (config, part) in
        [("restore = \"fail\"", "restore failed: told to"), ("restore = \"panic\"", "restore was told")]
    {
        let (followed, old) = counted("").await;
        followed.save_new(config);
        let reason = followed.until_failure(part).await;
        assert!(reason.starts_with("restore failed: "), "{reason}");
        assert!(Arc::ptr_eq(&followed.directory.modules()[0], &old));
        assert_eq!(ask(&old, "t").await, "old 4", "with its state");
        followed.directory.close().await;
    }
}

#[tokio::test]
async fn a_state_that_is_too_large_is_not_handed_over() {
    let (followed, old) = counted("drain = \"big\"").await;
    // The drain is the old version's. Its linear memory has room for it.
    followed.save_new("");
    let reason = followed.until_failure("drain gave").await;
    assert!(
        reason.contains("drain gave 16777217 bytes, more than the 16777216 that are accepted"),
        "{reason}"
    );
    assert_eq!(ask(&old, "t").await, "old 4");
}

#[tokio::test]
async fn a_busy_instance_keeps_its_version_until_it_pauses() {
    let (mut followed, old) = counted("").await;
    let busy = {
        let old = old.clone();
        tokio::spawn(async move { said(old.call(&publish("sleep/2500", b"")).await) })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    followed.save_new("");
    let reason = followed.until_failure("no pause between two events within 700ms").await;
    assert!(reason.contains("cannot be handed over"), "{reason}");
    assert!(Arc::ptr_eq(&followed.directory.modules()[0], &old));
    assert_eq!(busy.await.unwrap(), "old 4");
    // It is tried again without another save.
    let hash = blake3::hash(&variant(guest("counter"), 1)).to_hex();
    let now = followed.until(|now| now[0].hash() == hash.as_str()).await;
    assert_eq!(ask(&now[0], "t").await, "new 5");
}

/// The event in flight took the time of drain, which then failed, and the state was lost.
#[tokio::test]
async fn a_slow_event_in_flight_takes_no_time_from_drain() {
    let bench = Bench::with(|config: &mut HostConfig| {
        config.handover = Duration::from_secs(2);
        config.rescan = Duration::from_millis(200);
    });
    // Two events at a time: whenever the old version is to pause, there are 800 ms and more before it.
    bench.write("m", &guest("counter"), &format!("{SINGLE}name = \"old\"\ndrain = \"1400\""));
    let mut followed = Followed::open(bench).await;
    let old = followed.directory.modules()[0].clone();
    let (stop, counted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (old, stop, counted) = (old.clone(), stop.clone(), counted.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if said(old.call(&publish("sleep/800", b"")).await).starts_with("old ") {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    followed.save_new("");
    let hash = blake3::hash(&variant(guest("counter"), 1)).to_hex();
    let now = followed.until(|now| now[0].hash() == hash.as_str()).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let count: u64 = ask(&now[0], "t").await.strip_prefix("new ").unwrap().parse().unwrap();
    let before = counted.load(Ordering::Relaxed);
    // After the swap each caller may have had one event of the new version, and this was one.
    assert!(before > 0 && (before + 1..=before + 3).contains(&count), "{count} after {before}");
}

/// The state of an instance that fails in drain is gone whatever happens next: a new version may be the cure.
#[tokio::test]
async fn a_drain_that_fails_loses_the_state_and_not_the_new_version() {
    for config in ["drain = \"panic\"", "drain = \"slow\""] {
        let log = crate::fakes::Log::default();
        let _guard = tracing::subscriber::set_default(log.clone());
        let (mut followed, _) = counted(config).await;
        followed.new_version("").await;
        assert!(log.lines().iter().any(|line| line.contains("the state is lost")), "{:#?}", log.lines());
        followed.directory.close().await;
    }
}

#[tokio::test]
async fn a_trap_loses_the_state_and_is_said() {
    let log = crate::fakes::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let (_followed, module) = counted("").await;
    module.call(&publish("panic", b"")).await.unwrap_err();
    assert_eq!(ask(&module, "t").await, "old 1");
    assert!(log.lines().iter().any(|line| line.contains("its state is lost")), "{:#?}", log.lines());
}

#[tokio::test]
async fn state_without_a_single_instance_is_warned_of() {
    let log = crate::fakes::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let followed = Followed::with(&[("m", &guest("counter"))]).await;
    assert_eq!(followed.names(), ["m"]);
    assert!(log.lines().iter().any(|line| line.contains("called only with mode")), "{:#?}", log.lines());
}

/// The counter called `old` with a version on trial beside it that has no state.
async fn tried_beside(config: &str, next: &[u8], rollout: &str) -> (Followed, Arc<Module>) {
    let (mut followed, old) = counted(config).await;
    followed.bench.write("m", next, &format!("[rollout]\n{rollout}"));
    let hash = blake3::hash(next).to_hex();
    followed.until(|now| now[0].trial().is_some() && now[0].hash() == hash.as_str()).await;
    (followed, old)
}

fn losses(log: &crate::fakes::Log) -> usize {
    log.lines().iter().filter(|line| line.contains("is lost")).count()
}

/// The version on trial, which has none, was asked for the state, and the version before went with it.
#[tokio::test]
async fn a_version_that_ends_a_trial_has_the_state_from_before_the_trial() {
    let log = crate::fakes::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    for canary in ["canary = 50", "rollback_error_rate = 0.5"] {
        let (mut followed, old) = tried_beside("", &guest("pass"), canary).await;
        assert_eq!(ask(&old, "t").await, "old 4", "it serves on");
        followed.save_new("");
        let hash = blake3::hash(&variant(guest("counter"), 1)).to_hex();
        let now = followed.until(|now| now[0].hash() == hash.as_str()).await;
        assert!(now[0].trial().is_none());
        assert_eq!(ask(&now[0], "t").await, "new 5");
        assert_eq!(ask(&old, "t").await, "new 6", "it sends its callers on");
        followed.directory.close().await;
    }
    assert_eq!(losses(&log), 0, "{:#?}", log.lines());
}

#[tokio::test]
async fn a_trial_that_is_followed_by_a_trial_leaves_the_state_where_it_is() {
    let log = crate::fakes::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let (mut followed, old) = tried_beside("", &guest("pass"), "canary = 50").await;
    followed.bench.write("m", &guest("upper"), "[rollout]\ncanary = 50");
    let hash = blake3::hash(&guest("upper")).to_hex();
    followed.until(|now| now[0].hash() == hash.as_str()).await;
    assert_eq!(ask(&old, "t").await, "old 4");
    // The version before, saved again, is not handed its own state.
    followed.bench.write("m", &guest("counter"), &format!("{SINGLE}name = \"old\"\n"));
    followed.until(|now| Arc::ptr_eq(&now[0], &old)).await;
    assert_eq!(ask(&old, "t").await, "old 5");
    assert_eq!(losses(&log), 0, "{:#?}", log.lines());
}

#[tokio::test]
async fn after_a_rollback_the_version_before_has_its_state() {
    let rollout = "canary = 100\nrollback_error_rate = 0.1";
    let (mut followed, old) = tried_beside("", &guest("probe"), rollout).await;
    let bad = followed.directory.modules()[0].clone();
    for _ in 0..40 {
        bad.call(&publish("failed", b"")).await.unwrap_err();
    }
    followed.until(|now| Arc::ptr_eq(&now[0], &old)).await;
    assert_eq!(ask(&old, "t").await, "old 4");
}

/// It was said when the trial began, and never when it ended otherwise.
#[tokio::test]
async fn a_promotion_that_loses_the_state_says_so_when_it_does() {
    let log = crate::fakes::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let (mut followed, _) = tried_beside("", &guest("pass"), "canary = 50").await;
    assert_eq!(losses(&log), 0, "{:#?}", log.lines());
    followed.directory.promote("m").await.unwrap();
    followed.until(|now| now[0].trial().is_none()).await;
    assert_eq!(losses(&log), 1, "{:#?}", log.lines());
}
