//! What the client says.

use super::super::clock;
use super::super::packet::{Connect, FromClient, Kind, Publish};
use super::super::wire::{Value, Version, id};
use super::{Connection, Judge, Phase};

impl Connection {
    /// Puts the topic name in the place of its alias (`[MQTT-3.3.2-9]`, clause 3.3.2.3.4). `false`: it stands for nothing.
    fn resolve(&mut self, most: u16, publish: &mut Publish) -> bool {
        let Some(Value::Two(alias)) = publish.properties.find(id::TOPIC_ALIAS).cloned() else { return true };
        if publish.topic.is_empty() {
            publish.topic = self.aliases_in.get(&alias).cloned().unwrap_or_default();
        }
        if alias > most || publish.topic.is_empty() {
            return false;
        }
        self.aliases_in.insert(alias, publish.topic.clone());
        true
    }
}

impl Judge {
    /// The client has gone before CONNACK could be written: what it had sent may have been done all the same.
    pub(super) fn unanswered(&mut self, connection: usize) {
        let this = &mut self.connections[connection];
        let (name, now) = (this.name(connection), Some(clock::passed()));
        for packet in std::mem::take(&mut this.early) {
            if let FromClient::Publish(mut publish) = packet
                && this.resolve(self.expected.alias_maximum, &mut publish)
            {
                self.messages.publish(&publish, &name, now, self.count, true);
            }
        }
    }

    /// `packet` was read.
    pub(super) fn take(&mut self, connection: usize, packet: FromClient) {
        let this = &mut self.connections[connection];
        match (this.phase, packet) {
            (Phase::Silent, FromClient::Connect(connect)) => self.connect(connection, *connect),
            (Phase::Connected, packet) => self.act(connection, packet),
            (_, packet) => this.early.push_back(packet),
        }
    }

    /// CONNACK was written: what was sent before it counts now.
    pub(super) fn catch_up(&mut self, connection: usize) {
        // What made it deaf came behind.
        let was_deaf = std::mem::take(&mut self.connections[connection].is_deaf);
        while let Some(packet) = self.connections[connection].early.pop_front() {
            self.act(connection, packet);
        }
        self.connections[connection].is_deaf |= was_deaf;
    }

    fn connect(&mut self, connection: usize, connect: Connect) {
        let client_id = connect.client_id.clone();
        for (other, known) in self.connections.iter_mut().enumerate() {
            known.is_claimed |= other != connection && known.client_id == client_id && !client_id.is_empty();
        }
        let this = &mut self.connections[connection];
        this.phase = Phase::Asked;
        this.asked = clock::passed();
        this.client_id = client_id.clone();
        this.keep_alive = connect.keep_alive;
        let number = |id, otherwise| connect.properties.number(id).unwrap_or(otherwise);
        this.receive_maximum = number(id::RECEIVE_MAXIMUM, u32::from(u16::MAX)) as usize;
        this.max_packet = number(id::MAXIMUM_PACKET_SIZE, u32::MAX) as usize;
        this.alias_maximum = number(id::TOPIC_ALIAS_MAXIMUM, 0) as u16;
        // Clause 4.12: no method is known to this server, which says so.
        this.is_excused |= connect.properties.has(id::AUTHENTICATION_METHOD);
        if let Some(will) = &connect.will {
            let name = this.name(connection);
            this.will = Some(self.messages.publish(&will.message, &name, None, self.count, true));
        }
        this.connect = Some(Box::new(connect));
        if !client_id.is_empty() {
            self.asked.entry(client_id).or_default().push(connection);
        }
    }

    fn act(&mut self, connection: usize, packet: FromClient) {
        let this = &mut self.connections[connection];
        if this.is_deaf {
            return;
        }
        match packet {
            FromClient::Connect(_) => {
                // `[MQTT-3.1.0-2]`; it came before CONNACK.
                this.must_close = Some(("a second CONNECT was read".into(), clock::passed()));
                (this.is_excused, this.is_deaf) = (true, true);
            }
            FromClient::Publish(publish) => self.publish(connection, publish),
            FromClient::Ack { kind, packet_id, reason } => self.ack(connection, kind, packet_id, reason),
            FromClient::Subscribe { packet_id, id, wanted } => {
                if let Some(session) = this.session {
                    wanted.iter().for_each(|wanted| self.sessions[session].subscribe(wanted, id));
                }
                this.subscribing.entry(packet_id).or_default().push_back(wanted);
            }
            FromClient::Unsubscribe { packet_id, filters } => {
                this.unsubscribing.entry(packet_id).or_default().push_back(filters);
            }
            FromClient::PingReq => this.pings += 1,
            FromClient::Disconnect { reason, session_expiry } => {
                self.disconnect(connection, reason, session_expiry);
            }
            FromClient::Auth => {
                // `[MQTT-4.12.0-6]` and clause 4.13: an error, because CONNECT has named no method.
                this.must_close = Some(("AUTH without a method was read".into(), clock::passed()));
                (this.is_excused, this.is_deaf) = (true, true);
            }
        }
    }

    fn publish(&mut self, connection: usize, mut publish: Publish) {
        let this = &mut self.connections[connection];
        if !this.resolve(self.expected.alias_maximum, &mut publish) {
            let why = "a topic alias that stands for nothing was read";
            this.must_close = Some((why.into(), clock::passed()));
            (this.is_excused, this.is_deaf) = (true, true);
            return;
        }
        let now = Some(clock::passed());
        let Some(session) = this.session else { return };
        let is_resend = publish.qos == 2
            && self.sessions[session]
                .received
                .get(&publish.packet_id)
                .is_some_and(|known| self.messages.find(&publish.topic, &publish.payload) == Some(*known));
        let client = this.name(connection);
        let message = self.messages.publish(&publish, &client, now, self.count, !is_resend);
        match publish.qos {
            0 => {}
            1 => *this.expected.entry((Kind::PubAck, publish.packet_id)).or_default() += 1,
            _ => {
                *this.expected.entry((Kind::PubRec, publish.packet_id)).or_default() += 1;
                self.sessions[session].received.insert(publish.packet_id, message);
            }
        }
    }

    fn ack(&mut self, connection: usize, kind: Kind, packet_id: u16, reason: u8) {
        let this = &mut self.connections[connection];
        let Some(session) = this.session.map(|session| &mut self.sessions[session]) else { return };
        if let Some(place) = this.owed.iter().position(|owed| *owed == (kind, packet_id)) {
            this.owed.remove(place);
        }
        if kind == Kind::PubRel {
            *this.expected.entry((Kind::PubComp, packet_id)).or_default() += 1;
            session.received.remove(&packet_id);
            return;
        }
        let is_receipt = kind == Kind::PubRec && reason < 0x80;
        if is_receipt {
            *this.receipts.entry(packet_id).or_default() += 1;
        }
        let Some(sent) = session.sent.get_mut(&packet_id).filter(|sent| !sent.is_acked) else {
            // The broker gives ids from 1 on: what waits to be written may have this one, and be another answer's.
            if packet_id < 0x8000 {
                this.is_excused = true;
                (this.is_wild, session.is_wild) = (true, true);
            }
            return;
        };
        let fits = match kind {
            Kind::PubAck => sent.qos == 1,
            Kind::PubRec => sent.qos == 2,
            _ => sent.qos == 2 && (sent.is_received || sent.is_released),
        };
        if !fits {
            // Clause 4.3: the wrong answer; the broker may close.
            this.is_excused = true;
            (this.is_wild, session.is_wild) = (true, true);
        } else if is_receipt {
            sent.is_received = true;
        } else {
            sent.is_acked = true;
            this.outstanding.remove(&packet_id);
        }
    }

    fn disconnect(&mut self, connection: usize, reason: u8, session_expiry: Option<u32>) {
        let this = &mut self.connections[connection];
        this.is_deaf = true;
        this.must_close = Some(("DISCONNECT was read".into(), clock::passed()));
        let asked = this
            .connect
            .as_ref()
            .and_then(|connect| connect.properties.number(id::SESSION_EXPIRY))
            .unwrap_or(0);
        if let (Some(seconds), Some(session)) = (session_expiry, this.session) {
            if asked == 0 && seconds > 0 {
                // Clause 3.14.2.2.2: an error.
                this.is_excused = true;
                return;
            }
            let granted = seconds.min(self.expected.max_session_expiry);
            let expiry = &mut self.sessions[session].expiry;
            *expiry = (expiry.0.min(granted), expiry.1.max(granted));
        }
        // `[MQTT-3.14.4-3]`, `[MQTT-3.1.2-10]`. Before MQTT 5 the judge cannot see whether the broker has ended the
        // connection for another reason before it came to this packet.
        if reason == 0
            && this.version == Some(Version::V5)
            && let Some(will) = this.will
        {
            self.messages.get_mut(will).withdrawn = Some(connection);
        }
    }
}
