//! The requests of guests of the world `raw`, read strictly: a misspelt key is a mistake (`docs/raw-modules.md`).

use serde::Deserialize;
use serde_json::Value as Json;

use super::pairs;
use crate::envelope::MessageIn;

/// What a guest may ask.
#[derive(Deserialize)]
#[serde(tag = "call", deny_unknown_fields)]
pub(super) enum Request {
    #[serde(rename = "storage.run")]
    StorageRun {
        connector: String,
        function: String,
        #[serde(default)]
        options: Option<OptionsIn>,
        #[serde(default)]
        wait: bool,
    },
    #[serde(rename = "storage.execute")]
    StorageExecute {
        connector: String,
        statements: Vec<String>,
        #[serde(default)]
        wait: bool,
    },
    #[serde(rename = "sql.query")]
    SqlQuery {
        connector: String,
        statement: String,
        #[serde(default)]
        params: Vec<Json>,
    },
    #[serde(rename = "sql.exec")]
    SqlExec {
        connector: String,
        statement: String,
        #[serde(default)]
        params: Vec<Json>,
    },
    #[serde(rename = "sql.exec-batch")]
    SqlExecBatch { connector: String, statement: String, params: Vec<Vec<Json>> },
    #[serde(rename = "redis.command")]
    RedisCommand { connector: String, command: Vec<Json> },
    #[serde(rename = "redis.pipeline")]
    RedisPipeline { connector: String, commands: Vec<Vec<Json>> },
    #[serde(rename = "keyvalue.get")]
    KeyvalueGet(pairs::One),
    #[serde(rename = "keyvalue.get-many")]
    KeyvalueGetMany(pairs::Many),
    #[serde(rename = "keyvalue.set")]
    KeyvalueSet(pairs::Set),
    #[serde(rename = "keyvalue.set-many")]
    KeyvalueSetMany(pairs::SetMany),
    #[serde(rename = "keyvalue.delete")]
    KeyvalueDelete(pairs::One),
    #[serde(rename = "keyvalue.delete-many")]
    KeyvalueDeleteMany(pairs::Many),
    #[serde(rename = "keyvalue.exists")]
    KeyvalueExists(pairs::One),
    #[serde(rename = "keyvalue.list-keys")]
    KeyvalueListKeys(pairs::ListKeys),
    #[serde(rename = "keyvalue.increment")]
    KeyvalueIncrement(pairs::Increment),
    #[serde(rename = "keyvalue.swap")]
    KeyvalueSwap(pairs::SwapIn),
    #[serde(rename = "log")]
    Log {
        level: String,
        message: String,
        #[serde(default)]
        context: String,
    },
    #[serde(rename = "config.get")]
    ConfigGet { key: String },
    #[serde(rename = "config.get-all")]
    ConfigGetAll {},
    #[serde(rename = "publish")]
    Publish { message: MessageIn },
    #[serde(rename = "deliver")]
    Deliver { client: String, message: MessageIn },
    #[serde(rename = "subscribe")]
    Subscribe {
        client: String,
        filter: String,
        #[serde(default)]
        qos: u8,
    },
    #[serde(rename = "unsubscribe")]
    Unsubscribe { client: String, filter: String },
    #[serde(rename = "disconnect")]
    Disconnect { client: String },
    #[serde(rename = "context.property")]
    ContextProperty { name: String },
    #[serde(rename = "context.correlation-data")]
    ContextCorrelationData {},
    #[serde(rename = "context.tenant")]
    ContextTenant {},
    #[serde(rename = "context.node")]
    ContextNode {},
}

/// `options` of `storage.run`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OptionsIn {
    pub(super) message: Option<MessageIn>,
    pub(super) expired_time: Option<u64>,
    pub(super) max_returned_count: Option<u32>,
    pub(super) time_range_ms: Option<u64>,
    pub(super) payload_format: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(text: &str) -> Result<(), String> {
        serde_json::from_str::<Request>(text).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn requests_are_read_strictly() {
        assert!(read(r#"{"call":"log","level":"info","message":"x"}"#).is_ok());
        assert!(read(r#"{"call":"config.get-all"}"#).is_ok());
        assert!(read(r#"{"call":"publish","message":{"topic":"a","payload_json":{"b":[1]}}}"#).is_ok());
        assert!(read(r#"{"call":"storage.rum"}"#).unwrap_err().contains("storage.run"));
        assert!(read(r#"{"call":"log","level":"info","mesage":"x"}"#).unwrap_err().contains("mesage"));
        assert!(read(r#"{"call":"keyvalue.get","key":"a"}"#).is_ok());
        assert!(read(r#"{"call":"keyvalue.get","kye":"a"}"#).unwrap_err().contains("kye"));
        assert!(read(r#"{"call":"keyvalue.swap","key":"a","valeu":"b"}"#).unwrap_err().contains("valeu"));
        assert!(
            read(r#"{"call":"redis.command","connector":"a","comand":[]}"#).unwrap_err().contains("comand")
        );
        assert!(read(r#"{"call":"publish"}"#).unwrap_err().contains("message"));
    }

    #[test]
    fn every_form_in_the_documentation_is_one_and_none_is_missing() {
        let docs = include_str!("../../../../../docs/raw-modules.md");
        let (_, asks) = docs.split_once("## What a module may ask").unwrap();
        let forms = asks.split('`').filter(|text| text.starts_with("{\"call\":"));
        let forms: Vec<String> =
            forms.map(|form| form.replace("{...}", "{}").replace("[...]", "[]")).collect();
        for form in &forms {
            assert_eq!(read(form), Ok(()), "{form}");
        }
        let refusal = read(r#"{"call":"?"}"#).unwrap_err();
        let (_, known) = refusal.split_once("expected one of ").unwrap();
        let mut known: Vec<_> = known.split('`').filter(|word| word.contains(char::is_alphabetic)).collect();
        known.retain(|word| !word.starts_with(" at line"));
        assert!(known.len() > 20, "{refusal}");
        for call in known {
            let named = forms.iter().any(|form| form.contains(&format!("{{\"call\":\"{call}\"")));
            assert!(named, "docs/raw-modules.md lacks {call}");
        }
    }
}
