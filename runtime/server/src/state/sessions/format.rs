//! The records of durable sessions as bytes, and back.
//!
//! A value begins with the version of its form, so that a later release can tell what an earlier one wrote.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_event::{
    Certificate, Client, Message, MsgId, Origin, Owner, Protocol, PublishProperties, QoS, StoredDelivery,
    StoredSource, StoredWill, SubscriptionOptions, Tenant, TopicName,
};

/// The form of values. Change it when one of the forms changes, and keep reading the old ones.
const VERSION: u8 = 2;
/// That of the first release: [`Form::First`].
const FIRST: u8 = 1;

/// A value.
pub(super) trait Form: DeserializeOwned {
    /// As it was in the first form of values.
    type First: DeserializeOwned + Into<Self>;
}

macro_rules! unchanged {
    ($($form:ty),*) => {
        $(impl Form for $form {
            type First = Self;
        })*
    };
}
unchanged!(u64, RetainedForm, SendingForm, ReceiptForm, MessageForm);

/// A session.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SessionForm {
    pub(super) tenant: String,
    pub(super) client: ByteString,
    pub(super) expiry: u32,
    pub(super) disconnected_at_ms: Option<u64>,
    pub(super) owner: Option<OwnerForm>,
}

/// A session in the first form.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) struct FirstSessionForm {
    tenant: String,
    client: ByteString,
    expiry: u32,
    disconnected_at_ms: Option<u64>,
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
    /// Whether it still has to bring what was retained or stored before it.
    pub(super) joining: bool,
}

/// A subscription in the first form.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) struct FirstSubscriptionForm {
    filter: ByteString,
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
    /// Whose it is: whether it may be published is asked when it is.
    publisher: Option<PublisherForm>,
}

/// A will in the first form.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) struct FirstWillForm {
    tenant: String,
    delay: u32,
    message: MessageForm,
}

/// A client, without what its messages say of it.
#[derive(Serialize, Deserialize)]
struct PublisherForm {
    username: Option<ByteString>,
    peer: SocketAddr,
    protocol: u8,
    keep_alive: u16,
    clean_start: bool,
    connected_at_ms: u64,
    listener: String,
    server_name: Option<String>,
    certificate: Option<CertificateForm>,
    certified: bool,
    forwarded: bool,
}

#[derive(Serialize, Deserialize)]
struct CertificateForm {
    common_name: Option<ByteString>,
    subject: ByteString,
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
    source: SourceForm,
    subscription_ids: Option<Vec<u32>>,
    pub(super) body: BodyForm,
}

/// How a message came to a client.
#[derive(Serialize, Deserialize)]
enum SourceForm {
    Live,
    Shared(Option<ByteString>),
    Direct,
    Retained,
    Backlog,
}

/// A message that waits for a client, in the first form.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) struct FirstDeliveryForm {
    qos: u8,
    retain: bool,
    shared: bool,
    subscription_ids: Option<Vec<u32>>,
    body: BodyForm,
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
pub(super) fn decode<T: Form>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, form)) => whole(form),
        Some((&FIRST, form)) => whole::<T::First>(form).map(Into::into),
        Some((version, _)) => {
            Err(format!("has form {version}, and this release reads forms {FIRST} to {VERSION}"))
        }
        None => Err("is empty".into()),
    }
}

fn whole<T: DeserializeOwned>(form: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(form) {
        Ok((form, [])) => Ok(form),
        Ok(_) => Err("is longer than it should be".into()),
        Err(error) => Err(format!("is damaged: {error}")),
    }
}

fn qos(level: u8) -> Result<QoS, String> {
    QoS::try_from(level).map_err(|level| format!("has the QoS {level}"))
}

impl Form for SessionForm {
    type First = FirstSessionForm;
}

impl From<FirstSessionForm> for SessionForm {
    fn from(first: FirstSessionForm) -> Self {
        let FirstSessionForm { tenant, client, expiry, disconnected_at_ms } = first;
        Self { tenant, client, expiry, disconnected_at_ms, owner: None }
    }
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

impl Form for SubscriptionForm {
    type First = FirstSubscriptionForm;
}

impl From<FirstSubscriptionForm> for SubscriptionForm {
    fn from(first: FirstSubscriptionForm) -> Self {
        let FirstSubscriptionForm { filter, qos, no_local, retain_as_published, retain_handling, id } = first;
        Self { filter, qos, no_local, retain_as_published, retain_handling, id, joining: false }
    }
}

impl SubscriptionForm {
    pub(super) fn new(filter: &ByteString, options: SubscriptionOptions, joining: bool) -> Self {
        let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling, id } = options;
        let (filter, qos) = (filter.clone(), qos.level());
        Self { filter, qos, no_local, retain_as_published, retain_handling, id, joining }
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

impl Form for WillForm {
    type First = FirstWillForm;
}

impl From<FirstWillForm> for WillForm {
    fn from(FirstWillForm { tenant, delay, message }: FirstWillForm) -> Self {
        Self { tenant, delay, message, publisher: None }
    }
}

impl WillForm {
    pub(super) fn new(tenant: &Tenant, will: &StoredWill) -> Self {
        Self {
            tenant: tenant.name().into(),
            delay: will.delay,
            message: MessageForm::new(&will.message),
            publisher: will.message.publisher.as_deref().map(PublisherForm::new),
        }
    }

    pub(super) fn into_will(self) -> Result<StoredWill, String> {
        let mut message = self.message.into_message()?;
        if let Some(publisher) = self.publisher {
            let client = publisher.into_client(message.sender.clone(), Tenant::new(&self.tenant))?;
            message.publisher = Some(Arc::new(client));
        }
        Ok(StoredWill { message: Arc::new(message), delay: self.delay })
    }
}

impl PublisherForm {
    fn new(client: &Client) -> Self {
        Self {
            username: client.username.clone(),
            peer: client.peer,
            protocol: client.protocol.level(),
            keep_alive: client.keep_alive,
            clean_start: client.clean_start,
            connected_at_ms: client.connected_at_ms,
            listener: (*client.listener).into(),
            server_name: client.server_name.as_deref().map(Into::into),
            certificate: client.certificate.as_deref().map(|certificate| CertificateForm {
                common_name: certificate.common_name.clone(),
                subject: certificate.subject.clone(),
            }),
            certified: client.certified,
            forwarded: client.forwarded,
        }
    }

    /// The client `id` as it was. Its connection was one of an earlier life of the process and has no number.
    fn into_client(self, id: ByteString, tenant: Tenant) -> Result<Client, String> {
        let certificate = |CertificateForm { common_name, subject }| Certificate { common_name, subject };
        Ok(Client {
            id,
            username: self.username,
            peer: self.peer,
            protocol: match self.protocol {
                3 => Protocol::V31,
                4 => Protocol::V311,
                5 => Protocol::V5,
                other => return Err(format!("has the protocol {other}")),
            },
            tenant,
            keep_alive: self.keep_alive,
            clean_start: self.clean_start,
            connected_at_ms: self.connected_at_ms,
            connection: 0,
            listener: self.listener.into(),
            server_name: self.server_name.map(Into::into),
            certificate: self.certificate.map(|form| Arc::new(certificate(form))),
            certified: self.certified,
            forwarded: self.forwarded,
        })
    }
}

impl RetainedForm {
    pub(super) fn new(tenant: &Tenant, message: &Message) -> Self {
        Self { tenant: tenant.name().into(), message: MessageForm::new(message) }
    }
}

impl Form for DeliveryForm {
    type First = FirstDeliveryForm;
}

impl From<FirstDeliveryForm> for DeliveryForm {
    fn from(first: FirstDeliveryForm) -> Self {
        let FirstDeliveryForm { qos, retain, shared, subscription_ids, body } = first;
        let source = if shared { SourceForm::Shared(None) } else { SourceForm::Live };
        Self { qos, retain, source, subscription_ids, body }
    }
}

impl DeliveryForm {
    /// `body` is the number of the record that has the message; `None`: it goes into this one.
    pub(super) fn new(delivery: &StoredDelivery, body: Option<u64>) -> Self {
        Self {
            qos: delivery.qos.level(),
            retain: delivery.retain,
            source: match &delivery.source {
                StoredSource::Live => SourceForm::Live,
                StoredSource::Shared(filter) => SourceForm::Shared(filter.clone()),
                StoredSource::Direct => SourceForm::Direct,
                StoredSource::Retained => SourceForm::Retained,
                StoredSource::Backlog => SourceForm::Backlog,
            },
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
            source: match self.source {
                SourceForm::Live => StoredSource::Live,
                SourceForm::Shared(filter) => StoredSource::Shared(filter),
                SourceForm::Direct => StoredSource::Direct,
                SourceForm::Retained => StoredSource::Retained,
                SourceForm::Backlog => StoredSource::Backlog,
            },
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
        assert_eq!(refused, "has form 9, and this release reads forms 1 to 2");
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

    fn message() -> MessageForm {
        MessageForm {
            id: 7,
            topic: "t".into(),
            payload: Bytes::from_static(b"x"),
            qos: 1,
            retain: false,
            dup: false,
            timestamp_ms: 1,
            sender: "c".into(),
            origin: 1,
            hops: 0,
            properties: None,
        }
    }

    fn first(form: &impl Serialize) -> Vec<u8> {
        postcard::to_extend(form, vec![FIRST]).unwrap()
    }

    #[test]
    fn what_the_first_release_wrote_is_read() {
        let SessionForm { tenant, client, expiry, disconnected_at_ms, .. } = form();
        let session = FirstSessionForm { tenant, client, expiry, disconnected_at_ms };
        assert_eq!(decode(&first(&session)), Ok(SessionForm { owner: None, ..form() }));
        let subscription = FirstSubscriptionForm {
            filter: "a/#".into(),
            qos: 2,
            no_local: true,
            retain_as_published: false,
            retain_handling: 1,
            id: 9,
        };
        let read: SubscriptionForm = decode(&first(&subscription)).unwrap();
        let options = read.options().unwrap();
        assert_eq!((&*read.filter, read.joining), ("a/#", false));
        assert_eq!((options.qos, options.no_local, options.id), (QoS::ExactlyOnce, true, 9));
        let will = FirstWillForm { tenant: "t".into(), delay: 5, message: message() };
        let read = decode::<WillForm>(&first(&will)).unwrap().into_will().unwrap();
        assert!(read.delay == 5 && read.message.publisher.is_none());
        for (shared, source) in [(true, StoredSource::Shared(None)), (false, StoredSource::Live)] {
            let body = BodyForm::Own(Box::new(message()));
            let delivery =
                FirstDeliveryForm { qos: 1, retain: true, shared, subscription_ids: Some(vec![4]), body };
            let read: DeliveryForm = decode(&first(&delivery)).unwrap();
            let read = read.into_delivery(3, |_| Err("it is here".into())).unwrap();
            assert_eq!((read.number, read.source, read.retain), (3, source, true));
        }
    }

    /// Nothing was known of a will's client after a restart: it was published whatever that client may publish.
    #[test]
    fn a_will_keeps_whose_it_is() {
        let certificate = Certificate { common_name: None, subject: "CN=c".into() };
        let client = Client {
            id: "c".into(),
            username: Some("u".into()),
            peer: "[::1]:7".parse().unwrap(),
            protocol: Protocol::V311,
            tenant: Tenant::new("acme"),
            listener: "tls".into(),
            server_name: Some("broker".into()),
            certificate: Some(Arc::new(certificate)),
            certified: true,
            forwarded: true,
            ..Client::default()
        };
        let publisher = Some(Arc::new(client));
        let message = Message { publisher, ..message().into_message().unwrap() };
        let will = StoredWill { message: Arc::new(message), delay: 1 };
        let bytes = encode(&WillForm::new(&Tenant::new("acme"), &will)).unwrap();
        let read = decode::<WillForm>(&bytes).unwrap().into_will().unwrap();
        assert_eq!(format!("{read:?}"), format!("{will:?}"));
    }
}
