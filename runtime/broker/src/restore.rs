//! Applies what the session store kept over a restart.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_event::{Restored, RestoredSession, SharedFilter};

use crate::broker::Shared;
use crate::retained::Set;
use crate::session::Session;
use crate::session::delivery::{Delivery, Source};

/// Makes the sessions and retained messages of `restored` as they were. Nobody is connected, so every session's
/// expiry begins now.
pub(crate) fn apply(shared: &Arc<Shared>, restored: Restored) {
    let (sessions, retained) = (restored.sessions.len(), restored.retained.len());
    for (tenant, message) in restored.retained {
        let realm = shared.realm(&tenant);
        match realm.retained.set(message, shared.config.max_retained_bytes) {
            Set::Full => {
                tracing::warn!(%tenant, "a retained message was not restored: the retained store is full");
            }
            Set::New | Set::Replaced => shared.metrics.retained.increment(1.0),
        }
    }
    for session in restored.sessions {
        restore(shared, session);
    }
    if sessions + retained > 0 {
        tracing::info!(sessions, retained, "restored the durable state");
    }
}

fn restore(shared: &Arc<Shared>, restored: RestoredSession) {
    let realm = shared.realm(&restored.tenant);
    let number = shared.session_numbers.fetch_add(1, Ordering::Relaxed);
    let session = Arc::new(Session::new(number, restored.client.clone(), 0, restored.expiry));
    for (text, options) in &restored.subscriptions {
        match SharedFilter::parse(text) {
            Ok(filter) => session.restore_subscription(&realm, text, &filter, *options),
            Err(error) => tracing::warn!(client = %restored.client, filter = %text, %error, "not restored"),
        }
    }
    session.received().restore(&restored.received);
    let mut waiting = VecDeque::new();
    if let Ok(mut seat) = Arc::clone(session.seat()).try_lock_owned() {
        for (message, qos, packet_id) in restored.queue {
            let delivery = Delivery {
                message,
                subscription_ids: None,
                qos,
                retain: false,
                recorded: true,
                source: Source::Live,
            };
            match packet_id {
                Some(packet_id) => seat.inflight.restore(delivery, packet_id),
                None => waiting.push_back(delivery),
            }
        }
    }
    session.disconnect(&realm, waiting.into_iter());
    realm.registry.restore(Arc::clone(&session));
    shared.metrics.sessions.increment(1.0);
    realm.start_expiry(&session);
}
