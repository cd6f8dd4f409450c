//! The hooks that a client needs leave from: what a guest sees, what it may answer, what a failure means.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_event::{Access, Event, Hook, Password, QoS, ReasonCode, Requested, Verdict};
use tidegate_module::{CallError, ErrorPolicy, GuestFailure};

use crate::fakes::Log;
use crate::guests::{Bench, client, message, scope};

fn authenticate(password: Option<&'static [u8]>) -> Event {
    let password = password.map(|bytes| Password::new(Bytes::from_static(bytes)));
    Event::ClientAuthenticate { client: client("c2"), password }
}

fn request(filter: &str) -> Arc<Requested> {
    Arc::new(Requested::parse(filter.into(), QoS::ExactlyOnce).unwrap())
}

fn publish(topic: &str) -> Event {
    Event::ClientAuthorize { client: client("c2"), access: Access::Publish(Arc::new(message(topic, b"x"))) }
}

fn access_to(filter: &str) -> Event {
    Event::ClientAuthorize { client: client("c2"), access: Access::Subscribe(request(filter)) }
}

fn subscribe(filter: &str) -> Event {
    Event::ClientSubscribe { client: client("c2"), request: request(filter) }
}

#[tokio::test]
async fn a_guest_sees_what_the_client_wants() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    for (event, expected) in [
        (authenticate(Some(b"\xffx")), "authenticate c2 [255, 120]"),
        (publish("t/1"), "authorize c2 Access::Publish t/1 Qos::AtLeastOnce true"),
        (access_to("$share/g/t/+"), "authorize c2 Access::Subscribe $share/g/t/+ Qos::ExactlyOnce false"),
        (subscribe("$share/g/t/+"), "subscribe c2 $share/g/t/+ Qos::ExactlyOnce"),
    ] {
        let error = module.call(&scope(event)).await.unwrap_err();
        assert!(
            matches!(&error, CallError::Guest(GuestFailure::Failed(said)) if said == expected),
            "{error}"
        );
    }
}

#[tokio::test]
async fn every_answer_comes_back() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    for (event, expected) in [
        (authenticate(None), "Pass"),
        (authenticate(Some(b"good")), "Allow"),
        (authenticate(Some(&[0x86])), "Reject(ReasonCode(134))"),
        (publish("ignore/x"), "Pass"),
        (publish("allow/x"), "Allow"),
        (publish("refuse/135"), "Reject(ReasonCode(135))"),
        (access_to("refuse/158"), "Reject(ReasonCode(158))"),
        (subscribe("ignore/#"), "Pass"),
        (subscribe("allow/#"), "Allow"),
        (subscribe("refuse/151"), "Reject(ReasonCode(151))"),
    ] {
        let verdict = module.call(&scope(event)).await.unwrap().verdict;
        assert_eq!(format!("{verdict:?}"), expected);
    }
    let answer = module.call(&scope(subscribe("change/other/#"))).await.unwrap();
    let Verdict::Change(changed) = answer.verdict else { panic!("change") };
    assert_eq!((&*changed.text, changed.qos), ("other/#", QoS::AtMostOnce));
}

#[tokio::test]
async fn an_answer_that_the_packet_cannot_carry_is_an_error() {
    let bench = Bench::new();
    let module = bench.probe("").await;
    for (event, part) in [
        (authenticate(Some(&[0x00])), "reason code 0x00 is none a connection can be refused with"),
        (authenticate(Some(&[0x8f])), "reason code 0x8f is none a connection can be refused with"),
        (publish("refuse/134"), "reason code 0x86 is none a publish can be refused with"),
        (access_to("refuse/144"), "reason code 0x90 is none a subscription can be refused with"),
        (subscribe("refuse/1"), "reason code 0x01 is none a subscription can be refused with"),
        (subscribe("change/a/!/b"), "filter \"a/#/b\""),
        (subscribe("change/$share/g"), "filter \"$share/g\""),
    ] {
        let error = module.call(&scope(event)).await.unwrap_err();
        assert!(matches!(&error, CallError::Answer(text) if text.contains(part)), "{error}");
    }
    assert_eq!((module.stats().instances, module.stats().errors), (1, 7), "the instance is well");
}

#[tokio::test]
async fn failures_refuse_unless_the_manifest_says_otherwise() {
    let bench = Bench::new();
    for (manifest, expected) in [
        ("", ErrorPolicy::Reject),
        ("[on_error]\npolicy = \"retry\"", ErrorPolicy::Reject),
        ("[on_error]\npolicy = \"reject\"", ErrorPolicy::Reject),
        ("[on_error]\npolicy = \"drop\"", ErrorPolicy::Drop),
        ("[on_error]\npolicy = \"pass\"", ErrorPolicy::Pass),
    ] {
        let module = bench.probe(manifest).await;
        for hook in [Hook::ClientAuthenticate, Hook::ClientAuthorize, Hook::ClientSubscribe] {
            assert_eq!(module.policy(hook), expected, "{manifest}");
        }
    }
    assert_eq!(Hook::ClientAuthenticate.failure(), ReasonCode::SERVER_UNAVAILABLE);
}

#[tokio::test]
async fn a_password_is_in_no_log_line() {
    let log = Log::default();
    let guard = tracing::subscriber::set_default(log.clone());
    let bench = Bench::new();
    let module = bench.probe("[limits]\ncpu = \"20ms\"").await;
    module.call(&scope(authenticate(Some(b"loop hunter2")))).await.unwrap_err();
    drop(guard);
    let lines = log.lines();
    let line = lines.iter().find(|line| line.contains("the module failed")).unwrap();
    assert!(line.contains("hook=client.authenticate") && line.contains("client=c2"), "{line}");
    assert!(lines.iter().all(|line| !line.contains("hunter2")), "{lines:?}");
}
