//! Every key of `tidegate.toml`, one row each: the single place to add one.
//!
//! Reading the file, its error messages and the reference page (`docs/configuration.md`) follow from the
//! rows; the doc comment of a row is the page's text, its default is what [`Config::default`] holds.

use toml::de::DeValue;

use super::Config;
use super::form::{
    AddressOrOff, Addresses, Count, Form, Level, LogLevel, MqttText, NodeName, Path, PathOrNone, Seconds,
    Size, SizeOrNone, Span, Switch, Word,
};

/// A key of the file.
pub(crate) struct Key {
    /// The table it stands in: `broker`.
    pub(crate) section: &'static str,
    /// Its name in that table.
    pub(crate) name: &'static str,
    /// What may be written.
    pub(crate) syntax: &'static str,
    /// What it does.
    pub(crate) text: &'static str,
    /// Reads a value into the configuration.
    pub(crate) set: fn(&mut Config, &DeValue<'_>) -> Result<(), String>,
    /// The configuration's value, as it would stand in the file.
    pub(crate) show: fn(&Config) -> String,
}

/// `section.name: Form => field;` with the text as doc comment. The form must fit the field's type.
macro_rules! keys {
    ($($(#[doc = $text:literal])+ $section:ident . $name:ident : $form:ty => $($field:ident).+ ;)+) => {
        /// All keys, sections together, in the order of the reference page.
        pub(crate) const KEYS: &[Key] = &[$(Key {
            section: stringify!($section),
            name: stringify!($name),
            syntax: syntax::<_, $form>(|config| &config.$($field).+),
            text: concat!($($text),+),
            set: |config, value| {
                config.$($field).+ = <$form as Form<_>>::read(value)?;
                Ok(())
            },
            show: |config| <$form as Form<_>>::write(&config.$($field).+),
        }),+];
    };
}

/// The syntax of a form for the type of a field; the field is named only for its type.
const fn syntax<T, F: Form<T>>(_: fn(&Config) -> &T) -> &'static str {
    F::SYNTAX
}

keys! {
    /// Name of this node among its peers. It goes into message ids and into the variable `${node}`; two
    /// nodes that write to one database need two names.
    node.name: NodeName => node_name;

    /// Where MQTT clients connect without TLS: 3.1, 3.1.1 and 5 on the same port. Port 0 takes a free one, which the log
    /// and `/readyz` name. With `[]` there are only the listeners of `[[broker.listener]]`.
    broker.listen: Addresses => listen;
    /// Largest packet a client may send; a larger one ends its connection with reason code 0x95.
    broker.max_packet_bytes: Size => broker.max_packet_bytes;
    /// QoS 1 and 2 messages of one client that may wait for their acknowledgement (MQTT 5 receive maximum). Twice as many
    /// QoS 2 messages, 1,024 at least, may be without PUBREL over all connections of an MQTT 5 client, 16,384 of an
    /// earlier one; one more ends the connection, with reason code 0x93.
    broker.receive_maximum: Count<1> => broker.receive_maximum;
    /// Memory of packets that are read ahead: PUBLISH while that window is full, SUBSCRIBE until it is answered, and what
    /// the client's earlier connections have left to be done. Pings, acknowledgements and DISCONNECT are still served.
    /// Twice as much left by earlier connections, and CONNECT is refused as busy.
    broker.read_ahead_bytes: Size => broker.read_ahead_bytes;
    /// Memory of what all clients have sent and handlers are not done with. While it is used up, a client that has more than
    /// 64 KiB of it is not read from, so that it waits and nothing is lost. Nor is the rest of a packet above 64 KiB read, and a
    /// CONNECT above 4 KiB is refused as busy. Packets that are not whole have half as much for themselves; for more, the one that has been incomplete for longest ends its connection with reason code 0x97.
    broker.inbound_budget_bytes: Size => broker.inbound_budget_bytes;
    /// Deliveries in flight to one client; the client's own receive maximum also bounds it.
    broker.max_inflight: Count<1> => broker.max_inflight;
    /// Messages that may wait for one session; beyond it QoS 0 messages are dropped first, and counted.
    broker.max_queued: Count<1> => broker.max_queued;
    /// Memory of the messages that may wait for one session, and of those sent and not acknowledged; beyond it the same
    /// happens. One message that is larger passes through an empty queue.
    broker.max_queued_bytes: Size => broker.max_queued_bytes;
    /// Memory of the messages that wait for all sessions, with those sent and not acknowledged, and of what is to be written to
    /// clients that do not read. When it is nearly used up,
    /// QoS 0 messages are dropped for clients that have anything waiting; when it is used up, new QoS 1 and 2 messages, too,
    /// for those that have most waiting; both are counted. A payload of 16 KiB and more counts once, in however many
    /// queues it waits. The defaults of all limits hold on a machine of 1 GiB, though all is used up at once: 240 MiB
    /// of 12,000 connections in TLS, 144 MiB of queues, 96 MiB of subscriptions, 64 MiB of retained messages, 48 MiB of what
    /// comes in, 50 MiB of 50,000 sessions, 32 MiB of what publishers know of their subscribers, 64 MiB of
    /// `store.memory_budget_bytes`, 64 MiB of logins that are checked and 96 MiB of the process with its own state are about
    /// 900 MiB. What modules may take comes on top.
    broker.queue_budget_bytes: Size => broker.queue_budget_bytes;
    /// Sessions of a tenant, connected or not. For a client that would be one more, the session ends whose client has been
    /// away longest; when all are there, it is refused with reason code 0x97, before MQTT 5 as "server unavailable".
    broker.max_sessions: Count<1> => broker.max_sessions;
    /// Longest time a session may outlive its connection; a client that asks for more gets this.
    broker.max_session_expiry: Seconds => broker.max_session_expiry;
    /// What is kept of sessions that outlive their connection, of retained messages and of wills. `"synced"`: QoS 1 and 2 are
    /// acknowledged when what they promise is on disk. `"written"`: when the operating system has it, so that `kill -9`
    /// costs nothing and a power cut the last seconds. `"off"`: nothing is kept over a restart.
    broker.session_durability: Word => session_durability;
    /// Time a new connection has for its handshakes (TLS, WebSocket) and CONNECT together, and modules to decide about it.
    broker.connect_timeout: Span => broker.connect_timeout;
    /// Longest client id in bytes; a longer one is refused with reason code 0x85. A user name may be four times as long; a
    /// longer one is refused with 0x86.
    broker.max_client_id_bytes: Count<23> => broker.max_client_id_bytes;
    /// Most levels of a topic name or filter. A name with more ends the connection with reason code 0x90, a filter with
    /// more is refused with 0x8F.
    broker.max_topic_levels: Count<1> => broker.max_topic_levels;
    /// Longest topic name or filter in bytes. A longer name ends the connection with reason code 0x90, a longer filter is
    /// refused with 0x8F.
    broker.max_topic_bytes: Count<1> => broker.max_topic_bytes;
    /// Subscriptions of one session; one more is refused with reason code 0x97.
    broker.max_subscriptions: Count<0> => broker.max_subscriptions;
    /// Shared subscriptions among them; one more is refused with reason code 0x97. Each group gets every message, so many
    /// groups cost whoever publishes to them.
    broker.max_shared_subscriptions: Count<0> => broker.max_shared_subscriptions;
    /// Memory of the subscriptions of a tenant, about: some 200,000 to single topics fit in 96 MiB, or half as many with
    /// wildcards. One session may have an eighth of it. One that would pass either is refused with reason code 0x97.
    broker.max_subscription_bytes: Size => broker.max_subscription_bytes;
    /// Messages a client may publish in a second; as many may come at once. 0 = as many as it likes.
    broker.max_message_rate: Count<0> => broker.max_message_rate;
    /// Bytes a client may send in a second, in all packets; as many may come at once. 0 = as many as it likes.
    broker.max_byte_rate: SizeOrNone => broker.max_byte_rate;
    /// What becomes of a client that sends faster: `pause` reads nothing more from it until it may send again, so that it
    /// waits and nothing is lost; `disconnect` ends its connection with reason code 0x96.
    broker.rate_action: Word => broker.rate_action;
    /// Topic aliases a client may set up (MQTT 5); 0 = none.
    broker.max_topic_alias: Count<0> => broker.max_topic_alias;
    /// Topics that get an alias in what one client is sent, if it takes as many (MQTT 5); 0 = none.
    broker.max_topic_alias_out: Count<0> => broker.max_topic_alias_out;
    /// Topic filters in one SUBSCRIBE or UNSUBSCRIBE; one more ends the connection with reason code 0x97.
    broker.max_subscribe_filters: Count<1> => broker.max_subscribe_filters;
    /// User properties in one packet (MQTT 5); one more ends the connection with reason code 0x97.
    broker.max_user_properties: Count<0> => broker.max_user_properties;
    /// Greatest QoS that clients may use. A message or will above it ends the connection with reason code 0x9B, a
    /// subscription is granted less.
    broker.max_qos: Level => broker.max_qos;
    /// Whether clients may have messages retained. If not, a message or will that asks for it ends the connection with
    /// reason code 0x9A.
    broker.retain_available: Switch => broker.retain_available;
    /// Longest keep-alive in seconds: an MQTT 5 client that asks for more, or for none, is told to use this; earlier
    /// versions cannot be told. 0 = any.
    broker.max_keep_alive: Count<0> => broker.max_keep_alive;
    /// Whether a payload that says it is text (MQTT 5 payload format indicator) must be UTF-8; one that is not is
    /// refused with reason code 0x99.
    broker.check_payload_format: Switch => broker.check_payload_format;
    /// What an MQTT 5 client that asks is told to build its response topics from; `${clientid}` is replaced by its
    /// client id. Empty: nothing.
    broker.response_information: MqttText => broker.response_information;
    /// Whether MQTT 5 clients are told in words why something was refused.
    broker.reason_strings: Switch => broker.reason_strings;
    /// Memory of all retained messages of a tenant: payloads, properties and the levels of their topics. An MQTT 5 client
    /// is refused a QoS 1 or 2 message that would pass it, with reason code 0x97; from others it is delivered and not
    /// retained, and what its topic had is deleted. Both are counted.
    broker.max_retained_bytes: Size => broker.max_retained_bytes;
    /// Messages a tenant may retain; the same happens to one more.
    broker.max_retained: Count<0> => broker.max_retained;
    /// How often the statistics under `$SYS/broker/` are published; `0` switches them off.
    broker.sys_interval: Span => broker.sys_interval;
    /// Connections of the whole process. For one more, the one that has waited longest without CONNECT is closed; when all have sent
    /// it, the one more is.
    broker.max_connections: Count<1> => broker.max_connections;
    /// How many of them may come from one IPv4 address or one IPv6 network of 64 bits; 0 = any number. Connections of this
    /// machine itself are not limited. Many clients may share an address behind a router or a proxy.
    broker.max_connections_per_address: Count<0> => broker.max_connections_per_address;
    /// How many of them may not have sent CONNECT yet. For one more, the one that has waited longest is closed.
    broker.max_handshakes: Count<1> => broker.max_handshakes;
    /// Connections accepted in a second, by all listeners together; 0 = any number. Those above it wait in the system's
    /// backlog until it is their turn.
    broker.connection_rate: Count<0> => broker.connection_rate;
    /// Messages of modules, and commands to clients, that may wait; beyond it a module's call answers that the
    /// broker is busy.
    broker.max_commands: Count<1> => broker.max_commands;
    /// Time a client may take nothing of what it is sent, before its connection ends with reason code 0x97; up to twice as long
    /// when it has just taken something. `0`: for ever.
    broker.write_timeout: Span => broker.write_timeout;
    /// Time that the last bytes to a client (an acknowledgement, DISCONNECT) may take.
    broker.flush_timeout: Span => broker.flush_timeout;
    /// How many times a second a client id may connect for long. What comes faster, the burst used up, is kept waiting for
    /// half of `connect_timeout` at most and then refused with reason code 0x9F; 0: as often as it likes.
    broker.reconnect_rate: Count<0> => broker.reconnect_rate;
    /// Connections of one client id that may come faster than that.
    broker.reconnect_burst: Count<0> => broker.reconnect_burst;

    /// Users and their passwords, as `tidegate passwd` writes them. A client that gives a user name needs its password; a
    /// change of the file holds at once. Without a file names are not checked, and every client counts as one without a name.
    access.password_file: PathOrNone => access.password_file;
    /// Who may publish and subscribe to what ([access.md](access.md)). A change of the file holds at once.
    access.acl_file: PathOrNone => access.acl_file;
    /// From where clients without a checked user name may connect: this machine alone, nowhere, or everywhere. Where a module
    /// decides (`client.authenticate`), it is asked about the clients that this lets in.
    access.anonymous: Word => access.anonymous;
    /// Whether clients may publish and subscribe where no line of the ACL matches. `$SYS` always needs a line, but from
    /// this machine.
    access.default: Word => access.fallback;
    /// Whether a client id is the user's that has connected with it, as long as its session lasts: another user is refused
    /// with reason code 0x85. Users that were proved by password or certificate only.
    access.client_ids: Word => access.client_ids;
    /// Wrong passwords for one user at one address, users that failed at one address, and addresses where one user failed,
    /// that cost nothing. After them passwords are looked at one at a time, with a pause of a second, then two, four and so
    /// on; 0: no limit.
    access.login_failures: Count<0> => access.patience.failures;
    /// Time without a wrong password after which all are forgotten.
    access.login_window: Span => access.patience.window;
    /// The longest such pause. Within half of `broker.connect_timeout`, who waits is still there when it ends. A user that
    /// gives the password which was right last is let in once in such a pause, and four times at once, without waiting.
    access.login_penalty: Span => access.patience.longest;

    /// Directory of WebAssembly modules. Files put there are loaded, replaced and unloaded while the runtime
    /// runs. The default one is made when it is missing; another must be there, because it may hold mandatory
    /// modules. A mandatory module whose file goes away while the runtime runs serves on: take `mandatory = true` out
    /// of its manifest first. `--modules` overrides it.
    modules.dir: Path => modules_dir;
    /// Largest module file.
    modules.max_module_bytes: Size => host.max_module_bytes;
    /// Instances of all modules that live at once; further events wait.
    modules.max_instances: Count<1> => host.max_instances;
    /// Most memory a manifest may grant an instance.
    modules.max_memory_bytes: Size => host.max_memory_bytes;
    /// Key-value pairs (`wasi:keyvalue`) that one module may keep on this node: names of buckets, keys and values.
    modules.max_state_bytes: Size => max_state_bytes;
    /// How long changes of the directory are gathered before files are loaded. A saved file serves no sooner: a few
    /// milliseconds after that when its compiled form is in the cache, else when it is compiled.
    modules.debounce: Span => host.debounce;
    /// How often the directory is read again in case the system reported no change.
    modules.rescan: Span => host.rescan;
    /// Address space of the process that compiles a module.
    modules.compiler_memory_bytes: Size => host.compiler_limits.memory_bytes;
    /// Processor time that compiling a module may take.
    modules.compiler_cpu: Span => host.compiler_limits.cpu;
    /// Time that compiling a module may take; it runs at low priority.
    modules.compiler_timeout: Span => host.compiler_limits.timeout;

    /// Memory of operations that wait for their database, over all connectors. When it is used up, publishers wait.
    store.memory_budget_bytes: Size => store.memory_budget_bytes;
    /// Most operations in one batch.
    store.batch_operations: Count<1> => store.batch_operations;
    /// Most bytes in one batch; less where the batches that are written at the same time would pass the memory budget.
    store.batch_bytes: Size => store.batch_bytes;
    /// How long a look-up is tried again while its database is down.
    store.read_deadline: Span => store.read_deadline;
    /// How long a custom statement, or one of a module, may run.
    store.statement_timeout: Span => store.statement_timeout;
    /// Most bytes of a query's result.
    store.max_result_bytes: Size => store.max_result_bytes;
    /// Size at which a file of dead letters is rotated: `dead-letters.jsonl` for operations that a database refused,
    /// `module-dead-letters.jsonl` for events that a module could not handle.
    store.dead_letter_bytes: Size => store.dead_letter_bytes;
    /// Bytes on disk of operations that wait for databases which are down, over all connectors. They count as stored:
    /// their publishers are acknowledged, and a restart finds them. When it is used up, publishers wait; 0: they wait from
    /// the beginning.
    store.buffer_bytes: SizeOrNone => buffer_bytes;

    /// Directory of the embedded database, sessions, the state of modules, buffers, the artefact cache and dead letters. Made with mode 0700. One
    /// running process at a time may use it. `--data` overrides it.
    data.dir: Path => data_dir;

    /// Directory of `.conf` files with `backend.*` keys. It may be absent. `--conf-dir` overrides it.
    conf.dir: Path => conf_dir;

    /// How log lines are written to standard error. `--log-format` overrides it.
    log.format: Word => log.format;
    /// Which log lines are written: a level, or levels by target (`info,tidegate_broker=debug`). The variable
    /// `RUST_LOG` and `--log-level` override it, in this order.
    log.level: LogLevel => log.level;

    /// Where `/metrics`, `/healthz`, `/readyz` and `/api/v1` are served. There is no access control: leave it
    /// on a loopback address. `--api` overrides it.
    api.listen: AddressOrOff => api;

    /// How long a stop may take: accepted messages are stored and acknowledged, writers flushed.
    shutdown.deadline: Span => shutdown_deadline;
}

/// The tables of the file, in order, without `backend`.
pub(crate) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter().map(|key| key.section).filter(move |section| {
        let fresh = *section != last;
        last = section;
        fresh
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_contiguous_and_keys_unique() {
        let sections: Vec<_> = sections().collect();
        let mut seen = std::collections::HashSet::new();
        assert!(sections.iter().all(|section| seen.insert(*section)), "{sections:?}");
        let mut names = std::collections::HashSet::new();
        assert!(KEYS.iter().all(|key| names.insert((key.section, key.name))));
    }

    /// Sets `key` to `value`, as it would stand in the file.
    fn set(key: &Key, value: &str, config: &mut Config) {
        let text = format!("x = {value}");
        let table = toml::de::DeTable::parse(&text).map(toml::Spanned::into_inner);
        let value = table.as_ref().ok().and_then(|table| table.get("x"));
        let outcome = value.map(|value| (key.set)(config, value.get_ref()));
        assert_eq!(outcome, Some(Ok(())), "{}.{} = {text}", key.section, key.name);
    }

    #[test]
    fn every_default_is_accepted_in_the_file() {
        let defaults = Config::default();
        for key in KEYS {
            set(key, &(key.show)(&defaults), &mut Config::default());
        }
    }

    /// A value for `key` that no default is: as it may stand in the file, and as `Debug` shows it. `None`: for texts, paths and
    /// the like.
    fn another_value(key: &Key, number: usize) -> Option<(String, String)> {
        let number = number.to_string();
        let (written, debug) = match (key.name, key.syntax) {
            ("rate_action", _) => ("\"disconnect\"", "Disconnect"),
            ("response_information", _) => ("\"a/b\"", "\"a/b\""),
            (_, "true or false") => ("false", "false"),
            (_, "0, 1 or 2") => ("1", "AtLeastOnce"),
            (_, "number" | "size" | "size, 0 for none" | "duration or \"never\"") => {
                return Some((number.clone(), number));
            }
            (_, "duration") => return Some((number.clone(), format!("{number}s"))),
            _ => return None,
        };
        Some((written.into(), debug.into()))
    }

    /// Which key sets which field is written by hand: one row with another's field would compile, and change a limit that
    /// nobody meant.
    #[test]
    fn every_key_of_the_broker_changes_the_field_of_its_name_and_no_other() {
        let fields = |config: &Config| -> Vec<String> {
            format!("{:#?}", config.broker).lines().map(|line| line.trim().to_owned()).collect()
        };
        let defaults = fields(&Config::default());
        let (mut elsewhere, mut changed) = (Vec::new(), 0);
        for (number, key) in KEYS.iter().enumerate().filter(|(_, key)| key.section == "broker") {
            let Some((written, debug)) = another_value(key, 30_001 + number) else {
                elsewhere.push(key.name);
                continue;
            };
            let mut config = Config::default();
            set(key, &written, &mut config);
            let now = fields(&config);
            let differ = now.iter().zip(&defaults).filter(|(now, default)| now != default);
            let differ: Vec<&str> = differ.map(|(now, _)| now.as_str()).collect();
            assert_eq!(differ, [format!("{}: {debug},", key.name)]);
            assert_eq!(now.len(), defaults.len(), "{}", key.name);
            changed += 1;
        }
        assert_eq!(elsewhere, ["listen", "session_durability"], "these are no fields of the broker");
        // The first line and the last are no fields.
        assert_eq!(changed, defaults.len() - 2, "each field has a key");
    }

    #[test]
    fn no_key_changes_what_another_shows() {
        let defaults = Config::default();
        let mut changed = 0;
        for (number, key) in KEYS.iter().enumerate() {
            let Some((written, _)) = another_value(key, 30_001 + number) else { continue };
            let mut config = Config::default();
            set(key, &written, &mut config);
            let differ = KEYS.iter().filter(|other| (other.show)(&config) != (other.show)(&defaults));
            let differ: Vec<_> = differ.map(|other| (other.section, other.name)).collect();
            assert_eq!(differ, [(key.section, key.name)]);
            changed += 1;
        }
        assert!(changed > 50, "{changed}");
    }
}
