//! Events of many clients gathered into one call, for modules that export `message-publish-batch`.
//!
//! Nothing waits for a batch to fill: an event that comes while no call runs is a batch of one, and what comes while
//! calls run goes into the next. So a batch is as large as the module is busy, and no larger than what it is expected to
//! handle in the computing time of one event. There is no task behind it: the first of those who wait runs the call for
//! all of them, and then makes the next in line its successor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_event::Scope;
use tokio::sync::oneshot;

use crate::error::CallError;
use crate::module::Answer;

/// The most events of one call.
const MOST_EVENTS: usize = 256;
/// Payload bytes after which a batch is full; one event may be larger.
const MOST_BYTES: usize = 1 << 20;
/// Calls that run side by side: more would make smaller batches of the same work.
const MOST_CALLS: usize = 2;

/// What becomes of one event.
pub(crate) type Outcome = Result<Answer, CallError>;

/// The events of a module version that wait for their call.
pub(crate) struct Batcher {
    queue: Mutex<Queue>,
    /// Calls that run side by side at most.
    calls: usize,
    /// How long a call with several events should take at most, in nanoseconds.
    aim: u64,
    /// How long an event has taken lately, in nanoseconds.
    pace: AtomicU64,
}

#[derive(Default)]
struct Queue {
    /// In the order of their numbers.
    events: VecDeque<Waiting>,
    /// The number of the next to wait.
    next: u64,
    /// Calls that run.
    running: usize,
}

/// An event that waits.
pub(crate) struct Waiting {
    pub(crate) scope: Scope,
    number: u64,
    tell: oneshot::Sender<Told>,
}

/// What somebody who waits is told in the end.
pub(crate) enum Told {
    /// Another ran the call.
    Outcome(Outcome),
    /// Another ran the call, and it failed for all: run one for your event alone.
    Alone,
    /// Run it yourself, for those after you as well.
    Lead(Turn),
}

/// How an event gets its answer.
pub(crate) enum Place {
    /// Run a call, with what [`Turn::gather`] gives besides.
    Lead(Turn),
    /// Wait, under this number.
    Wait(u64, oneshot::Receiver<Told>),
}

/// The right to run one call. When it is dropped, the next in line gets it.
pub(crate) struct Turn {
    batcher: Option<Arc<Batcher>>,
}

impl Waiting {
    /// Ends the wait. Whoever asked may be gone.
    pub(crate) fn finish(self, outcome: Outcome) {
        drop(self.tell.send(Told::Outcome(outcome)));
    }

    /// Ends the wait without an outcome.
    pub(crate) fn leave_alone(self) {
        drop(self.tell.send(Told::Alone));
    }
}

impl Batcher {
    /// A queue of a module whose events may compute for `cpu` each, with at most so many `calls` side by side.
    pub(crate) fn new(cpu: Duration, calls: usize) -> Arc<Self> {
        let calls = calls.clamp(1, MOST_CALLS);
        Arc::new(Self { queue: Mutex::default(), calls, aim: nanos(cpu), pace: AtomicU64::new(0) })
    }

    /// A call with so many events took this long.
    pub(crate) fn took(&self, events: usize, time: Duration) {
        let each = nanos(time) / (events as u64).max(1);
        let next = match self.pace.load(Ordering::Relaxed) {
            0 => each.max(1),
            before => (before / 4).saturating_mul(3).saturating_add(each / 4).max(1),
        };
        // Two calls that end at once may lose one of their figures.
        self.pace.store(next, Ordering::Relaxed);
    }

    /// A call with several events failed as a whole: the next ones are small, and grow again as calls succeed.
    pub(crate) fn failed(&self) {
        self.pace.store(self.aim, Ordering::Relaxed);
    }

    /// Nothing is known of a version before its first call.
    fn most_events(&self) -> usize {
        let fits = self.aim.checked_div(self.pace.load(Ordering::Relaxed)).unwrap_or(1);
        usize::try_from(fits).unwrap_or(usize::MAX).clamp(1, MOST_EVENTS)
    }

    /// A place for the event of `scope`: at the head of a call, or in the line.
    pub(crate) fn enter(self: &Arc<Self>, scope: &Scope) -> Place {
        if let Some(turn) = self.lead(&mut self.queue.lock()) {
            return Place::Lead(turn);
        }
        let ((tell, told), scope) = (oneshot::channel(), scope.clone());
        let mut queue = self.queue.lock();
        if let Some(turn) = self.lead(&mut queue) {
            return Place::Lead(turn);
        }
        let number = queue.next;
        queue.next += 1;
        queue.events.push_back(Waiting { scope, number, tell });
        Place::Wait(number, told)
    }

    fn lead(self: &Arc<Self>, queue: &mut Queue) -> Option<Turn> {
        if queue.running >= self.calls {
            return None;
        }
        queue.running += 1;
        Some(Turn { batcher: Some(self.clone()) })
    }

    /// Takes who waits under `number` out of the line; false when his event is being handled, or he has been told.
    pub(crate) fn leave(&self, number: u64) -> bool {
        let mut queue = self.queue.lock();
        let place = queue.events.binary_search_by_key(&number, |waiting| waiting.number);
        place.is_ok_and(|place| queue.events.remove(place).is_some())
    }
}

impl Turn {
    /// The events that go into the same call as the one of `own`, in the order in which they came.
    pub(crate) fn gather(&self, own: &Scope) -> Vec<Waiting> {
        let Some(batcher) = &self.batcher else { return Vec::new() };
        let mut queue = batcher.queue.lock();
        let (mut count, mut bytes) = (0, size(own));
        for waiting in queue.events.iter().take(batcher.most_events() - 1) {
            bytes += size(&waiting.scope);
            if bytes > MOST_BYTES {
                break;
            }
            count += 1;
        }
        // Whoever is gone needs no call.
        queue.events.drain(..count).filter(|waiting| !waiting.tell.is_closed()).collect()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(batcher) = self.batcher.take() else { return };
        let mut queue = batcher.queue.lock();
        // Whoever is gone does not take the turn, and his event needs no call.
        while let Some(next) = queue.events.pop_front() {
            match next.tell.send(Told::Lead(Self { batcher: Some(batcher.clone()) })) {
                Ok(()) => return,
                Err(Told::Lead(mut refused)) => refused.batcher = None,
                Err(Told::Outcome(_) | Told::Alone) => {}
            }
        }
        queue.running -= 1;
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn size(scope: &Scope) -> usize {
    scope.event.message().map_or(0, |message| {
        let pairs = message.properties.iter().flat_map(|properties| &properties.user);
        let properties: usize = pairs.map(|(name, value)| name.len() + value.len()).sum();
        message.payload.len() + message.topic.as_str().len() + properties
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use bytes::Bytes;
    use tidegate_event::{Event, Message, MsgId, Node, Origin, QoS, Tenant};

    use super::*;

    fn scope(payload: usize) -> Scope {
        let message = Message {
            id: MsgId::from_bits(7),
            topic: "a".parse().unwrap(),
            payload: Bytes::from(vec![0; payload]),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            sender: "c".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        };
        let event = Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() };
        Scope::new(event, Arc::new(Node::default()))
    }

    /// A queue whose events are known to be short.
    fn quick() -> Arc<Batcher> {
        let batcher = Batcher::new(Duration::from_millis(50), MOST_CALLS);
        batcher.took(1, Duration::from_micros(5));
        batcher
    }

    fn lead(batcher: &Arc<Batcher>, payload: usize) -> Turn {
        match batcher.enter(&scope(payload)) {
            Place::Lead(turn) => turn,
            Place::Wait(..) => panic!("nobody else leads"),
        }
    }

    fn wait(batcher: &Arc<Batcher>, payload: usize) -> oneshot::Receiver<Told> {
        match batcher.enter(&scope(payload)) {
            Place::Wait(_, told) => told,
            Place::Lead(_) => panic!("there are leaders enough"),
        }
    }

    #[test]
    fn what_waits_goes_into_the_next_batch_and_its_first_leads() {
        let batcher = quick();
        let (one, _two) = (lead(&batcher, 1), lead(&batcher, 1));
        let (mut first, mut second) = (wait(&batcher, 1), wait(&batcher, 1));
        drop(one);
        let Ok(Told::Lead(turn)) = first.try_recv() else { panic!("the first leads") };
        let batch = turn.gather(&scope(1));
        assert_eq!(batch.len(), 1);
        batch.into_iter().for_each(|waiting| waiting.finish(Ok(Answer::pass())));
        assert!(matches!(second.try_recv(), Ok(Told::Outcome(Ok(_)))));
        drop(turn);
        drop(lead(&batcher, 1));
    }

    #[test]
    fn batches_are_bounded_in_events_and_bytes() {
        let batcher = quick();
        let (turn, _other) = (lead(&batcher, 1), lead(&batcher, 1));
        let _large = wait(&batcher, MOST_BYTES);
        let _rest: Vec<_> = (0..MOST_EVENTS + 5).map(|_| wait(&batcher, 8)).collect();
        assert_eq!(turn.gather(&scope(1)).len(), 0, "a large one leads a call of its own");
        batcher.queue.lock().events.pop_front();
        assert_eq!(turn.gather(&scope(1)).len(), MOST_EVENTS - 1);
        assert_eq!(turn.gather(&scope(1)).len(), 6);
    }

    #[test]
    fn who_is_gone_neither_leads_nor_stops_the_line() {
        let batcher = quick();
        let (one, two) = (lead(&batcher, 1), lead(&batcher, 1));
        drop(wait(&batcher, 1));
        let mut last = wait(&batcher, 1);
        drop(one);
        assert!(matches!(last.try_recv(), Ok(Told::Lead(_))));
        drop((two, last));
        assert_eq!(batcher.queue.lock().running, 0);
    }

    #[test]
    fn batches_are_no_larger_than_what_one_event_may_take() {
        let batcher = quick();
        let (turn, _other) = (lead(&batcher, 1), lead(&batcher, 1));
        let _waiting: Vec<_> = (0..100).map(|_| wait(&batcher, 1)).collect();
        for _ in 0..50 {
            batcher.took(10, Duration::from_millis(50));
        }
        assert_eq!(batcher.most_events(), 10);
        assert_eq!(turn.gather(&scope(1)).len(), 9);
        batcher.failed();
        assert_eq!(turn.gather(&scope(1)).len(), 0, "after a failure each is alone");
        for _ in 0..50 {
            batcher.took(1, Duration::from_micros(5));
        }
        assert_eq!(batcher.most_events(), MOST_EVENTS);
    }

    #[test]
    fn the_first_figures_count_in_full() {
        let batcher = Batcher::new(Duration::from_millis(50), MOST_CALLS);
        assert_eq!(batcher.most_events(), 1, "nothing is known");
        batcher.took(1, Duration::from_millis(5));
        assert_eq!(batcher.most_events(), 10);
    }

    #[test]
    fn who_waits_can_leave_until_his_event_is_handled() {
        let batcher = quick();
        let (turn, _other) = (lead(&batcher, 1), lead(&batcher, 1));
        let Place::Wait(one, _one) = batcher.enter(&scope(1)) else { panic!("wait") };
        let Place::Wait(two, _two) = batcher.enter(&scope(1)) else { panic!("wait") };
        assert!(batcher.leave(one) && !batcher.leave(one));
        let gathered = turn.gather(&scope(1));
        assert_eq!(gathered.len(), 1);
        assert!(!batcher.leave(two), "it is being handled");
    }

    #[test]
    fn the_event_of_who_is_gone_is_not_handled() {
        let batcher = quick();
        let (turn, _other) = (lead(&batcher, 1), lead(&batcher, 1));
        drop(wait(&batcher, 1));
        let _here = wait(&batcher, 1);
        assert_eq!(turn.gather(&scope(1)).len(), 1);
    }
}
