//! `wasi:keyvalue@0.2.0-draft`: pages by number, unsigned counters.

use tidegate_event::StorageError;
use wasmtime::component::Resource;

use super::{Bucket, MAX_KEYS, Refusal, invalid};
use crate::bindings::keyvalue_draft::wasi::keyvalue::store::{Error, Host, HostBucket, KeyResponse};
use crate::bindings::keyvalue_draft::wasi::keyvalue::{atomics, batch};
use crate::state::State;

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error.into() {
            Refusal::NoSuchStore => Self::NoSuchStore,
            Refusal::AccessDenied => Self::AccessDenied,
            Refusal::Other(text) => Self::Other(text),
        }
    }
}

impl State {
    /// The key after which the page begins that `cursor` asks for: the number of keys before it.
    async fn before_page(
        &mut self,
        bucket: &Resource<Bucket>,
        cursor: u64,
    ) -> wasmtime::Result<Result<Option<String>, StorageError>> {
        if let Some((given, last)) = &self.table.get(bucket)?.page
            && *given == cursor
        {
            return Ok(Ok(Some(last.clone())));
        }
        // A cursor of another handle: its page is found by counting, and every page on the way counts as a call.
        let (mut after, mut left) = (None, usize::try_from(cursor).unwrap_or(usize::MAX));
        while left > 0 {
            let wanted = left.min(MAX_KEYS);
            let place = match self.place(bucket)? {
                Ok(place) => place,
                Err(refused) => return Ok(Err(refused)),
            };
            match place.store.keys(&place.space, after.clone(), wanted).await {
                Ok(mut keys) => {
                    let short = keys.len() < wanted;
                    left -= keys.len().min(left);
                    after = keys.pop().or(after);
                    if short {
                        break;
                    }
                }
                Err(refused) => return Ok(Err(refused)),
            }
        }
        Ok(Ok(after))
    }
}

impl Host for State {
    async fn open(&mut self, identifier: String) -> wasmtime::Result<Result<Resource<Bucket>, Error>> {
        match self.open_bucket(&identifier) {
            Ok(bucket) => Ok(Ok(self.table.push(bucket)?)),
            Err(refused) => Ok(Err(refused.into())),
        }
    }
}

impl HostBucket for State {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        Ok(self.get_value(&bucket, key).await?.map_err(Error::from))
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.set_values(&bucket, vec![(key, value)]).await?.map_err(Error::from))
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.delete_values(&bucket, vec![key]).await?.map_err(Error::from))
    }

    async fn exists(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<bool, Error>> {
        Ok(self.key_exists(&bucket, key).await?.map_err(Error::from))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> wasmtime::Result<Result<KeyResponse, Error>> {
        let before = cursor.unwrap_or_default();
        let after = match self.before_page(&bucket, before).await? {
            Ok(after) => after,
            Err(refused) => return Ok(Err(refused.into())),
        };
        let (keys, more) = match self.page_of_keys(&bucket, after).await? {
            Ok(page) => page,
            Err(refused) => return Ok(Err(refused.into())),
        };
        let given = before.saturating_add(keys.len() as u64);
        let cursor = more.then_some(given);
        self.table.get_mut(&bucket)?.page = keys.last().filter(|_| more).map(|last| (given, last.clone()));
        Ok(Ok(KeyResponse { keys, cursor }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for State {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let Ok(delta) = i64::try_from(delta) else {
            return Ok(Err(invalid("counters have at most 63 bits").into()));
        };
        let sum = self.add_to(&bucket, key, delta).await?;
        let sum = sum.and_then(|sum| u64::try_from(sum).map_err(|_| invalid("the value is below zero")));
        Ok(sum.map_err(Error::from))
    }
}

impl batch::Host for State {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, Error>> {
        let found = self.get_values(&bucket, keys).await?;
        let pair = |(key, value): (String, Option<Vec<u8>>)| value.map(|value| (key, value));
        Ok(found.map(|found| found.into_iter().map(pair).collect()).map_err(Error::from))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.set_values(&bucket, key_values).await?.map_err(Error::from))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.delete_values(&bucket, keys).await?.map_err(Error::from))
    }
}
