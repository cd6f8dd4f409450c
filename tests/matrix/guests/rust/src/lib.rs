//! The guest of the matrix in Rust: does what the last level of the topic says. Built twice, for `wasm32-wasip2`
//! and for `wasm32-unknown-unknown`.

use std::hint::black_box;

use serde_json::{Map, Value};
use tidegate_sdk::{Client, Event, Message, Result, Verdict, actions, config, export, info};

export!(message_publish: handle);

fn handle(event: Event, _: Option<Client>, message: Message) -> Result<Verdict> {
    let payload = match message.topic.strip_prefix("matrix/") {
        Some("transform") => {
            let mut object: Map<String, Value> = message.json()?;
            object.insert("enriched".into(), true.into());
            return Ok(Verdict::Replace(message.with_json(&object)?));
        }
        Some("drop") => return Ok(Verdict::Drop),
        Some("store") => {
            actions::run(event, "fake:pool", "on_message_publish")?;
            return Ok(Verdict::Pass);
        }
        Some("config") => config::get("unit")?.ok_or("no config value unit")?.into_bytes(),
        Some("log") => {
            info!("a line of the guest");
            return Ok(Verdict::Pass);
        }
        Some("panic") => panic!("told to panic"),
        Some("loop") => loop {
            black_box(());
        },
        Some("memory") => {
            let mut kept = Vec::new();
            loop {
                kept.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        Some("bytes") => [&message.payload[..], b"!"].concat(),
        Some("large") => message.payload.iter().rev().copied().collect(),
        _ => return Ok(Verdict::Pass),
    };
    Ok(Verdict::Replace(message.with_payload(payload)))
}
