//! Leave to publish and to subscribe: asked for in the first stage, so that every packet keeps its place.

use std::sync::Arc;

use tidegate_event::{Access, Event, Hook, Message, Origin, ReasonCode, Requested, Verdict};

use super::{Inbound, Joining, Pipeline, Subscribing, Wanted};
use crate::leave::{Leave, Question};

/// What is asked about each filter of a client's SUBSCRIBE, in this order.
pub(crate) const ASKED_OF_CLIENTS: &[Hook] = &[Hook::ClientAuthorize, Hook::ClientSubscribe];

impl Pipeline {
    /// Whether the gate lets `message` be published, before handlers are asked.
    pub(super) fn may_publish(&mut self, message: &Message) -> bool {
        self.realm.broker.guard.may_publish(message, &mut self.answers)
    }

    /// Asks whether `message` may be published. `None`: nobody is to be asked. Messages of modules need no leave.
    pub(super) fn ask_publish(&self, message: &Arc<Message>) -> Option<Question> {
        if !self.authorize_bound || !matches!(message.origin, Origin::Client | Origin::Will) {
            return None;
        }
        let client = Arc::clone(message.publisher.as_ref()?);
        let access = Access::Publish(Arc::clone(message));
        Question::ask(&self.realm.broker, Event::ClientAuthorize { client, access })
    }

    /// The answer to [`ask_publish`](Self::ask_publish).
    pub(super) fn publish_answered(&mut self, inbound: Inbound, leave: Leave) {
        leave.count(Hook::ClientAuthorize, &self.realm.broker.metrics);
        let verdict = match leave {
            Leave::Given | Leave::Changed(_) => return self.raise_permitted(inbound),
            Leave::Refused(code) => Verdict::Reject(code),
            Leave::Unknown(code) => Verdict::Fail(code),
        };
        let (client, topic) = (&inbound.message.sender, &inbound.message.topic);
        tracing::debug!(%client, %topic, ?verdict, "no leave to publish");
        self.joining.push_back(Joining::Publish(inbound, verdict, None));
    }

    /// Asks what is to be asked next about `wanted`, a filter of `request`. `None`: nothing.
    pub(super) fn ask_subscribe(&self, wanted: &mut Wanted, request: &Subscribing) -> Option<Question> {
        self.ask_gate(wanted);
        if wanted.leave.is_empty() || self.objection(wanted, request).is_some() {
            return None;
        }
        let (client, Ok(filter)) = (self.client.as_ref()?, &wanted.filter) else { return None };
        while let Some((hook, rest)) = wanted.leave.split_first() {
            wanted.leave = rest;
            if !self.is_bound(*hook) {
                continue;
            }
            let (text, qos) = (wanted.text.clone(), wanted.options.qos);
            let request = Arc::new(Requested { text, filter: filter.clone(), qos });
            let client = Arc::clone(client);
            let event = match hook {
                Hook::ClientSubscribe => Event::ClientSubscribe { client, request },
                _ => Event::ClientAuthorize { client, access: Access::Subscribe(request) },
            };
            if let Some(question) = Question::ask(&self.realm.broker, event) {
                return Some(question);
            }
        }
        None
    }

    /// Asks the gate about a filter that a client wants, before any handler: here, where others have their turn after some
    /// filters, because it may have many lines to look through.
    fn ask_gate(&self, wanted: &mut Wanted) {
        let (Some(client), Ok(filter)) = (&self.client, &wanted.filter) else { return };
        let is_first = wanted.leave.len() == ASKED_OF_CLIENTS.len();
        if is_first && !self.realm.broker.guard.may_subscribe(client, &filter.filter) {
            wanted.filter = Err(ReasonCode::NOT_AUTHORIZED);
        }
    }

    /// The answer to a question about the filter of `request` whose turn it is.
    pub(super) fn subscribe_answered(&mut self, mut request: Subscribing, hook: Hook, leave: Leave) {
        leave.count(hook, &self.realm.broker.metrics);
        match (leave, request.wanted.front_mut()) {
            (Leave::Changed(other), Some(wanted)) => wanted.change(&other),
            (Leave::Refused(code) | Leave::Unknown(code), Some(wanted)) => {
                let (client, filter) = (self.client_id(), &wanted.text);
                tracing::debug!(client, %filter, hook = hook.name(), code = code.0, "no leave to subscribe");
                request.reasons.push(code);
                request.wanted.pop_front();
            }
            (Leave::Given, _) | (_, None) => {}
        }
        self.raise_subscribe(request);
    }
}

impl Wanted {
    /// Takes what a handler wants instead.
    fn change(&mut self, other: &Requested) {
        self.text = other.text.clone();
        self.options.qos = other.qos;
        // A shared subscription must not have it (MQTT 5 clause 3.8.3.1).
        self.options.no_local &= other.filter.group.is_none();
        self.filter = Ok(other.filter.clone());
    }
}
