//! The life of a PUBLISH: journal, handlers, verdict, routing, answer.

use std::collections::VecDeque;

use smallvec::SmallVec;
use std::sync::Arc;
use tidegate_event::{
    AckError, Change, Event, Message, MsgId, QoS, Raised, ReasonCode, Shown, TopicFilter, Verdict,
};

use super::{Granted, Inbound, Job, Joining, Pipeline, Raising, Reply};
use crate::codec::Ack;
use crate::metrics::{Drop, Refusal};
use crate::session::RecordedWill;
use crate::session::received::Meanwhile;
use crate::{reason, sys};

/// An answer that waits until what it promises is durable.
pub(super) enum Unsynced {
    /// Of a PUBLISH: to be acknowledged with this code, if it is to be acknowledged at all.
    Published {
        inbound: Answer,
        code: ReasonCode,
    },
    Subscribed {
        packet_id: Option<u16>,
        reasons: Vec<ReasonCode>,
        granted: Vec<Granted>,
    },
    Unsubscribed {
        packet_id: Option<u16>,
        reasons: Vec<ReasonCode>,
        removed: Vec<TopicFilter>,
    },
    /// Nothing is answered; the connection is closed. `resent`: the client has sent the message again.
    Close {
        resent: bool,
    },
}

/// What becomes of a message that the gate refuses.
const NO_LEAVE: Verdict = Verdict::Reject(ReasonCode::NOT_AUTHORIZED);

/// How a PUBLISH is answered.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    qos: Option<QoS>,
    packet_id: u16,
}

/// What becomes of a message.
enum Outcome {
    /// Routed as these.
    Route(SmallVec<[Arc<Message>; 1]>),
    /// Acknowledged as if it had been routed.
    Drop,
    /// Acknowledged with an error, or plainly where the version has none.
    Reject(ReasonCode),
    /// Acknowledged with an error, or the connection closed where the version has none.
    Fail(ReasonCode),
}

/// Whether nobody may publish `message`, whatever handlers and rules say: the topics of the server are not for
/// applications (MQTT 5 clause 4.7.2, "the Server SHOULD prevent Clients from using such Topic Names").
fn is_forbidden(message: &Message) -> bool {
    sys::is_system(&message.topic)
}

impl Pipeline {
    /// A message arrived. Without handlers, and with nothing before it, it is routed here and now; the answer
    /// is put into `replies`.
    pub(crate) fn publish(&mut self, inbound: Inbound, replies: &mut VecDeque<Reply>) {
        if !self.is_clear() || inbound.journal.is_some() || self.is_held_back() {
            self.push(Job::Publish(inbound));
            return;
        }
        self.publishes += 1;
        self.window_bytes += inbound.weight();
        if let Some(code) = inbound.refusal {
            replies.extend(self.complete_publish(inbound, Verdict::Reject(code), Ok(())));
            return;
        }
        if !self.may_publish(&inbound.message) {
            replies.extend(self.complete_publish(inbound, NO_LEAVE, Ok(())));
            return;
        }
        if let Some(question) = self.ask_publish(&inbound.message) {
            self.raising = Some(Raising::MayPublish(inbound, question));
            return;
        }
        match self.raise_message(&inbound.message) {
            Raised::Nothing => {
                self.fanout.may_gather = true;
                let reply = self.complete_publish(inbound, Verdict::Pass, Ok(()));
                self.fanout.may_gather = false;
                replies.extend(reply);
            }
            Raised::Running(handlers) => {
                self.raising = Some(Raising::Handlers(Job::Publish(inbound), handlers));
            }
        }
    }

    pub(super) fn begin_publish(&mut self, mut inbound: Inbound) {
        self.renew_id(&mut inbound);
        self.publishes += 1;
        self.window_bytes += inbound.weight();
        match inbound.journal.take() {
            Some(journal) => self.raising = Some(Raising::Journal(inbound, journal)),
            None => self.raise_publish(inbound),
        }
    }

    /// A message that had to wait gets its id when its turn comes: ids are to follow the order in which messages
    /// reach the stores. That of a QoS 2 message is recorded and stays.
    fn renew_id(&self, inbound: &mut Inbound) {
        if inbound.message.qos != QoS::ExactlyOnce
            && let Some(message) = Arc::get_mut(&mut inbound.message)
        {
            message.id = self.realm.broker.ids.next_id();
        }
    }

    pub(super) fn raise_publish(&mut self, inbound: Inbound) {
        if let Some(code) = inbound.refusal {
            self.joining.push_back(Joining::Publish(inbound, Verdict::Reject(code), None));
            return;
        }
        if !self.may_publish(&inbound.message) {
            self.joining.push_back(Joining::Publish(inbound, NO_LEAVE, None));
            return;
        }
        match self.ask_publish(&inbound.message) {
            Some(question) => self.raising = Some(Raising::MayPublish(inbound, question)),
            None => self.raise_permitted(inbound),
        }
    }

    /// Its publisher may publish it.
    pub(super) fn raise_permitted(&mut self, inbound: Inbound) {
        match self.raise_message(&inbound.message) {
            Raised::Nothing => self.raised(Job::Publish(inbound), None),
            Raised::Running(handlers) => {
                self.raising = Some(Raising::Handlers(Job::Publish(inbound), handlers));
            }
        }
    }

    fn raise_message(&self, message: &Arc<Message>) -> Raised {
        if !self.publish_bound || is_forbidden(message) {
            return Raised::Nothing;
        }
        let tenant = self.realm.tenant.clone();
        self.realm.broker.hooks.raise(Event::MessagePublish { message: Arc::clone(message), tenant })
    }

    /// The packet id of a QoS 2 message could not be made durable, so it must not be handled.
    pub(super) fn not_journalled(&mut self, inbound: Inbound, error: &AckError) {
        tracing::warn!(client = self.client_id(), %error, "a QoS 2 packet id was not recorded");
        let failed = Verdict::Fail(ReasonCode::UNSPECIFIED);
        self.joining.push_back(Joining::Publish(inbound, failed, None));
    }

    /// Every handler has reached its level, or failed to: routes the message and gives the answer, unless that
    /// must wait.
    pub(super) fn complete_publish(
        &mut self,
        inbound: Inbound,
        verdict: Verdict,
        stored: Result<(), AckError>,
    ) -> Option<Reply> {
        self.window_bytes = self.window_bytes.saturating_sub(inbound.weight());
        let answer = Answer { qos: inbound.answer(), packet_id: inbound.packet_id };
        let (id, will) = (inbound.message.id, inbound.will);
        self.fanout.read_at.position = inbound.position;
        let outcome = self.decide(inbound.message, verdict, stored);
        let outcome = self.unless_full(outcome, answer);
        let (messages, code) = match self.unless_unhealthy(outcome, answer) {
            Outcome::Route(messages) => (messages, ReasonCode::SUCCESS),
            Outcome::Drop => (SmallVec::new(), ReasonCode::SUCCESS),
            Outcome::Reject(code) | Outcome::Fail(code) if self.speaks_v5() => (SmallVec::new(), code),
            Outcome::Fail(_) if answer.qos.is_some() => {
                let resent = self.forget(answer).is_any();
                return self.sync(false, Unsynced::Close { resent });
            }
            Outcome::Reject(_) | Outcome::Fail(_) => (SmallVec::new(), ReasonCode::SUCCESS),
        };
        let settled = [self.settles(answer, code, id), will.map(RecordedWill::gone)];
        self.route(&messages, settled);
        // Who waits for no answer waits for the disk when that is behind, or memory fills with what is to be written.
        let recorded = std::mem::take(&mut self.fanout.recorded)
            && (answer.qos.is_some() || self.realm.broker.store.is_behind());
        self.sync(recorded, Unsynced::Published { inbound: answer, code })
    }

    /// Routes `messages`, and records what is `settled` with that. Both are found after a crash, or neither: a message
    /// that was routed but not known to be would be routed again when the client sends it again.
    fn route(&mut self, messages: &[Arc<Message>], settled: [Option<Change>; 2]) {
        let Self { realm, cache, fanout, .. } = self;
        if settled.iter().all(Option::is_none) {
            return messages.iter().for_each(|message| realm.route(message, cache, fanout));
        }
        // Not together with that.
        realm.spread(fanout);
        let mut settled = settled.into_iter().flatten();
        realm.broker.store.together(&mut || {
            messages.iter().for_each(|message| realm.route(message, cache, fanout));
            settled.by_ref().for_each(|change| realm.record(change));
        });
        fanout.recorded = true;
    }

    /// What is to be recorded of a QoS 2 message that is answered with `code`.
    fn settles(&self, answer: Answer, code: ReasonCode, message: MsgId) -> Option<Change> {
        let session = self.session.as_ref().filter(|session| session.is_recorded(&self.realm))?;
        let (session, packet_id) = (session.number, answer.packet_id);
        (answer.qos == Some(QoS::ExactlyOnce)).then_some(match reason::is_error(code) {
            true => Change::Freed { session, packet_id },
            false => Change::Handled { session, packet_id, message },
        })
    }

    /// Routes nothing of which the publisher could not be told that it is safe: the state cannot be written. The
    /// publisher keeps it, and those who would have got it at once do not get it twice.
    fn unless_unhealthy(&mut self, outcome: Outcome, answer: Answer) -> Outcome {
        let broker = &self.realm.broker;
        if !broker.keeps || answer.qos.is_none() {
            return outcome;
        }
        let Err(error) = broker.store.health() else { return outcome };
        let Outcome::Route(messages) = &outcome else { return outcome };
        let records = |message: &Arc<Message>| self.realm.would_record(message, &mut self.cache);
        let is_recorded = self.session.as_ref().is_some_and(|session| session.is_recorded(&self.realm));
        let records_itself = answer.qos == Some(QoS::ExactlyOnce) && is_recorded;
        if !records_itself && !messages.iter().any(records) {
            return outcome;
        }
        tracing::debug!(client = self.client_id(), %error, "a message is refused");
        self.realm.broker.metrics.refused(Refusal::StateFailed);
        Outcome::Fail(ReasonCode::UNSPECIFIED)
    }

    /// Refuses what cannot be retained, when its publisher can be told. For others it is delivered at least.
    fn unless_full(&self, outcome: Outcome, answer: Answer) -> Outcome {
        let Outcome::Route(messages) = &outcome else { return outcome };
        let limits = self.realm.broker.config.retained_limits();
        let fits = |message: &Arc<Message>| {
            !message.retain || message.payload.is_empty() || self.realm.retained.has_room(message, limits)
        };
        if answer.qos.is_none() || !self.speaks_v5() || messages.iter().all(fits) {
            return outcome;
        }
        if let Some(left_out) = self.realm.broker.lines.retained.turn() {
            tracing::warn!(
                client = self.client_id(),
                left_out,
                "refused: the store of retained messages is full"
            );
        }
        self.realm.broker.metrics.refused(Refusal::RetainedFull);
        Outcome::Reject(ReasonCode::QUOTA_EXCEEDED)
    }

    fn decide(&self, message: Arc<Message>, verdict: Verdict, stored: Result<(), AckError>) -> Outcome {
        let metrics = &self.realm.broker.metrics;
        if is_forbidden(&message) {
            metrics.refused(Refusal::SystemTopic);
            return Outcome::Reject(ReasonCode::NOT_AUTHORIZED);
        }
        match stored {
            Ok(()) => match verdict {
                // The last two are answers to other questions.
                Verdict::Pass | Verdict::Allow | Verdict::Change(_) => {
                    Outcome::Route(SmallVec::from_buf([message]))
                }
                Verdict::Replace(other) => Outcome::Route(SmallVec::from_buf([other])),
                Verdict::FanOut(others) => Outcome::Route(SmallVec::from_vec(others)),
                Verdict::Drop => {
                    self.realm.dropped(Drop::Handler);
                    Outcome::Drop
                }
                Verdict::Reject(code) => {
                    metrics.refused(Refusal::Rejected);
                    Outcome::Reject(code)
                }
                Verdict::Fail(code) => {
                    metrics.refused(Refusal::HandlerFailed);
                    Outcome::Fail(code)
                }
            },
            Err(error) => {
                let (client, topic) = (self.client_id(), Shown(message.topic.as_str()));
                tracing::warn!(client, %topic, msgid = %message.id, %error, "a message was not stored");
                match error {
                    AckError::Refused { code, .. } => {
                        metrics.refused(Refusal::StoreRefused);
                        Outcome::Reject(code)
                    }
                    AckError::Abandoned => {
                        metrics.refused(Refusal::StoreAbandoned);
                        Outcome::Fail(ReasonCode::UNSPECIFIED)
                    }
                }
            }
        }
    }

    /// What was promised is durable, or `failed` to be: the answer.
    pub(super) fn reply(&mut self, reply: Unsynced, failed: Option<AckError>) -> Option<Reply> {
        match reply {
            Unsynced::Published { inbound, code } => {
                self.publishes -= 1;
                // Nobody was promised anything of a QoS 0 message.
                let failed = failed.filter(|_| inbound.qos.is_some());
                let Some(error) = failed else { return self.answer(inbound, code) };
                self.realm.broker.metrics.refused(Refusal::StateFailed);
                tracing::warn!(client = self.client_id(), %error, "what became of a message was not recorded");
                if reason::is_error(code) {
                    // It was not routed.
                    return self.answer(inbound, code);
                }
                // It was routed and is not safe. Of QoS 1 the client may be told so: if it sends it again, it comes twice,
                // as it may. Of QoS 2 it may not: PUBREC with an error says that the message was not taken.
                if inbound.qos == Some(QoS::AtLeastOnce) && self.speaks_v5() {
                    return self.answer(inbound, ReasonCode::UNSPECIFIED);
                }
                let resent = self.routed(inbound).is_any();
                inbound.qos.map(|_| Reply::Close { resent })
            }
            Unsynced::Subscribed { packet_id, mut reasons, mut granted } => {
                self.subscribing -= 1;
                self.bringing -= granted.iter().filter(|granted| granted.pauses()).count();
                if let Some(error) = failed {
                    self.withdraw(&mut reasons, &mut granted, &error);
                }
                Some(Reply::Subscribed { packet_id, reasons, granted })
            }
            Unsynced::Unsubscribed { packet_id, mut reasons, removed } => {
                if let Some(error) = failed {
                    self.realm.broker.metrics.refused(Refusal::StateFailed);
                    tracing::warn!(client = self.client_id(), %error, "an UNSUBSCRIBE was not recorded");
                    if !self.speaks_v5() {
                        // UNSUBACK could only say that it was.
                        return Some(Reply::Close { resent: false });
                    }
                    reasons.fill(ReasonCode::UNSPECIFIED);
                }
                Some(Reply::Unsubscribed { packet_id, reasons, removed })
            }
            Unsynced::Close { resent } => {
                self.publishes -= 1;
                Some(Reply::Close { resent })
            }
        }
    }

    fn answer(&mut self, answer: Answer, code: ReasonCode) -> Option<Reply> {
        let ack = Ack { packet_id: answer.packet_id, reason: code };
        match answer.qos? {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Reply::PubAck(ack)),
            QoS::ExactlyOnce => {
                let meanwhile = if reason::is_error(code) {
                    // PUBREC with an error ends the exchange: the packet id is free (MQTT 5 clause 4.3.3).
                    self.forget(answer)
                } else {
                    let session = self.session.as_ref();
                    session.map(|session| session.received().answered(answer.packet_id)).unwrap_or_default()
                };
                Some(Reply::PubRec { ack, meanwhile })
            }
        }
    }

    /// A message was routed that cannot be acknowledged now: a QoS 2 message is not routed again. Gives what has come under its
    /// packet id meanwhile.
    fn routed(&self, answer: Answer) -> Meanwhile {
        let session = self.session.as_ref().filter(|_| answer.qos == Some(QoS::ExactlyOnce));
        session.map(|session| session.received().routed(answer.packet_id)).unwrap_or_default()
    }

    /// The packet id of a QoS 2 message that is not acknowledged is free again. Gives what has come under it meanwhile.
    fn forget(&self, answer: Answer) -> Meanwhile {
        let mut meanwhile = Meanwhile::default();
        if let (Some(QoS::ExactlyOnce), Some(session)) = (answer.qos, &self.session) {
            let mut received = session.received();
            meanwhile = received.forget(answer.packet_id);
            received.settle(&self.realm.broker.budget);
            drop(received);
            if session.is_recorded(&self.realm) {
                let (session, packet_id) = (session.number, answer.packet_id);
                self.realm.record(Change::Freed { session, packet_id });
            }
        }
        meanwhile
    }

    fn speaks_v5(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.protocol.is_v5())
    }

    /// Its client, for log lines.
    pub(super) fn client_id(&self) -> tracing::field::DisplayValue<Shown<'_>> {
        tracing::field::display(Shown(self.client.as_ref().map_or("", |client| &client.id)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tidegate_event::{Client, Protocol};

    use super::*;
    use crate::session::{Session, test_message};

    /// The packet ids of QoS 2 messages that were refused counted in the memory of all queues until the session ended.
    #[tokio::test]
    async fn packet_ids_of_messages_that_are_refused_do_not_count() {
        let realm = crate::realm::test_realm(crate::BrokerConfig::default());
        let budget = &realm.broker.budget;
        let session = Arc::new(Session::new(1, "c".into(), 1, 60));
        let client = Arc::new(Client { protocol: Protocol::V5, ..Client::default() });
        let mut pipeline = Pipeline::new(Arc::clone(&realm), Arc::clone(&session), client, None);
        let messages = (1..=200_u16).map(|packet_id| {
            let message = test_message("t", QoS::ExactlyOnce, packet_id.into());
            let refusal = Some(reason::PAYLOAD_FORMAT_INVALID);
            Inbound { packet_id, refusal, ..Inbound::unanswered(message) }
        });
        let messages: Vec<Inbound> = messages.collect();
        for inbound in &messages {
            let mut received = session.received();
            received.arrive(inbound.packet_id, |_| Ok::<_, ()>(inbound.message.id)).unwrap();
            received.settle(budget);
        }
        assert!(budget.used() > 0);
        let mut replies = VecDeque::new();
        messages.into_iter().for_each(|inbound| pipeline.publish(inbound, &mut replies));
        assert_eq!((replies.len(), budget.used()), (200, 0));
    }
}
