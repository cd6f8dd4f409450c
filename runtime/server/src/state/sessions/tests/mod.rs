//! Durable sessions over restarts: what was recorded is found, as it was, and nothing else.

#![allow(clippy::unwrap_used, reason = "tests")]

mod faults;
mod kept;
mod killed;
mod rate;
mod records;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidegate_event::{
    AckError, Change, Message, MsgId, Origin, PublishProperties, QoS, Restored, RestoredSession,
    SessionNumber, SessionStore, StoredDelivery, StoredSending, StoredSource, StoredWill,
    SubscriptionOptions, Tenant,
};

use super::SessionDurability;
use super::watch::PATIENCE;
use crate::state::State;

/// An open state and its sessions.
struct Store {
    state: Arc<State>,
    sessions: Arc<dyn SessionStore>,
}

impl Store {
    /// Opens the state in `dir` and reads what is there.
    fn open(dir: &Path) -> (Self, Restored) {
        Self::open_with(dir, SessionDurability::Synced)
    }

    fn open_with(dir: &Path, durability: SessionDurability) -> (Self, Restored) {
        Self::open_patient(dir, durability, PATIENCE)
    }

    /// A commit may take as long as `patience`.
    fn open_patient(dir: &Path, durability: SessionDurability, patience: Duration) -> (Self, Restored) {
        let state = State::open_with(&dir.join("state"), 1 << 20, patience).unwrap();
        let sessions = state.sessions(durability);
        let restored = sessions.restore().unwrap();
        (Self { state, sessions }, restored)
    }

    fn record(&self, change: Change) {
        self.sessions.record(&Tenant::default(), change);
    }

    async fn durable(&self) -> Result<(), AckError> {
        self.sessions.durable().await
    }

    /// Records `changes` and waits until they are on disk.
    async fn keep(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.record(change);
        }
        self.durable().await.unwrap();
    }

    /// Ends as the process does.
    async fn close(self) {
        let Self { state, sessions } = self;
        drop(sessions);
        crate::state::tests::close(state).await;
    }

    /// Closes it, opens it again and gives what is found.
    async fn again(self, dir: &Path) -> (Self, Restored) {
        self.close().await;
        Self::open(dir)
    }

    /// How many records of this kind there are on disk.
    fn records(&self, kind: super::key::Kind) -> usize {
        let count = |database: &crate::state::Database| {
            let keyspace = if kind.is_lasting() { &database.sessions } else { &database.deliveries };
            Ok(keyspace.prefix([kind as u8]).count())
        };
        self.state.disk.read(count).unwrap()
    }
}

fn message(topic: &str, payload: &str) -> Arc<Message> {
    Arc::new(Message {
        id: MsgId::from_bits(
            payload.bytes().fold(7, |id: u128, byte| id.wrapping_mul(31) + u128::from(byte)),
        ),
        topic: topic.parse().unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        timestamp_ms: 1_700_000_000_000,
        sender: "sender".into(),
        publisher: None,
        properties: None,
        origin: Origin::Client,
        hops: 0,
    })
}

fn opened(session: SessionNumber, client: &str) -> Change {
    Change::Opened { session, client: ByteString::from(client), expiry: 3_600, owner: None, will: None }
}

fn will(payload: &str, delay: u32) -> StoredWill {
    StoredWill { message: message("wills", payload), delay }
}

fn subscribed(session: SessionNumber, filter: &str, id: u32) -> Change {
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, id, ..SubscriptionOptions::default() };
    Change::Subscribed { session, filter: filter.into(), options, joining: false }
}

fn delivery(number: u64, message: &Arc<Message>) -> StoredDelivery {
    StoredDelivery {
        number,
        message: message.clone(),
        qos: QoS::AtLeastOnce,
        retain: false,
        source: StoredSource::Live,
        subscription_ids: None,
    }
}

fn queued(session: SessionNumber, number: u64, message: &Arc<Message>) -> Change {
    Change::Queued { session, delivery: delivery(number, message) }
}

fn sent(session: SessionNumber, number: u64, sequence: u64, replacement: Option<Arc<Message>>) -> Change {
    let sending = StoredSending { sequence, qos: QoS::AtLeastOnce, replacement };
    Change::Sent { session, number, sending }
}

/// Payloads of what waits for the session, in order.
fn waiting(session: &RestoredSession) -> Vec<String> {
    let payload = |message: &Message| String::from_utf8(message.payload.to_vec()).unwrap();
    session.queue.iter().map(|delivery| payload(&delivery.delivery.message)).collect()
}

/// Everything of what was restored, to be compared.
fn text(restored: &impl std::fmt::Debug) -> String {
    format!("{restored:#?}")
}

fn all_properties() -> PublishProperties {
    PublishProperties {
        payload_format: Some(1),
        message_expiry: Some(60),
        content_type: Some("text/plain".into()),
        response_topic: Some("answers/here".into()),
        correlation_data: Some(Bytes::from_static(&[0, 255, 7])),
        user: vec![("a".into(), "1".into()), ("a".into(), "2".into()), ("".into(), "".into())],
    }
}
