//! What can be said of the store.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use lm_ops::{Privacy, Retention, StoreOptions};

use crate::doctor::store_path;

/// What `serve` can be told about the store.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreOptionArgs {
    /// `postgres://USER@HOST/DATABASE`, or a file; by default `store/lastmile.db` in the home.
    ///
    /// Others can see the command line: a password goes into PGPASSWORD or the variable.
    #[arg(
        long,
        value_name = "URL",
        hide_short_help = true,
        env = "LASTMILE_STORE",
        hide_env_values = true
    )]
    pub(crate) store: Option<PathBuf>,
    /// What the store keeps of prompts and answers; by default `full` on loopback and `redacted` elsewhere.
    #[arg(long, value_enum, env = "LASTMILE_PRIVACY")]
    pub(crate) privacy: Option<PrivacyArg>,
    /// Days after which prompts and answers are erased.
    #[arg(
        long,
        value_name = "DAYS",
        default_value_t = 14,
        hide_short_help = true,
        env = "LASTMILE_KEEP_TEXTS_DAYS"
    )]
    pub(crate) keep_texts_days: u32,
    /// Days after which whole rows are erased.
    #[arg(
        long,
        value_name = "DAYS",
        default_value_t = 400,
        hide_short_help = true,
        env = "LASTMILE_KEEP_ROWS_DAYS"
    )]
    pub(crate) keep_rows_days: u32,
    /// The store's largest size; from nine tenths of it on, the oldest texts are erased.
    #[arg(long, value_name = "MIB", default_value_t = 16 << 10, hide_short_help = true, env = "LASTMILE_STORE_MAX_MIB")]
    pub(crate) store_max_mib: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PrivacyArg {
    /// Everything.
    Full,
    /// Texts, with secrets and personal data replaced by what they are.
    Redacted,
    /// Numbers and codes, and keyed hashes that tell equal texts; no text.
    Hmac,
    /// Numbers and codes, no text.
    Off,
}

impl StoreOptionArgs {
    /// How texts are kept by a server at this address.
    pub(crate) fn privacy(&self, host: IpAddr) -> Privacy {
        match self.privacy {
            Some(PrivacyArg::Full) => Privacy::Full,
            Some(PrivacyArg::Redacted) => Privacy::Redacted,
            Some(PrivacyArg::Hmac) => Privacy::Hmac,
            Some(PrivacyArg::Off) => Privacy::Off,
            None if host.to_canonical().is_loopback() => Privacy::Full,
            None => Privacy::Redacted,
        }
    }

    pub(crate) fn options(
        &self,
        host: IpAddr,
        prices: lastmile::Prices,
        mask_key: PathBuf,
    ) -> StoreOptions {
        let days = |n: u32| Duration::from_secs(u64::from(n) * 24 * 60 * 60);
        StoreOptions {
            privacy: self.privacy(host),
            mask_key: Some(mask_key),
            prices,
            retention: Retention {
                bodies: days(self.keep_texts_days),
                metadata: days(self.keep_rows_days),
            },
            max_bytes: u64::from(self.store_max_mib) << 20,
            ..StoreOptions::default()
        }
    }

    /// Where the store is of a server with this home.
    pub(crate) fn place(&self, home: &Path) -> PathBuf {
        let named = self.store.clone().filter(|named| !named.as_os_str().is_empty());
        named.unwrap_or_else(|| store_path(home))
    }

    /// What is kept, in words.
    pub(crate) fn kept(&self, host: IpAddr) -> String {
        let days = self.keep_texts_days;
        match self.privacy(host) {
            Privacy::Full => {
                format!("prompts and answers for {days} days; --privacy off keeps numbers only")
            }
            Privacy::Redacted => {
                format!("prompts and answers without personal data for {days} days")
            }
            Privacy::Hmac => "numbers, and keyed hashes of texts; no text".to_owned(),
            Privacy::Off => "numbers, no text".to_owned(),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile store backup /backups/lastmile.db")]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    pub(crate) verb: StoreVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Say how large the store is, and what it holds.
    Stats {
        /// One JSON document: path, schema, size_bytes, free_bytes, log_bytes, rows, prompts, oldest_ms, newest_ms.
        #[arg(long)]
        json: bool,
    },
    /// Write a whole copy to a new file, also while a server runs.
    #[command(after_help = "Example:\n  lastmile store backup /backups/lastmile.db")]
    Backup {
        /// The new file. Conclusions (feedback.db) are copied beside it.
        file: PathBuf,
        /// One JSON document: file, size_bytes, conclusions.
        #[arg(long)]
        json: bool,
    },
    /// Bring the store to this version's schema, as the next start of a server would.
    Upgrade {
        /// One JSON document: before, now.
        #[arg(long)]
        json: bool,
    },
    /// Copy all rows and conclusions to another store, such as a PostgreSQL server's; its tables are made when needed.
    #[command(
        after_help = "Example:\n  lastmile store migrate --to 'postgres://lastmile@db.example/lastmile?sslmode=require'\n  \
        LASTMILE_STORE= lastmile store migrate --conclusions --to 'postgres://lastmile@db.example/lastmile?sslmode=require'"
    )]
    Migrate {
        /// `postgres://USER@HOST/DATABASE`, or a file. Others can see the command line: a password goes into PGPASSWORD.
        #[arg(long, value_name = "URL")]
        to: PathBuf,
        /// What becomes of requests and reviews that only TO has: erased here since an earlier copy, or written there.
        #[arg(long, value_enum, default_value_t = MissingArg::Refuse, value_name = "WHAT")]
        missing: MissingArg,
        /// Copy conclusions alone, but for what is about requests that TO does not have; what it has stays.
        ///
        /// For a home whose store was on a server when its conclusions were not yet: with LASTMILE_STORE= before the command.
        #[arg(long, conflicts_with = "missing")]
        conclusions: bool,
        /// One JSON document: a list of table, rows, copied, erased.
        #[arg(long)]
        json: bool,
    },
    /// Erase all that is stored of somebody, conclusions included; cannot be undone.
    #[command(
        after_help = "Backups, the prefix cache on disk and published versions of data are not touched.\n\n\
        Example:\n  lastmile store erase --subject ann@example.org"
    )]
    Erase(EraseArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum MissingArg {
    /// Copy nothing, and say how many there are.
    Refuse,
    /// Erase them there, too.
    Erase,
    /// Keep them.
    Keep,
}

#[derive(Debug, Args)]
pub(crate) struct EraseArgs {
    #[command(flatten)]
    pub(crate) whose: WhoseArgs,
    /// One JSON document: requests, rows, resumed, conclusions, probes, flights, flights_in_use.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WhoseArgs {
    /// Who was named as `user` or `safety_identifier` in requests.
    #[arg(long, value_name = "USER")]
    pub(crate) subject: Option<String>,
    /// A key's id or name, or `none` for requests without a key.
    #[arg(long, value_name = "KEY")]
    pub(crate) tenant: Option<String>,
    /// One request.
    #[arg(long, value_name = "ID")]
    pub(crate) request: Option<String>,
}
