//! Ticks: calls that no event is behind.

use std::pin::pin;
use std::time::Instant;

use super::{Instance, failure};
use crate::budget::TimedOut;
use crate::error::{CallError, GuestFailure};
use crate::{raw, translate};

impl Instance {
    /// Tells the guest that time has passed, in a call that began at `started`; limits are those of an event.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::Guest`] and [`CallError::NotHandled`] the instance is well; after any other it
    /// must be dropped.
    pub(crate) async fn tick(&mut self, started: Instant) -> Result<(), CallError> {
        self.calls += 1;
        self.number += 1;
        let number = self.number;
        let state = self.store.data_mut();
        state.begin_tick(number);
        let (cpu, timeout) = (state.shared.limits.cpu, state.shared.limits.timeout);
        // The epoch went on while the instance was idle.
        self.store.set_epoch_deadline(1);
        let outcome = {
            let (store, functions) = (&mut self.store, &self.functions);
            let call = pin!(async move {
                match (&functions.tick, &functions.raw) {
                    (Some(tick), _) => tick.call_on_tick(store, number).await.map(Some),
                    (None, Some(handle)) => raw::tick(store, handle).await.map(Some),
                    (None, None) => Ok(None),
                }
            });
            self.budget.run(started, cpu, timeout, call).await
        };
        let answer = match outcome {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failure(&mut self.store, &self.budget, cpu, &error)),
            Err(TimedOut) if self.budget.is_interrupted() => return Err(CallError::Interrupted),
            Err(TimedOut) => return Err(CallError::Timeout(timeout)),
        };
        self.store.data_mut().end();
        match answer {
            Some(answer) => {
                answer.map_err(|text| CallError::Guest(GuestFailure::Failed(translate::bounded(text))))
            }
            None => Err(CallError::NotHandled("tick")),
        }
    }
}
