//! Looks whether the files of a listener have changed, and takes what is new.

use std::sync::Arc;
use std::time::Duration;

use super::Tls;
use super::files::Stamp;

/// How often the files are looked at. It costs a system call a file.
const CHECK: Duration = Duration::from_secs(1);

/// Follows the files of `tls` for ever. A change is taken when nothing has changed since the last look: certificate and key are
/// two files, which are rarely replaced at the same moment.
pub(in crate::listener) async fn follow(tls: Arc<Tls>) {
    let mut taken = Some(tls.opened.clone());
    let mut seen = taken.clone();
    loop {
        tokio::time::sleep(CHECK).await;
        let now = stamp(&tls).await;
        if now != taken && now == seen {
            taken.clone_from(&now);
            take(&tls).await;
        }
        seen = now;
    }
}

/// `None`: the task that looks was cancelled.
async fn stamp(tls: &Arc<Tls>) -> Option<Stamp> {
    let tls = Arc::clone(tls);
    tokio::task::spawn_blocking(move || Stamp::now(&tls.config)).await.ok()
}

async fn take(tls: &Arc<Tls>) {
    let of = Arc::clone(tls);
    let listener = &tls.listener;
    match tokio::task::spawn_blocking(move || of.reopen()).await {
        Ok(Ok(())) => {
            tls.count_reload("ok");
            tracing::info!(%listener, "certificates were read again: new connections get them");
        }
        Ok(Err(error)) => {
            tls.count_reload("failed");
            tracing::error!(%listener, "the changed certificates cannot be used, those before stay: {error}");
        }
        // The runtime ends.
        Err(_) => {}
    }
}
