//! Takes one event through its handlers: modules in order, each on what the previous one left of the message,
//! then the actions on every message that is left.
//!
//! Most events have one course from beginning to end: one message, perhaps replaced. That case makes nothing on
//! the heap here; a scope of its own is made for a replaced message only when another handler is to see it.

use std::pin::pin;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use tidegate_event::{Admitted, Event, Hook, Message, QoS, ReasonCode, Scope, TopicFilter, Verdict};
use tidegate_module::Settled;

use crate::filter_tree::Matches;
use crate::metrics::Metrics;
use crate::table::{Handler, HookTable};

/// A message on its way through the handlers of an event, and the handlers still before it.
struct Course {
    /// What modules made of the message; `None`: nothing yet.
    message: Option<Arc<Message>>,
    /// The event about `message`, once a handler has to see it.
    scope: Option<Scope>,
    handlers: Matches,
    /// How many of `handlers` have run.
    done: usize,
}

impl Course {
    fn next(&self) -> Option<u32> {
        self.handlers.get(self.done).copied()
    }

    /// What a handler is shown: `whole`, the scope of the event, unless the message is another by now.
    fn scope<'a>(&'a mut self, whole: &'a Scope) -> &'a Scope {
        match &self.message {
            None => whole,
            Some(message) => self.scope.get_or_insert_with(|| Scope {
                event: whole.event.with_message(message.clone()),
                node: whole.node.clone(),
                acks: whole.acks.clone(),
                effects: whole.effects.clone(),
            }),
        }
    }

    /// The message as it is now.
    fn message<'a>(&'a self, whole: &'a Scope) -> Option<&'a Arc<Message>> {
        self.message.as_ref().or_else(|| whole.event.message())
    }

    /// Goes on with `message`, which the handler at `position` made. When the topic changed, the handlers after
    /// it are found anew.
    fn replace(&mut self, table: &HookTable, whole: &Scope, position: u32, message: Arc<Message>) {
        if self.message(whole).is_none_or(|old| old.topic != message.topic) {
            self.handlers = table.matching_topic(whole.event.hook(), &message.topic);
            self.handlers.retain(|other| *other > position);
            self.done = 0;
        }
        self.message = Some(message);
        self.scope = None;
    }
}

/// What a handler's answer means for the course it ran on.
pub(crate) enum Step {
    /// On to the next handler.
    Go,
    /// No further handler: drop, reject or fail.
    Stop(Verdict),
    /// On with this message instead.
    Replace(Arc<Message>),
    /// On with these messages instead.
    Split(Vec<Arc<Message>>),
}

/// Runs the handlers at `matches` on the event of `scope`. Ends when modules have run and actions are enqueued.
///
/// Owns what it needs, so that its future can be boxed as it is: a future around it would be moved into it.
pub(crate) async fn run(
    table: Arc<HookTable>,
    metrics: Arc<Metrics>,
    matches: Matches,
    scope: Scope,
) -> Admitted {
    let hook = scope.event.hook();
    let implicit = matches!(scope.event, Event::MessageAcked { explicit: false, .. });
    let mut changed = false;
    let mut ready: SmallVec<[Course; 1]> = SmallVec::new();
    // The next one is the last. A course that a module splits goes on with its parts in its place: order is kept.
    let mut courses: SmallVec<[Course; 1]> =
        smallvec![Course { message: None, scope: None, handlers: matches, done: 0 }];

    // Modules first, on every message, so that nothing is enqueued for an event that is refused in the end.
    'courses: while let Some(mut course) = courses.pop() {
        while let Some(position) = course.next() {
            let step = match table.handler(hook, position) {
                Some(Handler::Module(_)) if implicit => Step::Go,
                Some(Handler::Module(module)) => {
                    let shown = course.scope(&scope);
                    // Pinned where it is made: see `Module::handle`.
                    match pin!(module.handle(shown)).await {
                        Ok(answer) => {
                            add_subscriptions(shown, answer.subscriptions);
                            answer.verdict.into()
                        }
                        Err(settled) => on_error(settled, hook),
                    }
                }
                #[cfg(test)]
                Some(Handler::Scripted(scripted)) if scripted.is_module() => {
                    scripted.call(course.scope(&scope)).await
                }
                _ => break,
            };
            course.done += 1;
            match step {
                Step::Go => {}
                Step::Stop(Verdict::Drop) => {
                    changed = true;
                    continue 'courses;
                }
                // A refusal is of the event as a whole: parts of a split have one publisher and one answer.
                Step::Stop(verdict) => {
                    metrics.verdict(&verdict);
                    return Admitted { verdict, scope };
                }
                Step::Replace(message) => {
                    changed = true;
                    course.replace(&table, &scope, position, message);
                }
                Step::Split(messages) => {
                    changed = true;
                    courses.extend(messages.into_iter().rev().map(|message| {
                        let mut part = Course {
                            message: course.message.clone(),
                            scope: None,
                            handlers: course.handlers.clone(),
                            done: course.done,
                        };
                        part.replace(&table, &scope, position, message);
                        part
                    }));
                    continue 'courses;
                }
            }
        }
        ready.push(course);
    }

    for course in &mut ready {
        while let Some(position) = course.next() {
            course.done += 1;
            match table.handler(hook, position) {
                Some(Handler::Action(action)) if implicit && action.is_custom() => {}
                Some(Handler::Action(action)) => action.run(course.scope(&scope)).await,
                #[cfg(test)]
                Some(Handler::Scripted(scripted)) => scripted.run(course.scope(&scope)).await,
                _ => {}
            }
        }
    }
    let verdict = if changed { verdict(ready, &scope) } else { Verdict::Pass };
    metrics.verdict(&verdict);
    Admitted { verdict, scope }
}

/// The verdict on an event whose message was changed, of what is left of it.
fn verdict(mut ready: SmallVec<[Course; 1]>, whole: &Scope) -> Verdict {
    let original = || whole.event.message().cloned();
    match ready.len() {
        0 => Verdict::Drop,
        1 => ready
            .pop()
            .and_then(|course| course.message.or_else(original))
            .map_or(Verdict::Drop, Verdict::Replace),
        _ => {
            Verdict::FanOut(ready.into_iter().filter_map(|course| course.message.or_else(original)).collect())
        }
    }
}

impl From<Verdict> for Step {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Go,
            Verdict::Replace(message) => Self::Replace(message),
            Verdict::FanOut(messages) => Self::Split(messages),
            other => Self::Stop(other),
        }
    }
}

fn add_subscriptions(scope: &Scope, subscriptions: Vec<(TopicFilter, QoS)>) {
    if !subscriptions.is_empty() {
        scope.effects.lock().subscriptions.extend(subscriptions);
    }
}

/// A module failed, and this is what its policy made of the event. Refusing and dropping exist only where the answer
/// counts; elsewhere the event goes on.
fn on_error(settled: Settled, hook: Hook) -> Step {
    match (settled, hook) {
        (Settled::Drop, Hook::MessagePublish | Hook::MessageDeliver) => Step::Stop(Verdict::Drop),
        (Settled::Reject, Hook::MessagePublish) => {
            Step::Stop(Verdict::Fail(ReasonCode::IMPLEMENTATION_SPECIFIC))
        }
        _ => Step::Go,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::scripted::{Scripted, message, publish};
    use futures_util::FutureExt as _;
    use tidegate_event::{AckError, Node};

    fn table(handlers: &[(&[&str], &Arc<Scripted>)]) -> Arc<HookTable> {
        let mut table = HookTable::default();
        for (filters, handler) in handlers {
            let filters: Vec<_> = filters.iter().map(|f| f.parse().unwrap()).collect();
            table.add(Hook::MessagePublish, &filters, Handler::Scripted((*handler).clone()));
        }
        Arc::new(table)
    }

    fn run_now(table: &Arc<HookTable>, event: Event) -> Admitted {
        let matches = table.matching(&event);
        let scope = Scope::new(event, Arc::new(Node::default()));
        run(table.clone(), Arc::new(Metrics::register()), matches, scope).now_or_never().unwrap()
    }

    fn topics(scripted: &Scripted) -> Vec<String> {
        scripted.seen().iter().map(|m| m.topic.to_string()).collect()
    }

    #[test]
    fn modules_see_what_the_previous_one_made_and_actions_what_is_left() {
        let first = Scripted::module(|m| Verdict::Replace(message(m.topic.as_str(), b"one")));
        let second = Scripted::module(|m| {
            Verdict::Replace(message(m.topic.as_str(), &[&m.payload, &b"+two"[..]].concat()))
        });
        let action = Scripted::action();
        let table = table(&[(&[], &first), (&["a/#"], &second), (&[], &action)]);
        let admitted = run_now(&table, publish("a/b", b"x"));
        let Verdict::Replace(result) = admitted.verdict else { panic!("{:?}", admitted.verdict) };
        assert_eq!(&result.payload[..], b"one+two");
        assert_eq!(&action.seen()[0].payload[..], b"one+two");
    }

    #[test]
    fn a_dropped_message_reaches_no_later_handler() {
        let (first, action) = (Scripted::module(|_| Verdict::Drop), Scripted::action());
        let second = Scripted::module(|_| Verdict::Pass);
        let table = table(&[(&[], &first), (&[], &second), (&[], &action)]);
        assert!(matches!(run_now(&table, publish("a", b"x")).verdict, Verdict::Drop));
        assert!(second.seen().is_empty() && action.seen().is_empty());
    }

    #[test]
    fn a_fan_out_keeps_its_order_through_later_modules_and_actions() {
        let first = Scripted::module(|_| {
            Verdict::FanOut(vec![message("p/1", b""), message("p/2", b""), message("p/3", b"")])
        });
        let second =
            Scripted::module(|m| if m.topic.as_str() == "p/2" { Verdict::Drop } else { Verdict::Pass });
        let action = Scripted::action();
        let table = table(&[(&["a"], &first), (&["p/+"], &second), (&["p/#"], &action)]);
        let Verdict::FanOut(parts) = run_now(&table, publish("a", b"x")).verdict else { panic!("fan-out") };
        assert_eq!(parts.iter().map(|m| m.topic.as_str()).collect::<Vec<_>>(), ["p/1", "p/3"]);
        assert_eq!(topics(&second), ["p/1", "p/2", "p/3"]);
        assert_eq!(topics(&action), ["p/1", "p/3"]);
    }

    #[test]
    fn a_part_that_is_split_again_goes_on_in_its_place() {
        let first = Scripted::module(|_| {
            Verdict::FanOut(vec![message("p/1", b""), message("p/2", b""), message("p/3", b"")])
        });
        let second = Scripted::module(|m| match m.topic.as_str() {
            "p/2" => Verdict::FanOut(vec![message("q/1", b""), message("q/2", b"")]),
            _ => Verdict::Pass,
        });
        let third = Scripted::module(|m| Verdict::Replace(message(m.topic.as_str(), b"third")));
        let action = Scripted::action();
        let table = table(&[(&["a"], &first), (&["p/#"], &second), (&[], &third), (&[], &action)]);
        let Verdict::FanOut(parts) = run_now(&table, publish("a", b"x")).verdict else { panic!("fan-out") };
        assert_eq!(parts.iter().map(|m| m.topic.as_str()).collect::<Vec<_>>(), ["p/1", "q/1", "q/2", "p/3"]);
        assert_eq!(topics(&action), ["p/1", "q/1", "q/2", "p/3"]);
        assert!(action.seen().iter().all(|m| &m.payload[..] == b"third"));
    }

    #[test]
    fn a_changed_topic_finds_its_own_later_handlers_and_none_twice() {
        let first = Scripted::module(|_| Verdict::Replace(message("b", b"")));
        let (only_a, only_b) = (Scripted::module(|_| Verdict::Pass), Scripted::module(|_| Verdict::Pass));
        let table = table(&[(&["a", "b"], &first), (&["a"], &only_a), (&["b"], &only_b)]);
        assert!(matches!(run_now(&table, publish("a", b"x")).verdict, Verdict::Replace(_)));
        assert_eq!((topics(&first).len(), topics(&only_a).len(), topics(&only_b).len()), (1, 0, 1));
    }

    #[test]
    fn a_refusal_refuses_the_event_and_enqueues_nothing() {
        let split = Scripted::module(|_| Verdict::FanOut(vec![message("p/1", b""), message("p/2", b"")]));
        let refuse = Scripted::module(|m| {
            if m.topic.as_str() == "p/2" {
                Verdict::Reject(ReasonCode::NOT_AUTHORIZED)
            } else {
                Verdict::Pass
            }
        });
        let action = Scripted::action();
        let table = table(&[(&["a"], &split), (&["p/#"], &refuse), (&[], &action)]);
        let admitted = run_now(&table, publish("a", b"x"));
        assert!(matches!(admitted.verdict, Verdict::Reject(ReasonCode::NOT_AUTHORIZED)));
        assert!(action.seen().is_empty());
    }

    #[test]
    fn the_acks_of_all_actions_join() {
        let (one, two) = (Scripted::action(), Scripted::action());
        let table = table(&[(&[], &one), (&[], &two)]);
        let admitted = run_now(&table, publish("a", b"x"));
        let acks = admitted.scope.acks;
        one.complete(Ok(()));
        assert_eq!(acks.clone().now_or_never(), None);
        let refused =
            AckError::Refused { connector: "x".into(), reason: "y".into(), code: ReasonCode::UNSPECIFIED };
        two.complete(Err(refused.clone()));
        assert_eq!(acks.now_or_never(), Some(Err(refused)));
    }

    /// An event that is given up must not look like one that was refused, nor the other way round.
    #[test]
    fn what_a_policy_makes_of_an_event_is_a_verdict_only_where_it_counts() {
        for hook in Hook::all() {
            let steps =
                [Settled::Pass, Settled::Drop, Settled::Reject].map(|settled| on_error(settled, hook));
            let is_as_expected = match hook {
                Hook::MessagePublish => {
                    matches!(steps, [Step::Go, Step::Stop(Verdict::Drop), Step::Stop(Verdict::Fail(_))])
                }
                Hook::MessageDeliver => matches!(steps, [Step::Go, Step::Stop(Verdict::Drop), Step::Go]),
                _ => matches!(steps, [Step::Go, Step::Go, Step::Go]),
            };
            assert!(is_as_expected, "{}", hook.name());
        }
    }

    #[test]
    fn an_unmatched_topic_runs_nothing() {
        let module = Scripted::module(|_| Verdict::Drop);
        let table = table(&[(&["a/+"], &module)]);
        assert!(table.matching(&publish("b", b"")).is_empty());
        assert!(table.is_bound(Hook::MessagePublish) && !table.is_bound(Hook::MessageAcked));
    }
}
