//! Takes an event that asks for leave through its modules: to connect, to publish, to subscribe.
//!
//! The first module with an opinion decides, and none after it is asked. When no module has one, the client may. A
//! module that changes a subscription has no last word: the ones after it are asked about what it made.

use std::pin::pin;
use std::sync::Arc;

use tidegate_event::{Admitted, Event, Hook, ReasonCode, Scope, Verdict};
use tidegate_module::Settled;

use crate::filter_tree::Matches;
use crate::metrics::Metrics;
use crate::table::{Handler, HookTable};

/// Asks the handlers at `matches` about the event of `scope`. The verdict is [`Verdict::Pass`] (nobody has an
/// opinion), `Allow`, `Reject`, `Fail` or, for a subscription, `Change`.
pub(crate) async fn run(
    table: Arc<HookTable>,
    metrics: Arc<Metrics>,
    mut matches: Matches,
    mut scope: Scope,
) -> Admitted {
    let hook = scope.event.hook();
    let (mut done, mut changed) = (0, None);
    let mut verdict = Verdict::Pass;
    while let Some(position) = matches.get(done).copied() {
        done += 1;
        let answer = match table.handler(hook, position) {
            // Pinned where it is made: see `Module::handle`.
            Some(Handler::Module(module)) => match pin!(module.handle(&scope)).await {
                Ok(answer) => answer.verdict,
                Err(settled) => failed(hook, settled),
            },
            #[cfg(test)]
            Some(Handler::Scripted(scripted)) => {
                scripted.ask(&scope.event).unwrap_or_else(|policy| failed(hook, policy))
            }
            _ => Verdict::Pass,
        };
        match (answer, &mut scope.event) {
            (Verdict::Pass, _) => {}
            (Verdict::Change(other), Event::ClientSubscribe { request, .. }) => {
                *request = Arc::clone(&other);
                changed = Some(other);
                matches = table.matching(&scope.event);
                matches.retain(|later| *later > position);
                done = 0;
            }
            (decided, _) => {
                verdict = decided;
                break;
            }
        }
    }
    let verdict = match (verdict, changed) {
        (Verdict::Pass | Verdict::Allow, Some(request)) => Verdict::Change(request),
        (verdict, _) => verdict,
    };
    metrics.verdict(&verdict);
    Admitted { verdict, scope }
}

/// What a failure means: a client gets no leave from a module that cannot say whether it may have it, unless the
/// manifest says that its failures do not matter.
fn failed(hook: Hook, settled: Settled) -> Verdict {
    match settled {
        Settled::Pass => Verdict::Pass,
        Settled::Drop => Verdict::Reject(ReasonCode::NOT_AUTHORIZED),
        Settled::Reject => Verdict::Fail(hook.failure()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use futures_util::FutureExt as _;
    use tidegate_event::{Access, Client, Node, Protocol, QoS, Requested, Tenant};

    use super::*;
    use crate::scripted::{Scripted, message};

    fn client() -> Arc<Client> {
        Arc::new(Client {
            id: "c".into(),
            username: None,
            peer: "127.0.0.1:5".parse().unwrap(),
            protocol: Protocol::V5,
            tenant: Tenant::default(),
            keep_alive: 0,
            clean_start: true,
            connected_at_ms: 0,
            connection: 1,
            ..Client::default()
        })
    }

    fn request(text: &str, qos: QoS) -> Arc<Requested> {
        Arc::new(Requested::parse(text.into(), qos).unwrap())
    }

    fn subscribe(text: &str) -> Event {
        Event::ClientSubscribe { client: client(), request: request(text, QoS::ExactlyOnce) }
    }

    fn authenticate() -> Event {
        Event::ClientAuthenticate { client: client(), password: None }
    }

    fn authorize(topic: &str) -> Event {
        Event::ClientAuthorize { client: client(), access: Access::Publish(message(topic, b"")) }
    }

    fn ask(event: Event, handlers: &[(&[&str], &Arc<Scripted>)]) -> Verdict {
        let mut table = HookTable::default();
        for (filters, handler) in handlers {
            let filters: Vec<_> = filters.iter().map(|f| f.parse().unwrap()).collect();
            table.add(event.hook(), &filters, Handler::Scripted((*handler).clone()));
        }
        let table = Arc::new(table);
        let matches = table.matching(&event);
        let scope = Scope::new(event, Arc::new(Node::default()));
        run(table, Arc::new(Metrics::register()), matches, scope).now_or_never().unwrap().verdict
    }

    #[test]
    fn the_first_opinion_decides_and_nobody_after_it_is_asked() {
        for (opinion, is_refused) in
            [(Verdict::Allow, false), (Verdict::Reject(ReasonCode::NOT_AUTHORIZED), true)]
        {
            let silent = Scripted::asked(|_| Ok(Verdict::Pass));
            let first = Scripted::asked(move |_| Ok(opinion.clone()));
            let later = Scripted::asked(|_| Ok(Verdict::Reject(ReasonCode::UNSPECIFIED)));
            let verdict = ask(authenticate(), &[(&[], &silent), (&[], &first), (&[], &later)]);
            match verdict {
                Verdict::Allow => assert!(!is_refused),
                Verdict::Reject(code) => assert!(is_refused && code == ReasonCode::NOT_AUTHORIZED),
                other => panic!("{other:?}"),
            }
            assert_eq!((silent.questions().len(), later.questions().len()), (1, 0));
        }
        let silent = Scripted::asked(|_| Ok(Verdict::Pass));
        assert!(matches!(ask(authenticate(), &[(&[], &silent), (&[], &silent)]), Verdict::Pass));
        assert_eq!(silent.questions().len(), 2);
    }

    #[test]
    fn a_failure_refuses_unless_the_policy_says_otherwise() {
        for (policy, expected) in [
            (Settled::Reject, Some(Verdict::Fail(ReasonCode::SERVER_UNAVAILABLE))),
            (Settled::Drop, Some(Verdict::Reject(ReasonCode::NOT_AUTHORIZED))),
            (Settled::Pass, None),
        ] {
            let broken = Scripted::asked(move |_| Err(policy));
            let later = Scripted::asked(|_| Ok(Verdict::Allow));
            let verdict = ask(authenticate(), &[(&[], &broken), (&[], &later)]);
            let expected_text = format!("{:?}", expected.clone().unwrap_or(Verdict::Allow));
            assert_eq!(format!("{verdict:?}"), expected_text);
            assert_eq!(later.questions().is_empty(), expected.is_some());
        }
        let broken = Scripted::asked(|_| Err(Settled::Reject));
        for event in [authorize("a"), subscribe("a")] {
            let verdict = ask(event, &[(&[], &broken)]);
            assert!(matches!(verdict, Verdict::Fail(ReasonCode::IMPLEMENTATION_SPECIFIC)), "{verdict:?}");
        }
    }

    #[test]
    fn the_module_after_a_change_is_asked_about_what_it_made() {
        let first = Scripted::asked(|_| Ok(Verdict::Change(request("b/#", QoS::AtLeastOnce))));
        let only_a = Scripted::asked(|_| Ok(Verdict::Reject(ReasonCode::UNSPECIFIED)));
        let second = Scripted::asked(|_| Ok(Verdict::Change(request("b/c", QoS::AtMostOnce))));
        let last = Scripted::asked(|_| Ok(Verdict::Allow));
        let verdict = ask(
            subscribe("a"),
            &[(&["a", "b/c"], &first), (&["a"], &only_a), (&["b/#"], &second), (&[], &last)],
        );
        let Verdict::Change(changed) = verdict else { panic!("{verdict:?}") };
        assert_eq!((&*changed.text, changed.qos), ("b/c", QoS::AtMostOnce));
        assert_eq!((first.questions(), second.questions()), (vec!["a".into()], vec!["b/#".into()]));
        assert_eq!((only_a.questions().len(), last.questions()), (0, vec!["b/c".to_owned()]));
    }

    #[test]
    fn a_refusal_after_a_change_refuses() {
        let first = Scripted::asked(|_| Ok(Verdict::Change(request("b", QoS::AtLeastOnce))));
        let second = Scripted::asked(|_| Ok(Verdict::Reject(ReasonCode::NOT_AUTHORIZED)));
        let verdict = ask(subscribe("a"), &[(&[], &first), (&[], &second)]);
        assert!(matches!(verdict, Verdict::Reject(ReasonCode::NOT_AUTHORIZED)), "{verdict:?}");
    }

    #[test]
    fn who_guards_a_part_is_asked_about_the_whole() {
        let refuse = || Scripted::asked(|_| Ok(Verdict::Reject(ReasonCode::NOT_AUTHORIZED)));
        for (event, is_asked) in [
            (authorize("secret/key"), true),
            (authorize("open"), false),
            (subscribe("#"), true),
            (subscribe("+/key"), true),
            (subscribe("$share/g/secret/+"), true),
            (subscribe("open/#"), false),
        ] {
            let guard = refuse();
            let verdict = ask(event.clone(), &[(&["secret/#"], &guard)]);
            assert_eq!(matches!(verdict, Verdict::Reject(_)), is_asked, "{event:?}");
        }
    }

    /// MQTT hides `$` topics from the wildcards of subscribers, not from those of a guard.
    #[test]
    fn a_dollar_topic_slips_past_no_guard() {
        for filter in ["#", "+/#", "+/x"] {
            for event in [authorize("$SYS/x"), subscribe("$SYS/x"), subscribe("$SYS/#"), subscribe("$SYS/+")]
            {
                let guard = Scripted::asked(|_| Ok(Verdict::Reject(ReasonCode::NOT_AUTHORIZED)));
                let verdict = ask(event.clone(), &[(&[filter], &guard)]);
                assert!(matches!(verdict, Verdict::Reject(_)), "{filter}: {event:?}");
            }
        }
        let guard = Scripted::asked(|_| Ok(Verdict::Reject(ReasonCode::NOT_AUTHORIZED)));
        assert!(matches!(ask(subscribe("#"), &[(&["$SYS/#"], &guard)]), Verdict::Pass), "it brings none");
    }
}
