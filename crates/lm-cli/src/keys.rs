//! `lastmile keys`: who may ask a server.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use lm_keys::{KeyError, KeyFile, KeyLimits, KeyRecord, KeyState, NewKey, Scope, expires_at};
use lm_models::Home;
use lm_ops::Utc;
use serde_json::{Value, json};

use crate::keys_args::{CreateArgs, KeysArgs, KeysVerb, ScopeArg};
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, print_json, say};

pub(crate) fn keys(args: &KeysArgs) -> anyhow::Result<Outcome> {
    let file = key_file(&home()?);
    match &args.verb {
        KeysVerb::Create(args) => create(&file, args)?,
        KeysVerb::List { json } => list(&file, *json)?,
        KeysVerb::Revoke { key, json } => {
            let revoked = file.revoke(key, unix_seconds()).map_err(wrong_use)?;
            if *json {
                print_json(&document(&revoked))?;
            } else {
                say!("{} ({}) opens nothing any more", revoked.name, revoked.id);
            }
        }
    }
    Ok(Outcome::Done)
}

/// The key file of a home.
pub(crate) fn key_file(home: &Home) -> KeyFile {
    KeyFile::new(home.path().join("keys.json"))
}

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn create(file: &KeyFile, args: &CreateArgs) -> anyhow::Result<()> {
    let now_s = unix_seconds();
    let expires_at = args.expires.as_ref().map(|text| expires_at(text, now_s)).transpose();
    let scope = |scope: &ScopeArg| match scope {
        ScopeArg::Infer => Scope::Infer,
        ScopeArg::Ops => Scope::Ops,
        ScopeArg::Metrics => Scope::Metrics,
    };
    let new = NewKey {
        name: args.name.clone(),
        scopes: args.scopes.iter().map(scope).collect(),
        expires_at: expires_at.map_err(wrong_use)?,
        limits: KeyLimits {
            requests_per_minute: args.requests_per_minute,
            tokens_per_minute: args.tokens_per_minute,
            max_concurrent: args.max_concurrent,
            daily_tokens: args.daily_tokens,
            daily_cpu_seconds: args.daily_cpu_seconds,
            daily_cost: args.daily_cost,
        },
    };
    let (record, key) = file.create(new, now_s).map_err(wrong_use)?;
    if args.json {
        let mut document = document(&record);
        document["key"] = key.into();
        return print_json(&document);
    }
    say!("{key}");
    eprintln!("This is the only time that the key is shown. From now on every request needs one;");
    eprintln!("a server of this home that runs already asks for it within seconds.");
    Ok(())
}

fn list(file: &KeyFile, json: bool) -> anyhow::Result<()> {
    let records = file.read()?.unwrap_or_default();
    if json {
        return print_json(&records.iter().map(document).collect::<Vec<_>>());
    }
    if records.is_empty() {
        say!("no keys: on loopback anybody may ask; `lastmile keys create NAME` makes one");
    }
    for record in &records {
        let state = match (record.state(unix_seconds()), record.expires_at) {
            (KeyState::Revoked, _) => "revoked".to_owned(),
            (KeyState::Expired, Some(at)) => format!("expired {}", date(at)),
            (_, Some(at)) => format!("until {}", date(at)),
            (_, None) => "for ever".to_owned(),
        };
        let scopes: Vec<&str> = record.scopes.iter().map(|scope| scope.as_str()).collect();
        say!("{}  {}  {}  {state}{}", record.id, record.name, scopes.join(","), limits(record));
    }
    Ok(())
}

/// A record as JSON, without its hash.
fn document(record: &KeyRecord) -> Value {
    json!({
        "id": record.id,
        "name": record.name,
        "state": record.state(unix_seconds()),
        "scopes": record.scopes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
        "limits": record.limits,
    })
}

fn limits(record: &KeyRecord) -> String {
    let limits = &record.limits;
    let all = [
        ("requests/min", limits.requests_per_minute.map(|n| n as f64)),
        ("tokens/min", limits.tokens_per_minute.map(|n| n as f64)),
        ("at once", limits.max_concurrent.map(|n| n as f64)),
        ("tokens/day", limits.daily_tokens.map(|n| n as f64)),
        ("CPU s/day", limits.daily_cpu_seconds),
        ("cost/day", limits.daily_cost),
    ];
    let set = all.iter().filter_map(|(name, value)| Some(format!(", {} {name}", (*value)?)));
    set.collect()
}

fn date(unix_s: u64) -> Utc {
    Utc(i64::try_from(unix_s).unwrap_or(i64::MAX / 1000).saturating_mul(1000))
}

/// What the caller can put right by calling otherwise.
fn wrong_use(error: KeyError) -> anyhow::Error {
    match error {
        KeyError::BadName { .. }
        | KeyError::NameTaken { .. }
        | KeyError::NotFound { .. }
        | KeyError::NoScope
        | KeyError::ZeroLimit { .. }
        | KeyError::BadLimit { .. }
        | KeyError::BadExpiry { .. } => WrongUse(error.to_string()).into(),
        other => other.into(),
    }
}
