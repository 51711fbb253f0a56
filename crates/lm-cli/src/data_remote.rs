//! `lastmile data` and places in an object store. Without the feature `object-store` there are none, and no option.

use std::path::Path;

use clap::Args;
use lm_data::{Manifest, Version, VersionSummary};

use crate::data_args::Which;
#[cfg(feature = "object-store")]
pub(crate) use verbs::{MoveArgs, pull, push};

/// Where a version is read.
#[derive(Clone, Debug, Args)]
pub(crate) struct RemoteArg {
    /// Read it in this place, such as s3://BUCKET/PREFIX, and not in the home.
    #[cfg(feature = "object-store")]
    #[arg(long, value_name = "PLACE")]
    pub(crate) remote: Option<String>,
}

/// The versions in a place, when one is named.
#[cfg(feature = "object-store")]
pub(crate) fn log(name: &str, at: &RemoteArg) -> anyhow::Result<Option<Vec<VersionSummary>>> {
    let Some(place) = verbs::named(at)? else { return Ok(None) };
    Ok(Some(lm_remote::log(&place, name)?))
}

/// One version in a place, when one is named.
#[cfg(feature = "object-store")]
pub(crate) fn show(which: &Which, at: &RemoteArg) -> anyhow::Result<Option<Version>> {
    let Some(place) = verbs::named(at)? else { return Ok(None) };
    Ok(Some(lm_remote::show(&place, &which.name, which.version.as_deref())?))
}

/// Writes a version of a place into a folder, when a place is named.
#[cfg(feature = "object-store")]
pub(crate) fn checkout(
    which: &Which,
    at: &RemoteArg,
    output: &Path,
) -> anyhow::Result<Option<Manifest>> {
    let Some(place) = verbs::named(at)? else { return Ok(None) };
    let bar = verbs::Bar::new(format!("fetching {}", which.name));
    let (name, version) = (&which.name, which.version.as_deref());
    let manifest = lm_remote::checkout(&place, name, version, output, &|at| bar.draw(at));
    bar.end();
    Ok(Some(manifest?))
}

#[cfg(not(feature = "object-store"))]
pub(crate) fn log(_name: &str, _at: &RemoteArg) -> anyhow::Result<Option<Vec<VersionSummary>>> {
    Ok(None)
}

#[cfg(not(feature = "object-store"))]
pub(crate) fn show(_which: &Which, _at: &RemoteArg) -> anyhow::Result<Option<Version>> {
    Ok(None)
}

#[cfg(not(feature = "object-store"))]
pub(crate) fn checkout(
    _which: &Which,
    _at: &RemoteArg,
    _output: &Path,
) -> anyhow::Result<Option<Manifest>> {
    Ok(None)
}

#[cfg(feature = "object-store")]
mod verbs {
    use std::io::Write;
    use std::sync::Once;

    use clap::Args;
    use lm_data::Pick;
    use lm_models::Progress;
    use lm_remote::{Moved, Place, RemoteError, Transferred};

    use super::RemoteArg;
    use crate::data::data_home;
    use crate::outcome::{Outcome, WrongUse, human_bytes, print_json, say};
    use crate::progress::Drawn;

    /// What is moved between the home and a place.
    #[derive(Debug, Args)]
    pub(crate) struct MoveArgs {
        /// The dataset.
        name: String,
        /// The place: s3://BUCKET or s3://BUCKET/PREFIX.
        place: String,
        /// The beginning of a version's id; by default the newest.
        #[arg(long, conflicts_with = "all")]
        version: Option<String>,
        /// All versions.
        #[arg(long)]
        all: bool,
        /// One JSON document: versions, n_files, size_bytes, n_files_there, contract_differs.
        #[arg(long)]
        json: bool,
    }

    impl MoveArgs {
        fn pick(&self) -> Pick<'_> {
            match &self.version {
                Some(version) => Pick::Version(version),
                None if self.all => Pick::All,
                None => Pick::Newest,
            }
        }
    }

    pub(crate) fn push(args: &MoveArgs) -> anyhow::Result<Outcome> {
        let (place, home) = (open(&args.place)?, data_home()?);
        let bar = Bar::new(format!("pushing {}", args.name));
        let moved = lm_remote::push(&place, &home, &args.name, args.pick(), &|at| bar.draw(at));
        bar.end();
        report(args, &moved?, "pushed")
    }

    pub(crate) fn pull(args: &MoveArgs) -> anyhow::Result<Outcome> {
        let (place, home) = (open(&args.place)?, data_home()?);
        let bar = Bar::new(format!("pulling {}", args.name));
        let moved = lm_remote::pull(&place, &home, &args.name, args.pick(), &|at| bar.draw(at));
        bar.end();
        report(args, &moved?, "pulled")
    }

    fn report(args: &MoveArgs, moved: &Moved, done: &str) -> anyhow::Result<Outcome> {
        if args.json {
            print_json(moved)?;
            return Ok(Outcome::Done);
        }
        for version in &moved.versions {
            let what = if version.was_there { "was there" } else { done };
            let (id, n_rows) = (&version.version[..12], version.rows_published);
            say!("{} version {id} {what}: {n_rows} rows", args.name);
        }
        let size = human_bytes(moved.size_bytes);
        say!("{} files of {size} {done}, {} were there", moved.n_files, moved.n_files_there);
        if moved.contract_differs {
            say!(
                "the contract of {} stays, and is not the newest version's: `lastmile data \
                 checkout {} -o FOLDER` writes that one, and `data ingest --contract` installs it",
                args.name,
                args.name
            );
        }
        Ok(Outcome::Done)
    }

    /// The place of `--remote`.
    pub(super) fn named(at: &RemoteArg) -> anyhow::Result<Option<Place>> {
        at.remote.as_deref().map(open).transpose()
    }

    fn open(place: &str) -> anyhow::Result<Place> {
        Place::open(place).map_err(|error| match error {
            RemoteError::InvalidPlace { .. } | RemoteError::InvalidSetting { .. } => {
                WrongUse(error.to_string()).into()
            }
            other => other.into(),
        })
    }

    /// A bar over the bytes of the files, opened by the first progress, on whichever thread.
    pub(super) struct Bar {
        drawn: Drawn,
        what: String,
        opened: Once,
    }

    impl Bar {
        pub(super) fn new(what: String) -> Bar {
            Bar { drawn: Drawn::new(), what, opened: Once::new() }
        }

        pub(super) fn draw(&self, at: Transferred) {
            self.opened.call_once(|| self.drawn.begin(&self.what, Some(at.size_bytes)));
            self.drawn.advance(at.done_bytes);
        }

        pub(super) fn end(&self) {
            if self.opened.is_completed() {
                self.drawn.end();
            }
        }
    }
}
