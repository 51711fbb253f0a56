//! `lastmile store migrate`: rows and conclusions in another store, or conclusions alone.
//!
//! Start reading at [`move_to`].

use std::io::Write;
use std::path::Path;

use lm_feedback::{Carrying, FeedbackError};
use lm_ops::{Migrated, Missing, Reader, StoreError, migrate, shown_place};

use crate::model::home;
use crate::outcome::{WrongUse, print_json, say};
use crate::store_args::MissingArg;
use crate::store_books::book_place;

pub(crate) fn move_to(
    path: &Path,
    to: &Path,
    missing: MissingArg,
    json: bool,
) -> anyhow::Result<()> {
    let missing = match missing {
        MissingArg::Refuse => Missing::Refuse,
        MissingArg::Erase => Missing::Erase,
        MissingArg::Keep => Missing::Keep,
    };
    let home = home()?;
    let [book, new_book] = [path, to].map(|store| book_place(home.path(), store));
    // Asked first: where one of the two is refused, nothing is copied.
    let carrying = Carrying::begin(&book, &new_book, missing).map_err(refused)?;
    let mut tables = migrate(path, to, missing).map_err(|error| match error {
        StoreError::OnlyThere { .. } => only_there(&error),
        other => other.into(),
    })?;
    if let Some(carrying) = carrying {
        tables.extend(carrying.run().map_err(refused)?);
    }
    if json {
        return print_json(&tables);
    }
    print_tables(&tables)?;
    eprintln!(
        "All rows are there. `LASTMILE_STORE=URL` or `serve --store URL` uses it from now on; the old store"
    );
    eprintln!("stays as it is, and so does mask.key in this home.");
    Ok(())
}

/// Adds conclusions to those of another store, whatever became of the old store's rows since.
pub(crate) fn carry_alone(path: &Path, to: &Path, json: bool) -> anyhow::Result<()> {
    let home = home()?;
    let [book, new_book] = [path, to].map(|store| book_place(home.path(), store));
    if book == new_book {
        let what = format!(
            "--to is {}, whose conclusions are those of the store in use: `LASTMILE_STORE=` before the command names \
             this home's file",
            shown_place(to).display()
        );
        return Err(WrongUse(what).into());
    }
    // Before anything is made there: what is carried is about its requests.
    let store = Reader::open(to)?;
    let tables = match Carrying::begin(&book, &new_book, Missing::Keep)? {
        Some(carrying) => carrying.known_to(store).run()?,
        None => Vec::new(),
    };
    if json {
        return print_json(&tables);
    }
    print_tables(&tables)?;
    if tables.is_empty() {
        eprintln!("There are no conclusions at {}.", shown_place(&book).display());
    } else {
        eprintln!(
            "What is about requests that {} does not have was left out; {} stays as it is.",
            shown_place(to).display(),
            shown_place(&book).display()
        );
    }
    Ok(())
}

fn print_tables(tables: &[Migrated]) -> anyhow::Result<()> {
    for Migrated { table, rows, copied, erased } in tables {
        let gone = if *erased > 0 { format!(", {erased} erased there") } else { String::new() };
        say!("{table:12} {rows:>9} rows, {copied:>9} of them new there{gone}");
    }
    Ok(())
}

fn refused(error: FeedbackError) -> anyhow::Error {
    match error {
        FeedbackError::OnlyThere { .. } => only_there(&error),
        other => other.into(),
    }
}

fn only_there(error: &dyn std::error::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "{error}: --missing erase erases them there, too, and --missing keep keeps them"
    )
}
