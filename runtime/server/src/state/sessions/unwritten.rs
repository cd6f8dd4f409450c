//! What is to be written of durable sessions: for each record what it becomes, however often it changed.
//!
//! A record that is added and removed before it was ever written leaves nothing here. When a commit fails, everything
//! stays and what comes later is laid over it, so the next commit that succeeds brings the disk to where memory is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytestring::ByteString;
use fjall::OwnedWriteBatch;
use tidegate_event::{
    Message, Owner, SessionNumber, StoredDelivery, StoredWill, SubscriptionOptions, Tenant,
};

use super::format::{
    DeliveryForm, MessageForm, OwnerForm, ReceiptForm, RetainedForm, SendingForm, SessionForm,
    SubscriptionForm, WillForm, encode,
};
use super::key::Key;
use crate::state::disk::Database;

/// What a record takes besides its content: an estimate.
const RECORD_BYTES: usize = 128;
/// Room for so many records is kept for the next commit.
pub(super) const KEPT_CAPACITY: usize = 4_096;

/// A record's content.
#[derive(Debug)]
pub(super) enum Value {
    LastSession(SessionNumber),
    Session {
        tenant: Tenant,
        client: ByteString,
        expiry: u32,
        disconnected_at_ms: Option<u64>,
        owner: Option<Owner>,
    },
    Subscription {
        filter: ByteString,
        options: SubscriptionOptions,
        joining: bool,
    },
    Will {
        tenant: Tenant,
        will: StoredWill,
    },
    Retained {
        tenant: Tenant,
        message: Arc<Message>,
    },
    /// `body` is the number of its message.
    Delivery {
        delivery: StoredDelivery,
        body: u64,
    },
    Sending(SendingForm),
    Receipt(ReceiptForm),
    Body(Arc<Message>),
}

/// What a record becomes.
#[derive(Debug)]
struct Record {
    /// Whether the disk has an earlier content, as far as is known.
    is_on_disk: bool,
    /// `None`: it goes.
    value: Option<Value>,
}

/// A message that went into the record of its only delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inlined {
    pub(super) session: SessionNumber,
    pub(super) delivery: u64,
    pub(super) body: u64,
}

/// What was put into a batch.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) inlined: Vec<Inlined>,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// Records that are not as they should be on disk.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    records: HashMap<Key, Record>,
}

impl Unwritten {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The record gets `value`. `was_there`: it may have been there before.
    pub(super) fn put(&mut self, key: Key, value: Value, was_there: bool) {
        match self.records.entry(key) {
            Entry::Occupied(mut entry) => entry.get_mut().value = Some(value),
            Entry::Vacant(entry) => {
                entry.insert(Record { is_on_disk: was_there, value: Some(value) });
            }
        }
    }

    /// The record goes, which was there.
    pub(super) fn remove(&mut self, key: Key) {
        match self.records.entry(key) {
            Entry::Occupied(entry) if !entry.get().is_on_disk => drop(entry.remove()),
            Entry::Occupied(mut entry) => entry.get_mut().value = None,
            Entry::Vacant(entry) => {
                entry.insert(Record { is_on_disk: true, value: None });
            }
        }
    }

    /// About how many bytes of memory it takes.
    pub(super) fn size(&self) -> usize {
        let content = |record: &Record| match &record.value {
            Some(Value::Body(message) | Value::Retained { message, .. }) => message.size(),
            Some(Value::Will { will, .. }) => will.message.size(),
            Some(Value::Subscription { filter, .. }) => filter.len(),
            Some(Value::Session { client, owner, .. }) => {
                client.len() + owner.as_ref().map_or(0, |owner| owner.user.len())
            }
            Some(Value::LastSession(_) | Value::Delivery { .. } | Value::Sending(_) | Value::Receipt(_))
            | None => 0,
        };
        self.records.values().map(|record| RECORD_BYTES + content(record)).sum()
    }

    /// Puts everything into `batch`. `is_single` says whether only one delivery has the message of this number.
    ///
    /// # Errors
    /// A record cannot be made into bytes.
    pub(super) fn write(
        &self,
        database: &Database,
        batch: &mut OwnedWriteBatch,
        is_single: impl Fn(u64) -> bool,
    ) -> Result<Written, String> {
        let mut written = Written { inlined: self.inlined(is_single), ..Written::default() };
        let mut inlined: Vec<u64> = written.inlined.iter().map(|inlined| inlined.body).collect();
        inlined.sort_unstable();
        let is_inlined = |body: u64| inlined.binary_search(&body).is_ok();
        for (key, record) in &self.records {
            let keyspace = if key.kind().is_lasting() { &database.sessions } else { &database.deliveries };
            let value = match &record.value {
                None => {
                    batch.remove(keyspace, key.to_bytes());
                    written.records += 1;
                    continue;
                }
                Some(Value::Body(_)) if matches!(key, Key::Body(body) if is_inlined(*body)) => continue,
                Some(Value::Delivery { delivery, body }) => {
                    encode(&DeliveryForm::new(delivery, (!is_inlined(*body)).then_some(*body)))
                }
                Some(Value::LastSession(number)) => encode(number),
                Some(Value::Session { tenant, client, expiry, disconnected_at_ms, owner }) => {
                    encode(&SessionForm {
                        tenant: tenant.name().into(),
                        client: client.clone(),
                        expiry: *expiry,
                        disconnected_at_ms: *disconnected_at_ms,
                        owner: owner.as_ref().map(OwnerForm::new),
                    })
                }
                Some(Value::Subscription { filter, options, joining }) => {
                    encode(&SubscriptionForm::new(filter, *options, *joining))
                }
                Some(Value::Will { tenant, will }) => encode(&WillForm::new(tenant, will)),
                Some(Value::Retained { tenant, message }) => encode(&RetainedForm::new(tenant, message)),
                Some(Value::Sending(form)) => encode(form),
                Some(Value::Receipt(form)) => encode(form),
                Some(Value::Body(message)) => encode(&MessageForm::new(message)),
            };
            let (name, value) = (key.to_bytes(), value.map_err(|error| format!("{key}: {error}"))?);
            written.records += 1;
            written.bytes += (name.len() + value.len()) as u64;
            batch.insert(keyspace, name, value);
        }
        Ok(written)
    }

    /// Messages that need no record of their own: one delivery waits for each, and nothing of both was ever written.
    fn inlined(&self, is_single: impl Fn(u64) -> bool) -> Vec<Inlined> {
        let is_new = |body: u64| self.records.get(&Key::Body(body)).is_some_and(|record| !record.is_on_disk);
        let inlined = |(key, record): (&Key, &Record)| match (key, &record.value) {
            (Key::Delivery(session, number), Some(Value::Delivery { body, .. }))
                if is_single(*body) && is_new(*body) =>
            {
                Some(Inlined { session: *session, delivery: *number, body: *body })
            }
            _ => None,
        };
        self.records.iter().filter_map(inlined).collect()
    }

    /// Everything is on disk.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.records.shrink_to(KEPT_CAPACITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(unwritten: &mut Unwritten, was_there: bool) {
        unwritten.put(Key::Session(1), Value::LastSession(1), was_there);
    }

    #[test]
    fn what_comes_and_goes_between_two_commits_leaves_nothing() {
        let mut unwritten = Unwritten::default();
        put(&mut unwritten, false);
        put(&mut unwritten, true);
        unwritten.remove(Key::Session(1));
        assert!(unwritten.is_empty());
    }

    #[test]
    fn what_is_on_disk_is_removed_there_even_if_it_came_back_meanwhile() {
        let mut unwritten = Unwritten::default();
        unwritten.remove(Key::Session(1));
        put(&mut unwritten, false);
        unwritten.remove(Key::Session(1));
        assert_eq!(unwritten.len(), 1);
        put(&mut unwritten, true);
        assert_eq!(unwritten.len(), 1);
    }
}
