//! A session store that keeps what it is told, in memory, and gives it back to the next broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_event::{
    AckError, AckJoin, AckPart, Change, Message, MsgId, Owner, Restored, RestoredDelivery, RestoredReceipt,
    RestoredSession, SessionStore, SessionStoreError, StoredWill, SubscriptionOptions, Tenant,
};

#[derive(Clone, Default)]
struct Kept {
    client: String,
    expiry: u32,
    owner: Option<Owner>,
    disconnected_at_ms: Option<u64>,
    /// With whether they still have to bring something.
    subscriptions: BTreeMap<String, (SubscriptionOptions, bool)>,
    queue: BTreeMap<u64, RestoredDelivery>,
    received: BTreeMap<u16, RestoredReceipt>,
}

#[derive(Clone, Default)]
struct Disk {
    sessions: BTreeMap<u64, Kept>,
    wills: BTreeMap<(u64, MsgId), StoredWill>,
    retained: BTreeMap<String, Arc<Message>>,
    last_session: u64,
}

#[derive(Default)]
struct State {
    /// What a broker that starts now would find, if nothing were lost.
    now: Disk,
    /// What it would find after a crash.
    durable: Disk,
    /// Parts withheld by [`Journal::slow`], oldest first.
    parts: Vec<AckPart>,
    slow: bool,
    failing: bool,
    behind: bool,
    /// Names of the changes recorded since they were last asked for.
    log: Vec<&'static str>,
}

/// Keeps sessions and retained messages of the default tenant.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<State>>);

impl Journal {
    /// From now on, nothing is durable before [`Journal::sync`] says so.
    pub(crate) fn slow(&self) {
        self.0.lock().slow = true;
    }

    /// Everything recorded so far is durable. Gives how many were waiting for that.
    pub(crate) fn sync(&self) -> usize {
        let mut state = self.0.lock();
        state.durable = state.now.clone();
        let parts = std::mem::take(&mut state.parts);
        drop(state);
        let waiting = parts.len();
        parts.into_iter().for_each(AckPart::done);
        waiting
    }

    /// The one that has waited for the disk longest waits no longer; false: there is none.
    pub(crate) fn sync_one(&self) -> bool {
        let mut state = self.0.lock();
        if state.parts.is_empty() {
            return false;
        }
        state.durable = state.now.clone();
        let part = state.parts.remove(0);
        drop(state);
        part.done();
        true
    }

    /// Nothing of what was recorded can be written for those who wait for it; it is written later, and the disk is fast again.
    pub(crate) fn abandon(&self) {
        let mut state = self.0.lock();
        state.slow = false;
        let parts = std::mem::take(&mut state.parts);
        drop(state);
        drop(parts);
    }

    /// How many wait for the disk.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().parts.len()
    }

    /// From now on nothing can be written.
    pub(crate) fn fail(&self, failing: bool) {
        self.0.lock().failing = failing;
    }

    /// From now on too much waits to be written, or no longer.
    pub(crate) fn fall_behind(&self, behind: bool) {
        self.0.lock().behind = behind;
    }

    /// What the disk has after a crash now, as a store of its own.
    pub(crate) fn after_a_crash(&self) -> Self {
        let durable = self.0.lock().durable.clone();
        Self(Arc::new(Mutex::new(State { now: durable.clone(), durable, ..State::default() })))
    }

    /// Names of the changes recorded since the last call.
    pub(crate) fn log(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().log)
    }

    /// Client ids of the sessions kept.
    pub(crate) fn sessions(&self) -> Vec<String> {
        self.0.lock().now.sessions.values().map(|kept| kept.client.clone()).collect()
    }

    /// Topics that have a retained message.
    pub(crate) fn retained(&self) -> Vec<String> {
        self.0.lock().now.retained.keys().cloned().collect()
    }

    /// How many wills are kept.
    pub(crate) fn wills(&self) -> usize {
        self.0.lock().now.wills.len()
    }

    /// How many subscriptions of `client` still have to bring something.
    pub(crate) fn joining(&self, client: &str) -> usize {
        let state = self.0.lock();
        let kept = state.now.sessions.values().find(|kept| kept.client == client);
        kept.map_or(0, |kept| kept.joining().count())
    }

    /// How many messages are queued or in flight for `client`, and how many QoS 2 ids are taken.
    pub(crate) fn counts(&self, client: &str) -> (usize, usize) {
        let state = self.0.lock();
        let kept = state.now.sessions.values().find(|kept| kept.client == client);
        kept.map_or((0, 0), |kept| (kept.queue.len(), kept.received.len()))
    }
}

impl Kept {
    /// Filters that still have to bring something.
    fn joining(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.iter().filter(|(_, (_, joining))| *joining).map(|(filter, _)| filter.as_str())
    }
}

impl Disk {
    fn apply(&mut self, change: Change) -> &'static str {
        let known = |sessions: &BTreeMap<u64, Kept>, session: u64| sessions.contains_key(&session);
        match change {
            Change::Opened { session, client, expiry, owner, will } => {
                self.last_session = self.last_session.max(session);
                let kept = self.sessions.entry(session).or_default();
                (kept.client, kept.expiry, kept.disconnected_at_ms) = (client.to_string(), expiry, None);
                kept.owner = owner;
                self.wills.extend(will.map(|will| ((session, will.message.id), will)));
                "opened"
            }
            Change::Closed { session } => {
                self.sessions.remove(&session);
                "closed"
            }
            Change::WillGone { session, will } => {
                self.wills.remove(&(session, will));
                "will gone"
            }
            Change::Retained { message } => {
                self.retained.insert(message.topic.to_string(), message);
                "retained"
            }
            Change::RetainCleared { topic } => {
                self.retained.remove(topic.as_str());
                "retain cleared"
            }
            Change::ExpiryChanged { session, .. }
            | Change::Disconnected { session, .. }
            | Change::Subscribed { session, .. }
            | Change::Unsubscribed { session, .. }
            | Change::Queued { session, .. }
            | Change::Sent { session, .. }
            | Change::Released { session, .. }
            | Change::Finished { session, .. }
            | Change::Received { session, .. }
            | Change::Handled { session, .. }
            | Change::Freed { session, .. }
                if !known(&self.sessions, session) =>
            {
                "late"
            }
            other => self.apply_to_session(other),
        }
    }

    fn apply_to_session(&mut self, change: Change) -> &'static str {
        macro_rules! kept {
            ($session:expr) => {
                self.sessions.get_mut(&$session).expect("it is known")
            };
        }
        match change {
            Change::ExpiryChanged { session, expiry } => {
                kept!(session).expiry = expiry;
                "expiry changed"
            }
            Change::Disconnected { session, at_ms } => {
                kept!(session).disconnected_at_ms = Some(at_ms);
                "disconnected"
            }
            Change::Subscribed { session, filter, options, joining } => {
                kept!(session).subscriptions.insert(filter.to_string(), (options, joining));
                "subscribed"
            }
            Change::Unsubscribed { session, filter } => {
                kept!(session).subscriptions.remove(&*filter);
                "unsubscribed"
            }
            Change::Queued { session, delivery } => {
                let queued = RestoredDelivery { sending: None, released: false, delivery };
                kept!(session).queue.insert(queued.delivery.number, queued);
                "queued"
            }
            Change::Sent { session, number, sending } => {
                if let Some(queued) = kept!(session).queue.get_mut(&number) {
                    queued.sending = Some(sending);
                }
                "sent"
            }
            Change::Released { session, number } => {
                if let Some(queued) = kept!(session).queue.get_mut(&number) {
                    queued.released = true;
                }
                "released"
            }
            Change::Finished { session, number } => {
                kept!(session).queue.remove(&number);
                "finished"
            }
            Change::Received { session, packet_id, message } => {
                let receipt = RestoredReceipt { packet_id, message, handled: false };
                kept!(session).received.insert(packet_id, receipt);
                "received"
            }
            Change::Handled { session, packet_id, message } => {
                let receipt = RestoredReceipt { packet_id, message, handled: true };
                kept!(session).received.insert(packet_id, receipt);
                "handled"
            }
            Change::Freed { session, packet_id } => {
                kept!(session).received.remove(&packet_id);
                "freed"
            }
            other => panic!("{other:?} is of no session"),
        }
    }
}

impl SessionStore for Journal {
    fn keeps(&self) -> bool {
        true
    }

    fn restore(&self) -> Result<Restored, SessionStoreError> {
        let state = self.0.lock();
        let disk = &state.now;
        let wills = |number: u64| {
            disk.wills.range((number, MsgId::from_bits(0))..=(number, MsgId::from_bits(u128::MAX)))
        };
        let sessions = disk
            .sessions
            .iter()
            .map(|(&number, kept)| RestoredSession {
                number,
                tenant: Tenant::default(),
                client: kept.client.as_str().into(),
                owner: kept.owner.clone(),
                expiry: kept.expiry,
                disconnected_at_ms: kept.disconnected_at_ms,
                wills: wills(number).map(|(_, will)| will.clone()).collect(),
                subscriptions: kept.subscriptions.iter().map(|(f, (o, _))| (f.as_str().into(), *o)).collect(),
                joining: kept.joining().map(Into::into).collect(),
                queue: kept.queue.values().cloned().collect(),
                received: kept.received.values().copied().collect(),
            })
            .collect();
        let retained =
            disk.retained.values().map(|message| (Tenant::default(), Arc::clone(message))).collect();
        let ended = disk.wills.iter().filter(|((number, _), _)| !disk.sessions.contains_key(number));
        let wills = ended.map(|((number, _), will)| (Tenant::default(), *number, will.clone())).collect();
        Ok(Restored { sessions, retained, wills, last_session: disk.last_session })
    }

    fn record(&self, _: &Tenant, change: Change) {
        let mut state = self.0.lock();
        let name = state.now.apply(change);
        state.log.push(name);
    }

    fn together(&self, changes: &mut dyn FnMut()) {
        // Nothing becomes durable but by `sync` and `durable`, which this thread does not call meanwhile.
        self.0.lock().log.push("together");
        changes();
        self.0.lock().log.push("done");
    }

    fn durable(&self) -> AckJoin {
        let join = AckJoin::new();
        let part = join.part();
        let mut state = self.0.lock();
        if state.failing {
            drop(state);
            part.fail(AckError::Abandoned);
        } else if state.slow {
            state.parts.push(part);
        } else {
            state.durable = state.now.clone();
            drop(state);
            part.done();
        }
        join
    }

    fn is_behind(&self) -> bool {
        self.0.lock().behind
    }

    fn health(&self) -> Result<(), SessionStoreError> {
        match self.0.lock().failing {
            true => Err(SessionStoreError("a test lets it fail".into())),
            false => Ok(()),
        }
    }
}
