//! Who may do what: the gate made of the password file, the ACL file and the rules for clients without a name.
//!
//! | module | what it is |
//! | --- | --- |
//! | `password_file`, `hashing`, `places` | users and their argon2id hashes; a few are checked at once |
//! | `remembered` | who logs in again with the password that was right is not checked so |
//! | `acl`, `pattern`, `network` | ordered lines: who may publish and subscribe to what |
//! | `attempts`, `waiting` | wrong passwords: who has to wait, and how many may |
//! | `files` | reading both files, at the start and when they change |
//! | [`passwd`] | the command that writes the password file |

mod acl;
mod attempts;
mod files;
mod hashing;
mod network;
pub mod passwd;
mod password_file;
mod pattern;
mod places;
mod remembered;
mod waiting;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics::{Counter, counter};
use tidegate_event::{
    BoxFuture, Client, Decision, Gate, Owner, Password, ReasonCode, TopicFilter, TopicName,
};

pub(crate) use self::attempts::Patience;
use self::attempts::{Attempts, Turn};
pub(crate) use self::files::{Files, REFUSED, RELOADS, files};
use self::hashing::{Checks, Hash};
use self::network::is_local;
use self::remembered::Remembered;
use crate::config::form;

/// "The Server is busy. Try again later." (MQTT 5 table 3-1)
const SERVER_BUSY: ReasonCode = ReasonCode(0x89);

/// What is counted about logins.
pub(crate) const LOGINS: &str = "tidegate_access_logins_total";

/// What the configuration says about access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessConfig {
    /// Users and their passwords; `None`: user names are not checked.
    pub password_file: Option<PathBuf>,
    /// Who may publish and subscribe to what.
    pub acl_file: Option<PathBuf>,
    /// From where clients without a checked name may connect.
    pub(crate) anonymous: Anonymous,
    /// What holds where no line of the ACL matches.
    pub(crate) fallback: Fallback,
    /// Whose a client id is.
    pub(crate) client_ids: ClientIds,
    /// When wrong passwords cost time.
    pub(crate) patience: Patience,
}

impl Default for AccessConfig {
    fn default() -> Self {
        let second = std::time::Duration::from_secs(1);
        Self {
            password_file: None,
            acl_file: None,
            anonymous: Anonymous::Loopback,
            fallback: Fallback::Allow,
            client_ids: ClientIds::Owned,
            patience: Patience { failures: 10, window: 60 * second, longest: 5 * second },
        }
    }
}

/// From where clients without a checked name may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Anonymous {
    /// From this machine.
    #[default]
    Loopback,
    /// From nowhere.
    Never,
    /// From everywhere.
    Always,
}

impl form::Words for Anonymous {
    const SYNTAX: &'static str = "\"loopback\", \"never\" or \"always\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("loopback", Self::Loopback), ("never", Self::Never), ("always", Self::Always)];
}

/// What holds where no line of the ACL matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// It is allowed; but only clients on this machine may subscribe to `$SYS`.
    #[default]
    Allow,
    /// It is not.
    Deny,
}

impl form::Words for Fallback {
    const SYNTAX: &'static str = "\"allow\" or \"deny\"";
    const WORDS: &'static [(&'static str, Self)] = &[("allow", Self::Allow), ("deny", Self::Deny)];
}

/// Whose a client id, and the session behind it, is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ClientIds {
    /// The user's that has connected with it, as long as there is its session.
    #[default]
    Owned,
    /// Nobody's.
    Free,
}

impl form::Words for ClientIds {
    const SYNTAX: &'static str = "\"owned\" or \"free\"";
    const WORDS: &'static [(&'static str, Self)] = &[("owned", Self::Owned), ("free", Self::Free)];
}

/// The gate of a node.
pub(crate) struct Access {
    config: AccessConfig,
    files: Arc<ArcSwap<Files>>,
    gatekeeper: Arc<Gatekeeper>,
}

/// What answering a login takes.
struct Gatekeeper {
    files: Arc<ArcSwap<Files>>,
    checks: Checks,
    remembered: Remembered,
    attempts: Attempts,
    accepted: Counter,
    refused: Counter,
    /// Those that had to wait, or were refused because too many waited.
    damped: Counter,
    busy: Counter,
}

impl Access {
    /// The gate that `config` describes, with `files` as they were read.
    pub(crate) fn new(config: &AccessConfig, files: Files) -> Self {
        files::count_from_nothing(config);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let logins = |result| counter!(LOGINS, "result" => result);
        let files = Arc::new(ArcSwap::from_pointee(files));
        Self {
            files: files.clone(),
            gatekeeper: Arc::new(Gatekeeper {
                files,
                checks: Checks::new(processors),
                remembered: Remembered::new(),
                attempts: Attempts::new(config.patience),
                accepted: logins("accepted"),
                refused: logins("refused"),
                damped: logins("damped"),
                busy: logins("busy"),
            }),
            config: config.clone(),
        }
    }

    /// Whether a client whose name nobody has checked may connect. Who has shown a certificate is no stranger.
    fn anonymous(&self, client: &Client) -> Decision {
        let allowed = client.certificate.is_some()
            || match self.config.anonymous {
                Anonymous::Loopback => is_here(client),
                Anonymous::Never => false,
                Anonymous::Always => true,
            };
        if allowed { Decision::Allow } else { Decision::Refuse(ReasonCode::NOT_AUTHORIZED) }
    }

    /// Whether the user of `client` was taken out of the file since it connected.
    fn is_expelled(files: &Files, client: &Client) -> bool {
        let (Some(passwords), Some(name)) = (&files.passwords, &client.username) else { return false };
        !client.certified && !passwords.knows(name)
    }
}

/// Whether `client` is on this machine, as far as can be seen: who hands something on unseen may be.
fn is_here(client: &Client) -> bool {
    !client.forwarded && is_local(client.peer.ip())
}

impl Gatekeeper {
    /// What a password of `name` is to be checked against, and whether that is the user's hash.
    fn hash(&self, name: &str) -> Option<(Hash, bool)> {
        self.files.load().passwords.as_ref().and_then(|passwords| passwords.hash(name))
    }

    /// Whether `password` is that of the user `name`, who knocks from `address`.
    async fn login(&self, name: &str, password: Option<Password>, address: IpAddr) -> Decision {
        let Some(password) = password else {
            self.refused.increment(1);
            return Decision::Refuse(ReasonCode::BAD_USER_NAME_OR_PASSWORD);
        };
        if !self.attempts.is_free(address, name) && self.recognises(name, &password, address) {
            self.attempts.recognised(address, name);
            self.accepted.increment(1);
            return Decision::Allow;
        }
        let Some(mut turn) = self.turn(address, name).await else {
            return Decision::Refuse(ReasonCode::CONNECTION_RATE_EXCEEDED);
        };
        // Until it is noted what came of it, the next one has to wait.
        let mut check_ends = None;
        let right = match self.hash(name) {
            Some((hash, true)) if self.remembered.was_right(name, &hash, &password) => true,
            Some((hash, is_own)) => {
                let check = loop {
                    let Some(check) = self.checks.turn(hash.clone(), address).await else {
                        self.busy.increment(1);
                        return Decision::Refuse(SERVER_BUSY);
                    };
                    // Others that waited with it may have failed meanwhile: many that come at once guess no more than
                    // those that come one after the other.
                    if turn == Turn::Alone || self.attempts.is_free(address, name) {
                        break check;
                    }
                    drop(check);
                    let Some(other) = self.turn(address, name).await else {
                        return Decision::Refuse(ReasonCode::CONNECTION_RATE_EXCEEDED);
                    };
                    turn = other;
                };
                let (same, check) = check.of(password.clone()).await;
                check_ends = check;
                let right = same && is_own;
                if right {
                    // It was the right one when it came. The file may say something else by now.
                    if self.hash(name).is_none_or(|(now, is_own)| !is_own || now != hash) {
                        self.refused.increment(1);
                        return Decision::Refuse(ReasonCode::BAD_USER_NAME_OR_PASSWORD);
                    }
                    self.remembered.is_right(name, &hash, &password);
                }
                right
            }
            None => false,
        };
        if right {
            self.attempts.succeeded(address, name, turn);
            self.accepted.increment(1);
        } else {
            self.attempts.failed(address, name);
            self.refused.increment(1);
        }
        drop(check_ends);
        if right { Decision::Allow } else { Decision::Refuse(ReasonCode::BAD_USER_NAME_OR_PASSWORD) }
    }

    /// Whether `password` is the one with which the user `name` has logged in last, if that may be looked at before its turn.
    fn recognises(&self, name: &str, password: &Password, address: IpAddr) -> bool {
        let Some((hash, true)) = self.hash(name) else { return false };
        self.attempts.may_look(address, name) && self.remembered.was_right(name, &hash, password)
    }

    /// Waits for the turn of the user `name` at `address`. `None`: too many do.
    async fn turn(&self, address: IpAddr, name: &str) -> Option<Turn> {
        self.attempts.turn(address, name, || self.damped.increment(1)).await
    }
}

impl Gate for Access {
    fn generation(&self) -> Option<u64> {
        let files = self.files.load();
        // Without lines and users there is nothing to look through.
        (files.acl.len() > 0 || files.passwords.is_some()).then_some(files.generation)
    }

    fn connect(&self, client: &Arc<Client>, password: Option<Password>) -> BoxFuture<'static, Decision> {
        let (address, has_users) = (client.peer.ip(), self.files.load().passwords.is_some());
        // A name out of a certificate is proved already.
        let to_check = client.username.clone().filter(|_| has_users && !client.certified);
        let Some(name) = to_check else {
            let decision = self.anonymous(client);
            return Box::pin(std::future::ready(decision));
        };
        let gatekeeper = self.gatekeeper.clone();
        Box::pin(async move { gatekeeper.login(&name, password, address).await })
    }

    fn owner(&self, client: &Client) -> Option<Owner> {
        let is_proved = client.certified || self.files.load().passwords.is_some();
        let user =
            client.username.clone().filter(|_| is_proved && self.config.client_ids == ClientIds::Owned)?;
        Some(Owner { user, certified: client.certified })
    }

    fn may_take(&self, client: &Client, owner: &Owner) -> bool {
        let files = self.files.load();
        // A user that is gone does not come back for its session. Who has certificates is not known here.
        let is_gone =
            || !owner.certified && !files.passwords.as_ref().is_some_and(|all| all.knows(&owner.user));
        self.config.client_ids == ClientIds::Free
            || self.owner(client).is_some_and(|own| own.user == owner.user)
            || is_gone()
    }

    fn may_publish(&self, client: &Client, topic: &TopicName) -> bool {
        let files = self.files.load();
        !Self::is_expelled(&files, client)
            && files.acl.publish(client, topic).unwrap_or(self.config.fallback == Fallback::Allow)
    }

    fn may_subscribe(&self, client: &Client, filter: &TopicFilter) -> bool {
        let files = self.files.load();
        !Self::is_expelled(&files, client)
            && files.acl.subscribe(client, filter).unwrap_or_else(|| {
                let is_own = filter.levels().next() == Some("$SYS");
                self.config.fallback == Fallback::Allow && (!is_own || is_here(client))
            })
    }
}

/// A client on this machine.
#[cfg(test)]
fn test_client(id: &str, username: Option<&str>) -> Client {
    Client { id: id.into(), username: username.map(Into::into), ..Client::default() }
}

#[cfg(test)]
mod tests;
