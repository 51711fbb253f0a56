//! The `lastmile` command line: wiring and presentation only.
//!
//! It must never hold logic that a program embedding `lastmile` would miss.
//!
//! Start reading at [`args::Cli`] for the verbs, then at the file of a verb.

mod alert_args;
mod allocator;
mod args;
mod ask;
mod ask_release;
mod bench_args;
mod bench_engine;
mod bench_loop;
mod bench_record;
mod bench_serve;
mod bench_serve_args;
mod bisect;
mod cache_args;
mod calibrate;
mod chat;
mod confidence;
mod config_file;
mod cost;
mod data;
mod data_args;
mod data_remote;
mod data_versions;
mod doctor;
mod embed;
mod exp;
mod exp_args;
mod failures;
mod fetch;
mod fetch_args;
mod fix;
mod from_requests;
mod how;
mod keys;
mod keys_args;
mod likelihood;
mod loop_args;
mod model;
mod monitor;
mod net_args;
mod outcome;
mod override_args;
mod overrides;
mod perplexity;
mod placeholder;
mod placeholder_args;
mod plan;
mod predict;
mod probe;
mod progress;
mod quantize;
mod quarantine;
mod recorder;
mod replay;
mod replay_args;
mod replay_report;
mod restore;
mod run;
mod schema_answers;
mod serve;
mod served;
mod shell;
mod signals;
mod store;
mod store_args;
mod store_books;
mod store_move;
mod tokenize;
mod top;
mod top_args;
mod top_view;
mod traces;
mod traffic;
mod why;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, LogFormat, Verb};
use crate::bench_args::BenchVerb;
use crate::config_file::{config, with_file};
use crate::outcome::{Outcome, error_text, exit_code, is_broken_pipe};
use crate::placeholder_args::PlaceholderVerb;

fn main() -> ExitCode {
    allocator::configure();
    let outcome = run_verb();
    if let Err(error) = outcome.as_ref()
        && !is_broken_pipe(error)
    {
        eprintln!("lastmile: {}", error_text(error));
    }
    exit_code(&outcome)
}

fn run_verb() -> anyhow::Result<Outcome> {
    let (command, file) = with_file(Cli::command())?;
    let matches = command.clone().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    start_logging(&cli);
    match (&cli.verb, matches.subcommand()) {
        (Verb::Config(args), Some((_, matches))) => config(args, &command, matches, &file),
        _ => dispatch(cli.verb),
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<Outcome> {
    match verb {
        Verb::Serve(args) => serve::serve(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Embed(args) => embed::embed(&args),
        Verb::Chat(args) => chat::chat(&args),
        Verb::Pull(args) => fetch::pull(&args),
        Verb::Models(args) => fetch::models(&args),
        Verb::Rm(args) => fetch::rm(&args),
        Verb::Plan(args) => plan::plan(&args),
        Verb::Inspect(args) => fetch::inspect(&args),
        Verb::Bench(args) => match args.verb {
            BenchVerb::Engine(args) => bench_engine::bench_engine(&args),
            BenchVerb::Loop(args) => bench_loop::bench_loop(&args),
            BenchVerb::Serve(args) => bench_serve::bench_serve(&args),
        },
        Verb::Placeholder(args) => match args.verb {
            PlaceholderVerb::Calibrate(args) => calibrate::calibrate(&args),
        },
        Verb::Perplexity(args) => perplexity::perplexity(&args),
        Verb::Quantize(args) => quantize::quantize(&args),
        Verb::Data(args) => data::data(&args),
        Verb::Keys(args) => keys::keys(&args),
        Verb::Quarantine(args) => quarantine::quarantine(&args),
        Verb::Failures(args) => failures::failures(&args),
        Verb::Review(args) => failures::review(&args),
        Verb::Fix(args) => fix::fix(&args),
        Verb::Eval(args) => fix::eval(&args),
        Verb::Learn(args) => failures::learn(&args),
        Verb::Confidence(args) => confidence::confidence(&args),
        Verb::Override(args) => overrides::overrides(&args),
        Verb::Exp(args) => exp::experiments(&args),
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Cost(args) => cost::cost(&args),
        Verb::Store(args) => store::store(&args),
        Verb::Tokenize(args) => tokenize::tokenize(&args),
        Verb::Top(args) => top::top(&args),
        // It is asked with what the command line says, before.
        Verb::Config(_) => unreachable!("config has matches: this is a bug"),
        Verb::Completions(args) => shell::completions(&args),
        Verb::Man(args) => shell::man(&args),
        Verb::Why(args) => why::why(&args),
        Verb::Probe(args) => probe::probe(&args),
        Verb::Monitor(args) => monitor::monitor(&args),
        Verb::Recorder(args) => recorder::recorder(&args),
        Verb::Replay(args) => replay::replay(&args),
        Verb::Bisect(args) => bisect::bisect(&args),
        Verb::Bundle(args) => replay::bundle(&args),
    }
}

/// Logs go to standard error, so that standard output holds nothing but the answer.
fn start_logging(cli: &Cli) {
    let default = if matches!(cli.verb, Verb::Serve(_)) { "info" } else { "warn" };
    let filter =
        EnvFilter::try_from_env("LASTMILE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => {
            logs.with_target(false).with_ansi(std::io::stderr().is_terminal()).init()
        }
        LogFormat::Json => logs.json().init(),
    }
}
