//! Custom statements and what guests may ask.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tidegate_event::{
    AckError, AckLevel, ActionOptions, Event, SqlValue, Storage as _, StorageError, Tenant,
};

use super::commands;
use crate::fixture::{Ability, Bench, Factory};

fn publish(bench: &Bench, topic: &str, payload: &str) -> Event {
    let message = Arc::new(bench.message(topic, payload.to_owned(), 1));
    Event::MessagePublish { message, tenant: Tenant::default() }
}

/// A back end without SQL refuses it at load and for guests, with words that say so.
async fn takes_no_sql(factory: &'static dyn Factory) {
    let kind = factory.kind();
    let line = r##"message.publish.1 = {"action": {"sql": ["select 1"]}, "pool": "pool1"}"##;
    let text = format!("{}backend.{kind}.hook.{line}\n", factory.pool(std::path::Path::new("nowhere")));
    let findings = tidegate_store::config::load(&[("test.conf".into(), text)], None).unwrap_err();
    assert!(findings.iter().any(|finding| finding.message.contains("not `sql`")), "{findings:?}");
    let bench = Bench::new(factory, &[]).await;
    let (stores, tenant) = (&bench.stores, Tenant::default());
    let query = stores.query(&tenant, "pool1", "select 1", vec![]).await.unwrap_err();
    let exec = stores.exec(&tenant, "pool1", "delete from t", vec![vec![]]).await.unwrap_err();
    for error in [query, exec] {
        assert!(matches!(&error, StorageError::InvalidArgument(words) if words.contains("SQL")), "{error}");
    }
}

pub(crate) async fn custom_statements_bind_their_variables(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Sql) {
        return takes_no_sql(factory).await;
    }
    let table =
        "create table msg(msgid text, topic text, payload, qos int, clientid text, node text, username text)";
    let line = r##"message.publish.1 = {"topic": "#", "action": {"sql": ["insert into msg values(${msgid}, ${topic}, ${payload}, ${qos}, ${clientid}, ${node}, ${username})"]}}"##;
    let bench = Bench::with_tables(factory, &[table], &[line]).await;
    let nasty = "x'); drop table msg; --";
    let event = publish(&bench, nasty, "'${topic}'");
    let id = event.message().unwrap().id.to_string();
    assert_eq!(bench.raise(event).await.0, Ok(()));
    assert_eq!(
        bench.rows("select * from msg").await,
        [[&*id, nasty, "'${topic}'", "1", "publisher", "tidegate@127.0.0.1", "NULL"]]
    );
}

pub(crate) async fn statements_of_one_action_are_one_transaction(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Sql) {
        return takes_no_sql(factory).await;
    }
    let tables = ["create table first(a text)", "create table second(a text unique)"];
    let line = r##"message.publish.1 = {"action": {"sql": ["insert into first values(${topic})", "insert into second values(${topic})"]}}"##;
    let bench = Bench::with_tables(factory, &tables, &[line]).await;
    assert_eq!(bench.raise(publish(&bench, "a", "")).await.0, Ok(()));
    assert!(bench.raise(publish(&bench, "a", "")).await.0.is_err());
    assert_eq!(
        bench.rows("select count(*) from first").await,
        [["1"]],
        "the first statement was rolled back"
    );
}

pub(crate) async fn an_implicit_ack_moves_positions_but_runs_no_statement(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Sql) {
        return commands::an_implicit_ack_runs_no_command(factory).await;
    }
    let lines = [
        r#"message.publish.1 = {"action": {"function": "on_message_store"}}"#,
        r#"message.acked.1 = {"action": {"function": "on_message_acked"}}"#,
        r#"message.acked.2 = {"action": {"sql": ["insert into ack values(${msgid})"]}}"#,
    ];
    let bench = Bench::with_tables(factory, &["create table ack(msgid text)"], &lines).await;
    assert_eq!(bench.stores.actions().iter().filter(|a| a.is_custom()).count(), 1);
    let client = bench.client("c");
    let message = bench.publish_text("t", "x").await;
    bench.ack_event(&client, &message, Some(message.id), false).await;
    assert_eq!(bench.rows("select count(*) from ack").await, [["0"]]);
    assert_eq!(bench.position("c", "t").await, Some(message.id.to_string()));
    bench.ack(&client, &message, Some(message.id)).await;
    assert_eq!(bench.rows("select count(*) from ack").await, [["1"]]);
}

pub(crate) async fn only_the_refused_message_fails(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Sql) {
        return takes_no_sql(factory).await;
    }
    let table = "create table t(topic text check (topic <> 'poison'))";
    let lines = [
        r#"message.publish.1 = {"action": {"function": "on_message_store"}}"#,
        r#"message.publish.2 = {"action": {"sql": ["insert into t values(${topic})"]}}"#,
    ];
    let bench = Bench::with_tables(factory, &[table], &lines).await;
    // All in flight together: they share batches with the poison.
    let scopes: Vec<_> = (0..200)
        .map(|n| {
            let topic = if n % 50 == 25 { "poison".to_owned() } else { format!("good/{n}") };
            bench.scope(publish(&bench, &topic, &n.to_string()))
        })
        .collect();
    for scope in &scopes {
        for action in bench.stores.actions_of(scope.event.hook()) {
            action.run(scope).await;
        }
    }
    for (n, scope) in scopes.into_iter().enumerate() {
        match scope.acks.await {
            Ok(()) => assert_ne!(n % 50, 25, "{n}"),
            Err(AckError::Refused { connector, code, reason }) => {
                assert_eq!((n % 50, code.0), (25, 0x83), "{reason}");
                assert_eq!(connector, bench.connector());
            }
            Err(other) => panic!("{n}: {other}"),
        }
    }
    assert_eq!(bench.rows("select count(*) from t").await, [["196"]]);
    assert_eq!(
        bench.rows("select count(*) from mqtt_msg").await,
        [["200"]],
        "its other line was not refused"
    );
    let letters = std::fs::read_to_string(bench.dir.path().join("dead-letters.jsonl")).unwrap();
    let letters: Vec<serde_json::Value> = letters.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(letters.len(), 4);
    assert!(letters.iter().all(|l| l["topic"] == "poison" && l["operation"] == "execute"), "{letters:?}");
    assert_eq!(letters[0]["payload"], "MjU=", "25");
}

pub(crate) async fn an_endless_statement_is_given_up(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Sql) {
        return takes_no_sql(factory).await;
    }
    let table = "create table t(a integer)";
    let line = r#"message.publish.1 = {"action": {"sql": ["with recursive n(i) as (select 1 union all select i + 1 from n where i < 3 or ${topic} = 'endless') insert into t select max(i) from n"]}}"#;
    let bench = Bench::with_tables(factory, &[table], &[line]).await;
    let scopes: Vec<_> =
        ["a", "b", "endless", "c", "d"].map(|topic| bench.scope(publish(&bench, topic, ""))).into();
    for scope in &scopes {
        for action in bench.stores.actions_of(scope.event.hook()) {
            action.run(scope).await;
        }
    }
    let mut results = Vec::new();
    for scope in scopes {
        results.push(scope.acks.await.map_err(|error| error.to_string()));
    }
    assert!(results[2].as_ref().unwrap_err().contains("ran longer than 2s"), "{results:?}");
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 4);
    assert_eq!(bench.rows("select a from t").await, [["3"], ["3"], ["3"], ["3"]]);
}

pub(crate) async fn guests_run_functions_and_statements(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Sql) {
        return commands::guests_run_functions_and_commands(factory).await;
    }
    let bench = Bench::with_tables(factory, &["create table t(a text)"], &[]).await;
    let (stores, options) = (&bench.stores, ActionOptions::default());
    let connector = bench.connector();
    let scope = bench.scope(publish(&bench, "a", "x"));
    for name in [&*connector, "pool1"] {
        stores.run(&scope, name, "on_message_publish", &options, AckLevel::Stored).await.unwrap();
    }
    let statements = ["insert into t values(${topic})".to_owned()];
    stores.execute(&scope, "pool1", &statements, AckLevel::Stored).await.unwrap();
    assert_eq!(scope.acks.clone().await, Ok(()));
    assert_eq!(bench.rows("select payload from mqtt_msg").await, [["x"]], "the same message is stored once");
    assert_eq!(bench.rows("select a from t").await, [["a"]]);

    let run = async |connector: &str, function: &str| {
        stores.run(&scope, connector, function, &options, AckLevel::Stored).await.unwrap_err().to_string()
    };
    assert_eq!(run("pool2", "on_message_publish").await, "no connector \"pool2\"");
    assert!(run("pool1", "on_retain_lookup").await.contains("cannot stand on message.publish"));
    assert!(run("pool1", "on_mesage_store").await.contains("did you mean \"on_message_store\"?"));
    let bad = ["insert into t values('${topic}')".to_owned()];
    let error = stores.execute(&scope, "pool1", &bad, AckLevel::Stored).await.unwrap_err();
    assert!(matches!(error, StorageError::InvalidArgument(m) if m.contains("inside quotes")));
    assert_eq!(stores.connectors(&Tenant::default()), [connector]);
    stores.check("pool1").await.unwrap();
}

pub(crate) async fn guests_query_with_typed_values(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Sql) {
        return takes_no_sql(factory).await;
    }
    let bench =
        Bench::with_tables(factory, &["create table v(i integer, r real, t text, b blob, n text)"], &[])
            .await;
    let (stores, tenant) = (&bench.stores, Tenant::default());
    let row = vec![
        SqlValue::Int64(i64::MIN),
        SqlValue::Float64(1.5),
        SqlValue::Text("größe".into()),
        SqlValue::Binary(vec![0, 255]),
        SqlValue::Null,
    ];
    let params = vec![row.clone(), row.clone()];
    assert_eq!(stores.exec(&tenant, "pool1", "insert into v values (?, ?, ?, ?, ?)", params).await, Ok(2));
    let rows = stores.query(
        &tenant,
        "pool1",
        "select * from v where i = ?1 limit ?2",
        vec![row[0].clone(), SqlValue::Uint64(1)],
    );
    let rows = rows.await.unwrap();
    assert_eq!(rows.columns, ["i", "r", "t", "b", "n"]);
    assert_eq!(rows.rows, [row]);

    let returning = "insert into v(i) values (?) returning i, t";
    let rows = stores.query(&tenant, "pool1", returning, vec![SqlValue::Boolean(true)]).await.unwrap();
    assert_eq!(rows.rows, [[SqlValue::Int64(1), SqlValue::Null]]);
    assert_eq!(bench.rows("select count(*) from v").await, [["3"]]);

    // All or nothing.
    let table = stores.exec(&tenant, "pool1", "create table u(a integer unique)", vec![vec![]]).await;
    assert_eq!(table, Ok(0), "a new table is no changed row");
    let params = vec![vec![SqlValue::Int64(1)], vec![SqlValue::Int64(2)], vec![SqlValue::Int64(1)]];
    let error = stores.exec(&tenant, "pool1", "insert into u values (?)", params).await.unwrap_err();
    assert!(matches!(&error, StorageError::Failed { retryable: false, .. }), "{error}");
    assert_eq!(bench.rows("select count(*) from u").await, [["0"]]);
    assert_eq!(stores.exec(&tenant, "pool1", "delete from u", vec![]).await, Ok(0));
}

pub(crate) async fn guests_cannot_reach_the_connection(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Sql) {
        return takes_no_sql(factory).await;
    }
    let bench = Bench::new(factory, &[]).await;
    let (stores, tenant) = (&bench.stores, Tenant::default());
    for bad in [
        "pragma synchronous = off",
        "attach 'x.db' as x",
        "begin",
        "select 1; select 2",
        "",
        "select :name",
        "vacuum into 'copy.db'",
    ] {
        let error = stores.query(&tenant, "pool1", bad, vec![]).await.unwrap_err();
        assert!(matches!(error, StorageError::InvalidArgument(_)), "{bad}: {error}");
        let error = stores.exec(&tenant, "pool1", bad, vec![vec![]]).await.unwrap_err();
        assert!(matches!(error, StorageError::InvalidArgument(_)), "{bad}: {error}");
    }
    let error = stores.query(&tenant, "pool1", "select ?", vec![]).await.unwrap_err();
    assert_eq!(error.to_string(), "the statement takes 1 parameters, 0 were given");
    let error = stores.query(&tenant, "pool1", "selekt", vec![]).await.unwrap_err();
    assert!(matches!(error, StorageError::InvalidArgument(_)), "{error}");
    let error = stores.query(&tenant, "pool1", "select nothing from nowhere", vec![]).await.unwrap_err();
    assert!(matches!(&error, StorageError::Failed { retryable: false, .. }), "{error}");

    // A statement without end is interrupted, reading or writing, and the store goes on.
    let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";
    let error = stores.query(&tenant, "pool1", endless, vec![]).await.unwrap_err();
    assert!(matches!(error, StorageError::Timeout { .. }), "{error}");
    let writing = format!("create table endless as {endless}");
    let error = stores.exec(&tenant, "pool1", &writing, vec![vec![]]).await.unwrap_err();
    assert!(matches!(error, StorageError::Timeout { .. }), "{error}");
    bench.exec("create table after(a)").await;
    assert_eq!(bench.rows("select count(*) from after").await, [["0"]]);
}

pub(crate) async fn a_guest_that_is_not_polled_holds_nobody_back(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Sql) {
        return takes_no_sql(factory).await;
    }
    let line = r##"message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}}"##;
    let bench = Bench::with_tables(factory, &["create table t(a integer)"], &[line]).await;
    let tenant = Tenant::default();
    let mut call = bench.stores.exec(&tenant, "pool1", "insert into t values(1)", vec![vec![]]);
    assert!(call.as_mut().now_or_never().is_none(), "begun, and then left alone");
    bench.publish_text("t", "x").await; // has a time limit
    assert_eq!(call.await, Ok(1));
}
