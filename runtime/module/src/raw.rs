//! Calls into a guest of the world `raw`: an event goes in as JSON, the answer comes out as JSON.

use serde::Serialize;
use std::collections::BTreeMap;
use tidegate_event::{Event, Hook, TopicFilter, Verdict};
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance, InstancePre, TypedFunc};

use crate::bindings::tidegate::hooks::types::{
    Decision, Delivery, Grant, HookError, Subscription, Verdict as GuestVerdict,
};
use crate::envelope::{self, AnswerIn, HooksIn, MessageIn};
use crate::error::LoadError;
use crate::instance::{Reply, subscriptions};
use crate::leave;
use crate::state::State;
use crate::translate;

/// What a refusal says that gives no reason code (MQTT 5: not authorised).
const NOT_AUTHORIZED: u8 = 0x87;

/// The function's name, at the root of the component.
const HANDLE: &str = "handle";

/// `handle` of a live instance.
pub(crate) type Handle = TypedFunc<(Vec<u8>,), (Vec<u8>,)>;

/// Where `handle` is, when the component exports it.
pub(crate) fn find(pre: &InstancePre<State>) -> Option<ComponentExportIndex> {
    pre.component().get_export_index(None, HANDLE)
}

/// Looks `handle` up in a new instance and checks its type.
///
/// # Errors
/// [`LoadError::ExportType`].
pub(crate) fn load(
    store: impl wasmtime::AsContextMut<Data = State>,
    instance: &Instance,
    index: &ComponentExportIndex,
) -> Result<Handle, LoadError> {
    instance
        .get_typed_func(store, index)
        .map_err(|error| LoadError::ExportType { interface: HANDLE.to_owned(), reason: format!("{error:#}") })
}

/// What the host asks besides events.
#[derive(Serialize)]
#[serde(tag = "call", rename_all = "lowercase")]
enum Ask<'a> {
    Init { config: BTreeMap<&'a str, &'a str> },
    Hooks,
    Tick,
}

/// Hands the configuration over.
///
/// # Errors
/// The trap; inside, what the guest has against it.
pub(crate) async fn init(
    store: &mut Store<State>,
    handle: &Handle,
    config: &[(String, String)],
) -> wasmtime::Result<Result<(), String>> {
    let config = config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let answer = ask(store, handle, &Ask::Init { config }).await?;
    Ok(envelope::read::<AnswerIn>(&answer).and_then(|answer| answer.error.map_or(Ok(()), Err)))
}

/// Tells that time has passed.
///
/// # Errors
/// The trap; inside, what the guest could not do.
pub(crate) async fn tick(store: &mut Store<State>, handle: &Handle) -> wasmtime::Result<Result<(), String>> {
    let answer = ask(store, handle, &Ask::Tick).await?;
    Ok(envelope::read::<AnswerIn>(&answer).and_then(|answer| answer.error.map_or(Ok(()), Err)))
}

/// Asks which hooks the guest wants.
///
/// # Errors
/// The trap; inside, what is wrong with the answer.
pub(crate) async fn hooks(
    store: &mut Store<State>,
    handle: &Handle,
) -> wasmtime::Result<Result<Vec<(Hook, Vec<TopicFilter>)>, String>> {
    let answer = ask(store, handle, &Ask::Hooks).await?;
    Ok(envelope::read::<HooksIn>(&answer).and_then(HooksIn::check))
}

async fn ask(store: &mut Store<State>, handle: &Handle, ask: &Ask<'_>) -> wasmtime::Result<Vec<u8>> {
    let request = serde_json::to_vec(ask)?;
    Ok(handle.call_async(store, (request,)).await?.0)
}

/// Hands an event over and reads the answer.
///
/// # Errors
/// The trap.
pub(crate) async fn call(
    store: &mut Store<State>,
    handle: &Handle,
    event: &Event,
) -> wasmtime::Result<Reply> {
    let request = envelope::event(event)?;
    let (answer,) = handle.call_async(&mut *store, (request,)).await?;
    Ok(reply(&answer, event, store.data()).unwrap_or_else(Reply::Invalid))
}

fn reply(answer: &[u8], event: &Event, state: &State) -> Result<Reply, String> {
    let answer: AnswerIn = envelope::read(answer)?;
    if let Some(text) = answer.error {
        let error = if answer.retry { HookError::Retry(text) } else { HookError::Failed(text) };
        return Ok(Reply::Refused(error));
    }
    let verdict = match event {
        Event::MessagePublish { message, .. } => {
            translate::verdict(publish_verdict(answer, message)?, message, &state.shared.services.ids)?
        }
        Event::MessageDeliver { message, .. } => translate::delivery(delivery(answer, message)?, message)?,
        Event::ClientConnected { .. } => {
            let wanted = answer
                .subscriptions
                .into_iter()
                .map(|wanted| Ok(Subscription { filter: wanted.filter, qos: envelope::qos(wanted.qos)? }));
            return Ok(subscriptions(wanted.collect::<Result<_, String>>()?));
        }
        Event::ClientAuthenticate { .. } => leave::decision(decision(&answer)?, &leave::CONNECT)?,
        Event::ClientAuthorize { access, .. } => {
            let (_, _, refusals) = leave::access(access);
            leave::decision(decision(&answer)?, refusals)?
        }
        Event::ClientSubscribe { .. } => leave::grant(grant(answer)?)?,
        _ => match answer.verdict.as_deref() {
            None | Some("pass") => Verdict::Pass,
            Some(word) => {
                return Err(format!("{} decides nothing, its verdict is {word:?}", event.hook().name()));
            }
        },
    };
    Ok(Reply::decision(verdict))
}

fn publish_verdict(answer: AnswerIn, original: &tidegate_event::Message) -> Result<GuestVerdict, String> {
    let complete = |message: MessageIn| message.complete(Some(original));
    Ok(match answer.verdict.as_deref() {
        None | Some("pass") => GuestVerdict::Pass,
        Some("drop") => GuestVerdict::Drop,
        Some("reject") => {
            GuestVerdict::Reject(answer.reason_code.ok_or("verdict reject needs a reason_code")?)
        }
        Some("replace") => {
            GuestVerdict::Replace(complete(answer.message.ok_or("verdict replace needs a message")?)?)
        }
        Some("fan-out") => {
            let messages = answer.messages.ok_or("verdict fan-out needs messages")?;
            GuestVerdict::FanOut(messages.into_iter().map(complete).collect::<Result<_, _>>()?)
        }
        Some(other) => {
            return Err(format!(
                "unknown verdict {}; known are pass, drop, reject, replace, fan-out",
                translate::brief(other)
            ));
        }
    })
}

fn delivery(answer: AnswerIn, original: &tidegate_event::Message) -> Result<Delivery, String> {
    Ok(match answer.verdict.as_deref() {
        None | Some("pass") => Delivery::Pass,
        Some("drop") => Delivery::Drop,
        Some("replace") => Delivery::Replace(
            answer.message.ok_or("verdict replace needs a message")?.complete(Some(original))?,
        ),
        Some(other) => {
            return Err(format!(
                "unknown verdict {} on a delivery; known are pass, drop, replace",
                translate::brief(other)
            ));
        }
    })
}

fn decision(answer: &AnswerIn) -> Result<Decision, String> {
    Ok(match answer.verdict.as_deref() {
        None | Some("pass" | "ignore") => Decision::Ignore,
        Some("allow") => Decision::Allow,
        Some("refuse") => Decision::Refuse(answer.reason_code.unwrap_or(NOT_AUTHORIZED)),
        Some(other) => {
            return Err(format!(
                "unknown verdict {} on what a client asks for; known are ignore, allow, refuse",
                translate::brief(other)
            ));
        }
    })
}

fn grant(answer: AnswerIn) -> Result<Grant, String> {
    if answer.verdict.as_deref() == Some("change") {
        let other = answer.subscription.ok_or("verdict change needs a subscription")?;
        return Ok(Grant::Change(Subscription { filter: other.filter, qos: envelope::qos(other.qos)? }));
    }
    Ok(match decision(&answer)? {
        Decision::Ignore => Grant::Ignore,
        Decision::Allow => Grant::Allow,
        Decision::Refuse(code) => Grant::Refuse(code),
    })
}
