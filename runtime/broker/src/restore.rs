//! Applies what the session store kept over a restart.

use std::sync::Arc;
use std::time::Duration;

use tidegate_event::{
    Change, Message, Restored, RestoredSession, SessionNumber, SharedFilter, Shown, StoredWill, Tenant,
    now_ms,
};

use crate::broker::Shared;
use crate::limits::budget::Account;
use crate::realm::Realm;
use crate::retained::Set;
use crate::session::{LateWill, RecordedWill, Session};

/// Makes the sessions and retained messages of `restored` as they were. Nobody is connected.
pub(crate) fn apply(shared: &Arc<Shared>, restored: Restored) {
    let (sessions, retained) = (restored.sessions.len(), restored.retained.len());
    for (tenant, message) in restored.retained {
        retain(shared, &tenant, message);
    }
    for session in restored.sessions {
        restore(shared, session);
    }
    for (tenant, number, will) in restored.wills {
        shared.realm(&tenant).publish_later(late(number, &will));
    }
    if sessions + retained > 0 {
        tracing::info!(sessions, retained, "restored the durable state");
    }
}

fn retain(shared: &Arc<Shared>, tenant: &Tenant, message: Arc<Message>) {
    let realm = shared.realm(tenant);
    match realm.retained.set(message, shared.config.retained_limits()) {
        Set::Full => {
            tracing::warn!(%tenant, "a retained message was not restored: the retained store is full");
        }
        Set::New | Set::Replaced => shared.metrics.retained.increment(1.0),
    }
}

fn restore(shared: &Arc<Shared>, mut restored: RestoredSession) {
    let realm = shared.realm(&restored.tenant);
    let number = restored.number;
    let session = Arc::new(Session::new(number, restored.client.clone(), 0, restored.expiry));
    if let Some(owner) = restored.owner.take() {
        session.belong_to(owner);
    }
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
    session.restore(&realm, restored);
    realm.registry.restore(Arc::clone(&session));
    shared.metrics.sessions.increment(1.0);
    let gone = Duration::from_millis(gone_ms);
    start_wills(&realm, &session, &wills, gone);
    realm.start_expiry(&session, gone);
}

/// Publishes the `wills` of a client that has gone so long ago, or waits for the end of their delay.
fn start_wills(realm: &Arc<Realm>, session: &Arc<Session>, wills: &[StoredWill], gone: Duration) {
    let Some((last, earlier)) = wills.split_last() else { return };
    // Those of connections that were taken over.
    for will in earlier {
        realm.publish_later(late(session.number, will));
    }
    let delay = Duration::from_secs(last.delay.min(session.expiry()).into()).saturating_sub(gone);
    let will = late(session.number, last);
    if delay.is_zero() {
        realm.publish_later(will);
    } else {
        realm.start_will(session, will, delay);
    }
}

fn late(session: SessionNumber, will: &StoredWill) -> LateWill {
    let recorded = RecordedWill { session, will: will.message.id };
    let (message, account) = (Message::clone(&will.message), Account::default());
    LateWill { message, recorded: Some(recorded), account }
}
