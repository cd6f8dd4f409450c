//! Published messages of several events in one call, for guests that export `message-publish-batch`.

use std::pin::pin;
use std::time::Instant;

use smallvec::SmallVec;
use tidegate_event::Scope;

use super::{Instance, failure};
use crate::batch::Outcome;
use crate::bindings::exports::tidegate::hooks::message_publish_batch::Published;
use crate::budget::TimedOut;
use crate::error::CallError;
use crate::module::Answer;
use crate::translate::{self, Texts};

/// Several events may compute as long as two: they are so many that they should take no longer than one, and a guest
/// that loops must not keep the others waiting.
const CPU_OF_SEVERAL: u32 = 2;

impl Instance {
    /// Handles the events of `batch`, all of message.publish, in one call that began at `started`: an outcome for each,
    /// in their order.
    ///
    /// # Errors
    /// [`CallError`] when the call failed as a whole. After [`CallError::Answer`] and [`CallError::NotHandled`] the
    /// instance is well; after any other it must be dropped.
    pub(crate) async fn call_batch(
        &mut self,
        batch: &[&Scope],
        started: Instant,
    ) -> Result<Vec<Outcome>, CallError> {
        let events = batch.len() as u64;
        self.calls += events;
        let first = self.number + 1;
        self.number += events;
        let state = self.store.data_mut();
        state.begin_batch(first, batch);
        let limits = state.shared.limits;
        let cpu = if events > 1 { limits.cpu * CPU_OF_SEVERAL } else { limits.cpu };
        // The epoch went on while the instance was idle.
        self.store.set_epoch_deadline(1);

        let Some(hook) = &self.functions.publish_batch else {
            return Err(CallError::NotHandled("message.publish"));
        };
        let messages: SmallVec<[_; 1]> = batch.iter().filter_map(|scope| scope.event.message()).collect();
        let user: SmallVec<[_; 1]> =
            messages.iter().map(|message| translate::user_properties(message)).collect();
        let mut texts: SmallVec<[_; 1]> = messages.iter().map(|_| Texts::new()).collect();
        let published: SmallVec<[_; 1]> = (first..)
            .zip(&messages)
            .zip(&user)
            .zip(&mut texts)
            .map(|(((event, message), user), texts)| {
                let (client, message) = texts.publish(message, user);
                Published { event, client, message }
            })
            .collect();
        let outcome = {
            let call = pin!(hook.call_on_message_publish_batch(&mut self.store, &published));
            self.budget.run(started, cpu, limits.timeout, call).await
        };
        let answers = match outcome {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Err(failure(&mut self.store, &self.budget, cpu, &error)),
            Err(TimedOut) if self.budget.is_interrupted() => return Err(CallError::Interrupted),
            Err(TimedOut) => return Err(CallError::Timeout(limits.timeout)),
        };
        self.store.data_mut().end();
        if answers.len() != messages.len() {
            return Err(CallError::Answer(format!(
                "{} answers to a batch of {} events",
                answers.len(),
                messages.len()
            )));
        }
        let ids = &self.store.data().shared.services.ids;
        let outcomes = answers.into_iter().zip(messages).map(|(answer, message)| {
            let verdict = translate::verdict(answer?, message, ids);
            let verdict = verdict.map_err(|text| CallError::Answer(translate::bounded(text)))?;
            Ok(Answer { verdict, subscriptions: Vec::new() })
        });
        Ok(outcomes.collect())
    }
}
