//! `lastmile data`: what can be asked of versions.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use lm_data::{DataHome, Diff, Stratum};

use crate::data::{as_json, data_home, print_version};
use crate::data_args::{DataVerb, Which};
use crate::data_remote::{self, RemoteArg};
use crate::outcome::{Outcome, human_bytes, print_json, say};

/// The verbs that [`crate::data::data`] does not do itself.
pub(crate) fn verb(verb: &DataVerb) -> anyhow::Result<Outcome> {
    let home = data_home()?;
    match verb {
        DataVerb::Log { name, at, json } => log(&home, name, at, *json)?,
        DataVerb::Show { which, at } => {
            let version = match data_remote::show(which, at)? {
                Some(version) => version,
                None => lm_data::show(&home, &which.name, which.version.as_deref())?,
            };
            if which.json {
                print_json(&as_json(&version)?)?;
            } else {
                print_version(&which.name, &version)?;
                say!("in {}", version.folder.display());
            }
        }
        DataVerb::Diff { name, from, to, limit, json } => {
            let diff = lm_data::diff(&home, name, from.as_deref(), to.as_deref(), *limit)?;
            if *json {
                print_json(&diff)?;
            } else {
                print_diff(&diff)?;
            }
        }
        DataVerb::Checkout { which, at, output } => {
            let version = which.version.as_deref();
            let manifest = match data_remote::checkout(which, at, output)? {
                Some(manifest) => manifest,
                None => lm_data::checkout(&home, &which.name, version, output)?,
            };
            if which.json {
                print_json(&manifest)?;
            } else {
                let n_rows = manifest.rows_published;
                say!("{n_rows} rows in {} files in {}", manifest.segments.len(), output.display());
            }
        }
        DataVerb::Export { which, output } => export(&home, which, output.as_deref())?,
        DataVerb::Coverage { name, by, traffic, json } => {
            let strata = lm_data::coverage(&home, name, by, traffic.as_deref())?;
            if *json {
                print_json(&strata)?;
            } else {
                print_strata(&strata)?;
            }
        }
        DataVerb::Gc { name, keep, json } => {
            let collected = lm_data::gc(&home, name, *keep)?;
            if *json {
                print_json(&collected)?;
            } else {
                let (n_versions, n_files) = (collected.versions.len(), collected.n_objects);
                let size = human_bytes(collected.size_bytes);
                say!("removed {n_versions} versions and {n_files} files of {size}");
            }
        }
        DataVerb::Ingest(_)
        | DataVerb::Watch(_)
        | DataVerb::Infer(_)
        | DataVerb::FromRequests(_)
        | DataVerb::Quarantine { .. } => unreachable!("these verbs are done before: this is a bug"),
        #[cfg(feature = "object-store")]
        DataVerb::Push(_) | DataVerb::Pull(_) => {
            unreachable!("these verbs are done before: this is a bug")
        }
    }
    Ok(Outcome::Done)
}

fn print_diff(diff: &Diff) -> anyhow::Result<()> {
    let (added, removed) = (diff.rows_added, diff.rows_removed);
    say!("{added} rows added, {removed} removed, {} the same", diff.rows_same);
    for row in &diff.removed {
        say!("- {row}");
    }
    for row in &diff.added {
        say!("+ {row}");
    }
    Ok(())
}

fn export(home: &DataHome, which: &Which, output: Option<&Path>) -> anyhow::Result<()> {
    let version = which.version.as_deref();
    let Some(path) = output else {
        let mut out = BufWriter::new(std::io::stdout().lock());
        lm_data::export(home, &which.name, version, &mut out)?;
        return Ok(());
    };
    let n_rows = write_new(path, |out| Ok(lm_data::export(home, &which.name, version, out)?))?;
    if which.json {
        print_json(&serde_json::json!({ "rows": n_rows, "path": path }))?;
    } else {
        say!("{n_rows} rows in {}", path.display());
    }
    Ok(())
}

/// Writes a file that must not exist: whole, or not at all.
fn write_new<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let said = || format!("cannot create {}", path.display());
    if path.symlink_metadata().is_ok() {
        let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(exists).with_context(said);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let mut out = BufWriter::new(File::create(&beside).with_context(said)?);
    let written = write(&mut out).and_then(|written| {
        out.flush().with_context(said)?;
        std::fs::rename(&beside, path).with_context(said)?;
        Ok(written)
    });
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn log(home: &DataHome, name: &str, at: &RemoteArg, json: bool) -> anyhow::Result<()> {
    let versions = match data_remote::log(name, at)? {
        Some(versions) => versions,
        None => lm_data::log(home, name)?,
    };
    if json {
        return print_json(&versions);
    }
    for version in versions {
        let (id, published) = (&version.version[..12], version.rows_published);
        say!("{id}  {published} of {} rows published", version.rows_in);
    }
    Ok(())
}

fn print_strata(strata: &[Stratum]) -> anyhow::Result<()> {
    for stratum in strata {
        let lacking = if stratum.lacking { "  lacking" } else { "" };
        let (share, traffic) = (100.0 * stratum.share, 100.0 * stratum.traffic_share);
        let values = stratum.values.join(", ");
        say!("{:>8} {share:>6.2} % {traffic:>6.2} %  {values}{lacking}", stratum.rows);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use super::*;

    #[test]
    fn an_export_that_fails_leaves_nothing_in_the_way_of_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let failed = write_new(&path, |out| {
            out.write_all(b"half")?;
            anyhow::bail!("no such dataset") as anyhow::Result<()>
        });
        assert_eq!(failed.unwrap_err().to_string(), "no such dataset");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        write_new(&path, |out| Ok(out.write_all(b"whole")?)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert!(write_new(&path, |_| Ok(())).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }
}
