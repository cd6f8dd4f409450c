//! Which server is the master now: sentinels know.

use redis::aio::ConnectionLike as _;
use redis::{AsyncConnectionConfig, cmd};

use super::error::unanswered;
use super::link::client;
use super::settings::Settings;
use crate::backend::BackendError;

/// Asks one sentinel after the other for the address of master `name`.
///
/// # Errors
/// What the last one said, when none could tell.
pub(super) async fn master(settings: &Settings, name: &str) -> Result<(String, u16), BackendError> {
    let mut last = BackendError::Unavailable("no sentinels are configured".into());
    for address in &settings.servers {
        match ask(settings, address, name).await {
            Ok(master) => return Ok(master),
            Err(error) => {
                last = BackendError::Unavailable(format!("sentinel {}:{}: {error}", address.0, address.1));
            }
        }
    }
    Err(last)
}

async fn ask(
    settings: &Settings,
    address: &(String, u16),
    name: &str,
) -> Result<(String, u16), BackendError> {
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
    match redis::from_redis_value::<Option<(String, u16)>>(reply) {
        Ok(Some(master)) => Ok(master),
        Ok(None) => Err(BackendError::Unavailable(format!("it knows no master {name:?}"))),
        Err(error) => Err(BackendError::Unavailable(format!("it does not answer as a sentinel: {error}"))),
    }
}
