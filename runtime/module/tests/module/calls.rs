//! Every hook, every verdict, every way an answer can be wrong.

use std::sync::Arc;

use tidegate_event::{
    DisconnectReason, Event, Hook, MsgId, Origin, QoS, ReasonCode, Tenant, TopicFilter, Verdict,
};
use tidegate_module::{CallError, GuestFailure};

use crate::guests::{Bench, ask, client, guest, message, publish, scope};

#[tokio::test]
async fn a_guest_sees_the_whole_message() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    assert_eq!(
        ask(&module, "sees").await,
        "0005F65F239F03FEF44300000BB40002 hello Qos::AtLeastOnce true false 1700000000123 \
         [(\"k\", \"v\"), (\"k\", \"w\")] from Some(\"c1 Some(\\\"user\\\") 127.0.0.1:4321 5\")"
    );
    // A message that no client sent has none.
    let mut alone = message("sees", b"x");
    alone.publisher = None;
    alone.properties = None;
    let event = Event::MessagePublish { message: Arc::new(alone), tenant: Tenant::default() };
    assert!(crate::guests::said(module.call(&scope(event)).await).ends_with("[] from None"));
}

/// An event's future holds the one of its call, and is copied into its box: what only few calls need (making an
/// instance, trying again) is not in it. Most of the bound is wasmtime's own: its
/// concurrent calls are compiled in, which takes 1,100 bytes more than its calls without them, whether or not a guest is
/// of that kind.
#[tokio::test]
async fn the_future_of_a_call_is_small() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let scope = publish("pass", b"hello");
    let size = size_of_val(&module.call(&scope));
    assert!(size <= 2_816, "{size} bytes");
}

#[tokio::test]
async fn every_verdict_comes_back() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let verdict = async |topic: &str| module.call(&publish(topic, b"hello")).await.unwrap().verdict;
    assert!(matches!(verdict("pass").await, Verdict::Pass));
    assert!(matches!(verdict("drop").await, Verdict::Drop));
    assert!(matches!(verdict("reject/135").await, Verdict::Reject(ReasonCode(0x87))));

    let original = message("replace", b"hello");
    let Verdict::Replace(replaced) = verdict("replace").await else { panic!("replace") };
    assert_eq!((replaced.topic.as_str(), &*replaced.payload), ("replaced", &b"hello"[..]));
    assert_eq!((replaced.id, replaced.hops, replaced.origin), (original.id, 2, Origin::Client));
    assert_eq!((replaced.qos, replaced.retain, &*replaced.sender), (QoS::AtMostOnce, true, "c1"));
    let properties = replaced.properties.as_ref().unwrap();
    assert_eq!(properties.user, [("made".into(), "here".into())]);
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));

    let Verdict::FanOut(messages) = verdict("fanout").await else { panic!("fan-out") };
    let topics: Vec<_> = messages.iter().map(|m| m.topic.as_str()).collect();
    assert_eq!(topics, ["out/0", "out/1", "out/2"]);
    assert!(messages.iter().all(|m| m.id != original.id && m.origin == Origin::Module && m.hops == 2));
}

#[tokio::test]
async fn what_cannot_be_used_is_said_and_the_instance_lives() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    for (topic, part) in [("bad-topic", "topic \"a/#\""), ("reject/1", "reason code 0x01")] {
        let error = module.call(&publish(topic, b"")).await.unwrap_err();
        assert!(matches!(&error, CallError::Answer(text) if text.contains(part)), "{error}");
    }
    for (topic, failure) in
        [("retry", GuestFailure::Retry("not now".into())), ("failed", GuestFailure::Failed("never".into()))]
    {
        let error = module.call(&publish(topic, b"")).await.unwrap_err();
        assert!(matches!(&error, CallError::Guest(said) if *said == failure), "{error}");
    }
    assert_eq!(ask(&module, "count").await, "5", "it was one instance all the time");
    let stats = module.stats();
    assert_eq!((stats.calls, stats.errors, stats.instances, stats.idle), (5, 4, 1, 1));
    assert!(!stats.time.is_zero());
}

#[tokio::test]
async fn every_hook_is_called_with_its_own_words() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let hooks: Vec<_> = module.hooks().iter().map(|(hook, filters)| (*hook, filters.len())).collect();
    assert_eq!(hooks, Hook::all().map(|hook| (hook, 0)).collect::<Vec<_>>());
    let filter: TopicFilter = "a/+".parse().unwrap();
    for (event, expected) in [
        (
            Event::MessageAcked {
                client: client("c2"),
                message: Arc::new(message("t", b"")),
                through: None,
                explicit: true,
            },
            "acked c2 t",
        ),
        (
            Event::ClientDisconnected { client: client("c2"), reason: DisconnectReason::KeepAliveTimeout },
            "disconnected c2 keepalive_timeout",
        ),
        (
            Event::SessionCreated { client: client("c2") },
            "created c2 Err(Error::InvalidArgument(\"session.created has no message to store instead of\"))",
        ),
        (
            Event::SessionSubscribed {
                client: client("c2"),
                filter: filter.clone(),
                qos: QoS::ExactlyOnce,
                shared: false,
            },
            "subscribed c2 a/+ Qos::ExactlyOnce",
        ),
        (Event::SessionUnsubscribed { client: client("c2"), filter, shared: false }, "unsubscribed c2 a/+"),
    ] {
        let error = module.call(&scope(event)).await.unwrap_err();
        assert!(
            matches!(&error, CallError::Guest(GuestFailure::Failed(said)) if said == expected),
            "{error}"
        );
    }
}

#[tokio::test]
async fn deliveries_are_decided() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let deliver = async |topic: &str| {
        let message = Arc::new(message(topic, b"x"));
        module.call(&scope(Event::MessageDeliver { client: client("c2"), message })).await
    };
    assert!(matches!(deliver("pass").await.unwrap().verdict, Verdict::Pass));
    assert!(matches!(deliver("drop").await.unwrap().verdict, Verdict::Drop));
    assert!(deliver("failed").await.is_err());
    let Verdict::Replace(message) = deliver("replace").await.unwrap().verdict else { panic!("replace") };
    assert_eq!((message.topic.as_str(), &*message.payload), ("replaced", &b"c2"[..]));
    assert_eq!(
        (message.qos, message.retain),
        (QoS::AtLeastOnce, true),
        "only topic, payload, user properties"
    );
    assert_ne!(message.id, MsgId::from_bits(0));
}

#[tokio::test]
async fn subscriptions_of_client_connected_are_checked() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    let answer = module.call(&scope(Event::ClientConnected { client: client("c2") })).await.unwrap();
    assert_eq!(answer.subscriptions, [("inbox/c2".parse().unwrap(), QoS::ExactlyOnce)]);
    let error = module.call(&scope(Event::ClientConnected { client: client("bad") })).await.unwrap_err();
    assert!(matches!(&error, CallError::Answer(text) if text.contains("a/#/b")), "{error}");
}

#[tokio::test]
async fn a_hook_that_is_not_exported_is_not_handled() {
    let bench = Bench::new();
    let module = bench.load(&guest("pass"), "").await.unwrap();
    let error = module.call(&scope(Event::SessionCreated { client: client("c") })).await.unwrap_err();
    assert!(matches!(error, CallError::NotHandled("session.created")), "{error}");
}

#[tokio::test]
async fn modes_decide_what_an_instance_remembers() {
    let bench = Bench::new();
    for (mode, second) in [("warm", "2"), ("fresh", "1"), ("single", "2")] {
        let module = bench.probe(&format!("instances = {{ mode = \"{mode}\" }}")).await;
        assert_eq!(ask(&module, "count").await, "1", "{mode}");
        assert_eq!(ask(&module, "count").await, second, "{mode}");
    }
    let module = bench.probe("instances = { recycle_calls = 2 }").await;
    let mut counts = Vec::new();
    for _ in 0..5 {
        counts.push(ask(&module, "count").await);
    }
    assert_eq!(counts, ["1", "2", "1", "2", "1"]);
}

#[tokio::test]
async fn a_fresh_instance_goes_when_its_call_ends() {
    // One place in the host: an instance that stayed would let no other begin.
    let bench = Bench::with(|config| config.max_instances = 1);
    let module = bench.load(&guest("pass"), "instances = { mode = \"fresh\" }").await.unwrap();
    for call in 1..=1_000 {
        let answer = module.call(&publish("t", &[b'x'; 200])).await.unwrap();
        assert!(matches!(answer.verdict, Verdict::Pass), "call {call}");
        assert_eq!(module.stats().instances, 0, "after call {call}");
    }
    assert_eq!((module.stats().calls, module.stats().errors), (1_000, 0));
}

/// It is a part of every event in flight, of which a client may have a thousand.
#[tokio::test]
async fn a_calls_future_is_small() {
    let bench = Bench::new();
    let module = bench.load(&guest("pass"), "").await.unwrap();
    let scope = publish("t", b"");
    let bytes = size_of_val(&module.call(&scope));
    println!("a call's future has {bytes} bytes");
    assert!(bytes <= 4_096, "{bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_instance_handles_one_event_after_the_other() {
    let bench = Bench::new();
    let module = bench.probe("instances = { mode = \"single\" }").await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let module = module.clone();
            tokio::spawn(async move { ask(&module, "count").await.parse::<u32>().unwrap() })
        })
        .collect();
    let mut counts = Vec::new();
    for call in calls {
        counts.push(call.await.unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=20).collect::<Vec<_>>());
    assert_eq!(module.stats().instances, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_guests_run_side_by_side_and_are_then_let_go() {
    let bench = Bench::new();
    let module = bench.probe("instances = { idle = 2, max = 8 }").await;
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let module = module.clone();
            tokio::spawn(async move { module.call(&publish("sleep/50", b"")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let stats = module.stats();
    assert_eq!((stats.instances, stats.idle), (2, 2), "{stats:?}");
    // Nobody needs the two for a while: the first trim sees that, the second lets them go.
    module.trim();
    module.trim();
    assert_eq!(module.stats().instances, 0);
    assert_eq!(ask(&module, "count").await, "1");
}
