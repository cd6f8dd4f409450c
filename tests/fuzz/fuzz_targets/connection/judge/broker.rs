//! What the broker says, but PUBLISH and CONNACK.

use super::super::packet::{FromBroker, Kind};
use super::super::wire::{Properties, Version, id};
use super::{Judge, Phase};

impl Judge {
    /// The broker has written `packet` of `size` bytes.
    pub(super) fn judge(&mut self, connection: usize, packet: FromBroker, size: usize) {
        let this = &self.connections[connection];
        let is_connack = matches!(packet, FromBroker::ConnAck { .. });
        if this.said_disconnect {
            // `[MQTT-3.14.4-1]`.
            self.fault(connection, format!("a packet after DISCONNECT: {packet:?}"));
        }
        let this = &self.connections[connection];
        match this.phase {
            // `[MQTT-3.2.0-1]`, `[MQTT-3.14.0-1]`.
            Phase::Silent | Phase::Asked if !is_connack => {
                return self.fault(connection, format!("a packet before CONNACK: {packet:?}"));
            }
            // `[MQTT-3.2.2-7]`.
            Phase::Unknown => return,
            Phase::Refused => return self.fault(connection, format!("a packet after a refusal: {packet:?}")),
            _ => {}
        }
        // `[MQTT-3.1.2-24]`.
        if size > this.max_packet {
            let most = this.max_packet;
            self.fault(connection, format!("{size} bytes for a client that takes {most}: {packet:?}"));
        }
        self.note(&packet);
        match packet {
            FromBroker::ConnAck { session_present, code, properties } => {
                self.connack(connection, session_present, code, &properties);
            }
            FromBroker::Publish(publish) => self.delivery(connection, publish),
            FromBroker::Ack { kind, packet_id, reason, properties } => {
                self.explains_if_asked(connection, &properties);
                self.answer(connection, kind, packet_id, reason);
            }
            FromBroker::SubAck { packet_id, reasons, properties } => {
                self.explains_if_asked(connection, &properties);
                self.suback(connection, packet_id, &reasons);
            }
            FromBroker::UnsubAck { packet_id, reasons, properties } => {
                self.explains_if_asked(connection, &properties);
                self.unsuback(connection, packet_id, &reasons);
            }
            FromBroker::PingResp => {
                let this = &mut self.connections[connection];
                match this.pings.checked_sub(1) {
                    Some(left) => this.pings = left,
                    None => self.fault(connection, "PINGRESP without PINGREQ"),
                }
            }
            FromBroker::Disconnect { reason } => self.disconnected(connection, reason),
        }
    }

    fn note(&mut self, packet: &FromBroker) {
        let seen = &mut self.seen;
        match packet {
            FromBroker::ConnAck { session_present, code, .. } => {
                seen.connected += u32::from(*code == 0);
                seen.resumed += u32::from(*session_present);
            }
            FromBroker::Publish(publish) => {
                seen.delivered[usize::from(publish.qos)] += 1;
                seen.repeated += u32::from(publish.dup);
            }
            FromBroker::Disconnect { .. } => seen.disconnected += 1,
            _ => seen.answers += 1,
        }
    }

    /// `[MQTT-3.1.2-29]`.
    fn explains_if_asked(&mut self, connection: usize, properties: &Properties) {
        let this = &self.connections[connection];
        let wants = this
            .connect
            .as_ref()
            .and_then(|connect| connect.properties.number(id::REQUEST_PROBLEM_INFORMATION));
        if wants == Some(0) && (properties.has(id::REASON_STRING) || properties.has(id::USER)) {
            self.fault(connection, "problem information that was not asked for");
        }
    }

    fn answer(&mut self, connection: usize, kind: Kind, packet_id: u16, reason: u8) {
        let this = &mut self.connections[connection];
        let Some(session) = this.session.map(|session| &mut self.sessions[session]) else { return };
        if kind == Kind::PubRel {
            if let Some(count) = this.receipts.get_mut(&packet_id).filter(|count| **count > 0) {
                *count -= 1;
            } else if !this.is_resumed && !this.is_wild {
                // Clause 4.3.3: PUBREL answers PUBREC, or is sent again after a reconnect.
                return self.fault(connection, format!("PUBREL {packet_id} without PUBREC"));
            }
            if reason == 0 && session.current == Some(connection) {
                this.owed.push_back((Kind::PubComp, packet_id));
                if let Some(sent) = session.sent.get_mut(&packet_id).filter(|sent| !sent.is_acked) {
                    sent.is_released = true;
                }
            }
            return;
        }
        // Clauses 3.4 to 3.7: an acknowledgement answers a packet.
        match this.expected.get_mut(&(kind, packet_id)).filter(|count| **count > 0) {
            Some(count) => *count -= 1,
            // It may answer what the session's last connection has sent, which the client has not sent again yet.
            None if kind == Kind::PubRec
                && this.is_resumed
                && (!session.is_known || session.received.contains_key(&packet_id)) => {}
            None => {
                return self.fault(connection, format!("{kind:?} {packet_id} answers nothing"));
            }
        }
        if kind == Kind::PubRec {
            if reason >= 0x80 {
                session.received.remove(&packet_id);
            } else {
                this.owed.push_back((Kind::PubRel, packet_id));
            }
        }
    }

    fn suback(&mut self, connection: usize, packet_id: u16, reasons: &[u8]) {
        let this = &mut self.connections[connection];
        // `[MQTT-3.8.4-2]`.
        let wanted = this.subscribing.get_mut(&packet_id).and_then(|waiting| waiting.pop_front());
        let (Some(wanted), Some(session)) = (wanted, this.session) else {
            return self.fault(connection, format!("SUBACK {packet_id} answers nothing"));
        };
        // `[MQTT-3.8.4-6]`.
        if wanted.len() != reasons.len() {
            return self.fault(connection, format!("SUBACK {packet_id} has another number of codes"));
        }
        for (wanted, reason) in wanted.iter().zip(reasons) {
            let granted = *reason < 0x80;
            if granted && *reason > wanted.qos {
                self.fault(connection, format!("QoS {reason} is granted to {wanted:?}"));
            }
            self.sessions[session].subscribed(&wanted.filter, granted, self.count);
        }
    }

    fn unsuback(&mut self, connection: usize, packet_id: u16, reasons: &[u8]) {
        let this = &mut self.connections[connection];
        // `[MQTT-3.10.4-4]`, `[MQTT-3.10.4-5]`.
        let filters = this.unsubscribing.get_mut(&packet_id).and_then(|waiting| waiting.pop_front());
        let (Some(filters), Some(session)) = (filters, this.session) else {
            return self.fault(connection, format!("UNSUBACK {packet_id} answers nothing"));
        };
        let is_v5 = this.version == Some(Version::V5);
        // `[MQTT-3.11.3-1]`.
        if is_v5 && filters.len() != reasons.len() {
            return self.fault(connection, format!("UNSUBACK {packet_id} has another number of codes"));
        }
        for (place, filter) in filters.iter().enumerate() {
            if reasons.get(place).is_none_or(|reason| *reason < 0x80) {
                self.sessions[session].unsubscribed(filter, self.count);
            }
        }
    }

    fn disconnected(&mut self, connection: usize, reason: u8) {
        let is_stopping = self.is_stopping;
        let this = &mut self.connections[connection];
        this.said_disconnect = true;
        this.is_deaf = true;
        // What is not whole yet may show its error already.
        let may_be_wrong = this.is_excused || !this.input.is_empty();
        let is_right = match reason {
            0x81 | 0x82 => may_be_wrong,
            0x8b => is_stopping,
            0x8d => this.keep_alive > 0,
            0x8e => this.is_claimed || self.is_lost,
            // Nothing fails here but what a client does.
            0x80 | 0x83 => is_stopping,
            _ => true,
        };
        if !is_right {
            self.fault(connection, format!("DISCONNECT {reason:#04x} for no reason"));
        }
    }
}
