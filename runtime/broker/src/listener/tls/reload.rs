//! Looks whether the files of a listener have changed, and takes what is new.

use std::sync::Arc;
use std::time::Duration;

use super::Tls;
use super::error::TlsError;
use super::files::Stamp;

/// How often the files are looked at. It costs a system call a file.
const CHECK: Duration = Duration::from_secs(1);

/// Follows the files of `tls` for ever. A change is taken when nothing has changed since the last look: certificate and key are
/// two files, which are rarely replaced at the same moment.
pub(in crate::listener) async fn follow(tls: Arc<Tls>) {
    let mut taken = Some(tls.opened.clone());
    let mut seen = taken.clone();
    let mut told = String::new();
    loop {
        tokio::time::sleep(CHECK).await;
        let now = stamp(&tls).await;
        if now != taken && now == seen {
            taken = if take(&tls, &mut told).await { now.clone() } else { None };
        }
        seen = now;
    }
}

/// `None`: the task that looks was cancelled.
async fn stamp(tls: &Arc<Tls>) -> Option<Stamp> {
    let tls = Arc::clone(tls);
    tokio::task::spawn_blocking(move || Stamp::now(&tls.config)).await.ok()
}

/// Takes what is in the files; `told` is what the log said about it last. Gives whether there is no need to try again before
/// they change.
async fn take(tls: &Arc<Tls>, told: &mut String) -> bool {
    let of = Arc::clone(tls);
    let listener = &tls.listener;
    match tokio::task::spawn_blocking(move || of.reopen()).await {
        Ok(Ok(())) => {
            tls.count_reload("ok");
            tracing::info!(%listener, "certificates were read again: new connections get them");
            told.clear();
            true
        }
        Ok(Err(error)) => {
            let text = error.to_string();
            if *told != text {
                tls.count_reload("failed");
                tracing::error!(%listener, "the changed certificates cannot be used, those before stay: {text}");
                *told = text;
            }
            !may_pass(&error)
        }
        // The runtime ends.
        Err(_) => true,
    }
}

/// Whether the files may be readable soon though they stay as they are: there are too many open files, for one.
fn may_pass(error: &TlsError) -> bool {
    let TlsError::Unreadable { source, .. } = error else { return false };
    source.raw_os_error().is_some()
        && !matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn files_that_cannot_be_opened_now_are_tried_again() {
        const TOO_MANY_OPEN_FILES: i32 = 24;
        let unreadable = |source| TlsError::Unreadable { path: "cert.pem".into(), source };
        assert!(may_pass(&unreadable(Error::from_raw_os_error(TOO_MANY_OPEN_FILES))));
        assert!(!may_pass(&unreadable(ErrorKind::NotFound.into())));
        assert!(!may_pass(&unreadable(Error::other("it is larger than 1 MiB"))));
        assert!(!may_pass(&TlsError::NoKey { path: "key.pem".into() }));
    }
}
