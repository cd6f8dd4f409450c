//! `export!`: from a function to an export of the component.

/// Exports handlers: `export!(hook: function, ...)`. The host calls a guest for the hooks named here and no
/// others, so a hook left out costs nothing.
///
/// | hook | the function | answer |
/// | --- | --- | --- |
/// | `message_publish` | `fn(Event, Option<Client>, Message)` | [`Result<Verdict>`](crate::Verdict) |
/// | `message_publish_batch` | `fn(Vec<`[`Published`](crate::Published)`>)` | `Vec<Result<Verdict>>`, one for each |
/// | `message_deliver` | `fn(Event, Client, Message)` | [`Result<Delivery>`](crate::Delivery) |
/// | `message_acked` | `fn(Event, Client, Message)` | `Result<()>` |
/// | `client_connected` | `fn(Event, Client)` | [`Result<Vec<Subscription>>`](crate::Subscription), to be added |
/// | `client_disconnected` | `fn(Event, Client, String)`, the reason | `Result<()>` |
/// | `session_created` | `fn(Event, Client)` | `Result<()>` |
/// | `session_subscribed` | `fn(Event, Client, String, Qos)`, the filter and the granted QoS | `Result<()>` |
/// | `session_unsubscribed` | `fn(Event, Client, String)`, the filter | `Result<()>` |
/// | `client_authenticate` | `fn(Event, Client, Option<Vec<u8>>)`, the password | [`Result<Decision>`](crate::Decision) |
/// | `client_authorize` | `fn(Event, Client, Access, String, Qos, bool)`: to do what, the topic or filter, QoS, RETAIN | [`Result<Decision>`](crate::Decision) |
/// | `client_subscribe` | `fn(Event, Client, String, Qos)`, the filter and the QoS asked for | [`Result<Grant>`](crate::Grant) |
/// | `init` | `fn(`[`Config`](crate::config::Config)`)` | `Result<(), String>` |
/// | `tick` | `fn(Event)` | `Result<(), String>` |
/// | `state` | no function: a type that implements [`State`](crate::State) | |
///
/// The client of `message_publish` is absent for messages that no client sent. For deliver and acked the
/// client is the subscriber. The hooks `client_authenticate`, `client_authorize` and `client_subscribe` are asked for
/// leave: the first module with an opinion decides, and one that fails refuses.
///
/// `message_publish_batch` takes the place of `message_publish` and gets what came while the module was busy: lists of
/// one as long as it is not.
///
/// Three are no hooks. `init` runs once on every new instance before any event, and an error there keeps the previous
/// version of the module serving. `tick` is called every second, or as the manifest's `tick` says. `state` hands what the
/// one instance of a module with `mode = "single"` knows to the next version.
///
/// ```no_run
/// use tidegate_sdk::config::Config;
/// use tidegate_sdk::{Client, Event, Qos, Result, Subscription, export, info};
///
/// export! {
///     init: start,
///     client_connected: welcome,
///     session_subscribed: note,
/// }
///
/// fn start(config: Config) -> std::result::Result<(), String> {
///     config.require("greeting").map(drop)
/// }
///
/// fn welcome(_: Event, client: Client) -> Result<Vec<Subscription>> {
///     Ok(vec![Subscription { filter: format!("inbox/{}", client.id), qos: Qos::AtLeastOnce }])
/// }
///
/// fn note(_: Event, client: Client, filter: String, qos: Qos) -> Result<()> {
///     info!("{} subscribed to {filter} at {qos:?}", client.id);
///     Ok(())
/// }
/// # fn main() {}
/// ```
///
/// A function of another type does not compile:
///
/// ```compile_fail
/// tidegate_sdk::export!(session_created: created);
/// fn created(_: tidegate_sdk::Event) -> tidegate_sdk::Result<()> { Ok(()) }
/// ```
#[macro_export]
macro_rules! export {
    ($($hook:ident: $handler:path),+ $(,)?) => {
        $($crate::__export_hook!($hook, $handler);)+
    };
}

/// One arm a hook: the type its handler must have, and the function of its WIT interface.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_hook {
    (init, $handler:path) => {
        $crate::__export_function! {
            init, $handler, $crate::bindings::init::exports::tidegate::module::init::Guest,
            fn($crate::config::Config) -> ::core::result::Result<(), ::std::string::String>,
            fn init(config: ::std::vec::Vec<(::std::string::String, ::std::string::String)>)
                -> (::core::result::Result<(), ::std::string::String>)
            { ($crate::config::Config::from_pairs(config)) }
        }
    };
    (client_connected, $handler:path) => {
        $crate::__export_function! {
            client_connected, $handler,
            $crate::bindings::client_connected::exports::tidegate::hooks::client_connected::Guest,
            fn($crate::Event, $crate::Client) -> $crate::Result<::std::vec::Vec<$crate::Subscription>>,
            fn on_client_connected(event: u64, client: $crate::Client)
                -> ($crate::Result<::std::vec::Vec<$crate::Subscription>>)
            { ($crate::Event::from_number(event), client) }
        }
    };
    (client_disconnected, $handler:path) => {
        $crate::__export_function! {
            client_disconnected, $handler,
            $crate::bindings::client_disconnected::exports::tidegate::hooks::client_disconnected::Guest,
            fn($crate::Event, $crate::Client, ::std::string::String) -> $crate::Result<()>,
            fn on_client_disconnected(event: u64, client: $crate::Client, reason: ::std::string::String)
                -> ($crate::Result<()>)
            { ($crate::Event::from_number(event), client, reason) }
        }
    };
    (session_created, $handler:path) => {
        $crate::__export_function! {
            session_created, $handler,
            $crate::bindings::session_created::exports::tidegate::hooks::session_created::Guest,
            fn($crate::Event, $crate::Client) -> $crate::Result<()>,
            fn on_session_created(event: u64, client: $crate::Client) -> ($crate::Result<()>)
            { ($crate::Event::from_number(event), client) }
        }
    };
    (session_subscribed, $handler:path) => {
        $crate::__export_function! {
            session_subscribed, $handler,
            $crate::bindings::session_subscribed::exports::tidegate::hooks::session_subscribed::Guest,
            fn($crate::Event, $crate::Client, ::std::string::String, $crate::Qos) -> $crate::Result<()>,
            fn on_session_subscribed(
                event: u64, client: $crate::Client, filter: ::std::string::String, qos: $crate::Qos
            ) -> ($crate::Result<()>)
            { ($crate::Event::from_number(event), client, filter, qos) }
        }
    };
    (session_unsubscribed, $handler:path) => {
        $crate::__export_function! {
            session_unsubscribed, $handler,
            $crate::bindings::session_unsubscribed::exports::tidegate::hooks::session_unsubscribed::Guest,
            fn($crate::Event, $crate::Client, ::std::string::String) -> $crate::Result<()>,
            fn on_session_unsubscribed(event: u64, client: $crate::Client, filter: ::std::string::String)
                -> ($crate::Result<()>)
            { ($crate::Event::from_number(event), client, filter) }
        }
    };
    (message_publish, $handler:path) => {
        $crate::__export_function! {
            message_publish, $handler,
            $crate::bindings::message_publish::exports::tidegate::hooks::message_publish::Guest,
            fn($crate::Event, ::core::option::Option<$crate::Client>, $crate::Message)
                -> $crate::Result<$crate::Verdict>,
            fn on_message_publish(
                event: u64, client: ::core::option::Option<$crate::Client>, message: $crate::Message
            ) -> ($crate::Result<$crate::Verdict>)
            { ($crate::Event::from_number(event), client, message) }
        }
    };
    (message_publish_batch, $handler:path) => {
        $crate::__export_function! {
            message_publish_batch, $handler,
            $crate::bindings::message_publish_batch::exports::tidegate::hooks::message_publish_batch::Guest,
            fn(::std::vec::Vec<$crate::Published>) -> ::std::vec::Vec<$crate::Result<$crate::Verdict>>,
            fn on_message_publish_batch(
                batch: ::std::vec::Vec<
                    $crate::bindings::message_publish_batch::exports::tidegate::hooks::message_publish_batch::Published
                >
            ) -> (::std::vec::Vec<$crate::Result<$crate::Verdict>>)
            {
                (batch
                    .into_iter()
                    .map(|one| $crate::Published {
                        event: $crate::Event::from_number(one.event),
                        client: one.client,
                        message: one.message,
                    })
                    .collect())
            }
        }
    };
    (tick, $handler:path) => {
        $crate::__export_function! {
            tick, $handler, $crate::bindings::tick::exports::tidegate::module::tick::Guest,
            fn($crate::Event) -> ::core::result::Result<(), ::std::string::String>,
            fn on_tick(event: u64) -> (::core::result::Result<(), ::std::string::String>)
            { ($crate::Event::from_number(event)) }
        }
    };
    (state, $handler:path) => {
        const _: fn() -> ::std::vec::Vec<u8> = <$handler as $crate::State>::drain;

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "an export is a symbol with a given name")]
        const _: () = {
            struct Guest;

            impl $crate::bindings::state::exports::tidegate::module::state::Guest for Guest {
                fn drain() -> ::std::vec::Vec<u8> {
                    <$handler as $crate::State>::drain()
                }

                fn restore(
                    state: ::std::vec::Vec<u8>,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    <$handler as $crate::State>::restore(state)
                }
            }

            $crate::bindings::state::export!(Guest with_types_in $crate::bindings::state);
        };
    };
    (message_deliver, $handler:path) => {
        $crate::__export_function! {
            message_deliver, $handler,
            $crate::bindings::message_deliver::exports::tidegate::hooks::message_deliver::Guest,
            fn($crate::Event, $crate::Client, $crate::Message) -> $crate::Result<$crate::Delivery>,
            fn on_message_deliver(event: u64, client: $crate::Client, message: $crate::Message)
                -> ($crate::Result<$crate::Delivery>)
            { ($crate::Event::from_number(event), client, message) }
        }
    };
    (message_acked, $handler:path) => {
        $crate::__export_function! {
            message_acked, $handler,
            $crate::bindings::message_acked::exports::tidegate::hooks::message_acked::Guest,
            fn($crate::Event, $crate::Client, $crate::Message) -> $crate::Result<()>,
            fn on_message_acked(event: u64, client: $crate::Client, message: $crate::Message)
                -> ($crate::Result<()>)
            { ($crate::Event::from_number(event), client, message) }
        }
    };
    (client_authenticate, $handler:path) => {
        $crate::__export_function! {
            client_authenticate, $handler,
            $crate::bindings::client_authenticate::exports::tidegate::hooks::client_authenticate::Guest,
            fn($crate::Event, $crate::Client, ::core::option::Option<::std::vec::Vec<u8>>)
                -> $crate::Result<$crate::Decision>,
            fn on_client_authenticate(
                event: u64,
                client: $crate::Client,
                password: ::core::option::Option<::std::vec::Vec<u8>>
            ) -> ($crate::Result<$crate::Decision>)
            { ($crate::Event::from_number(event), client, password) }
        }
    };
    (client_authorize, $handler:path) => {
        $crate::__export_function! {
            client_authorize, $handler,
            $crate::bindings::client_authorize::exports::tidegate::hooks::client_authorize::Guest,
            fn($crate::Event, $crate::Client, $crate::Access, ::std::string::String, $crate::Qos, bool)
                -> $crate::Result<$crate::Decision>,
            fn on_client_authorize(
                event: u64,
                client: $crate::Client,
                access: $crate::Access,
                topic: ::std::string::String,
                qos: $crate::Qos,
                retain: bool
            ) -> ($crate::Result<$crate::Decision>)
            { ($crate::Event::from_number(event), client, access, topic, qos, retain) }
        }
    };
    (client_subscribe, $handler:path) => {
        $crate::__export_function! {
            client_subscribe, $handler,
            $crate::bindings::client_subscribe::exports::tidegate::hooks::client_subscribe::Guest,
            fn($crate::Event, $crate::Client, ::std::string::String, $crate::Qos)
                -> $crate::Result<$crate::Grant>,
            fn on_client_subscribe(
                event: u64, client: $crate::Client, filter: ::std::string::String, qos: $crate::Qos
            ) -> ($crate::Result<$crate::Grant>)
            { ($crate::Event::from_number(event), client, filter, qos) }
        }
    };
    ($other:ident, $handler:path) => {
        ::core::compile_error!(::core::concat!(
            "no hook `",
            ::core::stringify!($other),
            "`: expected init, tick, state, client_connected, ",
            "client_disconnected, session_created, session_subscribed, session_unsubscribed, ",
            "message_publish, message_publish_batch, message_deliver, message_acked, client_authenticate, ",
            "client_authorize or ",
            "client_subscribe"
        ));
    };
}

/// Checks the handler's type on every target; exports it where exports exist. (On the host the symbol names
/// of a component are not valid.)
#[doc(hidden)]
#[macro_export]
macro_rules! __export_function {
    (
        $world:ident, $handler:path, $guest:path, $signature:ty,
        fn $function:ident($($argument:ident: $type:ty),*) -> ($answer:ty) { ($($pass:expr),*) }
    ) => {
        const _: $signature = $handler;

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "an export is a symbol with a given name")]
        const _: () = {
            struct Guest;

            impl $guest for Guest {
                fn $function($($argument: $type),*) -> $answer {
                    $handler($($pass),*)
                }
            }

            $crate::bindings::$world::export!(Guest with_types_in $crate::bindings::$world);
        };
    };
}
