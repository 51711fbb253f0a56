//! `lastmile store`: the store as a file, and what is erased from it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lastmile::TenantId;
use lm_feedback::Book;
use lm_keys::KeyId;
use lm_ops::{
    Erase, Erasing, Forgotten, ProbeFile, Reader, Remembered, Store, StoreOptions, Utc, backup,
    forget_recorded, note_erasure, stats, upgrade,
};
use serde_json::json;

use crate::doctor::{store_folder, store_path};
use crate::keys::key_file;
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, human_bytes, print_json, say};
use crate::recorder;
use crate::store_args::{StoreArgs, StoreVerb, WhoseArgs};
use crate::store_books::{book_place, forget_conclusions};
use crate::store_move::{carry_alone, move_to};

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
        StoreVerb::Migrate { to, conclusions: true, json, .. } => carry_alone(&path, to, *json)?,
        StoreVerb::Migrate { to, missing, json, .. } => move_to(&path, to, *missing, *json)?,
        StoreVerb::Erase(args) => erase(&path, &args.whose, args.json)?,
    }
    Ok(Outcome::Done)
}

/// Where a home keeps the key of keyed hashes.
pub(crate) fn mask_key(home: &Path) -> PathBuf {
    store_folder(home).join("mask.key")
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
    let home = home()?;
    let home = home.path();
    let erasing = Erasing::begin(&store_folder(home).join("erasing"))?;
    let left = erasing.left()?;
    let options = StoreOptions {
        mask_key: Some(mask_key(home)),
        erasing: Some(erasing.path().to_owned()),
        ..StoreOptions::default()
    };
    let store = Store::open(path, options)?;
    // Of an earlier erasure that came to no end.
    for id in store.reader().known(&left)? {
        store.erase(Erase::Request(id.parse()?))?;
    }
    let erased = store.erase(what)?;
    // At once: whatever fails below, no server tells again what is gone.
    note_erasure(home).context("running servers cannot be told to forget")?;
    store.close()?;
    // What failed before it came so far is in the list as well.
    let gone = erasing.left()?;
    let conclusions = forget_conclusions(home, path, &gone)?;
    let probes = ProbeFile::forget(home, &gone)?.len();
    let flights = forget_flights(home, whose, &gone)?;
    // Else the list is there for the erasure after the server has stopped.
    if !flights.is_in_use {
        erasing.end()?;
    }
    let (requests, resumed) = (erased.request_ids.len(), left.len());
    if json {
        let rows = erased.rows;
        let document = json!({ "requests": requests, "rows": rows, "resumed": resumed,
            "conclusions": conclusions, "probes": probes, "flights": flights.answers,
            "flights_in_use": flights.is_in_use });
        return print_json(&document);
    }
    if resumed > 0 {
        say!("gone through again: {resumed} requests of erasures that had come to no end");
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
