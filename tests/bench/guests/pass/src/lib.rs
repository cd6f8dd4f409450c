//! Lets every message pass.

use tidegate_sdk::{Client, Event, Message, Result, Verdict, export};

export!(message_publish: pass);

fn pass(_: Event, _: Option<Client>, _: Message) -> Result<Verdict> {
    Ok(Verdict::Pass)
}
