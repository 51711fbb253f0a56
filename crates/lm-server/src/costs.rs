//! What answers took and cost: `GET /ops/v1/cost`, and their counters at `/metrics`.
//!
//! It must never be shown to who is not an operator.
//!
//! Start reading at [`cost`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use lm_api::ApiError;
use lm_keys::{Budget, Holder};
use lm_ops::CostBy;

use crate::app::App;
use crate::auth::now;
use crate::exposition::Exposition;
use crate::metric_table::Served;
use crate::panel::{Params, invalid};
use crate::reply;

/// Without `since`, so far back.
const DEFAULT_SPAN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(crate) async fn cost(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let report = async {
        let (by, since) = wanted(&uri)?;
        let report = app.ops.costs(by, since).await?;
        serde_json::to_string(&report)
            .map_err(|error| ApiError::Internal { what: error.to_string() })
    };
    match report.await {
        Ok(body) => reply::json(StatusCode::OK, body),
        Err(error) => reply::error(&error),
    }
}

fn wanted(uri: &Uri) -> Result<(CostBy, SystemTime), ApiError> {
    let mut params = Params::of(uri)?;
    let by = match params.text("by")?.as_deref() {
        None | Some("key") => CostBy::Key,
        Some("day") => CostBy::Day,
        Some("model") => CostBy::Model,
        Some(other) => return Err(invalid("by", other, "key, day or model".to_owned())),
    };
    let since = match params.text("since")? {
        None => SystemTime::now().checked_sub(DEFAULT_SPAN).unwrap_or(UNIX_EPOCH),
        Some(text) => {
            let at = lm_keys::since(&text, now().unix_s).map_err(|_| {
                let wanted = "a span such as 30d, 12h or 90m, or a date such as 2027-01-31";
                invalid("since", &text, wanted.to_owned())
            })?;
            UNIX_EPOCH.checked_add(Duration::from_secs(at)).unwrap_or(UNIX_EPOCH)
        }
    };
    params.end()?;
    Ok((by, since))
}

/// The counters of all answers that ended since the start.
pub(crate) fn write(page: &mut Exposition, app: &App, models: &[Served<'_>]) {
    let counts = app.ops.cost_counters().all();
    let mut family = |name: &str, help: &str, value: fn(&lm_ops::CostCount) -> f64| {
        page.family(name, "counter", help);
        for ((model, key), count) in &counts {
            page.sample(
                name,
                &[("model_name", model.as_str()), ("key", key.as_str())],
                value(count),
            );
        }
    };
    let name = "lastmile_request_cpu_seconds_total";
    family(name, "CPU time of answers that ended.", |count| count.cpu_seconds);
    let is_readable = models.iter().any(|model| model.stats.joules.is_some());
    if is_readable {
        let help = "What the machine drew for answers that ended.";
        family("lastmile_request_joules_total", help, |count| count.joules);
    }
    let prices = app.ops.prices();
    if prices.are_set() {
        let name = "lastmile_request_cost_total";
        page.family(name, "counter", "What answers that ended cost, by the configured prices.");
        for ((model, key), count) in &counts {
            let currency = prices.currency.as_str();
            let labels =
                [("model_name", model.as_str()), ("key", key.as_str()), ("currency", currency)];
            page.sample(name, &labels, count.cost);
        }
    }
    budgets(page, app);
    let help = "1 where the machine says how much energy it draws; without, no joules are counted.";
    page.single("lastmile_energy_readable", "gauge", help, &[], u8::from(is_readable));
    if is_readable {
        let name = "lastmile_joules_total";
        page.family(name, "counter", "What the machine drew while sequences were active.");
        for model in models {
            let labels = [("model_name", model.info.name.as_str())];
            page.sample(name, &labels, model.stats.joules.unwrap_or(0.0));
        }
    }
}

/// Daily budgets of keys, beside what was used of them.
fn budgets(page: &mut Exposition, app: &App) {
    let now = now();
    let keys = app.access.keys.valid(now);
    let of_key = |holder: &Arc<Holder>| (holder.record.id.to_string(), holder.meter.budgets(now));
    // What is not known is no number.
    let known = keys.iter().filter(|holder| holder.meter.knows_day(now));
    let budgets: Vec<(String, Vec<Budget>)> = known.map(of_key).collect();
    if budgets.iter().all(|(_, budgets)| budgets.is_empty()) {
        return;
    }
    let mut family = |name: &str, help: &str, value: fn(&Budget) -> f64| {
        page.family(name, "gauge", help);
        for (key, budgets) in &budgets {
            for budget in budgets {
                let labels = [("key", key.as_str()), ("limit", budget.kind.as_str())];
                page.sample(name, &labels, value(budget));
            }
        }
    };
    let help = "Used today of a key's daily budget, which begins anew at midnight, UTC.";
    family("lastmile_key_budget_used", help, |budget| budget.spent);
    family("lastmile_key_budget_limit", "A key's daily budget.", |budget| budget.limit);
}
