//! Key-value pairs of guests.

use std::sync::Arc;

use tidegate_event::{KeyValue, Space, Storage as _, StorageError, Swap, Tenant};

use crate::fixture::{Bench, Factory};

async fn open(factory: &'static dyn Factory) -> (Bench, Arc<dyn KeyValue>, Space) {
    let bench = Bench::new(factory, &[]).await;
    let pairs = bench.stores.key_value(&Tenant::default(), &bench.connector()).unwrap();
    let space = Space { tenant: Tenant::default(), module: "m".into(), bucket: bench.connector().into() };
    (bench, pairs, space)
}

pub(crate) async fn pairs_are_set_read_listed_and_deleted(factory: &'static dyn Factory) {
    let (bench, pairs, space) = open(factory).await;
    let binary = vec![0, 255, 7];
    // Between the keys of others on the same database.
    let key = |name: &str| format!("{}{name}", bench.space());
    let keys = |names: &[&str]| names.iter().map(|name| key(name)).collect::<Vec<_>>();
    let begin = || Some(bench.space().to_owned());
    let odd = "é'\"\u{1}";
    let all = vec![(key("b"), binary.clone()), (key("a"), "text".into()), (key(odd), Vec::new())];
    pairs.set(&space, all).await.unwrap();
    pairs.set(&space, vec![(key("a"), b"x".to_vec()), (key("a"), b"new".to_vec())]).await.unwrap();
    assert_eq!(
        pairs.get(&space, keys(&["a", "none", "b", odd, "a"])).await,
        Ok(vec![Some(b"new".to_vec()), None, Some(binary), Some(Vec::new()), Some(b"new".to_vec())])
    );
    assert_eq!(pairs.exists(&space, key("b")).await, Ok(true));
    assert_eq!(pairs.exists(&space, key("B")).await, Ok(false));
    assert_eq!(pairs.keys(&space, begin(), 2).await, Ok(keys(&["a", "b"])));
    assert_eq!(pairs.keys(&space, Some(key("b")), 1).await, Ok(keys(&[odd])));
    pairs.delete(&space, keys(&["a", "none"])).await.unwrap();
    assert_eq!(pairs.exists(&space, key("a")).await, Ok(false));
    assert_eq!(pairs.keys(&space, begin(), 2).await, Ok(keys(&["b", odd])));
    let refused = pairs.set(&space, vec![(key("ok"), vec![]), ("k".repeat(1_025), vec![])]).await;
    assert!(matches!(refused, Err(StorageError::InvalidArgument(_))), "{refused:?}");
    assert_eq!(pairs.exists(&space, key("ok")).await, Ok(false), "all or none");
    assert!(matches!(
        bench.stores.key_value(&Tenant::default(), "none:pool"),
        Err(StorageError::NoSuchConnector(_))
    ));
}

pub(crate) async fn pairs_are_counted_and_swapped_one_after_the_other(factory: &'static dyn Factory) {
    let (bench, pairs, space) = open(factory).await;
    let (number, text) = (format!("{}n", bench.space()), format!("{}s", bench.space()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (pairs, space) = (Arc::clone(&pairs), space.clone());
        let (number, text) = (number.clone(), text.clone());
        tasks.spawn(async move {
            for _ in 0..5 {
                pairs.increment(&space, number.clone(), 3).await.unwrap();
                let mut expected = None;
                loop {
                    let longer = vec![b'x'; expected.as_ref().map_or(1, |old: &Vec<u8>| old.len() + 1)];
                    match pairs.swap(&space, text.clone(), expected, longer).await.unwrap() {
                        Swap::Done => break,
                        Swap::Differs(now) => expected = now,
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(pairs.increment(&space, number.clone(), -70).await, Ok(-10));
    let found = pairs.get(&space, vec![number.clone(), text.clone()]).await.unwrap();
    assert_eq!(found, [Some(b"-10".to_vec()), Some(vec![b'x'; 20])]);
    let exact = (1_i64 << 62) + 1;
    assert_eq!(pairs.increment(&space, number.clone(), exact).await, Ok(exact - 10), "no rounding");
    let overflow = pairs.increment(&space, number, i64::MAX).await;
    assert!(matches!(overflow, Err(StorageError::InvalidArgument(_))), "{overflow:?}");
    let refused = pairs.increment(&space, text, 1).await;
    assert_eq!(refused, Err(StorageError::InvalidArgument("the value is no number".into())));
}
