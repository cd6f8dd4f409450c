//! A pool's options, checked: what can never work is an error here, before anything is connected.

use std::time::Duration;

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion,
    RedisConnectionInfo, TlsCertificates, io::tcp::TcpSettings,
};

use crate::backend::BackendError;
use crate::config::PoolConfig;

/// How servers stand together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One server.
    Single,
    /// A master that sentinels know by this name.
    Sentinel(String),
    /// Slots over several masters.
    Cluster,
}

/// What a pool needs to know.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) connector: String,
    pub(super) form: Form,
    /// Servers, sentinels or some nodes of the cluster: host and port.
    pub(super) servers: Vec<(String, u16)>,
    pub(super) connections: usize,
    pub(super) connect_timeout: Duration,
    pub(super) query_timeout: Duration,
    /// Replicas that must have a batch before it counts as stored.
    pub(super) wait_replicas: u64,
    pub(super) channel: Option<String>,
    database: i64,
    user: Option<String>,
    password: Option<String>,
    sentinel_password: Option<String>,
    pub(super) tls: Option<TlsCertificates>,
}

/// What can never work of the options that are set, taken together: the option to point at, and words.
pub(super) fn check(pool: &PoolConfig) -> Option<(&'static str, String)> {
    let kind = pool.text("type").unwrap_or("single");
    let is_above_0 = |option| pool.integer(option).is_some_and(|number| number > 0);
    let (option, words) = match kind {
        "single" if pool.servers_at("server", 1).len() > 1 => {
            ("server", "a list of servers needs `type`, which is sentinel or cluster")
        }
        "sentinel" if pool.text("sentinel").is_none() => {
            ("type", "type = sentinel needs `sentinel`, the name of the master")
        }
        "cluster" if pool.is_set("channel") => {
            ("channel", "Redis Cluster cannot use PUB/SUB: take `channel` out, or use another type")
        }
        "cluster" if is_above_0("database") => ("database", "a cluster has only database 0"),
        "cluster" if is_above_0("wait_replicas") => {
            ("wait_replicas", "it cannot be used with type = cluster: take it out")
        }
        "single" | "sentinel" | "cluster" => match () {
            () if pool.text("user").is_some() && pool.text("password").is_none() => {
                ("user", "a user needs `password`")
            }
            () if pool.is_set("certfile") && !pool.is_set("keyfile") => {
                ("certfile", "a certificate needs `keyfile`")
            }
            () if pool.is_set("keyfile") && !pool.is_set("certfile") => ("keyfile", "a key needs `certfile`"),
            () if pool.flag("ssl") => return certificates(pool).err(),
            () => return None,
        },
        _ => ("type", "expected one of single, sentinel, cluster"),
    };
    Some((option, words.to_owned()))
}

fn invalid(words: impl Into<String>) -> BackendError {
    BackendError::Invalid(words.into())
}

impl Settings {
    /// Those of `pool`.
    ///
    /// # Errors
    /// Options that can never work, by name.
    pub(super) fn of(pool: &PoolConfig) -> Result<Self, BackendError> {
        let wrong = |(option, words): (&str, String)| invalid(format!("{option}: {words}"));
        if let Some(found) = check(pool) {
            return Err(wrong(found));
        }
        let form = match (pool.text("type"), pool.text("sentinel")) {
            (Some("cluster"), _) => Form::Cluster,
            (Some("sentinel"), Some(master)) => Form::Sentinel(master.to_owned()),
            _ => Form::Single,
        };
        let port = if matches!(form, Form::Sentinel(_)) { 26_379 } else { 6_379 };
        let mut servers = pool.servers_at("server", port);
        if servers.is_empty() {
            servers.push(("127.0.0.1".to_owned(), port));
        }
        let database = i64::try_from(pool.integer("database").unwrap_or(0)).unwrap_or(i64::MAX);
        let channel = pool.text("channel");
        let text = |name: &str| pool.text(name).map(str::to_owned);
        let password = text("password");
        Ok(Self {
            connector: pool.connector(),
            servers,
            connections: usize::try_from(pool.integer("pool_size").unwrap_or(8)).unwrap_or(8).max(1),
            connect_timeout: milliseconds(pool, "connect_timeout", 5_000),
            query_timeout: milliseconds(pool, "query_timeout", 5_000),
            wait_replicas: pool.integer("wait_replicas").unwrap_or(0),
            channel: match form {
                Form::Cluster => None,
                _ => Some(channel.unwrap_or("mqtt_channel").to_owned()),
            },
            form,
            database,
            user: text("user"),
            password,
            sentinel_password: text("sentinel_password"),
            tls: if pool.flag("ssl") { Some(certificates(pool).map_err(wrong)?) } else { None },
        })
    }

    /// How to connect to a server that holds data.
    pub(super) fn info(&self, (host, port): &(String, u16)) -> Result<ConnectionInfo, BackendError> {
        self.connection(host, *port, self.database, self.user.as_deref(), self.password.as_deref())
    }

    /// How to connect to a sentinel.
    pub(super) fn sentinel_info(&self, (host, port): &(String, u16)) -> Result<ConnectionInfo, BackendError> {
        self.connection(host, *port, 0, None, self.sentinel_password.as_deref())
    }

    /// User and password for a cluster's nodes, which are found while running.
    pub(super) fn credentials(&self) -> (Option<&str>, Option<&str>) {
        (self.user.as_deref(), self.password.as_deref())
    }

    /// For a connection's sockets: unanswered bytes end it, whatever waits for an answer.
    pub(super) fn tcp(&self) -> TcpSettings {
        let settings = TcpSettings::default().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let settings = settings.set_user_timeout(self.query_timeout);
        settings
    }

    fn connection(
        &self,
        host: &str,
        port: u16,
        database: i64,
        user: Option<&str>,
        password: Option<&str>,
    ) -> Result<ConnectionInfo, BackendError> {
        let host = host.to_owned();
        let address = match self.tls {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        };
        let mut redis = RedisConnectionInfo::default().set_db(database).set_protocol(ProtocolVersion::RESP2);
        if let Some(user) = user {
            redis = redis.set_username(user);
        }
        if let Some(password) = password {
            redis = redis.set_password(password);
        }
        let info = address.into_connection_info();
        let info = info.map_err(|error| BackendError::Unavailable(error.to_string()))?;
        Ok(info.set_redis_settings(redis).set_tcp_settings(self.tcp()))
    }
}

fn milliseconds(pool: &PoolConfig, name: &str, default: u64) -> Duration {
    Duration::from_millis(pool.integer(name).unwrap_or(default))
}

/// The files of TLS, read and understood.
///
/// # Errors
/// The option whose file is of no use, and why.
fn certificates(pool: &PoolConfig) -> Result<TlsCertificates, (&'static str, String)> {
    let read = |option: &'static str| {
        let Some(path) = pool.text(option) else { return Ok(None) };
        let wrong = |words: String| (option, format!("{path}: {words}"));
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        // A file without any is no error for the driver: it would trust nobody, or show nothing.
        if option != "keyfile" && !holds(&bytes, "-----BEGIN CERTIFICATE-----") {
            return Err(wrong("there is no certificate in PEM form in it".into()));
        }
        Ok(Some(bytes))
    };
    let root_cert = read("cacertfile")?;
    let client_tls = match (read("certfile")?, read("keyfile")?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        _ => None,
    };
    let found = TlsCertificates { client_tls, root_cert };
    understood(&TlsCertificates { client_tls: None, ..found.clone() })
        .map_err(|words| ("cacertfile", words))?;
    understood(&found).map_err(|words| {
        let option = if words.contains("private key") { "keyfile" } else { "certfile" };
        (option, words)
    })?;
    Ok(found)
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Whether the driver can read them.
fn understood(certificates: &TlsCertificates) -> Result<(), String> {
    let (host, port) = ("127.0.0.1".to_owned(), 1);
    let nowhere = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
    let client =
        nowhere.into_connection_info().and_then(|info| Client::build_with_tls(info, certificates.clone()));
    client.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config;

    fn settings(lines: &str) -> Result<Settings, BackendError> {
        let text: String = lines.lines().map(|line| format!("backend.redis.pool1.{line}\n")).collect();
        let loaded = config::load(&[("redis.conf".into(), text)], None)
            .map_err(|all| invalid(all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
        Settings::of(loaded.config.pools.first().unwrap())
    }

    #[test]
    fn servers_are_a_list_of_hosts_and_ports() {
        let found = settings("type = cluster\nserver = a:1, [::1]:2,b").unwrap();
        assert_eq!(found.servers, [("a".into(), 1), ("::1".into(), 2), ("b".into(), 6379)]);
        let found = settings("type = sentinel\nsentinel = m\nserver = a").unwrap();
        assert_eq!((found.form, found.servers), (Form::Sentinel("m".into()), vec![("a".into(), 26379)]));
        for wrong in ["a:x", "a:0", ":1", "redis://a:1", "a:1,", "a b:1"] {
            assert!(settings(&format!("type = cluster\nserver = {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_can_never_work_is_refused_with_the_reason() {
        for (lines, reason) in [
            ("type = ring", "expected one of single, sentinel, cluster"),
            ("type = sentinel", "name of the master"),
            ("server = a:1,b:2", "a list of servers needs `type`"),
            ("type = cluster\nchannel = mqtt_channel", "Redis Cluster cannot use PUB/SUB"),
            ("type = cluster\ndatabase = 1", "only database 0"),
            ("user = u", "a user needs `password`"),
            ("ssl = true\ncertfile = /nowhere/c.pem", "a certificate needs `keyfile`"),
            (
                "ssl = true\ncertfile = /nowhere/c.pem\nkeyfile = /nowhere/k.pem",
                "/nowhere/c.pem: No such file",
            ),
        ] {
            let error = settings(lines).unwrap_err().to_string();
            assert!(error.contains(reason), "{lines}: {error}");
        }
    }

    #[test]
    fn the_documents_values_are_the_defaults() {
        let found = settings("type = single").unwrap();
        assert_eq!(found.servers, [("127.0.0.1".into(), 6379)]);
        assert_eq!((found.connections, found.channel.as_deref()), (8, Some("mqtt_channel")));
        assert_eq!(settings("type = cluster").unwrap().channel, None);
    }
    #[test]
    fn a_file_of_tls_that_cannot_be_understood_is_an_error_at_its_option() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let framed =
            |what: &str, text: &str| format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n");
        let no_pem = file("no.pem", "no certificate");
        let broken = file("broken.pem", &framed("CERTIFICATE", "!"));
        let wrong = file("wrong.pem", &framed("CERTIFICATE", "AAAA"));
        let any = file("any.pem", &framed("CERTIFICATE", "AAAA"));
        for (lines, line, reason) in [
            (format!("ssl = true\ncacertfile = {no_pem}"), 2, "no certificate in PEM form"),
            (format!("ssl = true\ncacertfile = {broken}"), 2, "Unable to parse"),
            (format!("ssl = true\ncacertfile = {wrong}"), 2, "Unable to parse"),
            (format!("ssl = true\nkeyfile = {no_pem}\ncertfile = {no_pem}"), 3, "no certificate in PEM form"),
            (
                format!("ssl = true\nkeyfile = {any}\ncertfile = {broken}"),
                3,
                "Unable to parse client certificate",
            ),
            (format!("ssl = true\nkeyfile = {no_pem}\ncertfile = {any}"), 2, "private key"),
        ] {
            let error = settings(&lines).unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.contains(&format!("redis.conf:{line}")),
                "{lines}: {error}"
            );
        }
        assert!(settings(&format!("cacertfile = {no_pem}")).is_ok(), "without TLS nobody reads it");
    }
}
