//! What becomes of an event that a module failed to handle: further attempts, then the policy of `[on_error]`.
//!
//! | hook | attempts by default | policy by default | dead-lettered means |
//! | --- | --- | --- | --- |
//! | `message.publish` | 1 | reject | kept, acknowledged, not routed |
//! | `message.deliver` | 1 | pass | kept, not delivered to this subscriber |
//! | observers | 4, within a second | dead-letter | kept, the event goes on |
//! | where a client asks for leave | 1 | reject | there is none: leave is refused |
//!
//! Events of one client are handled one at a time, so whatever an event waits for, the client's next one waits for
//! too. That keeps the order, and it is why attempts at an observer's event end after a second: nobody waits for what
//! an observer does. A module that is broken altogether delays no one for long, because its circuit opens.
//!
//! A dead letter is on disk before the event counts as handled. When it cannot be written the event is refused, where
//! somebody can be refused.

use std::time::{Duration, Instant};

use tidegate_event::hook::Decides;
use tidegate_event::{Hook, Scope, Seldom};

use crate::circuit::Circuit;
use crate::dead_letter::{self, Cause};
use crate::error::CallError;
use crate::manifest::{ErrorPolicy, OnError};
use crate::module::Module;
use crate::poison::{Fingerprint, Suspects};

/// Further attempts at the event of an observer, unless the manifest says otherwise.
const OBSERVER_RETRIES: u32 = 3;
/// After this time no further attempt at the event of an observer begins.
const OBSERVER_PATIENCE: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
const MAX_DOUBLINGS: u32 = 16;

/// What is done about an event that a module failed to handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It goes on as if the module were not there.
    Pass,
    /// Its message is acknowledged and goes no further (on message.deliver: is not delivered).
    Drop,
    /// It is refused: see [`tidegate_event::Verdict::Fail`].
    Reject,
}

/// How a module version fails: what its manifest says of it, and what is remembered.
#[derive(Debug)]
pub(crate) struct Failing {
    on_error: OnError,
    pub(crate) circuit: Circuit,
    suspects: Suspects,
    /// Of dead letters, and of those that cannot be published.
    kept_line: Seldom,
    unpublished_line: Seldom,
}

/// An event without an answer.
pub(crate) struct Failed {
    /// Of the last attempt.
    pub(crate) error: CallError,
    /// How often the guest was given the event.
    pub(crate) attempts: u32,
}

/// Whether nothing is decided by the answer.
fn is_observer(hook: Hook) -> bool {
    matches!(hook.row().decides, Decides::Nothing | Decides::Subscriptions)
}

impl Failing {
    pub(crate) fn new(on_error: OnError) -> Self {
        Self {
            on_error,
            circuit: Circuit::default(),
            suspects: Suspects::default(),
            kept_line: Seldom::default(),
            unpublished_line: Seldom::default(),
        }
    }

    /// What the manifest says.
    pub(crate) fn on_error(&self) -> &OnError {
        &self.on_error
    }

    /// What a hook cannot decide, no policy decides: nobody can be refused by an observer, nor by a delivery; and who
    /// asks for leave cannot be given it by a letter.
    fn policy(&self, hook: Hook) -> ErrorPolicy {
        use ErrorPolicy::{DeadLetter, Drop, Pass, Reject};
        let asked = self.on_error.policy;
        if is_observer(hook) {
            return if matches!(asked, Some(Pass | Drop)) { Pass } else { DeadLetter };
        }
        match hook {
            Hook::MessageDeliver => match asked {
                Some(Drop | Reject) => Drop,
                other => other.unwrap_or(Pass),
            },
            Hook::MessagePublish => asked.unwrap_or(Reject),
            _ => match asked {
                Some(DeadLetter) | None => Reject,
                Some(other) => other,
            },
        }
    }

    fn retries(&self, hook: Hook) -> u32 {
        match self.on_error.retries {
            Some(retries) => retries,
            None if is_observer(hook) && self.policy(hook) == ErrorPolicy::DeadLetter => OBSERVER_RETRIES,
            None => 0,
        }
    }

    /// The pause before the next attempt at an event of `hook` that began at `started` and was given to the guest
    /// `attempts` times; `None`: there is none.
    pub(crate) fn next_attempt(
        &self,
        hook: Hook,
        error: &CallError,
        attempts: u32,
        started: Instant,
    ) -> Option<Duration> {
        if attempts > self.retries(hook) || !error.is_retryable() || !self.circuit.is_closed() {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(MAX_DOUBLINGS);
        let pause = self.on_error.backoff.saturating_mul(1 << doublings).min(MAX_BACKOFF);
        let in_time = !is_observer(hook) || started.elapsed() + pause <= OBSERVER_PATIENCE;
        in_time.then_some(pause)
    }

    /// The message that failed, if it has now failed too often; with the attempts at it.
    fn poisonous(&self, scope: &Scope, failed: &Failed) -> Option<(Fingerprint, u32)> {
        // Not the message's doing.
        let innocent =
            failed.error.is_before_the_guest() || matches!(failed.error, CallError::Instantiate(_));
        let message = scope.event.message().filter(|_| !innocent)?;
        let most = self.on_error.poison_after.filter(|_| scope.event.hook() == Hook::MessagePublish)?;
        let known = Fingerprint::of(message);
        let record = self.suspects.failed(known, failed.attempts, Instant::now());
        (record.failures >= most.get()).then_some((known, record.attempts))
    }
}

impl Module {
    /// What happens to an event of `hook` when [`Self::call`] fails, as far as the policy says it.
    pub fn policy(&self, hook: Hook) -> ErrorPolicy {
        self.failing.policy(hook)
    }

    /// Applies the policy to the event of `scope`, which failed.
    pub(crate) async fn settle(&self, scope: &Scope, failed: Failed) -> Settled {
        let hook = scope.event.hook();
        match self.policy(hook) {
            ErrorPolicy::Pass => Settled::Pass,
            ErrorPolicy::Drop => Settled::Drop,
            ErrorPolicy::DeadLetter => {
                let kept = self.keep(scope, &failed.error, "policy", failed.attempts).await;
                match hook {
                    Hook::MessagePublish if !kept => Settled::Reject,
                    Hook::MessagePublish => Settled::Drop,
                    Hook::MessageDeliver if kept => Settled::Drop,
                    _ => Settled::Pass,
                }
            }
            ErrorPolicy::Reject => {
                let Some((message, attempts)) = self.failing.poisonous(scope, &failed) else {
                    return Settled::Reject;
                };
                if !self.keep(scope, &failed.error, "poison", attempts).await {
                    return Settled::Reject;
                }
                self.failing.suspects.forget(message);
                self.pool.shared().meters.poisonous.increment(1);
                Settled::Drop
            }
        }
    }

    /// Writes the dead letter of the event; false: it is not on disk.
    async fn keep(&self, scope: &Scope, error: &CallError, reason: &'static str, attempts: u32) -> bool {
        let shared = self.pool.shared();
        let cause = Cause { module: self.name(), version: self.hash(), reason, attempts };
        let (hook, event) = (scope.event.hook().name(), &scope.event);
        let client = event.client().map_or("", |client| &client.id);
        let topic = event.message().map_or("", |message| message.topic.as_str());
        let refusal = match (&shared.services.dead_letters, dead_letter::write(&cause, scope, error)) {
            (Some(file), Ok(letter)) => match file.keep(letter.clone()).await {
                Ok(()) => {
                    shared.meters.dead_letters.increment(1);
                    self.announce(letter, scope);
                    if let Some(unlogged) = self.failing.kept_line.turn() {
                        let (module, version) = (self.name(), self.short_hash());
                        tracing::warn!(
                            module,
                            version,
                            hook,
                            client,
                            topic,
                            reason,
                            attempts,
                            unlogged,
                            "an event is a dead letter: {}",
                            error.summary()
                        );
                    }
                    return true;
                }
                Err(refusal) => refusal.to_string(),
            },
            (_, Err(refusal)) => refusal.to_string(),
            (None, _) => "this host keeps no dead letters".to_owned(),
        };
        shared.meters.dead_letters_failed.increment(1);
        if let Some(unlogged) = self.failing.kept_line.turn() {
            tracing::error!(
                module = self.name(),
                hook,
                client,
                topic,
                reason,
                unlogged,
                error = refusal,
                "a dead letter cannot be written: the event does not count as handled"
            );
        }
        false
    }

    /// Publishes a letter that is on disk, if the manifest says where. Should that fail, the letter is still kept.
    fn announce(&self, letter: String, scope: &Scope) {
        let shared = self.pool.shared();
        let Some(topic) = &self.failing.on_error.dead_letter_topic else { return };
        let services = &shared.services;
        let Some(message) = dead_letter::announce(letter, topic, scope, &services.ids) else { return };
        if let Err(error) = services.control.publish(&shared.tenant, message) {
            shared.meters.dead_letters_unpublished.increment(1);
            if let Some(unlogged) = self.failing.unpublished_line.turn() {
                tracing::warn!(
                    module = self.name(),
                    %topic,
                    unlogged,
                    "a dead letter is kept but not published: {error}"
                );
            }
        }
    }
}
