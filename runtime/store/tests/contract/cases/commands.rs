//! Custom commands and what guests may send, for back ends that take commands of words.

use std::sync::Arc;

use tidegate_event::{
    AckError, AckLevel, ActionOptions, Event, Message, Reply, Storage as _, StorageError, Tenant,
};

use crate::fixture::{Ability, Bench, Factory};

fn publish(bench: &Bench, topic: &str, payload: &[u8]) -> Event {
    let message = Arc::new(bench.message(topic, payload.to_vec(), 1));
    Event::MessagePublish { message, tenant: Tenant::default() }
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

/// The reply to one command.
async fn send(bench: &Bench, command: &[&[u8]]) -> Reply {
    let commands = vec![words(command)];
    bench.stores.commands(&Tenant::default(), "pool1", commands).await.expect("a reply").remove(0)
}

fn bytes(text: &[u8]) -> Reply {
    Reply::Bytes(text.to_vec())
}

/// A back end without commands refuses them at load and for guests, with words that say so.
async fn takes_no_commands(factory: &'static dyn Factory) {
    let kind = factory.kind();
    let line = r##"message.publish.1 = {"action": {"commands": ["SET a b"]}, "pool": "pool1"}"##;
    let text = format!("{}backend.{kind}.hook.{line}\n", factory.pool(std::path::Path::new("nowhere")));
    let findings = tidegate_store::config::load(&[("test.conf".into(), text)], None).unwrap_err();
    assert!(findings.iter().any(|finding| finding.message.contains("not `commands`")), "{findings:?}");
    let bench = Bench::new(factory, &[]).await;
    let commands = vec![words(&[b"PING"])];
    let error = bench.stores.commands(&Tenant::default(), "pool1", commands).await.unwrap_err();
    assert!(matches!(&error, StorageError::InvalidArgument(text) if text.contains("commands")), "{error}");
}

pub(crate) async fn custom_commands_put_in_their_variables(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Commands) {
        return takes_no_commands(factory).await;
    }
    let line = r##"message.publish.1 = {"topic": "#", "action": {"commands": ["HSET last:${topic} id ${msgid} from ${clientid} payload ${payload} qos ${qos} node ${node} user ${username}", "RPUSH list:${topic} ${payload}"]}}"##;
    let bench = Bench::new(factory, &[line]).await;
    let nasty = "a b\r\n*1\r\n${payload}";
    let payload = b"\0 \xff '${topic}'";
    let event = publish(&bench, nasty, payload);
    let id = event.message().unwrap().id.to_string();
    assert_eq!(bench.raise(event).await.0, Ok(()));
    let key = |prefix: &str| format!("{prefix}:{}", bench.topic(nasty)).into_bytes();
    let found =
        send(&bench, &[b"HMGET", &key("last"), b"id", b"from", b"payload", b"qos", b"node", b"user"]).await;
    let expected = [id.as_bytes(), b"publisher", payload, b"1", b"tidegate@127.0.0.1", b""].map(bytes);
    assert_eq!(found, Reply::List(expected.into()));
    let list = send(&bench, &[b"LRANGE", &key("list"), b"0", b"-1"]).await;
    assert_eq!(list, Reply::List(vec![bytes(payload)]), "once");
}

/// The implicit ack of a QoS 0 delivery moves the position, but runs no command.
pub(crate) async fn an_implicit_ack_runs_no_command(factory: &'static dyn Factory) {
    let lines = [
        r#"message.publish.1 = {"action": {"function": "on_message_store"}}"#,
        r#"message.acked.1 = {"action": {"function": "on_message_acked"}}"#,
        r#"message.acked.2 = {"action": {"commands": ["RPUSH ack:${topic} ${msgid}"]}}"#,
    ];
    let bench = Bench::new(factory, &lines).await;
    let client = bench.client("c");
    let message = bench.publish(bench.message("t", "x", 1)).await;
    let key = format!("ack:{}", bench.topic("t")).into_bytes();
    bench.ack_event(&client, &message, Some(message.id), false).await;
    assert_eq!(send(&bench, &[b"LLEN", &key]).await, Reply::Integer(0));
    assert_eq!(bench.position("c", "t").await, Some(message.id.to_string()));
    bench.ack(&client, &message, Some(message.id)).await;
    assert_eq!(send(&bench, &[b"LLEN", &key]).await, Reply::Integer(1));
}

pub(crate) async fn only_the_refused_command_fails(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Commands) {
        return takes_no_commands(factory).await;
    }
    let lines = [
        r#"message.publish.1 = {"action": {"function": "on_message_store"}}"#,
        r#"message.publish.2 = {"action": {"commands": ["INCR count:${topic}"]}}"#,
    ];
    let bench = Bench::new(factory, &lines).await;
    let count = |topic: &str| format!("count:{}", bench.topic(topic)).into_bytes();
    send(&bench, &[b"SADD", &count("poison"), b"no number"]).await;
    // The set of a topic holds another kind of value.
    let spoilt = format!("mqtt:msg:{}", bench.topic("spoilt"));
    send(&bench, &[b"SET", spoilt.as_bytes(), b"x"]).await;
    // All in flight together: they share batches with the poison.
    let topic = |n: usize| match n % 50 {
        25 => "poison".to_owned(),
        26 => "spoilt".to_owned(),
        _ => format!("good/{n}"),
    };
    let scopes: Vec<_> = (0..200).map(|n| bench.scope(publish(&bench, &topic(n), b"x"))).collect();
    for scope in &scopes {
        for action in bench.stores.actions_of(scope.event.hook()) {
            action.run(scope).await;
        }
    }
    for (n, scope) in scopes.into_iter().enumerate() {
        match scope.acks.await {
            Ok(()) => assert!(topic(n).starts_with("good"), "{n}"),
            Err(AckError::Refused { connector, code, reason }) => {
                assert!(!topic(n).starts_with("good"), "{n}: {reason}");
                assert_eq!((connector, code.0), (bench.connector(), 0x83));
                assert!(n % 50 == 25 || reason.contains(&spoilt), "the key is named: {reason}");
            }
            Err(other) => panic!("{n}: {other}"),
        }
    }
    // Every command ran once: what was refused beside it did not make it run again.
    for n in (0..200).filter(|n| topic(*n).starts_with("good")) {
        assert_eq!(send(&bench, &[b"GET", &count(&topic(n))]).await, bytes(b"1"), "{n}");
        assert_eq!(bench.stored(&topic(n)).await.len(), 1, "{n}");
    }
    assert_eq!(bench.stored("poison").await.len(), 4, "its other line was not refused");
}

pub(crate) async fn guests_send_commands(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Commands) {
        return takes_no_commands(factory).await;
    }
    let bench = Bench::new(factory, &[]).await;
    let key = bench.topic("k").into_bytes();
    assert_eq!(send(&bench, &[b"SET", &key, b"a b\0\xff\r\n"]).await, Reply::Status("OK".into()));
    assert_eq!(send(&bench, &[b"GET", &key]).await, bytes(b"a b\0\xff\r\n"));
    assert_eq!(send(&bench, &[b"GET", b"no such key"]).await, Reply::Nil);
    // A pipeline: a refused command is its own reply, the others run.
    let list = bench.topic("l").into_bytes();
    let commands = vec![
        words(&[b"RPUSH", &list, b"1", b"2"]),
        words(&[b"INCR", &key]),
        words(&[b"LRANGE", &list, b"0", b"-1"]),
    ];
    let replies = bench.stores.commands(&Tenant::default(), "pool1", commands).await.unwrap();
    assert_eq!(replies[0], Reply::Integer(2));
    let Reply::Error(refused) = &replies[1] else { panic!("{:?}", replies[1]) };
    assert_eq!((&*refused.code, refused.retryable), ("ERR", false));
    assert!(refused.message.contains("not an integer"), "{refused:?}");
    assert_eq!(replies[2], Reply::List(vec![bytes(b"1"), bytes(b"2")]));
    assert_eq!(bench.stores.commands(&Tenant::default(), "pool1", vec![]).await, Ok(vec![]));
}

/// On a cluster, too, where commands go to several servers at the same time.
pub(crate) async fn commands_of_a_guest_keep_their_order_and_their_own_errors(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Commands) {
        return takes_no_commands(factory).await;
    }
    let bench = Bench::new(factory, &[]).await;
    let key = |n: usize| bench.topic(&format!("k/{}", n % 7)).into_bytes();
    let mut commands = Vec::new();
    for n in 0..300 {
        commands.push(words(&[b"RPUSH", &key(n), n.to_string().as_bytes()]));
        commands.push(words(&[b"LINDEX", &key(n), b"-1"]));
        if n % 50 == 0 {
            // Of all keys: what is before it has run, what is after it has not.
            let mut exists = words(&[b"EXISTS"]);
            exists.extend((0..7).map(key));
            commands.push(exists);
        }
    }
    let mut replies = bench.stores.commands(&Tenant::default(), "pool1", commands).await.unwrap().into_iter();
    for n in 0..300_usize {
        let length = i64::try_from(n / 7 + 1).unwrap();
        assert_eq!(replies.next(), Some(Reply::Integer(length)), "{n}");
        assert_eq!(replies.next(), Some(bytes(n.to_string().as_bytes())), "{n}");
        if n % 50 == 0 {
            assert_eq!(replies.next(), Some(Reply::Integer(if n == 0 { 1 } else { 7 })), "{n}");
        }
    }
    assert_eq!(replies.next(), None);
    // A script that the server does not know is a refusal like others, and what is beside it has run.
    let unknown = [b'a'; 40];
    let commands = vec![words(&[b"EVALSHA", &unknown, b"1", &key(0)]), words(&[b"LLEN", &key(0)])];
    let replies = bench.stores.commands(&Tenant::default(), "pool1", commands).await.unwrap();
    let code = |reply: &Reply| match reply {
        Reply::Error(error) => (error.code.clone(), error.retryable),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&replies[0]), ("NOSCRIPT".into(), false));
    assert_eq!(replies[1], Reply::Integer(43));
}

pub(crate) async fn a_script_answers_with_values_within_each_other(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Commands) {
        return takes_no_commands(factory).await;
    }
    let bench = Bench::new(factory, &[]).await;
    let script = b"return {redis.call('INCR', KEYS[1]), {'x', {err = 'MINE no'}, false}}";
    let commands = vec![words(&[b"EVAL", script, b"1", &bench.topic("n").into_bytes()])];
    let answer = bench.stores.commands(&Tenant::default(), "pool1", commands).await;
    if factory.lacks(Ability::Scripts) {
        // Its reply could lead the driver, with the password, to any server; by statements as well.
        let text = "EVAL return{err='MOVED\\0321\\032127.0.0.1:1'} 1 k".to_owned();
        let scope = bench.scope(publish(&bench, "a", b"x"));
        let executed = bench.stores.execute(&scope, "pool1", &[text], AckLevel::Stored).await;
        for error in [answer.unwrap_err(), executed.unwrap_err()] {
            let named = matches!(&error, StorageError::InvalidArgument(text) if text.contains("EVAL"));
            assert!(named, "{error}");
        }
        return;
    }
    let replies = answer.unwrap();
    let [Reply::List(list)] = &replies[..] else { panic!("{replies:?}") };
    let [Reply::Integer(1), Reply::List(inner)] = &list[..] else { panic!("{list:?}") };
    let [value, Reply::Error(error), Reply::Nil] = &inner[..] else { panic!("{inner:?}") };
    assert_eq!((value, &*error.code, &*error.message, error.retryable), (&bytes(b"x"), "MINE", "no", false));
}

pub(crate) async fn commands_that_change_the_connection_are_refused(factory: &'static dyn Factory) {
    if factory.lacks(Ability::Commands) {
        return takes_no_commands(factory).await;
    }
    let bench = Bench::new(factory, &[]).await;
    for command in
        [&[&b"SUBSCRIBE"[..], b"x"][..], &[b"select", b"1"], &[b"MULTI"], &[b"BLPOP", b"x", b"0"], &[]]
    {
        let commands = vec![words(&[b"PING"]), words(command)];
        let error = bench.stores.commands(&Tenant::default(), "pool1", commands).await.unwrap_err();
        let name =
            command.first().map_or("empty".into(), |name| String::from_utf8_lossy(name).to_uppercase());
        assert!(
            matches!(&error, StorageError::InvalidArgument(text) if text.contains(&*name) || text.contains("empty")),
            "{command:?}: {error}"
        );
    }
    // A command that the server does not know, or that lacks words, is refused when the store opens.
    for (text, reason) in [("NOSUCH ${topic}", "does not know"), ("HSET ${topic}", "at least 4")] {
        let line =
            format!(r##"message.publish.1 = {{"action": {{"commands": ["{text}"]}}, "pool": "pool1"}}"##);
        let findings = bench.refused(&line).await;
        assert!(findings.iter().any(|finding| finding.message.contains(reason)), "{findings:?}");
    }
}

/// Guests run the same functions and commands as hook lines.
pub(crate) async fn guests_run_functions_and_commands(factory: &'static dyn Factory) {
    let bench = Bench::new(factory, &[]).await;
    let (stores, options) = (&bench.stores, ActionOptions::default());
    let message = Message { retain: true, ..bench.message("a", "x", 1) };
    let scope = bench.scope(Event::MessagePublish { message: Arc::new(message), tenant: Tenant::default() });
    for (name, function) in [(&*bench.connector(), "on_message_publish"), ("pool1", "on_message_retain")] {
        stores.run(&scope, name, function, &options, AckLevel::Stored).await.unwrap();
    }
    let commands = ["SET guest:${topic} ${payload}".to_owned()];
    stores.execute(&scope, "pool1", &commands, AckLevel::Stored).await.unwrap();
    assert_eq!(scope.acks.clone().await, Ok(()));
    assert_eq!(bench.stored_texts("a").await, ["x"]);
    assert_eq!(bench.look().retained(&bench.topic("a")).await.unwrap().payload, "x");
    let key = format!("guest:{}", bench.topic("a")).into_bytes();
    assert_eq!(send(&bench, &[b"GET", &key]).await, bytes(b"x"));
    for bad in ["SET  a b", "SELECT 1", "SET a ${topik}", "SET a '${topic}'"] {
        let error = stores.execute(&scope, "pool1", &[bad.to_owned()], AckLevel::Stored).await.unwrap_err();
        assert!(matches!(error, StorageError::InvalidArgument(_)), "{bad}: {error}");
    }
    stores.check("pool1").await.unwrap();
}
