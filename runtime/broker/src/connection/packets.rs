//! What each packet of a client does.

use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_event::{
    Change, DisconnectReason, IdSource, Message, Origin, PublishProperties, QoS, ReasonCode, SharedFilter,
    Shown, TopicName,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, End};
use crate::codec::{Ack, Disconnect, Incoming, Outgoing, Publish, Subscribe, Unsubscribe};
use crate::config::RateAction;
use crate::limits::rate::Exceeded;
use crate::metrics::Limited;
use crate::pipeline::{ASKED_OF_CLIENTS, Inbound, Job, Subscribing, Unsubscribing, Wanted};
use crate::reason;
use crate::session::delivery::{detached_text, detached_topic};
use crate::session::inflight::{Receipt, Settled};
use crate::session::received::{Arrival, Received, Release};

/// QoS 2 messages without PUBREL that an MQTT 5 client may have over all its connections, however small the receive maximum.
const LEAST_RECEIPTS: usize = 1_024;
/// The same, of a client that cannot be told how many: 1.5 MB.
const UNTOLD_RECEIPTS: usize = 16_384;

/// Bytes of topic names that a client may set up aliases for: room for one of the longest names.
const ALIAS_BYTES: usize = 64 * 1024;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Does what `packet` asks for, or takes it into the pipeline.
    pub(super) fn take(&mut self, packet: Incoming) -> Result<(), End> {
        match packet {
            Incoming::Publish(publish) => self.publish(publish),
            Incoming::PubAck(ack) => {
                let settled = self.seat.inflight.puback(ack.packet_id);
                self.settled(settled, "PUBACK", ack.packet_id)
            }
            Incoming::PubRec(ack) => self.pubrec(ack),
            Incoming::PubRel(ack) => self.pubrel(ack.packet_id),
            Incoming::PubComp(ack) => {
                let settled = self.seat.inflight.pubcomp(ack.packet_id);
                self.settled(settled, "PUBCOMP", ack.packet_id)
            }
            Incoming::Subscribe(subscribe) => self.subscribe(subscribe),
            Incoming::Unsubscribe(Unsubscribe { packet_id, filters }) => {
                let filters: VecDeque<_> = filters.iter().map(detached_text).collect();
                // What is not sent yet goes to other members of a shared subscription that the client leaves.
                self.session.outbox().put_back(self.deliveries.batch.drain(..));
                self.pipeline.push(Job::Unsubscribe(Unsubscribing::new(Some(packet_id), filters)));
                Ok(())
            }
            Incoming::PingReq => {
                self.send(&Outgoing::PingResp);
                Ok(())
            }
            Incoming::Disconnect(disconnect) => Err(self.disconnected(disconnect)),
            Incoming::Connect(_) => {
                Err(self.protocol_error(reason::PROTOCOL_ERROR, "a second CONNECT (clause 3.1)"))
            }
            Incoming::Auth(_) => {
                let what = "AUTH without an authentication method in CONNECT (clause 4.12)";
                Err(self.protocol_error(reason::PROTOCOL_ERROR, what))
            }
        }
    }

    /// The end of a connection whose client broke a rule that needs more than one packet to see.
    pub(super) fn protocol_error(&self, code: ReasonCode, what: &str) -> End {
        self.shared.metrics.malformed(code);
        self.broke_protocol(&what);
        End::new(DisconnectReason::ProtocolError, Some(code)).because(what)
    }

    /// Says that the client broke the protocol, though not every time.
    pub(super) fn broke_protocol(&self, error: &dyn std::fmt::Display) {
        if let Some(left_out) = self.shared.lines.protocol.turn() {
            let (client, peer) = (Shown(&self.client.id), self.client.peer);
            tracing::info!(%client, %peer, %error, left_out, "closed: the client broke the protocol");
        }
    }

    fn publish(&mut self, publish: Publish) -> Result<(), End> {
        let Publish { dup, qos, retain, packet_id, topic, alias, payload, properties } = publish;
        self.tally.received(qos);
        if let Some(why) = self.rate.as_mut().and_then(|rate| rate.message()) {
            self.too_fast(why)?;
        }
        let topic = self.topic(topic, alias)?;
        if topic.as_str().len() > self.shared.config.max_topic_bytes {
            self.shared.metrics.limited(Limited::TopicBytes);
            let what = "a topic name that is longer than the limit";
            return Err(self.protocol_error(reason::TOPIC_NAME_INVALID, what));
        }
        let refusal = self.objection(qos, retain, &payload, properties.as_deref())?;
        let mut journal = None;
        let arrived = *self.clock.get_or_insert_with(IdSource::now);
        let id = match qos {
            QoS::AtMostOnce => self.shared.ids.next_id_at(arrived),
            QoS::AtLeastOnce => {
                self.check_quota()?;
                self.shared.ids.next_id_at(arrived)
            }
            QoS::ExactlyOnce => {
                let next_id = |taken| {
                    self.check_quota()?;
                    self.check_receipts(taken)?;
                    Ok(self.shared.ids.next_id_at(arrived))
                };
                let mut received = self.session.received();
                let arrival = received.arrive(packet_id, next_id)?;
                received.settle(&self.shared.budget);
                drop(received);
                match arrival {
                    Arrival::InPipeline => {
                        self.pipeline.copy_came();
                        return Ok(());
                    }
                    Arrival::Routed => {
                        let answer = Ack { packet_id, reason: ReasonCode::SUCCESS };
                        self.send_when_durable(true, &Outgoing::PubRec(answer));
                        return Ok(());
                    }
                    Arrival::Answered => {
                        self.send_replies()?;
                        self.send(&Outgoing::PubRec(Ack { packet_id, reason: ReasonCode::SUCCESS }));
                        return Ok(());
                    }
                    Arrival::New(message, to_record) => {
                        // Without handlers it is recorded with what routing it records, and nobody knows of it before.
                        if to_record && self.session.is_recorded(&self.realm) && self.pipeline.has_handlers()
                        {
                            let session = self.session.number;
                            self.realm.record(Change::Received { session, packet_id, message });
                            journal = Some(self.shared.store.durable());
                        }
                        message
                    }
                }
            }
        };
        if qos != QoS::AtMostOnce {
            self.unacked += 1;
        }
        let message = Arc::new(Message {
            id,
            topic,
            payload,
            qos,
            retain,
            dup,
            timestamp_ms: id.micros() / 1_000,
            sender: self.client.id.clone(),
            publisher: Some(Arc::clone(&self.client)),
            properties,
            origin: Origin::Client,
            hops: 0,
        });
        let position = self.allocated.saturating_sub(self.input.capacity() as u64);
        let inbound = Inbound { message, packet_id, journal, refusal, will: None, position };
        self.pipeline.publish(inbound, &mut self.replies);
        Ok(())
    }

    /// What is wrong with a PUBLISH that its bytes alone do not show: `Err` when that ends the connection, a code when
    /// the message alone is refused, in its turn, because acknowledgements are sent in order (clause 4.6).
    fn objection(
        &self,
        qos: QoS,
        retain: bool,
        payload: &[u8],
        properties: Option<&PublishProperties>,
    ) -> Result<Option<ReasonCode>, End> {
        let config = &self.shared.config;
        if qos > config.max_qos {
            let what = "a QoS above the server's maximum (clause 3.2.2.3.4)";
            return Err(self.protocol_error(reason::QOS_NOT_SUPPORTED, what));
        }
        if retain && !config.retain_available {
            let what = "RETAIN, which this server does not support (clause 3.2.2.3.5)";
            return Err(self.protocol_error(reason::RETAIN_NOT_SUPPORTED, what));
        }
        if !config.check_payload_format || has_stated_format(payload, properties) {
            return Ok(None);
        }
        if qos == QoS::AtMostOnce {
            let what = "a payload that is not the UTF-8 text it is said to be (clause 3.3.2.3.2)";
            return Err(self.protocol_error(reason::PAYLOAD_FORMAT_INVALID, what));
        }
        Ok(Some(reason::PAYLOAD_FORMAT_INVALID))
    }

    /// MQTT 5 clause 3.3.4: a client must not have more QoS 1 and 2 messages in flight than our receive maximum.
    fn check_quota(&self) -> Result<(), End> {
        let most = usize::from(self.shared.config.window());
        if self.protocol.is_v5() && self.unacked >= most {
            let what = "more QoS 1 and 2 messages in flight than the receive maximum (clause 3.3.4)";
            return Err(self.protocol_error(reason::RECEIVE_MAXIMUM_EXCEEDED, what));
        }
        Ok(())
    }

    /// The same of a QoS 2 message, and over all its connections: it must release what it has sent before it sends ever
    /// more than the `taken` messages. Earlier versions know no receive maximum, so they get a great one.
    fn check_receipts(&self, taken: usize) -> Result<(), End> {
        let window = usize::from(self.shared.config.window());
        let most = if self.protocol.is_v5() { (2 * window).max(LEAST_RECEIPTS) } else { UNTOLD_RECEIPTS };
        if Received::has_room(taken, most, &self.shared.budget) {
            return Ok(());
        }
        if self.protocol.is_v5() && taken >= most {
            let what = "more QoS 2 messages without PUBREL than twice the receive maximum (clause 3.3.4)";
            return Err(self.protocol_error(reason::RECEIVE_MAXIMUM_EXCEEDED, what));
        }
        self.shared.metrics.limited(Limited::Receipts);
        let (client, peer) = (Shown(&self.client.id), self.client.peer);
        tracing::info!(%client, %peer, "closed: too many QoS 2 messages without PUBREL");
        Err(End::new(DisconnectReason::Kicked, Some(ReasonCode::QUOTA_EXCEEDED)))
    }

    /// The client sends faster than it may.
    pub(super) fn too_fast(&self, why: Exceeded) -> Result<(), End> {
        self.shared.metrics.limited(match why {
            Exceeded::Messages => Limited::MessageRate,
            Exceeded::Bytes => Limited::ByteRate,
        });
        let (client, peer) = (Shown(&self.client.id), self.client.peer);
        match self.shared.config.rate_action {
            RateAction::Pause => {
                tracing::debug!(%client, %peer, limit = ?why, "not read from for a while: it sends too fast");
                Ok(())
            }
            RateAction::Disconnect => {
                tracing::info!(%client, %peer, limit = ?why, "closed: the client sends too fast");
                Err(End::new(DisconnectReason::Kicked, Some(reason::MESSAGE_RATE_TOO_HIGH)))
            }
        }
    }

    /// The topic of a PUBLISH, which may be sent as an alias (MQTT 5 clause 3.3.2.3.4).
    fn topic(&mut self, topic: Option<TopicName>, alias: Option<u16>) -> Result<TopicName, End> {
        let Some(alias) = alias else {
            return topic.ok_or_else(|| {
                self.protocol_error(reason::PROTOCOL_ERROR, "PUBLISH without a topic and without an alias")
            });
        };
        if alias == 0 || alias > self.shared.config.max_topic_alias {
            let what = "a topic alias of zero or above the maximum (clause 3.3.2.3.4)";
            return Err(self.protocol_error(reason::TOPIC_ALIAS_INVALID, what));
        }
        let index = usize::from(alias) - 1;
        match topic {
            Some(topic) => {
                if self.aliases.len() <= index {
                    self.aliases.resize(index + 1, None);
                }
                if let Some(slot) = self.aliases.get_mut(index)
                    && slot.as_ref() != Some(&topic)
                {
                    let before = slot.as_ref().map_or(0, |topic| topic.as_str().len());
                    self.alias_bytes = self.alias_bytes + topic.as_str().len() - before;
                    *slot = Some(detached_topic(&topic));
                }
                if self.alias_bytes > ALIAS_BYTES {
                    self.shared.metrics.limited(Limited::AliasBytes);
                    let what = "topic aliases for names that are too long together";
                    return Err(self.protocol_error(ReasonCode::QUOTA_EXCEEDED, what));
                }
                Ok(topic)
            }
            None => self.aliases.get(index).cloned().flatten().ok_or_else(|| {
                let what = "a topic alias that stands for nothing (clause 3.3.2.3.4)";
                self.protocol_error(reason::PROTOCOL_ERROR, what)
            }),
        }
    }

    /// An acknowledgement of ours has ended an exchange that the client began.
    pub(super) fn exchange_ended(&mut self) {
        // Exchanges of an earlier connection end here too, without having been counted.
        self.unacked = self.unacked.saturating_sub(1);
    }

    /// PUBREL arrived. Its PUBCOMP comes after the PUBREC that is still to be sent, of this message or of others (clause
    /// 4.3.3).
    fn pubrel(&mut self, packet_id: u16) -> Result<(), End> {
        self.send_replies()?;
        self.release(packet_id);
        Ok(())
    }

    /// Ends the exchange of `packet_id`, now or when its message is handled.
    pub(super) fn release(&mut self, packet_id: u16) {
        let mut received = self.session.received();
        let release = received.release(packet_id);
        received.settle(&self.shared.budget);
        drop(received);
        let reason = match release {
            Release::Early => return,
            Release::Done => {
                self.exchange_ended();
                ReasonCode::SUCCESS
            }
            Release::Unknown => reason::PACKET_ID_NOT_FOUND,
        };
        // A client that has PUBCOMP uses the id for another message, which must not be taken for this one. What is not
        // known may have been released by an earlier connection and not be recorded yet.
        let is_recorded = self.session.is_recorded(&self.realm);
        if is_recorded {
            self.realm.record(Change::Freed { session: self.session.number, packet_id });
        }
        self.send_when_durable(is_recorded, &Outgoing::PubComp(Ack { packet_id, reason }));
    }

    fn pubrec(&mut self, ack: Ack) -> Result<(), End> {
        let packet_id = ack.packet_id;
        if reason::is_error(ack.reason) {
            let settled = self.seat.inflight.pubrec_error(packet_id);
            return self.settled(settled, "PUBREC", packet_id);
        }
        if self.sent_for_good(packet_id) { Ok(()) } else { self.settled(Settled::Wrong, "PUBREC", packet_id) }
    }

    /// The client has the QoS 2 message, or never will: PUBREL. False: nothing like that is in flight.
    pub(super) fn sent_for_good(&mut self, packet_id: u16) -> bool {
        let (reason, number) = match self.seat.inflight.pubrec(packet_id) {
            Receipt::Released(number) => (ReasonCode::SUCCESS, number),
            Receipt::Wrong => return false,
            Receipt::Unknown => (reason::PACKET_ID_NOT_FOUND, None),
        };
        // A client that has PUBREL takes the message for a new one when it comes again.
        if let Some(number) = number {
            self.realm.record(Change::Released { session: self.session.number, number: number.get() });
        }
        self.send_when_durable(number.is_some(), &Outgoing::PubRel(Ack { packet_id, reason }));
        true
    }

    fn settled(&mut self, settled: Settled, packet: &str, packet_id: u16) -> Result<(), End> {
        match settled {
            Settled::Done(sent) => {
                self.acknowledged(sent);
                Ok(())
            }
            Settled::Unknown => {
                // After a take-over the client may acknowledge what a lost session had sent it.
                tracing::debug!(client = %self.client.id, packet, packet_id, "an unknown packet id");
                Ok(())
            }
            Settled::Wrong => {
                let what = format!("{packet} {packet_id} is of another QoS or comes too early (clause 4.3)");
                Err(self.protocol_error(reason::PROTOCOL_ERROR, &what))
            }
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let mut wanted = VecDeque::with_capacity(subscribe.filters.len());
        for (text, mut options) in subscribe.filters {
            options.qos = options.qos.min(self.shared.config.max_qos);
            let text = detached_text(&text);
            let filter = SharedFilter::parse(&text).map_err(|error| {
                if let Some(left_out) = self.shared.lines.subscription.turn() {
                    let (client, filter) = (Shown(&self.client.id), Shown(&text));
                    tracing::info!(%client, %filter, %error, left_out, "a filter was refused");
                }
                reason::TOPIC_FILTER_INVALID
            });
            if options.no_local && filter.as_ref().is_ok_and(|filter| filter.group.is_some()) {
                let what = "no local on a shared subscription (clause 3.8.3.1)";
                return Err(self.protocol_error(reason::PROTOCOL_ERROR, what));
            }
            wanted.push_back(Wanted { text, filter, options, leave: ASKED_OF_CLIENTS });
        }
        self.enqueue_subscribe(Subscribing::new(Some(subscribe.packet_id), wanted));
        Ok(())
    }

    pub(super) fn enqueue_subscribe(&mut self, subscribing: Subscribing) {
        // What is acknowledged, and not known to the stores yet, is not to be read from them.
        if self.deliveries.acked_ids().next().is_some() {
            self.session.outbox().already_given(self.deliveries.acked_ids());
        }
        self.pipeline.push(Job::Subscribe(subscribing));
    }

    fn disconnected(&mut self, disconnect: Disconnect) -> End {
        if let Some(seconds) = disconnect.session_expiry {
            // What CONNECT said counts, not what was granted.
            if self.asked_expiry == 0 && seconds > 0 {
                let what = "a session that ends with its connection cannot be prolonged (clause 3.14.2.2.2)";
                return self.protocol_error(reason::PROTOCOL_ERROR, what);
            }
            let granted = seconds.min(self.shared.config.max_session_expiry);
            self.session.change_expiry(&self.realm, granted);
        }
        let mut end = End::new(DisconnectReason::Normal, None);
        // Any other reason than success leaves the will in force (clause 3.14.4), 0x04 asks for it.
        end.will = disconnect.reason != ReasonCode::SUCCESS;
        if end.will && disconnect.reason != reason::DISCONNECT_WITH_WILL {
            let (client, code) = (Shown(&self.client.id), disconnect.reason.0);
            tracing::info!(%client, code, "the client disconnected with an error");
        }
        end
    }
}

/// Whether `payload` has the format that `properties` state (clause 3.3.2.3.2): text must be UTF-8.
pub(super) fn has_stated_format(payload: &[u8], properties: Option<&PublishProperties>) -> bool {
    let is_text = properties.is_some_and(|properties| properties.payload_format == Some(1));
    !is_text || std::str::from_utf8(payload).is_ok()
}
