//! `keyvalue.*` of the world `raw`: the accesses of `wasi:keyvalue`, with the bucket's name in every request.
//!
//! Values go as payloads do: `value` when they are UTF-8, `value_base64` otherwise, and `value_json` on their way in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tidegate_event::{StorageError, Swap};

use super::{Refusal, nothing};
use crate::bindings::tidegate::storage::types::Error;
use crate::imports::keyvalue::{MAX_KEYS, Place};
use crate::state::State;

/// `keyvalue.get`, `.delete`, `.exists`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct One {
    #[serde(default)]
    bucket: String,
    key: String,
}

/// `keyvalue.get-many`, `.delete-many`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Many {
    #[serde(default)]
    bucket: String,
    keys: Vec<String>,
}

/// `keyvalue.set`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Set {
    #[serde(default)]
    bucket: String,
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    value_json: Option<Json>,
}

/// `keyvalue.set-many`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetMany {
    #[serde(default)]
    bucket: String,
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    value_json: Option<Json>,
}

/// `keyvalue.list-keys`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListKeys {
    #[serde(default)]
    bucket: String,
    cursor: Option<String>,
}

/// `keyvalue.increment`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Increment {
    #[serde(default)]
    bucket: String,
    key: String,
    #[serde(default = "one")]
    delta: i64,
}

fn one() -> i64 {
    1
}

/// `keyvalue.swap`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwapIn {
    #[serde(default)]
    bucket: String,
    key: String,
    expected: Option<String>,
    expected_base64: Option<String>,
    expected_json: Option<Json>,
    value: Option<String>,
    value_base64: Option<String>,
    value_json: Option<Json>,
}

/// The bytes of a value in one of its forms; `None`: none is given.
fn bytes(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
    json: Option<Json>,
) -> Result<Option<Vec<u8>>, Refusal> {
    match (text, base64, json) {
        (None, None, None) => Ok(None),
        (Some(text), None, None) => Ok(Some(text.into_bytes())),
        (None, Some(text), None) => {
            BASE64.decode(text).map(Some).map_err(|error| Refusal::invalid(format!("{name}_base64: {error}")))
        }
        (None, None, Some(json)) => Ok(Some(json.to_string().into_bytes())),
        _ => Err(Refusal::invalid(format!("give one of {name}, {name}_base64 and {name}_json"))),
    }
}

/// The bytes of a value that must be there.
fn value(text: Option<String>, base64: Option<String>, json: Option<Json>) -> Result<Vec<u8>, Refusal> {
    bytes("value", text, base64, json)?
        .ok_or_else(|| Refusal::invalid("give one of value, value_base64 and value_json"))
}

/// A value as a guest takes it; null: there is none.
fn shown(value: Option<Vec<u8>>) -> Json {
    match value.map(String::from_utf8) {
        None => Json::Null,
        Some(Ok(text)) => json!({ "value": text }),
        Some(Err(bytes)) => json!({ "value_base64": BASE64.encode(bytes.as_bytes()) }),
    }
}

fn refused(error: StorageError) -> Refusal {
    Error::from(error).into()
}

impl State {
    /// The bucket `name`, for one call, which counts.
    fn bucket(&mut self, name: &str) -> Result<Place, Refusal> {
        let place = self.find_bucket(name).map_err(refused)?;
        self.count_storage_op().map_err(refused)?;
        Ok(place)
    }

    pub(super) async fn get_pair(&mut self, asked: One) -> Result<Json, Refusal> {
        self.bucket(&asked.bucket)?.get(asked.key).await.map(shown).map_err(refused)
    }

    pub(super) async fn get_pairs(&mut self, asked: Many) -> Result<Json, Refusal> {
        let found = self.bucket(&asked.bucket)?.get_many(asked.keys).await.map_err(refused)?;
        Ok(found.into_iter().map(|(_, value)| shown(value)).collect())
    }

    pub(super) async fn set_pair(&mut self, asked: Set) -> Result<Json, Refusal> {
        let value = value(asked.value, asked.value_base64, asked.value_json)?;
        nothing(self.bucket(&asked.bucket)?.set(vec![(asked.key, value)]).await.map_err(refused))
    }

    pub(super) async fn set_pairs(&mut self, asked: SetMany) -> Result<Json, Refusal> {
        let bytes = |pair: Pair| Ok((pair.key, value(pair.value, pair.value_base64, pair.value_json)?));
        let pairs = asked.pairs.into_iter().map(bytes).collect::<Result<_, Refusal>>()?;
        nothing(self.bucket(&asked.bucket)?.set(pairs).await.map_err(refused))
    }

    pub(super) async fn delete_pair(&mut self, asked: One) -> Result<Json, Refusal> {
        nothing(self.bucket(&asked.bucket)?.delete(vec![asked.key]).await.map_err(refused))
    }

    pub(super) async fn delete_pairs(&mut self, asked: Many) -> Result<Json, Refusal> {
        nothing(self.bucket(&asked.bucket)?.delete(asked.keys).await.map_err(refused))
    }

    pub(super) async fn has_pair(&mut self, asked: One) -> Result<Json, Refusal> {
        self.bucket(&asked.bucket)?.exists(asked.key).await.map(Json::from).map_err(refused)
    }

    pub(super) async fn list_pairs(&mut self, asked: ListKeys) -> Result<Json, Refusal> {
        let page = self.bucket(&asked.bucket)?.keys(asked.cursor, MAX_KEYS).await.map_err(refused)?;
        Ok(json!({ "cursor": page.next(), "keys": page.keys }))
    }

    pub(super) async fn add_to_pair(&mut self, asked: Increment) -> Result<Json, Refusal> {
        let sum = self.bucket(&asked.bucket)?.increment(asked.key, asked.delta).await;
        sum.map(Json::from).map_err(refused)
    }

    pub(super) async fn swap_pair(&mut self, asked: SwapIn) -> Result<Json, Refusal> {
        let expected = bytes("expected", asked.expected, asked.expected_base64, asked.expected_json)?;
        let value = value(asked.value, asked.value_base64, asked.value_json)?;
        let swap = self.bucket(&asked.bucket)?.swap(asked.key, expected, value).await;
        Ok(match swap.map_err(refused)? {
            Swap::Done => json!({ "swapped": true }),
            Swap::Differs(now) => json!({ "swapped": false, "now": shown(now) }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_text_or_base64_or_json() {
        let some = |text: &str| Some(text.to_owned());
        let read = |text, base64, json| value(text, base64, json).map_err(|refusal| refusal.message);
        assert_eq!(read(some("é"), None, None), Ok("é".as_bytes().to_vec()));
        assert_eq!(read(None, some("/w=="), None), Ok(vec![255]));
        assert_eq!(read(None, None, Some(json!({"a": 1}))), Ok(br#"{"a":1}"#.to_vec()));
        assert_eq!(read(some(""), None, None), Ok(Vec::new()));
        for (text, base64) in [(None, None), (some("a"), some("YQ=="))] {
            let error = read(text, base64, None).err();
            assert_eq!(error.as_deref(), Some("give one of value, value_base64 and value_json"));
        }
        assert!(read(None, some("*"), None).is_err_and(|error| error.starts_with("value_base64: ")));
        assert_eq!(shown(None), Json::Null);
        assert_eq!(shown(Some(b"a".to_vec())), json!({"value": "a"}));
        assert_eq!(shown(Some(vec![255])), json!({"value_base64": "/w=="}));
    }
}
