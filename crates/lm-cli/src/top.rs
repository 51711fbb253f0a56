//! `lastmile top`: a server that runs, live in a terminal.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::Context;
use lm_panel::Now;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::outcome::{Outcome, WrongUse, say};
use crate::top_args::TopArgs;
use crate::top_view::{View, draw};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer.
const MAX_ANSWER_BYTES: u64 = 4 << 20;
/// How often keys are looked for.
const KEYS_EVERY: Duration = Duration::from_millis(100);
/// Looks that the curve of the throughput shows at most.
const MAX_LOOKS: usize = 400;
/// The frame of `--once`.
const ONCE: (u16, u16) = (80, 24);

/// Where the state comes from.
struct Source {
    agent: Agent,
    url: String,
    key: Option<String>,
}

pub(crate) fn top(args: &TopArgs) -> anyhow::Result<Outcome> {
    let source = Source::of(args)?;
    let mut view = View { url: args.url.clone(), ..View::default() };
    if args.once {
        view.take(source.look());
        print_frame(&view)?;
        return match view.problem {
            None => Ok(Outcome::Done),
            Some(problem) => Err(anyhow::anyhow!(problem)),
        };
    }
    if !std::io::stdout().is_terminal() {
        let why = "standard output is no terminal: --once prints a single frame";
        return Err(WrongUse(why.to_owned()).into());
    }
    let looks = watch(source, Duration::from_secs(args.interval));
    let mut terminal = ratatui::init();
    let ended = run(&mut terminal, &mut view, &looks);
    ratatui::restore();
    ended?;
    Ok(Outcome::Done)
}

impl Source {
    fn of(args: &TopArgs) -> anyhow::Result<Self> {
        let is_url = args.url.starts_with("http://") || args.url.starts_with("https://");
        if !is_url {
            let why = format!("--url is {:?}, but must begin with http:// or https://", args.url);
            return Err(WrongUse(why).into());
        }
        let mut tls = TlsConfig::builder();
        if let Some(path) = &args.ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates(path)?));
        }
        let agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .tls_config(tls.build())
            .build();
        let url = format!("{}/ops/v1/now", args.url.trim_end_matches('/'));
        Ok(Source { agent: agent.into(), url, key: args.api_key.clone() })
    }

    /// The state, or why there is none.
    fn look(&self) -> Result<Now, String> {
        let mut request = self.agent.get(&self.url);
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key);
        }
        let mut answer = request.call().map_err(|error| format!("no answer: {error}"))?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string();
        let body = body.map_err(|error| format!("the answer broke off: {error}"))?;
        if status != 200 {
            let json: Option<serde_json::Value> = serde_json::from_str(&body).ok();
            let said = json.as_ref().and_then(|json| json["error"]["message"].as_str());
            return Err(format!("status {status}: {}", said.unwrap_or("not a lastmile server?")));
        }
        serde_json::from_str(&body).map_err(|error| format!("not what was expected: {error}"))
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<Certificate<'static>>> {
    let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let items = parse_pem(&pem).collect::<Result<Vec<_>, _>>();
    let certificate = |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    let found: Vec<_> = items?.into_iter().filter_map(certificate).collect();
    anyhow::ensure!(!found.is_empty(), "{} holds no certificate", path.display());
    Ok(found)
}

impl View {
    /// Takes in a look. What was known stays when there was no answer.
    pub(crate) fn take(&mut self, look: Result<Now, String>) {
        match look {
            Ok(now) => {
                let tokens: f64 = now.models.iter().map(|m| m.generation_tokens_per_s).sum();
                push(&mut self.throughput, tokens.round() as u64);
                self.now = now;
                self.problem = None;
            }
            Err(problem) => self.problem = Some(problem),
        }
    }
}

fn push(values: &mut VecDeque<u64>, value: u64) {
    if values.len() == MAX_LOOKS {
        values.pop_front();
    }
    values.push_back(value);
}

/// Looks again and again on a thread of its own, which ends with the receiver.
fn watch(source: Source, every: Duration) -> Receiver<Result<Now, String>> {
    let (sender, looks) = sync_channel(1);
    std::thread::spawn(move || {
        while sender.send(source.look()).is_ok() {
            std::thread::sleep(every);
        }
    });
    looks
}

fn run(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    looks: &Receiver<Result<Now, String>>,
) -> anyhow::Result<()> {
    loop {
        while let Ok(look) = looks.try_recv() {
            if !view.is_paused {
                view.take(look);
            }
        }
        terminal.draw(|frame| draw(frame, view))?;
        if !event::poll(KEYS_EVERY)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('c') if is_control => return Ok(()),
                KeyCode::Char('p') => view.is_paused = !view.is_paused,
                _ => {}
            }
        }
    }
}

/// One frame as text, without what fills lines up.
fn print_frame(view: &View) -> anyhow::Result<()> {
    let mut terminal = Terminal::new(TestBackend::new(ONCE.0, ONCE.1))?;
    terminal.draw(|frame| draw(frame, view))?;
    let text = crate::top_view::text_of(terminal.backend().buffer());
    say!("{}", text.trim_end());
    Ok(())
}
