//! The end of a version: calls in flight finish on it or are interrupted, instances go.

use super::*;
use crate::guests::said;
use tidegate_module::CallError;

/// A call of `module` on `topic`, running.
fn calling(
    module: &Arc<Module>,
    topic: &str,
) -> tokio::task::JoinHandle<Result<tidegate_module::Answer, CallError>> {
    let (module, scope) = (module.clone(), publish(topic, b"hello"));
    tokio::spawn(async move { module.call(&scope).await })
}

async fn until_without_instances(module: &Module) {
    for _ in 0..1_000 {
        if module.stats().instances == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", module.stats());
}

#[tokio::test]
async fn a_call_in_flight_finishes_on_its_version_and_the_instances_go() {
    let probe = guest("probe");
    let mut followed = Followed::with(&[("m", &probe)]).await;
    let old = followed.until_serving(&probe).await;
    // Compiled before, so that the swap does not take as long as the calls.
    let elsewhere = followed.bench.root.path().join("elsewhere.wasm");
    fs::write(&elsewhere, variant(probe.clone(), 1)).unwrap();
    drop(followed.bench.host.load(&elsewhere, &Tenant::default()).await.unwrap());
    let calls = [calling(&old, "sleep/2000"), calling(&old, "sleep/2000")];
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (instances, idle) = (old.stats().instances, old.stats().idle);
    assert_eq!((instances, idle), (2, 0));
    fs::write(followed.path("m"), variant(probe.clone(), 1)).unwrap();
    let new = followed.until_serving(&variant(probe, 1)).await;
    assert!(calls.iter().all(|call| !call.is_finished()), "the swap does not wait for them");
    for call in calls {
        assert!(matches!(call.await.unwrap().unwrap().verdict, Verdict::Pass));
    }
    assert_eq!((old.stats().calls, new.stats().calls), (2, 0));
    until_without_instances(&old).await;
    // Whoever still has the old one, as the handlers of an event in flight, can call it.
    assert_eq!(crate::guests::ask(&old, "count").await, "1");
    until_without_instances(&old).await;
}

#[tokio::test]
async fn a_call_that_does_not_end_is_interrupted_and_later_ones_go_to_the_new_version() {
    let probe = guest("probe");
    let bench = Bench::with(|config: &mut HostConfig| config.retire = Duration::from_millis(300));
    bench.write("m", &probe, "[limits]\ncpu = \"20s\"");
    let mut followed = Followed::open(bench).await;
    let old = followed.until_serving(&probe).await;
    let calls = [calling(&old, "sleep/25000"), calling(&old, "loop")];
    tokio::time::sleep(Duration::from_millis(100)).await;
    let upper = guest("upper");
    let saved = std::time::Instant::now();
    fs::write(followed.path("m"), &upper).unwrap();
    followed.until_serving(&upper).await;
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::Interrupted), "{error}");
        assert_eq!(error.to_string(), "it was interrupted: another version serves");
    }
    assert!(saved.elapsed() < Duration::from_secs(15), "{:?}", saved.elapsed());
    until_without_instances(&old).await;
    assert_eq!(said(old.call(&publish("t", b"hello")).await), "HELLO");
}

#[tokio::test]
async fn a_call_of_a_deleted_module_finishes_and_one_that_comes_too_late_passes() {
    let bench = Bench::with(|config: &mut HostConfig| config.retire = Duration::from_millis(300));
    bench.write("m", &guest("upper"), "");
    let mut followed = Followed::open(bench).await;
    let old = followed.until(|now| now.len() == 1).await[0].clone();
    fs::remove_file(followed.path("m")).unwrap();
    followed.until(Vec::is_empty).await;
    assert_eq!(payload(&old).await, b"HELLO", "an event that began before");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(payload(&old).await, b"hello");
}
