//! The table of built-in functions: validation, the reference page and dispatch come from it.

use tidegate_event::hook::Hook;

use crate::backend::{BackendKind, Carried};
use crate::config::suggestion;

/// What a function does; functions that differ only in name share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    ClientConnected,
    ClientDisconnected,
    SubscribeLookup,
    SubscriptionStore,
    SubscriptionDelete,
    MessagePublish,
    MessageStore,
    StoreKeepLatest,
    Fetch,
    FetchQueue,
    Acked,
    AckedQueue,
    Retain,
    RetainDelete,
    RetainLookup,
    AckedDelete,
}

impl Builtin {
    /// Whether it looks for what a subscription's filter matches.
    pub(crate) const fn takes_filter(self) -> bool {
        matches!(self, Self::Fetch | Self::FetchQueue | Self::RetainLookup | Self::AckedDelete)
    }
}

/// A built-in function: its name in configuration and in calls of guests, and where it may stand.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// The name.
    pub name: &'static str,
    /// The hooks it may stand on.
    pub hooks: &'static [Hook],
    /// What it does, a sentence for the reference.
    pub doc: &'static str,
    pub(crate) builtin: Builtin,
}

const fn row(name: &'static str, builtin: Builtin, hooks: &'static [Hook], doc: &'static str) -> Function {
    Function { name, hooks, doc, builtin }
}

const PUBLISH: &[Hook] = &[Hook::MessagePublish];
const ACKED: &[Hook] = &[Hook::MessageAcked];
const SUBSCRIBED: &[Hook] = &[Hook::SessionSubscribed];
const UNSUBSCRIBED: &[Hook] = &[Hook::SessionUnsubscribed];

static FUNCTIONS: [Function; 21] = [
    row(
        "on_client_connected",
        Builtin::ClientConnected,
        &[Hook::ClientConnected],
        "Upserts the client's row: state 1, online_at now, offline_at empty, the node.",
    ),
    row(
        "on_client_disconnected",
        Builtin::ClientDisconnected,
        &[Hook::ClientDisconnected],
        "State 0 and offline_at now; online_at stays. The end of a connection that was taken over changes nothing.",
    ),
    row(
        "on_subscribe_lookup",
        Builtin::SubscribeLookup,
        &[Hook::SessionCreated, Hook::ClientConnected],
        "Subscribes the client to its rows of mqtt_sub, as if it had sent SUBSCRIBE.",
    ),
    row(
        "on_subscription_store",
        Builtin::SubscriptionStore,
        SUBSCRIBED,
        "Upserts the client's row of mqtt_sub (not for shared subscriptions).",
    ),
    row(
        "on_subscription_delete",
        Builtin::SubscriptionDelete,
        UNSUBSCRIBED,
        "Deletes the client's row of mqtt_sub.",
    ),
    row("on_message_publish", Builtin::MessagePublish, PUBLISH, "Stores the message if its QoS is 1 or 2."),
    row("on_message_store", Builtin::MessageStore, PUBLISH, "Stores the message at every QoS."),
    row(
        "on_message_store_keep_latest",
        Builtin::StoreKeepLatest,
        PUBLISH,
        "Stores the message at every QoS and deletes the topic's older ones.",
    ),
    row(
        "on_message_fetch",
        Builtin::Fetch,
        SUBSCRIBED,
        "Delivers what the topics hold after the client's position, oldest first, in pages of \
         offline_opts.max_returned_count (1000), not older than offline_opts.time_range.",
    ),
    row(
        "on_message_fetch_for_queue",
        Builtin::FetchQueue,
        SUBSCRIBED,
        "One-to-one: delivers all that the topics hold, oldest first; the ack deletes.",
    ),
    row("on_message_fetch_for_pubsub", Builtin::Fetch, SUBSCRIBED, "One-to-many: as on_message_fetch."),
    row("on_message_fetch_for_keep_latest", Builtin::Fetch, SUBSCRIBED, "As on_message_fetch."),
    row(
        "on_message_acked",
        Builtin::Acked,
        ACKED,
        "Moves the client's position in the topic to the newest message up to which all are acknowledged; never back.",
    ),
    row("on_message_acked_for_queue", Builtin::AckedQueue, ACKED, "One-to-one: deletes the message."),
    row("on_message_acked_for_pubsub", Builtin::Acked, ACKED, "One-to-many: as on_message_acked."),
    row("on_message_acked_for_keep_latest", Builtin::Acked, ACKED, "As on_message_acked: the message stays."),
    row(
        "on_message_retain",
        Builtin::Retain,
        PUBLISH,
        "With the RETAIN flag and a payload: upserts the topic's retained message.",
    ),
    row(
        "on_retain_delete",
        Builtin::RetainDelete,
        PUBLISH,
        "With the RETAIN flag and no payload: deletes the topic's retained message.",
    ),
    row(
        "on_retain_lookup",
        Builtin::RetainLookup,
        SUBSCRIBED,
        "Delivers the stored retained messages that match; the broker's own stay silent for that subscription.",
    ),
    row(
        "on_acked_delete",
        Builtin::AckedDelete,
        UNSUBSCRIBED,
        "Deletes the client's positions in the topics that the filter matches.",
    ),
    row(
        "on_subscription_lookup",
        Builtin::SubscribeLookup,
        &[Hook::SessionCreated, Hook::ClientConnected],
        "The documents' second name of on_subscribe_lookup.",
    ),
];

/// Every built-in function, for the reference page.
pub fn reference() -> &'static [Function] {
    &FUNCTIONS
}

/// The function `name` if it may stand on `hook` and `kind` carries it.
///
/// # Errors
/// Words that name the nearest function, the hooks where it may stand or what the back end carries.
pub(crate) fn find(name: &str, hook: Hook, kind: &BackendKind) -> Result<&'static Function, String> {
    let Some(function) = FUNCTIONS.iter().find(|f| f.name == name) else {
        let here = FUNCTIONS.iter().filter(|f| f.hooks.contains(&hook)).map(|f| f.name);
        let near = suggestion(name, FUNCTIONS.iter().map(|f| f.name));
        let near = if near.starts_with("; did") { near } else { suggestion(name, here) };
        return Err(format!("unknown function {name:?}{near}"));
    };
    if let Carried::Only(names) = kind.functions
        && !names.contains(&name)
    {
        return Err(format!("back end {} does not carry {name}, only {}", kind.name, names.join(", ")));
    }
    if function.hooks.contains(&hook) {
        return Ok(function);
    }
    let hooks: Vec<_> = function.hooks.iter().map(|h| h.name()).collect();
    Err(format!("{name} cannot stand on {}; it belongs to {}", hook.name(), hooks.join(" or ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_unique_and_explained() {
        for (index, function) in reference().iter().enumerate() {
            assert!(!function.hooks.is_empty() && function.doc.ends_with('.'), "{}", function.name);
            assert!(reference().iter().skip(index + 1).all(|f| f.name != function.name), "{}", function.name);
        }
    }

    #[test]
    fn a_wrong_name_or_hook_or_back_end_is_explained() {
        let kind = |name| crate::backend::find(name).unwrap();
        let find = |name, hook| super::find(name, hook, kind("mysql"));
        assert_eq!(find("on_message_publish", Hook::MessagePublish).unwrap().name, "on_message_publish");
        assert_eq!(
            find("on_mesage_publish", Hook::MessagePublish).unwrap_err(),
            "unknown function \"on_mesage_publish\"; did you mean \"on_message_publish\"?"
        );
        assert_eq!(
            find("on_retain_lookup", Hook::MessagePublish).unwrap_err(),
            "on_retain_lookup cannot stand on message.publish; it belongs to session.subscribed"
        );
        assert_eq!(
            super::find("on_message_retain", Hook::MessagePublish, kind("opentsdb")).unwrap_err(),
            "back end opentsdb does not carry on_message_retain, only on_message_publish, on_message_store"
        );
    }
}
