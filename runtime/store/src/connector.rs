//! A connector: one open back end, the writer in front of it, and what the actions remember about it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytestring::ByteString;
use parking_lot::Mutex;
use tidegate_event::{BoxFuture, Control, StorageError, TopicFilter};
use tokio::task::AbortHandle;

use crate::backend::{Backend, BackendError, BackendKind};
use crate::config::PoolConfig;
use crate::metrics::ConnectorMetrics;
use crate::turn::Turn;
use crate::writer::{Backoff, Writer};

/// An open pool.
pub(crate) struct Connector {
    /// `kind:pool`.
    pub(crate) name: String,
    /// What no other connector of this process has.
    pub(crate) number: u64,
    pub(crate) kind: &'static BackendKind,
    /// What it was opened with.
    pub(crate) pool: PoolConfig,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) writer: Writer,
    pub(crate) metrics: Arc<ConnectorMetrics>,
    /// Shared with what stood in its place: clients are online all the same.
    pub(crate) online: Arc<OnlineClients>,
    /// When it may be used: see [`Turn`].
    pub(crate) turn: Turn,
    /// How long a read is tried again while the database is down.
    pub(crate) read_deadline: Duration,
    /// Takes requests for subscriptions from the database.
    pub(crate) listener: Mutex<Option<AbortHandle>>,
    /// What stands in its place, after a change of its options.
    pub(crate) successor: OnceLock<Arc<Self>>,
}

impl Connector {
    /// The number of the next one.
    pub(crate) fn next_number() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether it would be opened the same way with `pool`.
    pub(crate) fn is_opened_with(&self, pool: &PoolConfig) -> bool {
        let own = &self.pool;
        std::ptr::eq(own.kind, pool.kind)
            && own.name == pool.name
            && own.options == pool.options
            && own.in_toml == pool.in_toml
    }

    /// Takes requests for subscriptions from the database from now on, where it gives some. Inside a tokio runtime.
    pub(crate) fn listen(&self, control: &Arc<dyn Control>) {
        let mut listener = self.listener.lock();
        if listener.is_none()
            && let Some(requests) = self.backend.listen(Arc::clone(control))
        {
            *listener = Some(tokio::spawn(requests).abort_handle());
        }
    }

    /// Takes no more.
    pub(crate) fn end_listening(&self) {
        if let Some(listener) = self.listener.lock().take() {
            listener.abort();
        }
    }

    /// `successor` stands in its place from now on.
    pub(crate) fn succeeded_by(&self, successor: &Arc<Self>) {
        self.successor.get_or_init(|| Arc::clone(successor));
    }

    /// Waits until what was queued about `what` is decided, by this connector or by what stands in its place by then; gives
    /// the last one.
    pub(crate) async fn drained(self: &Arc<Self>, what: About<'_>) -> Arc<Self> {
        let mut connector = Arc::clone(self);
        loop {
            match what {
                About::Client(client) => connector.writer.drain_client(client).await,
                About::Topics(filter) => connector.writer.drain_filter(filter).await,
            }
            let Some(successor) = connector.successor.get().cloned() else { return connector };
            connector = successor;
        }
    }

    /// The same, for at most as long as a look-up may take.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`]: what was queued is not decided by then.
    pub(crate) async fn drained_in_time(
        self: &Arc<Self>,
        what: About<'_>,
    ) -> Result<Arc<Self>, StorageError> {
        let deadline = self.read_deadline;
        tokio::time::timeout(deadline, self.drained(what)).await.map_err(|_| StorageError::Unavailable {
            connector: self.name.clone(),
            reason: format!("what was queued before the look-up was not stored within {deadline:?}"),
        })
    }

    /// Reads, again and again with back-off while the database is down, until the deadline.
    ///
    /// # Errors
    /// The last error.
    pub(crate) async fn read<'a, T>(
        &'a self,
        read: impl Fn(&'a dyn Backend) -> BoxFuture<'a, Result<T, BackendError>>,
    ) -> Result<T, StorageError> {
        let mut backoff = Backoff::default();
        let attempts = async {
            self.turn.comes().await;
            loop {
                match read(&*self.backend).await {
                    Err(error) if error.is_retryable() => {
                        self.metrics.read_retries.increment(1);
                        self.metrics.failed(&error);
                        tracing::debug!(connector = %self.name, %error, "read failed, trying again");
                        backoff.wait().await;
                    }
                    Err(error) => {
                        self.metrics.failed(&error);
                        return Err(error.into_storage(&self.name));
                    }
                    Ok(found) => return Ok(found),
                }
            }
        };
        match tokio::time::timeout(self.read_deadline, attempts).await {
            Ok(result) => result,
            Err(_) => Err(StorageError::Unavailable {
                connector: self.name.clone(),
                reason: format!("no answer within {:?}", self.read_deadline),
            }),
        }
    }
}

/// What a look-up is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About<'a> {
    /// A client, by its id.
    Client(&'a ByteString),
    /// Messages of topics.
    Topics(&'a TopicFilter),
}

/// The newest connection of each client that is online here. The end of an older connection, which may be
/// reported later than the beginning of its successor, must not mark the client offline.
#[derive(Default)]
pub(crate) struct OnlineClients {
    newest: Mutex<HashMap<ByteString, u64>>,
    /// Whether ends of connections are reported at all: otherwise entries would never go.
    tracked: AtomicBool,
}

impl OnlineClients {
    /// Somebody is going to report ends of connections.
    pub(crate) fn track(&self) {
        self.tracked.store(true, Ordering::Relaxed);
    }

    /// The client is online on `connection`.
    pub(crate) fn connected(&self, client: &ByteString, connection: u64) {
        if !self.tracked.load(Ordering::Relaxed) {
            return;
        }
        let mut online = self.newest.lock();
        let newest = online.entry(detached(client)).or_insert(connection);
        *newest = connection.max(*newest);
    }

    /// `connection` of the client ended. False when it has a newer one.
    pub(crate) fn disconnected(&self, client: &ByteString, connection: u64) -> bool {
        self.track();
        let mut online = self.newest.lock();
        if online.get(client).is_some_and(|newest| *newest > connection) {
            return false;
        }
        online.remove(client);
        true
    }
}

/// A copy that does not keep the network buffer alive, which `client` may share.
fn detached(client: &ByteString) -> ByteString {
    ByteString::from(&**client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_older_connection_does_not_count() {
        let online = OnlineClients::default();
        let client = ByteString::from_static("c");
        online.connected(&client, 1);
        assert!(online.newest.lock().is_empty(), "nobody would remove the entry");
        online.track();
        online.connected(&client, 1);
        online.connected(&client, 2);
        assert!(!online.disconnected(&client, 1));
        assert!(online.disconnected(&client, 2));
        assert!(online.newest.lock().is_empty());
        assert!(online.disconnected(&client, 2), "unknown clients are taken at their word");
    }
}
