//! What becomes of events that a module does not handle: further attempts, policies, dead letters, poison, the circuit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine as _;
use tidegate_event::{Event, Hook, MsgId, Scope, Tenant};
use tidegate_module::{CallError, CircuitState, ErrorPolicy, Module, Settled};

use crate::fakes::{Log, Recorder};
use crate::guests::{Bench, ask, client, guest, message, observer, publish, scope, session_created};

/// As a client sends a message again: with another id.
fn resent(id: u128, topic: &str, payload: &[u8]) -> Scope {
    let message = tidegate_event::Message { id: MsgId::from_bits(id), ..message(topic, payload) };
    scope(Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() })
}

async fn settled(module: &Module, scope: &Scope) -> Settled {
    module.handle(scope).await.expect_err("it fails")
}

#[tokio::test]
async fn policies_follow_the_hook() {
    use ErrorPolicy::{DeadLetter, Drop, Pass, Reject};
    let bench = Bench::new();
    for (policy, publish, deliver, acked) in [
        ("", Reject, Pass, DeadLetter),
        ("policy = \"pass\"", Pass, Pass, Pass),
        ("policy = \"drop\"", Drop, Drop, Pass),
        ("policy = \"reject\"", Reject, Drop, DeadLetter),
        ("policy = \"retry\"", Reject, Pass, DeadLetter),
        ("policy = \"retry\"\nthen = \"pass\"", Pass, Pass, Pass),
        ("policy = \"dead-letter\"", DeadLetter, DeadLetter, DeadLetter),
    ] {
        let module = bench.probe(&format!("[on_error]\n{policy}")).await;
        assert_eq!(module.policy(Hook::MessagePublish), publish, "{policy}");
        assert_eq!(module.policy(Hook::MessageDeliver), deliver, "{policy}");
        for observer in [Hook::MessageAcked, Hook::ClientConnected, Hook::SessionSubscribed] {
            assert_eq!(module.policy(observer), acked, "{policy}");
        }
    }
}

#[tokio::test]
async fn retries_are_made_as_the_manifest_says() {
    let bench = Bench::new();
    let module = bench.probe("[on_error]\npolicy = \"retry\"\nretries = 2\nbackoff = \"1ms\"").await;
    // The probe refuses two calls of three: the third attempt succeeds.
    assert!(module.call(&publish("recover", b"")).await.is_ok());
    let stats = module.stats();
    assert_eq!((stats.calls, stats.errors), (1, 0));
    // What will not get better is not tried again: call four, and no more.
    assert!(module.call(&publish("failed", b"")).await.is_err());
    assert_eq!(ask(&module, "count").await, "5");
}

#[tokio::test]
async fn what_follows_the_last_attempt_is_in_the_manifest() {
    let bench = Bench::new();
    let retry = "policy = \"retry\"\nretries = 1\nbackoff = \"1ms\"";
    for (then, expected) in [
        ("", Settled::Reject),
        ("then = \"pass\"", Settled::Pass),
        ("then = \"drop\"", Settled::Drop),
        ("then = \"reject\"", Settled::Reject),
        ("then = \"dead-letter\"", Settled::Drop),
    ] {
        let module = bench.probe(&format!("[on_error]\n{retry}\n{then}")).await;
        assert_eq!(settled(&module, &publish("retry", b"")).await, expected, "{then}");
        assert_eq!(ask(&module, "count").await, "3", "{then}: two attempts");
    }
    assert_eq!(bench.letters.one()["attempts"], 2);
}

#[tokio::test]
async fn a_dead_letter_has_everything_to_understand_and_to_repeat() {
    let bench = Bench::new();
    let manifest = "[on_error]\npolicy = \"dead-letter\"\ndead_letter_topic = \"dead/letters\"";
    let module = bench.probe(manifest).await;
    assert_eq!(settled(&module, &publish("panic/x", b"\xff\x00")).await, Settled::Drop);

    let letter = bench.letters.one();
    let text = |pointer: &str| letter.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default();
    for (pointer, expected) in [
        ("/module", "m"),
        ("/version", module.hash()),
        ("/hook", "message.publish"),
        ("/reason", "policy"),
        ("/tenant", "default"),
        ("/node", "test@127.0.0.1"),
        ("/error/kind", "trap"),
        ("/client/id", "c1"),
        ("/client/username", "user"),
        ("/topic", "panic/x"),
        ("/message/id", "0005F65F239F03FEF44300000BB40002"),
        ("/message/sender", "c1"),
        ("/message/topic", "panic/x"),
        ("/message/properties/content_type", "text/plain"),
        ("/message/properties/correlation_data", "AP8="),
    ] {
        assert_eq!(text(pointer), expected, "{pointer} of {letter:#}");
    }
    let payload = base64::engine::general_purpose::STANDARD.decode(text("/message/payload")).unwrap();
    assert_eq!(payload, b"\xff\x00");
    let packet = &letter["message"];
    assert_eq!((packet["qos"].as_u64(), packet["retain"].as_bool()), (Some(1), Some(true)));
    assert_eq!(packet["properties"]["user"], serde_json::json!([["k", "v"], ["k", "w"]]));
    assert_eq!(letter["attempts"], 1);
    assert!(text("/time").ends_with('Z'), "{letter:#}");
    assert!(text("/error/text").contains("unreachable") && !text("/error/text").contains('\n'), "{letter:#}");
    assert!(text("/error/backtrace").contains("on_message_publish"), "{letter:#}");
    assert!(text("/error/stderr").contains("told to panic by x"), "{letter:#}");

    let published = bench.control.published.lock();
    let [copy] = published.as_slice() else { panic!("{published:?}") };
    assert_eq!((copy.topic.as_str(), copy.hops), ("dead/letters", 3), "one hop more than the message had");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&copy.payload).unwrap(), letter);
}

#[tokio::test]
async fn a_letter_about_a_letter_is_kept_and_not_published() {
    let bench = Bench::new();
    let module =
        bench.probe("[on_error]\npolicy = \"dead-letter\"\ndead_letter_topic = \"panic/again\"").await;
    assert_eq!(settled(&module, &publish("panic/again", b"")).await, Settled::Drop);
    assert_eq!((bench.letters.all().len(), bench.control.published.lock().len()), (1, 0));
}

/// Nothing that was accepted is lost: without the letter the event does not count as handled.
#[tokio::test]
async fn an_event_whose_letter_cannot_be_written_is_refused() {
    let recorder = Recorder::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::new();
    bench.letters.full.store(true, Ordering::Relaxed);
    let module =
        bench.probe("[on_error]\npolicy = \"dead-letter\"\ndead_letter_topic = \"dead/letters\"").await;
    assert_eq!(settled(&module, &publish("panic/x", b"")).await, Settled::Reject);
    let delivery = Event::MessageDeliver { client: client("c2"), message: Arc::new(message("failed", b"")) };
    assert_eq!(settled(&module, &scope(delivery)).await, Settled::Pass, "a delivery cannot be refused");
    let count =
        |result| recorder.counter(&format!("tidegate_module_dead_letters_total{{module=m,result={result}}}"));
    assert_eq!((count("kept"), count("failed")), (0, 2));
    assert_eq!(bench.control.published.lock().len(), 0);

    bench.letters.full.store(false, Ordering::Relaxed);
    assert_eq!(settled(&module, &publish("panic/x", b"")).await, Settled::Drop);
    assert_eq!((count("kept"), count("failed")), (1, 2));

    let none = Bench::with(|config| config.dead_letters = None);
    let module = none.probe("[on_error]\npolicy = \"dead-letter\"").await;
    assert_eq!(settled(&module, &publish("panic/x", b"")).await, Settled::Reject);
}

#[tokio::test]
async fn observers_are_tried_again_and_then_written_down() {
    let bench = Bench::new();
    let module = bench.load(&observer("", "unreachable"), "").await.unwrap();
    assert_eq!(settled(&module, &session_created()).await, Settled::Pass);
    let letter = bench.letters.one();
    assert_eq!((&letter["hook"], &letter["attempts"]), (&"session.created".into(), &4.into()));
    assert_eq!((&letter["client"]["id"], letter.get("message")), (&"c1".into(), None));
    // An answer that will not get better is not asked for again.
    let bench = Bench::new();
    let module = bench.probe("").await;
    let event =
        Event::SessionUnsubscribed { client: client("c2"), filter: "a/+".parse().unwrap(), shared: false };
    assert_eq!(settled(&module, &scope(event)).await, Settled::Pass);
    let letter = bench.letters.one();
    assert_eq!((&letter["attempts"], &letter["topic"]), (&1.into(), &"a/+".into()));
    assert_eq!(letter["error"]["text"], "it answered: unsubscribed c2 a/+");
}

/// The client's next event waits for this one.
#[tokio::test]
async fn observers_hold_up_their_client_for_a_second_at_most() {
    let bench = Bench::new();
    let manifest = "[on_error]\npolicy = \"retry\"\nretries = 50\nbackoff = \"250ms\"";
    let module = bench.load(&observer("", "unreachable"), manifest).await.unwrap();
    let started = Instant::now();
    assert_eq!(settled(&module, &session_created()).await, Settled::Pass);
    assert!(started.elapsed() < Duration::from_millis(1_500), "{:?}", started.elapsed());
    // After 250 and 500 ms; the next one would come too late.
    assert_eq!(bench.letters.one()["attempts"], 3);
}

#[tokio::test]
async fn a_message_that_fails_again_and_again_is_a_dead_letter() {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.clone());
    let recorder = Recorder::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::new();
    let module = bench.probe("").await;
    for time in 1..=5 {
        // Others, from the same client, are served meanwhile and not suspected.
        assert!(module.handle(&publish("pass", b"poison")).await.is_ok());
        let other = format!("other {time}");
        assert_eq!(settled(&module, &resent(time, "failed", other.as_bytes())).await, Settled::Reject);
        let expected = if time < 5 { Settled::Reject } else { Settled::Drop };
        assert_eq!(settled(&module, &resent(100 + time, "panic/x", b"poison")).await, expected, "{time}");
    }
    let letter = bench.letters.one();
    assert_eq!((&letter["reason"], &letter["attempts"]), (&"poison".into(), &5.into()));
    assert_eq!(
        letter["error"]["stderr"].as_str().map(|said| said.contains("told to panic by x")),
        Some(true)
    );
    assert_eq!(recorder.counter("tidegate_module_poison_total{module=m}"), 1);
    let said =
        log.lines().into_iter().filter(|line| line.contains("an event is a dead letter")).collect::<Vec<_>>();
    assert!(said.len() == 1 && said[0].contains("reason=poison") && said[0].contains("module=m"), "{said:?}");
    // It is dealt with: should the client send the like again, it is counted anew.
    assert_eq!(settled(&module, &resent(7, "panic/x", b"poison")).await, Settled::Reject);
}

#[tokio::test]
async fn the_number_of_failures_that_make_poison_is_in_the_manifest() {
    let bench = Bench::new();
    let module = bench.probe("[on_error]\npoison_after = 2").await;
    for expected in [Settled::Reject, Settled::Drop] {
        assert_eq!(settled(&module, &publish("failed", b"")).await, expected);
    }
    let module = bench.probe("[on_error]\npoison_after = 0").await;
    for _ in 0..8 {
        assert_eq!(settled(&module, &publish("failed", b"")).await, Settled::Reject);
    }
    // Where the policy ends the message anyway nothing is kept.
    let module = bench.probe("[on_error]\npoison_after = 1\npolicy = \"drop\"").await;
    assert_eq!(settled(&module, &publish("failed", b"")).await, Settled::Drop);
    assert_eq!(bench.letters.all().len(), 1);
}

#[tokio::test]
async fn a_poisonous_message_that_cannot_be_kept_is_refused_until_it_can() {
    let bench = Bench::new();
    bench.letters.full.store(true, Ordering::Relaxed);
    let module = bench.probe("[on_error]\npoison_after = 1").await;
    for _ in 0..3 {
        assert_eq!(settled(&module, &publish("failed", b"")).await, Settled::Reject);
    }
    bench.letters.full.store(false, Ordering::Relaxed);
    assert_eq!(settled(&module, &publish("failed", b"")).await, Settled::Drop);
    assert_eq!(bench.letters.one()["attempts"], 4);
}

/// Fails ten events of as many messages: the module's circuit opens.
async fn break_circuit(module: &Module) {
    for event in 0..10 {
        assert_eq!(module.stats().circuit, CircuitState::Closed, "after {event}");
        let payload = [event];
        let error = module.call(&publish("panic/x", &payload)).await.unwrap_err();
        assert!(matches!(error, CallError::Trap { .. }), "{error}");
    }
    assert_eq!(module.stats().circuit, CircuitState::Open);
}

#[tokio::test]
async fn a_module_that_keeps_failing_is_not_called_until_it_works_again() {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.clone());
    let recorder = Recorder::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::new();
    // Mandatory or not, an event goes to the policy, which refuses it.
    let module = bench.probe("mandatory = true").await;
    break_circuit(&module).await;
    let opened = Instant::now();
    assert!((recorder.gauge("tidegate_module_circuit_open{module=m}") - 1.0).abs() < 0.1);

    let error = module.call(&publish("pass", b"")).await.unwrap_err();
    assert!(matches!(error, CallError::CircuitOpen(left) if left <= Duration::from_secs(1)), "{error}");
    for _ in 0..10 {
        assert_eq!(settled(&module, &publish("pass", b"the same")).await, Settled::Reject);
    }
    let stats = module.stats();
    assert_eq!((stats.calls, stats.errors, stats.skipped, stats.circuit_opened), (10, 10, 11, 1));
    assert_eq!(bench.letters.all().len(), 0, "what was not called has not failed: it is no poison");

    tokio::time::sleep_until((opened + Duration::from_millis(1_020)).into()).await;
    assert!(module.handle(&publish("pass", b"")).await.is_ok());
    assert_eq!(module.stats().circuit, CircuitState::Closed);
    assert!(module.handle(&publish("pass", b"")).await.is_ok());
    assert!(recorder.gauge("tidegate_module_circuit_open{module=m}").abs() < 0.1);
    assert_eq!(recorder.counter("tidegate_module_circuit_opened_total{module=m}"), 1);
    assert_eq!(recorder.counter("tidegate_module_skipped_total{module=m}"), 11);
    let lines = log.lines();
    for part in ["its circuit is open", "its circuit is closed"] {
        let said = lines.iter().filter(|line| line.contains(part) && line.contains("module=m")).count();
        assert_eq!(said, 1, "{part} in {lines:#?}");
    }
}

#[tokio::test]
async fn one_event_probes_while_the_others_go_to_the_policy() {
    let bench = Bench::new();
    let module = bench.probe("[on_error]\npolicy = \"pass\"").await;
    break_circuit(&module).await;
    tokio::time::sleep(Duration::from_millis(1_020)).await;
    let probing = tokio::spawn({
        let module = module.clone();
        async move { module.call(&publish("sleep/50", b"")).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(module.stats().circuit, CircuitState::HalfOpen);
    assert_eq!(settled(&module, &publish("pass", b"")).await, Settled::Pass);
    assert!(probing.await.unwrap().is_ok());
    assert_eq!(module.stats().circuit, CircuitState::Closed);

    // A probe that fails leaves it open for longer than at first.
    break_circuit(&module).await;
    tokio::time::sleep(Duration::from_millis(1_020)).await;
    let error = module.call(&publish("panic/x", b"")).await.unwrap_err();
    assert!(matches!(error, CallError::Trap { .. }), "{error}");
    let error = module.call(&publish("pass", b"")).await.unwrap_err();
    assert!(matches!(error, CallError::CircuitOpen(left) if left > Duration::from_secs(1)), "{error}");
}

#[tokio::test]
async fn waiting_for_a_place_is_no_failure_of_the_module() {
    let bench = Bench::with(|config| config.max_instances = 2);
    let fresh = "instances = { mode = \"fresh\" }\nlimits = { timeout = \"10ms\" }";
    let module = bench.load(&guest("pass"), fresh).await.unwrap();
    // They take the host's places and keep them.
    let mut others = Vec::new();
    for name in ["one", "other"] {
        let path = bench.write(name, &guest("probe"), "instances = { mode = \"single\" }");
        others.push(bench.host.load(&path, &Tenant::default()).await.unwrap());
    }
    for _ in 0..20 {
        let error = module.call(&publish("t", b"")).await.unwrap_err();
        assert!(matches!(error, CallError::Busy(_)), "{error}");
    }
    assert_eq!(module.stats().circuit, CircuitState::Closed);
}
