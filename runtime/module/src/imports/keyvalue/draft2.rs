//! `wasi:keyvalue@0.2.0-draft2`: pages by key, signed counters, compare-and-swap.

use tidegate_event::{StorageError, Swap};
use wasmtime::component::Resource;

use super::{Bucket, Cas, Refusal};
use crate::bindings::keyvalue_draft2::wasi::keyvalue::atomics::{self, CasError, HostCas};
use crate::bindings::keyvalue_draft2::wasi::keyvalue::batch;
use crate::bindings::keyvalue_draft2::wasi::keyvalue::store::{Error, Host, HostBucket, KeyResponse};
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
        cursor: Option<String>,
    ) -> wasmtime::Result<Result<KeyResponse, Error>> {
        let page = self.page_of_keys(&bucket, cursor).await?;
        let response = |(keys, more): (Vec<String>, bool)| {
            let cursor = keys.last().filter(|_| more).cloned();
            KeyResponse { keys, cursor }
        };
        Ok(page.map(response).map_err(Error::from))
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
        delta: i64,
    ) -> wasmtime::Result<Result<i64, Error>> {
        Ok(self.add_to(&bucket, key, delta).await?.map_err(Error::from))
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> wasmtime::Result<Result<(), CasError>> {
        let refused = |error: StorageError| Ok(Err(CasError::StoreError(error.into())));
        let Cas { place, key, seen } = self.release(cas)?;
        if let Err(error) = self.count_storage_op() {
            return refused(error);
        }
        match place.store.swap(&place.space, key.clone(), seen, value).await {
            Ok(Swap::Done) => Ok(Ok(())),
            Ok(Swap::Differs(now)) => match self.hold(place, key, now)? {
                Ok(cas) => Ok(Err(CasError::CasFailed(cas))),
                Err(error) => refused(error),
            },
            Err(error) => refused(error),
        }
    }
}

impl HostCas for State {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Resource<Cas>, Error>> {
        let place = self.table.get(&bucket)?.place.clone();
        match self.get_value(&bucket, key.clone()).await? {
            Ok(seen) => Ok(self.hold(place, key, seen)?.map_err(Error::from)),
            Err(refused) => Ok(Err(refused.into())),
        }
    }

    async fn current(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        Ok(Ok(self.table.get(&cas)?.seen.clone()))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.release(cas).map(drop)
    }
}

impl batch::Host for State {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<(String, Option<Vec<u8>>)>, Error>> {
        Ok(self.get_values(&bucket, keys).await?.map_err(Error::from))
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
