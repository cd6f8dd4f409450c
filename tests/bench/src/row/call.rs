//! Row `call`: what calling a warm guest costs when the guest does nothing.
//!
//! Side by side, in turns: an empty component function, the `pass` guest called by wasmtime's own typed
//! function with the same message, and the same guest through [`Module::call`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tidegate_event::{
    AckLevel, ActionOptions, BoxFuture, Client, Control, ControlError, Event, IdSource, Message, Node,
    Origin, Protocol, QoS, Rows, Scope, SqlValue, Storage, StorageError, Tenant, TopicFilter, Verdict,
    now_ms,
};
use tidegate_module::{Host, HostConfig, Module};

use super::Bench;
use crate::guest::bare::{self, Bare, Empty};
use crate::guest::timing::{CallCost, time_calls};
use crate::guest::{self, PASS};
use crate::report::Target;
use crate::statistics::Summary;

const ROW: &str = "call";
const MESSAGE_BYTES: usize = 200;
const TOPIC: &str = "sensors/bench";

/// Times all three in turns.
///
/// # Errors
/// When the guest does not build or load.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let component = PASS.build()?;
    bench.report.heading(&format!("{ROW}: warm guest that lets a {MESSAGE_BYTES} B message pass"));
    let time = bench.span.measure / 3;
    let (mut empty, mut bare, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        empty.push(empty_call(time).await?);
        bare.push(bare_call(&component, time).await?);
        ours.push(module_call(&component, time).await?);
    }
    bench
        .report
        .line("    call                                      us (least .. greatest)      allocations");
    for (name, samples) in [
        ("empty component function", &empty),
        ("wasmtime, guest `pass`", &bare),
        ("Module::call, guest `pass`", &ours),
    ] {
        let us = Summary::of(samples.iter().map(|s: &CallCost| s.us));
        let allocations = Summary::of(samples.iter().map(|s| s.allocations)).median;
        bench.report.line(&format!(
            "    {name:<34} {:>9.3} {:>20} {allocations:>12.2}",
            us.median,
            format!("({:.3} .. {:.3})", us.least, us.greatest),
        ));
        bench.report.record(ROW, name, json!({"us": us, "allocations": allocations}))?;
    }
    let us = Summary::of(ours.iter().map(|s| s.us)).median;
    let floor = Summary::of(bare.iter().map(|s| s.us)).median;
    let allocations = Summary::of(ours.iter().map(|s| s.allocations)).median;
    bench.report.check(ROW, "pass", "guest call", us, "us", Target::AtMost(1.5))?;
    bench.report.line(&format!("    {:<44} {:>9.2}us", "of which not wasmtime's own call", us - floor));
    // The future of wasmtime's async call is one; the message is borrowed.
    let theirs = Summary::of(bare.iter().map(|s| s.allocations)).median;
    // A new instance every few thousand calls makes some too: to a hundredth, as printed.
    let beyond = ((allocations - theirs) * 100.0).round() / 100.0;
    bench.report.check(ROW, "pass", "allocations beyond wasmtime's own", beyond, "", Target::AtMost(0.0))
}

async fn empty_call(time: Duration) -> anyhow::Result<CallCost> {
    let make = async || Empty::load().await.map_err(bare::told);
    time_calls(time, make, async |empty: &mut Empty| empty.call().await.map_err(bare::told)).await
}

async fn bare_call(component: &Path, time: Duration) -> anyhow::Result<CallCost> {
    let component: PathBuf = component.to_owned();
    let make = async move || Bare::load(&component).await.map_err(bare::told);
    let payload = guest::reading(MESSAGE_BYTES);
    let call = async move |bare: &mut Bare| {
        let replaced = bare.call(TOPIC, &payload).await.map_err(bare::told)?;
        ensure!(!replaced, "the guest did not let the message pass");
        Ok(())
    };
    time_calls(time, make, call).await
}

async fn module_call(component: &Path, time: Duration) -> anyhow::Result<CallCost> {
    let component: PathBuf = component.to_owned();
    let make = async move || {
        let cache = tempfile::tempdir()?;
        let node = Arc::new(Node::default());
        let config = HostConfig::new(cache.path().join("artefacts"), Arc::new(IdSource::new(&node)));
        let host = Host::new(config, node.clone(), Arc::new(Nothing), Arc::new(Nothing))?;
        let module = host.load(&component, &Tenant::default()).await?;
        Ok((module, Scope::new(publish_event(), node), cache))
    };
    let call = async |(module, scope, _): &mut (Arc<Module>, Scope, tempfile::TempDir)| {
        let answer = module.call(scope).await?;
        ensure!(matches!(answer.verdict, Verdict::Pass), "the guest did not let the message pass");
        Ok(())
    };
    time_calls(time, make, call).await
}

fn publish_event() -> Event {
    let tenant = Tenant::default();
    let client = Client {
        id: "bench".into(),
        username: None,
        peer: ([127, 0, 0, 1], 40_000).into(),
        protocol: Protocol::V311,
        tenant: tenant.clone(),
        keep_alive: 60,
        clean_start: true,
        connected_at_ms: now_ms(),
        connection: 1,
    };
    let message = Message {
        id: IdSource::new(&Node::default()).next_id(),
        topic: tidegate_event::TopicName::new(TOPIC).unwrap_or_else(|error| unreachable!("{error}")),
        payload: guest::reading(MESSAGE_BYTES).into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        timestamp_ms: now_ms(),
        sender: client.id.clone(),
        publisher: Some(Arc::new(client)),
        properties: None,
        origin: Origin::Client,
        hops: 0,
    };
    Event::MessagePublish { message: Arc::new(message), tenant }
}

/// A store and a broker that are not there: the guest asks for neither.
struct Nothing;

fn absent<T: Send + 'static>(connector: &str) -> BoxFuture<'static, Result<T, StorageError>> {
    let error = StorageError::NoSuchConnector(connector.to_owned());
    Box::pin(std::future::ready(Err(error)))
}

impl Storage for Nothing {
    fn run<'a>(
        &'a self,
        _: &'a Scope,
        connector: &'a str,
        _: &'a str,
        _: &'a ActionOptions,
        _: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        absent(connector)
    }

    fn execute<'a>(
        &'a self,
        _: &'a Scope,
        connector: &'a str,
        _: &'a [String],
        _: AckLevel,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        absent(connector)
    }

    fn query<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        _: &'a str,
        _: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, StorageError>> {
        absent(connector)
    }

    fn exec<'a>(
        &'a self,
        _: &'a Tenant,
        connector: &'a str,
        _: &'a str,
        _: Vec<Vec<SqlValue>>,
    ) -> BoxFuture<'a, Result<u64, StorageError>> {
        absent(connector)
    }

    fn connectors(&self, _: &Tenant) -> Vec<String> {
        Vec::new()
    }
}

impl Control for Nothing {
    fn publish(&self, _: &Tenant, _: Message) -> Result<(), ControlError> {
        Err(ControlError::Stopping)
    }

    fn deliver(&self, _: &Tenant, client_id: &str, _: Message) -> Result<(), ControlError> {
        Err(ControlError::NoSuchClient(client_id.to_owned()))
    }

    fn subscribe(&self, _: &Tenant, client_id: &str, _: TopicFilter, _: QoS) -> Result<(), ControlError> {
        Err(ControlError::NoSuchClient(client_id.to_owned()))
    }

    fn unsubscribe(&self, _: &Tenant, client_id: &str, _: TopicFilter) -> Result<(), ControlError> {
        Err(ControlError::NoSuchClient(client_id.to_owned()))
    }

    fn disconnect(&self, _: &Tenant, client_id: &str) -> Result<(), ControlError> {
        Err(ControlError::NoSuchClient(client_id.to_owned()))
    }
}
