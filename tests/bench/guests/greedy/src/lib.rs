//! Takes what it can get: a message on `greedy/loop/...` is computed on for ever, one on `greedy/grow/...` fills the
//! memory. Others pass.

use tidegate_sdk::{Client, Event, Message, Result, Verdict, export};

export!(message_publish: take);

fn take(_: Event, _: Option<Client>, message: Message) -> Result<Verdict> {
    match message.topic.split('/').nth(1) {
        Some("loop") => loop {
            std::hint::black_box(());
        },
        Some("grow") => grow(),
        _ => Ok(Verdict::Pass),
    }
}

fn grow() -> ! {
    let mut taken = Vec::new();
    loop {
        // Written to, so that the pages exist.
        taken.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}
