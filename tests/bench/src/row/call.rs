//! Row `call`: what calling a warm guest costs, and what taking an event to it and back costs.
//!
//! Side by side, in turns: an empty component function, a guest called by wasmtime's own typed function with the
//! same message, the same guest through [`Module::call`], and through [`Dispatcher`] as the broker raises it. One
//! guest lets every message pass, the other transforms it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::json;
use tidegate_dispatch::{Dispatcher, HookTable};
use tidegate_event::offline::Offline;
use tidegate_event::{
    Client, Event, Hooks as _, IdSource, Message, Node, Origin, Protocol, QoS, Raised, Scope, Tenant,
    Verdict, now_ms,
};
use tidegate_module::{Host, HostConfig, Module};

use super::Bench;
use crate::guest::bare::{self, Bare, Empty};
use crate::guest::timing::{CallCost, time_calls};
use crate::guest::{self, FAHRENHEIT, Guest, PASS};
use crate::report::Target;
use crate::statistics::Summary;

const ROW: &str = "call";
const MESSAGE_BYTES: usize = 200;
const TOPIC: &str = "sensors/bench";

/// A guest, and what it does to a message.
#[derive(Clone, Copy)]
struct Kind {
    guest: Guest,
    name: &'static str,
    replaces: bool,
}

const KINDS: [Kind; 2] = [
    Kind { guest: PASS, name: "pass", replaces: false },
    Kind { guest: FAHRENHEIT, name: "fahrenheit", replaces: true },
];

/// The rounds of one guest.
#[derive(Default)]
struct Samples {
    bare: Vec<CallCost>,
    module: Vec<CallCost>,
    raised: Vec<CallCost>,
}

/// Times all in turns.
///
/// # Errors
/// When a guest does not build or load.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut components = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| bench.wants(kind.name)) {
        components.push((kind, kind.guest.build()?, Samples::default()));
    }
    bench.report.heading(&format!("{ROW}: warm guests, a message of {MESSAGE_BYTES} B"));
    let time = bench.span.measure / 3;
    let mut empty = Vec::new();
    for round in 0..bench.rounds {
        bench.progress("guests", round, "every kind of call");
        empty.push(empty_call(time).await?);
        for (kind, component, samples) in &mut components {
            samples.bare.push(bare_call(*kind, component, time).await?);
            samples.module.push(module_call(*kind, component, time).await?);
            samples.raised.push(raised_call(*kind, component, time).await?);
        }
    }
    bench
        .report
        .line("    call                                      us (least .. greatest)      allocations");
    line(bench, "empty component function", &empty)?;
    for (kind, _, samples) in &components {
        table(bench, *kind, samples)?;
    }
    Ok(())
}

fn line(bench: &mut Bench, name: &str, samples: &[CallCost]) -> anyhow::Result<(f64, f64)> {
    let us = Summary::of(samples.iter().map(|s| s.us));
    let allocations = Summary::of(samples.iter().map(|s| s.allocations)).median;
    bench.report.line(&format!(
        "    {name:<34} {:>9.3} {:>20} {allocations:>12.2}",
        us.median,
        format!("({:.3} .. {:.3})", us.least, us.greatest),
    ));
    bench.report.record(ROW, name, json!({"us": us, "allocations": allocations}))?;
    Ok((us.median, allocations))
}

fn table(bench: &mut Bench, kind: Kind, samples: &Samples) -> anyhow::Result<()> {
    let name = kind.name;
    let (floor, theirs) = line(bench, &format!("wasmtime, guest `{name}`"), &samples.bare)?;
    let (us, ours) = line(bench, &format!("Module::call, guest `{name}`"), &samples.module)?;
    let (raised, all) = line(bench, &format!("raised, guest `{name}`"), &samples.raised)?;
    // A new instance every few thousand calls makes some allocations too: to a hundredth, as printed.
    let beyond = |more: f64, fewer: f64| ((more - fewer) * 100.0).round() / 100.0;
    bench.report.line(&format!("    {:<44} {:>9.2}us", "Module::call beyond wasmtime's own", us - floor));
    bench.report.line(&format!("    {:<44} {:>9.2}us", "raised beyond wasmtime's own", raised - floor));
    if !kind.replaces {
        bench.report.check(ROW, name, "guest call", us, "us", Target::AtMost(1.5))?;
        // The future of wasmtime's async call is one; the message is borrowed.
        let what = "allocations beyond wasmtime's own";
        bench.report.check(ROW, name, what, beyond(ours, theirs), "", Target::AtMost(0.0))?;
    }
    // The future that the broker polls, the join of acks and the effects.
    let what = "allocations of dispatch";
    bench.report.check(ROW, name, what, beyond(all, ours), "", Target::AtMost(3.0))
}

async fn empty_call(time: Duration) -> anyhow::Result<CallCost> {
    let make = async || Empty::load().await.map_err(bare::told);
    time_calls(time, make, async |empty: &mut Empty| empty.call().await.map_err(bare::told)).await
}

async fn bare_call(kind: Kind, component: &Path, time: Duration) -> anyhow::Result<CallCost> {
    let component: PathBuf = component.to_owned();
    let make = async move || Bare::load(&component).await.map_err(bare::told);
    let payload = guest::reading(MESSAGE_BYTES);
    let call = async move |bare: &mut Bare| {
        let replaced = bare.call(TOPIC, &payload).await.map_err(bare::told)?;
        ensure!(replaced == kind.replaces, "the guest answered something else");
        Ok(())
    };
    time_calls(time, make, call).await
}

/// A module with nothing around it but a directory for its artefact.
async fn load(component: &Path) -> anyhow::Result<(Arc<Module>, Arc<Node>, tempfile::TempDir)> {
    let cache = tempfile::tempdir()?;
    let node = Arc::new(Node::default());
    let config = HostConfig::new(cache.path().join("artefacts"), Arc::new(IdSource::new(&node)));
    let host = Host::new(config, node.clone(), Arc::new(Offline), Arc::new(Offline))?;
    let module = host.load(component, &Tenant::default()).await?;
    Ok((module, node, cache))
}

fn expect(kind: Kind, verdict: &Verdict) -> anyhow::Result<()> {
    match (verdict, kind.replaces) {
        (Verdict::Pass, false) | (Verdict::Replace(_), true) => Ok(()),
        (other, _) => bail!("the guest answered {other:?}"),
    }
}

async fn module_call(kind: Kind, component: &Path, time: Duration) -> anyhow::Result<CallCost> {
    let component: PathBuf = component.to_owned();
    let make = async move || {
        let (module, node, cache) = load(&component).await?;
        Ok((module, Scope::new(publish_event(TOPIC), node), cache))
    };
    let call = async move |(module, scope, _): &mut (Arc<Module>, Scope, tempfile::TempDir)| {
        expect(kind, &module.call(scope).await?.verdict)
    };
    time_calls(time, make, call).await
}

async fn raised_call(kind: Kind, component: &Path, time: Duration) -> anyhow::Result<CallCost> {
    let component: PathBuf = component.to_owned();
    let make = async move || {
        let (module, node, cache) = load(&component).await?;
        let dispatcher = Dispatcher::new(node);
        dispatcher.install(&Tenant::default(), HookTable::build(&[module], &[]));
        Ok((dispatcher, publish_event(TOPIC), cache))
    };
    let call = async move |(dispatcher, event, _): &mut (Arc<Dispatcher>, Event, tempfile::TempDir)| {
        let Raised::Running(handlers) = dispatcher.raise(event.clone()) else {
            bail!("the event matched no handler")
        };
        expect(kind, &handlers.await.verdict)
    };
    time_calls(time, make, call).await
}

/// A reading of [`MESSAGE_BYTES`] on `topic`, as a client publishes it.
pub(super) fn publish_event(topic: &str) -> Event {
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
        ..Client::default()
    };
    let message = Message {
        id: IdSource::new(&Node::default()).next_id(),
        topic: tidegate_event::TopicName::new(topic).unwrap_or_else(|error| unreachable!("{error}")),
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
