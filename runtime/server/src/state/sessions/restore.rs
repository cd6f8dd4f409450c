//! Reads durable sessions back, once, at start.
//!
//! Records lie in the order of their sessions, kind by kind, so all kinds are read side by side and nothing is held but what
//! becomes of it. A record that cannot be read is an error, never passed over; one whose session is gone is removed, which
//! no commit leaves behind.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_event::{
    Message, Restored, RestoredDelivery, RestoredReceipt, RestoredSession, SessionNumber, StoredSending,
    Tenant,
};

use super::format::{
    BodyForm, DeliveryForm, Form, MessageForm, OwnerForm, ReceiptForm, RetainedForm, SendingForm,
    SessionForm, SubscriptionForm, WillForm, decode,
};
use super::index::{Delivery, Index, Session};
use super::key::{Key, Kind};
use super::unwritten::Unwritten;
use crate::state::disk::{Database, guarded};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// For the broker.
    pub(super) restored: Restored,
    /// For the thread that writes.
    pub(super) index: Index,
    /// Records that nothing needs.
    pub(super) orphans: Unwritten,
}

/// Reads everything.
///
/// # Errors
/// What cannot be read.
pub(super) fn read(database: &Database) -> Result<Found, String> {
    let mut reader = Reader {
        bodies: bodies(database)?,
        tenants: HashMap::new(),
        found: Found::default(),
        subscriptions: Records::of(database, Kind::Subscription)?,
        wills: Records::of(database, Kind::Will)?,
        deliveries: Records::of(database, Kind::Delivery)?,
        sendings: Records::of(database, Kind::Sending)?,
        receipts: Records::of(database, Kind::Receipt)?,
    };
    let mut last = Records::of(database, Kind::LastSession)?;
    if let Some((_, number)) = last.next_as::<SessionNumber>()? {
        reader.found.index.last_session = number;
    }
    let mut sessions = Records::of(database, Kind::Session)?;
    while let Some((key, form)) = sessions.next_as::<SessionForm>()? {
        if let Key::Session(number) = key {
            reader.session(number, form)?;
        }
    }
    reader.rest()?;
    let mut retained = Records::of(database, Kind::Retained)?;
    while let Some((key, form)) = retained.next_as::<RetainedForm>()? {
        let tenant = reader.tenant(&form.tenant);
        let message = form.message.into_message().map_err(wrong(key))?;
        reader.found.restored.retained.push((tenant, Arc::new(message)));
    }
    Ok(reader.end())
}

fn wrong(key: Key) -> impl Fn(String) -> String {
    move |reason| format!("{key} {reason}")
}

/// The records of one kind, in order.
struct Records {
    rows: fjall::Iter,
    head: Option<(Key, fjall::UserValue)>,
}

impl Records {
    fn of(database: &Database, kind: Kind) -> Result<Self, String> {
        let keyspace = if kind.is_lasting() { &database.sessions } else { &database.deliveries };
        let mut records = Self { rows: keyspace.prefix([kind as u8]), head: None };
        records.advance()?;
        Ok(records)
    }

    fn advance(&mut self) -> Result<(), String> {
        self.head = None;
        let Some(row) = guarded(|| self.rows.next().map(|row| row.into_inner()).transpose())? else {
            return Ok(());
        };
        let key = Key::from_bytes(&row.0);
        let key = key.ok_or_else(|| format!("the key {:02x?} is none of a session", &*row.0))?;
        self.head = Some((key, row.1));
        Ok(())
    }

    /// The next record whatever it belongs to.
    fn next(&mut self) -> Result<Option<(Key, fjall::UserValue)>, String> {
        let head = self.head.take();
        if head.is_some() {
            self.advance()?;
        }
        Ok(head)
    }

    fn next_as<T: Form>(&mut self) -> Result<Option<(Key, T)>, String> {
        let Some((key, value)) = self.next()? else { return Ok(None) };
        Ok(Some((key, decode(&value).map_err(wrong(key))?)))
    }

    /// The next record for which `belongs` holds, if the next one is one.
    fn next_if<T: Form>(&mut self, belongs: impl FnOnce(Key) -> bool) -> Result<Option<(Key, T)>, String> {
        match &self.head {
            Some((key, _)) if belongs(*key) => self.next_as(),
            _ => Ok(None),
        }
    }

    /// The next record of `session`.
    fn next_of<T: Form>(&mut self, session: SessionNumber) -> Result<Option<(Key, T)>, String> {
        self.next_if(|key| key.session() == Some(session))
    }

    /// Gives the records before those of `session` to `orphans`.
    fn pass_to(&mut self, session: SessionNumber, orphans: &mut Unwritten) -> Result<(), String> {
        while let Some((key, _)) = &self.head
            && key.session() < Some(session)
        {
            orphans.remove(*key);
            self.next()?;
        }
        Ok(())
    }
}

/// A message with a number, and how many deliveries want it.
struct Body {
    message: Arc<Message>,
    wanted: u32,
}

fn bodies(database: &Database) -> Result<HashMap<u64, Body>, String> {
    let mut bodies = HashMap::new();
    let mut records = Records::of(database, Kind::Body)?;
    while let Some((key, form)) = records.next_as::<MessageForm>()? {
        if let Key::Body(number) = key {
            let message = Arc::new(form.into_message().map_err(wrong(key))?);
            bodies.insert(number, Body { message, wanted: 0 });
        }
    }
    Ok(bodies)
}

fn shared(bodies: &mut HashMap<u64, Body>, number: u64) -> Result<Arc<Message>, String> {
    let body = bodies.get_mut(&number).ok_or_else(|| format!("needs message {number}, which is missing"))?;
    body.wanted += 1;
    Ok(body.message.clone())
}

struct Reader {
    bodies: HashMap<u64, Body>,
    /// A name is held once, however many sessions have it.
    tenants: HashMap<String, Tenant>,
    found: Found,
    subscriptions: Records,
    wills: Records,
    deliveries: Records,
    sendings: Records,
    receipts: Records,
}

impl Reader {
    fn tenant(&mut self, name: &str) -> Tenant {
        if let Some(tenant) = self.tenants.get(name) {
            return tenant.clone();
        }
        let tenant = Tenant::new(name);
        self.tenants.insert(name.to_owned(), tenant.clone());
        tenant
    }

    fn session(&mut self, number: SessionNumber, form: SessionForm) -> Result<(), String> {
        let tenant = self.tenant(&form.tenant);
        let owner = form.owner.map(OwnerForm::into_owner);
        let mut kept = Session {
            owner: owner.clone(),
            ..Session::new(tenant.clone(), &form.client, form.expiry, form.disconnected_at_ms)
        };
        let mut restored = RestoredSession {
            number,
            tenant,
            client: form.client,
            owner,
            expiry: form.expiry,
            disconnected_at_ms: form.disconnected_at_ms,
            wills: Vec::new(),
            subscriptions: Vec::new(),
            joining: Vec::new(),
            queue: Vec::new(),
            received: Vec::new(),
        };
        let orphans = &mut self.found.orphans;
        self.subscriptions.pass_to(number, orphans)?;
        while let Some((key, form)) = self.subscriptions.next_of::<SubscriptionForm>(number)? {
            if let Key::Subscription(_, name) = key {
                kept.subscriptions.insert(name);
            }
            if form.joining {
                restored.joining.push(form.filter.clone());
            }
            restored.subscriptions.push((form.filter.clone(), form.options().map_err(wrong(key))?));
        }
        self.ended_wills(Some(number))?;
        while let Some((key, form)) = self.wills.next_of::<WillForm>(number)? {
            let will = form.into_will().map_err(wrong(key))?;
            self.found.index.wills.insert((number, will.message.id));
            restored.wills.push(will);
        }
        self.queue(number, &mut kept, &mut restored)?;
        self.receipts.pass_to(number, &mut self.found.orphans)?;
        while let Some((key, form)) = self.receipts.next_of::<ReceiptForm>(number)? {
            if let Key::Receipt(_, packet_id) = key {
                kept.receipts.insert(packet_id);
                let receipt = RestoredReceipt { packet_id, message: form.message(), handled: form.handled };
                restored.received.push(receipt);
            }
        }
        let index = &mut self.found.index;
        index.last_session = index.last_session.max(number);
        index.deliveries += kept.deliveries.len() as u64;
        index.sessions.insert(number, kept);
        self.found.restored.sessions.push(restored);
        Ok(())
    }

    fn queue(
        &mut self,
        session: SessionNumber,
        kept: &mut Session,
        restored: &mut RestoredSession,
    ) -> Result<(), String> {
        let bodies = &mut self.bodies;
        self.deliveries.pass_to(session, &mut self.found.orphans)?;
        self.sendings.pass_to(session, &mut self.found.orphans)?;
        while let Some((key, form)) = self.deliveries.next_of::<DeliveryForm>(session)? {
            let Key::Delivery(_, number) = key else { continue };
            let body = match form.body {
                BodyForm::Own(_) => None,
                BodyForm::Shared(body) => Some(body),
            };
            let delivery = form.into_delivery(number, |body| shared(bodies, body)).map_err(wrong(key))?;
            // One without its delivery.
            while let Some((key, _)) = &self.sendings.head
                && matches!(key, Key::Sending(of, other) if *of == session && *other < number)
            {
                self.found.orphans.remove(*key);
                self.sendings.next()?;
            }
            let own = Key::Sending(session, number);
            let progress = self.sendings.next_if::<SendingForm>(|key| key == own)?.map(|(_, form)| form);
            let sending = match progress.and_then(|progress| progress.sent) {
                None => None,
                Some(sent) => Some(StoredSending {
                    sequence: sent.sequence,
                    qos: sent.qos().map_err(wrong(own))?,
                    replacement: match sent.replacement {
                        None => None,
                        Some(body) => Some(shared(bodies, body).map_err(wrong(own))?),
                    },
                }),
            };
            kept.deliveries.insert(number, Delivery { body, sending: progress });
            let released = progress.is_some_and(|progress| progress.released);
            restored.queue.push(RestoredDelivery { delivery, sending, released });
        }
        Ok(())
    }

    /// Takes the wills before those of `session`: their sessions have ended. `None`: all that are left.
    fn ended_wills(&mut self, session: Option<SessionNumber>) -> Result<(), String> {
        let is_before = |key: Key| session.is_none_or(|session| key.session() < Some(session));
        while let Some((key, form)) = self.wills.next_if::<WillForm>(is_before)? {
            let Key::Will(number, _) = key else { continue };
            let tenant = self.tenant(&form.tenant);
            let will = form.into_will().map_err(wrong(key))?;
            self.found.index.wills.insert((number, will.message.id));
            self.found.restored.wills.push((tenant, number, will));
        }
        Ok(())
    }

    /// What lies behind the last session.
    fn rest(&mut self) -> Result<(), String> {
        self.ended_wills(None)?;
        for records in [&mut self.subscriptions, &mut self.deliveries, &mut self.sendings, &mut self.receipts]
        {
            while let Some((key, _)) = records.next()? {
                self.found.orphans.remove(key);
            }
        }
        Ok(())
    }

    fn end(mut self) -> Found {
        let index = &mut self.found.index;
        for (number, body) in self.bodies {
            index.last_body = index.last_body.max(number);
            if body.wanted == 0 {
                self.found.orphans.remove(Key::Body(number));
            } else {
                index.bodies.insert(number, body.wanted);
            }
        }
        self.found.restored.last_session = index.last_session;
        self.found
    }
}
