//! What the commands about buffers and dead letters do.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_event::StorageError;
use tidegate_store::buffers::{BufferReport, Retried, Which};

use super::files::Refusal;
use super::modules::Controls;

/// What waits for all connectors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Buffers {
    /// One for each connector.
    pub buffers: Vec<BufferReport>,
}

/// Look at what waits for one connector.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Show {
    /// `kind:pool`.
    pub connector: String,
    /// Dead letters, or operations in the buffer.
    pub what: What,
    /// At most so many.
    pub limit: usize,
}

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// Operations that the store has refused.
    Dead,
    /// Operations in the buffer.
    Buffered,
}

/// What waits for one connector.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// Objects with an `id`, oldest first.
    pub entries: Vec<Value>,
}

/// Run again, or remove, some of what waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chosen {
    /// `kind:pool`.
    pub connector: String,
    /// Dead letters, or operations in the buffer.
    pub what: What,
    /// Ids; none: all.
    pub ids: Vec<String>,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Dropped {
    /// How many.
    pub dropped: u64,
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NoSuchConnector(_) => Self::Unknown(error.to_string()),
            _ => Self::Conflict(error.to_string()),
        }
    }
}

impl Chosen {
    fn which(&self) -> Which {
        if self.ids.is_empty() { Which::All } else { Which::These(self.ids.iter().cloned().collect()) }
    }
}

impl Controls {
    pub(super) async fn buffers(&self) -> Result<Buffers, Refusal> {
        Ok(Buffers { buffers: self.stores()?.buffers().await? })
    }

    pub(super) async fn show_buffer(&self, show: Show) -> Result<Shown, Refusal> {
        let stores = self.stores()?;
        let entries = match show.what {
            What::Dead => stores.dead(&show.connector, show.limit).await?,
            What::Buffered => stores.buffered(&show.connector, show.limit).await?,
        };
        Ok(Shown { entries })
    }

    pub(super) async fn retry_buffer(&self, chosen: Chosen) -> Result<Retried, Refusal> {
        Ok(self.stores()?.retry(&chosen.connector, &chosen.which()).await?)
    }

    pub(super) async fn drop_buffer(&self, chosen: Chosen) -> Result<Dropped, Refusal> {
        let stores = self.stores()?;
        let dropped = match chosen.what {
            What::Dead => stores.drop_dead(&chosen.connector, chosen.which()).await?,
            What::Buffered => stores.drop_buffered(&chosen.connector, &chosen.which()).await?,
        };
        Ok(Dropped { dropped })
    }
}
