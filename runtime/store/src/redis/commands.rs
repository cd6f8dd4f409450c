//! Commands of guests.
//!
//! On one server they are one pipeline. On a cluster each goes to the node of its key, and there the order has to be made:
//! commands run in rounds, so that what one of them does to a key is done before the next one on that key begins.

use std::collections::HashMap;

use redis::Cmd;
use tidegate_event::{BoxFuture, Reply};

use super::Redis;
use super::link::{Group, Known};
use super::reply;
use crate::backend::BackendError;
use crate::commands::Commands;

/// Commands that touch the key after their name and nothing else, whatever their other words are: on different keys
/// they do not disturb each other. Every other command waits for those before it, and those after it wait for it.
/// Lower case, sorted.
const ON_ONE_KEY: [&str; 89] = [
    "append",
    "bitcount",
    "bitfield",
    "bitpos",
    "decr",
    "decrby",
    "expire",
    "expireat",
    "geoadd",
    "geodist",
    "geohash",
    "geopos",
    "geosearch",
    "get",
    "getbit",
    "getdel",
    "getex",
    "getrange",
    "getset",
    "hdel",
    "hexists",
    "hget",
    "hgetall",
    "hincrby",
    "hincrbyfloat",
    "hkeys",
    "hlen",
    "hmget",
    "hmset",
    "hscan",
    "hset",
    "hsetnx",
    "hstrlen",
    "hvals",
    "incr",
    "incrby",
    "incrbyfloat",
    "lindex",
    "linsert",
    "llen",
    "lpop",
    "lpush",
    "lpushx",
    "lrange",
    "lrem",
    "lset",
    "ltrim",
    "persist",
    "pexpire",
    "pexpireat",
    "pfadd",
    "psetex",
    "pttl",
    "rpop",
    "rpush",
    "rpushx",
    "sadd",
    "scard",
    "set",
    "setbit",
    "setex",
    "setnx",
    "setrange",
    "sismember",
    "smembers",
    "smismember",
    "spop",
    "srandmember",
    "srem",
    "sscan",
    "strlen",
    "ttl",
    "type",
    "xadd",
    "xdel",
    "xlen",
    "xrange",
    "xrevrange",
    "xtrim",
    "zadd",
    "zcard",
    "zcount",
    "zincrby",
    "zrange",
    "zrangebylex",
    "zrangebyscore",
    "zrem",
    "zscan",
    "zscore",
];

/// The only key of a command that is known to have just one.
fn only_key(words: &[Vec<u8>]) -> Option<&[u8]> {
    let [name, key, ..] = words else { return None };
    let name = name.to_ascii_lowercase();
    let known = ON_ONE_KEY.binary_search_by(|known| known.as_bytes().cmp(&name));
    known.is_ok().then_some(key.as_slice())
}

/// The round in which each command runs: a later one than that of every command before it that it may depend on.
fn rounds(commands: &[Vec<Vec<u8>>]) -> Vec<usize> {
    // Rounds from `open` on may take commands; `next` is the first that nobody is in.
    let (mut open, mut next) = (0, 0);
    let mut of_key: HashMap<&[u8], usize> = HashMap::new();
    commands
        .iter()
        .map(|words| match only_key(words) {
            Some(key) => {
                let round = of_key.get(key).map_or(open, |last| open.max(last + 1));
                of_key.insert(key, round);
                next = next.max(round + 1);
                round
            }
            None => {
                let round = next;
                next += 1;
                open = next;
                round
            }
        })
        .collect()
}

fn group(words: Vec<Vec<u8>>) -> Group {
    let mut command = Cmd::new();
    command.arg(words);
    vec![command]
}

impl Redis {
    /// The replies to commands, in their order.
    async fn replies(&self, commands: Vec<Vec<Vec<u8>>>) -> Result<Vec<Reply>, BackendError> {
        if !self.links.is_cluster() {
            let known = self.links.known(commands.into_iter().map(group).collect()).await;
            return self.small_enough(known);
        }
        let rounds = rounds(&commands);
        let mut waiting: Vec<_> = rounds.into_iter().zip(commands).enumerate().collect();
        // Stable: within a round the commands stay in order.
        waiting.sort_by_key(|(_, (round, _))| *round);
        let mut answered = Vec::with_capacity(waiting.len());
        let mut waiting = waiting.into_iter().peekable();
        while let Some((_, (round, _))) = waiting.peek() {
            let round = *round;
            let (mut places, mut groups) = (Vec::new(), Vec::new());
            while let Some((place, (_, words))) = waiting.next_if(|(_, (of, _))| *of == round) {
                places.push(place);
                groups.push(group(words));
            }
            let known = self.links.known(groups).await;
            answered.extend(places.into_iter().zip(known));
        }
        answered.sort_by_key(|(place, _)| *place);
        self.small_enough(answered.into_iter().map(|(_, known)| known).collect())
    }

    fn small_enough(&self, known: Vec<Known>) -> Result<Vec<Reply>, BackendError> {
        if let Some(error) = reply::why_none(&known) {
            return Err(error);
        }
        let most = self.limits.max_result_bytes;
        let mut size = 0;
        known
            .into_iter()
            .map(|known| {
                let reply = reply::of(known);
                size += reply.size();
                if size > most { Err(BackendError::TooLarge(most)) } else { Ok(reply) }
            })
            .collect()
    }
}

/// What a cluster refuses. The driver follows a reply that begins with `MOVED` to the address in it, and tells the server
/// there our password: a guest's script could write such a reply.
fn refused_on_cluster(name: &[u8]) -> Option<&'static str> {
    match &*name.to_ascii_lowercase() {
        b"eval" | b"eval_ro" => {
            Some("EVAL is not allowed on a cluster: use EVALSHA, of a script that is loaded on its nodes")
        }
        b"scan" => Some("SCAN is not allowed on a cluster: it would find the keys of any one node"),
        _ => None,
    }
}

impl Commands for Redis {
    fn check(&self, name: &[u8]) -> Result<(), BackendError> {
        match refused_on_cluster(name) {
            Some(words) if self.links.is_cluster() => Err(BackendError::Invalid(words.into())),
            _ => Ok(()),
        }
    }

    fn run(&self, commands: Vec<Vec<Vec<u8>>>) -> BoxFuture<'_, Result<Vec<Reply>, BackendError>> {
        Box::pin(self.replies(commands))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds_of(commands: &[&str]) -> Vec<usize> {
        let words = |text: &&str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        rounds(&commands.iter().map(words).collect::<Vec<_>>())
    }

    #[test]
    fn commands_on_one_key_run_one_after_the_other_and_others_beside_them() {
        assert!(ON_ONE_KEY.is_sorted());
        assert_eq!(rounds_of(&["INCR a", "hincrby b f 1", "GET a", "GET b", "GET c"]), [0, 0, 1, 1, 0]);
    }

    #[test]
    fn a_command_of_several_keys_or_none_is_between_those_before_and_after_it() {
        assert_eq!(rounds_of(&["SET a 1", "SET b 2", "SET b 3", "MGET a b", "SET a 4"]), [0, 0, 1, 2, 3]);
        assert_eq!(rounds_of(&["PING", "EVAL x 0", "GET a", "GET b", "DBSIZE"]), [0, 1, 2, 2, 3]);
        assert_eq!(rounds_of(&["GET", "GET a"]), [0, 1], "a command that lacks its key");
    }
}
