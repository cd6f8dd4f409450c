//! The circuit breaker of a module version: a module that keeps failing is not called for every event.
//!
//! | state | what an event finds |
//! | --- | --- |
//! | closed | the module is called; one atomic load is all that this costs |
//! | open | no call: the event goes straight to the module's policy, for 1 s at first, at most 30 s |
//! | half open | one event is called to see whether the module works again; the others go to the policy |
//!
//! It opens when ten attempts failed within ten seconds and they are at least half of all. Guests that answer with an
//! error work: their answers count only while nothing else comes from the module. A success of the probing event
//! closes the circuit; its failure opens it again, for twice as long.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Failures are counted over this time.
const WINDOW: Duration = Duration::from_secs(10);
/// The fewest failures that open it.
const MIN_FAILURES: u64 = 10;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;

/// Whether a module is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CircuitState {
    /// For every event.
    #[default]
    Closed,
    /// For none: it failed too often.
    Open,
    /// For one event, to see whether it works again.
    HalfOpen,
}

impl CircuitState {
    /// `closed`, `open` or `half-open`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// The breaker of one module version.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    state: AtomicU8,
    opened: AtomicU64,
    /// Only failures, and events while it is not closed, take it.
    details: Mutex<Details>,
}

#[derive(Debug, Default)]
struct Details {
    window: Option<Window>,
    /// When an open circuit lets an event probe; `None` while it is closed.
    until: Option<Instant>,
    pause: Duration,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    /// Events that had gone well when it began.
    well_before: u64,
    /// Attempts that stopped the guest.
    failures: u64,
    /// Attempts that the guest answered with an error.
    answers: u64,
}

/// A circuit has just opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// How long no event is called.
    pub(crate) pause: Duration,
    /// Attempts that failed, of how many.
    pub(crate) failures: u64,
    pub(crate) attempts: u64,
}

/// What an event does at a circuit that is not closed.
pub(crate) enum Admission<'a> {
    /// It is closed by now: call.
    Call,
    /// Call, and tell how it went.
    Probe(Probe<'a>),
    /// Do not call; this long is left until the next probe (zero: one is under way).
    Refuse(Duration),
}

impl Circuit {
    /// Whether the module is called as always.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CLOSED
    }

    /// How it stands.
    pub(crate) fn state(&self) -> CircuitState {
        match self.state.load(Ordering::Relaxed) {
            CLOSED => CircuitState::Closed,
            OPEN => CircuitState::Open,
            _ => CircuitState::HalfOpen,
        }
    }

    /// How often it has opened, not counting probes that failed.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// An attempt failed at `now`; `is_answer`: the guest worked and said no. `well` is how many events have gone
    /// well so far. Gives the opening of the circuit, if this was one failure too many.
    pub(crate) fn failed(&self, now: Instant, is_answer: bool, well: u64) -> Option<Opened> {
        let mut details = self.details.lock();
        // Events in flight when it opened change nothing any more.
        if details.until.is_some() {
            return None;
        }
        let fresh = || Window { since: now, well_before: well, failures: 0, answers: 0 };
        let window = details.window.get_or_insert_with(fresh);
        if now.saturating_duration_since(window.since) > WINDOW {
            *window = fresh();
        }
        *(if is_answer { &mut window.answers } else { &mut window.failures }) += 1;
        let well = well.saturating_sub(window.well_before);
        let failed = window.failures + window.answers;
        let often = window.failures >= MIN_FAILURES && window.failures * 2 >= failed + well;
        let always = failed >= MIN_FAILURES && well == 0;
        if !often && !always {
            return None;
        }
        details.window = None;
        details.pause = FIRST_PAUSE;
        details.until = Some(now + FIRST_PAUSE);
        self.state.store(OPEN, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        Some(Opened { pause: FIRST_PAUSE, failures: failed, attempts: failed + well })
    }

    /// What an event does at `now`.
    pub(crate) fn admit(&self, now: Instant) -> Admission<'_> {
        let details = self.details.lock();
        let Some(until) = details.until else { return Admission::Call };
        if self.state.load(Ordering::Relaxed) == HALF_OPEN {
            return Admission::Refuse(Duration::ZERO);
        }
        let left = until.saturating_duration_since(now);
        if !left.is_zero() {
            return Admission::Refuse(left);
        }
        self.state.store(HALF_OPEN, Ordering::Relaxed);
        Admission::Probe(Probe { circuit: self, is_over: false })
    }
}

/// The one event of a half-open circuit. Dropped without an outcome, it leaves the next event to probe.
pub(crate) struct Probe<'a> {
    circuit: &'a Circuit,
    is_over: bool,
}

impl Probe<'_> {
    /// The module works again: the circuit is closed.
    pub(crate) fn succeeded(mut self) {
        self.is_over = true;
        let mut details = self.circuit.details.lock();
        details.until = None;
        self.circuit.state.store(CLOSED, Ordering::Relaxed);
    }

    /// It does not: the circuit is open for twice as long, which is returned.
    pub(crate) fn failed(mut self, now: Instant) -> Duration {
        self.is_over = true;
        let mut details = self.circuit.details.lock();
        details.pause = details.pause.saturating_mul(2).min(MAX_PAUSE);
        details.until = Some(now + details.pause);
        self.circuit.state.store(OPEN, Ordering::Relaxed);
        details.pause
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // The time to wait is over already.
            self.circuit.state.store(OPEN, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests")]
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn open_at(now: Instant) -> Circuit {
        let circuit = Circuit::default();
        for _ in 0..9 {
            assert_eq!(circuit.failed(now, false, 0), None);
        }
        assert_eq!(
            circuit.failed(now, false, 0),
            Some(Opened { pause: FIRST_PAUSE, failures: 10, attempts: 10 })
        );
        circuit
    }

    fn probe(circuit: &Circuit, now: Instant) -> Probe<'_> {
        match circuit.admit(now) {
            Admission::Probe(probe) => probe,
            Admission::Call => panic!("it is closed"),
            Admission::Refuse(left) => panic!("{left:?} left"),
        }
    }

    fn refused(circuit: &Circuit, now: Instant) -> Duration {
        match circuit.admit(now) {
            Admission::Refuse(left) => left,
            _ => panic!("it lets an event through"),
        }
    }

    #[test]
    fn it_opens_after_ten_failures_that_are_half_of_all() {
        let now = Instant::now();
        let circuit = Circuit::default();
        // Of 19 events every second one fails, but for the first: never half of all until the end.
        let opened: Vec<_> = (1..=12).map(|n| circuit.failed(now, false, 100 + n + 1).is_some()).collect();
        assert!(opened.iter().position(|is| *is) == Some(9), "{opened:?}");
        assert_eq!((circuit.state(), circuit.opened()), (CircuitState::Open, 1));

        let rare = Circuit::default();
        assert!((1..=1_000).all(|n| rare.failed(now, false, 2 * n).is_none()), "a third of all fail");
        assert!(rare.is_closed());
    }

    #[test]
    fn failures_are_counted_over_ten_seconds() {
        let start = Instant::now();
        let circuit = Circuit::default();
        assert!((0..100).all(|n| circuit.failed(start + seconds(2 * n), false, 0).is_none()));
        assert!(circuit.is_closed());
    }

    #[test]
    fn answers_of_a_guest_open_it_only_when_nothing_else_comes() {
        let now = Instant::now();
        let circuit = Circuit::default();
        assert!(circuit.failed(now, true, 0).is_none());
        assert!((0..100).all(|_| circuit.failed(now, true, 1).is_none()), "one event went well");
        let silent = Circuit::default();
        assert_eq!((0..10).filter(|_| silent.failed(now, true, 0).is_some()).count(), 1);
        assert!(!silent.is_closed());
    }

    #[test]
    fn one_event_probes_and_its_success_closes_the_circuit() {
        let now = Instant::now();
        let circuit = open_at(now);
        assert_eq!(refused(&circuit, now + seconds(1) / 4), seconds(1) * 3 / 4);
        let first = probe(&circuit, now + seconds(1));
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
        assert_eq!(refused(&circuit, now + seconds(5)), Duration::ZERO, "the others wait for the probe");
        first.succeeded();
        assert!(circuit.is_closed() && matches!(circuit.admit(now), Admission::Call));
        // It takes as many failures as at first to open it again.
        assert!((0..9).all(|_| circuit.failed(now, false, 0).is_none()));
        assert!(circuit.failed(now, false, 0).is_some());
        assert_eq!(circuit.opened(), 2);
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let mut now = Instant::now();
        let circuit = open_at(now);
        let mut pauses = Vec::new();
        let mut pause = FIRST_PAUSE;
        for _ in 0..7 {
            now += pause;
            pause = probe(&circuit, now).failed(now);
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        assert_eq!((circuit.state(), circuit.opened()), (CircuitState::Open, 1));
    }

    #[test]
    fn a_probe_without_an_outcome_leaves_the_next_event_to_probe() {
        let now = Instant::now();
        let circuit = open_at(now);
        drop(probe(&circuit, now + seconds(1)));
        assert_eq!(circuit.state(), CircuitState::Open);
        probe(&circuit, now + seconds(1)).succeeded();
        assert!(circuit.is_closed());
    }
}
