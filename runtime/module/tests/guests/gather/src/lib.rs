//! Takes messages in batches and ticks; topics and configuration say what goes wrong.

wit_bindgen::generate!({
    inline: "
        package test:gather;
        world gather {
            include tidegate:worlds/imports@0.1.0;
            export tidegate:module/init@0.1.0;
            export tidegate:module/tick@0.1.0;
            export tidegate:hooks/message-publish@0.1.0;
            export tidegate:hooks/message-publish-batch@0.1.0;
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
    world: "test:gather/gather",
    generate_all,
});

use std::cell::{Cell, RefCell};
use std::thread::sleep;
use std::time::Duration;

use exports::tidegate::hooks::message_publish::{self, Client, HookError, Message, Verdict};
use exports::tidegate::hooks::message_publish_batch::{self, Published};
use exports::tidegate::module::{init, tick};
use tidegate::broker::client_control;
use tidegate::broker::context;
use tidegate::broker::types::Qos;
use tidegate::storage::actions;

thread_local! {
    static TICKS: Cell<u64> = const { Cell::new(0) };
    static CONFIG: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
}

struct Gather;

export!(Gather);

fn config(key: &str) -> String {
    CONFIG.with_borrow(|config| {
        config.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone()).unwrap_or_default()
    })
}

impl init::Guest for Gather {
    fn init(config: Vec<(String, String)>) -> Result<(), String> {
        CONFIG.set(config);
        Ok(())
    }
}

impl message_publish::Guest for Gather {
    fn on_message_publish(_: u64, _: Option<Client>, _: Message) -> Result<Verdict, HookError> {
        panic!("the host prefers batches");
    }
}

impl message_publish_batch::Guest for Gather {
    /// Answers `place/length client` in place of the payload.
    fn on_message_publish_batch(batch: Vec<Published>) -> Vec<Result<Verdict, HookError>> {
        let length = batch.len();
        let answers = batch.into_iter().enumerate().map(|(place, published)| one(place, length, published));
        let mut answers: Vec<_> = answers.collect();
        if config("short") == "yes" {
            answers.pop();
        }
        answers
    }
}

fn one(place: usize, length: usize, published: Published) -> Result<Verdict, HookError> {
    let Published { event, client, message } = published;
    match message.topic.split_once('/').unwrap_or((&message.topic, "")) {
        ("sleep", millis) => {
            say(event, "started", client.as_ref().map_or("", |client| &client.id))
                .map_err(HookError::Failed)?;
            sleep(Duration::from_millis(millis.parse().unwrap_or(0)));
        }
        ("panic", _) => panic!("told to panic"),
        ("loop", _) => loop {
            std::hint::black_box(());
        },
        ("fail", why) => return Err(HookError::Failed(why.to_owned())),
        ("wrong", _) => return Ok(Verdict::Reject(1)),
        ("store", _) => {
            actions::run(event, "fake:pool", "on_message_publish", None).map_err(failed)?;
        }
        ("ops", many) => {
            for _ in 0..many.parse().unwrap_or(0) {
                actions::run(event, "fake:pool", "on_message_publish", None).map_err(failed)?;
            }
        }
        _ => {}
    }
    let seen = context::client(event).map(|client| client.id).unwrap_or_default();
    let same = client.is_some_and(|client| client.id == seen);
    let payload = format!("{place}/{length} {seen} {same}").into_bytes();
    Ok(Verdict::Replace(Message { payload, ..message }))
}

fn failed(error: actions::Error) -> HookError {
    HookError::Failed(format!("{error:?}"))
}

impl tick::Guest for Gather {
    /// Publishes `tick/NAME` with the number of ticks of this instance, and does what the configuration says.
    fn on_tick(event: u64) -> Result<(), String> {
        TICKS.set(TICKS.get() + 1);
        let mut said = TICKS.get().to_string();
        let topic = format!("tick/{}", config("name"));
        match config("tick").as_str() {
            "fail" => {
                say(event, &topic, &said)?;
                return Err("told to fail".into());
            }
            "panic" => {
                say(event, &topic, &said)?;
                panic!("told to panic");
            }
            "sleep" => {
                say(event, &topic, &said)?;
                sleep(Duration::from_millis(100));
                return Ok(());
            }
            "store" => {
                said = format!("{:?}", actions::run(event, "fake:pool", "on_message_publish", None));
            }
            "client" => said = format!("{:?} {}", context::client(event), context::tenant(event)),
            _ => {}
        }
        say(event, &topic, &said)
    }
}

fn say(event: u64, topic: &str, text: &str) -> Result<(), String> {
    let message = Message {
        id: String::new(),
        topic: topic.to_owned(),
        payload: text.as_bytes().to_vec(),
        qos: Qos::AtMostOnce,
        retain: false,
        dup: false,
        timestamp_ms: 0,
        user_properties: Vec::new(),
    };
    client_control::publish(event, &message).map_err(|error| format!("{error:?}"))
}
