//! Does what a message's topic says: every answer, every import, every way to fail.

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
    world: "tidegate:worlds/full",
    generate_all,
});

use std::cell::Cell;

use exports::tidegate::{hooks, module};
use tidegate::broker::types::{Client, Message, Qos};
use tidegate::broker::{client_control, context};
use tidegate::hooks::types::{Access, Decision, Delivery, Grant, HookError, Subscription, Verdict};
use tidegate::storage::types::Value;
use tidegate::storage::{actions, redis, sql};
use wasi::logging::logging::{self, Level};

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
    static LAST_EVENT: Cell<u64> = const { Cell::new(0) };
}

struct Probe;

export!(Probe);

fn said(original: Message, text: impl Into<String>) -> Result<Verdict, HookError> {
    Ok(Verdict::Replace(Message { payload: text.into().into_bytes(), ..original }))
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

#[inline(never)]
fn endless() -> ! {
    let mut x = 0_u64;
    loop {
        x = std::hint::black_box(x.wrapping_mul(31).wrapping_add(7));
    }
}

unsafe extern "C" {
    /// wasi-libc's binding of `wasi:clocks/monotonic-clock.subscribe-duration`: a pollable's handle.
    fn monotonic_clock_subscribe_duration(nanoseconds: u64) -> i32;
}

#[inline(never)]
#[expect(unconditional_recursion)]
fn deeper(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 16]);
    deeper(depth + 1) + frame[0]
}

fn options(message: Option<Message>) -> actions::Options {
    actions::Options {
        message,
        expired_time: Some(60),
        max_returned_count: Some(5),
        time_range_ms: None,
        payload_format: Some("mongo_json".into()),
    }
}

impl module::init::Guest for Probe {
    fn init(config: Vec<(String, String)>) -> Result<(), String> {
        for (key, value) in config {
            match key.as_str() {
                "init" if value == "fail" => return Err("told to".into()),
                "init" if value == "panic" => panic!("init was told to panic"),
                "init" if value == "loop" => endless(),
                "init" if value == "storage" => {
                    let refused = actions::run(0, "fake:pool", "on_message_publish", None).unwrap_err();
                    return Err(format!("{refused:?}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl hooks::message_publish::Guest for Probe {
    fn on_message_publish(
        event: u64,
        client: Option<Client>,
        message: Message,
    ) -> Result<Verdict, HookError> {
        let calls = CALLS.get() + 1;
        CALLS.set(calls);
        let last = LAST_EVENT.replace(event);
        let topic = message.topic.clone();
        let (command, argument) = topic.split_once('/').unwrap_or((&topic, ""));
        match command {
            "pass" => Ok(Verdict::Pass),
            "drop" => Ok(Verdict::Drop),
            "reject" => Ok(Verdict::Reject(argument.parse().unwrap_or(0x87))),
            "replace" => Ok(Verdict::Replace(Message {
                topic: "replaced".into(),
                qos: Qos::AtMostOnce,
                user_properties: vec![("made".into(), "here".into())],
                ..message
            })),
            "fanout" => Ok(Verdict::FanOut(
                (0..3).map(|n| Message { topic: format!("out/{n}"), ..message.clone() }).collect(),
            )),
            "bad-topic" => Ok(Verdict::Replace(Message { topic: "a/#".into(), ..message })),
            "retry" => Err(HookError::Retry("not now".into())),
            "failed" => Err(HookError::Failed("never".into())),
            "recover" if calls.is_multiple_of(3) => Ok(Verdict::Pass),
            "recover" => Err(HookError::Retry(format!("call {calls}"))),
            "panic" => panic!("told to panic by {argument}"),
            "exit" => std::process::exit(7),
            "loop" => endless(),
            "recurse" => said(message, deeper(0).to_string()),
            "grow" => {
                let mut all = Vec::new();
                loop {
                    all.push(std::hint::black_box(vec![1_u8; 1 << 20]));
                }
            }
            "grow-kindly" => {
                let mut block = Vec::<u8>::new();
                let granted = block.try_reserve_exact(1 << 30).is_ok();
                said(message, granted.to_string())
            }
            "busy" => {
                // Computes for the given time.
                let start = std::time::Instant::now();
                let long = std::time::Duration::from_millis(argument.parse().unwrap_or(0));
                while start.elapsed() < long {}
                Ok(Verdict::Pass)
            }
            "sleep" => {
                std::thread::sleep(std::time::Duration::from_millis(argument.parse().unwrap_or(0)));
                Ok(Verdict::Pass)
            }
            "count" => said(message, calls.to_string()),
            "sees" => {
                let who = client.map(|c| format!("{} {:?} {} {}", c.id, c.username, c.peer, c.protocol));
                let seen = format!(
                    "{} {} {:?} {} {} {} {:?} from {who:?}",
                    message.id,
                    text(&message),
                    message.qos,
                    message.retain,
                    message.dup,
                    message.timestamp_ms,
                    message.user_properties,
                );
                said(message, seen)
            }
            "config" => {
                let value = wasi::config::store::get(argument).unwrap();
                let all = wasi::config::store::get_all().unwrap().len();
                said(message, format!("{value:?} of {all}"))
            }
            "log" => {
                for level in
                    [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical]
                {
                    logging::log(level, "probe", &format!("{level:?}: {}", text(&message)));
                }
                println!("on standard output: {}", text(&message));
                eprintln!("on standard error: {}", text(&message));
                Ok(Verdict::Pass)
            }
            "spam" => {
                for _ in 0..1_000 {
                    logging::log(Level::Info, "", &"x".repeat(1_000));
                }
                Ok(Verdict::Pass)
            }
            "context" => {
                let facts = format!(
                    "{:?} {:?} {:?} {:?} {} {} {:?}",
                    context::message_property(event, "content-type"),
                    context::message_property(event, "message-expiry-interval"),
                    context::message_property(event, "no-such"),
                    context::correlation_data(event),
                    context::tenant(event),
                    context::node(),
                    context::client(event).map(|c| c.id),
                );
                said(message, facts)
            }
            "stale" => {
                let mut facts = Vec::new();
                for event in [0, last, event + 1] {
                    facts.push(format!("{:?}", actions::run(event, "fake:pool", "f", None)));
                    facts.push(format!("{:?}", client_control::disconnect(event, "c")));
                    facts.push(format!("{:?}", context::client(event).is_some()));
                }
                said(message, facts.join("; "))
            }
            "run" => {
                said(message, format!("{:?}", actions::run(event, argument, "on_message_publish", None)))
            }
            "run-with" => {
                let mut other = message.clone();
                other.payload = b"other".to_vec();
                if argument == "new" {
                    other.id = String::new();
                }
                let done =
                    actions::run(event, "fake:pool", "on_message_publish", Some(&options(Some(other))));
                said(message, format!("{done:?}"))
            }
            "run-wait" => {
                said(message, format!("{:?}", actions::run_wait(event, argument, "on_message_publish", None)))
            }
            "execute" => {
                let lines = ["insert 1".to_owned(), "insert 2".to_owned()];
                said(message, format!("{:?}", actions::execute(event, "fake:pool", &lines)))
            }
            "execute-wait" => {
                let lines = ["insert 1".to_owned()];
                said(message, format!("{:?}", actions::execute_wait(event, "fake:pool", &lines)))
            }
            "run-many" => {
                let many: u32 = argument.parse().unwrap_or(0);
                let done = (0..many).filter(|_| actions::run(event, "fake:pool", "f", None).is_ok()).count();
                let last = actions::run(event, "fake:pool", "f", None);
                said(message, format!("{done} {last:?}"))
            }
            "publish-many" => {
                let many: u32 = argument.parse().unwrap_or(0);
                let made = Message { topic: "made".into(), ..message.clone() };
                let done = (0..many).filter(|_| client_control::publish(event, &made).is_ok()).count();
                let last = client_control::deliver(event, "c2", &made);
                said(message, format!("{done} {last:?}"))
            }
            "handles" => {
                let many: u32 = argument.parse().unwrap_or(0);
                for _ in 0..many {
                    // SAFETY: it takes a number and gives one; the handle is kept for good.
                    unsafe { monotonic_clock_subscribe_duration(u64::MAX) };
                }
                Ok(Verdict::Pass)
            }
            "sql" => {
                let params = [Value::Int64(1), Value::Text("é".into()), Value::Null];
                let rows = sql::query("fake:pool", "select ?", &params);
                let one = sql::exec("fake:pool", "insert ?", &params);
                let many = sql::exec_batch("fake:pool", "insert ?", &[params.to_vec(), params.to_vec()]);
                said(message, format!("{rows:?} {one:?} {many:?}"))
            }
            "redis" => {
                let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
                let one = redis::command(argument, &words(&[b"GET", b"\x00\xff"]));
                let refused = redis::command(argument, &words(&[b"FAIL"]));
                let many = redis::pipeline(argument, &[words(&[b"NEST"]), words(&[b"FAIL"])]);
                said(message, format!("{one:?} {refused:?} {many:?}"))
            }
            "redis-many" => {
                let many = vec![vec![b"GET".to_vec()]; argument.parse().unwrap_or(0)];
                said(message, format!("{:?}", redis::pipeline("fake:pool", &many).map(|all| all.len())))
            }
            "redis-bytes" => {
                let word = vec![0; argument.parse().unwrap_or(0)];
                said(message, format!("{:?}", redis::command("fake:pool", &[b"GET".to_vec(), word])))
            }
            "redis-ops" => {
                let get = [b"GET".to_vec()];
                let done = (0..5).filter(|_| redis::command("fake:pool", &get).is_ok()).count();
                let last = redis::pipeline("fake:pool", &[get.to_vec()]);
                said(message, format!("{done} {last:?}"))
            }
            "control" => {
                let made = Message { topic: argument.to_owned(), ..message.clone() };
                let facts = [
                    format!("{:?}", client_control::publish(event, &made)),
                    format!("{:?}", client_control::deliver(event, "c2", &made)),
                    format!("{:?}", client_control::subscribe(event, "c2", "a/+", Qos::AtLeastOnce)),
                    format!("{:?}", client_control::subscribe(event, "c2", "a/#/b", Qos::AtLeastOnce)),
                    format!("{:?}", client_control::unsubscribe(event, "c2", "a/+")),
                    format!("{:?}", client_control::disconnect(event, "nobody")),
                ];
                said(message, facts.join("; "))
            }
            "system" => {
                let files = std::fs::read_dir("/").is_ok();
                let network = std::net::TcpStream::connect("127.0.0.1:1").map_err(|e| e.kind());
                let environment = std::env::vars().count();
                said(message, format!("{files} {:?} {environment}", network.err()))
            }
            _ => Err(HookError::Failed(format!("no command {command}"))),
        }
    }
}

impl hooks::message_deliver::Guest for Probe {
    fn on_message_deliver(_: u64, client: Client, message: Message) -> Result<Delivery, HookError> {
        match message.topic.as_str() {
            "drop" => Ok(Delivery::Drop),
            "replace" => Ok(Delivery::Replace(Message {
                topic: "replaced".into(),
                payload: client.id.into_bytes(),
                retain: false,
                qos: Qos::AtMostOnce,
                ..message
            })),
            "failed" => Err(HookError::Failed("never".into())),
            _ => Ok(Delivery::Pass),
        }
    }
}

impl hooks::message_acked::Guest for Probe {
    fn on_message_acked(_: u64, client: Client, message: Message) -> Result<(), HookError> {
        Err(HookError::Failed(format!("acked {} {}", client.id, message.topic)))
    }
}

impl hooks::client_connected::Guest for Probe {
    fn on_client_connected(_: u64, client: Client) -> Result<Vec<Subscription>, HookError> {
        let filter = if client.id == "bad" { "a/#/b".to_owned() } else { format!("inbox/{}", client.id) };
        Ok(vec![Subscription { filter, qos: Qos::ExactlyOnce }])
    }
}

impl hooks::client_disconnected::Guest for Probe {
    fn on_client_disconnected(_: u64, client: Client, reason: String) -> Result<(), HookError> {
        Err(HookError::Failed(format!("disconnected {} {reason}", client.id)))
    }
}

impl hooks::session_created::Guest for Probe {
    fn on_session_created(event: u64, client: Client) -> Result<(), HookError> {
        let refused = actions::run(
            event,
            "fake:pool",
            "f",
            Some(&options(Some(Message {
                id: String::new(),
                topic: "t".into(),
                payload: Vec::new(),
                qos: Qos::AtMostOnce,
                retain: false,
                dup: false,
                timestamp_ms: 0,
                user_properties: Vec::new(),
            }))),
        );
        Err(HookError::Failed(format!("created {} {refused:?}", client.id)))
    }
}

impl hooks::session_subscribed::Guest for Probe {
    fn on_session_subscribed(_: u64, client: Client, filter: String, qos: Qos) -> Result<(), HookError> {
        Err(HookError::Failed(format!("subscribed {} {filter} {qos:?}", client.id)))
    }
}

impl hooks::session_unsubscribed::Guest for Probe {
    fn on_session_unsubscribed(_: u64, client: Client, filter: String) -> Result<(), HookError> {
        Err(HookError::Failed(format!("unsubscribed {} {filter}", client.id)))
    }
}

impl hooks::client_authenticate::Guest for Probe {
    fn on_client_authenticate(
        _: u64,
        client: Client,
        password: Option<Vec<u8>>,
    ) -> Result<Decision, HookError> {
        match password.as_deref() {
            None => Ok(Decision::Ignore),
            Some([code]) => Ok(Decision::Refuse(*code)),
            Some(b"good") => Ok(Decision::Allow),
            Some(password) if password.starts_with(b"loop") => endless(),
            Some(other) => Err(HookError::Failed(format!("authenticate {} {other:?}", client.id))),
        }
    }
}

impl hooks::client_authorize::Guest for Probe {
    fn on_client_authorize(
        _: u64,
        client: Client,
        access: Access,
        topic: String,
        qos: Qos,
        retain: bool,
    ) -> Result<Decision, HookError> {
        match topic.split_once('/') {
            Some(("ignore", _)) => Ok(Decision::Ignore),
            Some(("allow", _)) => Ok(Decision::Allow),
            Some(("refuse", code)) => Ok(Decision::Refuse(code.parse().unwrap_or(0x87))),
            _ => {
                Err(HookError::Failed(format!("authorize {} {access:?} {topic} {qos:?} {retain}", client.id)))
            }
        }
    }
}

impl hooks::client_subscribe::Guest for Probe {
    fn on_client_subscribe(_: u64, client: Client, filter: String, qos: Qos) -> Result<Grant, HookError> {
        match filter.split_once('/') {
            Some(("ignore", _)) => Ok(Grant::Ignore),
            Some(("allow", _)) => Ok(Grant::Allow),
            Some(("refuse", code)) => Ok(Grant::Refuse(code.parse().unwrap_or(0x87))),
            // With `!` for what the filter asked for cannot have where it stands.
            Some(("change", filter)) => {
                Ok(Grant::Change(Subscription { filter: filter.replace('!', "#"), qos: Qos::AtMostOnce }))
            }
            _ => Err(HookError::Failed(format!("subscribe {} {filter} {qos:?}", client.id))),
        }
    }
}
