//! A session: what outlives the network connection of a client (MQTT 5 clause 4.1).
//!
//! A [`Session`] is shared: publishers push into its [`outbox`], the tree refers to it. What only the connected
//! client's task needs (messages in flight, joins) is in its [`Seat`], which a connection holds as long as it
//! lives: a take-over waits for the seat, and waits in order when several come at once.

mod allowed;
pub(crate) mod delivery;
mod hold;
pub(crate) mod inflight;
pub(crate) mod join;
pub(crate) mod loss;
pub(crate) mod outbox;
pub(crate) mod patience;
pub(crate) mod positions;
mod queue;
pub(crate) mod received;
mod recent;
pub(crate) mod subscriptions;

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tidegate_event::{
    Change, Hook, Message, MsgId, Owner, QoS, RestoredDelivery, RestoredSession, SessionNumber, StoredWill,
    TopicFilter, TopicName, now_ms,
};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use self::delivery::Delivery;
use self::inflight::Inflight;
use self::join::Join;
use self::outbox::{Outbox, Room};
use self::positions::Positions;
use self::received::Received;
use self::subscriptions::Subscriptions;
use crate::control::Command;
use crate::limits::budget::{Account, Budget, ChargedOnce};
use crate::metrics::Drop;
use crate::realm::Realm;
use crate::route::{Fanout, Gathering};
use crate::share::Round;
use crate::timers::Timer;

/// What the connected client's task owns of the session.
#[derive(Default)]
pub(crate) struct Seat {
    pub(crate) inflight: Inflight,
    /// `None` until message.acked has a handler for the first time.
    pub(crate) positions: Option<Positions>,
    /// Oldest first.
    pub(crate) joins: VecDeque<Join>,
    /// How many of them have stored messages besides retained ones.
    stored_joins: usize,
    /// Memory of the joins without what they bring, and its part of that of all queues.
    joins_weight: usize,
    joins_account: Account,
    /// Those that were going on when the process ended, or could not begin before a connection did, until they are begun again.
    pub(crate) interrupted: Vec<Interrupted>,
}

/// A join that an earlier life of the process, or an earlier connection, had not ended.
pub(crate) struct Interrupted {
    pub(crate) filter: TopicFilter,
    /// Number of the hold in the outbox.
    pub(crate) hold: u32,
    /// Whether it is to bring retained messages, if the subscription says so.
    pub(crate) retained: bool,
}

impl Seat {
    /// Adds `join` behind the others.
    pub(crate) fn add_join(&mut self, join: Join) {
        self.stored_joins += usize::from(join.has_stored());
        self.joins.push_back(join);
    }

    /// Removes the join at `index`.
    pub(crate) fn remove_join(&mut self, index: usize) -> Option<Join> {
        let join = self.joins.remove(index)?;
        self.stored_joins -= usize::from(join.has_stored());
        Some(join)
    }

    /// What the joins took in memory when that was counted last, bytes.
    pub(crate) fn joins_weight(&self) -> usize {
        self.joins_weight
    }

    /// Counts what the joins take now against `budget`.
    pub(crate) fn charge_joins(&mut self, budget: &Arc<Budget>) {
        self.joins_weight = self.joins.iter().map(Join::weight).sum();
        if self.joins.is_empty() {
            self.joins_account.rest(0);
        } else {
            self.joins_account.settle(budget, self.joins_weight);
        }
    }

    /// The joins do not change until the client is back.
    pub(crate) fn rest_joins(&mut self) {
        self.joins_account.rest(self.joins_weight);
    }

    /// Whether stored messages are being read, which the client may have been given already.
    pub(crate) fn reads_stores(&self) -> bool {
        self.stored_joins > 0
    }
}

/// What putting something into a queue leaves to do when its lock is free again.
#[derive(Default)]
struct Pushed {
    /// The task to wake.
    waker: Option<Waker>,
    /// Whether the publisher should wait until some of the queue is taken.
    crowded: bool,
}

impl Pushed {
    /// Gives whether the publisher should wait.
    fn settle(self, fanout: &mut Fanout) -> bool {
        if let Some(waker) = self.waker {
            fanout.wake(waker);
        }
        self.crowded
    }
}

/// Topics, each once.
type Topics = HashSet<TopicName, RandomState>;

/// A [`Seat`], held.
pub(crate) type Seated = OwnedMutexGuard<Seat>;

/// What waits for the client's return.
#[derive(Default)]
struct Absence {
    timers: Vec<Timer>,
    /// A will whose delay has not passed (clause 3.1.3.2.2), and when it will have; `None`: never.
    will: Option<(LateWill, Option<Instant>)>,
    /// What handlers have subscribed the client to since it went.
    subscriptions: Vec<(ByteString, QoS)>,
}

/// A will that is published some time after its client has gone.
pub(crate) struct LateWill {
    pub(crate) message: Message,
    /// What the session store knows it by, if it knows it.
    pub(crate) recorded: Option<RecordedWill>,
    /// Its part of the memory of all queues.
    pub(crate) account: Account,
}

/// A will that the session store is told about when it is published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordedWill {
    pub(crate) session: SessionNumber,
    pub(crate) will: MsgId,
}

impl RecordedWill {
    /// The will was published, or will never be.
    pub(crate) fn gone(self) -> Change {
        Change::WillGone { session: self.session, will: self.will }
    }
}

/// What outlives a client's connection.
pub(crate) struct Session {
    /// Unique in the process, and among the sessions that outlive it.
    pub(crate) number: SessionNumber,
    pub(crate) client_id: ByteString,
    /// The user that has it, if that has proved to be one.
    owner: Mutex<Option<Owner>>,
    checked: Mutex<Option<allowed::Checked>>,
    /// Number of the newest connection that asked for this session: an older one has been taken over.
    claim: AtomicU64,
    connected: AtomicBool,
    /// Whether the client must acknowledge something before it is sent more of QoS 1 and 2, as it was when its
    /// connection went to sleep.
    window_is_full: AtomicBool,
    /// An ended connection has changed the subscriptions: the present one looks which joins there are to be.
    changed: AtomicBool,
    /// Since when nobody is connected, milliseconds since the epoch, if nobody is.
    away_since: AtomicU64,
    /// Seconds the session outlives its connection; 0 = not at all, `u32::MAX` = for ever.
    expiry: AtomicU32,
    /// How many deliveries were recorded.
    deliveries: AtomicU64,
    outbox: Mutex<Outbox>,
    received: Mutex<Received>,
    subscriptions: Mutex<Subscriptions>,
    absence: Mutex<Absence>,
    seat: Arc<tokio::sync::Mutex<Seat>>,
}

impl Session {
    /// A new session for the connection `claim`.
    pub(crate) fn new(number: SessionNumber, client_id: ByteString, claim: u64, expiry: u32) -> Self {
        Self {
            number,
            client_id,
            owner: Mutex::default(),
            checked: Mutex::default(),
            claim: AtomicU64::new(claim),
            connected: AtomicBool::new(false),
            window_is_full: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            away_since: AtomicU64::new(0),
            expiry: AtomicU32::new(expiry),
            deliveries: AtomicU64::new(0),
            outbox: Mutex::default(),
            received: Mutex::default(),
            subscriptions: Mutex::default(),
            absence: Mutex::default(),
            seat: Arc::default(),
        }
    }

    /// Its place among the sessions whose clients are away.
    pub(crate) fn away(&self) -> (u64, SessionNumber) {
        (self.away_since.load(Ordering::Relaxed), self.number)
    }

    /// Its client is away since then.
    pub(crate) fn set_away(&self, since_ms: u64) {
        self.away_since.store(since_ms, Ordering::Relaxed);
    }

    /// The lock of what the connected client's task owns; it is given in the order of asking.
    pub(crate) fn seat(&self) -> &Arc<tokio::sync::Mutex<Seat>> {
        &self.seat
    }

    /// The connection `claim` wants the session: the one that has it lets go when it is nudged. `false`: a newer one wants
    /// it, or has had it.
    pub(crate) fn claim(&self, claim: u64) -> bool {
        self.claim.fetch_max(claim, Ordering::AcqRel) <= claim
    }

    /// Whether no newer connection than `claim` has asked for the session.
    pub(crate) fn is_claimed_by(&self, claim: u64) -> bool {
        self.claim.load(Ordering::Acquire) == claim
    }

    /// An ended connection of the client has unsubscribed, or leaves a subscription that had still to bring what is stored.
    pub(crate) fn changed(&self) {
        self.changed.store(true, Ordering::Release);
        self.nudge();
    }

    /// Whether that has happened since the last call.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire) && self.changed.swap(false, Ordering::AcqRel)
    }

    /// Wakes the connection, if there is one, to look at what has changed.
    pub(crate) fn nudge(&self) {
        let waker = self.outbox.lock().nudge();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// The connection goes to sleep, and the client must acknowledge something before it is sent more, or need not.
    pub(crate) fn window_is_full(&self, full: bool) {
        self.window_is_full.store(full, Ordering::Relaxed);
    }

    /// Whether a message of `qos` would have to wait for an acknowledgement of the client.
    pub(crate) fn would_wait(&self, qos: QoS) -> bool {
        qos != QoS::AtMostOnce && self.window_is_full.load(Ordering::Relaxed)
    }

    pub(crate) fn expiry(&self) -> u32 {
        self.expiry.load(Ordering::Relaxed)
    }

    /// The client wants another expiry: the durable state is told.
    pub(crate) fn change_expiry(&self, realm: &Realm, seconds: u32) {
        let before = self.expiry.swap(seconds, Ordering::Relaxed);
        if !realm.broker.keeps || seconds == before || before == 0 {
            return;
        }
        match seconds {
            0 => self.record_end(realm),
            expiry => realm.record(Change::ExpiryChanged { session: self.number, expiry }),
        }
    }

    /// The durable state is told that it has ended.
    fn record_end(&self, realm: &Realm) {
        realm.record(Change::Closed { session: self.number });
        realm.ended.add(&self.client_id, &realm.broker);
    }

    /// A connection has it, or has made it: the durable state is told, if it is kept over the connection's end.
    pub(crate) fn opened(&self, realm: &Realm, will: Option<StoredWill>) {
        if self.is_recorded(realm) {
            let (session, client, expiry) = (self.number, self.client_id.clone(), self.expiry());
            realm.record(Change::Opened { session, client, expiry, owner: self.owner(), will });
        }
    }

    /// Whose it is; `None`: whoever has the client id may have it.
    pub(crate) fn owner(&self) -> Option<Owner> {
        self.owner.lock().clone()
    }

    /// It is for `owner`, which may have it, from now on; `None`: for whoever has the client id. The one before has no claim
    /// to it any more, but if it is the same user: that a certificate has proved that one is true of a connection by
    /// password, too.
    pub(crate) fn belong_to(&self, owner: Option<Owner>) {
        let mut own = self.owner.lock();
        let certified = own.take().filter(|before| before.certified);
        *own = owner.map(|owner| match certified {
            Some(before) if before.user == owner.user => before,
            _ => owner,
        });
    }

    /// Whether the session outlives its connection.
    pub(crate) fn is_durable(&self) -> bool {
        self.expiry() > 0
    }

    /// Whether its changes are recorded.
    pub(crate) fn is_recorded(&self, realm: &Realm) -> bool {
        realm.broker.keeps && self.is_durable()
    }

    /// Records that `delivery` waits for the client, or goes on its way to it. `shared`: the filter of the shared subscription
    /// that it came by, if it did.
    pub(crate) fn record_queued(&self, realm: &Realm, delivery: &mut Delivery, shared: Option<&ByteString>) {
        let number = self.deliveries.fetch_add(1, Ordering::Relaxed) + 1;
        delivery.number = NonZeroU64::new(number);
        realm.record(Change::Queued { session: self.number, delivery: delivery.to_stored(number, shared) });
    }

    /// Makes it as it was when the process ended, but for its subscriptions. Nobody else knows it yet.
    pub(crate) fn restore(&self, realm: &Realm, restored: RestoredSession, charged: &mut ChargedOnce) {
        let RestoredSession { queue, received, joining, .. } = restored;
        let last = queue.iter().map(|restored| restored.delivery.number).max();
        self.deliveries.store(last.unwrap_or(0), Ordering::Relaxed);
        self.received.lock().restore(&received, &realm.broker.budget);
        let (mut sent, mut waiting) = (Vec::new(), Vec::new());
        for RestoredDelivery { delivery, sending, released } in queue {
            let delivery = realm.restored_delivery(self, delivery, charged);
            match sending {
                Some(mut sending) => {
                    sending.replacement = sending.replacement.map(|message| charged.of(message));
                    sent.push((sending, delivery, released));
                }
                None => waiting.push(delivery),
            }
        }
        sent.sort_by_key(|(sending, ..)| sending.sequence);
        let mut outbox = self.outbox.lock();
        outbox.put_back(waiting.into_iter());
        if let Ok(mut seat) = Arc::clone(&self.seat).try_lock_owned() {
            for (sending, delivery, released) in sent {
                seat.inflight.restore(sending, delivery, released);
            }
            seat.inflight.charge(&realm.broker.budget);
            for text in joining {
                let Ok(filter) = TopicFilter::new(text.clone()) else { continue };
                // What came live meanwhile goes on waiting for it.
                let hold = outbox.hold(filter.clone());
                seat.interrupted.push(Interrupted { filter, hold, retained: true });
            }
        }
        drop(outbox);
        self.settle(realm);
    }

    pub(crate) fn outbox(&self) -> parking_lot::MutexGuard<'_, Outbox> {
        self.outbox.lock()
    }

    pub(crate) fn received(&self) -> parking_lot::MutexGuard<'_, Received> {
        self.received.lock()
    }

    /// Puts `delivery` into the queue, or counts why not. What must be durable before the publisher is
    /// answered joins `fanout`. Gives whether the publisher should wait until some of the queue is taken.
    pub(crate) fn push(&self, realm: &Realm, delivery: Delivery, fanout: &mut Fanout) -> bool {
        let mut outbox = self.outbox.lock();
        let pushed = self.push_into(realm, &mut outbox, delivery, fanout);
        drop(outbox);
        pushed.settle(fanout)
    }

    /// [`Session::push`] of one delivery after the other, made of `messages` by `delivery`.
    pub(crate) fn push_all(
        &self,
        realm: &Realm,
        fanout: &mut Fanout,
        messages: &mut [Gathering],
        delivery: impl Fn(&Arc<Message>) -> Option<Delivery>,
    ) -> bool {
        let mut all = Pushed::default();
        let mut outbox = self.outbox.lock();
        for gathered in messages {
            let Some(delivery) = delivery(&gathered.message) else { continue };
            gathered.swap(fanout);
            let Pushed { waker, crowded } = self.push_into(realm, &mut outbox, delivery, fanout);
            gathered.swap(fanout);
            all = Pushed { waker: all.waker.or(waker), crowded: all.crowded | crowded };
        }
        drop(outbox);
        all.settle(fanout)
    }

    fn push_into(
        &self,
        realm: &Realm,
        outbox: &mut Outbox,
        delivery: Delivery,
        fanout: &mut Fanout,
    ) -> Pushed {
        let limits = realm.broker.queue_limits();
        if !outbox.has_room(&delivery, limits) {
            self.drop_expired(realm, outbox);
        }
        match outbox.make_room(&delivery, limits) {
            Room::Free => {}
            Room::Displaced(older) => self.displaced(realm, outbox, &older),
            refused => {
                let crowded = self.not_queued(realm, outbox, &delivery, &refused);
                return Pushed { waker: None, crowded };
            }
        }
        self.enqueue(realm, outbox, delivery, fanout)
    }

    /// Puts `delivery`, which is of a shared subscription, into the queue if there is room; else nothing has happened and
    /// another member may take it. `connected`: only if somebody is connected, or only if nobody is. `may_displace`: older
    /// QoS 0 messages may be dropped for it.
    pub(crate) fn offer(
        &self,
        realm: &Realm,
        delivery: Delivery,
        round: Round,
        fanout: &mut Fanout,
    ) -> Option<bool> {
        let limits = realm.broker.queue_limits();
        let mut outbox = self.outbox.lock();
        // Under the lock: a client that goes away hands over what is in its queue then.
        if outbox.is_connected() != round.connected || (!round.may_wait && self.would_wait(delivery.qos)) {
            return None;
        }
        if !outbox.has_room(&delivery, limits) {
            self.drop_expired(realm, &mut outbox);
        }
        if !outbox.has_room(&delivery, limits) {
            let room = round.may_displace.then(|| outbox.make_room(&delivery, limits));
            let Some(Room::Displaced(older)) = room else { return None };
            self.displaced(realm, &mut outbox, &older);
        }
        let pushed = self.enqueue(realm, &mut outbox, delivery, fanout);
        drop(outbox);
        Some(pushed.settle(fanout))
    }

    /// What has expired gives its place away: it would not be sent ([MQTT-3.3.2-5]).
    fn drop_expired(&self, realm: &Realm, outbox: &mut Outbox) {
        let now = now_ms();
        if outbox.may_have_expired(now) {
            let expired = outbox.take_expired(now, &realm.broker.budget);
            expired.iter().for_each(|_| realm.dropped(Drop::Expired));
            self.forget(realm, expired.iter());
        }
    }

    /// Drops what has expired, if nobody is connected: a client that is there gets to it.
    pub(crate) fn sweep(&self, realm: &Realm) {
        if !self.is_connected() {
            self.drop_expired(realm, &mut self.outbox.lock());
        }
    }

    /// Whether `delivery` could be pushed without dropping anything for it.
    pub(crate) fn has_room(&self, realm: &Realm, delivery: &Delivery) -> bool {
        self.outbox.lock().has_room(delivery, realm.broker.queue_limits())
    }

    fn displaced(&self, realm: &Realm, outbox: &mut Outbox, older: &[Delivery]) {
        for delivery in older {
            realm.dropped(Drop::QueueFull);
            self.lost(realm, outbox, delivery);
        }
    }

    fn enqueue(
        &self,
        realm: &Realm,
        outbox: &mut Outbox,
        mut delivery: Delivery,
        fanout: &mut Fanout,
    ) -> Pushed {
        if delivery.qos != QoS::AtMostOnce && self.is_recorded(realm) {
            self.record_queued(realm, &mut delivery, fanout.shared.as_ref());
            fanout.recorded = true;
        }
        let pinned = outbox.pinned(&fanout.read_at, delivery.message.size());
        if !self.is_connected() || outbox.is_too_much(pinned) {
            delivery.message = fanout.detached_once(&delivery.message);
        } else {
            delivery.pins_buffer = pinned > outbox::PINNED;
        }
        let waker = outbox.push(delivery, &realm.broker.budget);
        Pushed { waker, crowded: outbox.is_crowded(realm.broker.queue_limits()) }
    }

    /// Handlers of an ended connection want these subscriptions: the client's present connection makes them, or its
    /// next one.
    pub(crate) fn subscribe_later(&self, wanted: impl Iterator<Item = (ByteString, QoS)>) {
        if !self.is_durable() {
            return;
        }
        self.absence.lock().subscriptions.extend(wanted);
        if self.is_connected() {
            let wanted = std::mem::take(&mut self.absence.lock().subscriptions);
            self.command_subscriptions(wanted);
        }
    }

    fn command_subscriptions(&self, wanted: Vec<(ByteString, QoS)>) {
        for (text, qos) in wanted {
            // A connection that has just gone takes them with it: rare, and the client subscribes itself.
            let queued = self.outbox.lock().command(Command::Subscribe(text, qos), usize::MAX);
            if let Ok(Some(waker)) = queued {
                waker.wake();
            }
        }
    }

    /// `delivery` found no place in the queue. Gives whether its publisher should slow down.
    fn not_queued(&self, realm: &Realm, outbox: &mut Outbox, delivery: &Delivery, why: &Room) -> bool {
        let cause = match why {
            Room::Full => Some(Drop::QueueFull),
            Room::OverBudget => Some(Drop::OverBudget),
            Room::HoldFull => Some(Drop::HoldFull),
            // MQTT keeps no QoS 0 messages for a client that is away; a store may have it all the same.
            Room::Away => None,
            Room::Free | Room::Displaced(_) | Room::Unwanted | Room::Closed => return false,
        };
        cause.inspect(|&cause| realm.dropped(cause));
        self.lost(realm, outbox, delivery);
        matches!(why, Room::Full) && outbox.is_crowded(realm.broker.queue_limits())
    }

    /// `delivery` is dropped. A store may have it, if it was published at QoS 1 or 2: no position may pass it.
    fn lost(&self, realm: &Realm, outbox: &mut Outbox, delivery: &Delivery) {
        let positional = delivery.message.qos != QoS::AtMostOnce
            && (self.is_durable() || self.is_connected())
            && has_positions(realm);
        outbox.note_loss(delivery, positional);
    }

    /// Ends the hold `number`: what it held, and whose topic `wanted` is true of, is delivered now, unless the client was
    /// given it meanwhile.
    pub(crate) fn release(&self, realm: &Realm, number: u32, wanted: impl Fn(&TopicName) -> bool) {
        // It is asked once a topic, and publishers do not wait for it. What comes meanwhile is wanted.
        let held: Topics = self.outbox.lock().held(number).map(|held| held.message.topic.clone()).collect();
        let unwanted: Topics = held.into_iter().filter(|topic| !wanted(topic)).collect();
        let is_wanted = |held: &Delivery| !unwanted.contains(&held.message.topic);
        let unwanted = self.outbox.lock().release(number, is_wanted);
        self.forget(realm, unwanted.iter());
        // Its connection may sleep, or a later one may.
        self.nudge();
    }

    /// Live messages that the client is not sent, because it got them out of a store or does not want them any
    /// more: they leave the durable queue.
    pub(crate) fn forget<'a>(&self, realm: &Realm, unwanted: impl Iterator<Item = &'a Delivery>) {
        for delivery in unwanted {
            self.finished(realm, delivery.number);
        }
    }

    /// A delivery is acknowledged, or dropped: it leaves the durable queue, if it is there.
    pub(crate) fn finished(&self, realm: &Realm, number: Option<NonZeroU64>) {
        if let Some(number) = number {
            realm.record(Change::Finished { session: self.number, number: number.get() });
        }
    }

    /// The client is back in time: its will is not sent (clause 3.1.3.2.2). Gives it, and when its delay would have passed:
    /// the connection may be refused yet.
    pub(crate) fn put_will_aside(&self, realm: &Realm) -> Option<(LateWill, Option<Instant>)> {
        let aside = self.absence.lock().will.take()?;
        if let Some(recorded) = aside.0.recorded {
            realm.record(recorded.gone());
        }
        Some(aside)
    }

    /// Nothing happens any more when its time is up.
    pub(crate) fn stop_timers(&self, realm: &Realm) {
        let timers = std::mem::take(&mut self.absence.lock().timers);
        timers.into_iter().for_each(|timer| realm.broker.timers.cancel(timer));
    }

    /// A connection has taken the seat: the client is there.
    pub(crate) fn connect(&self, realm: &Realm) {
        self.outbox.lock().connect();
        self.connected.store(true, Ordering::Relaxed);
        realm.registry.came_back(self);
        realm.statistics.client_connected();
        let absence = std::mem::take(&mut *self.absence.lock());
        // A will whose delay has not passed is not sent (clause 3.1.3.2.2).
        for timer in absence.timers {
            realm.broker.timers.cancel(timer);
        }
        if let Some(recorded) = absence.will.and_then(|(will, _)| will.recorded) {
            realm.record(recorded.gone());
        }
        self.command_subscriptions(absence.subscriptions);
        for filter in self.shared_filters() {
            realm.member_came(self.number, &filter);
        }
    }

    /// The connection lets go of the session. What it had taken from the queue comes back.
    pub(crate) fn disconnect(&self, realm: &Realm, unsent: impl DoubleEndedIterator<Item = Delivery>) {
        self.left(realm);
        self.outbox.lock().put_back(unsent);
        self.settle(realm);
    }

    /// Nobody is connected: prepares for a long wait.
    fn settle(&self, realm: &Realm) {
        let publishers = self.outbox.lock().disconnect(has_positions(realm), &realm.broker.budget);
        publishers.into_iter().for_each(std::task::Waker::wake);
    }

    fn left(&self, realm: &Realm) {
        if self.connected.swap(false, Ordering::Relaxed) {
            self.window_is_full.store(false, Ordering::Relaxed);
            realm.statistics.client_left();
            for filter in self.shared_filters() {
                realm.member_went(self.number, &filter);
            }
        }
    }

    /// Keeps `timer` until the client returns.
    pub(crate) fn keep_timer(&self, timer: Timer) {
        self.absence.lock().timers.push(timer);
    }

    /// Keeps a will until its `delay` has passed.
    pub(crate) fn keep_will(&self, will: LateWill, delay: Duration) {
        self.absence.lock().will = Some((will, Instant::now().checked_add(delay)));
    }

    /// Takes a will whose delay has passed, or whose session ends.
    pub(crate) fn take_will(&self) -> Option<LateWill> {
        self.absence.lock().will.take().map(|(will, _)| will)
    }

    /// Ends the session, whose seat is held: its subscriptions, queue and timers go, what it leaves of shared
    /// subscriptions goes to others. Gives the will that was still waiting (clause 3.1.3.2.2: it is due when the
    /// session ends).
    pub(crate) fn end(&self, realm: &Arc<Realm>, seat: &mut Seat) -> Option<LateWill> {
        if !self.close_subscriptions(realm) {
            return None;
        }
        self.left(realm);
        let shared = self.outbox.lock().close();
        realm.member_ended(self, seat, shared);
        *self.received.lock() = Received::default();
        if self.is_recorded(realm) {
            self.record_end(realm);
        }
        realm.broker.metrics.sessions.decrement(1.0);
        let absence = std::mem::take(&mut *self.absence.lock());
        for timer in absence.timers {
            realm.broker.timers.cancel(timer);
        }
        absence.will.map(|(will, _)| will)
    }
}

/// Whether anybody keeps positions of clients.
fn has_positions(realm: &Realm) -> bool {
    realm.broker.hooks.is_bound(&realm.tenant, Hook::MessageAcked)
}

#[cfg(test)]
pub(crate) fn test_message(topic: &str, qos: QoS, id: u128) -> Arc<Message> {
    use tidegate_event::{MsgId, Origin, TopicName};
    Arc::new(Message {
        id: MsgId::from_bits(id),
        topic: TopicName::new(topic).unwrap_or_else(|error| panic!("{topic}: {error}")),
        payload: bytes::Bytes::new(),
        qos,
        retain: false,
        dup: false,
        timestamp_ms: 0,
        sender: ByteString::new(),
        publisher: None,
        properties: None,
        origin: Origin::Client,
        hops: 0,
    })
}

/// `message` on its way to a client that gets it as it was published, with nothing of its own.
#[cfg(test)]
pub(crate) fn test_delivery(message: Arc<Message>, source: delivery::Source) -> Delivery {
    Delivery {
        qos: message.qos,
        message,
        subscription_ids: None,
        retain: false,
        number: None,
        source,
        rank: delivery::Rank::default(),
        pins_buffer: false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::cell::Cell;

    use super::delivery::Source;
    use super::*;

    /// Ten thousand subscriptions were looked through for each of a thousand messages, while publishers waited.
    #[tokio::test]
    async fn a_hold_that_ends_asks_once_a_topic_and_not_under_the_queues_lock() {
        let realm = crate::realm::test_realm(crate::BrokerConfig::default());
        let session = Session::new(1, "c".into(), 0, 60);
        let number = session.outbox().hold("+".parse().unwrap());
        for id in 0..100 {
            let message = test_message(if id % 2 == 0 { "a" } else { "b" }, QoS::AtLeastOnce, id);
            session.push(&realm, test_delivery(message, Source::Live), &mut Fanout::default());
        }
        let asked = Cell::new(0);
        session.release(&realm, number, |topic| {
            assert!(session.outbox.try_lock().is_some(), "publishers wait");
            asked.set(asked.get() + 1);
            topic.as_str() == "b"
        });
        assert_eq!((asked.get(), session.outbox().len()), (2, 50));
    }
}
