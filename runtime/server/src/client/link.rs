//! One connection of the library's 3.1.1 or 5 client, behind one set of words.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5 as wire5;
use rumqttc::{QoS, v5};
use tokio::sync::mpsc;

use super::{ConnectArgs, Version};

/// Messages that may be sent and not yet acknowledged.
pub(super) const WINDOW: u16 = 1_000;

/// The largest packet of the protocol: what is too large is for the server to say.
const MAX_PACKET_BYTES: u32 = 268_435_455;

/// How long after a lost connection the next one is tried.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// What happened on the connection.
pub(super) enum Notice {
    /// CONNACK with success.
    Connected,
    /// A QoS 0 message is written.
    Written,
    /// PUBACK or PUBCOMP with success.
    Acknowledged,
    /// PUBACK, PUBREC or PUBCOMP with a reason code of failure.
    Refused(String),
    /// SUBACK: per filter nothing, or why it was refused.
    Subscribed(Vec<Result<(), String>>),
    /// A message arrived. Call [`Sender::ack`] when it is done.
    Message(Message),
    /// Our DISCONNECT is written.
    Disconnected,
    /// The connection failed; the next one is tried by itself.
    Lost(String),
}

/// A message and the way to acknowledge it.
pub(super) struct Message {
    /// Topic, as it arrived.
    pub(super) topic: Bytes,
    /// Payload.
    pub(super) payload: Bytes,
    packet: Box<Packet>,
}

enum Packet {
    V4(rumqttc::Publish),
    V5(wire5::Publish),
}

/// Sends packets. Its queue holds [`WINDOW`] of them; more at once is an error.
pub(super) enum Sender {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// A connection: what to send with, and what happens on it.
pub(super) struct Link {
    pub(super) sender: Sender,
    pub(super) notices: mpsc::Receiver<Notice>,
}

/// How long the session outlives the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// It ends with it.
    Clean,
    /// It stays.
    Persistent,
}

impl Link {
    /// Starts to connect; the task ends with the last receiver.
    pub(super) fn open(args: &ConnectArgs, role: &str, session: Session) -> Self {
        let (tell, notices) = mpsc::channel(64);
        let id = args.client_id(role);
        let sender = match args.version {
            Version::V4 => {
                let mut options = rumqttc::MqttOptions::new(id, args.host_part(), args.port);
                options
                    .set_clean_session(session == Session::Clean)
                    .set_inflight(WINDOW)
                    .set_manual_acks(true)
                    .set_max_packet_size(MAX_PACKET_BYTES as usize, MAX_PACKET_BYTES as usize);
                if let Some(user) = &args.user {
                    options.set_credentials(user, args.password.clone().unwrap_or_default());
                }
                let (client, mut events) = rumqttc::AsyncClient::new(options, WINDOW.into());
                events.network_options.set_tcp_nodelay(true);
                tokio::spawn(async move {
                    loop {
                        let notice = match events.poll().await {
                            Ok(event) => notice_v4(event),
                            Err(error) => Some(Notice::Lost(explain_v4(&error))),
                        };
                        if !forward(&tell, notice).await {
                            return;
                        }
                    }
                });
                Sender::V4(client)
            }
            Version::V5 => {
                let mut options = v5::MqttOptions::new(id, args.host_part(), args.port);
                let mut network = rumqttc::NetworkOptions::new();
                network.set_tcp_nodelay(true);
                options
                    .set_clean_start(session == Session::Clean)
                    .set_outgoing_inflight_upper_limit(WINDOW)
                    .set_manual_acks(true)
                    .set_max_packet_size(Some(MAX_PACKET_BYTES))
                    .set_network_options(network);
                if session == Session::Persistent {
                    options.set_session_expiry_interval(Some(u32::MAX));
                }
                if let Some(user) = &args.user {
                    options.set_credentials(user, args.password.clone().unwrap_or_default());
                }
                let (client, mut events) = v5::AsyncClient::new(options, WINDOW.into());
                tokio::spawn(async move {
                    loop {
                        let notice = match events.poll().await {
                            Ok(event) => notice_v5(event),
                            Err(error) => Some(Notice::Lost(explain_v5(&error))),
                        };
                        if !forward(&tell, notice).await {
                            return;
                        }
                    }
                });
                Sender::V5(client)
            }
        };
        Self { sender, notices }
    }
}

/// Hands a notice on; false when nobody listens any more.
async fn forward(tell: &mpsc::Sender<Notice>, notice: Option<Notice>) -> bool {
    let Some(notice) = notice else { return true };
    let lost = matches!(notice, Notice::Lost(_));
    if tell.send(notice).await.is_err() {
        return false;
    }
    if lost {
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
    true
}

fn notice_v4(event: rumqttc::Event) -> Option<Notice> {
    use rumqttc::{Event, Outgoing, Packet as P, SubscribeReasonCode as Code};
    Some(match event {
        Event::Incoming(P::ConnAck(_)) => Notice::Connected,
        Event::Incoming(P::PubAck(_) | P::PubComp(_)) => Notice::Acknowledged,
        Event::Incoming(P::SubAck(ack)) => Notice::Subscribed(
            ack.return_codes
                .iter()
                .map(|code| match code {
                    Code::Success(_) => Ok(()),
                    Code::Failure => Err("failure (0x80)".into()),
                })
                .collect(),
        ),
        Event::Incoming(P::Publish(publish)) => Notice::Message(Message {
            topic: Bytes::from(publish.topic.clone()),
            payload: publish.payload.clone(),
            packet: Box::new(Packet::V4(publish)),
        }),
        Event::Outgoing(Outgoing::Publish(0)) => Notice::Written,
        Event::Outgoing(Outgoing::Disconnect) => Notice::Disconnected,
        _ => return None,
    })
}

fn notice_v5(event: v5::Event) -> Option<Notice> {
    use rumqttc::Outgoing;
    use wire5::{Packet as P, PubAckReason, PubCompReason, PubRecReason, SubscribeReasonCode as Code};
    Some(match event {
        v5::Event::Incoming(P::ConnAck(_)) => Notice::Connected,
        v5::Event::Incoming(P::PubAck(ack)) => match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Notice::Acknowledged,
            reason => refused(&format!("{reason:?}"), ack.properties.and_then(|p| p.reason_string)),
        },
        v5::Event::Incoming(P::PubRec(ack)) => match ack.reason {
            PubRecReason::Success | PubRecReason::NoMatchingSubscribers => return None,
            reason => refused(&format!("{reason:?}"), ack.properties.and_then(|p| p.reason_string)),
        },
        v5::Event::Incoming(P::PubComp(ack)) => match ack.reason {
            PubCompReason::Success => Notice::Acknowledged,
            reason => refused(&format!("{reason:?}"), ack.properties.and_then(|p| p.reason_string)),
        },
        v5::Event::Incoming(P::SubAck(ack)) => Notice::Subscribed(
            ack.return_codes
                .iter()
                .map(|code| match code {
                    Code::Success(_) => Ok(()),
                    code => Err(in_words(&format!("{code:?}"))),
                })
                .collect(),
        ),
        v5::Event::Incoming(P::Publish(publish)) => Notice::Message(Message {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            packet: Box::new(Packet::V5(publish)),
        }),
        v5::Event::Outgoing(Outgoing::Publish(0)) => Notice::Written,
        v5::Event::Outgoing(Outgoing::Disconnect) => Notice::Disconnected,
        _ => return None,
    })
}

fn refused(name: &str, reason: Option<String>) -> Notice {
    let words = in_words(name);
    Notice::Refused(match reason {
        Some(reason) => format!("{words}: {reason}"),
        None => words,
    })
}

/// The library has names for reason codes, not the codes (MQTT 5 clause 2.4).
const CODES: [(&str, u8); 20] = [
    ("UnspecifiedError", 0x80),
    ("Unspecified", 0x80),
    ("Failure", 0x80),
    ("ImplementationSpecificError", 0x83),
    ("ImplementationSpecific", 0x83),
    ("ClientIdentifierNotValid", 0x85),
    ("BadUserNamePassword", 0x86),
    ("NotAuthorized", 0x87),
    ("ServerUnavailable", 0x88),
    ("ServerBusy", 0x89),
    ("ServerShuttingDown", 0x8b),
    ("TopicFilterInvalid", 0x8f),
    ("TopicNameInvalid", 0x90),
    ("PacketIdentifierInUse", 0x91),
    ("PkidInUse", 0x91),
    ("PacketIdentifierNotFound", 0x92),
    ("PacketTooLarge", 0x95),
    ("QuotaExceeded", 0x97),
    ("PayloadFormatInvalid", 0x99),
    ("SharedSubscriptionsNotSupported", 0x9e),
];

/// `NotAuthorized` as "not authorized (0x87)".
fn in_words(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    match CODES.iter().find(|(known, _)| *known == name) {
        Some((_, code)) => format!("{words} (0x{code:02x})"),
        None => words,
    }
}

fn explain_v4(error: &rumqttc::ConnectionError) -> String {
    use rumqttc::{ConnectionError as E, StateError};
    match error {
        E::Io(error) | E::MqttState(StateError::Io(error)) => error.to_string(),
        E::MqttState(StateError::ConnectionAborted) => "the server closed the connection".into(),
        E::ConnectionRefused(code) => format!("the server refused: {}", in_words(&format!("{code:?}"))),
        E::NetworkTimeout => "no answer in time".into(),
        other => other.to_string(),
    }
}

fn explain_v5(error: &v5::ConnectionError) -> String {
    use v5::{ConnectionError as E, StateError};
    match error {
        E::Io(error) | E::MqttState(StateError::Io(error)) => error.to_string(),
        E::MqttState(StateError::ConnectionAborted) => "the server closed the connection".into(),
        E::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let words = in_words(&format!("{reason_code:?}"));
            match reason_string {
                Some(reason) => format!("the server disconnected: {words}: {reason}"),
                None => format!("the server disconnected: {words}"),
            }
        }
        E::ConnectionRefused(code) => format!("the server refused: {}", in_words(&format!("{code:?}"))),
        E::Timeout(_) => "no answer in time".into(),
        other => other.to_string(),
    }
}

impl Sender {
    /// Queues a PUBLISH.
    pub(super) fn publish(&self, topic: &str, qos: QoS, retain: bool, payload: Bytes) -> anyhow::Result<()> {
        match self {
            Self::V4(client) => client.try_publish(topic, qos, retain, payload)?,
            Self::V5(client) => client.try_publish(topic, qos_v5(qos), retain, payload)?,
        }
        Ok(())
    }

    /// Queues one SUBSCRIBE for all filters.
    pub(super) fn subscribe(&self, filters: &[String], qos: QoS) -> anyhow::Result<()> {
        match self {
            Self::V4(client) => client
                .try_subscribe_many(filters.iter().map(|f| rumqttc::SubscribeFilter::new(f.clone(), qos)))?,
            Self::V5(client) => client
                .try_subscribe_many(filters.iter().map(|f| wire5::Filter::new(f.clone(), qos_v5(qos))))?,
        }
        Ok(())
    }

    /// Queues the acknowledgement of `message`; nothing for QoS 0.
    pub(super) fn ack(&self, message: &Message) -> anyhow::Result<()> {
        match (self, &*message.packet) {
            (Self::V4(client), Packet::V4(publish)) => client.try_ack(publish)?,
            (Self::V5(client), Packet::V5(publish)) => client.try_ack(publish)?,
            _ => {}
        }
        Ok(())
    }

    /// Queues DISCONNECT.
    pub(super) fn disconnect(&self) -> anyhow::Result<()> {
        match self {
            Self::V4(client) => client.try_disconnect()?,
            Self::V5(client) => client.try_disconnect()?,
        }
        Ok(())
    }
}

fn qos_v5(qos: QoS) -> v5::mqttbytes::QoS {
    match qos {
        QoS::AtMostOnce => v5::mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => v5::mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => v5::mqttbytes::QoS::ExactlyOnce,
    }
}

/// Waits until DISCONNECT is written, so that the server does not publish a will or take it for a failure.
pub(super) async fn close(mut link: Link) -> anyhow::Result<()> {
    link.sender.disconnect()?;
    let written = async {
        while let Some(notice) = link.notices.recv().await {
            if matches!(notice, Notice::Disconnected | Notice::Lost(_)) {
                break;
            }
        }
    };
    // A server that does not read must not keep us.
    tokio::time::timeout(Duration::from_secs(2), written).await.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_names_become_words_and_codes() {
        assert_eq!(in_words("NotAuthorized"), "not authorized (0x87)");
        assert_eq!(in_words("SomethingNew"), "something new");
    }
}
