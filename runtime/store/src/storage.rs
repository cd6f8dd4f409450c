//! What guests may ask of stores: the same functions and statements as hook lines, and direct queries.

use std::sync::Arc;

use tidegate_event::{
    AckLevel, ActionOptions, BoxFuture, Rows, Scope, SqlValue, Storage, StorageError, Tenant,
};
use tokio::task::JoinSet;

use crate::actions::{self, run_function, run_statements};
use crate::backend::BackendError;
use crate::connector::Connector;
use crate::statement::{Template, check_direct};
use crate::stores::Stores;

fn invalid(error: impl ToString) -> StorageError {
    StorageError::InvalidArgument(error.to_string())
}

/// Makes a direct call in a task of its own. A guest's future may be left without being polled for any time: the call
/// must not hold a connection, or a place in the queue for one, meanwhile. Dropping the future ends the call.
async fn detached<T: Send + 'static>(
    connector: &Arc<Connector>,
    call: impl Future<Output = Result<T, BackendError>> + Send + 'static,
) -> Result<T, StorageError> {
    let mut task = JoinSet::new();
    task.spawn(call);
    match task.join_next().await {
        Some(Ok(result)) => result.map_err(|error| error.into_storage(&connector.name)),
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
            let function = actions::find(function, scope.event.hook()).map_err(invalid)?;
            run_function(connector, function.builtin, options, scope, level).await;
            Ok(())
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
            let hook = scope.event.hook();
            let compiled: Result<Vec<Arc<Template>>, _> =
                statements.iter().map(|text| self.templates.get(text, hook)).collect();
            let compiled: Arc<[Arc<Template>]> = compiled.map_err(invalid)?.into();
            if !compiled.is_empty() {
                run_statements(connector, &compiled, scope, level).await;
            }
            Ok(())
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
            check_direct(statement, params.len()).map_err(invalid)?;
            let (backend, statement) = (Arc::clone(&connector.backend), statement.to_owned());
            detached(connector, async move { backend.query(&statement, params).await }).await
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
            for list in &params {
                check_direct(statement, list.len()).map_err(invalid)?;
            }
            let (backend, statement) = (Arc::clone(&connector.backend), statement.to_owned());
            detached(connector, async move { backend.exec(&statement, params).await }).await
        })
    }

    fn connectors(&self, _tenant: &Tenant) -> Vec<String> {
        // One tenant so far: every connector is its own.
        self.names()
    }
}
