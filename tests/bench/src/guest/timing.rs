//! Times a call in a loop, on a thread of its own.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::statistics::Summary;
use crate::{allocations, process};

/// What one call costs.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct CallCost {
    /// Processor time of the calling thread, microseconds: others on the machine do not count.
    pub us: f64,
    /// Allocations on the host.
    pub allocations: f64,
}

/// Calls before the measured ones: instances are made, caches are warm.
const WARM_UP: u32 = 2_000;

/// How often the clock is read.
const BLOCK: u32 = 256;

/// Runs `make` on a new thread with a runtime of its own, and then times what `call` does with what it made,
/// for about `time`. Returns the cost of one call.
///
/// # Errors
/// Those of `make` and `call`.
pub async fn time_calls<T, M, C>(time: Duration, make: M, mut call: C) -> anyhow::Result<CallCost>
where
    M: AsyncFnOnce() -> anyhow::Result<T> + Send + 'static,
    C: AsyncFnMut(&mut T) -> anyhow::Result<()> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let measure = move || -> anyhow::Result<CallCost> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let mut made = make().await?;
            for _ in 0..WARM_UP {
                call(&mut made).await?;
            }
            let (start, mut calls) = (Instant::now(), 0_u32);
            let (cpu, before) = (process::thread_time()?, allocations::count());
            while start.elapsed() < time {
                for _ in 0..BLOCK {
                    call(&mut made).await?;
                }
                calls += BLOCK;
            }
            let allocated = allocations::count() - before;
            let used = process::thread_time()?.saturating_sub(cpu);
            Ok(CallCost {
                us: used.as_secs_f64() * 1e6 / f64::from(calls),
                allocations: allocated as f64 / f64::from(calls),
            })
        })
    };
    std::thread::spawn(move || drop(sender.send(measure())));
    receiver.await.context("the measuring thread panicked")?
}

/// Runs `call` once each `interval`, asleep in between, for about `time`: the median time of a call from its
/// beginning to its end, in microseconds.
///
/// # Errors
/// Those of `make` and `call`.
pub async fn time_calls_apart<T, M, C>(
    time: Duration,
    interval: Duration,
    make: M,
    mut call: C,
) -> anyhow::Result<f64>
where
    M: AsyncFnOnce() -> anyhow::Result<T> + Send + 'static,
    C: AsyncFnMut(&mut T) -> anyhow::Result<()> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let measure = move || -> anyhow::Result<f64> {
        // The default slack of 50 us is half of the interval that is asked for.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let mut made = make().await?;
            for _ in 0..WARM_UP {
                call(&mut made).await?;
            }
            let (start, mut due, mut each) = (Instant::now(), Instant::now(), Vec::new());
            while start.elapsed() < time {
                due += interval;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let begun = Instant::now();
                call(&mut made).await?;
                each.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            Ok(Summary::of(each).median)
        })
    };
    std::thread::spawn(move || drop(sender.send(measure())));
    receiver.await.context("the measuring thread panicked")?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn allocations_of_a_call_are_counted() {
        let call = async |made: &mut u64| {
            *made += *std::hint::black_box(Box::new(1_u64));
            anyhow::Ok(())
        };
        let cost = time_calls(Duration::from_millis(50), async || Ok(0_u64), call).await.unwrap();
        assert_eq!(cost.allocations, 1.0);
        assert!(cost.us > 0.0);
    }
}
