//! `wasi:keyvalue@0.2.0-draft`: pages by number, unsigned counters.

use tidegate_event::StorageError;
use wasmtime::component::Resource;

use super::place::MAX_KEYS;
use super::{Bucket, Failure, invalid};
use crate::bindings::keyvalue_draft::wasi::keyvalue::store::{Error, Host, HostBucket, KeyResponse};
use crate::bindings::keyvalue_draft::wasi::keyvalue::{atomics, batch};
use crate::state::State;

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NoSuchConnector(_) => Self::NoSuchStore,
            StorageError::AccessDenied(_) => Self::AccessDenied,
            other => Self::Other(other.to_string()),
        }
    }
}

impl State {
    /// The key after which the page begins that `cursor` asks for: the number of keys before it.
    async fn before_page(
        &mut self,
        bucket: &Resource<Bucket>,
        cursor: u64,
    ) -> Result<Option<String>, Failure> {
        if let Some((given, last)) = &self.table.get(bucket)?.page
            && *given == cursor
        {
            return Ok(Some(last.clone()));
        }
        // A cursor of another handle: its page is found by counting, and every page on the way counts as a call.
        let (mut after, mut left) = (None, usize::try_from(cursor).unwrap_or(usize::MAX));
        while left > 0 {
            let mut page = self.place(bucket)?.keys(after.clone(), left.min(MAX_KEYS)).await?;
            left -= page.keys.len().min(left);
            after = page.keys.pop().or(after);
            if !page.more {
                break;
            }
        }
        Ok(after)
    }
}

impl Host for State {
    async fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Failure> {
        self.open_bucket(&identifier)
    }

    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<Error> {
        failure.refusal().map(Error::from)
    }
}

impl HostBucket for State {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.place(&bucket)?.get(key).await?)
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Failure> {
        Ok(self.place(&bucket)?.set(vec![(key, value)]).await?)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Failure> {
        Ok(self.place(&bucket)?.delete(vec![key]).await?)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Failure> {
        Ok(self.place(&bucket)?.exists(key).await?)
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Result<KeyResponse, Failure> {
        let before = cursor.unwrap_or_default();
        let after = self.before_page(&bucket, before).await?;
        let page = self.place(&bucket)?.keys(after, MAX_KEYS).await?;
        let given = before.saturating_add(page.keys.len() as u64);
        self.table.get_mut(&bucket)?.page = page.next().map(|last| (given, last.clone()));
        Ok(KeyResponse { cursor: page.more.then_some(given), keys: page.keys })
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for State {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Result<u64, Failure> {
        let delta = i64::try_from(delta).map_err(|_| invalid("counters have at most 63 bits"))?;
        let sum = self.place(&bucket)?.increment(key, delta).await?;
        Ok(u64::try_from(sum).map_err(|_| invalid("the value is below zero"))?)
    }
}

impl batch::Host for State {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Failure> {
        let found = self.place(&bucket)?.get_many(keys).await?;
        Ok(found.into_iter().map(|(key, value)| value.map(|value| (key, value))).collect())
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Failure> {
        Ok(self.place(&bucket)?.set(pairs).await?)
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<(), Failure> {
        Ok(self.place(&bucket)?.delete(keys).await?)
    }
}
