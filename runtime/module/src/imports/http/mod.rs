//! `wasi:http` 0.2, outgoing: requests to the hosts that the manifest's `[http] allow` names.
//!
//! Types, headers and streams are wasmtime's; what is sent, and where, is decided here.

mod address;
mod body;
mod client;
mod destination;

use std::sync::Arc;

use http::Request;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime_wasi_http::p2::bindings::http::outgoing_handler;
use wasmtime_wasi_http::p2::bindings::http::types::{self, ErrorCode, IoError};
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::p2::{HttpResult, bindings};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::meters;
use crate::state::{Shared, State};
use body::Traffic;
use client::{Answer, Terms};

pub(crate) use client::HttpClient;
pub use client::{HttpConfig, Resolve};
pub(crate) use destination::Destination;

/// The interface of requests and responses.
const TYPES: &str = "wasi:http/types@0.2.12";
/// The interface that sends.
const OUTGOING_HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";
/// Memory of one set of headers.
const MAX_FIELDS_BYTES: usize = 64 << 10;

/// What an instance that uses HTTP has.
pub(crate) struct Outgoing {
    ctx: WasiHttpCtx,
    sender: Sender,
}

impl Outgoing {
    /// For a call that is for so many `events`.
    pub(crate) fn new(shared: &Arc<Shared>, events: u32) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(MAX_FIELDS_BYTES);
        Self { ctx, sender: Sender { shared: shared.clone(), events, traffic: None } }
    }

    /// A call for so many events begins: bodies are counted anew.
    pub(crate) fn begin(&mut self, events: u32) {
        self.sender.events = events;
        self.sender.traffic = None;
    }

    pub(crate) fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { ctx: &mut self.ctx, table, hooks: &mut self.sender }
    }
}

/// Sends an instance's requests.
struct Sender {
    shared: Arc<Shared>,
    /// How many events the current call is for.
    events: u32,
    /// Of the current call, once it has sent a request.
    traffic: Option<Arc<Traffic>>,
}

type Sending = Box<dyn Future<Output = Result<Answer, Error>> + Send>;

impl WasiHttpHooks for Sender {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Sending {
        let shared = self.shared.clone();
        let terms = Terms {
            allowed: shared.http.clone(),
            traffic: self
                .traffic
                .get_or_insert_with(|| {
                    Traffic::new(shared.limits.http_bytes.saturating_mul(self.events.into()))
                })
                .clone(),
            timeout: shared.limits.timeout,
            options: options.unwrap_or_default(),
        };
        Box::new(async move {
            let host = request.uri().authority().map(ToString::to_string);
            let sent = shared.services.http.send(request, terms).await;
            let result = match &sent {
                Ok(_) => "answered",
                Err(Error::HttpRequestDenied) => "denied",
                Err(Error::DestinationIpProhibited) => "prohibited",
                Err(Error::ConnectionTimeout | Error::ConnectionReadTimeout) => "timeout",
                Err(_) => "failed",
            };
            meters::http_request(&shared.name, result);
            if let Err(error) = &sent {
                tracing::debug!(module = &*shared.name, host, ?error, "an HTTP request failed");
            }
            sent
        })
    }
}

impl State {
    /// `outgoing-handler.handle`: one storage operation of the event, then wasmtime's own.
    fn handle(
        &mut self,
        request: Resource<HostOutgoingRequest>,
        options: Option<Resource<RequestOptions>>,
    ) -> HttpResult<Resource<HostFutureIncomingResponse>> {
        let spent = options.as_ref().map(|options| Resource::<RequestOptions>::new_own(options.rep()));
        let sent = match self.count_storage_op() {
            Ok(()) => outgoing_handler::Host::handle(&mut self.http(), request, options),
            Err(refused) => {
                self.table.delete(request)?;
                Err(ErrorCode::InternalError(Some(refused.to_string())).into())
            }
        };
        // The call took them over, and nobody can use them again.
        if let Some(spent) = spent {
            self.table.delete(spent)?;
        }
        sent
    }
}

type Handled = (Result<Resource<HostFutureIncomingResponse>, ErrorCode>,);

/// Links `wasi:http`.
///
/// # Errors
/// As [`super::linker`].
pub(super) fn add_to_linker(link: &mut Linker<State>) -> wasmtime::Result<()> {
    let options = bindings::LinkOptions::default();
    types::add_to_linker::<_, WasiHttp>(link, &(&options).into(), State::http)?;
    link.instance(OUTGOING_HANDLER)?.func_wrap(
        "handle",
        |mut store: StoreContextMut<'_, State>, (request, options)| -> wasmtime::Result<Handled> {
            match store.data_mut().handle(request, options) {
                Ok(response) => Ok((Ok(response),)),
                Err(refused) => Ok((Err(refused.downcast()?),)),
            }
        },
    )?;
    // wasmtime's own looks for a type that no body of its fails with, and would always answer none.
    link.allow_shadowing(true);
    let replaced = link.instance(TYPES)?.func_wrap(
        "http-error-code",
        |mut store: StoreContextMut<'_, State>, (error,): (Resource<IoError>,)| {
            let error = store.data_mut().table.get(&error)?;
            Ok((error.downcast_ref::<Error>().and_then(body_error),))
        },
    );
    link.allow_shadowing(false);
    replaced
}

/// What a body failed with, in the guest's words.
fn body_error(error: &Error) -> Option<ErrorCode> {
    match error {
        Error::HttpRequestBodySize(limit) => Some(ErrorCode::HttpRequestBodySize(*limit)),
        Error::HttpResponseBodySize(limit) => Some(ErrorCode::HttpResponseBodySize(*limit)),
        Error::HttpResponseIncomplete => Some(ErrorCode::HttpResponseIncomplete),
        Error::HttpResponseTimeout => Some(ErrorCode::HttpResponseTimeout),
        Error::ConnectionReadTimeout => Some(ErrorCode::ConnectionReadTimeout),
        Error::ConnectionTerminated => Some(ErrorCode::ConnectionTerminated),
        Error::HttpProtocolError => Some(ErrorCode::HttpProtocolError),
        _ => None,
    }
}
