//! What guests ask of the host: storage, clients, configuration, context, log.

use std::time::Duration;

use futures_util::FutureExt as _;
use tidegate_event::{AckError, ControlError, Origin};

use crate::guests::{Bench, ask, message, publish, said};

#[tokio::test]
async fn an_enqueued_operation_holds_back_the_acknowledgement() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let scope = publish("run/fake:pool", b"hello");
    assert_eq!(said(module.call(&scope).await), "Ok(())");
    assert_eq!(bench.storage.asked(), ["fake:pool on_message_publish Stored"]);
    assert_eq!(scope.acks.clone().now_or_never(), None, "the store has not answered");
    bench.storage.complete();
    assert_eq!(scope.acks.now_or_never(), Some(Ok(())));

    let scope = publish("execute", b"");
    assert_eq!(said(module.call(&scope).await), "Ok(())");
    bench.storage.refuse();
    assert!(matches!(scope.acks.now_or_never(), Some(Err(AckError::Refused { .. }))));
    assert_eq!(bench.storage.asked()[1], "fake:pool [\"insert 1\", \"insert 2\"] Stored");
}

#[tokio::test]
async fn the_manifest_sets_the_level() {
    let bench = Bench::new();
    let module = bench.probe("ack = \"accepted\"").await;
    let scope = publish("run/fake:pool", b"");
    assert_eq!(said(module.call(&scope).await), "Ok(())");
    assert!(scope.acks.is_clear());
    assert_eq!(bench.storage.asked(), ["fake:pool on_message_publish Accepted"]);
}

#[tokio::test]
async fn waiting_forms_return_when_the_store_has_answered() {
    let bench = Bench::new();
    // Whatever the manifest's level is: who waits wants the store's answer.
    let module = bench.probe("ack = \"accepted\"").await;
    for (topic, complete, expected) in [
        ("run-wait/fake:pool", true, "Ok(())"),
        (
            "run-wait/fake:pool",
            false,
            "Err(Error::Failed(Failure { code: \"0x83\", message: \"too long\", retryable: false }))",
        ),
        ("execute-wait", true, "Ok(())"),
    ] {
        let scope = publish(topic, b"");
        let (acks, module) = (scope.acks.clone(), module.clone());
        let mut call = tokio::spawn(async move { said(module.call(&scope).await) });
        bench.storage.called.notified().await;
        let early = tokio::time::timeout(Duration::from_millis(30), &mut call).await;
        assert!(early.is_err(), "{topic}: it did not wait: {early:?}");
        if complete {
            bench.storage.complete()
        } else {
            bench.storage.refuse()
        }
        assert_eq!(call.await.unwrap(), expected, "{topic}");
        assert!(acks.is_clear(), "the event's own join has no part in it");
    }
    assert!(bench.storage.asked().iter().all(|line| line.ends_with("Stored")));
}

#[tokio::test]
async fn an_abandoned_operation_is_unavailable() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let scope = publish("run-wait/fake:pool", b"");
    let call = tokio::spawn(async move { said(module.call(&scope).await) });
    bench.storage.called.notified().await;
    bench.storage.parts.lock().clear();
    assert_eq!(call.await.unwrap(), "Err(Error::Unavailable)");
}

#[tokio::test]
async fn storage_errors_keep_their_kind() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    for (connector, expected) in [
        ("fake:down", "Err(Error::Unavailable)"),
        ("fake:slow", "Err(Error::Timeout)"),
        ("fake:full", "Err(Error::QuotaExceeded)"),
        (
            "fake:picky",
            "Err(Error::Failed(Failure { code: \"23505\", message: \"duplicate\", retryable: true }))",
        ),
        ("other:pool", "Err(Error::NoSuchConnector)"),
    ] {
        assert_eq!(ask(&module, &format!("run/{connector}")).await, expected, "{connector}");
    }
}

#[tokio::test]
async fn only_granted_connectors_are_reached() {
    let bench = Bench::new();
    let module = bench.probe("connectors = [\"pool\"]").await;
    assert_eq!(ask(&module, "run/fake:down").await, "Err(Error::AccessDenied)");
    assert_eq!(ask(&module, "run/fake:pool").await, "Ok(())");
    // A bare pool name means the connector that was granted.
    assert_eq!(ask(&module, "run/pool").await, "Ok(())");
    assert!(bench.storage.asked().iter().all(|line| line.starts_with("fake:pool ")));
}

#[tokio::test]
async fn another_message_is_stored_in_place_of_the_events() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let original = message("x", b"");
    assert_eq!(ask(&module, "run-with/same").await, "Ok(())");
    assert_eq!(ask(&module, "run-with/new").await, "Ok(())");
    let stored = bench.storage.messages.lock().clone();
    assert!(stored.iter().all(|message| &*message.payload == b"other" && &*message.sender == "c1"));
    assert_eq!((stored[0].id, stored[0].origin), (original.id, Origin::Client));
    assert_ne!(stored[1].id, original.id);
    assert_eq!(stored[1].origin, Origin::Module);
    let asked = bench.storage.asked();
    for part in
        ["expired_time: Some(60)", "max_returned_count: Some(5)", "payload_format: Some(\"mongo_json\")"]
    {
        assert!(asked[0].contains(part), "{asked:?}");
    }
}

#[tokio::test]
async fn an_event_number_is_good_for_its_call_only() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let refused = |number: &str, facts: &[&str]| {
        assert!(facts[0].contains("InvalidArgument") && facts[0].contains(number), "{facts:?}");
        assert!(facts[1].contains("is not the one being handled"), "{facts:?}");
        assert_eq!(facts[2], "false", "{facts:?}");
    };
    for _ in 0..2 {
        let facts = ask(&module, "stale").await;
        let facts: Vec<_> = facts.split("; ").collect();
        refused("event 0 ", &facts[..3]);
        refused("event", &facts[3..6]);
        refused("event", &facts[6..]);
    }
    assert!(bench.storage.asked().is_empty() && bench.control.asked.lock().is_empty());
}

#[tokio::test]
async fn statements_carry_typed_values() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    assert_eq!(
        ask(&module, "sql").await,
        "Ok(Rows { columns: [\"a\"], rows: [[Value::Binary([1, 2])]] }) Ok(1) Ok(2)"
    );
    assert_eq!(bench.storage.asked()[0], "fake:pool default select ? [Int64(1), Text(\"é\"), Null]");
}

#[tokio::test]
async fn commands_are_bytes_and_replies_keep_their_types() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    assert_eq!(
        ask(&module, "redis/fake:pool").await,
        "Ok([Node::Bytes([1, 255])]) \
         Err(Error::Failed(Failure { code: \"ERR\", message: \"told to\", retryable: false })) \
         Ok([[Node::List(Span { first: 1, count: 2 }), Node::List(Span { first: 3, count: 1 }), Node::Integer(7), Node::Nil], \
         [Node::Error(Failure { code: \"ERR\", message: \"told to\", retryable: false })]])"
    );
    assert_eq!(
        bench.storage.asked(),
        [
            r#"fake:pool default ["GET \\x00\\xff"]"#,
            r#"fake:pool default ["FAIL"]"#,
            r#"fake:pool default ["NEST", "FAIL"]"#
        ]
    );
}

#[tokio::test]
async fn commands_are_refused_as_other_storage_calls_are() {
    let bench = Bench::new();
    let module = bench.probe("connectors = [\"fake:pool\", \"fake:picky\", \"fake:down\"]").await;
    for (topic, expected) in [
        ("redis/fake:slow", "Err(Error::AccessDenied) Err(Error::AccessDenied) Err(Error::AccessDenied)"),
        ("redis/fake:down", "Err(Error::Unavailable) Err(Error::Unavailable) Err(Error::Unavailable)"),
        ("redis-many/0", "Ok(0)"),
        ("redis-many/1000", "Ok(1000)"),
    ] {
        assert_eq!(ask(&module, topic).await, expected, "{topic}");
    }
    let refused = ask(&module, "redis/fake:picky").await;
    assert!(refused.starts_with("Err(Error::InvalidArgument(\"fake takes no commands\"))"), "{refused}");
    let refused = ask(&module, "redis-many/1001").await;
    assert!(
        refused.contains("InvalidArgument") && refused.contains("1001 commands in one call"),
        "{refused}"
    );
    assert!(bench.storage.asked().iter().all(|line| !line.starts_with("fake:slow")));
}

#[tokio::test]
async fn commands_count_as_storage_calls_and_their_bytes_as_handed_over() {
    let bench = Bench::new();
    let module = bench.probe("limits = { storage_ops = 3, hostcall_bytes = \"1MiB\" }").await;
    for _ in 0..2 {
        assert_eq!(ask(&module, "redis-ops").await, "3 Err(Error::QuotaExceeded)");
    }
    assert_eq!(bench.storage.asked().len(), 6);
    let refused = module.call(&publish("redis-bytes/2000000", b"")).await.unwrap_err().to_string();
    assert!(refused.contains("hostcall_bytes"), "{refused}");
    assert_eq!(bench.storage.asked().len(), 6);
}

#[tokio::test]
async fn clients_are_controlled() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let facts = ask(&module, "control/out").await;
    let facts: Vec<_> = facts.split("; ").collect();
    assert_eq!((facts[0], facts[1], facts[2], facts[4]), ("Ok(())", "Ok(())", "Ok(())", "Ok(())"));
    assert!(facts[3].contains("Error::InvalidTopic") && facts[3].contains("a/#/b"), "{facts:?}");
    assert_eq!(facts[5], "Err(Error::NoSuchClient)");
    assert_eq!(
        *bench.control.asked.lock(),
        ["deliver c2 out", "subscribe c2 a/+ AtLeastOnce", "unsubscribe c2 a/+", "disconnect nobody"]
    );
    let published = bench.control.published.lock();
    let (made, original) = (&published[0], message("x", b""));
    assert_eq!((made.hops, made.origin, made.publisher.is_none()), (3, Origin::Module, true));
    assert!(made.id != original.id && made.timestamp_ms > original.timestamp_ms);
    assert_eq!(made.properties.as_ref().unwrap().user.len(), 2);
}

#[tokio::test]
async fn refusals_of_the_broker_keep_their_kind() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    for (refusal, expected) in [
        (ControlError::HopLimit(8), "Err(Error::HopLimit)"),
        (ControlError::Busy, "Err(Error::Busy)"),
        (ControlError::Stopping, "Err(Error::Stopping)"),
    ] {
        *bench.control.refusal.lock() = Some(refusal);
        assert!(ask(&module, "control/out").await.starts_with(expected));
    }
    // The probe publishes on what is after the slash: nothing.
    let facts = ask(&module, "control").await;
    assert!(
        facts.starts_with("Err(Error::InvalidTopic(\"topic \\\"\\\": a topic must not be empty"),
        "{facts}"
    );
}

#[tokio::test]
async fn configuration_is_read_through_the_standard_interface() {
    let bench = Bench::new();
    std::fs::write(bench.dir().join("secret"), "s3cret\n").unwrap();
    let module = bench.probe("[config]\nunit = \"celsius\"\nkey = \"file:secret\"").await;
    assert_eq!(ask(&module, "config/unit").await, "Some(\"celsius\") of 2");
    assert_eq!(ask(&module, "config/key").await, "Some(\"s3cret\") of 2");
    assert_eq!(ask(&module, "config/none").await, "None of 2");
}

#[tokio::test]
async fn context_tells_the_rarer_facts() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    assert_eq!(
        ask(&module, "context").await,
        "Some(\"text/plain\") Some(\"60\") None Some([0, 255]) default test@127.0.0.1 Some(\"c1\")"
    );
}

#[tokio::test]
async fn guests_have_no_system() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let facts = ask(&module, "system").await;
    assert!(facts.starts_with("false Some(") && facts.ends_with(" 0"), "{facts}");
}

#[tokio::test]
async fn lines_of_guests_reach_the_log() {
    let log = crate::fakes::Log::default();
    let bench = Bench::new();
    let module = bench.probe("").await;
    {
        let _guard = tracing::subscriber::set_default(log.clone());
        module.call(&publish("log", b"hello")).await.unwrap();
    }
    let lines = log.lines();
    for (level, text) in [
        ("TRACE", "Level::Trace: hello"),
        ("DEBUG", "Level::Debug: hello"),
        ("INFO", "Level::Info: hello"),
        ("WARN", "Level::Warn: hello"),
        ("ERROR", "Level::Error: hello"),
        ("ERROR", "Level::Critical: hello"),
        ("INFO", "on standard output: hello"),
        ("WARN", "on standard error: hello"),
    ] {
        let line =
            lines.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {lines:#?}"));
        assert!(line.starts_with(level) && line.contains("module=m"), "{line}");
    }
}
