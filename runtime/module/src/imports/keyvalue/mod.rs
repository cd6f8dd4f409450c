//! `wasi:keyvalue` in both drafts: the module's own pairs, and those of connectors. Guests of the world `raw` reach the
//! same places (`../raw/pairs.rs`).

mod draft;
mod draft2;
mod place;

use std::sync::Arc;

use tidegate_event::key_value::MAX_BUCKET_BYTES;
use tidegate_event::{Space, StorageError};
use wasmtime::component::{Resource, ResourceTableError};

use crate::state::{Grants, State};
#[allow(unreachable_pub, reason = "generated code exports it again")]
pub use draft2::Cas;
pub(crate) use place::{MAX_KEYS, Place};

/// The bucket that the empty name means.
const DEFAULT_BUCKET: &str = "default";

/// An open bucket.
#[allow(unreachable_pub, reason = "generated code exports it again")]
pub struct Bucket {
    place: Place,
    /// How many keys the pages of the first draft have given, and the last one.
    page: Option<(u64, String)>,
}

/// Why a call gives nothing.
#[allow(unreachable_pub, reason = "generated code exports it again")]
#[derive(Debug)]
pub enum Failure {
    /// The guest is told.
    Refused(StorageError),
    /// The guest is stopped: it gave a handle that is none.
    Trap(wasmtime::Error),
}

impl Failure {
    /// What the guest is told.
    ///
    /// # Errors
    /// The trap.
    fn refusal(self) -> wasmtime::Result<StorageError> {
        match self {
            Self::Refused(error) => Ok(error),
            Self::Trap(trap) => Err(trap),
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Refused(error)
    }
}

impl From<ResourceTableError> for Failure {
    fn from(error: ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

fn invalid(message: impl Into<String>) -> StorageError {
    StorageError::InvalidArgument(message.into())
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
    /// Where the pairs of the bucket `name` are.
    pub(crate) fn find_bucket(&self, name: &str) -> Result<Place, StorageError> {
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
        Ok(Place { store, space: Arc::new(space) })
    }

    fn open_bucket(&mut self, name: &str) -> Result<Resource<Bucket>, Failure> {
        let place = self.find_bucket(name)?;
        Ok(self.table.push(Bucket { place, page: None })?)
    }

    /// The place of an open bucket, for one call, which counts.
    fn place(&mut self, bucket: &Resource<Bucket>) -> Result<Place, Failure> {
        let place = self.table.get(bucket)?.place.clone();
        self.count_storage_op()?;
        Ok(place)
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
