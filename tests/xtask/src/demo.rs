//! `cargo xtask demo`: a message through a module into a database, then a new version of the module while
//! messages flow.
//!
//! Everything here happens through the released binary and real MQTT connections: the runtime is a child
//! process, so are the publisher (`tidegate pub`) and the subscriber (`tidegate sub`).

mod clients;
mod site;
mod source;
mod verdict;

use std::time::{Duration, Instant};

use crate::process::{Result, run, workspace_cargo};
use crate::screen::{self, faint, field, heading, strong};
use clients::{Publisher, Subscriber};
use site::Site;
use source::Source;
use verdict::Verdict;

/// Between two messages of the steady publisher.
const PAUSE: Duration = Duration::from_millis(10);

/// How long anything may take before the demo gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The name that the edited module gives the field.
const NEW_FIELD: &str = "temperature_f";

/// Runs the demo.
///
/// # Errors
/// Something does not build or start, or what was shown is not what should have happened.
pub(crate) fn main(arguments: &[&str]) -> Result<()> {
    let once = match arguments {
        [] => false,
        ["--once"] => true,
        other => return Err(format!("demo does not know {other:?}; see `cargo xtask help`")),
    };
    heading("1/5  Building the runtime and the example guests");
    println!(
        "{}",
        faint("  The first time takes a while: wasmtime and SQLite are compiled. Later it is seconds.")
    );
    // A build of the program alone asks for other features of what it uses than one of all tests: after that, most of
    // it would be compiled twice.
    if std::env::var_os("TIDEGATE_BIN").is_none() {
        run(workspace_cargo()?.args(["build", "--release", "-p", "tidegate"]))?;
    }
    let source = Source::copy()?;
    let module = source.build()?;

    heading("2/5  Starting the runtime");
    let mut site = Site::start(&module)?;
    field("directory", &site.directory().display().to_string());
    field("MQTT", &format!("127.0.0.1:{}", site.port()));
    field("module", "modules/fahrenheit.wasm");
    field("hook lines", "conf.d/demo.conf (the embedded SQLite connector `sqlite:default`)");

    let mut verdict = Verdict::default();
    one_message(&site, &mut verdict)?;
    swap(&site, &source, &mut verdict)?;
    drop(source);

    heading("5/5  What happened");
    verdict.print();
    if once {
        site.stop()?;
        return verdict.result();
    }
    verdict.result()?;
    keep_running(&mut site)
}

/// Sends a few readings and shows each as it was sent, as a subscriber got it, and as it is stored.
fn one_message(site: &Site, verdict: &mut Verdict) -> Result<()> {
    heading("3/5  Messages from sensors");
    let mut subscriber = Subscriber::start(site, "dashboard", "sensors/#")?;
    for (sensor, celsius, fahrenheit) in
        [("kitchen", "21.5", "70.7"), ("cellar", "8", "46.4"), ("freezer", "-18", "-0.4")]
    {
        let topic = format!("sensors/{sensor}");
        let sent = format!(r#"{{"celsius":{celsius}}}"#);
        clients::publish_one(site, sensor, &topic, &sent)?;
        let got = subscriber.next(PATIENCE).ok_or("the subscriber got nothing")?;
        let rows = site.sql(&format!(
            "select id, topic, sender, qos, cast(payload as text), arrived from mqtt_msg where topic = '{topic}'"
        ))?;
        println!("  {}", strong(&topic));
        field("  sent", &sent);
        field("  received", &screen::good(&got.payload));
        field("  stored", &rows.first().map_or_else(|| screen::bad("nothing"), |row| row.join(" | ")));
        let expected = format!(r#"{{"celsius":{celsius},"fahrenheit":{fahrenheit}}}"#);
        verdict
            .check(&format!("{topic}: the subscriber gets the transformed message"), got.payload == expected);
        let stored = rows.len() == 1 && rows[0].get(4) == Some(&expected);
        verdict.check(&format!("{topic}: the database has it, transformed"), stored);
    }
    let client =
        site.sql("select clientid, state, online_at from mqtt_client where clientid = 'dashboard'")?;
    field("client state", &client.first().map_or_else(|| screen::bad("nothing"), |row| row.join(" | ")));
    verdict.check("the connected client is in the database", client.len() == 1 && client[0][1] == "1");
    Ok(())
}

/// Edits, builds and saves the module while a publisher goes on, and looks at every message.
fn swap(site: &Site, source: &Source, verdict: &mut Verdict) -> Result<()> {
    heading("4/5  Changing the module while messages flow");
    let mut subscriber = Subscriber::start(site, "counter", "meter")?;
    let publisher = Publisher::start(site, "meter", PAUSE)?;
    let before = subscriber.next(PATIENCE).ok_or("the subscriber got nothing")?;
    field("before", &before.payload);
    source.edit(NEW_FIELD)?;
    field("edited", &source.file().display().to_string());
    field("  -", &screen::bad(source::OLD_LINE));
    field("  +", &screen::good(&source::line(NEW_FIELD)));
    let module = source.build()?;
    let saved = Instant::now();
    site.save_module(&module)?;
    let mut all = vec![before];
    loop {
        let message = subscriber.next(PATIENCE).ok_or("the new version never served")?;
        let new = message.payload.contains(NEW_FIELD);
        all.push(message);
        if new {
            break;
        }
    }
    let swap = saved.elapsed();
    field("after", &screen::good(all.last().map_or("", |m| &m.payload)));
    // Some more through the new version, then the publisher ends: it has waited for every acknowledgement.
    for _ in 0..100 {
        all.push(subscriber.next(PATIENCE).ok_or("the subscriber got nothing more")?);
    }
    let sent = publisher.stop()?;
    while all.len() < sent {
        match subscriber.next(Duration::from_secs(5)) {
            Some(message) => all.push(message),
            None => break,
        }
    }
    let tally = verdict::tally(&all, NEW_FIELD);
    let stored: usize = site.count("select count(*) from mqtt_msg where topic = 'meter'")?;
    field("sent", &format!("{sent} QoS 1 messages, each acknowledged after it was stored"));
    field("received", &format!("{} by the old version, {} by the new", tally.old, tally.new));
    field("lost", &(sent - tally.distinct.min(sent)).to_string());
    field("reordered", &tally.reordered.to_string());
    field("stored", &stored.to_string());
    field("swap", &format!("{} ms from the saved file to the first message", swap.as_millis()));
    if let Some(line) = site.log_line("serves after") {
        field("log", &faint(&line));
    }
    verdict.check("no message was lost", tally.distinct == sent && all.len() == sent);
    verdict.check("no message was reordered", tally.reordered == 0);
    verdict.check("every message went through exactly one version", tally.old + tally.new == all.len());
    verdict.check("after the first message of the new version none went through the old", !tally.back);
    verdict.check("all of them are in the database", stored == sent);
    Ok(())
}

/// Leaves it to the person until Ctrl-C.
fn keep_running(site: &mut Site) -> Result<()> {
    let (port, directory) = (site.port(), site.directory().display().to_string());
    println!("\n{}", strong("It keeps running until Ctrl-C. Try, in another terminal:"));
    println!("  mosquitto_sub -p {port} -t '#' -v");
    println!("  mosquitto_pub -p {port} -t sensors/attic -q 1 -m '{{\"celsius\":30}}'");
    println!("  sqlite3 {directory}/data/tidegate.db 'select * from mqtt_msg order by id desc limit 5'");
    println!("  curl http://127.0.0.1:{}/metrics", site.api());
    println!("{}", faint(&format!("  The directory stays: {directory}")));
    site.wait()
}
