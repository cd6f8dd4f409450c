//! One configuration, opened: its connectors by name and its actions. Never changed, only replaced.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::actions::{Action, Builtin, Work};
use crate::backend::{self, BackendError};
use crate::config::{Diagnostic, HookLine, LineAction};
use crate::connector::Connector;
use crate::statement::Template;

/// How long a database may take to check a statement.
const CHECK: Duration = Duration::from_secs(5);

/// Connectors and actions.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) connectors: Vec<Arc<Connector>>,
    by_name: HashMap<String, usize>,
    pub(crate) actions: Vec<Arc<Action>>,
    /// Connectors that are going to be told of the ends of connections.
    pub(crate) tracked: Vec<Arc<Connector>>,
    /// Numbers of connectors whose database could not check a statement: it is not asked to check more.
    silent: HashSet<u64>,
}

impl Opened {
    pub(crate) fn add(&mut self, connector: Arc<Connector>) {
        let index = self.connectors.len();
        self.by_name.insert(connector.name.clone(), index);
        let pool = &connector.pool.name;
        if self.connectors.iter().any(|other| other.pool.name == *pool) {
            self.by_name.remove(pool); // the bare name says no longer which
        } else {
            self.by_name.insert(pool.clone(), index);
        }
        self.connectors.push(connector);
    }

    /// Makes the action of a hook line. What its database says about its statements goes to `findings`.
    pub(crate) async fn add_action(&mut self, line: &HookLine, findings: &mut Vec<Diagnostic>) {
        let name = format!("{}:{}", line.kind.name, line.pool);
        let Some(connector) = self.find(&name).cloned() else {
            return; // the pool's own error says why
        };
        let (work, what) = match &line.action {
            LineAction::Function(function) => {
                if function.builtin == Builtin::ClientDisconnected {
                    self.tracked.push(Arc::clone(&connector));
                }
                let (builtin, options) = (function.builtin, line.options.clone());
                (Work::Function { builtin, options }, function.name.to_owned())
            }
            LineAction::Statements(texts) => {
                let mut templates = Vec::with_capacity(texts.len());
                for text in texts {
                    match self.checked(&connector, line, text).await {
                        Ok(template) => templates.push(Arc::new(template)),
                        Err(finding) => findings.push(finding),
                    }
                }
                let first: String = texts.first().map(|t| t.chars().take(40).collect()).unwrap_or_default();
                (Work::Custom(templates.into()), format!("{}: {first}", line.kind.statements))
            }
        };
        let label = format!("{name} {what}");
        self.actions.push(Arc::new(Action::new(
            line.hook,
            line.topic.clone(),
            label,
            work,
            line.ack,
            connector,
        )));
    }

    /// The connector called `name`: `kind:pool`, or a pool name that only one back end has.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Connector>> {
        self.by_name.get(name).and_then(|index| self.connectors.get(*index))
    }

    /// The names of all connectors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.connectors.iter().map(|connector| connector.name.clone()).collect()
    }

    /// The actions on `connector`: they live as long as an event uses them.
    pub(crate) fn users_of(&self, connector: &Arc<Connector>) -> Vec<Weak<Action>> {
        let users = self.actions.iter().filter(|action| Arc::ptr_eq(action.connector(), connector));
        users.map(Arc::downgrade).collect()
    }

    /// A custom statement, compiled, and checked by its database if that can be reached. One that says nothing is not asked
    /// about every other statement: there may be many, and each would take its time.
    async fn checked(
        &mut self,
        connector: &Connector,
        line: &HookLine,
        text: &str,
    ) -> Result<Template, Diagnostic> {
        let at = |words: String| line.place.error(words);
        let template = Template::compile(text, line.hook, connector.backend.language())
            .map_err(|error| at(error.to_string()))?;
        if self.silent.contains(&connector.number) {
            return Ok(template);
        }
        let asked = tokio::time::timeout(CHECK, connector.backend.prepare(&template)).await;
        let asked =
            asked.unwrap_or_else(|_| Err(BackendError::Unavailable(format!("no answer within {CHECK:?}"))));
        match asked {
            Ok(()) => {}
            Err(error) if error.is_retryable() => {
                self.silent.insert(connector.number);
                tracing::warn!(
                    connector = %connector.name, %error, statement = text,
                    "the statements cannot be checked by the database now, from this one on"
                );
            }
            Err(error) => return Err(at(backend::refused_statement(line, text, &error))),
        }
        Ok(template)
    }
}
