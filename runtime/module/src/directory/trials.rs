//! The follower's part in a trial of a new version: it looks at both versions' failures and ends the trial.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Refusal;
use super::command::{End, Favour, TrialEnded};
use super::follow::Follower;
use super::names::shown;
use crate::handover::leave_state;
use crate::meters;
use crate::module::Module;
use crate::rollout::{MIN_CALLS, Tally, worse};

/// How often versions on trial are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// The time over which failures are compared.
const WINDOW: Duration = Duration::from_secs(60);

/// When the versions on trial are looked at next.
#[derive(Default)]
pub(super) struct Judge {
    due: Option<tokio::time::Instant>,
}

impl Judge {
    /// Waits until it is time to look.
    pub(super) async fn rises(&self) {
        if let Some(due) = self.due {
            tokio::time::sleep_until(due).await;
        }
    }
}

/// A new version on trial.
pub(super) struct Probation {
    new: Arc<Module>,
    before: Arc<Module>,
    since: Instant,
    /// What both had done at some times, the last of them before the window began first.
    samples: VecDeque<(Instant, Tally, Tally)>,
    /// What the version before had done when the trial began: its rate when it has hardly any clients left.
    history: Tally,
}

/// What becomes of a trial.
#[derive(Debug, PartialEq, Eq)]
enum Ruling {
    GoOn,
    Promote,
    RollBack(String),
}

impl Probation {
    fn new(new: Arc<Module>, before: Arc<Module>) -> Self {
        let (now, history) = (Instant::now(), before.tally());
        let samples = VecDeque::from([(now, new.tally(), history)]);
        Self { new, before, since: now, samples, history }
    }

    fn rule(&mut self, now: Instant) -> Ruling {
        let (new, before) = (self.new.tally(), self.before.tally());
        // Long enough, and with calls enough: a new version with little traffic is judged by more than a minute of it.
        while self.samples.get(1).is_some_and(|(at, new_then, _)| {
            now.duration_since(*at) >= WINDOW && new.since(*new_then).calls >= MIN_CALLS
        }) {
            self.samples.pop_front();
        }
        let rollout = &self.new.rollout;
        if let (Some(allowed), Some((_, new_then, before_then))) =
            (rollout.rollback_error_rate, self.samples.front())
        {
            let beside = before.since(*before_then).or(self.history);
            if let Some(reason) = worse(new.since(*new_then), beside, allowed) {
                return Ruling::RollBack(reason);
            }
        }
        self.samples.push_back((now, new, before));
        let over = rollout.trial().is_some_and(|time| now.duration_since(self.since) >= time);
        if over && rollout.is_enough(new) { Ruling::Promote } else { Ruling::GoOn }
    }
}

impl Follower {
    /// Puts `new` on trial beside `before`.
    pub(super) fn try_out(&mut self, path: &Path, new: &Arc<Module>, before: Arc<Module>) {
        new.trial.begin(new, before.clone());
        before.serves(new.trial.is_divided());
        tracing::info!(
            module = new.name(),
            version = new.short_hash(),
            before = before.short_hash(),
            canary = new.rollout.canary,
            "a new version is on trial"
        );
        self.trials.insert(path.to_owned(), Probation::new(new.clone(), before));
    }

    /// Looks at all trials, and ends those that have come to an end.
    pub(super) fn judge(&mut self) {
        let now = Instant::now();
        self.judge.due = Some((now + LOOK).into());
        let rulings: Vec<_> = self
            .trials
            .iter_mut()
            .map(|(path, probation)| (path.clone(), probation.rule(now)))
            .filter(|(_, ruling)| *ruling != Ruling::GoOn)
            .collect();
        for (path, ruling) in rulings {
            let Some(probation) = self.trials.remove(&path) else { continue };
            match ruling {
                Ruling::GoOn => {}
                Ruling::Promote => self.promote(&probation),
                Ruling::RollBack(reason) => self.roll_back(path, &probation, reason),
            }
        }
    }

    /// Ends a trial by command.
    pub(super) fn end_trial(&mut self, command: End) {
        let End { path, favour, answer } = command;
        let ended = self.trials.remove(&path).map(|probation| {
            let Probation { new, before, .. } = &probation;
            let (serves, gone) = match favour {
                Favour::New => (new.clone(), before.clone()),
                Favour::Before => (before.clone(), new.clone()),
            };
            match favour {
                Favour::New => self.promote(&probation),
                Favour::Before => self.roll_back(path, &probation, "by command".into()),
            }
            TrialEnded { serves, gone }
        });
        // Who no longer waits needs no answer.
        answer.send(ended).ok();
    }

    fn promote(&self, probation: &Probation) {
        let Probation { new, before, .. } = probation;
        new.trial.promote();
        self.publish();
        leave_state(before, new);
        before.retire(Some(new), self.host.config().retire);
        meters::tried(new.name(), "promoted");
        tracing::info!(module = new.name(), version = new.short_hash(), "the new version serves all clients");
    }

    /// The version before serves all clients again, and the new one is not loaded again until its file changes.
    fn roll_back(&mut self, path: PathBuf, probation: &Probation, reason: String) {
        let Probation { new, before, .. } = probation;
        self.withdraw(&path, new, before);
        self.blocked.insert(path.clone(), new.version);
        meters::tried(new.name(), "rolled_back");
        let reason = format!("rolled back, until the file changes: {reason}");
        tracing::error!(
            module = shown(&self.dir, &path),
            version = new.short_hash(),
            serving = before.short_hash(),
            "{reason}"
        );
        let mandatory = before.mandatory || new.mandatory;
        self.state.refuse(&path, Refusal { reason, transient: false, mandatory });
    }

    /// The version before serves all clients again.
    pub(super) fn withdraw(&self, path: &Path, new: &Arc<Module>, before: &Arc<Module>) {
        new.trial.withdraw();
        before.serves(true);
        self.state.serving.lock().insert(path.to_owned(), before.clone());
        self.publish();
        new.retire(Some(before), self.host.config().retire);
    }
}
