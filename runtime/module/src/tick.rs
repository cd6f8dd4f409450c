//! The ticks of a module: calls from time to time, as long as its version serves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::module::Module;

/// The time between ticks when the manifest says nothing.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

impl Module {
    /// Begins to tick, when the module wants that, until the version is retired or gone. Inside a tokio runtime, and
    /// again without effect.
    pub(crate) fn begin_ticks(self: &Arc<Self>) {
        let Some(every) = self.tick else { return };
        if self.ticks.swap(true, Ordering::Relaxed) {
            return;
        }
        let (version, retired) = (Arc::downgrade(self), self.retired.clone());
        tokio::spawn(async move {
            let mut times = interval_at(Instant::now() + every, every);
            // A guest that was late is not called more often for it.
            times.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    // A tick that took long must not begin another one after the end.
                    biased;
                    () = retired.cancelled() => return,
                    _ = times.tick() => {}
                }
                let Some(module) = version.upgrade() else { return };
                module.tick_once().await;
            }
        });
    }

    /// Ends the ticks, now or after the one that goes on.
    pub(crate) fn end_ticks(&self) {
        self.retired.cancel();
        if let Some(before) = self.trial.before() {
            before.retired.cancel();
        }
    }

    async fn tick_once(&self) {
        if self.idles.load(Ordering::Relaxed) {
            return;
        }
        let meters = &self.pool.shared().meters;
        if !self.failing.circuit.is_closed() {
            meters.ticked("skipped");
            return;
        }
        match self.pool.tick().await {
            Ok(()) => meters.ticked("done"),
            // It was on its way when the next version came.
            Err(error) if error.is_of_replaced() => {}
            Err(error) => {
                meters.ticked("failed");
                if let Some(unlogged) = self.tick_line.turn() {
                    tracing::error!(
                        module = self.name(),
                        version = self.short_hash(),
                        unlogged,
                        "a tick of the module failed: {error}"
                    );
                }
            }
        }
    }
}
