//! Calls for several events: who runs them, and what becomes of the events when one fails as a whole.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use tidegate_event::Scope;

use super::Pool;
use crate::batch::{Batcher, Outcome, Place, Told, Turn};
use crate::error::CallError;

impl Pool {
    /// Handles the event of `scope`, together with others if there are any. It waits for its turn no longer than an event
    /// may take.
    ///
    /// # Errors
    /// [`CallError`] of this event: when a call with several events fails as a whole, each is handled again alone.
    pub(super) async fn gathered(&self, batcher: &Arc<Batcher>, scope: &Scope, started: Instant) -> Outcome {
        match batcher.enter(scope) {
            Place::Lead(turn) => self.lead(turn, batcher, scope, started).await,
            Place::Wait(number, mut told) => {
                let timeout = self.blueprint.shared.limits.timeout;
                let told = match tokio::time::timeout(timeout, &mut told).await {
                    Ok(told) => told,
                    Err(_) if batcher.leave(number) => return Err(CallError::Busy(timeout)),
                    // It is being handled, and that has a bound of its own.
                    Err(_) => told.await,
                };
                match told {
                    Ok(Told::Outcome(outcome)) => outcome,
                    Ok(Told::Lead(turn)) => self.lead(turn, batcher, scope, Instant::now()).await,
                    // Whoever ran the call may be gone without a word, too.
                    Ok(Told::Alone) | Err(_) => self.alone(batcher, scope).await,
                }
            }
        }
    }

    /// Runs a call for the event of `scope` and those that wait.
    async fn lead(&self, turn: Turn, batcher: &Batcher, scope: &Scope, started: Instant) -> Outcome {
        let (mut lease, started) = self.lease(started).await?;
        // Not before there is an instance: others have come meanwhile.
        let others = turn.gather(scope);
        let events: SmallVec<[&Scope; 1]> =
            std::iter::once(scope).chain(others.iter().map(|other| &other.scope)).collect();
        let count = events.len();
        let outcome = pin!(lease.instance()?.call_batch(&events, started)).await;
        if matches!(outcome, Ok(_) | Err(CallError::Answer(_) | CallError::NotHandled(_))) {
            lease.give_back();
        } else {
            drop(lease);
        }
        drop(events);
        self.shared().meters.batch_events.record(count as f64);
        match outcome {
            Ok(outcomes) => {
                batcher.took(count, started.elapsed());
                let mut outcomes = outcomes.into_iter();
                let own = outcomes.next();
                others.into_iter().zip(outcomes).for_each(|(other, outcome)| other.finish(outcome));
                own.unwrap_or_else(|| Err(CallError::Answer("no answer to the first event".into())))
            }
            Err(error) if others.is_empty() => Err(error),
            Err(error) => {
                batcher.failed();
                self.shared().meters.batches_failed.increment(1);
                tracing::debug!(
                    module = &*self.shared().name,
                    events = count,
                    "a call with several events failed, each is handled alone: {error}"
                );
                others.into_iter().for_each(|other| other.leave_alone());
                drop(turn);
                self.alone(batcher, scope).await
            }
        }
    }

    /// Runs a call for the event of `scope` alone.
    pub(super) async fn alone(&self, batcher: &Batcher, scope: &Scope) -> Outcome {
        let (mut lease, started) = self.lease(Instant::now()).await?;
        let outcome = lease.instance()?.call_batch(&[scope], started).await;
        if matches!(outcome, Ok(_) | Err(CallError::Answer(_) | CallError::NotHandled(_))) {
            lease.give_back();
        }
        let mut outcomes = outcome?;
        batcher.took(1, started.elapsed());
        outcomes.pop().unwrap_or_else(|| Err(CallError::Answer("no answer to the event".into())))
    }
}
