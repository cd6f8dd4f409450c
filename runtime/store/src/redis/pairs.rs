//! Key-value pairs of guests: the hash `mqtt:{kv}`, and a sorted set of its keys for listing them in order. Both are in
//! one slot, so that several pairs are changed at one time on a cluster too.

use redis::{Value, cmd};
use tidegate_event::{BoxFuture, Swap};

use super::Redis;
use super::error::{Answer, Fault};
use super::keys::{PAIR_KEYS, PAIRS};
use super::link::{all, one};
use super::script::{Name, call};
use crate::backend::BackendError;
use crate::pairs::{Call, Pairs, Reply};

fn unexpected(error: impl ToString) -> BackendError {
    BackendError::Refused { code: "reply".into(), message: error.to_string() }
}

/// Fails with the first refusal.
fn all_done(answers: Vec<Vec<Answer>>) -> Result<Reply, BackendError> {
    match answers.into_iter().flatten().find_map(Result::err) {
        Some(fault) => Err(fault.into_backend(PAIRS)),
        None => Ok(Reply::Done),
    }
}

fn no_number(fault: Fault) -> BackendError {
    if fault.message.contains("not an integer") {
        return BackendError::Invalid("the value is no number".into());
    }
    if fault.message.contains("overflow") {
        return BackendError::Invalid("the sum is too large".into());
    }
    fault.into_backend(PAIRS)
}

impl Redis {
    /// Runs commands on the pairs' two keys as one transaction.
    async fn changed(&self, commands: Vec<redis::Cmd>) -> Result<Reply, BackendError> {
        let groups = vec![commands];
        if self.links.is_cluster() {
            return all_done(self.links.each(groups).await?);
        }
        let patience = self.links.settings.query_timeout / 2;
        all_done(all(self.links.transactions(groups, Some(patience)).await)?)
    }

    async fn answer(&self, call: Call) -> Result<Reply, BackendError> {
        match call {
            Call::Get(keys) => {
                if keys.is_empty() {
                    return Ok(Reply::Values(Vec::new()));
                }
                let get = cmd("HMGET").arg(PAIRS).arg(&keys).take();
                let values = one(self.links.each(vec![vec![get]]).await?, PAIRS)?;
                let values: Vec<Option<Vec<u8>>> = redis::from_redis_value(values).map_err(unexpected)?;
                let bytes: usize = values.iter().flatten().map(Vec::len).sum();
                if bytes > self.limits.max_result_bytes {
                    return Err(BackendError::TooLarge(self.limits.max_result_bytes));
                }
                Ok(Reply::Values(values))
            }
            Call::Exists(key) => {
                let exists = cmd("HEXISTS").arg(PAIRS).arg(key).take();
                let found = one(self.links.each(vec![vec![exists]]).await?, PAIRS)?;
                Ok(Reply::Exists(found == Value::Int(1)))
            }
            Call::Keys { after, limit } => {
                let mut keys = cmd("ZRANGEBYLEX");
                let low = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
                keys.arg(PAIR_KEYS).arg(low).arg("+").arg("LIMIT").arg(0).arg(limit);
                let found = one(self.links.each(vec![vec![keys]]).await?, PAIR_KEYS)?;
                redis::from_redis_value(found).map(Reply::Keys).map_err(unexpected)
            }
            Call::Set(pairs) => {
                if pairs.is_empty() {
                    return Ok(Reply::Done);
                }
                let (mut set, mut list) = (cmd("HSET").arg(PAIRS).take(), cmd("ZADD").arg(PAIR_KEYS).take());
                for (key, value) in pairs {
                    list.arg(0).arg(&key);
                    set.arg(key).arg(value);
                }
                self.changed(vec![set, list]).await
            }
            Call::Delete(keys) => {
                if keys.is_empty() {
                    return Ok(Reply::Done);
                }
                let delete = cmd("HDEL").arg(PAIRS).arg(&keys).take();
                self.changed(vec![delete, cmd("ZREM").arg(PAIR_KEYS).arg(&keys).take()]).await
            }
            Call::Increment { key, delta } => self.increment(&key, delta).await,
            Call::Swap { key, expected, value } => self.swap(&key, expected, value).await,
        }
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<Reply, BackendError> {
        let increment = call(Name::Increment, &[PAIRS, PAIR_KEYS]).arg(key).arg(delta).take();
        let answer = self.links.each(vec![vec![increment]]).await?.into_iter().flatten().next();
        match answer {
            // As text: a script's numbers are not exact.
            Some(Ok(sum)) => redis::from_redis_value(sum).map(Reply::Sum).map_err(unexpected),
            Some(Err(fault)) => Err(no_number(fault)),
            None => Err(BackendError::Unavailable("no reply".into())),
        }
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> Result<Reply, BackendError> {
        let mut swap = call(Name::Swap, &[PAIRS, PAIR_KEYS]);
        swap.arg(key).arg(u8::from(expected.is_some())).arg(expected.unwrap_or_default()).arg(value);
        match one(self.links.each(vec![vec![swap]]).await?, PAIRS)? {
            Value::Int(_) => Ok(Reply::Swap(Swap::Done)),
            found => {
                let found: Vec<Vec<u8>> = redis::from_redis_value(found).map_err(unexpected)?;
                Ok(Reply::Swap(Swap::Differs(found.into_iter().next())))
            }
        }
    }
}

impl Pairs for Redis {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, BackendError>> {
        Box::pin(async move {
            match self.answer(call.clone()).await {
                // The server has lost the scripts; the next connection loads them.
                Err(BackendError::Unavailable(words)) if words.starts_with("NOSCRIPT") => {
                    self.answer(call).await
                }
                answered => answered,
            }
        })
    }
}
