//! `lastmile override`: what is put in the place of a model's answers.

use std::io::{Read, Write};

use anyhow::Context;
use lm_ops::{Desk, Reader, RolloutError, Standing, Utc, dry_run, now_ms, parse_rule, shown_place};
use serde::Serialize;
use serde_json::{Value, json};

use crate::doctor::store_path;
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::override_args::{OverrideArgs, OverrideVerb};

/// Longest rule or answer that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The file of overrides of a home.
pub(crate) fn override_path(home: &std::path::Path) -> std::path::PathBuf {
    home.join("overrides.db")
}

pub(crate) fn overrides(args: &OverrideArgs) -> anyhow::Result<Outcome> {
    let path = override_path(home()?.path());
    let mut desk = Desk::open(&path)?;
    let (now_ms, who, json) = (now_ms(), who(), args.json);
    let rule_changed = |standing: Result<Standing, RolloutError>| {
        let standing = standing.map_err(wrong_use)?;
        tell(json, &described(&standing, now_ms, None), || line(&standing, now_ms, None))
    };
    match &args.verb {
        OverrideVerb::Add { file } => {
            let rule = parse_rule(&read(file)?).map_err(wrong_use)?;
            rule_changed(desk.add(&rule, &who, now_ms))?;
        }
        OverrideVerb::Publish { rule } => rule_changed(desk.publish(rule, &who, now_ms))?,
        OverrideVerb::Expire { rule } => rule_changed(desk.expire(rule, &who, now_ms))?,
        OverrideVerb::Remove { rule } => rule_changed(desk.remove(rule, &who, now_ms))?,
        OverrideVerb::Show { rule } => {
            let standing = desk.rule(rule).map_err(wrong_use)?;
            tell(json, &described(&standing, now_ms, None), || {
                toml::to_string_pretty(&standing.rule).unwrap_or_default()
            })?;
        }
        OverrideVerb::List => list(&desk, now_ms, json)?,
        OverrideVerb::DryRun { rule, since } => return try_rule(&desk, rule, since, now_ms, json),
        OverrideVerb::Audit { limit } => {
            let entries = desk.audit(*limit)?;
            if json {
                print_json(&entries)?;
            }
            for entry in entries.iter().filter(|_| !json) {
                let at = Utc(entry.at_ms);
                say!("{at}  {}  {} {}  {}", entry.who, entry.action, entry.target, entry.detail);
            }
        }
        OverrideVerb::Kill { route, reason } => {
            check_route("ROUTE", route)?;
            let operator = desk.kill(route, reason, &who, now_ms).map_err(wrong_use)?;
            tell(json, &operator, || format!("{route} answers nothing; rollback takes it back"))?;
        }
        OverrideVerb::Pin { target, reason } => {
            let operator = desk.pin(target, reason, &who, now_ms).map_err(wrong_use)?;
            tell(json, &operator, || {
                format!("{target} answers everything; rollback takes it back")
            })?;
        }
        OverrideVerb::Rollback { reason } => {
            let undone = desk.rollback(reason, &who, now_ms).map_err(wrong_use)?.what;
            tell(json, &json!({ "undone": undone }), || format!("taken back: {undone}"))?;
        }
        OverrideVerb::Queue => {
            let waiting = desk.waiting(now_ms)?;
            if json {
                print_json(&waiting)?;
            }
            for item in waiting.iter().filter(|_| !json) {
                let prompt = item.prompt.as_ref().map(Value::to_string).unwrap_or_default();
                let short: String = prompt.chars().take(400).collect();
                say!("{}  until {}  {}\n    {short}", item.id, Utc(item.deadline_ms), item.rule);
            }
        }
        OverrideVerb::Answer { id, text } => {
            let text = text.clone().map_or_else(|| read("-"), Ok)?;
            let item = desk.answer(id, text.trim_end(), &who, now_ms).map_err(wrong_use)?;
            tell(json, &item, || format!("{id} is answered"))?;
        }
    }
    Ok(Outcome::Done)
}

/// Whether answers are computed by a route that `field` names.
pub(crate) fn check_route(field: &str, route: &str) -> Result<(), WrongUse> {
    if lm_server::KILLABLE_ROUTES.contains(&route) {
        return Ok(());
    }
    let known = lm_server::KILLABLE_ROUTES.join(", ");
    Err(WrongUse(format!("{field} is {route:?}, but must be one of {known}")))
}

fn list(desk: &Desk, now_ms: i64, json: bool) -> anyhow::Result<()> {
    let (rules, hits, operator) = (desk.rules()?, desk.hits(0)?, desk.operator()?);
    let hits_of = |standing: &Standing| Some(hits.get(&standing.rule.id).copied().unwrap_or(0));
    if json {
        let one = |standing: &Standing| described(standing, now_ms, hits_of(standing));
        let rules: Vec<Value> = rules.iter().map(one).collect();
        return print_json(&json!({ "rules": rules, "operator": operator }));
    }
    for route in &operator.killed {
        say!("KILLED  {route}");
    }
    if let Some(pin) = &operator.pin {
        say!("PINNED  {pin}");
    }
    if rules.is_empty() {
        say!("no rules: `lastmile override add FILE` makes one");
    }
    for standing in &rules {
        say!("{}", line(standing, now_ms, hits_of(standing)));
    }
    Ok(())
}

/// Tells what a rule would have done; 1 when it would have done nothing.
fn try_rule(
    desk: &Desk,
    rule: &str,
    since: &str,
    now_ms: i64,
    json: bool,
) -> anyhow::Result<Outcome> {
    let store = store_path(home()?.path());
    let reader = Reader::open(&store).with_context(|| {
        format!("cannot read what was recorded in {}", shown_place(&store).display())
    })?;
    let since_ms = now_ms - span_ms(since)?;
    let run = dry_run(desk, &reader, rule, since_ms, now_ms).map_err(wrong_use)?;
    tell(json, &run, || {
        let mut text = format!("{} of {} answers since {}", run.hits, run.answers, Utc(since_ms));
        if run.unknown > 0 {
            text.push_str(&format!("; {} whose texts were not kept", run.unknown));
        }
        run.examples.iter().for_each(|id| text.push_str(&format!("\n  {id}")));
        text
    })?;
    Ok(if run.hits > 0 { Outcome::Done } else { Outcome::No })
}

fn span_ms(text: &str) -> anyhow::Result<i64> {
    let now_s = crate::keys::unix_seconds();
    let end = lm_keys::expires_at(text, now_s).map_err(|_| {
        WrongUse(format!("--since is {text:?}, but must be such as 7d, 12h or 90m"))
    })?;
    Ok(i64::try_from(end - now_s)?.saturating_mul(1000))
}

fn described(standing: &Standing, now_ms: i64, hits: Option<u64>) -> Value {
    let mut one = json!(standing);
    one["id"] = standing.rule.id.as_str().into();
    one["state"] = standing.state(now_ms).into();
    if let Some(hits) = hits {
        one["hits"] = hits.into();
    }
    one
}

fn line(standing: &Standing, now_ms: i64, hits: Option<u64>) -> String {
    let (rule, state) = (&standing.rule, standing.state(now_ms));
    let hits = hits.map(|n| format!("  {n} hits")).unwrap_or_default();
    let (action, until) = (rule.then.word(), Utc(standing.expires_at_ms));
    format!(
        "{}  {action}  {state} until {until}  by {}{hits}  {}",
        rule.id, rule.owner, rule.reason
    )
}

pub(crate) fn tell(
    json: bool,
    document: &impl Serialize,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    if json {
        return print_json(document);
    }
    say!("{}", text());
    Ok(())
}

pub(crate) fn read(file: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let source: Box<dyn Read> = match file {
        "-" => Box::new(std::io::stdin()),
        path => Box::new(
            std::fs::File::open(path)
                .map_err(|error| WrongUse(format!("cannot read {path}: {error}")))?,
        ),
    };
    source
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {file}"))?;
    Ok(text)
}

/// Who acts, as the system knows them.
pub(crate) fn who() -> String {
    let name =
        ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "somebody at a terminal".to_owned())
}

/// What the caller can put right by calling otherwise.
fn wrong_use(error: RolloutError) -> anyhow::Error {
    match error {
        RolloutError::Store(_) | RolloutError::Database { .. } | RolloutError::Foreign { .. } => {
            error.into()
        }
        other => WrongUse(other.to_string()).into(),
    }
}
