//! Counts its messages and hands the count to the next version, unless its configuration says how to fail.

wit_bindgen::generate!({
    inline: "
        package test:counter;
        world counter {
            include tidegate:worlds/imports@0.1.0;
            export tidegate:module/init@0.1.0;
            export tidegate:module/state@0.1.0;
            export tidegate:hooks/message-publish@0.1.0;
        }
    ",
    path: [
        "../../../../../wit/wasi-config",
        "../../../../../wit/wasi-logging",
        "../../../../../wit/broker",
        "../../../../../wit/storage",
        "../../../../../wit/hooks",
        "../../../../../wit/module",
        "../../../../../wit/worlds",
    ],
    world: "test:counter/counter",
    generate_all,
});

use std::cell::{Cell, RefCell};
use std::thread::sleep;
use std::time::Duration;

use exports::tidegate::hooks::message_publish::{self, Client, HookError, Message, Verdict};
use exports::tidegate::module::{init, state};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static CONFIG: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
}

struct Counter;

export!(Counter);

fn config(key: &str) -> String {
    CONFIG.with_borrow(|config| {
        config.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone()).unwrap_or_default()
    })
}

impl init::Guest for Counter {
    fn init(config: Vec<(String, String)>) -> Result<(), String> {
        CONFIG.set(config);
        Ok(())
    }
}

impl state::Guest for Counter {
    fn drain() -> Vec<u8> {
        match config("drain").as_str() {
            "panic" => panic!("drain was told to panic"),
            "big" => return vec![1; (16 << 20) + 1],
            "slow" => sleep(Duration::from_secs(60)),
            millis => sleep(Duration::from_millis(millis.parse().unwrap_or(0))),
        }
        COUNT.get().to_string().into_bytes()
    }

    fn restore(state: Vec<u8>) -> Result<(), String> {
        match config("restore").as_str() {
            "fail" => return Err("told to".into()),
            "panic" => panic!("restore was told to panic"),
            _ => {}
        }
        let text = String::from_utf8(state).map_err(|error| error.to_string())?;
        COUNT.set(text.parse().map_err(|_| format!("{text:?} is no count"))?);
        Ok(())
    }
}

impl message_publish::Guest for Counter {
    /// Answers with the configured name and the count; `sleep/N` waits N milliseconds first, `panic` panics.
    fn on_message_publish(_: u64, _: Option<Client>, message: Message) -> Result<Verdict, HookError> {
        COUNT.set(COUNT.get() + 1);
        match message.topic.split_once('/') {
            Some(("sleep", millis)) => sleep(Duration::from_millis(millis.parse().unwrap_or(0))),
            _ if message.topic == "panic" => panic!("told to panic"),
            _ => {}
        }
        let payload = format!("{} {}", config("name"), COUNT.get()).into_bytes();
        Ok(Verdict::Replace(Message { payload, ..message }))
    }
}
