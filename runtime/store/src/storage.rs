//! What guests may ask of stores: the same functions and statements as hook lines, and direct queries.

use std::sync::Arc;

use tidegate_event::{
    AckLevel, ActionOptions, BoxFuture, Rows, Scope, SqlValue, Storage, StorageError, Tenant,
};

use crate::actions::{self, run_function, run_statements};
use crate::statement::{Template, check_direct};
use crate::stores::Stores;

fn invalid(error: impl ToString) -> StorageError {
    StorageError::InvalidArgument(error.to_string())
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
            let rows = connector.backend.query(statement, params).await;
            rows.map_err(|error| error.into_storage(&connector.name))
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
            let changed = connector.backend.exec(statement, params).await;
            changed.map_err(|error| error.into_storage(&connector.name))
        })
    }

    fn connectors(&self, _tenant: &Tenant) -> Vec<String> {
        // One tenant so far: every connector is its own.
        self.names()
    }
}
