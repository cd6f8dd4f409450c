//! The routes of the control socket: requests read, answers and mistakes written.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::files::Refusal;
use super::messages::{LogsOf, Mistake, Named};
use super::modules::Controls;
use crate::logging::module_lines::ModuleLines;

/// Longest body of a request, in bytes: names and paths.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Counts requests that were answered with a mistake.
pub(crate) const MISTAKES: &str = "tidegate_server_control_mistakes_total";

#[derive(Clone)]
struct Sources {
    controls: Arc<Controls>,
    stop: CancellationToken,
}

/// The body of a request, or why there is none.
type Posted = Result<Bytes, BytesRejection>;

/// All routes; streams end at `stop`.
pub(super) fn router(controls: Arc<Controls>, stop: CancellationToken) -> Router {
    Router::new()
        .route("/v1/modules", get(async |State(s): State<Sources>| answer(s.controls.list().await)))
        .route("/v1/modules/inspect", post(inspect))
        .route("/v1/modules/load", post(load))
        .route("/v1/modules/enable", post(enable))
        .route("/v1/modules/unload", post(unload))
        .route("/v1/modules/reload", post(reload))
        .route("/v1/modules/promote", post(promote))
        .route("/v1/modules/rollback", post(roll_back))
        .route("/v1/modules/logs", post(logs))
        .route("/v1/plugins", get(async |State(s): State<Sources>| answer(s.controls.plugins().await)))
        .route("/v1/plugins/load", post(load_plugin))
        .route("/v1/plugins/enable", post(enable_plugin))
        .route("/v1/plugins/unload", post(unload_plugin))
        .route("/v1/connectors", get(async |State(s): State<Sources>| answer(s.controls.connectors())))
        .route("/v1/connectors/test", post(test_connectors))
        .route("/v1/schema/apply", post(apply_schema))
        .route("/v1/buffers", get(async |State(s): State<Sources>| answer(s.controls.buffers().await)))
        .route("/v1/buffers/show", post(show_buffer))
        .route("/v1/buffers/retry", post(retry_buffer))
        .route("/v1/buffers/drop", post(drop_buffer))
        .fallback(async || mistake(StatusCode::NOT_FOUND, "no such command".into()))
        .method_not_allowed_fallback(async || {
            mistake(StatusCode::METHOD_NOT_ALLOWED, "another method".into())
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Sources { controls, stop })
}

async fn inspect(State(s): State<Sources>, body: Posted) -> Response {
    match read::<Named>(body) {
        Ok(named) => answer(s.controls.inspect(&named.name).await),
        Err(refused) => *refused,
    }
}

async fn load(State(s): State<Sources>, body: Posted) -> Response {
    match read(body) {
        // To its end, even when nobody waits any more: a file half-way is none.
        Ok(request) => answer(finish(async move { s.controls.load(request).await }).await),
        Err(refused) => *refused,
    }
}

async fn enable(State(s): State<Sources>, body: Posted) -> Response {
    match read::<Named>(body) {
        Ok(named) => answer(finish(async move { s.controls.enable(&named.name).await }).await),
        Err(refused) => *refused,
    }
}

async fn unload(State(s): State<Sources>, body: Posted) -> Response {
    match read::<Named>(body) {
        Ok(named) => answer(finish(async move { s.controls.unload(&named.name).await }).await),
        Err(refused) => *refused,
    }
}

async fn reload(State(s): State<Sources>, body: Posted) -> Response {
    match read::<Named>(body) {
        Ok(named) => answer(s.controls.reload(&named.name).await),
        Err(refused) => *refused,
    }
}

async fn promote(State(s): State<Sources>, body: Posted) -> Response {
    match read::<Named>(body) {
        Ok(named) => answer(s.controls.promote(&named.name).await),
        Err(refused) => *refused,
    }
}

async fn roll_back(State(s): State<Sources>, body: Posted) -> Response {
    match read::<Named>(body) {
        Ok(named) => answer(s.controls.roll_back(&named.name).await),
        Err(refused) => *refused,
    }
}

async fn load_plugin(State(s): State<Sources>, body: Posted) -> Response {
    match read(body) {
        Ok(request) => answer(finish(async move { s.controls.load_plugin(request).await }).await),
        Err(refused) => *refused,
    }
}

async fn enable_plugin(State(s): State<Sources>, body: Posted) -> Response {
    match read::<Named>(body) {
        Ok(named) => answer(finish(async move { s.controls.enable_plugin(&named.name).await }).await),
        Err(refused) => *refused,
    }
}

async fn unload_plugin(State(s): State<Sources>, body: Posted) -> Response {
    match read::<Named>(body) {
        Ok(named) => answer(finish(async move { s.controls.unload_plugin(&named.name).await }).await),
        Err(refused) => *refused,
    }
}

async fn test_connectors(State(s): State<Sources>, body: Posted) -> Response {
    match read(body) {
        Ok(which) => answer(s.controls.test_connectors(which).await),
        Err(refused) => *refused,
    }
}

async fn apply_schema(State(s): State<Sources>, body: Posted) -> Response {
    match read(body) {
        Ok(which) => answer(s.controls.apply_schema(which).await),
        Err(refused) => *refused,
    }
}

async fn show_buffer(State(s): State<Sources>, body: Posted) -> Response {
    match read(body) {
        Ok(show) => answer(s.controls.show_buffer(show).await),
        Err(refused) => *refused,
    }
}

async fn retry_buffer(State(s): State<Sources>, body: Posted) -> Response {
    match read(body) {
        // To its end: a letter that is stored must go.
        Ok(chosen) => answer(finish(async move { s.controls.retry_buffer(chosen).await }).await),
        Err(refused) => *refused,
    }
}

async fn drop_buffer(State(s): State<Sources>, body: Posted) -> Response {
    match read(body) {
        Ok(chosen) => answer(finish(async move { s.controls.drop_buffer(chosen).await }).await),
        Err(refused) => *refused,
    }
}

async fn logs(State(s): State<Sources>, body: Posted) -> Response {
    let request: LogsOf = match read(body) {
        Ok(request) => request,
        Err(refused) => return *refused,
    };
    let lines = match s.controls.lines(&request.name) {
        Ok(lines) => lines,
        Err(refusal) => return refused(&refusal),
    };
    let head = [(header::CONTENT_TYPE, "application/x-ndjson")];
    if request.follow {
        (head, Body::from_stream(follow(lines, request, s.stop))).into_response()
    } else {
        let (text, _) = lines.tail(&request.name, request.lines);
        (head, text).into_response()
    }
}

/// What there is, then what comes, until `stop` or until nobody reads.
fn follow(
    lines: Arc<ModuleLines>,
    request: LogsOf,
    stop: CancellationToken,
) -> impl futures_util::Stream<Item = std::io::Result<String>> + Send {
    let news = lines.news();
    let begin = (lines, request, stop, news, None);
    futures_util::stream::unfold(begin, async |(lines, request, stop, mut news, last)| {
        let mut last = last;
        loop {
            news.mark_unchanged();
            let (text, next) = match last {
                None => lines.tail(&request.name, request.lines),
                Some(last) => lines.after(&request.name, last),
            };
            last = Some(next);
            if !text.is_empty() {
                return Some((Ok(text), (lines, request, stop, news, last)));
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                changed = news.changed() => changed.ok()?,
            }
        }
    })
}

/// Runs a command in a task of its own.
async fn finish<T: Send + 'static>(
    command: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let ended = tokio::spawn(command).await;
    ended.unwrap_or(Err(Refusal::Unready("the command panicked: see the log")))
}

fn read<T: DeserializeOwned>(body: Posted) -> Result<T, Box<Response>> {
    let body = body.map_err(|error| Box::new(mistake(error.status(), error.body_text())))?;
    serde_json::from_slice(&body)
        .map_err(|error| Box::new(mistake(StatusCode::BAD_REQUEST, format!("the request: {error}"))))
}

fn answer<T: Serialize>(result: Result<T, Refusal>) -> Response {
    match result {
        Ok(value) => axum::Json(value).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::Wrong(_) => StatusCode::BAD_REQUEST,
        Refusal::Unknown(_) => StatusCode::NOT_FOUND,
        Refusal::Conflict(_) => StatusCode::CONFLICT,
        Refusal::Unready(_) => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    mistake(status, refusal.to_string())
}

fn mistake(status: StatusCode, error: String) -> Response {
    metrics::counter!(MISTAKES).increment(1);
    (status, axum::Json(Mistake { error })).into_response()
}
