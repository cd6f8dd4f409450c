//! CONNACK, and which session it gives the client (MQTT 5 clauses 3.2 and 4.1).

use super::super::clock;
use super::super::wire::{Properties, Version, id};
use super::session::Session;
use super::{Judge, Phase};

impl Judge {
    pub(super) fn connack(&mut self, connection: usize, present: bool, code: u8, properties: &Properties) {
        let this = &mut self.connections[connection];
        if !matches!(this.phase, Phase::Asked | Phase::Silent) {
            // `[MQTT-3.2.0-2]`.
            return self.fault(connection, "a second CONNACK");
        }
        if this.phase == Phase::Silent && code == 0 {
            return self.fault(connection, "CONNACK that accepts what is no CONNECT");
        }
        let client_id = this.client_id.clone();
        if let Some(asked) = self.asked.get_mut(&client_id) {
            asked.retain(|number| *number != connection);
        }
        if code != 0 {
            this.phase = Phase::Refused;
            this.is_deaf = true;
            // `[MQTT-3.2.2-7]`.
            let why = format!("CONNACK has refused it with {code:#04x}");
            this.must_close.get_or_insert((why, clock::passed()));
            let (is_excused, version) = (this.is_excused || !this.input.is_empty(), this.version);
            // `[MQTT-3.2.2-6]`.
            if present {
                self.fault(connection, "CONNACK with an error and with a session");
            }
            // Nothing was wrong with the packet: whatever the reason is, it is not that.
            if !is_excused && version == Some(Version::V5) && matches!(code, 0x81 | 0x82 | 0x84) {
                self.fault(connection, format!("a good CONNECT is refused with {code:#04x}"));
            }
            return;
        }
        this.phase = Phase::Connected;
        let Some(connect) = this.connect.clone() else { return };
        if let Some(seconds) = properties.number(id::SERVER_KEEP_ALIVE) {
            this.keep_alive = seconds as u16;
        }
        let (is_v5, is_empty) = (connect.version == Version::V5, client_id.is_empty());
        if is_v5 {
            // `[MQTT-3.2.2-16]`.
            if is_empty != properties.has(id::ASSIGNED_CLIENT_ID) {
                self.fault(connection, "an assigned client identifier for a client that has one, or none");
            }
            // `[MQTT-3.1.2-28]`.
            if connect.properties.number(id::REQUEST_RESPONSE_INFORMATION) != Some(1)
                && properties.has(id::RESPONSE_INFORMATION)
            {
                self.fault(connection, "response information that was not asked for");
            }
        }
        // `[MQTT-3.1.2-4]`, `[MQTT-3.2.2-2]`.
        if present && (connect.clean_start || is_empty) {
            self.fault(connection, "a clean start is given a session");
        }
        let asked = connect.properties.number(id::SESSION_EXPIRY).unwrap_or(0);
        let most = self.expected.max_session_expiry;
        let expiry = match (is_v5, connect.clean_start) {
            (true, _) => properties.number(id::SESSION_EXPIRY).unwrap_or(asked),
            (false, true) => 0,
            (false, false) => most,
        };
        if expiry > most {
            self.fault(connection, "a session expiry above the greatest that is granted");
        }
        let present = if connect.version == Version::V31 {
            self.present_in_v31(connection, present, connect.clean_start)
        } else {
            present
        };
        self.attach(connection, &client_id, present, connect.clean_start, expiry);
        self.catch_up(connection);
    }

    /// MQTT 3.1 does not say whether a session is present: the byte is reserved. What must be there is.
    fn present_in_v31(&mut self, connection: usize, reserved: bool, clean: bool) -> bool {
        if reserved {
            self.fault(connection, "CONNACK with a reserved byte that is not 0");
        }
        let this = &self.connections[connection];
        let (before, asked) = (self.by_client.get(&this.client_id).copied(), this.asked);
        // Whoever has asked before and was not answered may have made one all the same.
        if !clean && self.asked.get(&this.client_id).is_some_and(|others| !others.is_empty()) {
            return true;
        }
        let Some(session) = before.filter(|_| !clean).map(|before| &mut self.sessions[before]) else {
            return false;
        };
        let now = clock::passed();
        let must_live = session.must_live(now);
        let may_live = session.may_live(asked);
        session.is_known &= must_live || !may_live;
        may_live
    }

    fn attach(&mut self, connection: usize, client_id: &str, present: bool, clean: bool, expiry: u32) {
        let now = clock::passed();
        let before = self.by_client.get(client_id).copied();
        let asked = self.asked.get(client_id);
        // Whoever has asked and was not answered may have had the session, and changed or ended it.
        let mut is_clear = asked.is_none_or(Vec::is_empty) && !self.is_lost;
        if is_clear && let Some(session) = before.map(|before| &self.sessions[before]) {
            // `[MQTT-3.2.2-3]`, `[MQTT-3.1.2-5]`, clause 3.1.2.11.2. It does not end while CONNACK waits for a slow store.
            if present && session.is_known && !session.may_live(self.connections[connection].asked) {
                let state = (session.expiry, session.gone);
                self.fault(connection, format!("a session that has ended is present: {state:?}"));
            } else if !present && !clean && session.must_live(now) {
                let state = (session.expiry, session.gone);
                self.fault(connection, format!("the session is lost: {state:?}"));
            }
        }
        if is_clear && present && before.is_none() {
            self.fault(connection, "a session is present that nobody has made");
        }
        if let Some(asked) = self.asked.get_mut(client_id).filter(|_| !present) {
            // Those that have gone have not had this one.
            asked.retain(|number| !self.connections[*number].is_dropped);
            is_clear = asked.is_empty() && !self.is_lost;
        }
        if let Some(old) = before.and_then(|before| self.sessions[before].current)
            && let Some(old) = self.connections.get_mut(old).filter(|old| !old.is_dropped)
        {
            // `[MQTT-3.1.4-3]`.
            old.must_close.get_or_insert(("its client id was taken over".into(), now));
        }
        let index = match before.filter(|_| present) {
            Some(before) => {
                let session = &mut self.sessions[before];
                session.current = Some(connection);
                session.was_small |= self.connections[connection].max_packet < u32::MAX as usize;
                session.gone = None;
                session.expiry = (expiry, expiry);
                session.is_known &= is_clear;
                before
            }
            None => {
                let session = Session::new(connection, expiry);
                self.sessions.push(Session { is_known: !present && is_clear, ..session });
                self.sessions.len() - 1
            }
        };
        if !client_id.is_empty() {
            self.by_client.insert(client_id.to_owned(), index);
        }
        let this = &mut self.connections[connection];
        this.session = Some(index);
        this.is_resumed = present;
    }
}
