//! Which server is the master now: sentinels know.

use futures_util::future::join_all;
use redis::aio::ConnectionLike as _;
use redis::{AsyncConnectionConfig, cmd};

use super::error::{answer, unanswered};
use super::link::{Address, client};
use super::settings::Settings;
use crate::backend::BackendError;

/// The master that sentinels name, when more of them name another one than `known`.
pub(super) async fn other_than(settings: &Settings, name: &str, known: &Address) -> Option<Address> {
    let asked = settings.servers.iter().map(|address| ask(settings, address, name));
    let (same, others): (Vec<Address>, Vec<Address>) =
        join_all(asked).await.into_iter().flatten().partition(|named| named == known);
    others.into_iter().nth(same.len())
}

/// Asks the sentinel at `address` for the address of master `name`.
///
/// # Errors
/// It does not know, or does not answer.
pub(super) async fn ask(settings: &Settings, address: &Address, name: &str) -> Result<Address, BackendError> {
    let client = client(settings, settings.sentinel_info(address)?)?;
    // Another sentinel may know: none gets all the time there is.
    let limit = settings.connect_timeout / 2;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(Some(limit));
    let connection = client.get_multiplexed_async_connection_with_config(&config).await;
    let mut connection = connection.map_err(|error| unanswered(&error))?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let reply = connection.req_packed_command(&question).await.map_err(|error| unanswered(&error))?;
    let reply = answer(reply)
        .map_err(|fault| BackendError::Unavailable(format!("{} {}", fault.code, fault.message)))?;
    match redis::from_redis_value::<Option<Address>>(reply) {
        Ok(Some(master)) => Ok(master),
        Ok(None) => Err(BackendError::Unavailable(format!("it knows no master {name:?}"))),
        Err(error) => Err(BackendError::Unavailable(format!("it does not answer as a sentinel: {error}"))),
    }
}
