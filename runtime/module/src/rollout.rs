//! A new version on trial: which clients it serves beside the version before, and whether it fails more often.
//!
//! For dispatch both are one module, the new one. Its share of 100 per cent, which every version without a trial has,
//! costs an event one comparison.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_event::hook::TopicOf;
use tidegate_event::{Access, Event, Hook, TopicFilter};

use crate::module::Module;

/// All clients.
const ALL: u8 = 100;
/// Calls before a version is judged: a rate of fewer says nothing.
pub(crate) const MIN_CALLS: u64 = 20;
/// How long a version that serves all clients is watched when the manifest names no time.
const PROBATION: Duration = Duration::from_secs(30);

/// `[rollout]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rollout {
    /// Per cent of clients that a new version serves at first.
    pub(crate) canary: u8,
    /// After which time it serves all; `None`: the manifest says nothing, zero: never by itself.
    pub(crate) promote_after: Option<Duration>,
    /// By how much its share of failed calls may be above the other version's.
    pub(crate) rollback_error_rate: Option<f64>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { canary: ALL, promote_after: None, rollback_error_rate: None }
    }
}

impl Rollout {
    /// Whether a new version is tried before it has replaced the one before.
    pub(crate) fn is_trial(&self) -> bool {
        self.canary < ALL || self.rollback_error_rate.is_some()
    }

    /// How long a trial takes. `None`: until somebody ends it.
    pub(crate) fn trial(&self) -> Option<Duration> {
        match self.promote_after {
            Some(time) => (!time.is_zero()).then_some(time),
            None => (self.canary == ALL).then_some(PROBATION),
        }
    }

    /// Whether a version that did `done` on trial may serve all: where failures are watched, so few calls that nobody
    /// judged them speak for it only when all of them went well, and no calls do not.
    pub(crate) fn is_enough(&self, done: Tally) -> bool {
        self.rollback_error_rate.is_none() || done.calls >= MIN_CALLS || (done.calls > 0 && done.errors == 0)
    }
}

/// Hooks and the topic filters that select events; no filter: all topics.
pub(crate) type Hooks = Vec<(Hook, Vec<TopicFilter>)>;

/// Whether `hooks` select `event`, as a table of handlers would.
pub(crate) fn selects(hooks: &[(Hook, Vec<TopicFilter>)], event: &Event) -> bool {
    let Some((hook, filters)) = hooks.iter().find(|(hook, _)| *hook == event.hook()) else { return false };
    if filters.is_empty() || hook.row().topic == TopicOf::None {
        return true;
    }
    match event {
        Event::SessionSubscribed { filter, .. } | Event::SessionUnsubscribed { filter, .. } => {
            filters.iter().any(|own| own.covers(filter))
        }
        Event::ClientAuthorize { access: Access::Publish(message), .. } => {
            filters.iter().any(|filter| filter.guards(&message.topic))
        }
        Event::ClientAuthorize { access: Access::Subscribe(request), .. }
        | Event::ClientSubscribe { request, .. } => {
            filters.iter().any(|filter| filter.guards_part_of(&request.filter.filter))
        }
        _ => {
            event.message().is_some_and(|message| filters.iter().any(|filter| filter.matches(&message.topic)))
        }
    }
}

/// What two versions handle together.
fn union(a: &[(Hook, Vec<TopicFilter>)], b: &[(Hook, Vec<TopicFilter>)]) -> Hooks {
    let mut all = a.to_vec();
    for (hook, filters) in b {
        match all.iter_mut().find(|(known, _)| known == hook) {
            None => all.push((*hook, filters.clone())),
            Some((_, known)) if known.is_empty() || filters.is_empty() => known.clear(),
            Some((_, known)) => {
                for filter in filters {
                    if !known.contains(filter) {
                        known.push(filter.clone());
                    }
                }
            }
        }
    }
    all
}

/// Who handles an event of a version on trial.
pub(crate) enum Choice {
    /// The new version itself.
    Own,
    /// The version before.
    Before(Arc<Module>),
    /// Nobody: the version whose client it is does not handle it.
    Nobody,
}

/// The trial of a version; every version has one, which is over as a rule.
#[derive(Debug)]
pub(crate) struct Trial {
    /// Per cent of clients that the version serves.
    share: AtomicU8,
    /// Who serves the others.
    before: Mutex<Option<Arc<Module>>>,
    /// What both versions handle, and the place of the one before among other modules.
    joint: OnceLock<(Hooks, i32)>,
}

impl Default for Trial {
    fn default() -> Self {
        Self { share: AtomicU8::new(ALL), before: Mutex::default(), joint: OnceLock::new() }
    }
}

impl Trial {
    /// Whether clients are divided between two versions.
    pub(crate) fn is_divided(&self) -> bool {
        self.share.load(Ordering::Relaxed) != ALL
    }

    /// What both versions handle and their priority, while clients are divided.
    pub(crate) fn joint(&self) -> Option<&(Hooks, i32)> {
        if self.is_divided() { self.joint.get() } else { None }
    }

    /// Per cent of clients the version serves.
    pub(crate) fn share(&self) -> u8 {
        self.share.load(Ordering::Relaxed)
    }

    /// The version that serves the other clients, or would again.
    pub(crate) fn before(&self) -> Option<Arc<Module>> {
        self.before.lock().clone()
    }

    /// Begins the trial of `new` beside `before`.
    pub(crate) fn begin(&self, new: &Module, before: Arc<Module>) {
        self.joint.get_or_init(|| (union(before.own_hooks(), new.own_hooks()), before.own_priority()));
        *self.before.lock() = Some(before);
        self.share.store(new.rollout.canary, Ordering::Relaxed);
    }

    /// The new version serves everybody.
    pub(crate) fn promote(&self) {
        self.share.store(ALL, Ordering::Relaxed);
        *self.before.lock() = None;
    }

    /// The new version serves nobody any more.
    pub(crate) fn withdraw(&self) {
        self.share.store(0, Ordering::Relaxed);
    }

    /// Who handles `event` of the version `own` while clients are divided. Events of no client are the old version's.
    pub(crate) fn choose(&self, own: &Module, event: &Event) -> Choice {
        let canary = event
            .client()
            .is_some_and(|client| percentile(own.name(), &client.id) < self.share.load(Ordering::Relaxed));
        let handles = |module: &Module| selects(module.own_hooks(), event);
        match self.before() {
            Some(before) if !canary => {
                if handles(&before) {
                    Choice::Before(before)
                } else {
                    Choice::Nobody
                }
            }
            _ if handles(own) => Choice::Own,
            _ => Choice::Nobody,
        }
    }
}

/// The place of a client among a hundred, the same in every process and for every version of the module.
fn percentile(module: &str, client: &str) -> u8 {
    // FNV-1a, then a finaliser that spreads similar names over all bits.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in module.bytes().chain([0]).chain(client.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    u8::try_from(hash % u64::from(ALL)).unwrap_or_default()
}

/// Calls and failures of a version in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    pub(crate) errors: u64,
}

impl Tally {
    /// What came since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            errors: self.errors.saturating_sub(earlier.errors),
        }
    }

    /// What the version before is compared by: what it did beside the new one, unless that is so little that one
    /// straggling call would decide; then with what it had done when the trial began, `history`. A version of which
    /// nearly nothing is known counts as one that does not fail.
    pub(crate) fn or(self, history: Self) -> Self {
        if self.calls >= MIN_CALLS {
            return self;
        }
        let all = Self { calls: self.calls + history.calls, errors: self.errors + history.errors };
        if all.calls >= MIN_CALLS { all } else { Self::default() }
    }

    fn rate(self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.errors as f64 / self.calls as f64 }
    }
}

/// Why a version that did `new` is worse by more than `allowed` than the one before, which did `before`, if it is.
pub(crate) fn worse(new: Tally, before: Tally, allowed: f64) -> Option<String> {
    if new.calls < MIN_CALLS || new.rate() <= before.rate() + allowed {
        return None;
    }
    Some(format!(
        "{} of {} calls failed ({:.1} %), of the version before {:.1} %: more than rollback_error_rate = {allowed} above it",
        new.errors,
        new.calls,
        new.rate() * 100.0,
        before.rate() * 100.0,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn clients_are_spread_evenly_and_stay_where_they_are() {
        let mut counts = [0_u32; 100];
        for n in 0..100_000 {
            if let Some(count) = counts.get_mut(usize::from(percentile("m", &format!("client-{n}")))) {
                *count += 1;
            }
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
        assert_eq!(percentile("m", "client-1"), percentile("m", "client-1"));
        // Fixed for ever: a client would change sides in the middle of a trial over a restart.
        assert_eq!([percentile("m", "a"), percentile("m", "b"), percentile("n", "a")], [53, 75, 48]);
    }

    #[test]
    fn a_version_is_worse_by_its_rate_and_not_by_few_calls() {
        let tally = |calls, errors| Tally { calls, errors };
        assert_eq!(worse(tally(19, 19), tally(100, 0), 0.05), None);
        assert!(
            worse(tally(20, 2), tally(100, 0), 0.05).unwrap().starts_with("2 of 20 calls failed (10.0 %)")
        );
        assert_eq!(worse(tally(20, 1), tally(100, 0), 0.05), None);
        assert_eq!(worse(tally(100, 54), tally(100, 50), 0.05), None, "the old one fails as often");
        assert!(worse(tally(100, 60), tally(100, 50), 0.05).is_some());
        assert!(worse(tally(100, 6), Tally::default(), 0.05).is_some());
    }

    #[test]
    fn stragglers_of_the_version_before_are_no_measure() {
        let tally = |calls, errors| Tally { calls, errors };
        let history = tally(1_000, 10);
        assert_eq!(tally(0, 0).or(history), history);
        assert_eq!(tally(1, 1).or(history), tally(1_001, 11));
        assert_eq!(tally(19, 19).or(history), tally(1_019, 29), "not 100 %");
        assert_eq!(tally(20, 5).or(history), tally(20, 5));
        assert!(worse(tally(40, 40), tally(1, 1).or(history), 0.05).is_some());
        assert_eq!(worse(tally(40, 0), tally(1, 0).or(tally(100, 90)), 0.05), None);
    }

    #[test]
    fn a_version_of_few_calls_is_no_measure() {
        let tally = |calls, errors| Tally { calls, errors };
        assert_eq!(tally(20, 1).or(tally(100, 0)), tally(20, 1));
        assert_eq!(tally(1, 1).or(tally(100, 0)), tally(101, 1));
        assert_eq!(tally(0, 0).or(tally(1, 1)), Tally::default(), "one call in its life, which failed");
    }

    #[test]
    fn a_version_that_nobody_could_judge_is_not_promoted() {
        let tally = |calls, errors| Tally { calls, errors };
        let watched = Rollout { rollback_error_rate: Some(0.05), ..Rollout::default() };
        let enough = [tally(0, 0), tally(1, 0), tally(19, 0), tally(19, 1), tally(20, 1)];
        assert_eq!(enough.map(|done| watched.is_enough(done)), [false, true, true, false, true]);
        assert!(Rollout::default().is_enough(tally(0, 0)), "nothing is watched");
    }

    #[test]
    fn two_versions_handle_what_either_does() {
        let filter = |text: &str| TopicFilter::new(text).unwrap();
        let all = union(
            &[(Hook::MessagePublish, vec![filter("a")]), (Hook::MessageAcked, vec![filter("x")])],
            &[
                (Hook::MessagePublish, vec![filter("a"), filter("b")]),
                (Hook::MessageAcked, vec![]),
                (Hook::ClientConnected, vec![]),
            ],
        );
        assert_eq!(
            all,
            [
                (Hook::MessagePublish, vec![filter("a"), filter("b")]),
                (Hook::MessageAcked, vec![]),
                (Hook::ClientConnected, vec![]),
            ]
        );
    }

    #[test]
    fn a_trial_ends_by_itself_only_when_that_is_meant() {
        let rollout = Rollout { canary: 10, ..Rollout::default() };
        assert!(rollout.is_trial() && rollout.trial().is_none());
        let rollout = Rollout { promote_after: Some(Duration::from_secs(600)), ..rollout };
        assert_eq!(rollout.trial(), Some(Duration::from_secs(600)));
        let rollout = Rollout { rollback_error_rate: Some(0.1), ..Rollout::default() };
        assert_eq!(rollout.trial(), Some(PROBATION));
        let rollout = Rollout { promote_after: Some(Duration::ZERO), ..rollout };
        assert_eq!(rollout.trial(), None);
        assert!(!Rollout::default().is_trial());
    }
}
