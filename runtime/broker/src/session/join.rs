//! Stored messages before live ones: what a new subscription is given out of stores.
//!
//! While a join that reads stores is going on, live messages of its filter are held in the outbox. First come retained
//! messages, then the pages of each [`Backlog`], oldest first; the next page is asked for when the client has acknowledged
//! the last one. After the empty page the held messages follow, without those that a page had already.
//!
//! A join that brings only what the broker itself has retained holds nothing: the flow of publications is not to be
//! interrupted (clause 3.8.4). The connection asks it before it sends a live message whether the retained one of its
//! topic is still to be sent, which then goes first.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use tidegate_event::{Backlog, Message, MsgId, Origin, QoS, StorageError, TopicFilter, TopicName};
use tokio::sync::oneshot;

use super::delivery::{Delivery, Rank, Source, detached_topic};
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

/// What a join that holds nothing knows of the live messages that are sent beside it.
pub(crate) struct Beside {
    /// Those that came before it waited for the client when the subscription was made: they are of older subscriptions.
    before: Rank,
    /// What is retained under this id or a later one came live.
    since: MsgId,
    /// Topics whose retained message went before its turn, or came live. No more than [`GONE`]: beyond that one may come
    /// once more.
    gone: HashSet<TopicName, RandomState>,
    /// Retained messages that are sent when what waited for the client as they were looked up is: older live messages of
    /// their topics were there.
    late: VecDeque<Arc<Message>>,
    /// How many messages the client's connections had taken from its queue when that is so.
    until: u64,
}

/// Topics that a join remembers.
const GONE: usize = 10_000;
/// Memory of one of them, without its name.
const GONE_TOPIC: usize = 64;

impl Beside {
    pub(crate) fn new(before: Rank, since: MsgId) -> Self {
        Self { before, since, gone: HashSet::default(), late: VecDeque::new(), until: 0 }
    }
}

fn place_of(messages: &VecDeque<Arc<Message>>, topic: &TopicName) -> Option<usize> {
    messages.iter().position(|message| message.topic == *topic)
}

/// The retained message that goes before a live one.
#[derive(Debug)]
pub(crate) enum Earlier {
    /// At this place of the list.
    Listed(usize),
    /// At this place among those that are late.
    Late(usize),
    /// It was found just now.
    Found(Arc<Message>),
}

/// What is joined to the live messages of one subscription.
pub(crate) struct Join {
    /// Number of the hold in the outbox; `None`: live messages go beside it.
    pub(crate) hold: Option<u32>,
    beside: Option<Box<Beside>>,
    /// Of the subscription.
    pub(crate) filter: TopicFilter,
    qos: QoS,
    subscription_ids: Option<Arc<[u32]>>,
    /// The broker's retained messages are still to be looked up, or some of them.
    look_up: Option<LookUp>,
    /// The client's own messages from this id on are not sent (no local, MQTT 5 clause 3.8.3.1).
    own_until: Option<MsgId>,
    /// It was going on when the process ended: what the client got of it already is not sent again.
    pub(crate) is_resumed: bool,
    /// Names the making of the subscription that it is of.
    pub(crate) ticket: MsgId,
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
    /// Memory that it takes besides what it brings, about, bytes.
    weight: usize,
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
    /// A join that gives the retained messages, then the `backlogs`, while `hold` holds live messages.
    pub(crate) fn new(
        hold: Option<u32>,
        filter: TopicFilter,
        qos: QoS,
        subscription_ids: Option<Arc<[u32]>>,
        retained: RetainedFrom,
        backlogs: Vec<Box<dyn Backlog>>,
    ) -> Self {
        let stored = !backlogs.is_empty();
        let mut join = Self {
            weight: size_of::<Self>() + filter.as_str().len(),
            hold,
            beside: None,
            filter,
            qos,
            subscription_ids,
            look_up: None,
            own_until: None,
            is_resumed: false,
            ticket: MsgId::from_bits(0),
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

    /// It is of the making `ticket` of its subscription. `is_resumed`: it was going on when the process ended.
    pub(crate) fn with_ticket(mut self, ticket: MsgId, is_resumed: bool) -> Self {
        (self.ticket, self.is_resumed) = (ticket, is_resumed);
        self
    }

    /// Live messages go beside it.
    pub(crate) fn beside(mut self, beside: Beside) -> Self {
        self.weight += size_of::<Beside>();
        self.beside = Some(Box::new(beside));
        self
    }

    /// Whether it holds no live messages.
    pub(crate) fn is_beside(&self) -> bool {
        self.beside.is_some()
    }

    /// Whether the retained `message` is to be sent: it did not come live, and has not been sent.
    pub(crate) fn brings(&self, message: &Message) -> bool {
        self.beside.as_ref().is_none_or(|beside| {
            let is_older = message.id < beside.since || message.origin == Origin::Broker;
            is_older && !beside.gone.contains(&message.topic)
        })
    }

    /// Memory that it takes besides what it brings, about, bytes.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Whether `live` was routed to the client after the subscription was made, but under an older id: its retained copy is
    /// not wanted then.
    pub(crate) fn may_come_live(&self, live: &Delivery) -> bool {
        self.beside
            .as_ref()
            .is_some_and(|beside| live.message.id < beside.since && !live.rank.is_before(beside.before))
    }

    /// The QoS at which the retained `message` is sent.
    pub(crate) fn qos_of(&self, message: &Message) -> QoS {
        self.qos.min(message.qos)
    }

    /// The retained message that is to be sent before `live`, which is sent next, because it is older and of the same
    /// topic (clause 4.6). `find` finds what is retained now.
    pub(crate) fn earlier(
        &mut self,
        live: &Delivery,
        find: impl FnOnce() -> Option<Arc<Message>>,
    ) -> Option<Earlier> {
        let beside = self.beside.as_ref()?;
        if !self.filter.matches(&live.message.topic) || live.rank.is_before(beside.before) {
            return None;
        }
        let live = &live.message;
        if let Some(place) = place_of(&self.retained, &live.topic) {
            let id = self.retained.get(place)?.id;
            if id == live.id {
                // It comes live: that is one delivery.
                self.retained.remove(place);
            }
            return (id < live.id).then_some(Earlier::Listed(place));
        }
        if let Some(place) = place_of(&beside.late, &live.topic) {
            return (beside.late.get(place)?.id < live.id).then_some(Earlier::Late(place));
        }
        let is_to_come = match &self.look_up {
            None => false,
            Some(LookUp::NotYet) => true,
            Some(LookUp::UpTo(cursor)) => !cursor.is_past(&live.topic),
        };
        if !is_to_come || beside.gone.contains(&live.topic) {
            return None;
        }
        let found = find().filter(|found| self.brings(found))?;
        if found.id == live.id {
            self.gone(&live.topic);
        }
        (found.id < live.id).then_some(Earlier::Found(found))
    }

    /// Takes the retained message that goes before its turn.
    pub(crate) fn take_earlier(&mut self, earlier: Earlier) -> Option<Delivery> {
        let message = match earlier {
            Earlier::Listed(place) => self.retained.remove(place)?,
            Earlier::Late(place) => self.beside.as_mut()?.late.remove(place)?,
            Earlier::Found(message) => {
                self.gone(&message.topic);
                message
            }
        };
        Some(self.copy_of(message))
    }

    /// The QoS of the copy that goes before its turn.
    pub(crate) fn earlier_qos(&self, earlier: &Earlier) -> QoS {
        let message = match earlier {
            Earlier::Listed(place) => self.retained.get(*place),
            Earlier::Late(place) => self.beside.as_ref().and_then(|beside| beside.late.get(*place)),
            Earlier::Found(message) => Some(message),
        };
        message.map_or(QoS::AtMostOnce, |message| self.qos_of(message))
    }

    /// Takes over retained messages that are sent when the client's connections have taken `until` messages from its queue.
    pub(crate) fn give_late(&mut self, late: impl Iterator<Item = Arc<Message>>, until: u64) {
        if let Some(beside) = &mut self.beside {
            beside.late.extend(late);
            beside.until = until;
        }
    }

    /// The client's connections have taken and sent `taken` messages from its queue: those that were late may go. `all`: none
    /// is left in it.
    pub(crate) fn caught_up(&mut self, taken: u64, all: bool) {
        if let Some(beside) = &mut self.beside
            && (all || taken.wrapping_sub(beside.until) < u64::MAX / 2)
        {
            self.retained.append(&mut beside.late);
        }
    }

    fn late(&self) -> usize {
        self.beside.as_ref().map_or(0, |beside| beside.late.len())
    }

    fn gone(&mut self, topic: &TopicName) {
        if let Some(beside) = &mut self.beside
            && beside.gone.len() < GONE
            && beside.gone.insert(detached_topic(topic))
        {
            self.weight += GONE_TOPIC + topic.as_str().len();
        }
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
                source: Source::Backlog(self.hold.unwrap_or_default()),
                rank: Rank::default(),
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
        self.retained.len() + self.late() + self.list.len()
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
            rank: Rank::default(),
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
            let source = Source::Backlog(self.hold.unwrap_or_default());
            self.list.push_front(Delivery { source, ..delivery });
        }
    }

    /// Ids of what was not sent.
    pub(crate) fn unsent(&self) -> Ids {
        let retained = self.retained.iter().map(|message| message.id);
        retained.chain(self.list.iter().map(|delivery| delivery.message.id)).collect()
    }

    /// How many retained messages were found and not sent.
    pub(crate) fn unsent_retained(&self) -> usize {
        self.retained.len() + self.late()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::session::{test_delivery, test_message};

    fn id(number: u128) -> MsgId {
        MsgId::from_bits(number)
    }

    /// Message `number` of `topic`, which came to the session as that.
    fn live(topic: &str, number: u16) -> Delivery {
        let mut live = test_delivery(test_message(topic, QoS::AtLeastOnce, number.into()), Source::Live);
        (0..number).for_each(|_| live.rank = live.rank.next());
        live
    }

    /// A join of `a/#` at QoS 1, of a subscription made before message 100 while message 5 waited.
    fn beside() -> Join {
        let filter = "a/#".parse().unwrap();
        let join = Join::new(None, filter, QoS::AtLeastOnce, None, RetainedFrom::Broker, Vec::new());
        join.beside(Beside::new(live("a/b", 6).rank, id(100)))
    }

    #[test]
    fn what_is_retained_goes_before_newer_live_messages_of_its_topic_once() {
        let (retained, live_of) = (test_message("a/b", QoS::AtLeastOnce, 7), live);
        let live = |number| live_of("a/b", number);
        let mut join = beside();
        let find = || Some(Arc::clone(&retained));
        assert!(join.earlier(&live(5), find).is_none(), "of an older subscription");
        assert!(join.earlier(&live(6), find).is_none(), "it is older itself");
        let earlier = join.earlier(&live(101), find).unwrap();
        assert_eq!(join.earlier_qos(&earlier), QoS::AtLeastOnce);
        assert!(join.take_earlier(earlier).unwrap().retain);
        assert!(join.earlier(&live(102), find).is_none(), "it was sent");
        assert!(!join.brings(&retained), "and is not when it is looked up");
        let mut join = beside();
        join.give_page(vec![Arc::clone(&retained)], None);
        assert!(join.earlier(&live_of("a/c", 101), find).is_none(), "looked up already");
        let earlier = join.earlier(&live(101), || None).unwrap();
        assert_eq!(join.take_earlier(earlier).unwrap().message.id, id(7));
        assert_eq!((join.undelivered(), join.earlier(&live(102), find).is_none()), (0, true));
    }

    #[test]
    fn what_came_live_is_not_sent_as_retained_besides() {
        let live_of = |number| live("a/b", number);
        let live = live_of(7);
        let find = || Some(Arc::clone(&live.message));
        let mut join = beside();
        assert!(join.earlier(&live, find).is_none());
        assert!(!join.brings(&live.message));
        let mut join = beside();
        join.give_page(vec![Arc::clone(&live.message)], None);
        assert!(join.earlier(&live, find).is_none());
        assert_eq!(join.undelivered(), 0);
        assert!(
            !beside().brings(&test_message("a/b", QoS::AtLeastOnce, 100)),
            "retained since the subscription"
        );
        assert!(
            beside().may_come_live(&live_of(7))
                && !beside().may_come_live(&live_of(5))
                && !beside().may_come_live(&live_of(100))
        );
    }
}
