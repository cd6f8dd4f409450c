//! The records of durable sessions as bytes, and back.
//!
//! A value begins with the version of its form, so that a later release can tell what an earlier one wrote.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_event::{
    Message, MsgId, Origin, Owner, PublishProperties, QoS, StoredDelivery, StoredWill, SubscriptionOptions,
    Tenant, TopicName,
};

/// The form of values. Change it when one of the forms changes, and keep reading the old ones.
const VERSION: u8 = 1;

/// A session.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SessionForm {
    pub(super) tenant: String,
    pub(super) client: ByteString,
    pub(super) expiry: u32,
    pub(super) disconnected_at_ms: Option<u64>,
    pub(super) owner: Option<OwnerForm>,
}

/// The user that a session is for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct OwnerForm {
    user: ByteString,
    certified: bool,
}

/// A subscription.
#[derive(Serialize, Deserialize)]
pub(super) struct SubscriptionForm {
    pub(super) filter: ByteString,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    retain_handling: u8,
    id: u32,
}

/// A will. Its session may be gone, so the tenant is here, too.
#[derive(Serialize, Deserialize)]
pub(super) struct WillForm {
    pub(super) tenant: String,
    delay: u32,
    message: MessageForm,
}

/// A retained message.
#[derive(Serialize, Deserialize)]
pub(super) struct RetainedForm {
    pub(super) tenant: String,
    pub(super) message: MessageForm,
}

/// A message that waits for a client.
#[derive(Serialize, Deserialize)]
pub(super) struct DeliveryForm {
    qos: u8,
    retain: bool,
    shared: bool,
    subscription_ids: Option<Vec<u32>>,
    pub(super) body: BodyForm,
}

/// Where the message of a delivery is.
#[derive(Serialize, Deserialize)]
pub(super) enum BodyForm {
    /// Here: nobody else waits for it.
    Own(Box<MessageForm>),
    /// In a record of its own.
    Shared(u64),
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SendingForm {
    pub(super) sent: Option<SentForm>,
    pub(super) released: bool,
}

/// How it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SentForm {
    pub(super) sequence: u64,
    pub(super) qos: u8,
    /// The body of what was sent in its place.
    pub(super) replacement: Option<u64>,
}

/// A QoS 2 packet id.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReceiptForm {
    pub(super) message: u128,
    pub(super) handled: bool,
}

/// A message.
#[derive(Serialize, Deserialize)]
pub(super) struct MessageForm {
    id: u128,
    topic: ByteString,
    payload: Bytes,
    qos: u8,
    retain: bool,
    dup: bool,
    timestamp_ms: u64,
    sender: ByteString,
    origin: u8,
    hops: u8,
    properties: Option<PropertiesForm>,
}

#[derive(Serialize, Deserialize)]
struct PropertiesForm {
    payload_format: Option<u8>,
    message_expiry: Option<u32>,
    content_type: Option<ByteString>,
    response_topic: Option<ByteString>,
    correlation_data: Option<Bytes>,
    user: Vec<(ByteString, ByteString)>,
}

/// `form` as bytes.
///
/// # Errors
/// It cannot be written in this form, which no record is known to cause.
pub(super) fn encode(form: &impl Serialize) -> Result<Vec<u8>, String> {
    postcard::to_extend(form, vec![VERSION]).map_err(|error| error.to_string())
}

/// The form that `bytes` are.
///
/// # Errors
/// What is wrong with them.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, form)) => match postcard::take_from_bytes(form) {
            Ok((form, [])) => Ok(form),
            Ok(_) => Err("is longer than it should be".into()),
            Err(error) => Err(format!("is damaged: {error}")),
        },
        Some((version, _)) => Err(format!("has form {version}, and this release reads form {VERSION}")),
        None => Err("is empty".into()),
    }
}

fn qos(level: u8) -> Result<QoS, String> {
    QoS::try_from(level).map_err(|level| format!("has the QoS {level}"))
}

impl OwnerForm {
    pub(super) fn new(owner: &Owner) -> Self {
        let Owner { user, certified } = owner;
        Self { user: user.clone(), certified: *certified }
    }

    pub(super) fn into_owner(self) -> Owner {
        Owner { user: self.user, certified: self.certified }
    }
}

impl SubscriptionForm {
    pub(super) fn new(filter: &ByteString, options: SubscriptionOptions) -> Self {
        let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling, id } = options;
        Self { filter: filter.clone(), qos: qos.level(), no_local, retain_as_published, retain_handling, id }
    }

    pub(super) fn options(&self) -> Result<SubscriptionOptions, String> {
        Ok(SubscriptionOptions {
            qos: qos(self.qos)?,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: self.retain_handling,
            id: self.id,
        })
    }
}

impl WillForm {
    pub(super) fn new(tenant: &Tenant, will: &StoredWill) -> Self {
        Self { tenant: tenant.name().into(), delay: will.delay, message: MessageForm::new(&will.message) }
    }

    pub(super) fn into_will(self) -> Result<StoredWill, String> {
        Ok(StoredWill { message: Arc::new(self.message.into_message()?), delay: self.delay })
    }
}

impl RetainedForm {
    pub(super) fn new(tenant: &Tenant, message: &Message) -> Self {
        Self { tenant: tenant.name().into(), message: MessageForm::new(message) }
    }
}

impl DeliveryForm {
    /// `body` is the number of the record that has the message; `None`: it goes into this one.
    pub(super) fn new(delivery: &StoredDelivery, body: Option<u64>) -> Self {
        Self {
            qos: delivery.qos.level(),
            retain: delivery.retain,
            shared: delivery.shared,
            subscription_ids: delivery.subscription_ids.as_ref().map(|ids| ids.to_vec()),
            body: match body {
                Some(number) => BodyForm::Shared(number),
                None => BodyForm::Own(Box::new(MessageForm::new(&delivery.message))),
            },
        }
    }

    /// The delivery. `shared` finds a message that has a record of its own.
    pub(super) fn into_delivery(
        self,
        number: u64,
        shared: impl FnOnce(u64) -> Result<Arc<Message>, String>,
    ) -> Result<StoredDelivery, String> {
        Ok(StoredDelivery {
            number,
            message: match self.body {
                BodyForm::Own(message) => Arc::new(message.into_message()?),
                BodyForm::Shared(body) => shared(body)?,
            },
            qos: qos(self.qos)?,
            retain: self.retain,
            shared: self.shared,
            subscription_ids: self.subscription_ids.map(Arc::from),
        })
    }
}

impl SentForm {
    pub(super) fn qos(self) -> Result<QoS, String> {
        qos(self.qos)
    }
}

impl ReceiptForm {
    pub(super) fn message(&self) -> MsgId {
        MsgId::from_bits(self.message)
    }
}

impl MessageForm {
    pub(super) fn new(message: &Message) -> Self {
        let properties = |p: &PublishProperties| PropertiesForm {
            payload_format: p.payload_format,
            message_expiry: p.message_expiry,
            content_type: p.content_type.clone(),
            response_topic: p.response_topic.clone(),
            correlation_data: p.correlation_data.clone(),
            user: p.user.clone(),
        };
        Self {
            id: message.id.bits(),
            topic: message.topic.as_byte_string().clone(),
            payload: message.payload.clone(),
            qos: message.qos.level(),
            retain: message.retain,
            dup: message.dup,
            timestamp_ms: message.timestamp_ms,
            sender: message.sender.clone(),
            origin: match message.origin {
                Origin::Client => 0,
                Origin::Will => 1,
                Origin::Module => 2,
                Origin::Fetched => 3,
                Origin::RetainedStore => 4,
                Origin::Broker => 5,
            },
            hops: message.hops,
            properties: message.properties.as_deref().map(properties),
        }
    }

    pub(super) fn into_message(self) -> Result<Message, String> {
        let properties = |p: PropertiesForm| PublishProperties {
            payload_format: p.payload_format,
            message_expiry: p.message_expiry,
            content_type: p.content_type,
            response_topic: p.response_topic,
            correlation_data: p.correlation_data,
            user: p.user,
        };
        Ok(Message {
            id: MsgId::from_bits(self.id),
            topic: TopicName::new(self.topic).map_err(|error| format!("has a wrong topic: {error}"))?,
            payload: self.payload,
            qos: qos(self.qos)?,
            retain: self.retain,
            dup: self.dup,
            timestamp_ms: self.timestamp_ms,
            sender: self.sender,
            publisher: None,
            properties: self.properties.map(|p| Box::new(properties(p))),
            origin: match self.origin {
                0 => Origin::Client,
                1 => Origin::Will,
                2 => Origin::Module,
                3 => Origin::Fetched,
                4 => Origin::RetainedStore,
                5 => Origin::Broker,
                other => return Err(format!("has the origin {other}")),
            },
            hops: self.hops,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn form() -> SessionForm {
        SessionForm {
            tenant: "t".into(),
            client: "c".into(),
            expiry: 7,
            disconnected_at_ms: Some(9),
            owner: Some(OwnerForm { user: "u".into(), certified: true }),
        }
    }

    #[test]
    fn a_value_says_which_form_it_has() {
        let mut bytes = encode(&form()).unwrap();
        assert_eq!(decode(&bytes), Ok(form()));
        bytes[0] = 9;
        let refused = decode::<SessionForm>(&bytes).unwrap_err();
        assert_eq!(refused, "has form 9, and this release reads form 1");
    }

    #[test]
    fn a_damaged_value_is_an_error_whatever_is_wrong() {
        let bytes = encode(&form()).unwrap();
        for length in 0..bytes.len() {
            decode::<SessionForm>(&bytes[..length]).unwrap_err();
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode::<SessionForm>(&longer), Err("is longer than it should be".into()));
        let wild = [&[VERSION][..], &[0xFF; 40]].concat();
        assert!(decode::<SessionForm>(&wild).unwrap_err().starts_with("is damaged"));
    }
}
