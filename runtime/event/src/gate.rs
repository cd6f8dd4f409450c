//! Who may do what, decided without a handler: the gate that the broker asks before any hook.

use std::sync::Arc;

use bytestring::ByteString;

use crate::{BoxFuture, Client, Password, ReasonCode, TopicFilter, TopicName};

/// What a gate says to a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The client may connect, if no handler objects.
    Allow,
    /// It may not; CONNACK has this code, or what is nearest to it in the client's version.
    Refuse(ReasonCode),
}

/// The user that a client has proved to be. Its session is for that user alone, over restarts too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the user.
    pub user: ByteString,
    /// Whether a certificate has proved it ([`Client::certified`]).
    pub certified: bool,
}

/// Decides who may connect, publish and subscribe. The broker asks it first, and handlers only about what it allows.
///
/// It is asked about clients: what modules publish and subscribe needs no leave, and topics of `$SYS` are refused to
/// clients whatever it says.
pub trait Gate: Send + Sync + 'static {
    /// Whether it allows everything, for good. The broker looks once, and never asks an open gate.
    fn is_open(&self) -> bool {
        false
    }

    /// Names the rules that [`Self::may_publish`] and [`Self::may_subscribe`] answer by: as long as it is the same number, an
    /// answer about a client may be kept. `None`: asking is as quick as looking an answer up, so none are kept.
    fn generation(&self) -> Option<u64> {
        None
    }

    /// Whether `client`, which sent `password`, may connect. The future may be dropped at any time: then nobody waits for
    /// the answer any more.
    fn connect(&self, client: &Arc<Client>, password: Option<Password>) -> BoxFuture<'static, Decision>;

    /// The user that `client`, which [`Self::connect`] has let in, has proved to be: its session is that user's, whosever it
    /// was before. `None`: it has not, and whoever has the same client id may take its session over.
    fn owner(&self, client: &Client) -> Option<Owner> {
        let _ = client;
        None
    }

    /// Whether `client`, which [`Self::connect`] has let in, may take over or end a session of `owner` by its client id
    /// (MQTT 5 clause 3.1.3.1 leaves it to the server whom it takes an id from).
    fn may_take(&self, client: &Client, owner: &Owner) -> bool {
        let _ = (client, owner);
        true
    }

    /// Whether `client` may publish to `topic`. Once a message: it must neither wait nor allocate.
    fn may_publish(&self, client: &Client, topic: &TopicName) -> bool;

    /// Whether `client` may have all that a subscription to `filter` brings; of a shared subscription, that is the
    /// filter behind its group (MQTT 5 clause 4.8.2).
    fn may_subscribe(&self, client: &Client, filter: &TopicFilter) -> bool;
}

/// Everybody may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGate;

impl Gate for OpenGate {
    fn is_open(&self) -> bool {
        true
    }

    fn connect(&self, _: &Arc<Client>, _: Option<Password>) -> BoxFuture<'static, Decision> {
        Box::pin(std::future::ready(Decision::Allow))
    }

    fn may_publish(&self, _: &Client, _: &TopicName) -> bool {
        true
    }

    fn may_subscribe(&self, _: &Client, _: &TopicFilter) -> bool {
        true
    }
}
