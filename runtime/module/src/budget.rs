//! The computing time of one call: what a guest may spend, and what it has spent.
//!
//! A guest stops at every tick of the epoch. Each stop charges the time since the guest last went on, but
//! never more than a tick may last, so a machine under load does not charge a guest for time it did not get. Time
//! spent waiting in host calls is not charged: a poll that ends without a tick ended in a wait.
//!
//! Guests that compute for longer than a tick take turns: a processor of the machine is left for everything else. Without
//! that, eight guests that loop would stand before every message in the run queues of the workers.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime::UpdateDeadline;

use crate::ticker::{self, FIRST_TICK, TICK};

/// The account of one instance. Its store and the future that drives it share it; they run in turns, so
/// relaxed atomics do.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    allowed: AtomicU64,
    used: AtomicU64,
    /// When the guest last went on, in nanoseconds since [`ORIGIN`].
    since: AtomicU64,
    /// Whether the guest gave up its turn at a tick.
    yielded: AtomicBool,
    exceeded: AtomicBool,
    /// The turn of a guest that computes for long, until its next tick.
    turn: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    /// Whether there may be one.
    has_turn: AtomicBool,
    /// Cancelled when the version may not compute or wait any longer.
    interrupt: CancellationToken,
}

/// What ends a call that does not end by itself.
struct Ends {
    timeout: Pin<Box<Sleep>>,
    interrupt: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Ends the turn of a guest with its call.
struct Turn<'a>(&'a Budget);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end_turn();
    }
}

/// The call did not end in time.
#[derive(Debug)]
pub(crate) struct TimedOut;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Turns of guests that compute for long, in all hosts of the process: one fewer than there are processors.
static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(processors.saturating_sub(1).max(1)))
});

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn clock(now: Instant) -> u64 {
    nanos(now.saturating_duration_since(*ORIGIN))
}

impl Budget {
    /// An account that ends for good when `interrupt` is cancelled.
    pub(crate) fn new(interrupt: CancellationToken) -> Self {
        Self { interrupt, ..Self::default() }
    }

    /// Whether calls end at once, because the version may not go on.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.is_cancelled()
    }

    /// Whether the last call was interrupted because its time was used up.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// The guest reached a tick: it yields its worker, or is interrupted when its time is used up.
    pub(crate) fn tick(&self) -> UpdateDeadline {
        ticker::stopped();
        self.charge();
        if self.used.load(Ordering::Relaxed) > self.allowed.load(Ordering::Relaxed) {
            self.exceeded.store(true, Ordering::Relaxed);
            return UpdateDeadline::Interrupt;
        }
        if self.interrupt.is_cancelled() {
            return UpdateDeadline::Interrupt;
        }
        self.yielded.store(true, Ordering::Relaxed);
        // Most calls that a tick stops are short: it came by chance. tokio's own yield lets sockets and timers have their
        // turn before the guest goes on.
        if self.used.load(Ordering::Relaxed) < nanos(TICK) {
            return UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()));
        }
        self.has_turn.store(true, Ordering::Relaxed);
        let turn = self.turn.clone();
        UpdateDeadline::YieldCustom(
            1,
            Box::pin(async move {
                // Back to the end of the line, which is served in order.
                drop(turn.lock().take());
                tokio::task::yield_now().await;
                let next = TURNS.clone().acquire_owned().await;
                *turn.lock() = next.ok();
            }),
        )
    }

    /// Gives up the turn of a guest that does not compute any more.
    fn end_turn(&self) {
        if self.has_turn.load(Ordering::Relaxed)
            && let Some(turn) = self.turn.lock().take()
        {
            // Not before there is one: the guest may still stand in the line.
            self.has_turn.store(false, Ordering::Relaxed);
            drop(turn);
        }
    }

    fn charge(&self) {
        let now = clock(Instant::now());
        let spent = now.saturating_sub(self.since.swap(now, Ordering::Relaxed)).min(nanos(FIRST_TICK));
        self.used.fetch_add(spent, Ordering::Relaxed);
    }

    /// Drives a call that began at `started`: `cpu` computing, `timeout` in all. The call is pinned by the
    /// caller, because it is too large to be moved for every event.
    ///
    /// # Errors
    /// [`TimedOut`]: the call is dropped half-way, so its store must be dropped too.
    pub(crate) async fn run<F: Future>(
        &self,
        started: Instant,
        cpu: Duration,
        timeout: Duration,
        mut call: Pin<&mut F>,
    ) -> Result<F::Output, TimedOut> {
        self.allowed.store(nanos(cpu), Ordering::Relaxed);
        self.used.store(0, Ordering::Relaxed);
        self.since.store(clock(started), Ordering::Relaxed);
        self.yielded.store(false, Ordering::Relaxed);
        self.exceeded.store(false, Ordering::Relaxed);
        let mut again = false;
        // Whatever ends the call, or drops it.
        let _turn = Turn(self);
        // Most calls end in their first poll and need no timer.
        let mut ends: Option<Ends> = None;
        poll_fn(|cx| {
            ticker::touch();
            if std::mem::replace(&mut again, true) {
                self.since.store(clock(Instant::now()), Ordering::Relaxed);
            }
            if let Poll::Ready(output) = call.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if !self.yielded.swap(false, Ordering::Relaxed) {
                self.charge();
                self.end_turn();
            }
            let ends = ends.get_or_insert_with(|| Ends {
                timeout: Box::pin(tokio::time::sleep_until(tokio::time::Instant::from_std(
                    started + timeout,
                ))),
                interrupt: Box::pin(self.interrupt.clone().cancelled_owned()),
            });
            match (ends.interrupt.as_mut().poll(cx), ends.timeout.as_mut().poll(cx)) {
                (Poll::Pending, Poll::Pending) => Poll::Pending,
                _ => Poll::Ready(Err(TimedOut)),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::pin::pin;

    use super::*;
    use crate::ticker::TICK;

    const LONG: Duration = Duration::from_secs(60);

    /// What a guest of wasmtime does at a tick, without a guest.
    async fn compute(budget: &Budget, ticks: u32) -> bool {
        for _ in 0..ticks {
            std::thread::sleep(TICK);
            match budget.tick() {
                UpdateDeadline::YieldCustom(_, pause) => pause.await,
                _ => return false,
            }
        }
        true
    }

    #[tokio::test]
    async fn computing_is_charged_and_stopped() {
        let budget = Budget::default();
        let cpu = Duration::from_millis(5);
        let finished = budget.run(Instant::now(), cpu, LONG, pin!(compute(&budget, 4))).await.unwrap();
        assert!(finished && !budget.is_exceeded());
        let finished = budget.run(Instant::now(), cpu, LONG, pin!(compute(&budget, 50))).await.unwrap();
        assert!(!finished && budget.is_exceeded());
    }

    #[tokio::test]
    async fn waiting_is_not_charged() {
        let budget = Budget::default();
        let call = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(3)).await;
                if !compute(&budget, 1).await {
                    return false;
                }
            }
            true
        };
        assert!(budget.run(Instant::now(), Duration::from_millis(25), LONG, pin!(call)).await.unwrap());
        let used = Duration::from_nanos(budget.used.load(Ordering::Relaxed));
        assert!(used < Duration::from_millis(21), "{used:?} for 10 ticks and 30 ms of waiting");
    }

    #[tokio::test]
    async fn a_stall_is_charged_as_one_tick() {
        let budget = Budget::default();
        let call = async {
            std::thread::sleep(Duration::from_millis(80));
            compute(&budget, 1).await
        };
        assert!(budget.run(Instant::now(), Duration::from_millis(10), LONG, pin!(call)).await.unwrap());
    }

    #[tokio::test]
    async fn computing_between_short_waits_is_charged() {
        let budget = Budget::default();
        let call = async {
            for _ in 0..200 {
                // Less than a tick each time, so that no tick ever sees it.
                std::thread::sleep(Duration::from_micros(600));
                tokio::task::yield_now().await;
            }
        };
        budget.run(Instant::now(), LONG, LONG, pin!(call)).await.unwrap();
        let used = Duration::from_nanos(budget.used.load(Ordering::Relaxed));
        assert!(used >= Duration::from_millis(100), "{used:?}");
    }

    /// Alone in its process it would be exact; other tests compute, too.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn guests_that_compute_for_long_take_turns() {
        let budgets: Vec<_> = (0..4).map(|_| Arc::new(Budget::default())).collect();
        let most = Arc::new(AtomicU64::new(0));
        let calls: Vec<_> = budgets
            .iter()
            .cloned()
            .map(|budget| {
                let (most, all) = (most.clone(), budgets.clone());
                tokio::spawn(async move {
                    let call = async {
                        for _ in 0..20 {
                            assert!(compute(&budget, 1).await);
                            // What comes after a turn that had to be waited for ends before the next tick.
                            std::thread::sleep(TICK / 4);
                            let turns = all.iter().filter(|other| other.turn.lock().is_some()).count();
                            most.fetch_max(turns as u64, Ordering::Relaxed);
                        }
                    };
                    budget.run(Instant::now(), LONG, LONG, pin!(call)).await.unwrap();
                    assert!(budget.turn.lock().is_none(), "the turn ends with the call");
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        let turns = std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1);
        let most = most.load(Ordering::Relaxed);
        assert!((1..=turns as u64).contains(&most), "{most} at once");
    }

    /// Whoever had to wait for a turn kept it: between events, and while it waited for a store.
    #[tokio::test]
    async fn a_turn_that_was_waited_for_is_given_back() {
        let all = std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1);
        for waits in [false, true] {
            let budget = Budget::default();
            let taken = TURNS.clone().acquire_many_owned(u32::try_from(all).unwrap()).await.unwrap();
            let call = async {
                assert!(compute(&budget, 3).await);
                assert!(budget.turn.lock().is_some());
                if waits {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    assert!(budget.turn.lock().is_none(), "it waits");
                }
            };
            let give = async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                drop(taken);
            };
            let call = pin!(call);
            let (ended, ()) = tokio::join!(budget.run(Instant::now(), LONG, LONG, call), give);
            assert!(ended.is_ok() && budget.turn.lock().is_none());
        }
    }

    #[tokio::test]
    async fn an_interrupt_ends_waiting_and_computing() {
        let interrupt = CancellationToken::new();
        let (waiting, computing) = (Budget::new(interrupt.clone()), Budget::new(interrupt.clone()));
        let (wait, work) = (pin!(std::future::pending::<()>()), pin!(compute(&computing, 10_000)));
        let (ended, finished, ()) = tokio::join!(
            waiting.run(Instant::now(), LONG, LONG, wait),
            computing.run(Instant::now(), LONG, LONG, work),
            async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                interrupt.cancel();
            },
        );
        assert!(ended.is_err() && waiting.is_interrupted());
        assert!(!finished.unwrap_or(false) && !computing.is_exceeded());
    }

    #[tokio::test]
    async fn time_runs_out_while_waiting() {
        let budget = Budget::default();
        let call = std::future::pending::<()>();
        assert!(budget.run(Instant::now(), LONG, Duration::from_millis(20), pin!(call)).await.is_err());
    }
}
