//! A runtime with a store, ten publishers, and what is looked at before, during and after a fault.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidegate_e2e::Server;
use tidegate_e2e::load::Load;
use tidegate_e2e::redis::Redis;
use tidegate_e2e::server::{Builder, text_of, tidegate};
use tidegate_e2e::wait::{tell, until_within};
use tidegate_servers::process::Identity;

/// The one hook line: every message is stored.
pub(crate) const LINE: &str = r##"backend.redis.hook.message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
"##;
/// What a publisher waits after each acknowledgement: ten of them send at most five thousand messages a second.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);
/// How long a fault lasts, where the test decides.
pub(crate) const FAULT: Duration = Duration::from_secs(4);
/// `[store] memory_budget_bytes` in these tests.
pub(crate) const BUDGET: u64 = 16 << 20;
/// What the process may grow by besides: read-ahead and replies of ten connections, allocator, embedded state.
pub(crate) const SLACK: u64 = 96 << 20;
/// Publishers whose messages are taken never wait so long.
const STILL: Duration = Duration::from_secs(2);
/// How long a store that is back may take to have everything.
pub(crate) const RECOVERY: Duration = Duration::from_secs(90);

/// A running scene.
pub(crate) struct Scene {
    /// The store.
    pub(crate) redis: Redis,
    /// The runtime.
    pub(crate) server: Server,
    /// The publishers.
    pub(crate) load: Load,
    /// Their topics.
    pub(crate) topics: Vec<String>,
    memory: Memory,
}

impl Scene {
    /// Starts the runtime on `redis`, with `more` lines of its table `[store]`, and the load; waits until that is
    /// well under way.
    pub(crate) fn start(redis: Redis, more: &str) -> Self {
        Self::of(Server::builder(), redis, more)
    }

    /// The same, with a disk of `bytes` bytes for what the runtime keeps.
    pub(crate) fn on_small_disk(redis: Redis, bytes: u64) -> Self {
        Self::of(Server::builder().small_disk(bytes), redis, "")
    }

    fn of(builder: Builder, redis: Redis, more: &str) -> Self {
        let toml = format!("[store]\nmemory_budget_bytes = {BUDGET}\n{more}\n");
        let conf = redis.only(LINE);
        let server = builder.file("tidegate.toml", toml).file("conf.d/redis.conf", conf).start();
        let load = Load::start(server.port, "load", 10, 20, PAUSE);
        load.wait_more(2_000);
        let memory = Memory::watch(server.pid());
        Self { redis, topics: load.topics().to_vec(), server, load, memory }
    }

    /// Waits until nobody has been acknowledged for a while, and gives how many were.
    pub(crate) fn wait_still(&self) -> usize {
        let mut last = (self.load.acknowledged(), Instant::now());
        until_within(Duration::from_secs(60), "nobody is acknowledged any more", || {
            let now = self.load.acknowledged();
            if now != last.0 {
                last = (now, Instant::now());
            }
            (last.1.elapsed() > STILL).then_some(now)
        })
    }

    /// Waits until the runtime has noticed that the store is down.
    pub(crate) fn wait_down(&self) {
        until_within(RECOVERY, "the runtime notices that its store is down", || {
            (self.server.metric("tidegate_store_up", "redis:pool1") == 0.0).then_some(())
        });
    }

    /// Waits until the store is up, the buffer empty and the load goes on; tells how long that took.
    pub(crate) fn wait_recovered(&self, what: &str) {
        let start = Instant::now();
        until_within(RECOVERY, "the store is up and the buffer empty", || {
            let of = |name: &str| self.server.metric(name, "redis:pool1");
            (of("tidegate_store_up") == 1.0 && of("tidegate_store_buffered") == 0.0).then_some(())
        });
        let recovered = start.elapsed();
        self.load.wait_more(2_000);
        tell(&format!("{what}: recovered {:.1} s after it was back", recovered.as_secs_f64()));
    }

    /// Ends the load; every acknowledged message is in the store, and memory stayed within the budget.
    pub(crate) fn assert_all_stored(self) {
        let promised = self.load.finish();
        until_within(RECOVERY, "the buffer is empty", || {
            (self.server.metric("tidegate_store_buffered", "redis:pool1") == 0.0).then_some(())
        });
        let stored: HashSet<String> = self.redis.payloads(&self.topics).into_iter().collect();
        let grown = self.memory.grown();
        tell(&format!(
            "acknowledged {}, in the store {}, missing {}; memory grew by {} MiB",
            promised.len(),
            stored.len(),
            promised.difference(&stored).count(),
            grown >> 20
        ));
        assert_none_missing(&promised, &stored);
        self.memory.assert_within(BUDGET + SLACK);
        self.server.assert_no_panic();
    }
}

/// Panics with some of what was acknowledged and is not stored.
pub(crate) fn assert_none_missing(promised: &HashSet<String>, stored: &HashSet<String>) {
    let missing: Vec<_> = promised.difference(stored).take(5).collect();
    assert!(missing.is_empty(), "acknowledged but not stored: {missing:?}");
}

/// `tidegate buffers ..`: what it prints.
pub(crate) fn buffers(server: &Server, arguments: &[&str]) -> String {
    let output = tidegate(server.path(), &[&["buffers"], arguments].concat());
    assert!(output.status.success(), "tidegate buffers {arguments:?}: {}", text_of(&output));
    text_of(&output)
}

/// Looks at the resident memory of a process ten times a second.
pub(crate) struct Memory {
    before: u64,
    highest: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Memory {
    pub(crate) fn watch(pid: u32) -> Self {
        let identity = Identity::of(pid).expect("the runtime runs");
        let before = identity.resident().expect("it has memory");
        let (highest, ends) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(false)));
        let shared = (highest.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            while !shared.1.load(Ordering::Relaxed) {
                shared.0.fetch_max(identity.resident().unwrap_or_default(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { before, highest, ends, thread: Some(thread) }
    }

    /// By how much it was more than at the start, at most.
    pub(crate) fn grown(&self) -> u64 {
        self.highest.load(Ordering::Relaxed) - self.before
    }

    /// Panics when that is too much.
    #[track_caller]
    pub(crate) fn assert_within(&self, bytes: u64) {
        let grown = self.grown();
        assert!(grown < bytes, "memory grew by {grown} bytes, {bytes} would be well");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
