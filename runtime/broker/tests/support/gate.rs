//! A gate that decides as a test says, and notes what it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tidegate_event::{
    BoxFuture, Client, Decision, Gate, Owner, Password, ReasonCode, TopicFilter, TopicName,
};
use tokio::sync::Semaphore;

/// Refuses topics and filters that begin with a text, the password `wrong` and the user `banned`, and answers to the
/// password `slow` when told to. Users that begin with `proved ` have proved it.
pub(crate) struct ScriptedGate {
    /// Topics and filters that begin with it are refused.
    forbidden: Mutex<String>,
    generation: AtomicU64,
    /// Whether answers may be kept.
    keeps: bool,
    answers: Arc<Semaphore>,
    asked: Mutex<Vec<String>>,
    /// Users whose sessions others may have.
    gone: Mutex<Vec<String>>,
}

impl ScriptedGate {
    /// A gate that refuses what begins with `forbidden`; its answers may be kept.
    pub(crate) fn new(forbidden: &str) -> Arc<Self> {
        Self::of(forbidden, true)
    }

    /// The same, to be asked every time.
    pub(crate) fn asked_every_time(forbidden: &str) -> Arc<Self> {
        Self::of(forbidden, false)
    }

    fn of(forbidden: &str, keeps: bool) -> Arc<Self> {
        Arc::new(Self {
            forbidden: Mutex::new(forbidden.to_owned()),
            generation: AtomicU64::new(1),
            keeps,
            answers: Arc::new(Semaphore::new(0)),
            asked: Mutex::default(),
            gone: Mutex::default(),
        })
    }

    /// From now on this is forbidden.
    pub(crate) fn forbid(&self, forbidden: &str) {
        *self.forbidden.lock() = forbidden.to_owned();
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Answers one `slow` client.
    pub(crate) fn answer(&self) {
        self.answers.add_permits(1);
    }

    /// From now on there are all users but these.
    pub(crate) fn without(&self, gone: &[&str]) {
        *self.gone.lock() = gone.iter().map(|user| (*user).to_owned()).collect();
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }

    fn allows(&self, what: &str, client: &Client, text: &str) -> bool {
        self.asked.lock().push(format!("{what} {} {text}", client.id));
        !text.starts_with(&**self.forbidden.lock())
    }
}

impl Gate for ScriptedGate {
    fn generation(&self) -> Option<u64> {
        self.keeps.then(|| self.generation.load(Ordering::SeqCst))
    }

    fn connect(&self, client: &Arc<Client>, password: Option<Password>) -> BoxFuture<'static, Decision> {
        let user = client.username.as_deref().unwrap_or("nobody").to_owned();
        let password = password.map_or_else(String::new, |p| String::from_utf8_lossy(p.bytes()).into_owned());
        self.asked.lock().push(format!("connect {} {user} {password}", client.id));
        let answers = self.answers.clone();
        Box::pin(async move {
            match (&*user, &*password) {
                (_, "wrong") => Decision::Refuse(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
                ("banned", _) => Decision::Refuse(ReasonCode::NOT_AUTHORIZED),
                (_, "slow") => {
                    answers.acquire().await.unwrap().forget();
                    Decision::Allow
                }
                _ => Decision::Allow,
            }
        })
    }

    fn owner(&self, client: &Client) -> Option<Owner> {
        let user = client.username.clone().filter(|user| user.starts_with("proved "))?;
        Some(Owner { user, certified: false })
    }

    fn may_take(&self, client: &Client, owner: &Owner) -> bool {
        client.username.as_ref() == Some(&owner.user)
            || self.gone.lock().iter().any(|gone| **gone == *owner.user)
    }

    fn may_publish(&self, client: &Client, topic: &TopicName) -> bool {
        self.allows("publish", client, topic.as_str())
    }

    fn may_subscribe(&self, client: &Client, filter: &TopicFilter) -> bool {
        self.allows("subscribe", client, filter.as_str())
    }
}
