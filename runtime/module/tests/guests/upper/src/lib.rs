//! Replaces every payload by its upper-case form: another version than `pass`, visibly.

wit_bindgen::generate!({
    path: [
        "../../../../../wit/wasi-config",
        "../../../../../wit/wasi-logging",
        "../../../../../wit/broker",
        "../../../../../wit/storage",
        "../../../../../wit/hooks",
        "../../../../../wit/module",
        "../../../../../wit/worlds",
    ],
    world: "tidegate:worlds/transform",
    generate_all,
});

use exports::tidegate::hooks::message_publish::{Client, Guest, HookError, Message, Verdict};

struct Upper;

impl Guest for Upper {
    fn on_message_publish(_: u64, _: Option<Client>, message: Message) -> Result<Verdict, HookError> {
        let payload = message.payload.to_ascii_uppercase();
        Ok(Verdict::Replace(Message { payload, ..message }))
    }
}

export!(Upper);
