//! `lastmile store`: the store as a file, and what is erased from it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lastmile::TenantId;
use lm_feedback::{Book, Carrying, FeedbackError};
use lm_keys::KeyId;
use lm_ops::{
    Erase, Forgotten, Migrated, Missing, ProbeFile, Reader, Remembered, Store, StoreError,
    StoreOptions, Utc, backup, forget_recorded, migrate, note_erasure, stats, upgrade,
};
use serde_json::json;

use crate::doctor::{store_folder, store_path};
use crate::keys::key_file;
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, human_bytes, print_json, say};
use crate::recorder;
use crate::store_args::{MissingArg, StoreArgs, StoreVerb, WhoseArgs};

pub(crate) fn store(args: &StoreArgs) -> anyhow::Result<Outcome> {
    let path = store_path(home()?.path());
    match &args.verb {
        StoreVerb::Stats { json } => print_stats(&path, *json)?,
        StoreVerb::Backup { file, json } => back_up(&path, file, *json)?,
        StoreVerb::Upgrade { json } => {
            let (before, now) = upgrade(&path)?;
            match (json, before == now) {
                (true, _) => print_json(&json!({ "before": before, "now": now }))?,
                (false, true) => say!("schema {now}: nothing to upgrade"),
                (false, false) => say!("upgraded from schema {before} to {now}"),
            }
        }
        StoreVerb::Migrate { to, missing, json } => move_to(&path, to, *missing, *json)?,
        StoreVerb::Erase(args) => erase(&path, &args.whose, args.json)?,
    }
    Ok(Outcome::Done)
}

/// Where a home keeps the key of keyed hashes.
pub(crate) fn mask_key(home: &Path) -> PathBuf {
    store_folder(home).join("mask.key")
}

/// Where the conclusions from a store are: in a file of the home, or on the same server as the store.
pub(crate) fn book_place(home: &Path, store: &Path) -> PathBuf {
    Book::place(store, store_folder(home).join("feedback.db"))
}

fn print_stats(path: &Path, json: bool) -> anyhow::Result<()> {
    let found = stats(path)?;
    if json {
        return print_json(&found);
    }
    say!("{}, schema {}", found.path.display(), found.schema);
    say!(
        "  {}, {} of it free, {} in the log",
        human_bytes(found.size_bytes),
        human_bytes(found.free_bytes),
        human_bytes(found.log_bytes)
    );
    let rows = &found.rows;
    say!(
        "  {} requests ({} with their prompts), {} answers, {} feedback, {} releases, {} runs",
        rows.requests,
        found.prompts,
        rows.attempts,
        rows.feedback,
        rows.releases,
        rows.runs
    );
    if let (Some(oldest), Some(newest)) = (found.oldest_ms, found.newest_ms) {
        say!("  from {} to {}", Utc(oldest), Utc(newest));
    }
    Ok(())
}

fn back_up(path: &Path, file: &Path, json: bool) -> anyhow::Result<()> {
    let size_bytes = backup(path, file)?;
    let book = book_place(home()?.path(), path);
    let conclusions = match Book::may_be_at(&book) {
        true => {
            let copy = beside(file);
            Book::open(&book)?.backup(&copy)?;
            Some(copy)
        }
        false => None,
    };
    if json {
        let document =
            json!({ "file": file, "size_bytes": size_bytes, "conclusions": conclusions });
        return print_json(&document);
    }
    say!("{} in {}", human_bytes(size_bytes), file.display());
    if let Some(copy) = conclusions {
        say!("conclusions in {}", copy.display());
    }
    Ok(())
}

fn move_to(path: &Path, to: &Path, missing: MissingArg, json: bool) -> anyhow::Result<()> {
    let missing = match missing {
        MissingArg::Refuse => Missing::Refuse,
        MissingArg::Erase => Missing::Erase,
        MissingArg::Keep => Missing::Keep,
    };
    let home = home()?;
    let [book, new_book] = [path, to].map(|store| book_place(home.path(), store));
    // Asked first: where one of the two is refused, nothing is copied.
    let carrying = Carrying::begin(&book, &new_book, missing).map_err(|error| match error {
        FeedbackError::OnlyThere { .. } => only_there(&error),
        other => other.into(),
    })?;
    let mut tables = migrate(path, to, missing).map_err(|error| match error {
        StoreError::OnlyThere { .. } => only_there(&error),
        other => other.into(),
    })?;
    if let Some(carrying) = carrying {
        tables.extend(carrying.run()?);
    }
    if json {
        return print_json(&tables);
    }
    for Migrated { table, rows, copied, erased } in &tables {
        let gone = if *erased > 0 { format!(", {erased} erased there") } else { String::new() };
        say!("{table:12} {rows:>9} rows, {copied:>9} of them new there{gone}");
    }
    eprintln!(
        "All rows are there. `LASTMILE_STORE=URL` or `serve --store URL` uses it from now on; the old store"
    );
    eprintln!("stays as it is, and so does mask.key in this home.");
    Ok(())
}

fn only_there(error: &dyn std::error::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "{error}: --missing erase erases them there, too, and --missing keep keeps them"
    )
}

/// The name of a backup's conclusions.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".feedback");
    PathBuf::from(name)
}

fn erase(path: &Path, whose: &WhoseArgs, json: bool) -> anyhow::Result<()> {
    let what = what(whose)?;
    // Looked at first: a store that is not there must not be made.
    drop(Reader::open(path)?);
    let mask_key = Some(mask_key(home()?.path()));
    let store = Store::open(path, StoreOptions { mask_key, ..StoreOptions::default() })?;
    let erased = store.erase(what)?;
    // At once: whatever fails below, no server tells again what is gone.
    note_erasure(home()?.path()).context("running servers cannot be told to forget")?;
    store.close()?;
    let book = book_place(home()?.path(), path);
    let conclusions = match Book::may_be_at(&book) {
        true => Book::open(&book)?.forget(&erased.request_ids)?,
        false => 0,
    };
    let probes = ProbeFile::forget(home()?.path(), &erased.request_ids)?.len();
    let flights = forget_flights(home()?.path(), whose, &erased.request_ids)?;
    let requests = erased.request_ids.len();
    if json {
        let rows = erased.rows;
        let document = json!({ "requests": requests, "rows": rows, "conclusions": conclusions,
            "probes": probes, "flights": flights.answers, "flights_in_use": flights.is_in_use });
        return print_json(&document);
    }
    say!(
        "erased {requests} requests, {} rows, {conclusions} conclusions, {probes} probes, \
         {} answers of the flight recorder",
        erased.rows,
        flights.answers
    );
    if flights.is_in_use {
        eprintln!(
            "A server records here: its flight recorder was left; erase again when it has stopped."
        );
    }
    eprintln!(
        "What a running server still answers is recorded when it ends; the response cache of a server of"
    );
    eprintln!(
        "this home is emptied at once; backups, the prefix cache on disk and published versions of data are"
    );
    eprintln!("not touched.");
    Ok(())
}

/// Also those that a server did not live to store.
fn forget_flights(home: &Path, whose: &WhoseArgs, erased: &[String]) -> anyhow::Result<Forgotten> {
    let ids: BTreeSet<&str> = erased.iter().map(String::as_str).collect();
    let tenant = whose.tenant.as_deref().map(tenant_of).transpose()?;
    let is_of = |one: &Remembered<'_>, tenant: TenantId| match one.tenant {
        None => tenant == TenantId::ANONYMOUS,
        Some(key) => key == format!("{:016x}", tenant.0),
    };
    let is_meant = |one: Remembered<'_>| {
        ids.contains(one.id)
            || tenant.is_some_and(|tenant| is_of(&one, tenant))
            || (whose.subject.is_some() && one.subject == whose.subject.as_deref())
    };
    Ok(forget_recorded(&recorder::folder(home), is_meant)?)
}

fn what(whose: &WhoseArgs) -> anyhow::Result<Erase> {
    let WhoseArgs { subject, tenant, request } = whose;
    if let Some(subject) = subject {
        return Ok(Erase::Subject(subject.clone()));
    }
    if let Some(tenant) = tenant {
        return Ok(Erase::Tenant(tenant_of(tenant)?));
    }
    let id = request.as_deref().context("clap asks for one of three: this is a bug")?;
    let bare = ["chatcmpl-", "cmpl-"].iter().find_map(|prefix| id.strip_prefix(prefix));
    let parsed = bare.unwrap_or(id).parse();
    let id = parsed.map_err(|_| WrongUse(format!("--request is {id:?}, but must be a UUID")))?;
    Ok(Erase::Request(id))
}

/// The tenant of a key's id, also of one that is gone, or of a key's name.
fn tenant_of(text: &str) -> anyhow::Result<TenantId> {
    if text == "none" {
        return Ok(TenantId::ANONYMOUS);
    }
    if let Ok(id) = text.parse::<KeyId>() {
        return Ok(id.tenant());
    }
    let records = key_file(&home()?).read()?.unwrap_or_default();
    let mut named = records.iter().filter(|record| record.name == text);
    match (named.next(), named.next()) {
        (Some(record), None) => Ok(record.id.tenant()),
        (Some(_), Some(_)) => {
            let what = format!("--tenant is {text:?}, which several keys were called: give an id");
            Err(WrongUse(what).into())
        }
        (None, _) => {
            let what = format!("--tenant is {text:?}, but must be a key's id or name, or none");
            Err(WrongUse(what).into())
        }
    }
}
