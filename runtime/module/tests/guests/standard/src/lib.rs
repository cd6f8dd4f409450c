//! Uses the standard interfaces: obeys the lines of a message's payload and answers a line for each.
//!
//! The topic says which interface: `pairs/BUCKET` (through the SDK), `draft/BUCKET` (the first draft) or `http`.

mod draft;

use std::cell::RefCell;
use std::fmt::Debug;
use std::time::Duration;

use tidegate_sdk::config::Config;
use tidegate_sdk::http::{Method, Request};
use tidegate_sdk::keyvalue::Bucket;
use tidegate_sdk::{Client, Event, Message, Result, Verdict, export};

export!(init: init, message_publish: obey);

thread_local! {
    /// Open handles, kept over events.
    static KEPT: RefCell<Vec<Bucket>> = const { RefCell::new(Vec::new()) };
}

fn init(config: Config) -> std::result::Result<(), String> {
    if config.get("init") == Some("count") {
        let sum = Bucket::own().and_then(|bucket| bucket.increment("inits", 1));
        sum.map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}

fn obey(_: Event, _: Option<Client>, message: Message) -> Result<Verdict> {
    let lines = String::from_utf8_lossy(&message.payload).into_owned();
    let (interface, rest) = message.topic.split_once('/').unwrap_or((&message.topic, ""));
    let said: Vec<String> = match interface {
        "pairs" => match Bucket::open(rest) {
            Ok(bucket) => lines.lines().map(|line| pairs(&bucket, line)).collect(),
            Err(error) => vec![format!("{error:?}")],
        },
        "draft" => draft::obey(rest, &lines),
        "http" => lines.lines().map(request).collect(),
        _ => return Err(format!("no interface {interface}").into()),
    };
    Ok(Verdict::Replace(message.with_payload(said.join("\n").into_bytes())))
}

fn said(result: std::result::Result<impl Debug, impl Debug>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{error:?}"),
    }
}

fn text(value: Option<Vec<u8>>) -> Option<String> {
    value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// `*N` is N bytes of `x`.
fn value(word: &str) -> Vec<u8> {
    match word.strip_prefix('*').and_then(|n| n.parse().ok()) {
        Some(n) => vec![b'x'; n],
        None => word.into(),
    }
}

fn pairs(bucket: &Bucket, line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        ["get", key] => said(bucket.get(key).map(text)),
        ["set", key, word] => said(bucket.set(key, &value(word))),
        ["delete", key] => said(bucket.delete(key)),
        ["exists", key] => said(bucket.exists(key)),
        ["add", key, delta] => said(bucket.increment(key, delta.parse().unwrap_or(0))),
        ["append", key, word] => said(bucket.update(key, |old| {
            // Somebody else comes between the first time.
            if old.as_deref() == Some(b"1") {
                bucket.set(key, b"2").ok();
            }
            let mut new = old.unwrap_or_default();
            new.extend(word.as_bytes());
            new
        })),
        ["keys"] => {
            let (mut pages, mut keys, mut cursor) = (0, 0, None);
            loop {
                match bucket.keys(cursor.as_deref()) {
                    Ok((page, next)) => {
                        pages += 1;
                        keys += page.len();
                        if next.is_none() {
                            return format!("{keys} in {pages}");
                        }
                        cursor = next;
                    }
                    Err(error) => return format!("{error:?}"),
                }
            }
        }
        ["fill", many] => {
            let pairs: Vec<_> =
                (0..many.parse().unwrap_or(0)).map(|n| (format!("k{n:05}"), vec![b'v'])).collect();
            said(pairs.chunks(1_000).try_for_each(|pairs| bucket.set_many(pairs)))
        }
        ["set-at-once", many] => {
            let pairs: Vec<_> =
                (0..many.parse().unwrap_or(0)).map(|n| (format!("k{n:05}"), vec![b'v'])).collect();
            said(bucket.set_many(&pairs))
        }
        ["get-many", ref keys @ ..] => {
            let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
            let found = bucket.get_many(&keys);
            said(
                found.map(|found| {
                    found.into_iter().map(|(key, value)| (key, text(value))).collect::<Vec<_>>()
                }),
            )
        }
        ["delete-many", ref keys @ ..] => {
            let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
            said(bucket.delete_many(&keys))
        }
        ["keep"] => KEPT.with_borrow_mut(|kept| {
            kept.extend(Bucket::open(""));
            said(kept.last().map_or(Ok(None), |bucket| bucket.get("a").map(text)))
        }),
        _ => format!("no command {line}"),
    }
}

/// `METHOD URL [BODY [MILLISECONDS]]`.
fn request(line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    let (method, url) = match words[..] {
        ["GET", url, ..] => (Method::Get, url),
        ["POST", url, ..] => (Method::Post, url),
        [other, url, ..] => (Method::Other(other.into()), url),
        _ => return format!("no command {line}"),
    };
    let mut request = Request::new(method, url).header("x-test", "yes");
    if let Some(body) = words.get(2) {
        request = request.body(&value(body));
    }
    if let Some(limit) = words.get(3).and_then(|word| word.parse().ok()) {
        request = request.timeout(Duration::from_millis(limit));
    }
    match request.send() {
        Ok(response) if response.body.len() > 1_000 => {
            format!("{} {} bytes", response.status, response.body.len())
        }
        Ok(response) => format!("{} {}", response.status, String::from_utf8_lossy(&response.body)),
        Err(error) => error.to_string(),
    }
}
