//! What guests may ask of stores: the same functions and statements as hook lines, and direct queries.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tidegate_event::{
    AckLevel, ActionOptions, BoxFuture, KeyValue, Reply, Rows, Scope, SqlValue, Storage, StorageError, Tenant,
};
use tokio::task::JoinSet;

use crate::actions::{self, run_function, run_statements};
use crate::connector::Connector;
use crate::pairs::ConnectorPairs;
use crate::statement::command::check_words;
use crate::statement::{Language, Template, check_direct};
use crate::stores::Stores;

fn invalid(error: impl ToString) -> StorageError {
    StorageError::InvalidArgument(error.to_string())
}

/// Words of a command: a server that is older than 7 hangs up at a little more.
const MAX_WORDS: usize = 1_000_000;

fn takes_sql(connector: &Connector) -> Result<(), StorageError> {
    match connector.backend.language() {
        Language::Sql => Ok(()),
        Language::Commands => Err(invalid(format!("{} takes commands, not SQL", connector.name))),
    }
}

/// Makes a call in a task of its own. A guest's future may be left without being polled for any time: the call must not
/// hold a connection or memory of the budget, or the first place in the queue for one, meanwhile. Dropping the future
/// ends the call, which then gives back what it has.
pub(crate) async fn apart<T: Send + 'static>(
    connector: &Connector,
    call: BoxFuture<'static, T>,
) -> Result<T, StorageError> {
    let mut task = JoinSet::new();
    task.spawn(call);
    match task.join_next().await {
        Some(Ok(result)) => Ok(result),
        failed => {
            let message = match failed {
                Some(Err(error)) if error.is_panic() => "the driver panicked",
                _ => "the call was stopped",
            };
            Err(StorageError::Failed {
                connector: connector.name.clone(),
                code: "task".into(),
                message: message.into(),
                retryable: false,
            })
        }
    }
}

/// Enqueues: at once when there is memory, which is nearly always, else [`apart`].
async fn enqueued(connector: &Connector, mut call: BoxFuture<'static, ()>) -> Result<(), StorageError> {
    match (&mut call).now_or_never() {
        Some(()) => Ok(()),
        None => apart(connector, call).await,
    }
}

impl Storage for Stores {
    fn run<'a>(
        &'a self,
        scope: &'a Scope,
        connector: &'a str,
        function: &'a str,
        options: &'a ActionOptions,
        level: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            let connector = self.connector(connector)?;
            let function = actions::find(function, scope.event.hook(), connector.kind).map_err(invalid)?;
            let (own, scope, options) = (Arc::clone(&connector), scope.clone(), options.clone());
            let call = async move { run_function(&own, function.builtin, &options, &scope, level).await };
            enqueued(&connector, Box::pin(call)).await
        })
    }

    fn execute<'a>(
        &'a self,
        scope: &'a Scope,
        connector: &'a str,
        statements: &'a [String],
        level: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            let connector = self.connector(connector)?;
            let (hook, language) = (scope.event.hook(), connector.backend.language());
            let compiled: Result<Vec<Arc<Template>>, _> =
                statements.iter().map(|text| self.templates.get(text, hook, language)).collect();
            let compiled: Arc<[Arc<Template>]> = compiled.map_err(invalid)?.into();
            if compiled.is_empty() {
                return Ok(());
            }
            if let Some(database) = connector.backend.commands() {
                for template in &*compiled {
                    let name = template.words(&[]).into_iter().next().unwrap_or_default();
                    database.check(&name).map_err(invalid)?;
                }
            }
            let (own, scope) = (Arc::clone(&connector), scope.clone());
            let call = async move { run_statements(&own, &compiled, &scope, level).await };
            enqueued(&connector, Box::pin(call)).await
        })
    }

    fn query<'a>(
        &'a self,
        _tenant: &'a Tenant,
        connector: &'a str,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, StorageError>> {
        Box::pin(async move {
            let connector = self.connector(connector)?;
            takes_sql(&connector)?;
            check_direct(statement, params.len()).map_err(invalid)?;
            let (backend, statement) = (Arc::clone(&connector.backend), statement.to_owned());
            let call = async move { backend.query(&statement, params).await };
            let result = apart(&connector, Box::pin(call)).await?;
            result.map_err(|error| error.into_storage(&connector.name))
        })
    }

    fn exec<'a>(
        &'a self,
        _tenant: &'a Tenant,
        connector: &'a str,
        statement: &'a str,
        params: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, StorageError>> {
        Box::pin(async move {
            let connector = self.connector(connector)?;
            takes_sql(&connector)?;
            for list in &params {
                check_direct(statement, list.len()).map_err(invalid)?;
            }
            let (backend, statement) = (Arc::clone(&connector.backend), statement.to_owned());
            let call = async move { backend.exec(&statement, params).await };
            let result = apart(&connector, Box::pin(call)).await?;
            result.map_err(|error| error.into_storage(&connector.name))
        })
    }

    fn commands<'a>(
        &'a self,
        _tenant: &'a Tenant,
        connector: &'a str,
        commands: Vec<Vec<Vec<u8>>>,
    ) -> BoxFuture<'a, Result<Vec<Reply>, StorageError>> {
        Box::pin(async move {
            let connector = self.connector(connector)?;
            let refused = |name: &str| {
                let kind = name.split_once(':').map_or(name, |(kind, _)| kind);
                StorageError::InvalidArgument(format!("{kind} takes no commands"))
            };
            let Some(database) = connector.backend.commands() else { return Err(refused(&connector.name)) };
            for words in &commands {
                check_words(words.iter().map(Vec::as_slice)).map_err(invalid)?;
                database.check(words.first().map(Vec::as_slice).unwrap_or_default()).map_err(invalid)?;
                if words.len() > MAX_WORDS {
                    let count = words.len();
                    return Err(invalid(format!(
                        "a command of {count} words: at most {MAX_WORDS} are possible"
                    )));
                }
            }
            let (backend, name) = (Arc::clone(&connector.backend), connector.name.clone());
            let call = async move {
                match backend.commands() {
                    Some(database) => database.run(commands).await.map_err(|error| error.into_storage(&name)),
                    None => Err(refused(&name)),
                }
            };
            apart(&connector, Box::pin(call)).await?
        })
    }

    fn key_value(&self, _tenant: &Tenant, connector: &str) -> Result<Arc<dyn KeyValue>, StorageError> {
        Ok(Arc::new(ConnectorPairs::of(&self.connector(connector)?)?))
    }

    fn connectors(&self, _tenant: &Tenant) -> Vec<String> {
        // One tenant so far: every connector is its own.
        self.names()
    }
}
