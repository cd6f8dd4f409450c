//! A configuration in the place of another while there is work: nothing is lost, nothing overtakes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod sqlite3;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlite3::{Locker, cli};
use tempfile::TempDir;
use tidegate_event::{
    AckJoin, Event, Hook, IdSource, Message, Node, Origin, QoS, Scope, Storage as _, StorageError, Tenant,
    now_ms,
};
use tidegate_store::config::{self, StoreConfig};
use tidegate_store::{Action, Changes, StoreOptions, Stores};

struct Bench {
    dir: TempDir,
    stores: Arc<Stores>,
    ids: IdSource,
}

const PUBLISH: &str = "backend.sqlite.hook.message.publish.1 = {\"action\": {\"function\": \"on_message_publish\"}, \"pool\": \"p\"}\n";

impl Bench {
    async fn open(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = parse(&dir, text);
        let options = StoreOptions { data_dir: dir.path().into(), ..StoreOptions::default() };
        let stores = Stores::open(&config, Arc::new(Node::default()), options).await.unwrap();
        Self { dir, stores, ids: IdSource::new(&Node::default()) }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("p.db")
    }

    async fn change(&self, text: &str) -> Changes {
        let prepared = self.stores.prepare(&parse(&self.dir, text)).await.unwrap();
        self.stores.commit(prepared)
    }

    /// Raises message.publish on `actions`.
    async fn publish_on(&self, actions: &[Arc<Action>], payload: &str) -> AckJoin {
        let message = Arc::new(Message {
            id: self.ids.next_id(),
            topic: "t".parse().unwrap(),
            payload: payload.to_owned().into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            timestamp_ms: now_ms(),
            sender: "test".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        });
        let scope = Scope::new(
            Event::MessagePublish { message, tenant: Tenant::default() },
            Arc::new(Node::default()),
        );
        for action in actions.iter().filter(|action| action.hook() == Hook::MessagePublish) {
            action.run(&scope).await;
        }
        scope.acks
    }

    async fn publish(&self, payload: &str) -> AckJoin {
        self.publish_on(&self.stores.actions(), payload).await
    }

    fn stored(&self) -> String {
        cli(&self.file(), "select group_concat(payload, ' ') from (select payload from mqtt_msg order by id)")
    }
}

fn parse(dir: &TempDir, text: &str) -> StoreConfig {
    let text = text.replace("DIR", &dir.path().display().to_string());
    config::load(&[("test.conf".into(), text)], None).unwrap().config
}

fn pool(size: u32) -> String {
    format!("backend.sqlite.p.path = DIR/p.db\nbackend.sqlite.p.pool_size = {size}\n")
}

#[tokio::test]
async fn a_connector_with_the_same_options_is_kept_with_its_queue() {
    let bench = Bench::open(&(pool(4) + PUBLISH)).await;
    assert_eq!(bench.publish("1").await.await, Ok(()));
    let more = PUBLISH.replace("publish.1", "publish.2").replace("on_message_publish", "on_message_retain");
    assert_eq!(bench.change(&(pool(4) + PUBLISH + &more)).await, Changes::default());
    assert_eq!(bench.stores.actions().len(), 2);
    assert_eq!(bench.publish("2").await.await, Ok(()));
    let report = bench.stores.report().remove(0);
    assert_eq!((report.stored, report.is_up, report.waits), (2, true, false));
    assert_eq!(bench.stored(), "1 2");
}

#[tokio::test]
async fn what_the_old_connector_has_is_written_before_what_the_new_one_gets() {
    let bench = Bench::open(&(pool(4) + PUBLISH)).await;
    assert_eq!(bench.publish("1").await.await, Ok(()));
    let old = bench.stores.actions();
    let locker = Locker::lock(&bench.file());
    let second = bench.publish("2").await;
    let changes = bench.change(&(pool(5) + PUBLISH)).await;
    assert_eq!(changes.changed, ["sqlite:p"]);
    let fourth = bench.publish("4").await;
    // An event in flight finishes on the actions with which it began.
    let third = bench.publish_on(&old, "3").await;
    drop(old);
    assert!(bench.stores.report()[0].waits);
    locker.unlock();
    for acks in [second, third, fourth] {
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), acks).await.unwrap(), Ok(()));
    }
    assert_eq!(bench.stored(), "1 2 3 4");
    assert!(!bench.stores.report()[0].waits);
    bench.stores.close(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_is_refused_changes_nothing() {
    let bench = Bench::open(&(pool(4) + PUBLISH)).await;
    let wrong = "backend.sqlite.q.path = DIR/q.db\nbackend.sqlite.hook.message.publish.2 = {\"action\": {\"sql\": \
                 [\"delete from nowhere\"]}, \"pool\": \"p\"}\n";
    let refused = bench.stores.prepare(&parse(&bench.dir, &(pool(5) + PUBLISH + wrong))).await.unwrap_err();
    assert!(refused.len() == 1 && refused[0].message.contains("no such table"), "{refused:?}");
    assert_eq!(bench.stores.connectors(&Tenant::default()), ["sqlite:p"]);
    assert_eq!(bench.stores.actions().len(), 1);
    assert_eq!(bench.publish("1").await.await, Ok(()));
    assert_eq!(bench.stored(), "1");
}

#[tokio::test]
async fn a_connector_that_goes_finishes_what_it_has_and_is_unknown_to_new_calls() {
    let bench = Bench::open(&(pool(4) + PUBLISH)).await;
    let old = bench.stores.actions();
    let locker = Locker::lock(&bench.file());
    let first = bench.publish("1").await;
    let changes = bench.change("backend.sqlite.q.path = DIR/q.db\n").await;
    assert_eq!((&*changes.added[0], &*changes.removed[0]), ("sqlite:q", "sqlite:p"));
    let tenant = Tenant::default();
    let asked = bench.stores.query(&tenant, "sqlite:p", "select 1", Vec::new()).await;
    assert_eq!(asked, Err(StorageError::NoSuchConnector("sqlite:p".into())));
    assert!(bench.stores.query(&tenant, "q", "select 1", Vec::new()).await.is_ok());
    let second = bench.publish_on(&old, "2").await;
    drop(old);
    let mut first = std::pin::pin!(first);
    assert!(first.as_mut().now_or_never().is_none(), "it is not stored yet");
    locker.unlock();
    // A stop meanwhile waits for it.
    bench.stores.close(Duration::from_secs(20)).await.unwrap();
    assert_eq!((first.await, second.await), (Ok(()), Ok(())));
    assert_eq!(bench.stored(), "1 2");
}
