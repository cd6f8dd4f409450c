//! A pool's options, checked: what can never work is an error here, before anything is connected.

use std::time::Duration;

use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion,
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

fn invalid(words: impl Into<String>) -> BackendError {
    BackendError::Invalid(words.into())
}

impl Settings {
    /// Those of `pool`.
    ///
    /// # Errors
    /// Options that can never work, by name.
    pub(super) fn of(pool: &PoolConfig) -> Result<Self, BackendError> {
        let kind = pool.text("type").unwrap_or("single");
        let form = match (kind, pool.text("sentinel")) {
            ("single", _) => Form::Single,
            ("cluster", _) => Form::Cluster,
            ("sentinel", Some(master)) => Form::Sentinel(master.to_owned()),
            ("sentinel", None) => {
                return Err(invalid("type is sentinel, but `sentinel`, the name of the master, is not set"));
            }
            (other, _) => {
                return Err(invalid(format!("type {other:?}: expected single, sentinel or cluster")));
            }
        };
        let port = if matches!(form, Form::Sentinel(_)) { 26_379 } else { 6_379 };
        let servers = pool.text("server").unwrap_or("127.0.0.1:6379").split(',');
        let servers: Vec<_> = servers.map(|text| address(text.trim(), port)).collect::<Result<_, _>>()?;
        if form == Form::Single && servers.len() > 1 {
            return Err(invalid(
                "server: type single takes one server; for several, type is sentinel or cluster",
            ));
        }
        let database = i64::try_from(pool.integer("database").unwrap_or(0)).unwrap_or(i64::MAX);
        let channel = pool.text("channel");
        if form == Form::Cluster {
            if database != 0 {
                return Err(invalid(format!("database {database}: a cluster has only database 0")));
            }
            if channel.is_some() {
                return Err(invalid("channel cannot be used with type cluster: remove the line"));
            }
            if pool.integer("wait_replicas").unwrap_or(0) > 0 {
                return Err(invalid("wait_replicas cannot be used with type cluster: remove the line"));
            }
        }
        let text = |name: &str| pool.text(name).map(str::to_owned);
        let password = text("password");
        if text("user").is_some() && password.is_none() {
            return Err(invalid("user is set, but password is not"));
        }
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
            tls: if pool.flag("ssl") { Some(certificates(pool)?) } else { None },
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
        let info = address.into_connection_info().map_err(|error| invalid(error.to_string()))?;
        Ok(info.set_redis_settings(redis).set_tcp_settings(self.tcp()))
    }
}

fn milliseconds(pool: &PoolConfig, name: &str, default: u64) -> Duration {
    Duration::from_millis(pool.integer(name).unwrap_or(default))
}

/// `host:port`, `[v6]:port`, `host`.
fn address(text: &str, default_port: u16) -> Result<(String, u16), BackendError> {
    let wrong = || invalid(format!("server {text:?}: expected host:port, several separated by commas"));
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Ok(default_port), |port| port.parse().map_err(|_| wrong()))?;
    if host.is_empty() || port == 0 || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

fn certificates(pool: &PoolConfig) -> Result<TlsCertificates, BackendError> {
    let read = |name: &str| {
        pool.text(name)
            .map(|path| std::fs::read(path).map_err(|error| invalid(format!("{name} {path}: {error}"))))
            .transpose()
    };
    let client_tls = match (read("certfile")?, read("keyfile")?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        _ => return Err(invalid("certfile and keyfile belong together: one of them is not set")),
    };
    Ok(TlsCertificates { client_tls, root_cert: read("cacertfile")? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config;

    fn settings(lines: &str) -> Result<Settings, BackendError> {
        let text: String = lines.lines().map(|line| format!("backend.redis.pool1.{line}\n")).collect();
        let loaded = config::load(&[("redis.conf".into(), text)], None).unwrap();
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
            ("type = ring", "expected single, sentinel or cluster"),
            ("type = sentinel", "name of the master"),
            ("server = a:1,b:2", "takes one server"),
            ("type = cluster\nchannel = mqtt_channel", "channel cannot be used with type cluster"),
            ("type = cluster\ndatabase = 1", "only database 0"),
            ("user = u", "password is not"),
            ("ssl = true\ncertfile = /nowhere/c.pem", "certfile /nowhere/c.pem"),
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
}
