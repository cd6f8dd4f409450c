//! Real servers on 127.0.0.1, for tests: started in folders of their own, waited for, stopped by process.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`redis`] | Redis: alone, under sentinels, as a cluster |
//! | [`server`] | one running server, whatever it serves: kill, pause, stop, start again |
//! | [`proxy`] | a TCP connection that can be delayed, cut, or swallow everything |
//! | [`kind`] | what the tests share: a row for each kind, and the variable that tells tests where it is |
//! | [`bed`] | all of them together, for a test run or, kept over runs, for people |
//! | [`place`], [`port`], [`process`] | folders, free ports, processes that are surely the ones meant |
//!
//! Another server is one file like `redis/mod.rs` and one row in [`kind::KINDS`].
//!
//! A test that kills or changes a server starts its own. Other tests take the shared one from the variable, see
//! [`kind::address`].

pub mod bed;
pub mod kind;
pub mod place;
pub mod port;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod server;

mod error;

pub use error::{Error, Result};
pub use place::Place;
pub use server::Server;
