//! A handler that plays a script, so that the course of an event can be tested without guests and stores.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_event::{
    AckError, AckPart, Event, IdSource, Message, Node, Origin, QoS, Scope, Tenant, Verdict, now_ms,
};
use tidegate_module::Settled;

use crate::run::Step;

type Script = Box<dyn Fn(&Message) -> Verdict + Send + Sync>;
type Opinion = Box<dyn Fn(&Event) -> Result<Verdict, Settled> + Send + Sync>;

/// A module with a script, or an action that holds its part until it is told to complete.
pub(crate) struct Scripted {
    script: Option<Script>,
    opinion: Option<Opinion>,
    seen: Mutex<Vec<Arc<Message>>>,
    /// The topics it was asked about.
    asked: Mutex<Vec<String>>,
    parts: Mutex<Vec<AckPart>>,
}

impl Scripted {
    /// A module that answers with what `script` makes of the message.
    pub(crate) fn module(script: impl Fn(&Message) -> Verdict + Send + Sync + 'static) -> Arc<Self> {
        Self::made(Some(Box::new(script)), None)
    }

    /// A module that is asked for leave; `Err`: it fails, and that is its policy.
    pub(crate) fn asked(
        opinion: impl Fn(&Event) -> Result<Verdict, Settled> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::made(None, Some(Box::new(opinion)))
    }

    /// An action of level `stored`.
    pub(crate) fn action() -> Arc<Self> {
        Self::made(None, None)
    }

    fn made(script: Option<Script>, opinion: Option<Opinion>) -> Arc<Self> {
        Arc::new(Self {
            script,
            opinion,
            seen: Mutex::default(),
            asked: Mutex::default(),
            parts: Mutex::default(),
        })
    }

    pub(crate) fn is_module(&self) -> bool {
        self.script.is_some()
    }

    /// The messages it was called with, in order.
    pub(crate) fn seen(&self) -> Vec<Arc<Message>> {
        self.seen.lock().clone()
    }

    /// The topics it was asked about, in order.
    pub(crate) fn questions(&self) -> Vec<String> {
        self.asked.lock().clone()
    }

    pub(crate) fn ask(&self, event: &Event) -> Result<Verdict, Settled> {
        self.asked.lock().push(event.topic().unwrap_or_default().to_owned());
        self.opinion.as_ref().map_or(Ok(Verdict::Pass), |opinion| opinion(event))
    }

    /// Completes every part it holds.
    pub(crate) fn complete(&self, result: Result<(), AckError>) {
        for part in self.parts.lock().drain(..) {
            match &result {
                Ok(()) => part.done(),
                Err(error) => part.fail(error.clone()),
            }
        }
    }

    pub(crate) async fn call(&self, scope: &Scope) -> Step {
        let (Some(message), Some(script)) = (scope.event.message(), &self.script) else { return Step::Go };
        self.seen.lock().push(message.clone());
        script(message).into()
    }

    pub(crate) async fn run(&self, scope: &Scope) {
        self.seen.lock().extend(scope.event.message().cloned());
        self.parts.lock().push(scope.acks.part());
    }
}

/// A message on `topic`.
pub(crate) fn message(topic: &str, payload: &[u8]) -> Arc<Message> {
    #![allow(clippy::unwrap_used, reason = "tests")]
    Arc::new(Message {
        id: IdSource::new(&Node::default()).next_id(),
        topic: topic.parse().unwrap(),
        payload: Bytes::copy_from_slice(payload),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        timestamp_ms: now_ms(),
        sender: "c".into(),
        publisher: None,
        properties: None,
        origin: Origin::Client,
        hops: 0,
    })
}

/// The publish event of such a message.
pub(crate) fn publish(topic: &str, payload: &[u8]) -> Event {
    Event::MessagePublish { message: message(topic, payload), tenant: Tenant::default() }
}
