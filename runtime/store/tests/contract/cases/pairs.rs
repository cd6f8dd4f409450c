//! Key-value pairs of guests.

use std::sync::Arc;

use tidegate_event::{KeyValue, Space, Storage as _, StorageError, Swap, Tenant};

use crate::fixture::{Bench, Factory};

async fn open(factory: &dyn Factory) -> (Bench, Arc<dyn KeyValue>, Space) {
    let bench = Bench::new(factory, &[]).await;
    let pairs = bench.stores.key_value(&Tenant::default(), &bench.connector()).unwrap();
    let space = Space { tenant: Tenant::default(), module: "m".into(), bucket: bench.connector().into() };
    (bench, pairs, space)
}

fn keys(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

pub(crate) async fn pairs_are_set_read_listed_and_deleted(factory: &dyn Factory) {
    let (bench, pairs, space) = open(factory).await;
    let binary = vec![0, 255, 7];
    let all =
        vec![("b".into(), binary.clone()), ("a".into(), "text".into()), ("é'\"\u{1}".into(), Vec::new())];
    pairs.set(&space, all).await.unwrap();
    pairs.set(&space, vec![("a".into(), b"x".to_vec()), ("a".into(), b"new".to_vec())]).await.unwrap();
    assert_eq!(
        pairs.get(&space, keys(&["a", "none", "b", "é'\"\u{1}", "a"])).await,
        Ok(vec![Some(b"new".to_vec()), None, Some(binary), Some(Vec::new()), Some(b"new".to_vec())])
    );
    assert_eq!(pairs.exists(&space, "b".into()).await, Ok(true));
    assert_eq!(pairs.exists(&space, "B".into()).await, Ok(false));
    assert_eq!(pairs.keys(&space, None, 2).await, Ok(keys(&["a", "b"])));
    assert_eq!(pairs.keys(&space, Some("b".into()), 2).await, Ok(keys(&["é'\"\u{1}"])));
    pairs.delete(&space, keys(&["a", "none"])).await.unwrap();
    assert_eq!(pairs.exists(&space, "a".into()).await, Ok(false));
    let refused = pairs.set(&space, vec![("ok".into(), vec![]), ("k".repeat(1_025), vec![])]).await;
    assert!(matches!(refused, Err(StorageError::InvalidArgument(_))), "{refused:?}");
    assert_eq!(pairs.exists(&space, "ok".into()).await, Ok(false), "all or none");
    assert!(matches!(
        bench.stores.key_value(&Tenant::default(), "none:pool"),
        Err(StorageError::NoSuchConnector(_))
    ));
}

pub(crate) async fn pairs_are_counted_and_swapped_one_after_the_other(factory: &dyn Factory) {
    let (_bench, pairs, space) = open(factory).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (pairs, space) = (Arc::clone(&pairs), space.clone());
        tasks.spawn(async move {
            for _ in 0..5 {
                pairs.increment(&space, "n".into(), 3).await.unwrap();
                let mut expected = None;
                loop {
                    let longer = vec![b'x'; expected.as_ref().map_or(1, |old: &Vec<u8>| old.len() + 1)];
                    match pairs.swap(&space, "s".into(), expected, longer).await.unwrap() {
                        Swap::Done => break,
                        Swap::Differs(now) => expected = now,
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(pairs.increment(&space, "n".into(), -70).await, Ok(-10));
    let found = pairs.get(&space, keys(&["n", "s"])).await.unwrap();
    assert_eq!(found, [Some(b"-10".to_vec()), Some(vec![b'x'; 20])]);
    let refused = pairs.increment(&space, "s".into(), 1).await;
    assert_eq!(refused, Err(StorageError::InvalidArgument("the value is no number".into())));
}
