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

mod members;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use parking_lot::RwLock;
use tidegate_event::{Message, QoS, SharedFilter, StoredDelivery, StoredSource};

use self::members::{Member, Members};
use crate::broker::Shared;
use crate::limits::budget::ChargedOnce;
use crate::realm::Realm;
use crate::route::Fanout;
use crate::session::delivery::{Delivery, Source};
use crate::session::{Seat, Session};
use crate::tree::Subscriber;

/// The members of one `$share` group on one filter.
pub(crate) struct Group {
    /// Unique in the tenant while anything bears it; never 0.
    pub(crate) number: u32,
    /// The filter with its `$share/` prefix: numbers are others after a restart.
    text: ByteString,
    members: RwLock<Members>,
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

/// The rounds in which members are asked that are connected: those first who can be sent the message now.
const ROUNDS: [Round; 3] = [
    Round { connected: true, may_wait: false, may_displace: false },
    Round { connected: true, may_wait: true, may_displace: false },
    Round { connected: true, may_wait: true, may_displace: true },
];

/// How many members are asked whether they can be sent a message now, before it waits in the queue of one: when all are
/// busy it would not help to ask more, and cost every message the more.
const ASKED: usize = 32;
/// How many are looked at for that: those that are seen to wait for acknowledgements are not asked.
const LOOKED_AT: usize = 1_024;

impl Group {
    pub(crate) fn new(number: u32, filter: &SharedFilter, first: Subscriber) -> Self {
        let name = filter.group.as_deref().unwrap_or_default();
        let mut members = Members::default();
        members.insert(first);
        Self {
            number,
            text: format!("$share/{name}/{}", filter.filter).into(),
            members: RwLock::new(members),
            turn: AtomicUsize::new(0),
            stranded: AtomicBool::new(false),
        }
    }

    /// Adds a member, or changes its options. Gives whether it is new.
    pub(crate) fn join(&self, subscriber: Subscriber) -> bool {
        self.members.write().insert(subscriber)
    }

    /// Removes the session `number`. Gives whether it was a member.
    pub(crate) fn leave(&self, number: u64) -> bool {
        self.members.write().remove(number)
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
        fanout.shared = Some(self.text.clone());
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
        fanout.shared = Some(self.text.clone());
        let mut ask = |member: &Member, round: Round| {
            if Some(member.session.number) == except {
                return false;
            }
            let delivery = member.delivery(self.number, message);
            let offered = member.session.offer(realm, delivery, round, fanout);
            if offered == Some(true) {
                fanout.crowd(&member.session);
            }
            offered.is_some()
        };
        for round in ROUNDS {
            let (looked_at, mut asked) =
                if round.may_wait { (usize::MAX, usize::MAX) } else { (LOOKED_AT, ASKED) };
            for (place, member) in members.connected_from(turn).enumerate().take(looked_at) {
                if !round.may_wait && member.would_wait(message) {
                    continue;
                }
                if asked == 0 {
                    break;
                }
                asked -= 1;
                if !ask(member, round) {
                    continue;
                }
                if place > 0 {
                    // The turn goes on behind who took it: else who stands behind one that is passed over would get
                    // twice as much.
                    self.turn.store(turn.wrapping_add(place + 1), Ordering::Relaxed);
                }
                return true;
            }
        }
        if among == Among::Connected {
            return false;
        }
        for (place, member) in members.away_from(turn).enumerate() {
            // It may just have come.
            let connected = member.session.is_connected();
            if !ask(member, Round { connected, may_wait: true, may_displace: true }) {
                continue;
            }
            if place > 0 {
                self.turn.store(turn.wrapping_add(place + 1), Ordering::Relaxed);
            }
            if !connected {
                self.stranded.store(true, Ordering::Release);
            }
            return true;
        }
        false
    }

    /// The session `number`, which may be a member, has come or gone.
    fn renew(&self, number: u64) {
        self.members.write().renew(number);
    }

    /// Members that are away.
    fn away(&self) -> Vec<Arc<Session>> {
        let members = self.members.read();
        members.away_from(0).map(|member| Arc::clone(&member.session)).collect()
    }

    /// Whether a member that is connected has room for `message`.
    fn has_room(&self, realm: &Realm, message: &Arc<Message>) -> bool {
        let members = self.members.read();
        let turn = self.turn.load(Ordering::Relaxed);
        let mut connected = members.connected_from(turn);
        connected.any(|member| member.session.has_room(realm, &member.delivery(self.number, message)))
    }

    fn has_connected(&self) -> bool {
        self.members.read().connected_from(0).any(|member| member.session.is_connected())
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
    /// The group in which nobody who is connected had room: it is not asked for the next message.
    full: Option<u32>,
    /// How many messages may still be given away.
    left: usize,
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
        let Self { realm, member, among, fanout, full, left, .. } = self;
        if *among == Among::Connected && (*full == Some(number) || *left == 0) {
            group.stranded.store(true, Ordering::Release);
            return false;
        }
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
        if taken {
            *left -= 1;
        } else {
            *full = Some(number);
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
        let Seat { inflight, positions, .. } = &mut *seat;
        inflight.withdraw_at_least_once(|delivery, about| {
            let Source::Shared(number) = delivery.source else { return false };
            let taken = self.take_over(number, delivery, about);
            if taken && let Some(positions) = positions {
                // It is not this client's any more: its position need not wait for it.
                positions.acked(&about.topic, about.id);
            }
            taken
        });
        seat.inflight.charge(&self.realm.broker.budget);
        // The member is away, or about to be.
        seat.inflight.rest();
    }
}

/// How often messages are looked for that wait with members that are away while others are connected.
const LOOKED_FOR: Duration = Duration::from_secs(1);
/// How many of them are given away before others have their turn.
const GATHERED: usize = 256;

/// Gives such messages to members that are connected, until the task is dropped.
pub(crate) async fn run(shared: &Shared) {
    loop {
        tokio::time::sleep(LOOKED_FOR).await;
        for realm in shared.all_realms() {
            realm.gather_stranded().await;
        }
    }
}

impl Realm {
    fn estate<'a>(&'a self, member: &'a Session, among: Among) -> Estate<'a> {
        Estate {
            realm: self,
            member,
            among,
            fanout: Fanout::default(),
            group: None,
            full: None,
            left: usize::MAX,
        }
    }

    /// The client of `session` has gone, its session lives on: what it leaves of shared subscriptions goes to members
    /// that are connected. Its seat is held.
    pub(crate) fn member_left(&self, session: &Session, seat: &mut Seat) {
        let mut estate = self.estate(session, Among::Connected);
        estate.unacknowledged(seat);
        let queued = session.outbox().take_shared(|_| true);
        let left = estate.queued(queued);
        session.outbox().return_shared(left, &self.broker.budget);
        estate.fanout.flush();
    }

    /// The session has ended with `queued` messages in its queue: those of shared subscriptions, and what it was sent of
    /// them and has not acknowledged, go to other members.
    pub(crate) fn member_ended(&self, session: &Session, seat: &mut Seat, queued: VecDeque<Delivery>) {
        let mut estate = self.estate(session, Among::All);
        estate.unacknowledged(seat);
        let sent = seat.inflight.iter().filter(|sent| sent.delivery.qos == QoS::AtLeastOnce);
        let unacknowledged = sent.map(|sent| (sent.delivery.source, sent.acked_message()));
        let queued = estate.queued(queued);
        let queued = queued.iter().map(|delivery| (delivery.source, &delivery.message));
        for (source, message) in unacknowledged.chain(queued) {
            let Source::Shared(number) = source else { continue };
            if let Some(group) = estate.group(number) {
                // It is counted as lost.
                group.give_except(self, message, Some(session.number), &mut estate.fanout);
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
        session.outbox().return_shared(left, &self.broker.budget);
        estate.fanout.flush();
    }

    /// The session `number`, a member of the group of `filter`, has come: what waits with members that are away goes to
    /// it.
    pub(crate) fn member_came(&self, number: u64, filter: &SharedFilter) {
        let Some(group) = self.tree.group_of(filter) else { return };
        group.renew(number);
        if group.stranded.load(Ordering::Acquire) {
            self.gather(&group);
        }
    }

    /// The session `number`, a member of the group of `filter`, is not connected any more.
    pub(crate) fn member_went(&self, number: u64, filter: &SharedFilter) {
        if let Some(group) = self.tree.group_of(filter) {
            group.renew(number);
        }
    }

    /// Gives what waits with members of `group` that are away to those that are connected, as long as they have room, and
    /// not all of very many. Gives whether there may be more that they have room for.
    fn gather(&self, group: &Group) -> bool {
        // Before they are looked at: what is left behind meanwhile is looked for again.
        group.stranded.store(false, Ordering::Release);
        let mut left = GATHERED;
        for member in group.away() {
            // Held to the end: what nobody takes goes back to the queue, which must not have ended meanwhile. Who has the
            // seat is about to connect, or to leave: then it looks itself, and if it does neither, it is looked at again.
            let Ok(mut seat) = Arc::clone(member.seat()).try_lock_owned() else {
                group.stranded.store(true, Ordering::Release);
                continue;
            };
            let mut estate = Estate { left, ..self.estate(&member, Among::Connected) };
            estate.unacknowledged(&mut seat);
            let first = member.outbox().first_shared(group.number);
            if first.is_some_and(|first| !group.has_room(self, &first)) {
                // The queue is not taken out for nothing.
                estate.full = Some(group.number);
            } else {
                let queued = member.outbox().take_shared(|number| number == group.number);
                let kept = estate.queued(queued);
                member.outbox().return_shared(kept, &self.broker.budget);
            }
            estate.fanout.flush();
            left = estate.left;
            if left == 0 || estate.full == Some(group.number) {
                group.stranded.store(true, Ordering::Release);
                return left == 0;
            }
        }
        false
    }

    /// What was left behind in the moment in which somebody came, or when all were full, does not wait for the next one
    /// to come.
    async fn gather_stranded(&self) {
        for group in self.tree.groups(|group| group.stranded.load(Ordering::Acquire)) {
            while group.has_connected() && self.gather(&group) {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// `stored`, which was queued for `session` before a restart, as it is from now on. Of which group it is, releases before
    /// this one did not record.
    pub(crate) fn restored_delivery(
        &self,
        session: &Session,
        stored: StoredDelivery,
        charged: &mut ChargedOnce,
    ) -> Delivery {
        let filter = match &stored.source {
            StoredSource::Shared(Some(text)) => SharedFilter::parse(text).ok(),
            StoredSource::Shared(None) => session.shared_filter_of(&stored.message.topic),
            _ => None,
        };
        let group = filter.and_then(|filter| self.tree.group_of(&filter));
        if let Some(group) = &group {
            group.stranded.store(true, Ordering::Release);
        }
        let mut delivery = Delivery::from_stored(stored, group.map_or(0, |group| group.number));
        delivery.message = charged.of(delivery.message);
        delivery
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Barrier;
    use std::time::Instant;

    use tidegate_event::SubscriptionOptions;

    use super::*;
    use crate::BrokerConfig;
    use crate::session::{test_delivery, test_message};

    fn realm() -> Arc<Realm> {
        crate::realm::test_realm(BrokerConfig::default())
    }

    fn member(realm: &Arc<Realm>, number: u64, connected: bool) -> Arc<Session> {
        let session = Arc::new(Session::new(number, format!("c{number}").into(), 0, 60));
        if connected {
            session.connect(realm);
        }
        let text = "$share/g/t".into();
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
        session.subscribe(realm, &text, &SharedFilter::parse(&text).unwrap(), options, None).unwrap();
        session
    }

    fn group(realm: &Realm) -> Arc<Group> {
        realm.tree.group_of(&SharedFilter::parse(&"$share/g/t".into()).unwrap()).unwrap()
    }

    fn give(realm: &Realm, count: u128) {
        let (group, mut fanout) = (group(realm), Fanout::default());
        for id in 0..count {
            group.give(realm, &test_message("t", QoS::AtLeastOnce, id), &mut fanout);
        }
    }

    /// Every message passed by all members, and every member that joined or left did, under the tree's lock.
    #[tokio::test]
    async fn members_that_are_away_cost_those_that_come_and_every_message_nothing() {
        let (small, large) = (realm(), realm());
        let alone = member(&small, 1, true);
        let begun = Instant::now();
        let away: Vec<_> = (2..10_002).map(|number| member(&large, number, false)).collect();
        let one = member(&large, 1, true);
        let joined = begun.elapsed();
        let begun = Instant::now();
        give(&small, 900);
        let by_itself = begun.elapsed();
        let begun = Instant::now();
        give(&large, 900);
        let beside_others = begun.elapsed();
        assert_eq!((alone.outbox().len(), one.outbox().len()), (900, 900));
        assert!(away.iter().all(|session| session.outbox().len() == 0));
        assert!(beside_others < by_itself * 20, "{beside_others:?}, not {by_itself:?}");
        let begun = Instant::now();
        away.iter().for_each(|session| assert!(session.unsubscribe(&large, "$share/g/t").is_some()));
        let left = begun.elapsed();
        assert!(joined + left < std::time::Duration::from_secs(5), "{joined:?} and {left:?}");
    }

    #[tokio::test]
    async fn who_is_free_gets_the_messages_that_many_others_would_have_to_wait_with() {
        let realm = realm();
        let mut members: Vec<_> = (0..41).map(|number| member(&realm, number, true)).collect();
        let free = members.remove(20);
        members.iter().for_each(|session| session.window_is_full(true));
        give(&realm, 200);
        assert_eq!(free.outbox().len(), 200);
        assert!(members.iter().all(|session| session.outbox().len() == 0));
    }

    #[tokio::test]
    async fn a_member_is_found_where_it_is_after_it_has_come_and_gone() {
        let realm = realm();
        let members: Vec<_> = (0..3).map(|number| member(&realm, number, number == 0)).collect();
        let waiting = || members.iter().map(|session| session.outbox().len()).collect::<Vec<_>>();
        give(&realm, 2);
        assert_eq!(waiting(), [2, 0, 0]);
        members[0].disconnect(&realm, std::iter::empty());
        members[1].connect(&realm);
        give(&realm, 3);
        assert_eq!(waiting(), [2, 3, 0], "the first has not handed over what waits");
        members[1].disconnect(&realm, std::iter::empty());
        give(&realm, 3);
        assert_eq!(waiting().iter().sum::<usize>(), 8, "it waits with those that are away");
        assert!(group(&realm).stranded.load(Ordering::Acquire));
        members[2].connect(&realm);
        assert_eq!(waiting(), [0, 0, 8]);
        for session in &members {
            assert!(session.unsubscribe(&realm, "$share/g/t").is_some());
        }
        assert!(realm.tree.groups(|_| true).is_empty());
    }

    /// Each was offered to all members again, once a second, and all at once.
    #[tokio::test]
    async fn what_waits_is_given_out_in_parts_and_not_offered_on_when_nobody_has_room() {
        let realm = realm();
        let away: Vec<_> = (0..3).map(|number| member(&realm, number, false)).collect();
        give(&realm, 1_800);
        let waiting = || away.iter().map(|session| session.outbox().len()).sum::<usize>();
        assert_eq!(waiting(), 1_800);
        let one = member(&realm, 9, true);
        assert_eq!((one.outbox().len(), waiting()), (GATHERED, 1_800 - GATHERED), "some at once");
        realm.gather_stranded().await;
        let most = realm.broker.config.max_queued;
        assert_eq!((one.outbox().len(), waiting()), (most, 1_800 - most), "what there is room for");
        let group = group(&realm);
        let turn = group.turn.load(Ordering::Relaxed);
        realm.gather_stranded().await;
        assert_eq!(group.turn.load(Ordering::Relaxed), turn, "nothing is offered");
        assert!(group.stranded.load(Ordering::Acquire));
        one.outbox().take(&mut VecDeque::new(), usize::MAX);
        realm.gather_stranded().await;
        assert_eq!((one.outbox().len(), waiting()), (1_800 - most, 0));
        assert!(!group.stranded.load(Ordering::Acquire));
    }

    /// What a member had been sent counted for it after another one had got it, or its session had ended.
    #[tokio::test]
    async fn what_a_member_does_not_have_any_more_does_not_count_for_it() {
        let realm = realm();
        let budget = &realm.broker.budget;
        let away = member(&realm, 1, false);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let message = test_message("t", qos, 1);
            let message = Arc::new(Message { payload: vec![0; 12_000].into(), ..Message::clone(&message) });
            let delivery = test_delivery(message, Source::Shared(group(&realm).number));
            let mut seat = away.seat().try_lock().unwrap();
            seat.inflight.push(delivery, None);
            seat.inflight.charge(budget);
        }
        let both = budget.used();
        assert!(both > 22_000, "{both}");
        let one = member(&realm, 2, true);
        group(&realm).stranded.store(true, Ordering::Release);
        realm.gather_stranded().await;
        one.outbox().take(&mut VecDeque::new(), 1);
        one.outbox().sleep(std::task::Waker::noop(), true, 0);
        assert!(budget.used() < both - 10_000, "{} of {both}", budget.used());
        realm.due(crate::timers::Due::Expiry(away.away().0), &away);
        assert_eq!(budget.used(), 0);
    }

    /// What had waited for a member counted for it after another one had got it, and again for that one.
    #[tokio::test]
    async fn what_waited_for_a_member_and_was_handed_over_does_not_count_for_it() {
        type Leave = fn(&Realm, &Session);
        let is_away: Leave = |realm, _| {
            realm.gather(&group(realm));
        };
        let leaves: Leave = |realm, session| {
            session.disconnect(realm, std::iter::empty());
            realm.member_left(session, &mut session.seat().try_lock().unwrap());
        };
        let unsubscribes: Leave = |realm, session| {
            assert!(session.unsubscribe(realm, "$share/g/t").is_some());
        };
        for (connected, leave) in [(false, is_away), (true, leaves), (true, unsubscribes)] {
            let realm = realm();
            let budget = &realm.broker.budget;
            let first = member(&realm, 1, connected);
            for id in 0..10 {
                let message = test_message("t", QoS::AtLeastOnce, id);
                let message =
                    Arc::new(Message { payload: vec![0; 5_000].into(), ..Message::clone(&message) });
                group(&realm).give(&realm, &message, &mut Fanout::default());
            }
            let waiting = budget.used();
            assert!(waiting > 50_000, "{waiting}");
            realm.member_left(&first, &mut first.seat().try_lock().unwrap());
            assert_eq!((budget.used(), first.outbox().len()), (waiting, 10), "nobody else was there");
            let other = member(&realm, 2, true);
            leave(&realm, &first);
            assert_eq!((first.outbox().len(), other.outbox().len()), (0, 10));
            assert!(budget.used() <= waiting, "{}, not {waiting}", budget.used());
            other.outbox().take(&mut VecDeque::new(), usize::MAX);
            other.outbox().sleep(std::task::Waker::noop(), true, 0);
            assert_eq!(budget.used(), 0);
        }
    }

    /// It went with the session when nobody else had room for it, and was not counted.
    #[tokio::test]
    async fn what_a_member_was_sent_is_counted_when_its_session_ends_and_nobody_can_take_it() {
        let realm = crate::realm::test_realm(BrokerConfig { max_queued: 1, ..BrokerConfig::default() });
        let (ending, other) = (member(&realm, 1, true), member(&realm, 2, true));
        let source = Source::Shared(group(&realm).number);
        let mut seat = ending.seat().try_lock().unwrap();
        for (qos, id) in [(QoS::AtLeastOnce, 1), (QoS::AtLeastOnce, 2), (QoS::ExactlyOnce, 3)] {
            seat.inflight.push(test_delivery(test_message("t", qos, id), source), None);
        }
        let dropped = realm.statistics.dropped_so_far();
        realm.end_session(&ending, &mut seat);
        assert_eq!(other.outbox().waiting_ids().map(|id| id.bits()).collect::<Vec<_>>(), [1]);
        assert_eq!(realm.statistics.dropped_so_far() - dropped, 1);
    }

    /// A message that nobody could take was put back into the queue of a session that had ended meanwhile: gone, and not
    /// counted.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_gathered_from_a_member_that_ends_is_with_another_or_counted() {
        let config = BrokerConfig { max_queued: 50, ..BrokerConfig::default() };
        let realm = crate::realm::test_realm(config);
        let text = ByteString::from_static("$share/g/t");
        let filter = SharedFilter::parse(&text).unwrap();
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
        for round in 0..300 {
            let away = Arc::new(Session::new(2 * round + 1, "away".into(), 0, 100));
            away.subscribe(&realm, &text, &filter, options, None).unwrap();
            let group = realm.tree.group_of(&filter).unwrap();
            let mut fanout = Fanout::default();
            for id in 1..=50 {
                group.give(&realm, &test_message("t", QoS::AtLeastOnce, id), &mut fanout);
            }
            assert_eq!(away.outbox().len(), 50);
            group.stranded.store(false, Ordering::Release);
            let there = Arc::new(Session::new(2 * round + 2, "there".into(), 0, 100));
            there.connect(&realm);
            there.subscribe(&realm, &text, &filter, options, None).unwrap();
            for id in 51..=75 {
                let message = test_message("t", QoS::AtLeastOnce, id);
                there.push(&realm, test_delivery(message, Source::Shared(group.number)), &mut fanout);
            }
            let dropped = realm.statistics.dropped_so_far();
            let barrier = Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    barrier.wait();
                    realm.gather(&group);
                });
                scope.spawn(|| {
                    barrier.wait();
                    let mut seat = Arc::clone(away.seat()).blocking_lock_owned();
                    realm.end_session(&away, &mut seat);
                });
            });
            let lost = realm.statistics.dropped_so_far() - dropped;
            assert_eq!((there.outbox().len(), lost), (50, 25), "round {round}");
            realm.end_session(&there, &mut Seat::default());
        }
    }
}
