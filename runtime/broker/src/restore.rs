//! Applies what the session store kept over a restart.

use std::sync::Arc;
use std::time::Duration;

use tidegate_event::{
    Change, Message, Restored, RestoredSession, SessionNumber, SharedFilter, Shown, StoredWill, Tenant,
    now_ms,
};

use crate::broker::Shared;
use crate::limits::budget::{Account, ChargedOnce};
use crate::realm::Realm;
use crate::retained::Set;
use crate::session::{LateWill, RecordedWill, Session};

/// A will whose delay passed while the process was away.
pub(crate) struct Overdue {
    pub(crate) realm: Arc<Realm>,
    pub(crate) will: LateWill,
}

/// Makes the sessions and retained messages of `restored` as they were. Nobody is connected. Gives the wills that are to be
/// published: not before all sessions are there, some of which subscribe to them, and handlers are, which decide on them.
pub(crate) fn apply(shared: &Arc<Shared>, restored: Restored) -> Vec<Overdue> {
    let mut overdue = Vec::new();
    let (sessions, retained) = (restored.sessions.len(), restored.retained.len());
    for (tenant, message) in restored.retained {
        retain(shared, &tenant, message);
    }
    let mut charged = ChargedOnce::new(&shared.budget);
    for session in restored.sessions {
        restore(shared, session, &mut overdue, &mut charged);
    }
    for (tenant, number, will) in restored.wills {
        overdue.push(Overdue { realm: shared.realm(&tenant), will: late(number, &will) });
    }
    if sessions + retained > 0 {
        tracing::info!(sessions, retained, "restored the durable state");
    }
    overdue
}

fn retain(shared: &Arc<Shared>, tenant: &Tenant, message: Arc<Message>) {
    let realm = shared.realm(tenant);
    let topic = message.topic.clone();
    match realm.retained.set(message, shared.config.retained_limits()) {
        Set::Full | Set::Cleared => {
            let topic = Shown(topic.as_str());
            tracing::warn!(%tenant, %topic, "a retained message was not restored: the retained store is full");
        }
        Set::New | Set::Replaced => shared.metrics.retained.increment(1.0),
    }
}

fn restore(
    shared: &Arc<Shared>,
    mut restored: RestoredSession,
    overdue: &mut Vec<Overdue>,
    charged: &mut ChargedOnce,
) {
    let realm = shared.realm(&restored.tenant);
    let number = restored.number;
    let session = Arc::new(Session::new(number, restored.client.clone(), 0, restored.expiry));
    session.belong_to(restored.owner.take());
    for (text, options) in &restored.subscriptions {
        match SharedFilter::parse(text) {
            Ok(filter) => session.restore_subscription(&realm, text, &filter, *options),
            Err(error) => {
                tracing::warn!(client = %Shown(&restored.client), filter = %Shown(text), %error, "not restored")
            }
        }
    }
    let wills = std::mem::take(&mut restored.wills);
    let now = now_ms();
    let gone_ms = match restored.disconnected_at_ms {
        Some(at_ms) => now.saturating_sub(at_ms),
        // Its connection ended with the process.
        None => {
            realm.record(Change::Disconnected { session: number, at_ms: now });
            0
        }
    };
    session.restore(&realm, restored, charged);
    realm.registry.restore(Arc::clone(&session));
    shared.metrics.sessions.increment(1.0);
    let gone = Duration::from_millis(gone_ms);
    start_wills(&realm, &session, &wills, gone, overdue);
    realm.start_expiry(&session, gone);
}

/// Of the `wills` of a client that has gone so long ago, those whose delay has passed are `overdue`; the last may still wait.
fn start_wills(
    realm: &Arc<Realm>,
    session: &Arc<Session>,
    wills: &[StoredWill],
    gone: Duration,
    overdue: &mut Vec<Overdue>,
) {
    let Some((last, earlier)) = wills.split_last() else { return };
    let mut is_due = |will| overdue.push(Overdue { realm: Arc::clone(realm), will });
    // Those of connections that were taken over.
    earlier.iter().for_each(|will| is_due(late(session.number, will)));
    let delay = Duration::from_secs(last.delay.min(session.expiry()).into()).saturating_sub(gone);
    let will = late(session.number, last);
    if delay.is_zero() {
        is_due(will);
    } else {
        realm.start_will(session, will, delay);
    }
}

fn late(session: SessionNumber, will: &StoredWill) -> LateWill {
    let recorded = RecordedWill { session, will: will.message.id };
    let (message, account) = (Message::clone(&will.message), Account::default());
    LateWill { message, recorded: Some(recorded), account }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tidegate_event::{QoS, RestoredDelivery, StoredDelivery, StoredSending, StoredSource};

    use super::*;
    use crate::session::test_message;

    fn large(id: u128, bytes: usize) -> Arc<Message> {
        let message = test_message("t", QoS::AtLeastOnce, id);
        Arc::new(Message { payload: vec![0; bytes].into(), ..Message::clone(&message) })
    }

    fn restored(number: SessionNumber, message: &Arc<Message>, sent: Arc<Message>) -> RestoredSession {
        let (qos, source) = (QoS::AtLeastOnce, StoredSource::Live);
        let delivery = |number| StoredDelivery {
            number,
            message: Arc::clone(message),
            qos,
            retain: false,
            source: source.clone(),
            subscription_ids: None,
        };
        let sending = Some(StoredSending { sequence: 1, qos, replacement: Some(sent) });
        RestoredSession {
            number,
            tenant: Tenant::default(),
            client: format!("c{number}").into(),
            owner: None,
            expiry: 100,
            disconnected_at_ms: Some(now_ms()),
            wills: Vec::new(),
            subscriptions: Vec::new(),
            joining: Vec::new(),
            queue: vec![
                RestoredDelivery { delivery: delivery(1), sending, released: false },
                RestoredDelivery { delivery: delivery(2), sending: None, released: false },
            ],
            received: Vec::new(),
        }
    }

    /// It counted once a session after a restart, and what a handler had had sent in its place not at all.
    #[tokio::test]
    async fn a_large_payload_counts_once_however_many_sessions_are_restored_with_it() {
        let realm = crate::realm::test_realm(crate::BrokerConfig::default());
        let (queued, budget) = (large(1, 20_000), &realm.broker.budget);
        let sessions = (1..=3).map(|number| restored(number, &queued, large(1, 30_000))).collect();
        drop(queued);
        apply(&realm.broker, Restored { sessions, last_session: 3, ..Restored::default() });
        assert_eq!(budget.used(), 20_000 + 3 * 30_000);
        for session in realm.registry.all() {
            realm.end_session(&session, &mut session.seat().try_lock().unwrap());
        }
        assert_eq!(budget.used(), 0);
    }
}
