//! Answers `pass` to every message: what a call costs at least.

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

struct Pass;

impl Guest for Pass {
    fn on_message_publish(_: u64, _: Option<Client>, _: Message) -> Result<Verdict, HookError> {
        Ok(Verdict::Pass)
    }
}

export!(Pass);
