//! Who asks, and whether they may.
//!
//! It must never hold, log or echo a key, and never decide by a request's path: what counts is the
//! route that the router chose, so no spelling of a path gets around it.
//!
//! Start reading at [`authenticate`].

use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use lastmile::{AnswerBegun, Arm, Observer, Prices, RequestEvent, StepEvent, TenantId, Usage};
use lm_api::{ApiError, Denial};
use lm_keys::{Amounts, Holder, KeyRing, Now, Reservation, Scope};

use crate::app::App;
use crate::lease::amounts;
use crate::panel::wants_page;
use crate::reply;
use crate::request_log::RequestEntry;

const X_API_KEY: &str = "x-api-key";

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// `None` on a server that asks for no keys.
    pub(crate) holder: Option<Arc<Holder>>,
}

/// What a route asks of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing.
    Nothing,
    /// Any key.
    Key,
    /// A key with this scope.
    Scope(Scope),
}

impl Caller {
    /// On whose behalf.
    pub(crate) fn tenant(&self) -> TenantId {
        self.holder.as_ref().map_or(TenantId::ANONYMOUS, |holder| holder.record.id.tenant())
    }

    /// Whose requests this caller may speak of; `None` is everybody's.
    pub(crate) fn sees(&self) -> Option<TenantId> {
        let is_operator = self.holder.as_ref().is_some_and(|holder| holder.may(Scope::Ops));
        (!is_operator).then(|| self.tenant())
    }

    /// As audit logs name them.
    pub(crate) fn who(&self) -> String {
        self.holder.as_ref().map_or_else(
            || "somebody on this machine".to_owned(),
            |holder| format!("key {} ({})", holder.record.name, holder.record.id),
        )
    }
}

/// Lets in who shows what the route needs.
pub(crate) async fn authenticate(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    mut request: Request,
    next: Next,
) -> Response {
    match caller(&app.access.keys, &request) {
        Ok(caller) => {
            entry.is_from(&caller);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(denial) => {
            let error = ApiError::Denied(denial);
            entry.failed(&error);
            reply::error(&error)
        }
    }
}

fn caller(keys: &KeyRing, request: &Request) -> Result<Caller, Denial> {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let need = need(route, wants_page(request.headers()));
    if need == Need::Nothing || !keys.is_required() {
        return Ok(Caller { holder: None });
    }
    let key = shown_key(request.headers())?;
    let holder = keys.authenticate(key, now())?;
    match need {
        Need::Scope(scope) if !holder.may(scope) => {
            Err(Denial::ScopeMissing { scope: scope.as_str() })
        }
        _ => Ok(Caller { holder: Some(holder) }),
    }
}

/// A route that nobody thought of needs a key.
fn need(route: Option<&str>, wants_page: bool) -> Need {
    match route {
        // The dashboard's files say nothing of this server; what its pages ask for needs a key.
        Some("/panel/{file}" | "/docs" | "/openapi.json") => Need::Nothing,
        Some("/") if wants_page => Need::Nothing,
        // Whoever has a key sees the own requests.
        Some("/v1/requests" | "/v1/requests/{id}/page" | "/v1/requests/{id}/timeline") => Need::Key,
        Some("/health" | "/health/live" | "/health/ready") => Need::Nothing,
        // They read folders of the server's machine.
        Some("/v1/load_lora_adapter" | "/v1/unload_lora_adapter") => Need::Scope(Scope::Ops),
        Some("/metrics") => Need::Scope(Scope::Metrics),
        Some(route) if ["/v1/", "/v2/", "/api/"].iter().any(|api| route.starts_with(api)) => {
            Need::Scope(Scope::Infer)
        }
        Some("/tokenize" | "/detokenize" | "/apply-template" | "/abort") => {
            Need::Scope(Scope::Infer)
        }
        Some(route) if route.starts_with("/ops") => Need::Scope(Scope::Ops),
        _ => Need::Key,
    }
}

/// The one key of a request. With two different ones nobody could tell which was meant.
fn shown_key(headers: &HeaderMap) -> Result<&str, Denial> {
    let bearers = headers.get_all(AUTHORIZATION).into_iter().map(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let own = headers.get_all(X_API_KEY).into_iter().map(|value| value.to_str().ok());
    let mut shown = None;
    for key in bearers.chain(own) {
        let key = key.ok_or(Denial::KeyUnknown)?;
        if shown.is_some_and(|other| other != key) {
            return Err(Denial::KeyUnknown);
        }
        shown = Some(key);
    }
    shown.ok_or(Denial::KeyMissing)
}

/// This moment, as meters and keys want it.
#[must_use]
pub fn now() -> Now {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Now { monotonic: START.elapsed(), unix_s }
}

/// Charges each answer to its key before `observer` hears of it; the answer's reader hears of the end
/// after both.
#[must_use]
pub fn charging(
    keys: Arc<KeyRing>,
    prices: Prices,
    observer: Arc<dyn Observer>,
) -> Arc<dyn Observer> {
    Arc::new(Charging { keys, prices, observer })
}

struct Charging {
    keys: Arc<KeyRing>,
    prices: Prices,
    observer: Arc<dyn Observer>,
}

impl Observer for Charging {
    fn record(&self, event: &RequestEvent) {
        let RequestEvent { choice, request, .. } = event;
        // Tokens that another request computed are not paid again.
        let is_told = event.timings.computed_by.is_some();
        let usage = if is_told { Usage::default() } else { event.usage };
        let cpu_seconds = event.timings.cpu_seconds;
        // A copy for an experiment is the operator's.
        let arm = request.steering.arm.as_ref();
        let is_copy = arm.is_some_and(|tag| tag.arm == Arm::Shadow);
        let meter = (!is_copy).then(|| self.keys.meter(request.tenant)).flatten();
        if let Some(meter) = meter {
            let used = amounts(&self.prices, *choice, usage, cpu_seconds);
            match &request.allowance {
                // What it used while it ran was counted.
                Some(allowance) => _ = allowance.0.spend(*choice, usage, cpu_seconds),
                None => {
                    let mut nothing = Reservation::default();
                    meter.spend(Amounts::default(), used, &mut nothing, now());
                }
            }
            meter.charge(used.tokens, now());
        }
        self.observer.record(event);
    }

    fn wants_steps(&self) -> bool {
        self.observer.wants_steps()
    }

    fn began(&self, begun: &AnswerBegun<'_>) {
        self.observer.began(begun);
    }

    fn stepped(&self, step: &StepEvent<'_>) {
        self.observer.stepped(step);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue};
    use lm_api::Denial;

    use super::{Need, need, shown_key};
    use crate::routes::ROUTES;

    #[test]
    fn every_route_but_health_and_the_pages_files_needs_something() {
        for route in ROUTES {
            let path = route.split(' ').nth(1);
            let is_open = |path: &str| {
                path.starts_with("/health")
                    || ["/panel/{file}", "/docs", "/openapi.json"].contains(&path)
            };
            for wants_page in [false, true] {
                let is_open = path.is_some_and(is_open) || (wants_page && path == Some("/"));
                assert_eq!(need(path, wants_page) == Need::Nothing, is_open, "{route}");
            }
        }
        assert_eq!(need(None, true), Need::Key);
    }

    #[track_caller]
    fn check(lines: &[(&'static str, &'static str)], expect: Result<&str, Denial>) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).expect("a header"),
            );
        }
        assert_eq!(shown_key(&headers), expect, "{lines:?}");
    }

    #[test]
    fn a_key_is_shown_once_or_the_same_each_time() {
        check(&[], Err(Denial::KeyMissing));
        check(&[("authorization", "Bearer k")], Ok("k"));
        check(&[("authorization", "bearer  k ")], Ok("k"));
        check(&[("x-api-key", "k")], Ok("k"));
        check(&[("authorization", "Bearer k"), ("x-api-key", "k")], Ok("k"));
        check(&[("authorization", "Bearer k"), ("x-api-key", "l")], Err(Denial::KeyUnknown));
        check(
            &[("authorization", "Bearer k"), ("authorization", "Bearer l")],
            Err(Denial::KeyUnknown),
        );
        check(&[("authorization", "Basic k")], Err(Denial::KeyUnknown));
        check(&[("authorization", "k")], Err(Denial::KeyUnknown));
        check(&[("authorization", "Bearer \u{e9}")], Err(Denial::KeyUnknown));
    }
}
