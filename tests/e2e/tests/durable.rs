//! Sessions, retained messages and wills survive `kill -9`; a disk that is full or damaged is a refusal and no loss.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "durable/churner.rs"]
mod churner;
#[path = "durable/disk.rs"]
mod disk;
#[path = "durable/durability.rs"]
mod durability;
#[path = "durable/killed.rs"]
mod killed;
#[path = "durable/publisher.rs"]
mod publisher;
#[path = "durable/retainer.rs"]
mod retainer;
#[path = "durable/subscriber.rs"]
mod subscriber;
#[path = "durable/tally.rs"]
mod tally;
