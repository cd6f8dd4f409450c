//! Test guest: records every event in a table and obeys commands in topics. `README.md` lists them.

mod command;
mod commands;
mod flood;

use command::{Command, two_of, upper_case};
use tidegate_sdk::config::{self, Config};
use tidegate_sdk::keyvalue::Bucket;
use tidegate_sdk::{
    Client, Delivery, Event, HookError, Message, Qos, Result, Subscription, Verdict, actions, client_control,
    context, export, info, params, reason, sql,
};

export! {
    init: start,
    client_connected: connected,
    client_disconnected: disconnected,
    session_created: created,
    session_subscribed: subscribed,
    session_unsubscribed: unsubscribed,
    message_publish: published,
    message_deliver: delivered,
    message_acked: acked,
}

/// What `cmd/version` answers. Tests make another version by changing these bytes in the compiled file.
const VERSION: &str = "probe version 1";

/// [`VERSION`], kept in the file as it is written here.
fn version() -> &'static str {
    std::hint::black_box(VERSION)
}

const CREATE: &str = "CREATE TABLE IF NOT EXISTS probe_event \
     (hook TEXT NOT NULL, clientid TEXT, topic TEXT, detail TEXT NOT NULL)";
const RECORD: &str = "INSERT INTO probe_event (hook, clientid, topic, detail) VALUES (?, ?, ?, ?)";
const EXECUTE: &str = "INSERT INTO probe_event (hook, clientid, topic, detail) \
     VALUES ('execute', ${clientid}, ${topic}, CAST(${payload} AS TEXT))";
const REFUSED: &str = "INSERT INTO probe_no_such_table (topic) VALUES (${topic})";

fn start(config: Config) -> std::result::Result<(), String> {
    if let Some(reason) = config.get("fail_init") {
        return Err(reason.to_owned());
    }
    sql::exec(config.get("connector").unwrap_or("sqlite:default"), CREATE, params![])?;
    info!("{} started", version());
    Ok(())
}

fn connected(event: Event, client: Client) -> Result<Vec<Subscription>> {
    let username = client.username.as_deref().unwrap_or("-");
    let detail =
        format!("protocol={} username={username} tenant={}", client.protocol, context::tenant(event));
    record("client.connected", Some(&client), None, &detail)?;
    if config::get("auto_subscribe")?.as_deref() == Some("true") {
        return Ok(vec![Subscription { filter: format!("auto/{}", client.id), qos: Qos::AtLeastOnce }]);
    }
    Ok(Vec::new())
}

fn disconnected(_: Event, client: Client, reason: String) -> Result<()> {
    record("client.disconnected", Some(&client), None, &reason)
}

fn created(_: Event, client: Client) -> Result<()> {
    record("session.created", Some(&client), None, "")
}

fn subscribed(_: Event, client: Client, filter: String, qos: Qos) -> Result<()> {
    record("session.subscribed", Some(&client), Some(&filter), &format!("qos={}", qos.level()))
}

fn unsubscribed(_: Event, client: Client, filter: String) -> Result<()> {
    record("session.unsubscribed", Some(&client), Some(&filter), "")
}

fn published(event: Event, client: Option<Client>, message: Message) -> Result<Verdict> {
    record("message.publish", client.as_ref(), Some(&message.topic), &text(&message))?;
    let (command, rest) = Command::parse(&message.topic);
    let sender = || client.as_ref().map(|client| client.id.as_str()).ok_or("no client sent this message");
    match command {
        Command::Pass => {}
        Command::Drop => return Ok(Verdict::Drop),
        Command::Reject => return Ok(Verdict::Reject(reason::NOT_AUTHORIZED)),
        Command::Replace => return Ok(Verdict::Replace(upper_case(message))),
        Command::FanOut => return Ok(Verdict::FanOut(two_of(&message))),
        Command::Trap => panic!("the probe was told to panic by {}", message.topic),
        Command::Loop => loop {
            std::hint::black_box(());
        },
        Command::Allocate => allocate(),
        Command::Error => return Err(HookError::failed("the probe was told to fail")),
        Command::Retry => return Err(HookError::retry("the probe was told to ask for another try")),
        Command::Publish => {
            let topic = format!("published/{rest}");
            client_control::publish(event, &message.with_topic(topic))?;
        }
        Command::Echo => client_control::publish(event, &message)?,
        Command::Deliver => {
            let answer =
                Message::new(format!("delivered/{rest}"), message.payload.clone()).with_qos(message.qos);
            client_control::deliver(event, sender()?, &answer)?;
        }
        Command::Subscribe => {
            client_control::subscribe(event, sender()?, &format!("subscribed/{rest}"), Qos::AtLeastOnce)?;
        }
        Command::Unsubscribe => client_control::unsubscribe(event, sender()?, &format!("subscribed/{rest}"))?,
        Command::Disconnect => client_control::disconnect(event, sender()?)?,
        Command::Execute => actions::execute(event, &connector()?, &[EXECUTE])?,
        Command::ExecuteWait => actions::execute_wait(event, &connector()?, &[EXECUTE])?,
        Command::ExecuteRefused => actions::execute(event, &connector()?, &[REFUSED])?,
        Command::Run => actions::run(event, &connector()?, "on_message_store")?,
        Command::RunWait => actions::run_wait(event, &connector()?, "on_message_store")?,
        Command::Count => {
            let sum = Bucket::own()?.increment(rest, 1)?;
            return Ok(Verdict::Replace(message.with_payload(sum.to_string())));
        }
        Command::Redis => {
            let replies = commands::run(&message.payload)?;
            return Ok(Verdict::Replace(message.with_payload(replies)));
        }
        Command::Context => return Ok(Verdict::Replace(message.with_payload(facts(event)))),
        Command::Version => return Ok(Verdict::Replace(message.with_payload(version()))),
        Command::FloodLog => flood::log(),
        Command::FloodStorage => flood::storage(client.as_ref(), &message.topic)?,
        Command::FloodRedis => commands::flood(rest)?,
        Command::FloodPublish => flood::publish(event, &message)?,
    }
    Ok(Verdict::Pass)
}

fn delivered(_: Event, client: Client, message: Message) -> Result<Delivery> {
    record("message.deliver", Some(&client), Some(&message.topic), &text(&message))?;
    Ok(if message.topic.starts_with("deliver/drop/") {
        Delivery::Drop
    } else if message.topic.starts_with("deliver/replace/") {
        Delivery::Replace(message.with_payload("replaced"))
    } else {
        Delivery::Pass
    })
}

fn acked(_: Event, client: Client, message: Message) -> Result<()> {
    record("message.acked", Some(&client), Some(&message.topic), &text(&message))
}

/// Writes a row and waits for the database, so that a test finds it when the broker has gone on.
fn record(hook: &str, client: Option<&Client>, topic: Option<&str>, detail: &str) -> Result<()> {
    sql::exec(&connector()?, RECORD, params![hook, client.map(|client| client.id.as_str()), topic, detail])?;
    Ok(())
}

fn connector() -> Result<String> {
    Ok(config::get("connector")?.unwrap_or_else(|| "sqlite:default".to_owned()))
}

/// What the context says of the event, one `name=value` a line.
fn facts(event: Event) -> String {
    let properties =
        ["content-type", "response-topic", "payload-format-indicator", "message-expiry-interval"]
            .map(|name| {
                format!("{name}={}", context::message_property(event, name).as_deref().unwrap_or("-"))
            })
            .join("\n");
    let correlation = context::correlation_data(event);
    let correlation = correlation.as_deref().map_or("-".into(), String::from_utf8_lossy);
    let client = context::client(event).map_or_else(|| "-".to_owned(), |client| client.id);
    let (tenant, node) = (context::tenant(event), context::node());
    format!("{properties}\ncorrelation-data={correlation}\nclient={client}\ntenant={tenant}\nnode={node}")
}

fn text(message: &Message) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&message.payload)
}

fn allocate() -> ! {
    let mut taken = Vec::new();
    loop {
        // Written to, so that the pages exist.
        taken.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}
