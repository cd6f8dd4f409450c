//! Handlers that do what a test says, and a log of what was raised.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_event::{
    Access, AckPart, Admitted, BoxFuture, Event, Hook, Hooks, Message, Node, Raised, Scope, Tenant, Verdict,
};
use tokio::sync::Notify;

use super::client::PATIENCE;

type Handler = dyn Fn(&Scope) -> Option<BoxFuture<'static, Verdict>> + Send + Sync;

/// Handlers for some hooks. Every event raised is noted as `hook client detail`; `+` is put before it when its
/// handlers have run.
pub(crate) struct Script {
    hooks: Vec<Hook>,
    node: Arc<Node>,
    handler: Box<Handler>,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Notify,
}

impl Log {
    fn note(&self, line: String) {
        self.lines.lock().push(line);
        self.changed.notify_waiters();
    }
}

impl Script {
    /// `handler` is called for each event of `hooks`, when it is raised; what it gives runs as the handlers.
    /// `None`: no handler matches.
    pub(crate) fn new(
        hooks: &[Hook],
        handler: impl Fn(&Scope) -> Option<BoxFuture<'static, Verdict>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            hooks: hooks.to_vec(),
            node: Arc::new(Node::default()),
            handler: Box::new(handler),
            log: Arc::default(),
        })
    }

    /// Handlers that only look.
    pub(crate) fn observer(hooks: &[Hook]) -> Arc<Self> {
        Self::new(hooks, |_| pass())
    }

    /// Handlers of `hook` that `gate` lets through, one event after the other.
    pub(crate) fn gated(hook: Hook, gate: &Gate) -> Arc<Self> {
        let gate = gate.clone();
        Self::new(&[hook], move |_| {
            let gate = gate.clone();
            Some(Box::pin(async move {
                gate.pass().await;
                Verdict::Pass
            }))
        })
    }

    /// What was raised so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lines.lock().clone()
    }

    /// What was raised so far, without the ends of handlers.
    pub(crate) fn raised(&self) -> Vec<String> {
        self.log().into_iter().filter(|line| !line.starts_with('+')).collect()
    }

    /// Waits until `enough` is true of the log.
    pub(crate) async fn until(&self, enough: impl Fn(&[String]) -> bool) -> Vec<String> {
        let waiting = async {
            loop {
                let changed = self.log.changed.notified();
                let log = self.log();
                if enough(&log) {
                    return log;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(log) => log,
            Err(_) => panic!("not raised in time: {:#?}", self.log()),
        }
    }

    /// Waits for an event whose line contains `part`.
    pub(crate) async fn until_line(&self, part: &str) {
        self.until(|log| log.iter().any(|line| line.contains(part))).await;
    }
}

impl Hooks for Script {
    fn is_bound(&self, _: &Tenant, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }

    fn raise(&self, event: Event) -> Raised {
        assert!(self.hooks.contains(&event.hook()), "raised without a handler bound: {event:?}");
        let line = describe(&event);
        let scope = Scope::new(event, Arc::clone(&self.node));
        self.log.note(line.clone());
        let Some(handlers) = (self.handler)(&scope) else { return Raised::Nothing };
        let log = Arc::clone(&self.log);
        Raised::Running(Box::pin(async move {
            let verdict = handlers.await;
            log.note(format!("+{line}"));
            Admitted { verdict, scope }
        }))
    }
}

fn describe(event: &Event) -> String {
    let hook = event.hook().name();
    let text = |message: &Message| format!("{} {}", message.topic, String::from_utf8_lossy(&message.payload));
    match event {
        Event::ClientDisconnected { client, reason } => {
            format!("{hook} {} {}", client.id, reason.name())
        }
        Event::ClientConnected { client } | Event::SessionCreated { client } => {
            format!("{hook} {}", client.id)
        }
        Event::SessionSubscribed { client, filter, qos, shared } => {
            format!("{hook} {} {filter} {}{}", client.id, qos.level(), if *shared { " shared" } else { "" })
        }
        Event::ClientAuthenticate { client, password } => {
            let password = password.as_ref().map(|password| String::from_utf8_lossy(password.bytes()));
            format!("{hook} {} {}", client.id, password.as_deref().unwrap_or("none"))
        }
        Event::ClientAuthorize { client, access } => {
            let kind = if matches!(access, Access::Publish(_)) { "publish" } else { "subscribe" };
            format!("{hook} {} {kind} {} {}", client.id, access.topic(), access.qos().level())
        }
        Event::ClientSubscribe { client, request } => {
            format!("{hook} {} {} {}", client.id, request.text, request.qos.level())
        }
        Event::SessionUnsubscribed { client, filter, .. } => format!("{hook} {} {filter}", client.id),
        Event::MessagePublish { message, .. } => format!("{hook} {} {}", message.sender, text(message)),
        Event::MessageDeliver { client, message } => format!("{hook} {} {}", client.id, text(message)),
        Event::MessageAcked { client, message, through, explicit } => {
            let through = match through {
                None => "none".to_owned(),
                Some(id) if *id == message.id => "itself".to_owned(),
                Some(_) => "beyond".to_owned(),
            };
            let explicit = if *explicit { "" } else { " implicit" };
            format!("{hook} {} {} through {through}{explicit}", client.id, text(message))
        }
    }
}

/// Handlers that let the event pass.
pub(crate) fn pass() -> Option<BoxFuture<'static, Verdict>> {
    decide(Verdict::Pass)
}

/// Handlers that decide at once.
pub(crate) fn decide(verdict: Verdict) -> Option<BoxFuture<'static, Verdict>> {
    Some(Box::pin(async move { verdict }))
}

/// The payload of the event's message.
pub(crate) fn payload(scope: &Scope) -> String {
    let message = scope.event.message().unwrap();
    String::from_utf8_lossy(&message.payload).into_owned()
}

/// Parts of acks that a test completes when it wants.
#[derive(Clone, Default)]
pub(crate) struct Withheld(Arc<Mutex<Vec<(String, AckPart)>>>);

impl Withheld {
    /// Takes a part of the event's acks, filed under its payload or hook.
    pub(crate) fn take(&self, scope: &Scope) {
        let name = match scope.event.message() {
            Some(_) => payload(scope),
            None => scope.event.hook().name().to_owned(),
        };
        self.0.lock().push((name, scope.acks.part()));
    }

    /// The part filed under `name`.
    pub(crate) fn part(&self, name: &str) -> AckPart {
        let mut parts = self.0.lock();
        let index = parts.iter().position(|(filed, _)| filed == name).unwrap();
        parts.remove(index).1
    }
}

/// A gate that handlers wait at until a test opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<usize>, Notify)>);

impl Gate {
    /// Lets one waiter through, now or later.
    pub(crate) fn open(&self) {
        *self.0.0.lock() += 1;
        self.0.1.notify_waiters();
    }

    /// Waits until whoever was let through has gone.
    pub(crate) async fn until_passed(&self) {
        while *self.0.0.lock() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn pass(&self) {
        loop {
            let opened = self.0.1.notified();
            {
                let mut passes = self.0.0.lock();
                if *passes > 0 {
                    *passes -= 1;
                    return;
                }
            }
            opened.await;
        }
    }
}
