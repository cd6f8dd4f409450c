//! Stored messages before live ones: what a new subscription is given out of stores.
//!
//! While a join is going on, live messages of its filter are held in the outbox. First come retained messages,
//! then the pages of each [`Backlog`], oldest first; the next page is asked for when the client has acknowledged
//! the last one. After the empty page the held messages follow, without those that a page had already.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use tidegate_event::{Backlog, Message, MsgId, QoS, StorageError, TopicFilter};
use tokio::sync::oneshot;

use super::delivery::{Delivery, Source};
use crate::retained::Cursor;

/// A backlog and the page it gave.
type Page = (Reading, Result<Vec<Arc<Message>>, StorageError>);

/// Ids of messages.
pub(crate) type Ids = HashSet<MsgId, RandomState>;

/// Where a join's retained messages come from.
pub(crate) enum RetainedFrom {
    /// There are none to be sent (retain handling, MQTT 5 clause 3.8.3.1).
    Nowhere,
    /// The broker's own, looked up when it is the join's turn.
    Broker,
    /// Found by a store, which may have more.
    Store(Vec<Arc<Message>>, Vec<Box<dyn Backlog>>),
}

/// A backlog that is read.
struct Reading {
    backlog: Box<dyn Backlog>,
    /// Whether it has retained messages.
    retained: bool,
}

/// How far the broker's retained messages were looked up, when that is not to the end.
#[derive(Debug)]
enum LookUp {
    NotYet,
    UpTo(Cursor),
}

/// What is joined to the live messages of one subscription.
pub(crate) struct Join {
    /// Number of the hold in the outbox.
    pub(crate) number: u32,
    /// Of the subscription.
    pub(crate) filter: TopicFilter,
    qos: QoS,
    subscription_ids: Option<Arc<[u32]>>,
    /// The broker's retained messages are still to be looked up, or some of them.
    look_up: Option<LookUp>,
    /// The client's own messages from this id on are not sent (no local, MQTT 5 clause 3.8.3.1).
    own_until: Option<MsgId>,
    /// Retained messages to be sent before the list. A store may have brought very many: no deliveries yet.
    retained: VecDeque<Arc<Message>>,
    /// Ids of those, when stored copies of them may follow.
    copies: Ids,
    /// Stored messages to be sent next.
    list: VecDeque<Delivery>,
    /// Those not yet read to their end.
    backlogs: VecDeque<Reading>,
    /// Those read to their end, to be asked again when held messages were lost meanwhile.
    exhausted: Vec<Reading>,
    fetch: Option<oneshot::Receiver<Page>>,
    /// Reads that failed since the last one that did not.
    failures: u32,
    /// Whether a backlog of stored messages is, or could never be, read to its end.
    stored: bool,
    failed: bool,
    /// Whether the backlogs were asked again, and gave anything since.
    read_again: bool,
    fruitful: bool,
    /// Messages of the page that are sent and not acknowledged.
    outstanding: usize,
}

/// A page that has arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    messages: Vec<Arc<Message>>,
    retained: bool,
}

/// What a join can do now.
#[derive(Debug)]
pub(crate) enum Advance {
    /// Nothing, until something is acknowledged or a page arrives.
    Wait,
    /// More of the broker's retained messages are wanted: [`Join::give_page`].
    LookUp,
    /// A page arrived: [`Join::accept`] it.
    Page(Arrived),
    /// A backlog could not be read now. It is tried again, and live messages go on waiting: an ack of one would
    /// move the client's position beyond what it has not been given.
    Retry(StorageError),
    /// A backlog can never be read; the join goes on without it.
    Failed(Option<StorageError>),
    /// It asked for a page; call again.
    Again,
    /// All backlogs are at their end.
    Exhausted,
}

impl Arrived {
    /// Ids of the messages.
    pub(crate) fn ids(&self) -> impl Iterator<Item = MsgId> {
        self.messages.iter().map(|message| message.id)
    }
}

impl Join {
    /// A join that gives the retained messages, then the `backlogs`.
    pub(crate) fn new(
        number: u32,
        filter: TopicFilter,
        qos: QoS,
        subscription_ids: Option<Arc<[u32]>>,
        retained: RetainedFrom,
        backlogs: Vec<Box<dyn Backlog>>,
    ) -> Self {
        let stored = !backlogs.is_empty();
        let mut join = Self {
            number,
            filter,
            qos,
            subscription_ids,
            look_up: None,
            own_until: None,
            retained: VecDeque::new(),
            copies: HashSet::default(),
            list: VecDeque::new(),
            backlogs: VecDeque::new(),
            exhausted: Vec::new(),
            fetch: None,
            failures: 0,
            stored,
            failed: false,
            read_again: false,
            fruitful: false,
            outstanding: 0,
        };
        match retained {
            RetainedFrom::Nowhere => {}
            RetainedFrom::Broker => join.look_up = Some(LookUp::NotYet),
            RetainedFrom::Store(first, rest) => {
                join.backlogs.extend(rest.into_iter().map(|backlog| Reading { backlog, retained: true }));
                join.give_retained(first);
            }
        }
        join.backlogs.extend(backlogs.into_iter().map(|backlog| Reading { backlog, retained: false }));
        join
    }

    /// The subscription says no local and was made before message `since`. What the client itself had retained before is
    /// sent: it is "sent as the result of a new subscription" (clause 3.3.1.3), not forwarded by an established one.
    pub(crate) fn without_own_since(mut self, since: Option<MsgId>) -> Self {
        self.own_until = since;
        self
    }

    /// Whether the retained `message` is kept from the client `client_id` by that.
    pub(crate) fn is_own(&self, message: &Message, client_id: &str) -> bool {
        self.own_until.is_some_and(|since| message.id >= since)
            && message.publisher.as_ref().is_some_and(|publisher| publisher.id == client_id)
    }

    /// Goes on: asks for the next page when the last one is done, looks whether it has come.
    pub(crate) fn advance(&mut self, cx: &mut Context<'_>) -> Advance {
        if let Some(fetch) = &mut self.fetch {
            let Poll::Ready(answer) = Pin::new(fetch).poll(cx) else { return Advance::Wait };
            self.fetch = None;
            return self.answered(answer);
        }
        // The next ones when all so far are sent: there may be millions.
        if self.look_up.is_some() && self.undelivered() == 0 {
            return Advance::LookUp;
        }
        if self.undelivered() > 0 || self.outstanding > 0 {
            return Advance::Wait;
        }
        match self.backlogs.pop_front() {
            Some(reading) => {
                self.fetch = Some(fetch(reading, pause(self.failures)));
                Advance::Again
            }
            None => Advance::Exhausted,
        }
    }

    fn answered(&mut self, answer: Result<Page, oneshot::error::RecvError>) -> Advance {
        let Ok((reading, page)) = answer else {
            self.failed = true;
            return Advance::Failed(None);
        };
        let retained = reading.retained;
        match page {
            Ok(messages) if messages.is_empty() => {
                self.failures = 0;
                if !retained {
                    self.exhausted.push(reading);
                }
                Advance::Again
            }
            Ok(messages) => {
                self.failures = 0;
                self.backlogs.push_front(reading);
                Advance::Page(Arrived { messages, retained })
            }
            Err(error) if error.is_retryable() => {
                self.failures = self.failures.saturating_add(1);
                self.backlogs.push_front(reading);
                Advance::Retry(error)
            }
            Err(error) => {
                self.failed = true;
                Advance::Failed(Some(error))
            }
        }
    }

    /// Where the look-up of the broker's retained messages goes on.
    pub(crate) fn looked_up_to(&self) -> Option<&Cursor> {
        match &self.look_up {
            Some(LookUp::UpTo(cursor)) => Some(cursor),
            _ => None,
        }
    }

    /// Takes over what was looked up; the rest of it begins at `next`.
    pub(crate) fn give_page(&mut self, messages: Vec<Arc<Message>>, next: Option<Cursor>) {
        self.look_up = next.map(LookUp::UpTo);
        self.give_retained(messages);
    }

    /// Takes retained messages over.
    fn give_retained(&mut self, messages: Vec<Arc<Message>>) {
        if self.stored {
            self.copies.extend(messages.iter().map(|message| message.id));
        }
        self.retained.extend(messages);
    }

    /// Takes a page over, except stored messages that are `known`: those the client was or will be given already.
    /// Gives the ids of the page's messages.
    pub(crate) fn accept(&mut self, page: Arrived, known: impl Fn(MsgId) -> bool) -> Vec<MsgId> {
        let Arrived { messages, retained } = page;
        let ids = messages.iter().map(|message| message.id).collect();
        self.fruitful = true;
        if retained {
            self.give_retained(messages);
            return ids;
        }
        for message in messages {
            if known(message.id) && !self.copies.contains(&message.id) {
                continue;
            }
            self.list.push_back(Delivery {
                qos: self.qos.min(message.qos),
                retain: false,
                subscription_ids: self.subscription_ids.clone(),
                number: None,
                source: Source::Backlog(self.number),
                pins_buffer: false,
                message,
            });
        }
        ids
    }

    /// Asks all backlogs again, because held messages that stores may have were lost to the bound. `false`: there
    /// is none to ask, or they had nothing new when they were asked again: what is lost is in no store.
    pub(crate) fn again(&mut self) -> bool {
        if std::mem::replace(&mut self.read_again, true) && !std::mem::take(&mut self.fruitful) {
            return false;
        }
        self.fruitful = false;
        self.backlogs.extend(self.exhausted.drain(..));
        !self.backlogs.is_empty()
    }

    /// Whether everything that stores have for the filter was sent.
    pub(crate) fn read_to_the_end(&self) -> bool {
        self.stored && !self.failed
    }

    /// How many messages are to be sent.
    pub(crate) fn undelivered(&self) -> usize {
        self.retained.len() + self.list.len()
    }

    /// Whether there are stored messages in it besides retained ones.
    pub(crate) fn has_stored(&self) -> bool {
        self.stored
    }

    /// The QoS of the next message to send.
    pub(crate) fn next_qos(&self) -> Option<QoS> {
        match self.retained.front() {
            Some(message) => Some(self.qos.min(message.qos)),
            None => self.list.front().map(|delivery| delivery.qos),
        }
    }

    /// The copy of the retained `message` that the subscription brings.
    pub(crate) fn copy_of(&self, message: Arc<Message>) -> Delivery {
        Delivery {
            qos: self.qos.min(message.qos),
            message,
            subscription_ids: self.subscription_ids.clone(),
            retain: true,
            number: None,
            source: Source::Retained,
            pins_buffer: false,
        }
    }

    /// Takes the next message to send. `true`: the client has its retained copy already.
    pub(crate) fn pop(&mut self) -> Option<(Delivery, bool)> {
        if let Some(message) = self.retained.pop_front() {
            return Some((self.copy_of(message), false));
        }
        let delivery = self.list.pop_front()?;
        self.outstanding += 1;
        let copied = self.copies.contains(&delivery.message.id);
        Some((delivery, copied))
    }

    /// Puts back what [`Join::pop`] gave and was not sent.
    pub(crate) fn put_back(&mut self, delivery: Delivery) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.list.push_front(delivery);
    }

    /// A message of the page is acknowledged, written at QoS 0 or dropped.
    pub(crate) fn finished_one(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// Takes out the stored messages that were not sent and are `wanted`.
    pub(crate) fn take_wanted(&mut self, wanted: impl Fn(&Delivery) -> bool) -> VecDeque<Delivery> {
        let (taken, left) = std::mem::take(&mut self.list).into_iter().partition(wanted);
        self.list = left;
        taken
    }

    /// Ids of the stored messages that were not sent.
    pub(crate) fn listed_ids(&self) -> impl Iterator<Item = MsgId> {
        self.list.iter().map(|delivery| delivery.message.id)
    }

    /// Takes those of `ids` out that it was to send. Gives them.
    pub(crate) fn unlist(&mut self, ids: &Ids) -> Ids {
        let mut taken = Ids::default();
        self.list.retain(|delivery| {
            let id = delivery.message.id;
            let stays = !ids.contains(&id);
            if !stays {
                taken.insert(id);
            }
            stays
        });
        taken
    }

    /// Sends `deliveries`, which are older than all it has, first.
    pub(crate) fn send_first(&mut self, deliveries: VecDeque<Delivery>) {
        for delivery in deliveries.into_iter().rev() {
            self.list.push_front(Delivery { source: Source::Backlog(self.number), ..delivery });
        }
    }

    /// Ids of what was not sent.
    pub(crate) fn unsent(&self) -> Ids {
        let retained = self.retained.iter().map(|message| message.id);
        retained.chain(self.list.iter().map(|delivery| delivery.message.id)).collect()
    }

    /// How many retained messages were found and not sent.
    pub(crate) fn unsent_retained(&self) -> usize {
        self.retained.len()
    }

    /// Takes over the retained messages that `other` has not sent, and the look-up of the rest.
    pub(crate) fn inherit_retained(&mut self, other: &mut Self) {
        self.give_retained(std::mem::take(&mut other.retained).into());
        self.look_up = other.look_up.take();
    }
}

/// Reads in a task of its own: a page that is half read holds a connection of the store, and the client it is
/// for may go away meanwhile.
fn fetch(mut reading: Reading, pause: Option<Duration>) -> oneshot::Receiver<Page> {
    let (mut answer, page) = oneshot::channel();
    tokio::spawn(async move {
        if let Some(pause) = pause {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = answer.closed() => return,
            }
        }
        let page = tokio::select! {
            page = reading.backlog.next_page() => page,
            // Nobody waits any more: the session has ended, or another join has taken this one's place.
            () = answer.closed() => return,
        };
        answer.send((reading, page)).ok();
    });
    page
}

/// How long to wait after so many failed reads: 100 ms, doubled each time, 10 s at most.
fn pause(failures: u32) -> Option<Duration> {
    let doublings = failures.checked_sub(1)?.min(7);
    Some(Duration::from_millis(100 << doublings).min(Duration::from_secs(10)))
}
