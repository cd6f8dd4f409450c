//! What `wit-bindgen` makes of `wit/`: the imports and types once, and one world a hook.
//!
//! The worlds are in `worlds/worlds.wit`. A world's exports become a duty of the guest only where
//! [`export!`](crate::export!) names the hook, so the other worlds leave no trace in its component.

/// The interfaces a guest may call and the types of all interfaces.
pub mod imports {
    wit_bindgen::generate!({
        world: "tidegate:sdk/imports",
        path: [
            "wit/wasi-config", "wit/wasi-logging", "wit/broker", "wit/storage", "wit/hooks", "wit/module",
            "wit/worlds", "worlds",
        ],
        generate_all,
        generate_unused_types: true,
        additional_derives: [PartialEq],
    });
}

/// Standard interfaces whose types hold handles, which have no equality.
pub mod standard {
    wit_bindgen::generate!({
        inline: "package tidegate:sdk-standard;
            world standard {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
                import wasi:http/outgoing-handler@0.2.0;
            }",
        world: "tidegate:sdk-standard/standard",
        path: ["wit/wasi-keyvalue-draft2", "wit/wasi-io", "wit/wasi-clocks", "wit/wasi-http"],
        generate_all,
    });
}

/// One module a world: the trait of the interface it exports and the macro that exports it.
macro_rules! worlds {
    ($($module:ident = $world:literal { $($with:tt)* })*) => {$(
        #[doc = concat!("The world `", $world, "`.")]
        pub mod $module {
            wit_bindgen::generate!({
                world: $world,
                path: [
                    "wit/wasi-config", "wit/wasi-logging", "wit/broker", "wit/storage", "wit/hooks",
                    "wit/module", "wit/worlds", "worlds",
                ],
                with: { $($with)* },
                generate_all,
                pub_export_macro: true,
            });
        }
    )*};
}

worlds! {
    init = "tidegate:sdk/init" {}
    state = "tidegate:sdk/state" {}
    tick = "tidegate:sdk/tick" {}
    client_connected = "tidegate:sdk/client-connected" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    client_disconnected = "tidegate:sdk/client-disconnected" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    session_created = "tidegate:sdk/session-created" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    session_subscribed = "tidegate:sdk/session-subscribed" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    session_unsubscribed = "tidegate:sdk/session-unsubscribed" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    message_publish = "tidegate:sdk/message-publish" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    message_publish_batch = "tidegate:sdk/message-publish-batch" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    message_deliver = "tidegate:sdk/message-deliver" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    message_acked = "tidegate:sdk/message-acked" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    client_authenticate = "tidegate:sdk/client-authenticate" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    client_authorize = "tidegate:sdk/client-authorize" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
    client_subscribe = "tidegate:sdk/client-subscribe" {
        "tidegate:broker/types@0.1.0": crate::bindings::imports::tidegate::broker::types,
        "tidegate:hooks/types@0.1.0": crate::bindings::imports::tidegate::hooks::types,
    }
}
