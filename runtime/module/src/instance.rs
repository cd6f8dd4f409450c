//! One running guest: its store, its functions, and the calls into it.

mod batch;
mod tick;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_event::{Event, Hook, Password, Scope, TopicFilter, Verdict};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::InstancePre;
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;

use crate::bindings::tidegate::hooks::types::{HookError, Subscription};
use crate::budget::{Budget, TimedOut};
use crate::engine::{self, STACK_BYTES};
use crate::error::{CallError, GuestFailure, Limit, LoadError};
use crate::exports::{Exports, Functions};
use crate::leave;
use crate::module::Answer;
use crate::raw;
use crate::state::{Shared, State};
use crate::translate::{self, Texts, qos_in, qos_out};

/// Computing time for making an instance and for its init: run-times of managed languages start here.
const START_CPU: Duration = Duration::from_secs(5);

/// What wasmtime says when a guest hands over more than `hostcall_bytes`.
const HOSTCALL_BYTES_EXHAUSTED: &str = "fuel allocated for hostcalls has been exhausted";
/// What it says when a guest holds as many resources as `handles`.
const HANDLES_EXHAUSTED: &str = "store handle limit exceeded";

/// What is needed to make instances of a module version.
pub(crate) struct Blueprint {
    pub(crate) pre: InstancePre<State>,
    pub(crate) exports: Exports,
    pub(crate) shared: Arc<Shared>,
}

/// A live instance. Anything but a regular answer leaves it unusable: drop it then.
pub(crate) struct Instance {
    store: Store<State>,
    functions: Functions,
    budget: Arc<Budget>,
    texts: Texts,
    /// The number of the last event; never one that this process has given before.
    number: u64,
    calls: u64,
    /// Bytes of memory after init.
    baseline: usize,
    /// The instance's place among all of the host.
    _slot: OwnedSemaphorePermit,
}

impl Instance {
    /// Makes an instance and runs its init. `serial` is different for every instance of the process.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`], [`LoadError::Instantiate`], [`LoadError::ExportType`], [`LoadError::Init`].
    pub(crate) async fn new(
        blueprint: &Blueprint,
        slot: OwnedSemaphorePermit,
        serial: u64,
    ) -> Result<Self, LoadError> {
        let started = Instant::now();
        let shared = &blueprint.shared;
        let budget = Arc::new(Budget::new(shared.interrupt.clone()));
        let mut store = Store::new(blueprint.pre.engine(), State::new(shared.clone()));
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(shared.limits.hostcall_bytes);
        store.set_max_component_handles(shared.limits.handles);
        store.set_epoch_deadline(1);
        let account = budget.clone();
        store.epoch_deadline_callback(move |_| Ok(account.tick()));

        let timeout = shared.limits.timeout;
        let made = budget
            .run(started, START_CPU, timeout, pin!(blueprint.pre.instantiate_async(&mut store)))
            .await
            .map_err(|TimedOut| LoadError::Instantiate(CallError::Timeout(timeout).to_string()))?;
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                if let Some(what) = engine::exhausted(&error) {
                    return Err(LoadError::NoRoom(what));
                }
                return Err(LoadError::Instantiate(
                    failure(&mut store, &budget, START_CPU, &error).to_string(),
                ));
            }
        };
        let functions = blueprint.exports.load(&mut store, &made)?;
        if let Some(init) = &functions.init {
            let config: Vec<_> = shared.config.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let call = init.call_init(&mut store, &config);
            let answer = budget
                .run(Instant::now(), START_CPU, timeout, pin!(call))
                .await
                .map_err(|TimedOut| LoadError::Init(CallError::Timeout(timeout).to_string()))?;
            match answer {
                Ok(Ok(())) => {}
                Ok(Err(said)) => return Err(LoadError::Init(translate::bounded(said))),
                Err(error) => {
                    return Err(LoadError::Init(failure(&mut store, &budget, START_CPU, &error).to_string()));
                }
            }
        }
        if let Some(handle) = &functions.raw {
            let call = raw::init(&mut store, handle, &shared.config);
            let answer = budget
                .run(Instant::now(), START_CPU, timeout, pin!(call))
                .await
                .map_err(|TimedOut| LoadError::Init(CallError::Timeout(timeout).to_string()))?;
            match answer {
                Ok(Ok(())) => {}
                Ok(Err(said)) => return Err(LoadError::Init(translate::bounded(said))),
                Err(error) => {
                    return Err(LoadError::Init(failure(&mut store, &budget, START_CPU, &error).to_string()));
                }
            }
        }
        let baseline = store.data().limiter.memory();
        Ok(Self {
            store,
            functions,
            budget,
            texts: Texts::new(),
            number: serial << 32,
            calls: 0,
            baseline,
            _slot: slot,
        })
    }

    /// Calls since the instance was made.
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    /// Bytes of all its memories.
    pub(crate) fn memory(&self) -> usize {
        self.store.data().limiter.memory()
    }

    /// Bytes of all its memories when it was new.
    pub(crate) fn baseline(&self) -> usize {
        self.baseline
    }

    /// Handles the event of `scope`; `started` is when the call began.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::Guest`] and [`CallError::Answer`] the instance is well; after any
    /// other it must be dropped.
    pub(crate) async fn call(&mut self, scope: &Scope, started: Instant) -> Result<Answer, CallError> {
        self.calls += 1;
        self.number += 1;
        let state = self.store.data_mut();
        state.begin(self.number, scope);
        let (cpu, timeout) = (state.shared.limits.cpu, state.shared.limits.timeout);
        // The epoch went on while the instance was idle.
        self.store.set_epoch_deadline(1);
        let outcome = {
            let (store, texts) = (&mut self.store, &mut self.texts);
            let guest = pin!(dispatch(store, &self.functions, texts, self.number, &scope.event));
            match self.budget.run(started, cpu, timeout, guest).await {
                Ok(outcome) => outcome,
                Err(TimedOut) if self.budget.is_interrupted() => return Err(CallError::Interrupted),
                Err(TimedOut) => return Err(CallError::Timeout(timeout)),
            }
        };
        self.store.data_mut().end();
        match outcome {
            Ok(Reply::Answer(answer)) => Ok(answer),
            Ok(Reply::Refused(error)) => Err(error.into()),
            Ok(Reply::Invalid(text)) => Err(CallError::Answer(translate::bounded(text))),
            Ok(Reply::NotHandled) => Err(CallError::NotHandled(scope.event.hook().name())),
            Err(error) => Err(failure(&mut self.store, &self.budget, cpu, &error)),
        }
    }

    /// What the guest wants the next version to know, within `timeout`. `None`: it does not export that.
    ///
    /// # Errors
    /// [`CallError`]: the instance must be dropped.
    pub(crate) async fn drain(&mut self, timeout: Duration) -> Result<Option<Vec<u8>>, CallError> {
        let Some(state) = &self.functions.state else { return Ok(None) };
        self.store.data().output.refill(1);
        self.store.set_epoch_deadline(1);
        let outcome = {
            let call = pin!(state.call_drain(&mut self.store));
            self.budget.run(Instant::now(), START_CPU, timeout, call).await
        };
        match outcome {
            Ok(Ok(given)) => Ok(Some(given)),
            Ok(Err(error)) => Err(failure(&mut self.store, &self.budget, START_CPU, &error)),
            Err(TimedOut) => Err(CallError::Timeout(timeout)),
        }
    }

    /// Gives the guest what the version before wanted it to know, within `timeout`.
    ///
    /// # Errors
    /// The guest's own words, or how it failed: the instance must be dropped.
    pub(crate) async fn restore(&mut self, given: &[u8], timeout: Duration) -> Result<(), String> {
        let Some(state) = &self.functions.state else { return Ok(()) };
        self.store.set_epoch_deadline(1);
        let outcome = {
            let call = pin!(state.call_restore(&mut self.store, given));
            self.budget.run(Instant::now(), START_CPU, timeout, call).await
        };
        match outcome {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(failure(&mut self.store, &self.budget, START_CPU, &error).to_string()),
            Err(TimedOut) => Err(CallError::Timeout(timeout).to_string()),
        }
    }
}

impl Instance {
    /// Asks a guest of the world `raw` which hooks it wants. Others want what they export.
    ///
    /// # Errors
    /// [`LoadError::Init`]; drop the instance then.
    pub(crate) async fn wanted_hooks(&mut self) -> Result<Vec<(Hook, Vec<TopicFilter>)>, LoadError> {
        let Some(handle) = &self.functions.raw else { return Ok(Vec::new()) };
        self.store.set_epoch_deadline(1);
        let timeout = self.store.data().shared.limits.timeout;
        let asked = {
            let call = pin!(raw::hooks(&mut self.store, handle));
            self.budget.run(Instant::now(), START_CPU, timeout, call).await
        };
        let wrong =
            |text: String| LoadError::Init(format!("asked for its hooks: {}", translate::bounded(text)));
        match asked {
            Ok(Ok(answer)) => answer.map_err(wrong),
            Ok(Err(error)) => {
                Err(wrong(failure(&mut self.store, &self.budget, START_CPU, &error).to_string()))
            }
            Err(TimedOut) => Err(wrong(CallError::Timeout(timeout).to_string())),
        }
    }
}

/// What a guest said.
pub(crate) enum Reply {
    Answer(Answer),
    Refused(HookError),
    Invalid(String),
    NotHandled,
}

impl From<HookError> for CallError {
    fn from(error: HookError) -> Self {
        Self::Guest(match error {
            HookError::Retry(text) => GuestFailure::Retry(translate::bounded(text)),
            HookError::Failed(text) => GuestFailure::Failed(translate::bounded(text)),
        })
    }
}

impl Reply {
    /// A verdict.
    pub(crate) fn decision(verdict: Verdict) -> Self {
        Self::Answer(Answer { verdict, subscriptions: Vec::new() })
    }

    fn observed(answer: Result<(), HookError>) -> Self {
        match answer {
            Ok(()) => Self::Answer(Answer::pass()),
            Err(error) => Self::Refused(error),
        }
    }

    fn decided<T>(answer: Result<T, HookError>, read: impl FnOnce(T) -> Result<Verdict, String>) -> Self {
        match answer.map(read) {
            Ok(Ok(verdict)) => Self::decision(verdict),
            Ok(Err(invalid)) => Self::Invalid(invalid),
            Err(error) => Self::Refused(error),
        }
    }
}

/// Calls the function of the event's hook.
async fn dispatch(
    store: &mut Store<State>,
    functions: &Functions,
    texts: &mut Texts,
    number: u64,
    event: &Event,
) -> wasmtime::Result<Reply> {
    if let Some(handle) = &functions.raw {
        // On the heap, so that typed guests do not carry its state.
        return Box::pin(raw::call(store, handle, event)).await;
    }
    match event {
        Event::MessagePublish { message, .. } => {
            let Some(hook) = &functions.message_publish else { return Ok(Reply::NotHandled) };
            let user = translate::user_properties(message);
            let (client, sent) = texts.publish(message, &user);
            let answer = pin!(hook.call_on_message_publish(&mut *store, number, client, sent)).await?;
            Ok(Reply::decided(answer, |verdict| {
                translate::verdict(verdict, message, &store.data().shared.services.ids)
            }))
        }
        Event::MessageDeliver { client, message } => {
            let Some(hook) = &functions.message_deliver else { return Ok(Reply::NotHandled) };
            let user = translate::user_properties(message);
            let (client, sent) = texts.client_and_message(client, message, &user);
            let answer = pin!(hook.call_on_message_deliver(store, number, client, sent)).await?;
            Ok(Reply::decided(answer, |delivery| translate::delivery(delivery, message)))
        }
        Event::MessageAcked { client, message, .. } => {
            let Some(hook) = &functions.message_acked else { return Ok(Reply::NotHandled) };
            let user = translate::user_properties(message);
            let (client, sent) = texts.client_and_message(client, message, &user);
            Ok(Reply::observed(pin!(hook.call_on_message_acked(store, number, client, sent)).await?))
        }
        Event::ClientConnected { client } => {
            let Some(hook) = &functions.client_connected else { return Ok(Reply::NotHandled) };
            let client = texts.client(client);
            match hook.call_on_client_connected(store, number, client).await? {
                Err(error) => Ok(Reply::Refused(error)),
                Ok(wanted) => Ok(subscriptions(wanted)),
            }
        }
        Event::ClientDisconnected { client, reason } => {
            let Some(hook) = &functions.client_disconnected else { return Ok(Reply::NotHandled) };
            let client = texts.client(client);
            Ok(Reply::observed(hook.call_on_client_disconnected(store, number, client, reason.name()).await?))
        }
        Event::SessionCreated { client } => {
            let Some(hook) = &functions.session_created else { return Ok(Reply::NotHandled) };
            let client = texts.client(client);
            Ok(Reply::observed(hook.call_on_session_created(store, number, client).await?))
        }
        Event::SessionSubscribed { client, filter, qos, .. } => {
            let Some(hook) = &functions.session_subscribed else { return Ok(Reply::NotHandled) };
            let client = texts.client(client);
            let (filter, qos) = (filter.as_str(), qos_out(*qos));
            Ok(Reply::observed(hook.call_on_session_subscribed(store, number, client, filter, qos).await?))
        }
        Event::SessionUnsubscribed { client, filter, .. } => {
            let Some(hook) = &functions.session_unsubscribed else { return Ok(Reply::NotHandled) };
            let client = texts.client(client);
            Ok(Reply::observed(
                hook.call_on_session_unsubscribed(store, number, client, filter.as_str()).await?,
            ))
        }
        Event::ClientAuthenticate { client, password } => {
            let Some(hook) = &functions.client_authenticate else { return Ok(Reply::NotHandled) };
            let (client, password) = (texts.client(client), password.as_ref().map(Password::bytes));
            let call = pin!(hook.call_on_client_authenticate(store, number, client, password));
            let answer = call.await?;
            Ok(Reply::decided(answer, |decision| leave::decision(decision, &leave::CONNECT)))
        }
        Event::ClientAuthorize { client, access } => {
            let Some(hook) = &functions.client_authorize else { return Ok(Reply::NotHandled) };
            let client = texts.client(client);
            let (kind, retain, refusals) = leave::access(access);
            let (topic, qos) = (access.topic(), qos_out(access.qos()));
            let call = pin!(hook.call_on_client_authorize(store, number, client, kind, topic, qos, retain));
            let answer = call.await?;
            Ok(Reply::decided(answer, |decision| leave::decision(decision, refusals)))
        }
        Event::ClientSubscribe { client, request } => {
            let Some(hook) = &functions.client_subscribe else { return Ok(Reply::NotHandled) };
            let (client, qos) = (texts.client(client), qos_out(request.qos));
            let call = pin!(hook.call_on_client_subscribe(store, number, client, &request.text, qos));
            let answer = call.await?;
            Ok(Reply::decided(answer, leave::grant))
        }
    }
}

/// The subscriptions a guest wants added, checked.
pub(crate) fn subscriptions(wanted: Vec<Subscription>) -> Reply {
    let mut subscriptions = Vec::with_capacity(wanted.len());
    for subscription in wanted {
        match TopicFilter::new(subscription.filter.as_str()) {
            Ok(filter) => subscriptions.push((filter, qos_in(subscription.qos))),
            Err(error) => {
                return Reply::Invalid(format!("filter {}: {error}", translate::brief(&subscription.filter)));
            }
        }
    }
    Reply::Answer(Answer { verdict: Verdict::Pass, subscriptions })
}

/// Why a guest stopped: the limit it hit, or the trap, with where it was and what it said last.
fn failure(store: &mut Store<State>, budget: &Budget, cpu: Duration, error: &wasmtime::Error) -> CallError {
    let state = store.data_mut();
    let message = match error.downcast_ref::<I32Exit>() {
        Some(I32Exit(status)) => format!("the guest called exit({status})"),
        None => format!("{error:?}").trim().to_owned(),
    };
    let stderr = state.output.take_tail();
    let denied = state.limiter.take_denied();
    if matches!(error.downcast_ref::<Trap>(), Some(Trap::Interrupt)) && budget.is_interrupted() {
        return CallError::Interrupted;
    }
    let limits = &state.shared.limits;
    let which = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) if budget.is_exceeded() => Some(Limit::Cpu(cpu)),
        Some(Trap::StackOverflow) => Some(Limit::Stack(STACK_BYTES)),
        _ if says(error, HOSTCALL_BYTES_EXHAUSTED) => Some(Limit::HostcallBytes(limits.hostcall_bytes)),
        _ if says(error, HANDLES_EXHAUSTED) => Some(Limit::Handles(limits.handles)),
        // The guest could not grow and gave up: most languages abort then.
        _ => denied,
    };
    match which {
        Some(which) => CallError::Limit { which, message, stderr },
        None => CallError::Trap { message, stderr },
    }
}

/// Whether the cause has these words: wasmtime has no type for it.
fn says(error: &wasmtime::Error, words: &str) -> bool {
    error.root_cause().to_string().contains(words)
}
