//! The management API: health, readiness, metrics and the list of modules. It only reads.
//!
//! | path | answer |
//! | --- | --- |
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 when it serves, 503 while it starts or stops; JSON with the state of each part |
//! | `/metrics` | Prometheus text |
//! | `/api/v1/modules` | modules that serve and files that did not load, JSON |

pub mod report;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::status::Status;
use report::Readiness;

/// How long `/readyz` waits for a connector.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The API's listener, bound and not yet serving.
pub struct Api {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Sources {
    status: Arc<Status>,
    metrics: PrometheusHandle,
}

impl Api {
    /// Binds `address`.
    ///
    /// # Errors
    /// The system's, when the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then answers what was asked and ends.
    pub async fn serve(self, status: Arc<Status>, metrics: PrometheusHandle, stop: CancellationToken) {
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics_text))
            .route("/api/v1/modules", get(modules))
            .fallback(async || {
                (StatusCode::NOT_FOUND, "there are /healthz, /readyz, /metrics and /api/v1/modules\n")
            })
            .with_state(Sources { status, metrics });
        let serve = axum::serve(self.listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serve.await {
            tracing::error!("management API ended: {error}");
        }
    }
}

async fn readyz(State(sources): State<Sources>) -> Response {
    let report = sources.status.readiness(CHECK_TIMEOUT).await;
    let code =
        if report.status == Readiness::READY { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(report)).into_response()
}

async fn modules(State(sources): State<Sources>) -> Response {
    Json(sources.status.modules()).into_response()
}

async fn metrics_text(State(sources): State<Sources>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], sources.metrics.render())
        .into_response()
}
