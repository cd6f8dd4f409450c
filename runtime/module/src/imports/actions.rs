//! `tidegate:storage/actions`: built-in actions and custom statements for the event being handled.

use std::sync::Arc;

use tidegate_event::{AckError, AckJoin, AckLevel, ActionOptions, Scope, StorageError};

use crate::bindings::tidegate::storage::actions::{Host, Options};
use crate::bindings::tidegate::storage::types::{Error, Failure};
use crate::state::{Shared, State};
use crate::translate::MessageIn;

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NoSuchConnector(_) => Self::NoSuchConnector,
            StorageError::AccessDenied(_) => Self::AccessDenied,
            StorageError::InvalidArgument(text) => Self::InvalidArgument(text),
            StorageError::Timeout { .. } => Self::Timeout,
            StorageError::Unavailable { .. } => Self::Unavailable,
            StorageError::QuotaExceeded(_) => Self::QuotaExceeded,
            StorageError::Failed { code, message, retryable, .. } => {
                Self::Failed(Failure { code, message, retryable })
            }
        }
    }
}

impl From<AckError> for Error {
    fn from(error: AckError) -> Self {
        match error {
            AckError::Refused { reason, code, .. } => {
                Self::Failed(Failure { code: format!("{:#04x}", code.0), message: reason, retryable: false })
            }
            AckError::Abandoned => Self::Unavailable,
        }
    }
}

/// Whether the guest waits for the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The event's acknowledgement does.
    No,
    Yes,
}

impl State {
    /// What a storage call of event `number` needs: who asks, and the event with its own or another message.
    fn operation(
        &mut self,
        number: u64,
        message: Option<MessageIn>,
        wait: Wait,
    ) -> Result<(Arc<Shared>, Scope), StorageError> {
        self.count_storage_op()?;
        let call = self.event(number).ok_or_else(|| {
            StorageError::InvalidArgument(format!("event {number} is not the one being handled"))
        })?;
        let Some(mut scope) = call.scope().cloned() else {
            return Err(StorageError::InvalidArgument(
                "a tick has no event to store or to take variables from".into(),
            ));
        };
        if let Some(message) = message {
            let Some(original) = scope.event.message() else {
                let hook = scope.event.hook().name();
                return Err(StorageError::InvalidArgument(format!(
                    "{hook} has no message to store instead of"
                )));
            };
            let message = if message.is_same(original) {
                message.replace(original)
            } else {
                message.derive(original, &self.shared.services.ids)
            };
            scope = scope.with_message(Arc::new(message));
        }
        if wait == Wait::Yes {
            scope.acks = AckJoin::new();
        }
        Ok((self.shared.clone(), scope))
    }

    async fn run_action(
        &mut self,
        event: u64,
        connector: &str,
        function: &str,
        options: Option<Options>,
        wait: Wait,
    ) -> Result<(), Error> {
        let (message, options) = match options {
            None => (None, ActionOptions::default()),
            Some(options) => {
                let message =
                    options.message.map(MessageIn::check).transpose().map_err(Error::InvalidArgument)?;
                let options = ActionOptions {
                    expired_time: options.expired_time,
                    max_returned_count: options.max_returned_count,
                    time_range_ms: options.time_range_ms,
                    payload_format: options.payload_format,
                };
                (message, options)
            }
        };
        let (shared, scope) = self.operation(event, message, wait)?;
        let connector = shared.grants.resolve(connector)?;
        let level = level(&shared, wait);
        shared.services.storage.run(&scope, connector, function, &options, level).await?;
        finish(scope, wait).await
    }

    async fn execute_statements(
        &mut self,
        event: u64,
        connector: &str,
        statements: &[String],
        wait: Wait,
    ) -> Result<(), Error> {
        let (shared, scope) = self.operation(event, None, wait)?;
        let connector = shared.grants.resolve(connector)?;
        let level = level(&shared, wait);
        shared.services.storage.execute(&scope, connector, statements, level).await?;
        finish(scope, wait).await
    }
}

/// Who waits for a store wants to know that it has the data, whatever the manifest's level.
fn level(shared: &Shared, wait: Wait) -> AckLevel {
    match wait {
        Wait::Yes => AckLevel::Stored,
        Wait::No => shared.ack,
    }
}

async fn finish(scope: Scope, wait: Wait) -> Result<(), Error> {
    if wait == Wait::Yes {
        scope.acks.await?;
    }
    Ok(())
}

impl Host for State {
    async fn run(
        &mut self,
        event: u64,
        connector: String,
        function: String,
        options: Option<Options>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.run_action(event, &connector, &function, options, Wait::No).await)
    }

    async fn execute(
        &mut self,
        event: u64,
        connector: String,
        statements: Vec<String>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.execute_statements(event, &connector, &statements, Wait::No).await)
    }

    async fn run_wait(
        &mut self,
        event: u64,
        connector: String,
        function: String,
        options: Option<Options>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.run_action(event, &connector, &function, options, Wait::Yes).await)
    }

    async fn execute_wait(
        &mut self,
        event: u64,
        connector: String,
        statements: Vec<String>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.execute_statements(event, &connector, &statements, Wait::Yes).await)
    }
}
