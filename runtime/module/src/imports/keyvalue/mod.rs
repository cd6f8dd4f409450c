//! `wasi:keyvalue` in both drafts: the module's own pairs, and those of connectors.

mod draft;
mod draft2;

use std::sync::Arc;

use tidegate_event::key_value::MAX_BUCKET_BYTES;
use tidegate_event::{KeyValue, Space, StorageError};
use wasmtime::component::Resource;

use crate::state::{Grants, State};

/// The bucket that the empty name means.
const DEFAULT_BUCKET: &str = "default";
/// Keys of a page, and of a batch.
const MAX_KEYS: usize = 1_000;
/// Values that an instance may hold in handles for compare-and-swap, in bytes.
const MAX_SEEN_BYTES: usize = 16 << 20;

/// Where pairs are: what a handle refers to.
#[derive(Clone)]
struct Place {
    store: Arc<dyn KeyValue>,
    space: Arc<Space>,
}

/// An open bucket.
#[allow(unreachable_pub, reason = "generated code exports it again")]
pub struct Bucket {
    place: Place,
    /// How many keys the pages of the first draft have given, and the last one.
    page: Option<(u64, String)>,
}

/// A value as a guest saw it.
#[allow(unreachable_pub, reason = "generated code exports it again")]
pub struct Cas {
    place: Place,
    key: String,
    seen: Option<Vec<u8>>,
}

/// Why a call is refused, in the words of both drafts.
enum Refusal {
    NoSuchStore,
    AccessDenied,
    Other(String),
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NoSuchConnector(_) => Self::NoSuchStore,
            StorageError::AccessDenied(_) => Self::AccessDenied,
            other => Self::Other(other.to_string()),
        }
    }
}

fn invalid(message: impl Into<String>) -> StorageError {
    StorageError::InvalidArgument(message.into())
}

/// Whether a batch is small enough.
fn check_batch(keys: usize) -> Result<(), StorageError> {
    if keys <= MAX_KEYS {
        return Ok(());
    }
    Err(invalid(format!("{keys} keys in one call: at most {MAX_KEYS} are possible")))
}

/// The connector that `name` means; `None`: a bucket of the module's own.
fn connector<'a>(grants: &'a Grants, name: &'a str) -> Result<Option<&'a str>, StorageError> {
    if name.contains(':') {
        return grants.resolve(name).map(Some);
    }
    // Without a list in the manifest a plain name cannot become a connector because somebody configures one.
    match grants {
        Grants::These(_) if name != DEFAULT_BUCKET && !name.is_empty() => Ok(grants.resolve(name).ok()),
        Grants::These(_) | Grants::All => Ok(None),
    }
}

impl State {
    fn open_bucket(&mut self, name: &str) -> Result<Bucket, StorageError> {
        if name.len() > MAX_BUCKET_BYTES {
            return Err(invalid(format!(
                "a bucket's name of {} bytes: at most {MAX_BUCKET_BYTES} are possible",
                name.len()
            )));
        }
        let shared = &self.shared;
        let (store, bucket) = match connector(&shared.grants, name)? {
            Some(connector) => {
                let store = shared.services.storage.key_value(&shared.tenant, connector)?;
                (store, connector)
            }
            None if name.is_empty() => (shared.services.state.clone(), DEFAULT_BUCKET),
            None => (shared.services.state.clone(), name),
        };
        let space =
            Space { tenant: shared.tenant.clone(), module: shared.name.clone(), bucket: bucket.into() };
        Ok(Bucket { place: Place { store, space: Arc::new(space) }, page: None })
    }

    /// The place of an open bucket, for one call, which counts. The outer error is a broken handle: a trap.
    fn place(&mut self, bucket: &Resource<Bucket>) -> wasmtime::Result<Result<Place, StorageError>> {
        let place = self.table.get(bucket)?.place.clone();
        Ok(self.count_storage_op().map(|()| place))
    }

    async fn get_value(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, StorageError>> {
        Ok(match self.place(bucket)? {
            Ok(place) => {
                place.store.get(&place.space, vec![key]).await.map(|mut found| found.pop().flatten())
            }
            Err(refused) => Err(refused),
        })
    }

    /// Keys with what was found, in the order of `keys`.
    async fn get_values(
        &mut self,
        bucket: &Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<(String, Option<Vec<u8>>)>, StorageError>> {
        Ok(match self.place(bucket)?.and_then(|place| check_batch(keys.len()).map(|()| place)) {
            Ok(place) => {
                let found = place.store.get(&place.space, keys.clone()).await;
                found.map(|found| keys.into_iter().zip(found).collect())
            }
            Err(refused) => Err(refused),
        })
    }

    async fn set_values(
        &mut self,
        bucket: &Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), StorageError>> {
        Ok(match self.place(bucket)?.and_then(|place| check_batch(pairs.len()).map(|()| place)) {
            Ok(place) => place.store.set(&place.space, pairs).await,
            Err(refused) => Err(refused),
        })
    }

    async fn delete_values(
        &mut self,
        bucket: &Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), StorageError>> {
        Ok(match self.place(bucket)?.and_then(|place| check_batch(keys.len()).map(|()| place)) {
            Ok(place) => place.store.delete(&place.space, keys).await,
            Err(refused) => Err(refused),
        })
    }

    async fn key_exists(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<bool, StorageError>> {
        Ok(match self.place(bucket)? {
            Ok(place) => place.store.exists(&place.space, key).await,
            Err(refused) => Err(refused),
        })
    }

    /// A page of keys after key `after`, and whether more may follow.
    async fn page_of_keys(
        &mut self,
        bucket: &Resource<Bucket>,
        after: Option<String>,
    ) -> wasmtime::Result<Result<(Vec<String>, bool), StorageError>> {
        Ok(match self.place(bucket)? {
            Ok(place) => {
                let keys = place.store.keys(&place.space, after, MAX_KEYS).await;
                keys.map(|keys| {
                    let more = keys.len() >= MAX_KEYS;
                    (keys, more)
                })
            }
            Err(refused) => Err(refused),
        })
    }

    async fn add_to(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> wasmtime::Result<Result<i64, StorageError>> {
        Ok(match self.place(bucket)? {
            Ok(place) => place.store.increment(&place.space, key, delta).await,
            Err(refused) => Err(refused),
        })
    }

    /// A handle for the value of `key` as it was `seen`.
    fn hold(
        &mut self,
        place: Place,
        key: String,
        seen: Option<Vec<u8>>,
    ) -> wasmtime::Result<Result<Resource<Cas>, StorageError>> {
        let bytes = seen.as_ref().map_or(0, Vec::len) + key.len();
        if self.seen_bytes + bytes > MAX_SEEN_BYTES {
            return Ok(Err(StorageError::QuotaExceeded(format!(
                "handles for compare-and-swap would hold more than {MAX_SEEN_BYTES} bytes: drop some"
            ))));
        }
        let cas = self.table.push(Cas { place, key, seen })?;
        self.seen_bytes += bytes;
        Ok(Ok(cas))
    }

    /// Takes a handle back.
    fn release(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Cas> {
        let cas = self.table.delete(cas)?;
        let bytes = cas.seen.as_ref().map_or(0, Vec::len) + cas.key.len();
        self.seen_bytes = self.seen_bytes.saturating_sub(bytes);
        Ok(cas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_is_a_connector_only_when_the_manifest_says_so() {
        let these = Grants::These(vec!["redis:pool1".into(), "sqlite:default".into()]);
        assert_eq!(connector(&these, "pool1"), Ok(Some("redis:pool1")));
        assert_eq!(connector(&these, "redis:pool1"), Ok(Some("redis:pool1")));
        assert_eq!(connector(&these, "pool2"), Ok(None));
        assert_eq!(connector(&these, "redis:pool2"), Err(StorageError::AccessDenied("redis:pool2".into())));
        for own in ["", "default"] {
            assert_eq!(connector(&these, own), Ok(None), "the pool of that name is sqlite:default");
        }
        assert_eq!(connector(&Grants::All, "pool1"), Ok(None));
        assert_eq!(connector(&Grants::All, "redis:pool1"), Ok(Some("redis:pool1")));
    }
}
