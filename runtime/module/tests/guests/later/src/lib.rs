//! A guest of WASI 0.3: waits for as many milliseconds as the payload says, then puts "later" into its place.

wit_bindgen::generate!({ path: "wit", world: "test:later/later", generate_all });

use exports::tidegate::hooks::message_publish::{Client, Guest, HookError, Message, Verdict};
use wasi::clocks::monotonic_clock::wait_for;

struct Later;

impl Guest for Later {
    async fn on_message_publish(_: u64, _: Option<Client>, message: Message) -> Result<Verdict, HookError> {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        let milliseconds: u64 = text.parse().map_err(|_| HookError::Failed("no number".to_owned()))?;
        wait_for(milliseconds * 1_000_000).await;
        Ok(Verdict::Replace(Message { payload: b"later".to_vec(), ..message }))
    }
}

export!(Later);
