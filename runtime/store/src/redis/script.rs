//! What must read and write at one time: scripts of one key each, so that they run on a cluster too.
//!
//! They are loaded when a connection is opened and called by their hash. A server that has lost them says so; the
//! connection is then opened anew.

use std::sync::LazyLock;

use redis::{Arg, Cmd, Script, cmd};

/// Adds ids to a topic's set. `ARGV`: milliseconds to live, an id of that age, where messages are ('': on other nodes of
/// a cluster), then the ids. The set lives as long as the longest-lived message in it: a shorter time never shortens it,
/// and a message that stays makes it stay.
///
/// A topic that nobody fetches would keep the names of all its expired messages: with every name that comes, up to two old
/// ones go. On a cluster only who can ask their nodes knows which have expired: they are the answer.
const ADD: &str = "\
local before = redis.call('PTTL', KEYS[1])
local ttl = tonumber(ARGV[1])
for i = 4, #ARGV do redis.call('ZADD', KEYS[1], 1, ARGV[i]) end
if ttl == 0 then redis.call('PERSIST', KEYS[1])
elseif before == -2 or (before >= 0 and before < ttl) then redis.call('PEXPIRE', KEYS[1], ttl) end
local old = redis.call('ZRANGEBYLEX', KEYS[1], '[000', '(' .. ARGV[2], 'LIMIT', 0, 2 * (#ARGV - 3))
if ARGV[3] == '' then return old end
for _, id in ipairs(old) do
  if redis.call('EXISTS', ARGV[3] .. id) == 0 then redis.call('ZREM', KEYS[1], id) end
end
return {}";

/// Adds an id to a topic's set and gives the ids that it replaces: all but the newest. `ARGV`: milliseconds to live, the
/// id, and where messages are ('': they are not deleted here, because they are on other nodes of a cluster).
const KEEP: &str = "\
local before = redis.call('PTTL', KEYS[1])
local ttl = tonumber(ARGV[1])
local newest = ARGV[2]
redis.call('ZADD', KEYS[1], 1, newest)
if ttl == 0 then redis.call('PERSIST', KEYS[1])
elseif before == -2 or (before >= 0 and before < ttl) then redis.call('PEXPIRE', KEYS[1], ttl) end
local replaced = {}
local ids = redis.call('ZRANGEBYLEX', KEYS[1], '-', '+')
for _, id in ipairs(ids) do
  if #id == 32 and string.find(id, '^000[0-9A-F]+$') and id > newest then newest = id end
end
for _, id in ipairs(ids) do
  if id ~= newest then
    table.insert(replaced, id)
    if ARGV[3] ~= '' then
      if redis.call('TYPE', ARGV[3] .. id).ok == 'hash' then redis.call('DEL', ARGV[3] .. id) end
      redis.call('ZREM', KEYS[1], id)
    end
  end
end
return replaced";

/// Moves a position, never back. `ARGV`: the id, milliseconds to live. A position that another program wrote in another
/// form says nothing and is replaced.
const ADVANCE: &str = "\
local now = redis.call('GET', KEYS[1])
local ttl = tonumber(ARGV[2])
if now and #now == 32 and string.find(now, '^000[0-9A-F]+$') and now >= ARGV[1] then
  if ttl > 0 then redis.call('PEXPIRE', KEYS[1], ttl) else redis.call('PERSIST', KEYS[1]) end
  return 0
end
if ttl > 0 then redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl) else redis.call('SET', KEYS[1], ARGV[1]) end
return 1";

/// Marks a client offline unless it is online on a newer connection, elsewhere. `ARGV`: since when it was online, when
/// it went offline (both in seconds), milliseconds to live.
const OFFLINE: &str = "\
local online = redis.call('HGET', KEYS[1], 'online_at')
if online and tonumber(online) and tonumber(online) > tonumber(ARGV[1]) then return 0 end
if not online then redis.call('HSET', KEYS[1], 'online_at', ARGV[1]) end
redis.call('HSET', KEYS[1], 'state', '0', 'offline_at', ARGV[2])
if tonumber(ARGV[3]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) else redis.call('PERSIST', KEYS[1]) end
return 1";

/// Adds to a guest's number and lists its key. `KEYS`: values, list. `ARGV`: key, what to add.
const INCREMENT: &str = "\
local sum = redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return redis.call('HGET', KEYS[1], ARGV[1])";

/// Replaces a guest's value if it is the expected one, else gives it. `ARGV`: key, '1' and the expected value or '0' and
/// anything, the new value. Gives true, or a list with the value there is, or an empty one.
const SWAP: &str = "\
local now = redis.call('HGET', KEYS[1], ARGV[1])
local same
if ARGV[2] == '1' then same = (now == ARGV[3]) else same = not now end
if not same then if now then return {now} else return {} end end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return 1";

static SCRIPTS: LazyLock<[Script; 6]> =
    LazyLock::new(|| [ADD, KEEP, ADVANCE, OFFLINE, INCREMENT, SWAP].map(Script::new));

/// A script.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    Add,
    Keep,
    Advance,
    Offline,
    Increment,
    Swap,
}

/// The call of a script with its keys; arguments are added to it.
pub(super) fn call(name: Name, keys: &[&str]) -> Cmd {
    let mut call = cmd("EVALSHA");
    let hash = SCRIPTS.get(name as usize).map_or("", Script::get_hash);
    call.arg(hash).arg(keys.len()).arg(keys);
    call
}

/// Whether `command` calls one of them.
pub(super) fn is_call(command: &Cmd) -> bool {
    let mut words = command.args_iter();
    let name = words.next();
    matches!((name, words.next()), (Some(Arg::Simple(b"EVALSHA")), Some(Arg::Simple(hash)))
        if SCRIPTS.iter().any(|script| script.get_hash().as_bytes() == hash))
}

/// What loads them all.
pub(super) fn loads() -> Vec<Cmd> {
    let texts = [ADD, KEEP, ADVANCE, OFFLINE, INCREMENT, SWAP];
    let load = |text| {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(text);
        load
    };
    texts.into_iter().map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_scripts_are_told_from_those_of_others() {
        assert!(is_call(&call(Name::Swap, &["a", "b"])));
        assert!(!is_call(cmd("EVALSHA").arg("0123456789012345678901234567890123456789").arg(0)));
        assert!(!is_call(&cmd("EVALSHA")) && !is_call(cmd("GET").arg("a")));
    }
}
