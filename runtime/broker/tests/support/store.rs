//! A session store that keeps what it is told, in memory, and gives it back to the next broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_event::{
    AckJoin, AckPart, Change, Message, MsgId, QoS, Restored, RestoredSession, SessionStore,
    SessionStoreError, SubscriptionOptions, Tenant,
};

#[derive(Default)]
struct Kept {
    expiry: u32,
    subscriptions: BTreeMap<String, SubscriptionOptions>,
    queue: Vec<(Arc<Message>, QoS, Option<u16>)>,
    received: BTreeMap<u16, MsgId>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<String, Kept>,
    retained: BTreeMap<String, Arc<Message>>,
    /// Parts withheld by [`Journal::slow`], oldest first.
    parts: Vec<(&'static str, AckPart)>,
    slow: bool,
}

/// Keeps sessions and retained messages of the default tenant.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<State>>);

impl Journal {
    /// From now on, durable changes complete only when [`Journal::complete`] says so.
    pub(crate) fn slow(&self) {
        self.0.lock().slow = true;
    }

    /// Completes the oldest withheld change of the kind `name`; false: there is none.
    pub(crate) fn complete(&self, name: &str) -> bool {
        let mut state = self.0.lock();
        let Some(index) = state.parts.iter().position(|(kind, _)| *kind == name) else { return false };
        let (_, part) = state.parts.remove(index);
        drop(state);
        part.done();
        true
    }

    /// Client ids of the sessions kept.
    pub(crate) fn sessions(&self) -> Vec<String> {
        self.0.lock().sessions.keys().cloned().collect()
    }

    /// How many messages are queued or in flight for `client`, and how many QoS 2 ids are taken.
    pub(crate) fn counts(&self, client: &str) -> (usize, usize) {
        let state = self.0.lock();
        state.sessions.get(client).map_or((0, 0), |kept| (kept.queue.len(), kept.received.len()))
    }
}

impl SessionStore for Journal {
    fn restore(&self) -> Result<Restored, SessionStoreError> {
        let state = self.0.lock();
        let sessions = state
            .sessions
            .iter()
            .map(|(client, kept)| RestoredSession {
                tenant: Tenant::default(),
                client: client.as_str().into(),
                expiry: kept.expiry,
                subscriptions: kept.subscriptions.iter().map(|(f, o)| (f.as_str().into(), *o)).collect(),
                queue: kept.queue.clone(),
                received: kept.received.iter().map(|(id, message)| (*id, *message)).collect(),
            })
            .collect();
        let retained =
            state.retained.values().map(|message| (Tenant::default(), Arc::clone(message))).collect();
        Ok(Restored { sessions, retained })
    }

    fn record(&self, _: &Tenant, change: Change<'_>) -> Option<AckJoin> {
        let mut state = self.0.lock();
        let kind = match change {
            Change::Opened { client, expiry } => {
                state.sessions.entry(client.to_string()).or_default().expiry = expiry;
                return None;
            }
            Change::Closed { client } => {
                state.sessions.remove(&**client);
                return None;
            }
            Change::Subscribed { client, filter, options } => {
                let kept = state.sessions.get_mut(&**client)?;
                kept.subscriptions.insert(filter.to_string(), options);
                "subscribed"
            }
            Change::Unsubscribed { client, filter } => {
                state.sessions.get_mut(&**client)?.subscriptions.remove(&**filter);
                return None;
            }
            Change::Queued { client, message, qos } => {
                let kept = state.sessions.get_mut(&**client)?;
                kept.queue.push((Arc::clone(message), qos, None));
                "queued"
            }
            Change::Sent { client, message, packet_id } => {
                let kept = state.sessions.get_mut(&**client)?;
                if let Some(entry) = kept.queue.iter_mut().find(|(queued, _, _)| queued.id == message) {
                    entry.2 = Some(packet_id);
                }
                return None;
            }
            Change::Finished { client, message } => {
                let kept = state.sessions.get_mut(&**client)?;
                kept.queue.retain(|(queued, _, _)| queued.id != message);
                return None;
            }
            Change::Received { client, packet_id, message } => {
                state.sessions.get_mut(&**client)?.received.insert(packet_id, message);
                "received"
            }
            Change::Released { client, packet_id } => {
                state.sessions.get_mut(&**client)?.received.remove(&packet_id);
                return None;
            }
            Change::Retained { message } => {
                state.retained.insert(message.topic.to_string(), Arc::clone(message));
                "retained"
            }
            Change::RetainCleared { topic } => {
                state.retained.remove(topic.as_str());
                return None;
            }
        };
        let join = AckJoin::new();
        let part = join.part();
        if state.slow {
            state.parts.push((kind, part));
        } else {
            part.done();
        }
        Some(join)
    }
}
