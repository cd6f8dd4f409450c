//! What the thread that writes knows of durable sessions: which records there are, and how often a message is wanted.
//!
//! It is always as the disk will be once everything [`Unwritten`] is there, whether that succeeds at once or later.
//! Nothing is read from the disk to apply a change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytestring::ByteString;
use tidegate_event::{
    Change, Message, MsgId, Owner, SessionNumber, StoredDelivery, StoredSending, StoredWill, Tenant,
};

use super::format::{ReceiptForm, SendingForm, SentForm};
use super::key::{Key, Name, filter_name, topic_name};
use super::unwritten::{Inlined, KEPT_CAPACITY, Unwritten, Value};

/// A session that is kept.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) tenant: Tenant,
    pub(super) client: ByteString,
    pub(super) expiry: u32,
    pub(super) disconnected_at_ms: Option<u64>,
    pub(super) owner: Option<Owner>,
    pub(super) subscriptions: BTreeSet<Name>,
    pub(super) deliveries: BTreeMap<u64, Delivery>,
    pub(super) receipts: BTreeSet<u16>,
}

/// A delivery that is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The number of its message; `None`: that is in its own record.
    pub(super) body: Option<u64>,
    /// What is recorded of its sending.
    pub(super) sending: Option<SendingForm>,
}

impl Session {
    pub(super) fn new(tenant: Tenant, client: &str, expiry: u32, disconnected_at_ms: Option<u64>) -> Self {
        Self {
            tenant,
            // A copy: the text may share memory with all that came from the socket together with it.
            client: ByteString::from(client),
            expiry,
            disconnected_at_ms,
            owner: None,
            subscriptions: BTreeSet::new(),
            deliveries: BTreeMap::new(),
            receipts: BTreeSet::new(),
        }
    }

    fn record(&self) -> Value {
        Value::Session {
            tenant: self.tenant.clone(),
            client: self.client.clone(),
            expiry: self.expiry,
            disconnected_at_ms: self.disconnected_at_ms,
            owner: self.owner.clone(),
        }
    }
}

/// The records there are.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) sessions: HashMap<SessionNumber, Session>,
    pub(super) wills: HashSet<(SessionNumber, MsgId)>,
    /// Messages with a number, and how many deliveries want each.
    pub(super) bodies: HashMap<u64, u32>,
    /// How many deliveries there are.
    pub(super) deliveries: u64,
    pub(super) last_session: SessionNumber,
    /// The greatest number a message has had.
    pub(super) last_body: u64,
    /// Messages of the changes that are being applied, by their addresses.
    seen: HashMap<usize, u64>,
}

impl Index {
    /// Applies changes that were taken together: all their messages were in memory at the same time, so that two of them
    /// with one address are the same.
    pub(super) fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (Option<Tenant>, Change)>,
        unwritten: &mut Unwritten,
    ) {
        for (tenant, change) in changes {
            self.apply_one(tenant, change, unwritten);
        }
        self.seen.clear();
        self.seen.shrink_to(KEPT_CAPACITY);
    }

    fn apply_one(&mut self, tenant: Option<Tenant>, change: Change, unwritten: &mut Unwritten) {
        match change {
            Change::Opened { session, client, expiry, owner, will } => {
                let kept =
                    Session { owner, ..Session::new(tenant.unwrap_or_default(), &client, expiry, None) };
                self.open(session, kept, will, unwritten);
            }
            Change::ExpiryChanged { session, expiry } => {
                self.alter(session, unwritten, |session| session.expiry = expiry);
            }
            Change::Disconnected { session, at_ms } => {
                self.alter(session, unwritten, |session| session.disconnected_at_ms = Some(at_ms));
            }
            Change::Closed { session } => self.close(session, unwritten),
            Change::WillGone { session, will } => {
                if self.wills.remove(&(session, will)) {
                    unwritten.remove(Key::Will(session, will));
                }
            }
            Change::Subscribed { session, filter, options, joining } => {
                if let Some(kept) = self.sessions.get_mut(&session) {
                    let name = filter_name(&filter);
                    let was_there = !kept.subscriptions.insert(name);
                    let value = Value::Subscription { filter, options, joining };
                    unwritten.put(Key::Subscription(session, name), value, was_there);
                }
            }
            Change::Unsubscribed { session, filter } => {
                let name = filter_name(&filter);
                if self.sessions.get_mut(&session).is_some_and(|kept| kept.subscriptions.remove(&name)) {
                    unwritten.remove(Key::Subscription(session, name));
                }
            }
            Change::Queued { session, delivery } => self.queue(session, delivery, unwritten),
            Change::Sent { session, number, sending } => self.send(session, number, sending, unwritten),
            Change::Released { session, number } => {
                if let Some(delivery) = self.delivery(session, number) {
                    let was_there = delivery.sending.is_some();
                    let form = SendingForm { released: true, ..delivery.sending.unwrap_or_default() };
                    delivery.sending = Some(form);
                    unwritten.put(Key::Sending(session, number), Value::Sending(form), was_there);
                }
            }
            Change::Finished { session, number } => {
                let kept = self.sessions.get_mut(&session);
                if let Some(delivery) = kept.and_then(|kept| kept.deliveries.remove(&number)) {
                    self.forget(session, number, delivery, unwritten);
                }
            }
            Change::Received { session, packet_id, message } => {
                self.receive(session, packet_id, message, false, unwritten);
            }
            Change::Handled { session, packet_id, message } => {
                self.receive(session, packet_id, message, true, unwritten);
            }
            Change::Freed { session, packet_id } => {
                if self.sessions.get_mut(&session).is_some_and(|kept| kept.receipts.remove(&packet_id)) {
                    unwritten.remove(Key::Receipt(session, packet_id));
                }
            }
            Change::Retained { message } => {
                let tenant = tenant.unwrap_or_default();
                let key = Key::Retained(topic_name(&tenant, &message.topic));
                // Which topics have one is not known here.
                unwritten.put(key, Value::Retained { tenant, message }, true);
            }
            Change::RetainCleared { topic } => {
                unwritten.remove(Key::Retained(topic_name(&tenant.unwrap_or_default(), &topic)));
            }
        }
    }

    fn open(
        &mut self,
        session: SessionNumber,
        opened: Session,
        will: Option<StoredWill>,
        unwritten: &mut Unwritten,
    ) {
        let tenant = opened.tenant.clone();
        let was_there = match self.sessions.get_mut(&session) {
            Some(kept) => {
                (kept.expiry, kept.disconnected_at_ms, kept.owner) = (opened.expiry, None, opened.owner);
                true
            }
            None => {
                self.sessions.insert(session, opened);
                false
            }
        };
        if let Some(kept) = self.sessions.get(&session) {
            unwritten.put(Key::Session(session), kept.record(), was_there);
        }
        if session > self.last_session {
            self.last_session = session;
            unwritten.put(Key::LastSession, Value::LastSession(session), true);
        }
        if let Some(will) = will {
            let was_there = !self.wills.insert((session, will.message.id));
            unwritten.put(Key::Will(session, will.message.id), Value::Will { tenant, will }, was_there);
        }
    }

    fn alter(&mut self, session: SessionNumber, unwritten: &mut Unwritten, alter: impl FnOnce(&mut Session)) {
        if let Some(kept) = self.sessions.get_mut(&session) {
            alter(kept);
            unwritten.put(Key::Session(session), kept.record(), true);
        }
    }

    fn close(&mut self, session: SessionNumber, unwritten: &mut Unwritten) {
        let Some(kept) = self.sessions.remove(&session) else { return };
        unwritten.remove(Key::Session(session));
        for name in kept.subscriptions {
            unwritten.remove(Key::Subscription(session, name));
        }
        for packet_id in kept.receipts {
            unwritten.remove(Key::Receipt(session, packet_id));
        }
        for (number, delivery) in kept.deliveries {
            self.forget(session, number, delivery, unwritten);
        }
    }

    fn queue(&mut self, session: SessionNumber, delivery: StoredDelivery, unwritten: &mut Unwritten) {
        if !self.sessions.contains_key(&session) {
            return;
        }
        let number = delivery.number;
        let body = self.body(&delivery.message, unwritten);
        let Some(kept) = self.sessions.get_mut(&session) else { return };
        let before = kept.deliveries.insert(number, Delivery { body: Some(body), sending: None });
        self.deliveries += 1;
        if let Some(before) = before {
            self.forget(session, number, before, unwritten);
        }
        unwritten.put(Key::Delivery(session, number), Value::Delivery { delivery, body }, false);
    }

    fn send(
        &mut self,
        session: SessionNumber,
        number: u64,
        sending: StoredSending,
        unwritten: &mut Unwritten,
    ) {
        if self.delivery(session, number).is_none() {
            return;
        }
        let replacement = sending.replacement.map(|message| self.body(&message, unwritten));
        let sent = SentForm { sequence: sending.sequence, qos: sending.qos.level(), replacement };
        let Some(delivery) = self.delivery(session, number) else { return };
        let before = delivery.sending;
        let form = SendingForm { sent: Some(sent), released: before.is_some_and(|before| before.released) };
        delivery.sending = Some(form);
        unwritten.put(Key::Sending(session, number), Value::Sending(form), before.is_some());
        if let Some(replaced) = before.and_then(|before| before.sent?.replacement) {
            self.release(replaced, unwritten);
        }
    }

    fn receive(
        &mut self,
        session: SessionNumber,
        packet_id: u16,
        message: MsgId,
        handled: bool,
        unwritten: &mut Unwritten,
    ) {
        if let Some(kept) = self.sessions.get_mut(&session) {
            let was_there = !kept.receipts.insert(packet_id);
            let value = Value::Receipt(ReceiptForm { message: message.bits(), handled });
            unwritten.put(Key::Receipt(session, packet_id), value, was_there);
        }
    }

    fn delivery(&mut self, session: SessionNumber, number: u64) -> Option<&mut Delivery> {
        self.sessions.get_mut(&session)?.deliveries.get_mut(&number)
    }

    /// A delivery went: so does what belongs to it.
    fn forget(&mut self, session: SessionNumber, number: u64, delivery: Delivery, unwritten: &mut Unwritten) {
        self.deliveries -= 1;
        unwritten.remove(Key::Delivery(session, number));
        if let Some(body) = delivery.body {
            self.release(body, unwritten);
        }
        if let Some(sending) = delivery.sending {
            unwritten.remove(Key::Sending(session, number));
            if let Some(replacement) = sending.sent.and_then(|sent| sent.replacement) {
                self.release(replacement, unwritten);
            }
        }
    }

    /// The number of `message`, which is wanted once more.
    fn body(&mut self, message: &Arc<Message>, unwritten: &mut Unwritten) -> u64 {
        let address = Arc::as_ptr(message).addr();
        if let Some(body) = self.seen.get(&address)
            && let Some(wanted) = self.bodies.get_mut(body)
        {
            *wanted += 1;
            return *body;
        }
        self.last_body += 1;
        self.seen.insert(address, self.last_body);
        self.bodies.insert(self.last_body, 1);
        unwritten.put(Key::Body(self.last_body), Value::Body(message.clone()), false);
        self.last_body
    }

    /// A message is wanted once less.
    fn release(&mut self, body: u64, unwritten: &mut Unwritten) {
        let Some(wanted) = self.bodies.get_mut(&body) else { return };
        *wanted -= 1;
        if *wanted == 0 {
            self.bodies.remove(&body);
            unwritten.remove(Key::Body(body));
        }
    }

    /// Whether one delivery alone wants the message of this number.
    pub(super) fn is_single(&self, body: u64) -> bool {
        self.bodies.get(&body) == Some(&1)
    }

    /// The messages of these deliveries are in their records, and have no numbers any more.
    pub(super) fn inline(&mut self, inlined: &[Inlined]) {
        for Inlined { session, delivery, body } in inlined {
            if let Some(delivery) = self.delivery(*session, *delivery) {
                delivery.body = None;
            }
            self.bodies.remove(body);
        }
    }
}
