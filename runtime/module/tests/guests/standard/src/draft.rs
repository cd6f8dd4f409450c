//! The first draft of `wasi:keyvalue`, which the SDK does not use.

wit_bindgen::generate!({
    inline: "package test:draft;
        world draft {
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:keyvalue/atomics@0.2.0-draft;
            import wasi:keyvalue/batch@0.2.0-draft;
        }",
    world: "test:draft/draft",
    path: ["../../../../../wit/wasi-keyvalue"],
    generate_all,
});

use wasi::keyvalue::store::{Bucket, open};
use wasi::keyvalue::{atomics, batch};

use crate::{said, text};

pub(crate) fn obey(bucket: &str, lines: &str) -> Vec<String> {
    match open(bucket) {
        Ok(opened) => lines.lines().map(|line| command(&opened, bucket, line)).collect(),
        Err(error) => vec![format!("{error:?}")],
    }
}

fn command(bucket: &Bucket, name: &str, line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        ["get", key] => said(bucket.get(key).map(text)),
        ["set", key, value] => said(bucket.set(key, value.as_bytes())),
        ["delete", key] => said(bucket.delete(key)),
        ["exists", key] => said(bucket.exists(key)),
        ["add", key, delta] => said(atomics::increment(bucket, key, delta.parse().unwrap_or(0))),
        // Each page by the handle that gave the one before, or by one that has to find it.
        ["keys", handle] => {
            let (mut pages, mut all, mut cursor) = (0, Vec::new(), None);
            loop {
                let page = match handle {
                    "same" => bucket.list_keys(cursor),
                    _ => open(name).and_then(|other| other.list_keys(cursor)),
                };
                match page {
                    Ok(page) => {
                        pages += 1;
                        all.extend(page.keys);
                        if page.cursor.is_none() {
                            all.sort();
                            all.dedup();
                            return format!("{} in {pages}", all.len());
                        }
                        cursor = page.cursor;
                    }
                    Err(error) => return format!("{error:?}"),
                }
            }
        }
        ["get-many", ref keys @ ..] => {
            let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
            let found = batch::get_many(bucket, &keys);
            said(found.map(|found| {
                found
                    .into_iter()
                    .map(|pair| pair.map(|(key, value)| (key, text(Some(value)))))
                    .collect::<Vec<_>>()
            }))
        }
        ["set-many", key, value] => said(batch::set_many(bucket, &[(key.to_owned(), value.into())])),
        ["delete-many", key] => said(batch::delete_many(bucket, &[key.to_owned()])),
        _ => format!("no command {line}"),
    }
}
