//! Trials of new versions: a share of clients, promotion, rollback.

use tidegate_module::{CircuitState, CommandError};

use super::*;
use crate::fakes::Recorder;
use crate::guests::{client, message, scope};
use tidegate_event::{Access, Event, QoS, Requested, Scope};

const CLIENTS: usize = 200;

fn from(id: usize, topic: &str) -> Scope {
    let mut message = message(topic, b"hello");
    message.publisher = Some(client(&format!("client-{id}")));
    scope(Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() })
}

/// Which clients a version that answers in upper case serves.
async fn served(module: &Module) -> Vec<bool> {
    let mut served = Vec::new();
    for id in 0..CLIENTS {
        served.push(match module.call(&from(id, "pass")).await.unwrap().verdict {
            Verdict::Replace(message) => {
                assert_eq!(&message.payload[..], b"HELLO");
                true
            }
            _ => false,
        });
    }
    served
}

impl Followed {
    /// Serves `pass` and saves `next` beside `manifest`, which are seen at one time.
    async fn tried(next: &[u8], manifest: &str) -> (Self, Arc<Module>) {
        let mut followed = Self::with(&[("m", &guest("pass"))]).await;
        let old = followed.until(|now| now.len() == 1).await[0].clone();
        followed.bench.write("m", next, manifest);
        let hash = blake3::hash(next).to_hex();
        followed.until(|now| now[0].trial().is_some() && now[0].hash() == hash.as_str()).await;
        (followed, old)
    }

    fn serving(&self) -> Arc<Module> {
        self.directory.modules()[0].clone()
    }
}

#[tokio::test]
async fn a_canary_serves_its_share_of_clients_always_the_same() {
    let (mut followed, old) = Followed::tried(&guest("upper"), "[rollout]\ncanary = 20").await;
    let module = followed.serving();
    assert_eq!(module.hash(), blake3::hash(&guest("upper")).to_hex().as_str());
    let report = module.trial().unwrap();
    assert_eq!((report.share, report.before.as_str()), (20, old.hash()));
    let first = served(&module).await;
    let share = first.iter().filter(|served| **served).count();
    assert!((20..=60).contains(&share), "{share} of {CLIENTS}");
    assert_eq!(served(&module).await, first);
    // The next version is tried by the same clients, beside the same old one.
    followed.bench.write("m", &variant(guest("upper"), 1), "[rollout]\ncanary = 20");
    let hash = blake3::hash(&variant(guest("upper"), 1)).to_hex();
    let next = followed.until(|now| now[0].hash() == hash.as_str()).await[0].clone();
    assert_eq!(next.trial().unwrap().before, old.hash());
    assert_eq!(served(&next).await, first);
    // By command.
    let commands = followed.directory.commands();
    assert!(matches!(commands.promote("other").await, Err(CommandError::NoSuchModule { .. })));
    let ended = commands.promote("m").await.unwrap();
    assert!(Arc::ptr_eq(&ended.serves, &next) && Arc::ptr_eq(&ended.gone, &old));
    assert!(followed.serving().trial().is_none(), "when the answer comes");
    assert_eq!(followed.serving().hash(), hash.as_str());
    assert!(served(&followed.serving()).await.iter().all(|served| *served));
    assert!(matches!(commands.promote("m").await, Err(CommandError::NoTrial(_))), "it is over");
    assert_eq!(old.stats().instances, 0);
}

#[tokio::test]
async fn a_canary_is_promoted_in_time_or_by_a_save_without() {
    let manifest = "[rollout]\ncanary = 50\npromote_after = \"600ms\"";
    let (mut followed, _) = Followed::tried(&guest("upper"), manifest).await;
    assert!(served(&followed.serving()).await.contains(&false));
    followed.until(|now| now[0].trial().is_none()).await;
    assert!(served(&followed.serving()).await.iter().all(|served| *served));

    let (mut followed, old) = Followed::tried(&guest("upper"), "[rollout]\ncanary = 50").await;
    fs::write(followed.path("m").with_extension("toml"), "").unwrap();
    followed.until(|now| now[0].trial().is_none()).await;
    assert!(served(&followed.serving()).await.iter().all(|served| *served));
    assert_eq!(old.stats().instances, 0);
}

#[tokio::test]
async fn the_version_before_saved_again_ends_a_trial() {
    let (mut followed, old) = Followed::tried(&guest("upper"), "[rollout]\ncanary = 50").await;
    fs::remove_file(followed.path("m").with_extension("toml")).unwrap();
    fs::write(followed.path("m"), guest("pass")).unwrap();
    followed.until(|now| Arc::ptr_eq(&now[0], &old)).await;
    assert_eq!(payload(&old).await, b"hello");
    assert!(followed.directory.failures().is_empty());
}

/// The probe fails what `pass` passes: only canaries are hurt, and not for long.
#[tokio::test]
async fn a_canary_that_fails_is_rolled_back_and_blocked_until_the_file_changes() {
    let manifest = "[rollout]\ncanary = 50\nrollback_error_rate = 0.1";
    let (mut followed, old) = Followed::tried(&guest("probe"), manifest).await;
    let bad = followed.serving();
    let mut failed = 0;
    for id in 0..CLIENTS {
        failed += usize::from(bad.call(&from(id, "failed")).await.is_err());
    }
    assert!((60..=140).contains(&failed), "{failed} of {CLIENTS}");
    followed.until(|now| Arc::ptr_eq(&now[0], &old)).await;
    let reason = followed.until_failure("rolled back").await;
    assert!(reason.contains("of the version before 0.0 %"), "{reason}");
    println!("{reason}");
    // Handler tables from before the rollback lead to the old version as well.
    for id in 0..CLIENTS {
        bad.call(&from(id, "failed")).await.unwrap();
    }
    // The same bytes again are not tried again.
    fs::write(followed.path("m"), guest("probe")).unwrap();
    fs::write(followed.path("n"), guest("pass")).unwrap();
    followed.until(|now| now.len() == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(Arc::ptr_eq(&followed.serving(), &old));
    followed.until_failure("rolled back").await;
    // Others are.
    fs::write(followed.path("m"), variant(guest("probe"), 1)).unwrap();
    followed.until(|now| now[0].trial().is_some()).await;
    assert!(followed.directory.failures().is_empty());
}

#[tokio::test]
async fn a_trial_is_rolled_back_by_command() {
    let (mut followed, old) = Followed::tried(&guest("upper"), "[rollout]\ncanary = 50").await;
    let new = followed.serving();
    let commands = followed.directory.commands();
    let ended = commands.roll_back("m").await.unwrap();
    assert!(Arc::ptr_eq(&ended.serves, &old) && Arc::ptr_eq(&ended.gone, &new));
    assert!(Arc::ptr_eq(&followed.serving(), &old), "when the answer comes");
    assert!(served(&new).await.iter().all(|served| !*served), "a table from before leads to the old one");
    followed.until_failure("rolled back, until the file changes: by command").await;
    assert!(matches!(commands.roll_back("m").await, Err(CommandError::NoTrial(_))));
    // By command it is tried again.
    commands.reload("m").await.unwrap();
    followed.until(|now| now[0].trial().is_some()).await;
    assert!(followed.directory.failures().is_empty());
}

#[tokio::test]
async fn a_version_for_all_clients_is_on_probation() {
    let manifest = "[rollout]\nrollback_error_rate = 0.1";
    let (mut followed, old) = Followed::tried(&guest("probe"), manifest).await;
    let bad = followed.serving();
    assert_eq!(bad.trial().unwrap().share, 100);
    for id in 0..40 {
        bad.call(&from(id, "failed")).await.unwrap_err();
    }
    followed.until(|now| Arc::ptr_eq(&now[0], &old)).await;
    followed.until_failure("40 of 40 calls failed (100.0 %)").await;

    let manifest = "[rollout]\nrollback_error_rate = 0.1\npromote_after = \"500ms\"";
    let (mut followed, _) = Followed::tried(&guest("upper"), manifest).await;
    assert!(served(&followed.serving()).await.iter().all(|served| *served));
    followed.until(|now| now[0].trial().is_none()).await;
    assert!(served(&followed.serving()).await.iter().all(|served| *served));
}

/// Each version gets the events of its own hooks and filters, whichever the other has.
#[tokio::test]
async fn versions_with_other_filters_stay_apart() {
    let manifest = "hooks = { \"message.publish\" = [\"new/#\"] }\npriority = 1\n[rollout]\ncanary = 50";
    let mut followed = Followed::with(&[]).await;
    followed.bench.write("m", &guest("upper"), "hooks = { \"message.publish\" = [\"old/#\"] }");
    followed.until(|now| now.len() == 1 && now[0].hooks()[0].1.len() == 1).await;
    followed.bench.write("m", &variant(guest("upper"), 1), manifest);
    followed.until(|now| now[0].trial().is_some()).await;
    let module = followed.serving();
    assert_eq!(module.hooks().len(), 1);
    let filters: Vec<_> = module.hooks()[0].1.iter().map(|filter| filter.as_str()).collect();
    assert_eq!(filters, ["old/#", "new/#"]);
    assert_eq!(module.priority(), 100, "at the place of the version before");
    let mut counts = [0, 0];
    for id in 0..CLIENTS {
        let mut handled = [false, false];
        for (topic, handled) in ["old/x", "new/x"].iter().zip(&mut handled) {
            let answer = module.call(&from(id, topic)).await.unwrap();
            *handled = matches!(answer.verdict, Verdict::Replace(_));
        }
        assert_ne!(handled[0], handled[1], "one version a client");
        counts[usize::from(handled[1])] += 1;
    }
    assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
    followed.directory.promote("m").await.unwrap();
    followed.until(|now| now[0].trial().is_none()).await;
    assert_eq!(followed.serving().priority(), 1);
    assert_eq!(followed.serving().hooks()[0].1.len(), 1);
}

/// It was asked about every subscription, whatever its filters: it gave leave, or refused it, where it had no say.
#[tokio::test]
async fn a_version_is_not_asked_about_subscriptions_that_its_filters_do_not_overlap() {
    let hooks = |filter: &str| {
        format!("hooks = {{ \"client.authorize\" = [\"{filter}\"], \"client.subscribe\" = [\"{filter}\"] }}")
    };
    let mut followed = Followed::with(&[]).await;
    followed.bench.write("m", &guest("probe"), &hooks("allow/#"));
    followed.until(|now| now.len() == 1 && now[0].hooks().len() == 2).await;
    let next = format!("{}\n[rollout]\ncanary = 50", hooks("refuse/#"));
    followed.bench.write("m", &variant(guest("probe"), 1), &next);
    followed.until(|now| now[0].trial().is_some()).await;
    let module = followed.serving();
    let (mut allowed, mut refused) = (0, 0);
    for id in 0..CLIENTS {
        let (client, request) = (client(&format!("client-{id}")), |filter: &str| {
            Arc::new(Requested::parse(filter.into(), QoS::AtLeastOnce).unwrap())
        });
        let subscribe = |filter| Event::ClientSubscribe { client: client.clone(), request: request(filter) };
        let authorize = |filter| Event::ClientAuthorize {
            client: client.clone(),
            access: Access::Subscribe(request(filter)),
        };
        for events in [["allow/+", "refuse/151"].map(subscribe), ["allow/+", "refuse/151"].map(authorize)] {
            let mut answers = Vec::new();
            for event in events {
                answers.push(module.call(&scope(event)).await.unwrap().verdict);
            }
            match answers.as_slice() {
                [Verdict::Allow, Verdict::Pass] => allowed += 1,
                [Verdict::Pass, Verdict::Reject(_)] => refused += 1,
                other => panic!("one version a client: {other:?}"),
            }
        }
    }
    assert!(allowed > 120 && refused > 120, "{allowed} and {refused}");
}

/// One call that was still on the version before, and failed, was all that it was compared by: 100 %.
#[tokio::test]
async fn a_straggling_call_does_not_decide_a_probation() {
    let mut followed = Followed::with(&[("m", &guest("probe"))]).await;
    let old = followed.until(|now| now.len() == 1).await[0].clone();
    for id in 0..40 {
        old.call(&from(id, "count")).await.unwrap();
    }
    let next = variant(guest("probe"), 1);
    followed.bench.write("m", &next, "[rollout]\nrollback_error_rate = 0.1");
    followed.until(|now| now[0].trial().is_some()).await;
    let bad = followed.serving();
    old.call(&from(0, "failed")).await.unwrap_err();
    for id in 0..40 {
        bad.call(&from(id, "failed")).await.unwrap_err();
    }
    followed.until(|now| Arc::ptr_eq(&now[0], &old)).await;
    let reason = followed.until_failure("calls failed (100.0 %)").await;
    assert!(reason.contains("of the version before 2.4 %"), "{reason}");
}

/// Versions of a module set one gauge: a load, or a circuit that closed, hid that the other's was open.
#[tokio::test]
async fn the_circuit_gauge_counts_the_versions_that_serve() {
    let recorder = Recorder::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let open = || recorder.gauge("tidegate_module_circuit_open{module=m}").round() as i64;
    let mut followed = Followed::with(&[("m", &guest("probe"))]).await;
    let old = followed.until(|now| now.len() == 1).await[0].clone();
    assert_eq!(open(), 0);
    for id in 0..10 {
        old.call(&from(id, "panic/x")).await.unwrap_err();
    }
    assert_eq!((open(), old.stats().circuit), (1, CircuitState::Open));

    followed.bench.write("m", &variant(guest("probe"), 1), "[rollout]\ncanary = 50");
    followed.until(|now| now[0].trial().is_some()).await;
    let new = followed.serving();
    assert_eq!(open(), 1, "the version before still serves");
    for id in 0..CLIENTS {
        new.call(&from(id, "panic/x")).await.unwrap_err();
    }
    assert_eq!((open(), new.stats().circuit), (2, CircuitState::Open));
    for _ in 0..1_000 {
        if old.call(&from(0, "pass")).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((open(), old.stats().circuit), (1, CircuitState::Closed), "the new version's is open");

    followed.directory.promote("m").await.unwrap();
    followed.until(|now| now[0].trial().is_none()).await;
    assert_eq!(open(), 1);
    followed.bench.write("m", &guest("pass"), "[rollout]\nrollback_error_rate = 0.5");
    followed.until(|now| now[0].trial().is_some()).await;
    assert_eq!(open(), 0, "no client is left to the version before");
    followed.bench.write("m", &variant(guest("probe"), 1), "[rollout]\ncanary = 50");
    followed.until(|now| Arc::ptr_eq(&now[0], &new)).await;
    assert_eq!(open(), 1, "it serves again");
}

#[tokio::test]
async fn a_version_that_is_watched_is_not_promoted_before_it_was_called() {
    let manifest = "[rollout]\ncanary = 50\npromote_after = \"200ms\"\nrollback_error_rate = 0.1";
    let (mut followed, _) = Followed::tried(&guest("upper"), manifest).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    let module = followed.serving();
    assert!(module.trial().is_some(), "nobody knows whether it works");
    served(&module).await;
    followed.until(|now| now[0].trial().is_none()).await;
    assert!(Arc::ptr_eq(&followed.serving(), &module), "promoted");
}

/// A file system that does not answer, such as a network's: all blocking threads wait for it.
#[test]
fn trials_end_while_the_file_system_does_not_answer() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let manifest = "[rollout]\ncanary = 50\nrollback_error_rate = 0.1";
        let (mut followed, old) = Followed::tried(&guest("probe"), manifest).await;
        let (bad, commands) = (followed.serving(), followed.directory.commands());
        let (_answer, never) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || never.recv().ok());
        // The follower asks what this looks like.
        fs::write(followed.path("other"), guest("pass")).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        for id in 0..CLIENTS {
            drop(bad.call(&from(id, "failed")).await);
        }
        soon(followed.until(|now| Arc::ptr_eq(&now[0], &old))).await;
        assert!(matches!(soon(commands.promote("m")).await, Err(CommandError::NoTrial(_))));
        assert_eq!(followed.names(), ["m"], "nothing has answered");
        soon(followed.directory.close()).await;
    });
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), what).await.expect("it waits for no file")
}
