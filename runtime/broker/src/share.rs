//! Shared subscriptions (MQTT 5 clause 4.8.2): each message goes to one member of the group.
//!
//! Members take turns. One that cannot take a message now is passed over: it is away while others are connected, its
//! queue is full, or it has not acknowledged as many as it takes at once and another one has. When all are away the
//! message waits for one whose session lives on.
//!
//! What a member leaves behind goes to another: messages that wait for it, and QoS 1 messages that it was sent and did
//! not acknowledge. A QoS 2 message that it was sent is never given to another ([MQTT-4.8.2-4], [MQTT-4.8.2-5]), nor
//! is one that it refused ([MQTT-4.8.2-6]), nor, when it only unsubscribes, any that it was sent ([MQTT-3.10.4-3]). What nobody can take stays with a
//! member that is away, until it or another one comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tidegate_event::{Message, Origin, SharedFilter, SubscriptionOptions};

use crate::broker::Shared;
use crate::limits::budget::is_charged_once;
use crate::realm::Realm;
use crate::route::Fanout;
use crate::session::delivery::{Delivery, Source};
use crate::session::{Seat, Session};
use crate::tree::Subscriber;

/// A member of a group.
struct Member {
    session: Arc<Session>,
    options: SubscriptionOptions,
    ids: Option<Arc<[u32]>>,
}

impl Member {
    fn new(Subscriber { session, options }: Subscriber) -> Self {
        Self { session, options, ids: (options.id != 0).then(|| Arc::from([options.id])) }
    }

    fn delivery(&self, group: u32, message: &Arc<Message>) -> Delivery {
        Delivery {
            message: Arc::clone(message),
            subscription_ids: self.ids.clone(),
            qos: self.options.qos.min(message.qos),
            retain: self.options.retain_as_published && message.retain,
            number: None,
            // A shared subscription is joined to nothing, so its messages are held back by nothing. What the broker
            // says itself moves no position and need not reach another.
            source: if message.origin == Origin::Broker { Source::Direct } else { Source::Shared(group) },
            pins_buffer: false,
        }
    }
}

/// The members of one `$share` group on one filter.
pub(crate) struct Group {
    /// Unique in the tenant while anything bears it; never 0.
    pub(crate) number: u32,
    members: RwLock<Vec<Member>>,
    turn: AtomicUsize,
    /// Whether messages may wait with members that are away.
    stranded: AtomicBool,
}

/// Who is asked to take a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Among {
    /// Those that are connected.
    Connected,
    /// Those, then the others.
    All,
}

/// Who is asked in one round, and what for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    /// Whether members that are connected are asked, or those that are away.
    pub(crate) connected: bool,
    /// Whether one is asked that must acknowledge others before it is sent this message.
    pub(crate) may_wait: bool,
    /// Whether one may drop older QoS 0 messages for it.
    pub(crate) may_displace: bool,
}

/// The rounds in which members are asked: those first who can be sent the message now.
const ROUNDS: [Round; 4] = [
    Round { connected: true, may_wait: false, may_displace: false },
    Round { connected: true, may_wait: true, may_displace: false },
    Round { connected: true, may_wait: true, may_displace: true },
    Round { connected: false, may_wait: true, may_displace: true },
];

/// How many members are asked whether they can be sent a message now, before it waits in the queue of one: when all are
/// busy it would not help to ask more, and cost every message the more.
const ASKED: usize = 32;

impl Group {
    pub(crate) fn new(number: u32, first: Subscriber) -> Self {
        Self {
            number,
            members: RwLock::new(vec![Member::new(first)]),
            turn: AtomicUsize::new(0),
            stranded: AtomicBool::new(false),
        }
    }

    /// Adds a member, or changes its options. Gives whether it is new.
    pub(crate) fn join(&self, subscriber: Subscriber) -> bool {
        let mut members = self.members.write();
        match members.iter_mut().find(|member| member.session.number == subscriber.session.number) {
            Some(member) => {
                *member = Member::new(subscriber);
                false
            }
            None => {
                members.push(Member::new(subscriber));
                true
            }
        }
    }

    /// Removes the session `number`. Gives whether it was a member.
    pub(crate) fn leave(&self, number: u64) -> bool {
        let mut members = self.members.write();
        let Some(place) = members.iter().position(|member| member.session.number == number) else {
            return false;
        };
        members.remove(place);
        if members.len() * 4 < members.capacity() {
            let kept = members.len() * 2;
            members.shrink_to(kept);
        }
        true
    }

    /// Whether all members have gone; then it is in no tree any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.read().is_empty()
    }

    /// Gives `message` to the member whose turn it is, or counts why nobody takes it.
    pub(crate) fn give(&self, realm: &Realm, message: &Arc<Message>, fanout: &mut Fanout) {
        self.give_except(realm, message, None, fanout);
    }

    /// The same, without the session `except`.
    fn give_except(&self, realm: &Realm, message: &Arc<Message>, except: Option<u64>, fanout: &mut Fanout) {
        if self.offer(realm, message, Among::All, except, fanout) {
            return;
        }
        let members = self.members.read();
        // For QoS 0 it is no loss when everybody is away; what is lost is lost to one of them.
        let may_lose = |member: &&Member| {
            Some(member.session.number) != except
                && (member.session.is_connected() || member.session.is_durable())
        };
        if let Some(member) = members.iter().find(may_lose) {
            member.session.push(realm, member.delivery(self.number, message), fanout);
        }
    }

    /// Gives `message` to a member that can take it now. `false`: there is none.
    fn offer(
        &self,
        realm: &Realm,
        message: &Arc<Message>,
        among: Among,
        except: Option<u64>,
        fanout: &mut Fanout,
    ) -> bool {
        let members = self.members.read();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Some((before, from)) = members.split_at_checked(turn % members.len().max(1)) else {
            return false;
        };
        for round in ROUNDS {
            if !round.connected && among == Among::Connected {
                break;
            }
            let asked = if round.may_wait { usize::MAX } else { ASKED };
            for (place, member) in from.iter().chain(before).enumerate().take(asked) {
                let session = &member.session;
                if session.is_connected() != round.connected || Some(session.number) == except {
                    continue;
                }
                let delivery = member.delivery(self.number, message);
                let offered = session.offer(realm, delivery, round, fanout);
                let Some(crowded) = offered else { continue };
                if place > 0 {
                    // The turn goes on behind who took it: else who stands behind one that is passed over would get
                    // twice as much.
                    self.turn.store(turn.wrapping_add(place + 1), Ordering::Relaxed);
                }
                if !round.connected {
                    self.stranded.store(true, Ordering::Release);
                }
                if crowded {
                    fanout.crowd(session);
                }
                return true;
            }
        }
        false
    }

    /// Members that are away.
    fn away(&self) -> Vec<Arc<Session>> {
        let members = self.members.read();
        let away = members.iter().map(|member| &member.session);
        away.filter(|session| !session.is_connected()).cloned().collect()
    }

    fn has_connected(&self) -> bool {
        self.members.read().iter().any(|member| member.session.is_connected())
    }
}

/// Messages of shared subscriptions that a member leaves behind.
struct Estate<'a> {
    realm: &'a Realm,
    member: &'a Session,
    /// Who is asked.
    among: Among,
    fanout: Fanout,
    /// The group looked up last: neighbours are mostly of one.
    group: Option<Arc<Group>>,
}

impl Estate<'_> {
    fn group(&mut self, number: u32) -> Option<Arc<Group>> {
        if self.group.as_ref().is_none_or(|known| known.number != number) {
            self.group = self.realm.tree.group(number);
        }
        self.group.clone()
    }

    /// Whether another member of the group `number` takes `message`, which was `delivery`. After a crash it is found with
    /// one of them.
    fn take_over(&mut self, number: u32, delivery: &Delivery, message: &Arc<Message>) -> bool {
        let Some(group) = self.group(number) else { return false };
        let Self { realm, member, among, fanout, .. } = self;
        let mut taken = false;
        let mut hand_over = || {
            taken = group.offer(realm, message, *among, Some(member.number), fanout);
            if taken {
                member.forget(realm, std::iter::once(delivery));
            }
        };
        match delivery.number {
            Some(_) => realm.broker.store.together(&mut hand_over),
            None => hand_over(),
        }
        if !taken {
            group.stranded.store(true, Ordering::Release);
        }
        taken
    }

    /// Messages that wait for the member. Gives those that nobody takes.
    fn queued(&mut self, deliveries: VecDeque<Delivery>) -> VecDeque<Delivery> {
        let mut left = VecDeque::new();
        for delivery in deliveries {
            let Source::Shared(number) = delivery.source else { continue };
            if !self.take_over(number, &delivery, &delivery.message) {
                left.push_back(delivery);
            }
        }
        left
    }

    /// QoS 1 messages that the member was sent and has not acknowledged.
    fn unacknowledged(&mut self, seat: &mut Seat) {
        let Seat { inflight, positions, .. } = seat;
        inflight.withdraw_at_least_once(|delivery, about| {
            let Source::Shared(number) = delivery.source else { return false };
            let taken = self.take_over(number, delivery, about);
            if taken && let Some(positions) = positions {
                // It is not this client's any more: its position need not wait for it.
                positions.acked(&about.topic, about.id);
            }
            taken
        });
    }
}

/// How often messages are looked for that wait with members that are away while others are connected.
const LOOKED_FOR: Duration = Duration::from_secs(1);

/// Gives such messages to members that are connected, until the task is dropped.
pub(crate) async fn run(shared: &Shared) {
    loop {
        tokio::time::sleep(LOOKED_FOR).await;
        shared.all_realms().iter().for_each(|realm| realm.gather_stranded());
    }
}

impl Realm {
    fn estate<'a>(&'a self, member: &'a Session, among: Among) -> Estate<'a> {
        Estate { realm: self, member, among, fanout: Fanout::default(), group: None }
    }

    /// The client of `session` has gone, its session lives on: what it leaves of shared subscriptions goes to members
    /// that are connected. Its seat is held.
    pub(crate) fn member_left(&self, session: &Session, seat: &mut Seat) {
        let mut estate = self.estate(session, Among::Connected);
        estate.unacknowledged(seat);
        let queued = session.outbox().take_shared(|_| true);
        let left = estate.queued(queued);
        session.outbox().return_shared(left);
        estate.fanout.flush();
    }

    /// The session has ended with `queued` messages in its queue: those of shared subscriptions, and what it was sent of
    /// them and has not acknowledged, go to other members.
    pub(crate) fn member_ended(&self, session: &Session, seat: &mut Seat, queued: VecDeque<Delivery>) {
        let mut estate = self.estate(session, Among::All);
        estate.unacknowledged(seat);
        for delivery in estate.queued(queued) {
            let Source::Shared(number) = delivery.source else { continue };
            if let Some(group) = estate.group(number) {
                // It is counted as lost.
                group.give_except(self, &delivery.message, Some(session.number), &mut estate.fanout);
            }
        }
        estate.fanout.flush();
    }

    /// The session is no member of `group` any more: what waits for it goes to others. What nobody takes it is
    /// still sent, as clause 3.10.4 allows.
    pub(crate) fn member_unsubscribed(&self, session: &Session, group: &Group) {
        if group.is_empty() {
            return;
        }
        let mut estate = self.estate(session, Among::All);
        let queued = session.outbox().take_shared(|number| number == group.number);
        let left = estate.queued(queued);
        session.outbox().return_shared(left);
        estate.fanout.flush();
    }

    /// A member of the group of `filter` has come: what waits with members that are away goes to it.
    pub(crate) fn member_came(&self, filter: &SharedFilter) {
        if let Some(group) = self.tree.group_of(filter)
            && group.stranded.load(Ordering::Acquire)
        {
            self.gather(&group);
        }
    }

    /// Gives what waits with members of `group` that are away to those that are connected.
    fn gather(&self, group: &Group) {
        // Before they are looked at: what is left behind meanwhile is looked for again.
        group.stranded.store(false, Ordering::Release);
        for member in group.away() {
            let mut estate = self.estate(&member, Among::Connected);
            // Who holds the seat is about to connect, or to leave: then it looks itself.
            if let Ok(mut seat) = Arc::clone(member.seat()).try_lock_owned() {
                estate.unacknowledged(&mut seat);
            }
            let queued = member.outbox().take_shared(|number| number == group.number);
            let left = estate.queued(queued);
            member.outbox().return_shared(left);
            estate.fanout.flush();
            // It may have come back while its queue was empty.
            member.nudge();
        }
    }

    /// What was left behind in the moment in which somebody came, or when all were full, does not wait for the next one
    /// to come.
    fn gather_stranded(&self) {
        for group in self.tree.groups(|group| group.stranded.load(Ordering::Acquire)) {
            if group.has_connected() {
                self.gather(&group);
            }
        }
    }

    /// `delivery`, which was queued for `session` before a restart, as it is from now on: of which group it is, is not
    /// recorded.
    pub(crate) fn restored_delivery(&self, session: &Session, mut delivery: Delivery) -> Delivery {
        if is_charged_once(&delivery.message.payload) {
            delivery.message = self.broker.budget.charged(&delivery.message);
        }
        if matches!(delivery.source, Source::Shared(_))
            && let Some(filter) = session.shared_filter_of(&delivery.message.topic)
            && let Some(group) = self.tree.group_of(&filter)
        {
            group.stranded.store(true, Ordering::Release);
            delivery.source = Source::Shared(group.number);
        }
        delivery
    }
}
