//! Actions: what hook lines and guests run. The built-in functions are written here once, for every back end.

mod backlog;
mod functions;
mod lookup;
mod plan;

use std::sync::{Arc, LazyLock};

use tidegate_event::{
    AckError, AckLevel, AckPart, ActionOptions, BoxFuture, Event, Hook, Message, MsgId, ReasonCode, Scope,
    Seldom, TopicFilter,
};

pub(crate) use functions::{Builtin, find};
pub use functions::{Function, reference};

use crate::connector::Connector;
use crate::operation::Operation;
use crate::statement::Template;
use plan::Plan;

/// A hook line, ready to run.
pub struct Action {
    hook: Hook,
    filter: Option<TopicFilter>,
    label: String,
    work: Work,
    level: AckLevel,
    connector: Arc<Connector>,
}

/// What an action does.
pub(crate) enum Work {
    Function { builtin: Builtin, options: ActionOptions },
    Custom(Arc<[Arc<Template>]>),
}

impl Action {
    pub(crate) fn new(
        hook: Hook,
        filter: Option<TopicFilter>,
        label: String,
        work: Work,
        level: AckLevel,
        connector: Arc<Connector>,
    ) -> Self {
        Self { hook, filter, label, work, level, connector }
    }

    /// The hook it is bound to.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Which topics; `None` = all, and always for hooks without a topic.
    pub fn filter(&self) -> Option<&TopicFilter> {
        self.filter.as_ref()
    }

    /// For logs: `sqlite:pool1 on_message_publish`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The connector it works on.
    pub(crate) fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// Whether it is made of custom statements, which do not run for an implicit (QoS 0) message.acked.
    pub fn is_custom(&self) -> bool {
        matches!(self.work, Work::Custom(_))
    }

    /// Enqueues its operations for the event of `scope`, or makes its look-up.
    ///
    /// When its level is `stored`, its part of `scope.acks` is taken before this future ends. Subscriptions,
    /// backlogs and retained messages are in `scope.effects` before the part is done. Refusals are reported
    /// through the part. The future is slow when the writer is full: that is the back-pressure.
    pub fn run<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            match &self.work {
                Work::Function { builtin, options } => {
                    run_function(&self.connector, *builtin, options, scope, self.level).await;
                }
                Work::Custom(statements) => {
                    if !matches!(scope.event, Event::MessageAcked { explicit: false, .. }) {
                        run_statements(&self.connector, statements, scope, self.level).await;
                    }
                }
            }
        })
    }
}

impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Action")
            .field("hook", &self.hook.name())
            .field("filter", &self.filter)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

/// Takes the part that `level` asks for.
fn part(scope: &Scope, level: AckLevel) -> AckPart {
    match level {
        AckLevel::Stored => scope.acks.part(),
        AckLevel::Accepted => AckPart::detached(),
    }
}

/// Runs a built-in function for the event of `scope` on `connector`.
pub(crate) async fn run_function(
    connector: &Arc<Connector>,
    builtin: Builtin,
    options: &ActionOptions,
    scope: &Scope,
    level: AckLevel,
) {
    let renewed = scope.as_stored();
    match plan::plan(connector, builtin, renewed.as_ref().unwrap_or(scope), options.expired_time) {
        Plan::Nothing => {}
        Plan::Write(operation) => write(connector, operation, scope, part(scope, level)).await,
        Plan::Subscriptions { client } => {
            let part = part(scope, level);
            let found = lookup::subscriptions(connector, client).await;
            conclude(connector, part, found.map(|list| scope.effects.lock().subscriptions.extend(list)));
        }
        Plan::Fetch { client, filter } => {
            let backlog = backlog::Unfetched::new(connector, filter, client, options);
            scope.effects.lock().backlogs.push(Box::new(backlog));
        }
        Plan::Retained { filter } => {
            let part = part(scope, level);
            let found = lookup::retained(connector, filter).await;
            conclude(
                connector,
                part,
                found.map(|(first, rest)| {
                    let mut effects = scope.effects.lock();
                    effects.retained.get_or_insert_default().extend(first);
                    effects.retained_rest.extend(rest);
                }),
            );
        }
    }
}

/// Enqueues what a function writes. All that stores the message of an event in one database stores it under one id.
async fn write(connector: &Connector, mut operation: Operation, scope: &Scope, part: AckPart) {
    let (Some(message), Some(came)) = (operation.stored_message(), scope.event.message()) else {
        return connector.writer.enqueue(operation, part).await;
    };
    if !connector.backend.positions_are_ids() {
        return connector.writer.enqueue(operation, part).await;
    }
    let known = scope.effects.lock().id_in(connector.number, came.id);
    if let Some(id) = known {
        *message = with_id(message, id);
        return connector.writer.enqueue(operation, part).await;
    }
    let planned = message.id;
    let renewed = connector.writer.enqueue_in_order(operation, part).await;
    scope.effects.lock().stored_as(connector.number, came.id, renewed.unwrap_or(planned));
}

/// The message under that id.
fn with_id(message: &Arc<Message>, id: MsgId) -> Arc<Message> {
    if message.id == id { Arc::clone(message) } else { Arc::new(Message { id, ..(**message).clone() }) }
}

/// Whether one of `lines` may be written about `connector` now: see [`Seldom`].
fn turn(lines: &[Seldom], connector: &Connector) -> Option<u64> {
    // Another connector's line must not keep this one's away; there are not many connectors.
    let line = usize::try_from(connector.number).unwrap_or(0) % lines.len().max(1);
    lines.get(line).and_then(Seldom::turn)
}

/// Ends the part of a look-up whose result, if any, is in the effects.
fn conclude(connector: &Connector, part: AckPart, result: Result<(), tidegate_event::StorageError>) {
    match result {
        Ok(()) => part.done(),
        Err(error) => {
            // Every client that comes while the database is down fails.
            static LINES: LazyLock<[Seldom; 16]> = LazyLock::new(Default::default);
            if let Some(left_out) = turn(&*LINES, connector) {
                tracing::warn!(connector = %connector.name, %error, left_out, "look-up failed");
            }
            let code = if error.is_retryable() {
                ReasonCode::SERVER_UNAVAILABLE
            } else {
                ReasonCode::IMPLEMENTATION_SPECIFIC
            };
            part.fail(AckError::Refused {
                connector: connector.name.clone(),
                reason: error.to_string(),
                code,
            });
        }
    }
}

/// Enqueues custom statements for the event of `scope` on `connector`.
pub(crate) async fn run_statements(
    connector: &Arc<Connector>,
    statements: &Arc<[Arc<Template>]>,
    scope: &Scope,
    level: AckLevel,
) {
    let renewed = scope.as_stored();
    let event = &renewed.as_ref().unwrap_or(scope).event;
    let values = statements.iter().map(|s| s.bind(event, &scope.node)).collect();
    let subject = plan::subject(event);
    let operation = Operation::Execute { statements: Arc::clone(statements), values, subject };
    connector.writer.enqueue(operation, part(scope, level)).await;
}
