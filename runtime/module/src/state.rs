//! What the host keeps for one instance, and what all instances of a module version share.

use std::sync::Arc;

use tidegate_event::{
    AckLevel, Control, DeadLetters, Hook, IdSource, KeyValue, Message, Node, Scope, Storage, StorageError,
    Tenant,
};
use tokio_util::sync::CancellationToken;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use crate::imports::http::{Destination, HttpClient, Outgoing};
use crate::limiter::Limiter;
use crate::manifest::Limits;
use crate::meters::Meters;
use crate::output::{Output, Pipe, Stream};
use crate::quota::Quotas;

/// What the rest of the runtime does for guests.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) node: Arc<Node>,
    pub(crate) ids: Arc<IdSource>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) control: Arc<dyn Control>,
    /// Absent: events that end as dead letters are refused instead.
    pub(crate) dead_letters: Option<Arc<dyn DeadLetters>>,
    pub(crate) state: Arc<dyn KeyValue>,
    pub(crate) http: Arc<HttpClient>,
}

/// What the instances of one module version share.
pub(crate) struct Shared {
    pub(crate) name: Arc<str>,
    pub(crate) tenant: Tenant,
    pub(crate) services: Services,
    pub(crate) grants: Grants,
    /// Where it may send HTTP requests.
    pub(crate) http: Arc<[Destination]>,
    pub(crate) config: Vec<(String, String)>,
    pub(crate) ack: AckLevel,
    pub(crate) limits: Limits,
    /// Whether the component imports anything that takes an event number.
    pub(crate) asks_about_events: bool,
    pub(crate) meters: Meters,
    /// Cancelled when the instances of a version that was replaced must end.
    pub(crate) interrupt: CancellationToken,
    pub(crate) quotas: Arc<Quotas>,
}

/// The connectors a module may use.
#[derive(Clone, Debug)]
pub(crate) enum Grants {
    /// All of its tenant's.
    All,
    /// These, as `kind:pool`.
    These(Vec<String>),
}

impl Grants {
    /// The connector meant by `name`, which may be a bare pool name.
    ///
    /// # Errors
    /// [`StorageError::AccessDenied`].
    pub(crate) fn resolve<'a>(&'a self, name: &'a str) -> Result<&'a str, StorageError> {
        match self {
            Self::All => Ok(name),
            Self::These(granted) => granted
                .iter()
                .map(String::as_str)
                .find(|granted| is_named(granted, name))
                .ok_or_else(|| StorageError::AccessDenied(name.to_owned())),
        }
    }
}

/// Whether `name` means `connector`: its whole name `kind:pool`, or the pool alone.
pub(crate) fn is_named(connector: &str, name: &str) -> bool {
    connector == name || connector.split_once(':').is_some_and(|(_, pool)| pool == name)
}

/// How many events an idle instance keeps room for.
const MANY_CALLS: usize = 8;

/// What an instance is called for.
pub(crate) struct Call {
    /// The number the guest knows it by.
    pub(crate) number: u64,
    /// The event; a tick has none.
    scope: Option<Scope>,
}

impl Call {
    /// The event with what travels with it; `None` in a tick.
    pub(crate) fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// The message that the event is about.
    pub(crate) fn message(&self) -> Option<&Arc<Message>> {
        self.scope.as_ref()?.event.message()
    }
}

/// The data of a store.
pub(crate) struct State {
    pub(crate) shared: Arc<Shared>,
    /// The events of the current call, whose numbers follow each other. Empty in init, and for components that cannot
    /// ask about events.
    calls: Vec<Call>,
    /// How many events the current call is for: what is limited per event is limited for them together.
    events: u32,
    hook: Option<Hook>,
    /// Storage calls of the current call (or of init) so far.
    storage_ops: u32,
    /// Messages that the current call made through client-control so far.
    publishes: u32,
    pub(crate) limiter: Limiter,
    pub(crate) output: Arc<Output>,
    wasi: WasiCtx,
    pub(crate) table: ResourceTable,
    /// Made when the guest first uses `wasi:http`.
    http: Option<Box<Outgoing>>,
    /// Bytes of values in the guest's handles for compare-and-swap.
    pub(crate) seen_bytes: usize,
}

impl State {
    /// The state of a new instance: an empty WASI context (no files, no network, no environment; clocks,
    /// random numbers and captured output).
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let limits = &shared.limits;
        let output = Output::new(shared.name.clone(), limits.log_bytes, shared.quotas.clone());
        let wasi = WasiCtx::builder()
            .stdout(Pipe::new(&output, Stream::Stdout))
            .stderr(Pipe::new(&output, Stream::Stderr))
            .allow_tcp(false)
            .allow_udp(false)
            .build();
        let limiter = Limiter::new(limits.memory, limits.table_elements);
        Self {
            calls: Vec::new(),
            events: 1,
            hook: None,
            storage_ops: 0,
            publishes: 0,
            limiter,
            output,
            wasi,
            table: ResourceTable::new(),
            http: None,
            seen_bytes: 0,
            shared,
        }
    }

    /// The event of `scope` begins, under this number.
    pub(crate) fn begin(&mut self, number: u64, scope: &Scope) {
        self.begin_call(1, Some(scope.event.hook()));
        // Five shared counters go up and down for a copy of the scope: not for guests that cannot use it.
        if self.shared.asks_about_events {
            self.calls.push(Call { number, scope: Some(scope.clone()) });
        }
    }

    /// The events of `batch` begin, under the numbers from `first` on.
    pub(crate) fn begin_batch(&mut self, first: u64, batch: &[&Scope]) {
        self.begin_call(
            u32::try_from(batch.len()).unwrap_or(u32::MAX),
            batch.first().map(|scope| scope.event.hook()),
        );
        if self.shared.asks_about_events {
            let calls =
                (first..).zip(batch).map(|(number, scope)| Call { number, scope: Some((*scope).clone()) });
            self.calls.extend(calls);
        }
    }

    /// A tick begins, under this number.
    pub(crate) fn begin_tick(&mut self, number: u64) {
        self.begin_call(1, None);
        self.calls.push(Call { number, scope: None });
    }

    /// Everything that is counted per event starts anew.
    fn begin_call(&mut self, events: u32, hook: Option<Hook>) {
        // What an instance that answered badly left behind.
        self.calls.clear();
        self.events = events;
        self.hook = hook;
        self.output.refill(events);
        self.limiter.forget_denied();
        self.storage_ops = 0;
        self.publishes = 0;
        if let Some(http) = &mut self.http {
            http.begin(events);
        }
    }

    /// The call ends; its numbers are of no use any more.
    pub(crate) fn end(&mut self) {
        self.calls.clear();
        if self.calls.capacity() > MANY_CALLS {
            self.calls.shrink_to(MANY_CALLS);
        }
        self.hook = None;
    }

    /// The hook of the current call.
    pub(crate) fn hook(&self) -> Option<Hook> {
        self.hook
    }

    /// The number of the current event; without one, a number that no event has.
    pub(crate) fn number(&self) -> u64 {
        self.calls.first().map_or(0, |call| call.number)
    }

    /// The event of the current call that has this number.
    pub(crate) fn event(&self, number: u64) -> Option<&Call> {
        let first = self.calls.first()?.number;
        self.calls.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// Counts a storage call against the limit of the current events.
    ///
    /// # Errors
    /// [`StorageError::QuotaExceeded`] naming the limit.
    pub(crate) fn count_storage_op(&mut self) -> Result<(), StorageError> {
        let limit = self.shared.limits.storage_ops.saturating_mul(self.events);
        if self.storage_ops >= limit {
            // One past the limit: the first of this event.
            let first = self.storage_ops == limit;
            self.storage_ops = limit.saturating_add(1);
            let limit = self.shared.limits.storage_ops;
            self.shared.quotas.storage_ops.refused(&limit, first);
            return Err(StorageError::QuotaExceeded(format!("storage_ops = {limit} per event")));
        }
        self.storage_ops += 1;
        Ok(())
    }

    /// Counts a message made through client-control against the limit of the current events; false when it is one too many.
    pub(crate) fn count_publish(&mut self) -> bool {
        let limit = self.shared.limits.publishes.saturating_mul(self.events);
        if self.publishes >= limit {
            let first = self.publishes == limit;
            self.publishes = limit.saturating_add(1);
            self.shared.quotas.publishes.refused(&self.shared.limits.publishes, first);
            return false;
        }
        self.publishes += 1;
        true
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let http = self.http.get_or_insert_with(|| Box::new(Outgoing::new(&self.shared, self.events)));
        http.view(&mut self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_know_connectors_by_both_names() {
        let grants = Grants::These(vec!["redis:pool1".into(), "sqlite:local".into()]);
        assert_eq!(grants.resolve("redis:pool1"), Ok("redis:pool1"));
        assert_eq!(grants.resolve("local"), Ok("sqlite:local"));
        for denied in ["redis:local", "redis", "pool2", ""] {
            assert_eq!(grants.resolve(denied), Err(StorageError::AccessDenied(denied.into())));
        }
        assert_eq!(Grants::All.resolve("anything"), Ok("anything"));
    }
}
