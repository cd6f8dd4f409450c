//! `wasi:keyvalue@0.2.0-draft2`: pages by key, signed counters, compare-and-swap.

use tidegate_event::{StorageError, Swap};
use wasmtime::component::Resource;

use super::place::{MAX_KEYS, Place};
use super::{Bucket, Failure};
use crate::bindings::keyvalue_draft2::wasi::keyvalue::atomics::{self, CasError, HostCas};
use crate::bindings::keyvalue_draft2::wasi::keyvalue::batch;
use crate::bindings::keyvalue_draft2::wasi::keyvalue::store::{Error, Host, HostBucket, KeyResponse};
use crate::state::State;

/// Values that an instance may hold in handles for compare-and-swap, in bytes.
const MAX_SEEN_BYTES: usize = 16 << 20;

/// A value as a guest saw it.
#[allow(unreachable_pub, reason = "generated code exports it again")]
pub struct Cas {
    place: Place,
    key: String,
    seen: Option<Vec<u8>>,
}

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
    /// A handle for the value of `key` as it was `seen`.
    fn hold(&mut self, place: Place, key: String, seen: Option<Vec<u8>>) -> Result<Resource<Cas>, Failure> {
        let bytes = seen.as_ref().map_or(0, Vec::len) + key.len();
        if self.seen_bytes + bytes > MAX_SEEN_BYTES {
            return Err(Failure::Refused(StorageError::QuotaExceeded(format!(
                "handles for compare-and-swap would hold more than {MAX_SEEN_BYTES} bytes: drop some"
            ))));
        }
        let cas = self.table.push(Cas { place, key, seen })?;
        self.seen_bytes += bytes;
        Ok(cas)
    }

    /// Takes a handle back.
    fn release(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Cas> {
        let cas = self.table.delete(cas)?;
        let bytes = cas.seen.as_ref().map_or(0, Vec::len) + cas.key.len();
        self.seen_bytes = self.seen_bytes.saturating_sub(bytes);
        Ok(cas)
    }

    /// The handle of the value of now when it is not the one that `cas` has seen.
    async fn swap_or_hold(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> Result<Option<Resource<Cas>>, Failure> {
        let Cas { place, key, seen } = self.release(cas)?;
        self.count_storage_op()?;
        match place.swap(key.clone(), seen, value).await? {
            Swap::Done => Ok(None),
            Swap::Differs(now) => self.hold(place, key, now).map(Some),
        }
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
        cursor: Option<String>,
    ) -> Result<KeyResponse, Failure> {
        let page = self.place(&bucket)?.keys(cursor, MAX_KEYS).await?;
        Ok(KeyResponse { cursor: page.next().cloned(), keys: page.keys })
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for State {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Result<i64, Failure> {
        Ok(self.place(&bucket)?.increment(key, delta).await?)
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> wasmtime::Result<Result<(), CasError>> {
        Ok(match self.swap_or_hold(cas, value).await {
            Ok(None) => Ok(()),
            Ok(Some(now)) => Err(CasError::CasFailed(now)),
            Err(failure) => Err(CasError::StoreError(failure.refusal()?.into())),
        })
    }
}

impl HostCas for State {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Resource<Cas>, Failure> {
        let place = self.place(&bucket)?;
        let seen = place.get(key.clone()).await?;
        self.hold(place, key, seen)
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.table.get(&cas)?.seen.clone())
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
    ) -> Result<Vec<(String, Option<Vec<u8>>)>, Failure> {
        Ok(self.place(&bucket)?.get_many(keys).await?)
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
