//! The host functions of the contract, an interface a file, and the linker that offers them.

mod actions;
mod client_control;
mod config;
mod context;
pub(crate) mod http;
pub(crate) mod keyvalue;
mod logging;
mod offered;
mod raw;
mod redis;
mod sql;

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use crate::bindings::{keyvalue_draft, keyvalue_draft2, tidegate, wasi};
use crate::state::State;
use tidegate_encode::Lane;

pub(crate) use offered::{asks_about_events, explain, unknown};

/// The linker with everything a guest of `lane` may import: the contract, WASI 0.2 with key-value pairs and HTTP, and WASI
/// 0.3 where the engine can.
///
/// # Errors
/// wasmtime's, when two interfaces have one name: a mistake in this function.
pub(crate) fn linker(engine: &Engine, lane: Lane) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let link = &mut linker;
    wasmtime_wasi::p2::add_to_linker_async(link)?;
    if lane == Lane::Concurrent {
        wasmtime_wasi::p3::add_to_linker(link)?;
    }
    tidegate::broker::context::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
    tidegate::broker::client_control::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
    tidegate::storage::actions::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
    tidegate::storage::sql::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
    tidegate::storage::redis::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
    wasi::logging::logging::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
    wasi::config::store::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
    raw::add_to_linker(link)?;
    // The draft before the release candidate has the same functions; guests in the field import it.
    wasi::config::store::add_to_linker_instance::<_, HasSelf<State>>(
        &mut link.instance(offered::CONFIG_DRAFT)?,
        |state| state,
    )?;
    {
        use keyvalue_draft::wasi::keyvalue::{atomics, batch, store};
        store::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
        atomics::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
        batch::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
    }
    {
        use keyvalue_draft2::wasi::keyvalue::{atomics, batch, store};
        store::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
        atomics::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
        batch::add_to_linker::<_, HasSelf<State>>(link, |state| state)?;
    }
    http::add_to_linker(link)?;
    Ok(linker)
}
