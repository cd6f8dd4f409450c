//! What the running node is made of, as the API shows it: filled in while it starts.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tidegate_broker::Broker;
use tidegate_event::{Storage as _, Tenant};
use tidegate_module::{CircuitState, Commands, Directory, Module};
use tidegate_store::Stores;

use crate::api::report::{
    CircuitReport, ConnectorState, FailureReport, HookReport, ModuleCount, ModuleReport, Modules, Readiness,
    TrialReport,
};
use crate::reload::Reload;

/// How far the node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Parts are being opened.
    #[default]
    Starting,
    /// Modules are loaded and every listener is bound.
    Ready,
    /// A stop has begun.
    Stopping,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => Readiness::READY,
            Self::Stopping => "stopping",
        }
    }
}

/// The parts, as far as they are there.
#[derive(Default)]
struct Parts {
    phase: Phase,
    stores: Option<Arc<Stores>>,
    broker: Option<Broker>,
    directory: Option<Directory>,
    reload: Option<Arc<Reload>>,
    listeners: Vec<String>,
}

/// Shared between the start, the API and the stop.
#[derive(Default)]
pub struct Status(Mutex<Parts>);

impl Status {
    /// The node is now in `phase`.
    pub fn enter(&self, phase: Phase) {
        self.0.lock().phase = phase;
    }

    /// The stores, once they are open.
    pub(crate) fn stores(&self) -> Option<Arc<Stores>> {
        self.0.lock().stores.clone()
    }

    /// Connectors are open.
    pub fn set_stores(&self, stores: Arc<Stores>) {
        self.0.lock().stores = Some(stores);
    }

    /// The broker is there.
    pub fn set_broker(&self, broker: Broker) {
        self.0.lock().broker = Some(broker);
    }

    /// The configuration of back ends can be changed.
    pub(crate) fn set_reload(&self, reload: Arc<Reload>) {
        self.0.lock().reload = Some(reload);
    }

    /// What changes the configuration of back ends; `None` before it is in use and from when it is taken out.
    pub(crate) fn reload(&self) -> Option<Arc<Reload>> {
        self.0.lock().reload.clone()
    }

    /// Takes it out: nothing changes any more.
    pub(crate) fn take_reload(&self) -> Option<Arc<Reload>> {
        self.0.lock().reload.take()
    }

    /// Modules are loaded.
    pub fn set_directory(&self, directory: Directory) {
        self.0.lock().directory = Some(directory);
    }

    /// Takes the directory out, to close it.
    pub fn take_directory(&self) -> Option<Directory> {
        self.0.lock().directory.take()
    }

    /// Where commands about modules go; `None` before they are loaded and from when they are closed.
    pub fn commands(&self) -> Option<Commands> {
        self.0.lock().directory.as_ref().map(Directory::commands)
    }

    /// A listener is bound.
    pub fn add_listener(&self, address: String) {
        self.0.lock().listeners.push(address);
    }

    /// Where MQTT is served: addresses, and URLs of what is not plain.
    pub fn listeners(&self) -> Vec<String> {
        self.0.lock().listeners.clone()
    }

    /// The answer of `/readyz`. Every connector is asked; one that does not answer within `timeout` is down.
    pub async fn readiness(&self, timeout: Duration) -> Readiness {
        let (stores, mut report) = {
            let parts = self.0.lock();
            let report = Readiness {
                status: parts.phase.name().into(),
                listeners: parts.listeners.clone(),
                connections: parts.broker.as_ref().map_or(0, Broker::connections),
                modules: parts.directory.as_ref().map_or_else(ModuleCount::default, |directory| {
                    ModuleCount { serving: directory.modules().len(), failed: directory.failures().len() }
                }),
                connectors: Vec::new(),
            };
            (parts.stores.clone(), report)
        };
        if let Some(stores) = stores {
            let names = stores.connectors(&Tenant::default());
            report.connectors = join_all(names.into_iter().map(|name| check(&stores, name, timeout))).await;
        }
        report
    }

    /// The answer of `/api/v1/modules`.
    pub fn modules(&self) -> Modules {
        let parts = self.0.lock();
        let Some(directory) = &parts.directory else { return Modules::default() };
        Modules {
            modules: directory.modules().iter().map(|module| report(module)).collect(),
            failures: directory
                .failures()
                .into_iter()
                .map(|failure| FailureReport {
                    path: failure.path.display().to_string(),
                    error: failure.reason,
                    mandatory: failure.mandatory,
                })
                .collect(),
        }
    }
}

async fn check(stores: &Stores, name: String, timeout: Duration) -> ConnectorState {
    let error = match tokio::time::timeout(timeout, stores.check(&name)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer in time".into()),
    };
    let state = if error.is_none() { "up" } else { "down" };
    ConnectorState { name, state: state.into(), error }
}

/// A module as the API shows it.
pub(crate) fn report(module: &Module) -> ModuleReport {
    let stats = module.stats();
    let mean_us = if stats.calls == 0 { 0.0 } else { stats.time.as_secs_f64() * 1e6 / stats.calls as f64 };
    ModuleReport {
        name: module.name().into(),
        version: module.hash().into(),
        priority: module.priority(),
        path: module.path().display().to_string(),
        hooks: module
            .hooks()
            .iter()
            .map(|(hook, filters)| HookReport {
                hook: hook.name().into(),
                topics: filters.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        calls: stats.calls,
        errors: stats.errors,
        mean_us,
        bytes: stats.wasm_bytes,
        instances: stats.instances as u64,
        circuit: CircuitReport {
            state: match stats.circuit {
                CircuitState::Closed => CircuitReport::CLOSED,
                CircuitState::Open => "open",
                CircuitState::HalfOpen => "half-open",
            }
            .into(),
            opened: stats.circuit_opened,
            skipped: stats.skipped,
        },
        trial: module.trial().map(|trial| TrialReport {
            share: trial.share,
            before: trial.before,
            before_calls: trial.before_calls,
            before_errors: trial.before_errors,
        }),
    }
}
