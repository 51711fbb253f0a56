//! `lastmile.toml`, and `lastmile config`: what `serve` would do, and who says so.
//!
//! A value of the file is a default, so that flags and variables win over it.
//!
//! Start reading at [`with_file`].

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use serde_json::{Map, Value, json};

use crate::args::ServeArgs;
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, print_json, say};

const FILE: &str = "lastmile.toml";
const FLAG: &str = "--config";
const VARIABLE: &str = "LASTMILE_CONFIG";
const MAX_BYTES: u64 = 1 << 20;
/// The verbs that the file speaks to; of its options `monitor test-sink` hears those that it has.
const VERBS: [&str; 2] = ["serve", "config"];

/// Say what `serve` would be told by flags, variables and the file, and which of them says what.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile config --json")]
pub(crate) struct ConfigArgs {
    /// One JSON document: file, and of each option value and source.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// A file that was read, and the options that it has.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    path: Option<PathBuf>,
    ids: Vec<String>,
}

/// The command line with the defaults of the file: the one that `--config` or `LASTMILE_CONFIG` names, else that of
/// the home, if there is one.
pub(crate) fn with_file(command: Command) -> anyhow::Result<(Command, ConfigFile)> {
    let named = named_by(std::env::args_os().skip(1)).or_else(|| std::env::var_os(VARIABLE));
    let path = match named {
        Some(path) => PathBuf::from(path),
        None => match home().map(|home| home.path().join(FILE)) {
            Ok(path) if path.exists() => path,
            _ => return Ok((command, ConfigFile::default())),
        },
    };
    let about = || format!("the configuration {}", path.display());
    let size_bytes = std::fs::metadata(&path).with_context(about)?.len();
    if size_bytes > MAX_BYTES {
        let text = format!("{} has {size_bytes} bytes, but at most {MAX_BYTES} are read", about());
        return Err(WrongUse(text).into());
    }
    let text = std::fs::read_to_string(&path).with_context(about)?;
    let wrong = |what: String| WrongUse(format!("{}: {what}", about()));
    let (command, ids) = shaped(command, &text).map_err(wrong)?;
    Ok((command, ConfigFile { path: Some(path), ids }))
}

fn named_by(args: impl Iterator<Item = OsString>) -> Option<OsString> {
    let mut args = args.take_while(|arg| arg != "--");
    while let Some(arg) = args.next() {
        if arg == FLAG {
            return args.next();
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix(FLAG)?.strip_prefix('=')) {
            return Some(path.into());
        }
    }
    None
}

/// The command with the file's values as defaults, and the ids of the options that it has.
fn shaped(mut command: Command, text: &str) -> Result<(Command, Vec<String>), String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let serve = command.find_subcommand("serve").expect("there is a verb serve: this is a bug");
    let options: Vec<&Arg> = serve.get_arguments().filter(|arg| is_option(arg)).collect();
    let mut defaults = Vec::new();
    for (key, value) in &table {
        let long = key.replace('_', "-");
        let Some(arg) = options.iter().find(|arg| arg.get_long() == Some(&long)) else {
            let known = options.iter().filter_map(|arg| arg.get_long());
            let near = known.max_by(|a, b| {
                let nearness = |known: &str| strsim::jaro_winkler(known, &long);
                nearness(a).total_cmp(&nearness(b))
            });
            let near = near.map(|near| format!("; the nearest key is {near}")).unwrap_or_default();
            return Err(format!("the key {key} is unknown{near}"));
        };
        if defaults.iter().any(|(id, _): &(String, _)| id == arg.get_id().as_str()) {
            return Err(format!("the key {long} is given twice"));
        }
        let values = values_of(key, value, arg)?;
        defaults.push((arg.get_id().to_string(), values));
    }
    let has = |id: &str| defaults.iter().any(|(known, _)| known == id);
    if has("tls_cert") != has("tls_key") {
        return Err("tls-cert and tls-key must be given both or not at all".to_owned());
    }
    let ids = defaults.iter().map(|(id, _)| id.clone()).collect();
    for verb in VERBS {
        command = command.mut_subcommand(verb, |command| defaulted(command, &defaults));
    }
    command = command.mut_subcommand("monitor", |command| {
        command.mut_subcommand("test-sink", |command| defaulted(command, &defaults))
    });
    Ok((command, ids))
}

/// With the defaults of the options that it has.
fn defaulted(mut command: Command, defaults: &[(String, Vec<String>)]) -> Command {
    for (id, values) in defaults {
        if command.get_arguments().any(|arg| arg.get_id() == id.as_str()) {
            // Defaults live as long as the program.
            let values = values.iter().map(|value| &*value.clone().leak());
            let values: Vec<&'static str> = values.collect();
            command = command.mut_arg(id, |arg| arg.default_values(values));
        }
    }
    command
}

/// What may stand in the file.
fn is_option(arg: &Arg) -> bool {
    let takes = matches!(
        arg.get_action(),
        ArgAction::Set | ArgAction::Append | ArgAction::SetTrue | ArgAction::SetFalse
    );
    takes && arg.get_long().is_some_and(|long| long != "config" && long != "log-format")
}

/// A value of the file as it would be written on the command line.
fn values_of(key: &str, value: &toml::Value, arg: &Arg) -> Result<Vec<String>, String> {
    let one = |value: &toml::Value| match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(is) => Ok(is.to_string()),
        other => Err(format!("{key} is {other}, but must be a text, a number, true or false")),
    };
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse);
    match value {
        toml::Value::Array(list) if is_list => list.iter().map(one).collect(),
        toml::Value::Array(_) => Err(format!("{key} is a list, but must be one value")),
        value if is_switch && !value.is_bool() => {
            Err(format!("{key} is {value}, but must be true or false"))
        }
        value => Ok(vec![one(value)?]),
    }
}

/// `lastmile config`.
pub(crate) fn config(
    args: &ConfigArgs,
    command: &Command,
    matches: &ArgMatches,
    file: &ConfigFile,
) -> anyhow::Result<Outcome> {
    let options = effective(command, matches, file);
    let path = file.path.as_deref().map(Path::to_string_lossy);
    if args.json {
        print_json(&json!({ "file": path, "options": options }))?;
        return Ok(Outcome::Done);
    }
    say!("# {}", path.as_deref().unwrap_or("no lastmile.toml"));
    for (name, option) in &options {
        let value = match &option["value"] {
            Value::Null => "-".to_owned(),
            value => value.to_string(),
        };
        say!("{name:<32} {value:<28} {}", option["source"].as_str().unwrap_or_default());
    }
    Ok(Outcome::Done)
}

/// Of each option its value and its source.
fn effective(command: &Command, matches: &ArgMatches, file: &ConfigFile) -> Map<String, Value> {
    let serve = command.find_subcommand("serve").expect("there is a verb serve: this is a bug");
    let mut options = Map::new();
    for arg in serve.get_arguments().filter(|arg| is_option(arg)) {
        let (Some(long), id) = (arg.get_long(), arg.get_id().as_str()) else { continue };
        let is_secret = arg.is_hide_env_values_set();
        let raw = matches.get_raw(id).map(|values| values.map(|value| value.to_string_lossy()));
        let mut values: Vec<Value> = raw
            .into_iter()
            .flatten()
            .map(|value| if is_secret { "(not shown)".into() } else { value.into() })
            .collect();
        let value = match (values.len(), arg.get_action()) {
            (_, ArgAction::Append) => Value::Array(values),
            (0, _) => Value::Null,
            _ => values.remove(0),
        };
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag".to_owned(),
            Some(ValueSource::EnvVariable) => {
                let name = arg.get_env().unwrap_or_default().to_string_lossy();
                format!("variable {name}")
            }
            Some(_) if file.ids.iter().any(|known| known == id) => "file".to_owned(),
            _ => "default".to_owned(),
        };
        options.insert(long.to_owned(), json!({ "value": value, "source": source }));
    }
    options
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    fn told(file: &str, args: &[&str]) -> Map<String, Value> {
        let (command, ids) = shaped(Cli::command(), file).unwrap();
        let line = ["lastmile", "config"].iter().chain(args);
        let matches = command.clone().try_get_matches_from(line).unwrap();
        let matches = matches.subcommand().unwrap().1;
        effective(&command, matches, &ConfigFile { path: None, ids })
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "port = 9000\nmax-num-seqs = 8\nstrict = true\nmodel = [\"a\", \"b=c\"]\nprivacy = \"off\"";
        let options = told(file, &["--max-num-seqs", "4"]);
        let check = |name: &str, value: Value, source: &str| {
            assert_eq!(options[name], json!({ "value": value, "source": source }), "{name}");
        };
        check("port", "9000".into(), "file");
        check("max-num-seqs", "4".into(), "flag");
        check("strict", "true".into(), "file");
        check("model", json!(["a", "b=c"]), "file");
        check("insecure", "false".into(), "default");
        check("kv-memory", Value::Null, "default");
    }

    #[test]
    fn a_test_of_sinks_takes_those_of_the_file() {
        let file =
            "port = 9000\nalert-webhook = [\"http://a/1\", \"http://b/2\"]\nalert-timeout = 3";
        let (command, _) = shaped(Cli::command(), file).unwrap();
        let matches = command.try_get_matches_from(["lastmile", "monitor", "test-sink"]).unwrap();
        let matches = matches.subcommand().unwrap().1.subcommand().unwrap().1;
        let urls: Vec<_> = matches.get_many::<String>("alert_webhook").unwrap().collect();
        assert_eq!(urls, ["http://a/1", "http://b/2"]);
        assert_eq!(matches.get_one::<u64>("alert_timeout"), Some(&3));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        #[track_caller]
        fn check(file: &str, expect: &str) {
            let error = shaped(Cli::command(), file).unwrap_err();
            assert!(error.contains(expect), "{file} gave: {error}");
        }
        check("prot = 1", "the key prot is unknown; the nearest key is port");
        check("max_num_seq = 1", "the nearest key is max-num-seqs");
        check("strict = 1", "strict is 1, but must be true or false");
        check("port = [1, 2]", "port is a list");
        check("[port]\nx = 1", "port is ");
        check("tls-cert = \"c\"", "both or not at all");
        check("port = ", "");
        // A value that the option does not take is refused as on the command line.
        let (command, _) = shaped(Cli::command(), "port = 70000").unwrap();
        assert!(command.try_get_matches_from(["lastmile", "config"]).is_err());
    }

    #[test]
    fn the_flag_names_the_file() {
        let named = |args: &[&str]| named_by(args.iter().map(OsString::from));
        assert_eq!(named(&["serve", "--config", "a.toml"]), Some("a.toml".into()));
        assert_eq!(named(&["--config=a.toml", "serve"]), Some("a.toml".into()));
        assert_eq!(named(&["run", "--", "--config", "a.toml"]), None);
    }
}
