//! PUBLISH to a client (MQTT 5 clauses 3.3 and 4.3).

use super::super::clock;
use super::super::packet::{Kind, Publish};
use super::super::wire::{Value, Version, id};
use super::Judge;
use super::session::Sent;

impl Judge {
    /// The broker has written `publish`.
    pub(super) fn delivery(&mut self, connection: usize, mut publish: Publish) {
        let this = &mut self.connections[connection];
        // `[MQTT-3.1.2-26]`, `[MQTT-3.1.2-27]`, clause 3.3.2.3.4.
        if let Some(Value::Two(alias)) = publish.properties.find(id::TOPIC_ALIAS).cloned() {
            if alias > this.alias_maximum {
                let most = this.alias_maximum;
                return self.fault(connection, format!("topic alias {alias} of {most}"));
            }
            if publish.topic.is_empty() {
                match this.aliases_out.get(&alias) {
                    Some(topic) => publish.topic.clone_from(topic),
                    None => {
                        return self.fault(connection, format!("topic alias {alias} stands for nothing"));
                    }
                }
            } else {
                this.aliases_out.insert(alias, publish.topic.clone());
            }
        }
        let Some(session) = this.session.filter(|_| !self.is_lost) else { return };
        let message = self.messages.find(&publish.topic, &publish.payload);
        if message.is_none() && !publish.topic.starts_with("$SYS/") {
            return self.fault(connection, format!("nobody has published {publish:?}"));
        }
        self.reason(connection, session, message, &publish);
        if let Some(message) = message {
            self.content(connection, message, &publish);
        }
        if publish.qos > 0 {
            self.flight(connection, session, message, &publish);
        }
        if let Some(message) = message.filter(|_| !publish.dup) {
            self.once(connection, session, message, &publish);
            self.order(connection, session, message, &publish);
        }
    }

    /// Whether the client has subscribed to it, and how.
    fn reason(&mut self, connection: usize, session: usize, message: Option<usize>, publish: &Publish) {
        let session = &self.sessions[session];
        if !session.is_known {
            return;
        }
        let name = self.connections[connection].name(connection);
        // What was published before the end may still be delivered (clause 3.10.4); when the broker's own was is not known.
        let first = message.map_or(0, |message| self.messages.get(message).first);
        let (mut any, mut qos, mut with_own) = (false, 0, false);
        for filter in session.reasons_for(&publish.topic, first) {
            (any, qos) = (true, qos.max(filter.qos));
            with_own |= filter.with_own;
        }
        let ids = publish.properties.0.iter().filter_map(|(_, value)| match value {
            Value::Varint(id) => Some(*id),
            _ => None,
        });
        let known = |id: u32| {
            let matching = session.filters.iter().filter(|filter| filter.matches(&publish.topic));
            matching.into_iter().any(|filter| filter.ids.contains(&id))
        };
        // `[MQTT-3.3.4-4]`, `[MQTT-3.3.4-5]`.
        let foreign = ids.into_iter().find(|id| !known(*id));
        let fault = if !any {
            // Clauses 3.8.4 and 3.10.4: `[MQTT-3.10.4-2]`.
            Some(format!("the client has not subscribed to {publish:?}"))
        } else if publish.qos > qos {
            // `[MQTT-3.8.4-8]`.
            Some(format!("above the QoS {qos} that was asked for: {publish:?}"))
        } else if let Some(id) = foreign {
            Some(format!("subscription identifier {id} is none of the client's: {publish:?}"))
        } else if let Some(message) = message.map(|message| self.messages.get(message))
            && !with_own
            && !message.was_retained
            && message.publishers().iter().all(|publisher| *publisher == name)
        {
            // `[MQTT-3.8.3-3]`.
            Some(format!("the client's own message, which it does not want: {publish:?}"))
        } else {
            None
        };
        if let Some(fault) = fault {
            self.fault(connection, fault);
        }
    }

    /// Whether it is the message that was published.
    fn content(&mut self, connection: usize, index: usize, publish: &Publish) {
        let (this, message) = (&self.connections[connection], self.messages.get(index));
        let is_v5 = this.version == Some(Version::V5);
        let forwarded = publish.properties.forwarded();
        let expiry = publish.properties.number(id::MESSAGE_EXPIRY);
        let published =
            message.variants.iter().filter_map(|variant| variant.expiry.map(|(seconds, _)| seconds));
        let longest = published.max();
        let always = message.variants.iter().all(|variant| variant.expiry.is_some());
        let may_be_late = publish.dup || this.has_stalled || self.expected.is_slow || message.is_will();
        let withdrawn = message.withdrawn.filter(|_| message.count == 1);
        let fault = if publish.qos > message.qos() {
            // `[MQTT-3.8.4-8]`.
            Some("above the QoS of its publication")
        } else if publish.retain && !message.was_retained {
            // `[MQTT-3.3.1-8]`, `[MQTT-3.3.1-13]`.
            Some("RETAIN, which its publisher has not set")
        } else if is_v5 && !message.variants.iter().any(|variant| variant.forwarded == forwarded) {
            // `[MQTT-3.3.2-4]`, `[MQTT-3.3.2-15]` to `[MQTT-3.3.2-18]`, `[MQTT-3.3.2-20]`.
            Some("other properties than it was published with")
        } else if expiry.is_some_and(|left| longest.is_none_or(|longest| left > longest)) {
            // `[MQTT-3.3.2-6]`.
            Some("a message expiry that is longer than at its publication")
        } else if is_v5 && always && expiry.is_none() {
            // `[MQTT-3.3.2-6]`.
            Some("no message expiry, which it had at its publication")
        } else if !may_be_late && message.is_expired(clock::passed()) {
            // `[MQTT-3.3.2-5]`.
            Some("after its expiry")
        } else if withdrawn.is_some_and(|by| self.connections[by].has_said_good_bye()) {
            // `[MQTT-3.1.2-10]`.
            Some("the will of a client that has said good-bye")
        } else {
            None
        };
        if let Some(fault) = fault {
            let variants = message.variants.clone();
            self.fault(connection, format!("{fault}: {publish:?} of {variants:?}"));
        }
    }

    /// What is in flight at QoS 1 and 2.
    fn flight(&mut self, connection: usize, session: usize, message: Option<usize>, publish: &Publish) {
        let this = &mut self.connections[connection];
        let session = &mut self.sessions[session];
        let packet_id = publish.packet_id;
        this.owed.push_back((if publish.qos == 1 { Kind::PubAck } else { Kind::PubRec }, packet_id));
        this.outstanding.insert(packet_id);
        let (open, most) = (this.outstanding.len(), this.receive_maximum);
        let (is_resumed, is_wild) = (this.is_resumed, this.is_wild || session.is_wild || !session.is_known);
        if session.current != Some(connection) {
            // The last words of a connection whose session another one has.
            return;
        }
        let new = Sent {
            qos: publish.qos,
            message,
            connection,
            is_received: false,
            is_released: false,
            is_acked: false,
        };
        let before = session.sent.insert(packet_id, new);
        if is_wild {
            return;
        }
        let fault = match before {
            Some(before) if !before.is_acked => {
                if !publish.dup && session.was_small && before.qos == 1 {
                    None
                } else if !publish.dup {
                    // `[MQTT-2.2.1-4]`, `[MQTT-4.3.2-1]`, `[MQTT-4.3.3-1]`: an unused packet id; `[MQTT-3.3.1-1]`.
                    Some("its packet id is in flight")
                } else if before.connection == connection {
                    // `[MQTT-4.4.0-1]`: at no other time than after a reconnect.
                    Some("sent again on the same connection")
                } else if before.is_released {
                    // `[MQTT-4.3.3-6]`.
                    Some("sent again after PUBREL")
                } else if before.qos != publish.qos || before.message != message {
                    // `[MQTT-4.4.0-1]`: the original packet id is the message's.
                    Some("sent again, but is another message")
                } else {
                    None
                }
            }
            // The acknowledgement of an earlier connection may not have been looked at.
            Some(before) if before.connection != connection => None,
            // Clause 3.3.1.1: DUP says that it was sent before; on a resumed session it may have been lost on the way.
            _ => (publish.dup && !is_resumed).then_some("DUP, though it is sent for the first time"),
        };
        // `[MQTT-3.3.4-9]`.
        let fault = fault.map(str::to_owned).or_else(|| {
            (open > most).then(|| format!("{open} messages are in flight to a client that takes {most}"))
        });
        if let Some(fault) = fault {
            self.fault(connection, format!("{fault}: {publish:?}"));
        }
    }

    /// Whether it is delivered as new more often than it was published (clause 4.3).
    fn once(&mut self, connection: usize, session: usize, index: usize, publish: &Publish) {
        let (session, message) = (&mut self.sessions[session], self.messages.get(index));
        if !session.is_known || message.was_retained || session.current != Some(connection) {
            return;
        }
        // A server may send a copy for every subscription (clause 3.3.4); this one sends one for all that are not
        // shared, and one for each that is.
        let shared =
            session.filters.iter().filter(|filter| filter.is_shared() && filter.matches(&publish.topic));
        let shared = shared.count() as u32;
        // QoS 1 promises "at least once", and makes use of it with another member of a shared subscription. What was not
        // acknowledged before a crash is published again, and less than QoS 2 is not remembered.
        if (publish.qos == 1 && shared > 0) || (publish.qos < 2 && session.has_crashed) {
            return;
        }
        let delivered = session.delivered.entry(index).or_default();
        *delivered += 1;
        if *delivered > message.count * (1 + shared) {
            let (delivered, count) = (*delivered, message.count);
            let what = format!("delivered {delivered} times, published {count} times: {publish:?}");
            self.fault(connection, what);
        }
    }

    /// Whether messages of a publisher keep their order in a topic (`[MQTT-4.6.0-5]`, `[MQTT-4.6.0-6]`).
    fn order(&mut self, connection: usize, session: usize, index: usize, publish: &Publish) {
        let (session, message) = (&mut self.sessions[session], self.messages.get(index));
        let [variant] = message.variants.as_slice() else { return };
        let is_shared =
            session.filters.iter().any(|filter| filter.is_shared() && filter.matches(&publish.topic));
        if variant.is_will
            || is_shared
            || message.was_retained
            || !session.is_known
            || session.current != Some(connection)
        {
            return;
        }
        let key = (variant.publisher.clone(), publish.topic.clone(), variant.qos, publish.qos);
        let newest = session.newest.entry(key).or_default();
        if message.first < *newest {
            self.fault(connection, format!("behind a message that was published later: {publish:?}"));
        } else {
            *newest = message.first;
        }
    }
}
